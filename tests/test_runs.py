"""The folder of a run: keys that mean the work and nothing else, and files that outlive their process."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.collections import visit_collection
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from prefect_ibmq import ArchiveError, JobHandle
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.circuits import load_circuits
from prefect_ibmq.run_keys import set_key_of
from prefect_ibmq.runs import Part, Plan, Run, handle_path, raw_path, stored_handle

KEY: dict[str, Any] = {
    "channel": "local",
    "host": "http://host/api/v1",
    "instance": "crn:1",
    "run_key": "night",
    "repetition": 0,
    "options": {},
}


def circuit(angle: float = 0.5, name: str | None = None) -> QuantumCircuit:
    made = QuantumCircuit(1, name=name)
    made.rx(angle, 0)
    made.measure_all()
    return made


def key(circuits: Any = None, shots: int = 100, **change: Any) -> str:
    inputs = load_circuits(circuits if circuits is not None else [circuit()])
    return set_key_of(inputs=inputs, shots=[shots] * len(inputs), **(KEY | change))


def test_the_set_key_means_the_work() -> None:
    assert key() == key()
    assert key([circuit(name="a")]) == key([circuit(name="b")])
    other = [
        key(shots=101),
        key([circuit(0.5 + 1e-16)]) if 0.5 + 1e-16 != 0.5 else key([circuit(0.6)]),
        key([circuit(), circuit()]),
        *(key(**{name: "other"}) for name in ("channel", "host", "instance", "run_key")),
        key(repetition=1),
        key(options={"rep_delay": 0.1}),
    ]
    assert len({key(), *other}) == len(other) + 1


def test_the_set_key_knows_the_order_and_the_values() -> None:
    one, two = circuit(0.1), circuit(0.2)
    assert key([one, two]) != key([two, one])
    turned = QuantumCircuit(1)
    turned.rx(Parameter("a"), 0)
    turned.measure_all()
    assert key([(turned, [0.1])]) == key([(turned, {"a": 0.1})])
    assert key([(turned, [0.1])]) != key([(turned, [0.2])])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    inputs = tuple(load_circuits([circuit(), circuit(0.2)]))
    return Run(archive=open_archive(tmp_path), run_key="night", set_key="abc", inputs=inputs, shots=(10, 10))


def plan(run: Run, backend: str = "one") -> Plan:
    return Plan(
        **{name: KEY[name] for name in ("channel", "host", "instance", "run_key")},
        set_key=run.set_key,
        backend=backend,
        program="executor",
        simulated=True,
        parts=(Part(first=0, last=1, shots=10),),
        made=datetime.now(UTC),
    )


def handle(run: Run, **more: Any) -> JobHandle:
    known = {"channel": "local", "host": "h", "instance": "i", "backend": "b", "set_key": run.set_key, "last": 1}
    return JobHandle(**(known | {"job_id": "j"} | more))


def test_the_first_plan_stands(run: Run) -> None:
    assert run.plan() is None
    first = run.write_plan(plan(run), [circuit(), circuit(0.2)])
    assert run.write_plan(plan(run, "two"), [circuit()]) == first == run.plan()
    assert [each.data for each in run.isa_circuits()] == [circuit().data, circuit(0.2).data]


def test_a_run_travels_without_its_isa_circuits_and_reads_them_again(run: Run) -> None:
    run.write_plan(plan(run), [circuit(), circuit(0.2)])
    before = len(pickle.dumps(run))
    assert run.isa_circuits() is run.isa_circuits()
    again = pickle.loads(pickle.dumps(run))
    assert len(pickle.dumps(run)) == before
    assert len(again.isa_circuits()) == 2


def test_prefect_does_not_walk_through_a_run_and_its_circuits(run: Run) -> None:
    seen: list[object] = []
    visit_collection({"run": run}, visit_fn=seen.append, return_data=False)
    assert seen == [{"run": run}, "run", run]


def test_damaged_plans_are_told_and_not_guessed(run: Run, tmp_path: Path) -> None:
    run.write_plan(plan(run), [circuit(), circuit(0.2)])
    (tmp_path / run.folder / "isa.qpy").unlink()
    with pytest.raises(ArchiveError, match="ISA circuits are missing"):
        run.isa_circuits()
    (tmp_path / run.folder / "plan.json").write_bytes(b'{"version": 1')
    with pytest.raises(ArchiveError, match=r"plan .*abc.* cannot be read"):
        run.plan()


def test_intents_are_written_and_withdrawn(run: Run) -> None:
    part = Part(first=0, last=1, shots=10)
    assert run.intent(part, 1) is None
    run.write_intent(part, 1)
    assert run.intent(part, 1) is not None
    run.withdraw_intent(part, 1)
    assert run.intent(part, 1) is None
    assert run.intent(part, 2) is None


def test_handles_are_kept_and_those_of_other_jobs_are_not_taken(run: Run) -> None:
    part, kept = Part(first=0, last=1, shots=10), handle(run)
    run.write_handle(part, kept)
    assert run.handle(part) == kept == stored_handle(run.archive, kept)
    assert stored_handle(run.archive, handle(run, job_id="other")) is None
    assert stored_handle(run.archive, "j") is None


@pytest.mark.parametrize("job_id", ["abc", "../../etc/passwd", "a/b", ".."])
def test_paths_of_bare_jobs_stay_in_the_archive(job_id: str, run: Run) -> None:
    bare = handle(run, set_key=None, job_id=job_id)
    for path in (raw_path(bare), handle_path(bare)):
        assert path.startswith("runs/jobs/")
        assert path.count("/") == 2
