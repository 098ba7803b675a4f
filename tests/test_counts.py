"""Counts in the archive: equal to qiskit's own, traced to their job, of our results and of anybody's."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult, StatevectorSampler

from prefect_ibmq import (
    ArchiveError,
    IBMQProvider,
    InputError,
    aexport_counts,
    backend_properties,
    export_counts,
    fetch_result,
    read_counts,
    run_circuits,
    submit_job,
    transpile_circuits,
    wait_for_job,
)
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.snapshot_ids import snapshot_id

pytestmark = pytest.mark.usefixtures("prefect_server")

JOB = {"job_id": "j1", "backend": "mine"}
COLUMNS = {
    *("run_key", "set_key", "position", "circuit", "parameters", "register", "bitstring", "count", "shots", "job_id"),
    *("attempt", "backend", "instance", "simulated", "created", "executed", "calibration"),
    *("snapshot_transpiled", "snapshot_submitted", "snapshot_executed", "calibration_id"),
}


def assert_equal_to_get_counts(result: Any, rows: pd.DataFrame) -> None:
    """Every row of the table is in qiskit's dicts, and the other way round."""
    keys = ["position", "register", "parameter_index"]
    table = {
        key: dict(zip(group["bitstring"], group["count"], strict=True))
        for key, group in rows[rows["bitstring"].notna()].groupby(keys)
    }
    wanted = {}
    for index, pub in enumerate(result):
        for name, bits in pub.data.items():
            for element in range(int(np.prod(bits.shape, dtype=int))):
                counts = bits.get_counts(np.unravel_index(element, bits.shape) if bits.shape else None)
                wanted |= {(index, name, element): counts} if counts else {}
    assert table == wanted


def sweep() -> tuple[QuantumCircuit, Any]:
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(QuantumRegister(2, "q"), ClassicalRegister(2, "c"), name="turned")
    circuit.rx(a, 0)
    circuit.ry(b, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit, {"a": [[0.0], [np.pi]], "b": [[0.5, 1.5, 2.5]]}


def two_registers() -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(3, "q"), ClassicalRegister(1, "one"), ClassicalRegister(2, "two"))
    circuit.h([0, 1, 2])
    circuit.measure([0, 1, 2], [0, 1, 2])
    return circuit


def test_rows_of_a_run_are_equal_to_get_counts_and_traced_to_their_jobs(served: Any, tmp_path: Path) -> None:
    provider, began = served.provider(), datetime.now(UTC)
    values = sweep()
    broadcast = (values[0], {name: np.broadcast_to(each, (2, 3)) for name, each in values[1].items()})
    arguments: dict[str, Any] = {"run_key": "traced", "archive": tmp_path, "max_circuits_per_job": 1}
    result = run_circuits([broadcast, (two_registers(), None, 33)], "fake_manila", provider, 150, **arguments)
    told = export_counts(result, tmp_path)
    rows = read_counts(tmp_path, run_key="traced")
    assert set(rows.columns) >= COLUMNS
    assert (told["rows"], told["archive"]) == (len(rows), str(tmp_path / "counts"))
    assert_equal_to_get_counts(result, rows)
    assert rows["circuit"].unique().tolist() == ["turned", "circuit_1"]
    assert dict(zip(rows["circuit"], rows["shots"], strict=True)) == {"turned": 150, "circuit_1": 33}
    swept = rows[rows["circuit"] == "turned"].drop_duplicates("parameter_index").sort_values("parameter_index")
    assert [json.loads(each) for each in swept["parameters"]] == [
        {"a": a, "b": b} for a in (0.0, np.pi) for b in (0.5, 1.5, 2.5)
    ]
    assert rows[rows["circuit"] == "circuit_1"]["parameters"].isna().all()
    jobs = [pub.metadata["prefect_ibmq"]["job"]["job_id"] for pub in result]
    assert rows.groupby("circuit")["job_id"].unique().to_dict() == {"turned": [jobs[0]], "circuit_1": [jobs[1]]}
    assert (rows["instance"] == served.service.crn).all()
    assert (rows["backend"] == "fake_manila").all()
    assert rows["simulated"].all()  # although the channel is IBM's
    assert (rows["channel"] == "ibm_quantum_platform").all()
    assert (rows["attempt"] == 1).all()
    assert (rows["created"] <= rows["executed"]).all()
    assert rows["created"].between(began.replace(microsecond=0), datetime.now(UTC)).all()
    properties = backend_properties("fake_manila", provider)
    assert (rows["calibration"] == properties.last_update_date.isoformat()).all()
    for column in ("snapshot_transpiled", "snapshot_submitted", "snapshot_executed"):
        assert (rows[column] == snapshot_id(properties.raw)).all()
    assert rows["set_key"].nunique() == 1


