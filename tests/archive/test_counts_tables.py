"""Results to tables, against qiskit's own counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.circuit import Parameter
from qiskit.primitives import BindingsArray, BitArray, DataBin, PrimitiveResult, PubResult

from prefect_ibmq.archive.counts import counts_batches, memory_batches
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.archive.reading import read_counts
from prefect_ibmq.archive.schemas import COUNTS, MEMORY, Dataset
from prefect_ibmq.archive.stamps import JobStamp, PubStamp
from prefect_ibmq.errors import ArchiveError, ResultUnreadable

JOB = JobStamp(
    job_id="d1",
    backend="fake_torino",
    simulated=True,
    run_key="night",
    set_key="ab12",
    attempt=0,
    instance="crn:v1:x",
    channel="local",
    created=datetime(2026, 1, 2, 3, tzinfo=UTC),
    calibration="c1",
    snapshot_transpiled="s1",
    snapshot_submitted="s2",
    calibration_id="theirs",
)


def _bits(*rows: str) -> BitArray:
    return BitArray.from_samples(list(rows), len(rows[0]))


def _result(*data: DataBin) -> PrimitiveResult[PubResult]:
    return PrimitiveResult([PubResult(one) for one in data])


def counts_table(result: PrimitiveResult[PubResult], job: JobStamp, pubs: Sequence[PubStamp]) -> pa.Table:
    return _table(counts_batches(result, job, pubs), COUNTS)


def memory_table(result: PrimitiveResult[PubResult], job: JobStamp, pubs: Sequence[PubStamp]) -> pa.Table:
    return _table(memory_batches(result, job, pubs), MEMORY)


def _table(batches: Iterable[pa.RecordBatch], spec: Dataset) -> pa.Table:
    plain = [pa.Table.from_batches([batch]).cast(spec.schema) for batch in batches]
    return pa.concat_tables(plain).combine_chunks() if plain else spec.schema.empty_table()


def _one(data: DataBin, **stamp: object) -> list[dict[str, object]]:
    return counts_table(_result(data), JOB, [PubStamp(**{"position": 0, "circuit": "c", **stamp})]).to_pylist()


@st.composite
def results(draw: st.DrawFn) -> PrimitiveResult[PubResult]:
    """One to four PUBs of any shape, each with one to three registers of one number of shots."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pubs = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
        shots = draw(st.integers(0, 30))
        widths = draw(st.lists(st.integers(1, 100), min_size=1, max_size=3))
        registers = {
            f"c{index}": BitArray(rng.integers(0, 256, size=(*shape, shots, (bits + 7) // 8), dtype=np.uint8), bits)
            for index, bits in enumerate(widths)
        }
        pubs.append(DataBin(shape=shape, **registers))
    return _result(*pubs)


@settings(max_examples=150, deadline=None)
@given(results())
def test_counts_table_any_result_equals_get_counts(result: PrimitiveResult[PubResult]) -> None:
    stamps = [PubStamp(position=10 + index, circuit=f"q{index}") for index in range(len(result))]
    table = counts_table(result, JOB, stamps)
    assert table.schema == COUNTS.schema
    found: dict[tuple[object, ...], dict[str, int]] = {}
    for row in table.to_pylist():
        key = (row["position"], row["register"], row["parameter_index"])
        if row["bitstring"] is None:
            assert row["count"] == 0
        else:
            found.setdefault(key, {})[row["bitstring"]] = row["count"]
    expected = {
        (10 + index, register, element): bits.get_counts(location)
        for index, pub in enumerate(result)
        for register, bits in pub.data.items()
        for element, location in enumerate(np.ndindex(bits.shape))
        if bits.num_shots
    }
    assert found == expected
    held = {(row["position"], row["register"]) for row in table.select(["position", "register"]).to_pylist()}
    assert held == {(10 + index, name) for index, pub in enumerate(result) for name in pub.data}


@settings(max_examples=60, deadline=None)
@given(results())
def test_memory_table_any_result_equals_get_bitstrings(result: PrimitiveResult[PubResult]) -> None:
    stamps = [PubStamp(position=index, circuit=f"q{index}") for index in range(len(result))]
    table = memory_table(result, JOB, stamps)
    assert table.schema == MEMORY.schema
    rows = [row for row in table.to_pylist() if row["bitstring"] is not None]
    expected = [
        (index, register, element, shot, text)
        for index, pub in enumerate(result)
        for register, bits in pub.data.items()
        for element, location in enumerate(np.ndindex(bits.shape))
        for shot, text in enumerate(bits.get_bitstrings(location))
    ]
    names = ("position", "register", "parameter_index", "shot", "bitstring")
    assert [tuple(row[name] for name in names) for row in rows] == expected


def test_counts_table_stamps_stand_in_every_row() -> None:
    rows = _one(DataBin(meas=_bits("01", "01", "11")), circuit="bell", header={"lab": "x"})
    assert rows[0] == {
        "run_key": "night",
        "set_key": "ab12",
        "position": 0,
        "circuit": "bell",
        "parameters": None,
        "parameter_index": 0,
        "register": "meas",
        "bitstring": "01",
        "count": 2,
        "shots": 3,
        "job_id": "d1",
        "attempt": 0,
        "backend": "fake_torino",
        "instance": "crn:v1:x",
        "channel": "local",
        "simulated": True,
        "created": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "executed": None,
        "calibration": "c1",
        "snapshot_transpiled": "s1",
        "snapshot_submitted": "s2",
        "snapshot_executed": None,
        "calibration_id": "theirs",
        "header": '{"lab":"x"}',
    }


def test_counts_table_naive_time_refused() -> None:
    job = JobStamp(job_id="d1", backend="b", simulated=True, created=datetime(2026, 1, 1))
    with pytest.raises(ArchiveError, match="no time zone"):
        counts_table(_result(DataBin(meas=_bits("0"))), job, [PubStamp(position=0, circuit="c")])


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": [0.1, 0.2], "b": [1.0, 2.0]},
        {("b", "a"): [[1.0, 0.1], [2.0, 0.2]]},
        {Parameter("b"): [[1.0], [2.0]], "a": np.array([0.1, 0.2])},
        BindingsArray({("a", "b"): np.array([[0.1, 1.0], [0.2, 2.0]])}),
    ],
)
def test_parameters_of_a_sweep_stand_by_name(parameters: object) -> None:
    rows = _one(DataBin(shape=(2,), meas=BitArray(np.zeros((2, 5, 1), np.uint8), 3)), parameters=parameters)
    assert [row["parameters"] for row in rows] == ['{"a":0.1,"b":1.0}', '{"a":0.2,"b":2.0}']
    assert [row["parameter_index"] for row in rows] == [0, 1]


def test_parameters_broadcast_over_the_sweep() -> None:
    data = DataBin(shape=(2, 2), meas=BitArray(np.zeros((2, 2, 5, 1), np.uint8), 3))
    rows = _one(data, parameters={"a": [[0.5], [1.5]], "b": 7})
    assert [json.loads(str(row["parameters"])) for row in rows] == [{"a": a, "b": 7} for a in (0.5, 0.5, 1.5, 1.5)]


def test_parameters_without_names_are_a_list() -> None:
    rows = _one(DataBin(meas=_bits("0")), parameters=[0.25, float("inf")])
    assert rows[0]["parameters"] == '[0.25,"inf"]'


def test_parameters_of_another_shape_refused() -> None:
    with pytest.raises(ResultUnreadable, match="shape"):
        _one(DataBin(shape=(2,), meas=BitArray(np.zeros((2, 5, 1), np.uint8), 3)), parameters={"a": [1, 2, 3]})


def test_sweep_elements_as_positions() -> None:
    data = DataBin(shape=(3,), meas=BitArray(np.zeros((3, 5, 1), np.uint8), 3))
    rows = _one(data, position=4, elements_are_positions=True, parameters={"a": [0, 1, 2]})
    assert [(row["position"], row["parameter_index"]) for row in rows] == [(4, 0), (5, 0), (6, 0)]
    assert [row["parameters"] for row in rows] == ['{"a":0}', '{"a":1}', '{"a":2}']


def test_nothing_measured_still_has_a_row() -> None:
    no_shots, empty_sweep = BitArray(np.zeros((0, 1), np.uint8), 3), BitArray(np.zeros((0, 7, 1), np.uint8), 3)
    result = _result(DataBin(meas=no_shots), DataBin(shape=(0,), meas=empty_sweep), DataBin())
    stamps = [
        PubStamp(position=index, circuit="c", shots=9, parameters={"a": []} if index == 1 else None)
        for index in range(3)
    ]
    rows = counts_table(result, JOB, stamps).to_pylist()
    assert [(row["register"], row["bitstring"], row["count"], row["shots"]) for row in rows] == [
        ("meas", None, 0, 0),
        ("meas", None, 0, 7),
        (None, None, 0, 9),
    ]


def test_kerneled_values_refused(tmp_path: Path) -> None:
    result = _result(DataBin(meas=_bits("01")), DataBin(meas=np.ones(4, dtype=complex)))
    stamps = [PubStamp(position=0, circuit="a"), PubStamp(position=1, circuit="b")]
    archive = open_archive(tmp_path)
    with pytest.raises(ResultUnreadable, match=r"'meas' of circuit 'b' \(position 1\) holds complex128"):
        archive.write("counts", counts_batches(result, JOB, stamps))
    assert not list(tmp_path.rglob("*.parquet"))


def test_other_number_of_pubs_refused() -> None:
    with pytest.raises(ResultUnreadable, match="1 PUBs, but 2"):
        counts_table(_result(DataBin(meas=_bits("0"))), JOB, [PubStamp(position=0, circuit="c")] * 2)


def test_batches_and_table_name_the_same_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    bits = [BitArray(rng.integers(0, 256, size=(4, 5000, 2), dtype=np.uint8), 16) for _ in range(3)]
    result = _result(*(DataBin(shape=(4,), meas=one, other=one) for one in bits))
    stamps = [PubStamp(position=index, circuit=f"c{index}", parameters={"a": np.arange(4)}) for index in range(3)]
    archive = open_archive(tmp_path)
    streamed = archive.write("counts", counts_batches(result, JOB, stamps))
    table = counts_table(result, JOB, stamps)
    assert table.num_rows > 30_000
    assert archive.write("counts", table) == streamed
    assert archive.write("counts", pa.Table.from_batches(table.to_batches(max_chunksize=777))) == streamed
    assert archive.read("counts").equals(table)
    assert archive.write("memory", memory_batches(result, JOB, stamps)) == archive.write(
        "memory", memory_table(result, JOB, stamps)
    )


def test_read_counts_filters_and_formats(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    result, stamps = _result(DataBin(meas=_bits("01", "11"))), [PubStamp(position=0, circuit="c")]
    for run_key, backend in (("one", "fake_torino"), ("two", "fake_fez")):
        job = JobStamp(job_id=f"job-{run_key}", backend=backend, simulated=True, run_key=run_key)
        archive.write("counts", counts_table(result, job, stamps))
    assert len(read_counts(tmp_path)) == 4
    frame = read_counts(str(tmp_path), run_key="two")
    assert frame["backend"].tolist() == ["fake_fez"] * 2
    assert frame["count"].dtype == np.int64
    assert read_counts(archive, backend="fake_torino", format="arrow").schema == COUNTS.schema
    assert read_counts(archive, run_key="three", columns=["count"]).empty


def test_pieces_of_a_sweep_give_the_rows_of_the_whole() -> None:
    values = {"a": np.array([0.5, 1.5, 2.5])}
    bits = BitArray.from_samples(["00", "01", "01", "11", "10", "10"], 2).reshape(3, 2)
    whole = counts_table(
        _result(DataBin(shape=(3,), meas=bits)), JOB, [PubStamp(position=4, circuit="c", parameters=values)]
    )
    stamps = [
        PubStamp(position=4, circuit="c", parameters={"a": values["a"][index]}, parameter_index=index)
        for index in range(3)
    ]
    pieces = counts_table(_result(*(DataBin(meas=bits[index]) for index in range(3))), JOB, stamps)
    assert pieces.equals(whole)
