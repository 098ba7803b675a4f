"""What is sent is measured as it is sent, and carries which circuits it runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from prefect_ibmq import InputError
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.circuits import load_circuits
from prefect_ibmq.decoding import stamps_of
from prefect_ibmq.packing import Limits, packed
from prefect_ibmq.payloads import measure_of, merged_parts, params_of
from prefect_ibmq.runs import Part, Run
from prefect_ibmq.wire.job_requests import JobRequest
from prefect_ibmq.wire.sent import sent_metadata, sent_values


def circuits(number: int, *, alike: bool = False) -> list[QuantumCircuit]:
    """Circuits of five qubits that compress badly."""
    draw = random.Random(number)
    made = []
    for index in range(number):
        circuit = QuantumCircuit(5, name=f"c{index}")
        for step in range(60):
            qubit = step % 5 if alike else draw.randrange(5)
            circuit.rz(draw.uniform(-3, 3), qubit)
            circuit.sx(qubit)
            circuit.cz(qubit, (qubit + 1) % 5)
        circuit.measure_all()
        made.append(circuit)
    return made


def run_of(given: Any, folder: Path) -> tuple[Run, list[QuantumCircuit]]:
    inputs = load_circuits(given)
    shots = [10] * len(inputs)
    return Run(archive=open_archive(folder), run_key="key", set_key="0" * 64, inputs=inputs, shots=shots), [
        item.circuit for item in inputs
    ]


def body(run: Run, program: str, isa: list[QuantumCircuit], places: list[int]) -> int:
    params = params_of(run, program, isa, [(place,) for place in places], {})
    return len(JobRequest(program=program, backend="b", params=params).encoded())


@pytest.mark.parametrize("program", ["executor", "sampler"])
def test_jobs_are_as_full_as_the_bytes_allow(tmp_path: Path, program: str) -> None:
    run, isa = run_of(circuits(24), tmp_path)
    whole = body(run, program, isa, list(range(24)))
    payload = whole // 3
    measure = measure_of(run, program, isa, {}, merge=False, payload=payload)
    assert measure is not None
    groups = packed(run.inputs, run.shots, Limits(payload=payload), measure=measure)
    assert sorted(place for group in groups for place in group) == list(range(24))
    assert all(body(run, program, isa, group) <= measure(group) <= payload for group in groups)
    most = max(size for size in range(1, 25) if measure(range(size)) <= payload)
    assert len(groups) == -(-24 // most)
    alone = max(measure([place]) for place in range(24))
    with pytest.raises(InputError, match="bytes as sent"):
        packed(run.inputs, run.shots, Limits(payload=alone - 1), measure=measure)


def test_small_sets_need_no_measuring(tmp_path: Path) -> None:
    run, isa = run_of(circuits(24), tmp_path)
    assert measure_of(run, "executor", isa, {}, merge=False) is None


def test_merging_makes_what_is_sent_smaller(tmp_path: Path) -> None:
    run, isa = run_of(circuits(20, alike=True), tmp_path)
    (part,) = merged_parts([Part(first=0, last=19, shots=10)], run, isa)
    assert part.pubs() == [tuple(range(20))]
    merged = params_of(run, "executor", isa, part.pubs(), {})
    size = len(JobRequest(program="executor", backend="b", params=merged).encoded())
    # the angles themselves remain, and do not compress
    assert size < 0.8 * body(run, "executor", isa, list(range(20)))


@pytest.mark.parametrize("program", ["executor", "sampler"])
def test_what_was_sent_can_be_read_again(tmp_path: Path, program: str) -> None:
    theta = Parameter("theta")
    swept = QuantumCircuit(1, name="swept")
    swept.rz(theta, 0)
    swept.measure_all()
    run, isa = run_of([(swept, [[0.1], [0.2]]), *circuits(2, alike=True), (swept, [0.3])], tmp_path)
    (part,) = merged_parts([Part(first=0, last=3, shots=10)], run, isa)
    params = params_of(run, program, isa, part.pubs(), {}, "2026-11-20T00:00:00+00:00")
    told = [stamps_of(metadata) for metadata in sent_metadata(program, params)]
    assert [[stamp["position"] for stamp in stamps] for stamps in told] == [[0, 3], [1, 2]]
    assert told[0][0]["run_key"] == "key"
    assert told[0][0]["calibration"] == "2026-11-20T00:00:00+00:00"
    assert [stamp["shape"] for stamp in told[0]] == [[2], []]
    values = sent_values(program, params)
    assert values[0].tolist() == [[0.1], [0.2], [0.3]]
    assert values[1].shape == (2, 60)