def test_exporting_again_changes_nothing(local: IBMQProvider, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"run_key": "again", "archive": tmp_path}
    result = run_circuits(two_registers(), "fake_manila", local, 50, **arguments)
    told = export_counts(result, tmp_path)
    files = sorted(tmp_path.glob("counts/**/*.parquet"))
    again = run_circuits(two_registers(), "fake_manila", local, 50, **arguments)
    assert export_counts(again, tmp_path) == told
    assert sorted(tmp_path.glob("counts/**/*.parquet")) == files
    assert len(read_counts(tmp_path)) == told["rows"]


def test_rows_of_a_job_fetched_by_its_bare_handle_tell_when_it_was_made(served: Any, tmp_path: Path) -> None:
    provider = served.provider()
    circuits = transpile_circuits(two_registers(), "fake_manila", provider)
    handle = submit_job(circuits, "fake_manila", provider, shots=20, run_key="bare", archive=tmp_path)
    wait_for_job(handle, provider)
    export_counts(fetch_result(handle, provider, archive=tmp_path), tmp_path)
    export_counts(fetch_result(handle.job_id, provider, archive=tmp_path), tmp_path)
    rows = read_counts(tmp_path, job_id=handle.job_id)
    assert rows["created"].notna().all()
    assert rows["simulated"].all()


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("bits", [1, 8, 63, 64, 65, 133, 156])
def test_any_result_of_any_width_is_equal_to_get_counts(tmp_path: Path, shape: tuple[int, ...], bits: int) -> None:
    rng = np.random.default_rng(bits)
    packed = rng.integers(0, 3, (*shape, 200, -(-bits // 8)), dtype=np.uint8)
    packed[..., 0] &= (1 << ((bits - 1) % 8 + 1)) - 1
    data = DataBin(shape=shape, alpha=BitArray(packed, bits), beta=BitArray(packed[..., :1] & 1, 1))
    result = PrimitiveResult([SamplerPubResult(data)])
    export_counts(result, tmp_path, job=JOB)
    rows = read_counts(tmp_path)
    assert_equal_to_get_counts(result, rows)
    assert rows["bitstring"].str.len().isin([1, bits]).all()


def test_zero_shots_and_empty_sweeps_still_have_a_row(tmp_path: Path) -> None:
    nothing = DataBin(shape=(), c=BitArray(np.zeros((0, 1), dtype=np.uint8), 3))
    empty = DataBin(shape=(0,), c=BitArray(np.zeros((0, 10, 1), dtype=np.uint8), 3))
    result = PrimitiveResult([SamplerPubResult(nothing), SamplerPubResult(empty)])
    assert export_counts(result, tmp_path, job=JOB, circuits=["nothing", "empty"])["rows"] == 2
    rows = read_counts(tmp_path)
    assert rows["count"].tolist() == [0, 0]
    assert rows["bitstring"].isna().all()
    assert sorted(rows["circuit"]) == ["empty", "nothing"]


def test_results_of_other_samplers_need_their_job_told(tmp_path: Path) -> None:
    circuit, spread = sweep()
    values = {name: np.broadcast_to(each, (2, 3)) for name, each in spread.items()}
    result = StatevectorSampler(seed=7).run([(circuit, values), two_registers()], shots=64).result()
    with pytest.raises(InputError, match=r"which job.*job="):
        export_counts(result, tmp_path)
    with pytest.raises(InputError, match="backend"):
        export_counts(result, tmp_path, job={"job_id": "j"})
    made = datetime(2026, 11, 20, 12, tzinfo=UTC)
    job = {**JOB, "simulated": True, "created": made, "executed": made.isoformat(), "calibration": "c", "attempt": 2}
    export_counts(result, tmp_path, job=job, circuits=[(circuit, values), two_registers()], run_key="theirs")
    rows = read_counts(tmp_path, run_key="theirs")
    assert_equal_to_get_counts(result, rows)
    assert rows["circuit"].unique().tolist() == ["turned", "circuit_1"]
    assert json.loads(rows["parameters"].iloc[0]) == {"a": 0.0, "b": 0.5}
    first = rows.iloc[0]
    assert (first["job_id"], first["backend"], first["created"], first["executed"]) == ("j1", "mine", made, made)
    assert (first["simulated"], first["attempt"], first["calibration"]) == (True, 2, "c")
    with pytest.raises(InputError, match="2 circuits, and 1"):
        export_counts(result, tmp_path, job=JOB, circuits=["only one"])


def test_what_nobody_says_stays_unsaid(tmp_path: Path) -> None:
    result = StatevectorSampler(seed=7).run([two_registers()], shots=8).result()
    export_counts(result, tmp_path, job=JOB)
    row = read_counts(tmp_path).iloc[0]
    unsaid = ["snapshot_transpiled", "snapshot_submitted", "snapshot_executed", "calibration_id"]
    assert row[unsaid].isna().all()
    unsaid = ["simulated", "created", "executed", "calibration", "instance", "set_key", "run_key", "attempt"]
    assert row[unsaid].isna().all()
    assert row["circuit"] == "circuit_0"


def test_memory_keeps_every_shot_in_order(tmp_path: Path) -> None:
    result = StatevectorSampler(seed=7).run([two_registers()], shots=50).result()
    export_counts(result, tmp_path, job=JOB, memory=True)
    memory = open_archive(tmp_path).read("memory").to_pandas().sort_values("shot")
    for register in ("one", "two"):
        shots = memory[memory["register"] == register]["bitstring"].tolist()
        assert shots == result[0].data[register].get_bitstrings()


def test_headers_and_circuit_metadata_come_along(local: IBMQProvider, tmp_path: Path) -> None:
    circuit = two_registers()
    circuit.metadata = {"depth": 3}
    result = run_circuits(circuit, "fake_manila", local, 10, run_key="header", archive=tmp_path)
    export_counts(result, tmp_path, header={"note": "night"})
    assert {json.dumps(json.loads(each)) for each in read_counts(tmp_path)["header"]} == {
        '{"depth": 3, "note": "night"}'
    }
    assert circuit.metadata == {"depth": 3}


def test_tables_come_as_pandas_or_arrow_and_by_run(tmp_path: Path) -> None:
    result = StatevectorSampler(seed=7).run([two_registers()], shots=8).result()
    for key in ("one", "two"):
        export_counts(result, tmp_path, job={**JOB, "job_id": key}, run_key=key)
    both = read_counts(tmp_path, format="arrow")
    assert both.num_rows == 2 * len(read_counts(tmp_path, run_key="one"))
    assert set(both.column_names) == set(read_counts(tmp_path).columns)
    assert len(read_counts(tmp_path, run_key="three")) == 0
    with pytest.raises(ArchiveError):
        read_counts(tmp_path / "nowhere")


async def test_the_async_door_writes_too(tmp_path: Path) -> None:
    result = StatevectorSampler(seed=7).run([two_registers()], shots=8).result()
    told = await aexport_counts(result, tmp_path, job=JOB)
    assert told["rows"] == len(read_counts(tmp_path))
