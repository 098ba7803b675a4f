"""Job sets: few jobs, one id, every good result kept, and found again from any machine."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter

from prefect_ibmq import (
    InputError,
    JobEnded,
    acollect_job_set,
    arun_job_set,
    cancel_job_set,
    collect_job_set,
    delete_job,
    export_counts,
    job_set_report,
    list_job_sets,
    retrieve_job_set,
    run_circuits,
    run_job_set,
)
from prefect_ibmq.archive.datasets import open_archive

pytest_plugins = ["prefect_ibmq.testing"]
pytestmark = pytest.mark.usefixtures("prefect_server")


def flipped(*qubits: int, name: str | None = None) -> QuantumCircuit:
    """A circuit whose likeliest outcome says which qubits were flipped."""
    circuit = QuantumCircuit(3, name=name)
    for qubit in qubits:
        circuit.x(qubit)
    circuit.measure_all()
    return circuit


def numbers(count: int) -> list[QuantumCircuit]:
    """Circuits whose likeliest outcome is their position, modulo 8."""
    return [flipped(*(bit for bit in range(3) if index >> bit & 1), name=f"n{index}") for index in range(count)]


def likeliest(counts: dict[str, int]) -> str:
    return max(counts, key=lambda text: counts[text])


def run(service: Any, circuits: Any, archive: Path | None, **more: Any) -> Any:
    chosen = {"run_key": "set", "optimization_level": 0, "archive": archive} | more
    return run_job_set(circuits, "fake_manila", service.provider, chosen.pop("shots", 60), **chosen)


def test_one_result_for_each_circuit_in_the_order_given(ibmq_service: Any, tmp_path: Path) -> None:
    circuits = numbers(8)
    job_set = run(ibmq_service, circuits, tmp_path, max_circuits_per_job=3)
    assert job_set.statuses() == ["Completed"] * 3
    assert job_set.is_complete
    assert job_set.error_messages() is None
    assert len(ibmq_service.jobs()) == 3
    results = collect_job_set(job_set)
    assert [each.circuit for each in results] == [f"n{index}" for index in range(8)]
    assert [likeliest(results.counts(index)) for index in range(8)] == [f"{index:03b}" for index in range(8)]
    assert [each.job_id for each in results] == [job_set.jobs()[index // 3].job_id for index in range(8)]
    assert job_set.counts("n5") == job_set.counts(5) == job_set.counts(circuits[5])
    assert len(job_set.memory("n5")) == 60
    assert {likeliest({text: 1}) for text in job_set.memory(0)} == set(job_set.counts(0))
    assert results.missing == []


def test_run_again_it_goes_on_with_the_same_jobs(ibmq_service: Any, tmp_path: Path) -> None:
    first = run(ibmq_service, numbers(4), tmp_path, max_circuits_per_job=2)
    before = len(ibmq_service.requests)
    again = run(ibmq_service, numbers(4), tmp_path, max_circuits_per_job=1)
    assert again.jobs() == first.jobs()
    assert again.job_set_id == first.job_set_id
    assert len(ibmq_service.requests) == before
    # `run_circuits` of the same meets the same jobs
    result = run_circuits(
        numbers(4), "fake_manila", ibmq_service.provider, 60, run_key="set", archive=tmp_path, optimization_level=0
    )
    assert [pub.data.meas.get_counts() for pub in result] == [again.counts(index) for index in range(4)]
    assert len(ibmq_service.jobs()) == 2


def mixed() -> list[Any]:
    """Circuits with two numbers of shots in turn, of one structure and of others, with and without sweeps."""
    theta, phi = Parameter("theta"), Parameter("phi")
    swept = QuantumCircuit(2, name="swept")
    swept.rx(theta, 0)
    swept.rx(phi, 1)
    swept.measure_all()
    early, late = ClassicalRegister(1, "early"), ClassicalRegister(2, "late")
    two = QuantumCircuit(QuantumRegister(2, "q"), early, late, name="two")
    two.x(0)
    two.measure(0, early[0])
    two.measure([0, 1], late)
    turned = []
    for index in range(3):
        circuit = QuantumCircuit(1, name=f"turned{index}")
        circuit.sx(0)
        circuit.rz(0.3 + index, 0)
        circuit.sx(0)
        circuit.measure_all()
        circuit.metadata = {"sample": index}
        turned.append(circuit)
    values = np.linspace(0, 3, 12).reshape(2, 3, 2)
    return [
        (turned[0], None, 40),
        (swept, values, 70),
        (turned[1], None, 70),
        (two, None, 40),
        (swept, {"theta": 0.5, "phi": 0.25}, 70),
        (turned[2], None, 40),
    ]


def rows_of(results: Any, archive: Path) -> list[dict[str, Any]]:
    export_counts(results.result, archive)
    rows: list[dict[str, Any]] = open_archive(archive).read("counts").to_pylist()
    return sorted(rows, key=lambda row: (row["position"], row["parameter_index"], row["register"], row["bitstring"]))


@pytest.mark.parametrize("program", ["executor", "sampler"])
def test_a_fresh_machine_finds_the_set_by_its_id_alone(ibmq_service: Any, tmp_path: Path, program: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    job_set = run(ibmq_service, mixed(), here, program=program, optimization_level=1)
    assert len(job_set.parts) == (2 if program == "executor" else 1)
    found = retrieve_job_set(job_set.job_set_id, ibmq_service.provider, archive=there)
    assert (found.circuits, found.run_key, found.is_complete) == (6, "set", True)
    assert [part.circuits for part in found.parts] == [part.circuits for part in job_set.parts]
    mine, theirs = collect_job_set(job_set), collect_job_set(found.job_set_id, ibmq_service.provider, archive=there)
    assert [each.circuit for each in theirs] == ["turned0", "swept", "turned1", "two", "swept", "turned2"]
    assert [each.result.data.shape for each in theirs] == [(), (2, 3), (), (), (), ()]
    keys = ("position", "circuit", "job_id", "pub", "element", "attempt")
    assert [[getattr(a, key) for key in keys] for a in mine] == [[getattr(a, key) for key in keys] for a in theirs]
    rows = rows_of(mine, here)
    assert rows == rows_of(theirs, there)
    assert {row["shots"] for row in rows} == {40, 70}
    assert {(row["circuit"], row["parameters"] is not None) for row in rows} == {
        ("swept", True), ("turned0", False), ("turned1", False), ("turned2", False), ("two", False),
    }  # fmt: skip
    assert {row["header"] for row in rows if row["circuit"] == "turned2"} == {'{"sample":2}'}
    assert {row["register"] for row in rows if row["circuit"] == "two"} == {"early", "late"}
    assert set(theirs.counts("two")) <= {f"{late:02b} {early}" for late in range(4) for early in range(2)}
    assert sum(theirs.counts(1, element=(1, 2)).values()) == 70
    assert sum(theirs.counts(1).values()) == 6 * 70


def test_a_lost_folder_and_other_packing_find_the_reordered_jobs(ibmq_service: Any, tmp_path: Path) -> None:
    first = run(ibmq_service, mixed(), tmp_path / "lost", optimization_level=1)
    again = run(ibmq_service, mixed(), tmp_path / "new", optimization_level=1, max_circuits_per_job=2)
    assert len(ibmq_service.jobs()) == 2
    assert [each.job_id for each in collect_job_set(again)] == [each.job_id for each in collect_job_set(first)]
    assert rows_of(again.results(), tmp_path / "new") == rows_of(first.results(), tmp_path / "lost")


def test_circuits_of_one_structure_are_one_pub(ibmq_service: Any, tmp_path: Path) -> None:
    job_set = run(ibmq_service, mixed(), tmp_path, optimization_level=1)
    pubs = {(part.shots, each.circuit): each.pub for part, each in _circuits(job_set)}
    assert pubs[40, "turned0"] == pubs[40, "turned2"] != pubs[40, "two"]
    assert job_set.parts[1].circuits[0].pub == job_set.parts[1].circuits[2].pub
    apart = run(ibmq_service, mixed(), tmp_path, optimization_level=1, merge=False, repetition=1)
    assert [each.pub for part in apart.parts for each in part.circuits] == [0, 1, 2, 0, 1, 2]


def _circuits(job_set: Any) -> Any:
    from prefect_ibmq.run_listing import stored_run

    plan = stored_run(job_set._archive, job_set.job_set_id).plan
    return [(part, each) for part, told in zip(plan.parts, job_set.parts, strict=True) for each in told.circuits]


# --- what fails --------------------------------------------------------------------------------------------------


def test_salvage_keeps_what_worked_and_pays_for_the_holes(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on_job(circuit="n2", ends="Failed", code=5203, reason="Failed to run job.", times=1)
    ibmq_service.faults.on_job(circuit="n4", ends="Failed", code=1517, reason="Not an ISA circuit.", times=1)
    ibmq_service.faults.on_job(circuit="n7", ends="Cancelled", times=1)
    job_set = run(ibmq_service, numbers(8), tmp_path, max_circuits_per_job=2)
    assert job_set.statuses() == ["Completed", "Completed", "Failed", "Cancelled"]
    assert [handle.attempt for handle in job_set.jobs()] == [1, 2, 1, 1]
    assert "1517" in (job_set.error_messages() or "")
    results = job_set.results()
    assert [each.position for each in results.missing] == [4, 5, 6, 7]
    assert all(each.reason for each in results.missing)
    assert [likeliest(results.counts(index)) for index in range(4)] == [f"{index:03b}" for index in range(4)]
    with pytest.raises(JobEnded, match=r"n4.*Not an ISA circuit"):
        results.counts("n4")
    # unasked, nothing runs again; asked, the holes do
    assert run(ibmq_service, numbers(8), tmp_path).statuses() == job_set.statuses()
    assert len(ibmq_service.jobs()) == 5
    mended = run(ibmq_service, numbers(8), tmp_path, resubmit="failed")
    assert mended.statuses() == ["Completed", "Completed", "Completed", "Cancelled"]
    mended = run(ibmq_service, numbers(8), tmp_path, resubmit="cancelled")
    assert mended.is_complete
    assert len(ibmq_service.jobs()) == 7
    assert [likeliest(mended.counts(index)) for index in range(8)] == [f"{index:03b}" for index in range(8)]


def test_cancel_all_submits_nothing_more_and_keeps_what_completed(
    ibmq_services: Callable[..., Any], tmp_path: Path
) -> None:
    service = ibmq_services(pending_limit=2)
    # The first fails, and the second takes one of two places until then: the last ones are not posted so soon.
    service.faults.on_job(ends="Failed", code=1517, reason="Not an ISA circuit.", times=1)
    service.faults.on_job(queue_seconds=3600, times=1)
    order = {"max_circuits_per_job": 1, "on_failure": "cancel_all"}
    job_set = run(service, numbers(8), tmp_path, **order)
    paid = len(service.jobs())
    assert paid < 8
    statuses = job_set.statuses()
    assert statuses.count("Failed") == 1
    assert statuses.count("Not submitted") == 8 - paid
    results = job_set.results()
    done = {each.position for each in results if each.is_there}
    assert done == {index for index, status in enumerate(statuses) if status == "Completed"}
    assert all("cancel_all" in each.reason for each in results.missing if each.job is None)
    # again without an order, the failure is known and nothing is posted
    run(service, numbers(8), tmp_path, **order)
    assert len(service.jobs()) == paid
    mended = run(service, numbers(8), tmp_path, resubmit="failed", **order)
    assert mended.is_complete
    completed = [job for job in service.jobs() if job.status == "Completed"]
    assert len(completed) == 8
    assert done <= {each.position for each in mended.results() if each.attempt == 1}


def test_jobs_are_posted_in_the_order_of_the_circuits_whatever_holds_them_up(
    ibmq_services: Callable[..., Any], tmp_path: Path
) -> None:
    service = ibmq_services(pending_limit=2)
    service.faults.on("POST /jobs", answer="error", status=429, retry_after=1, after=2, times=2)
    service.faults.on("POST /jobs", answer="lost", work_done=True, after=5, times=1)
    circuits = numbers(8)
    for _ in range(3000):  # the first takes longest to be encoded
        circuits[0].x(0)
        circuits[0].barrier(0)
    job_set = run(service, circuits, tmp_path, max_circuits_per_job=1, isa=True)
    service.faults.assert_all_fired()
    assert job_set.is_complete
    posted = [tag for job in service.jobs() for tag in job.tags if tag.startswith("ibmq-part:")]
    assert posted == [f"ibmq-part:{index}-{index}.1" for index in range(8)]


def test_a_refused_part_is_none_and_says_why(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on("POST /jobs", answer="error", status=400, code=1208, message="No.", after=1, times=1)
    job_set = run(ibmq_service, numbers(3), tmp_path, max_circuits_per_job=1)
    assert [job is None for job in job_set.jobs()].count(True) == 1
    assert job_set.statuses().count("Not submitted") == 1
    assert "1208" in (job_set.error_messages() or "")
    (missing,) = job_set.results().missing
    with pytest.raises(InputError, match=r"has no result.*1208"):
        _ = missing.result
    assert run(ibmq_service, numbers(3), tmp_path).is_complete
    assert len(ibmq_service.jobs()) == 3


def test_a_fresh_machine_runs_again_what_failed_and_nothing_else(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on_job(circuit="n2", ends="Failed", code=1517, reason="Not an ISA circuit.", times=1)
    first = run(ibmq_service, numbers(6), tmp_path / "here", max_circuits_per_job=2)
    assert first.statuses() == ["Completed", "Failed", "Completed"]
    told = run(ibmq_service, numbers(6), tmp_path / "there", max_circuits_per_job=3)
    assert (told.statuses(), len(ibmq_service.jobs())) == (first.statuses(), 3)
    mended = run(ibmq_service, numbers(6), tmp_path / "elsewhere", max_circuits_per_job=3, resubmit="failed")
    assert mended.is_complete
    assert [handle.attempt for handle in mended.jobs()] == [1, 2, 1]
    assert len(ibmq_service.jobs()) == 4
    assert [likeliest(mended.counts(index)) for index in range(6)] == [f"{index:03b}" for index in range(6)]


def test_what_fails_again_is_run_again_once(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on_job(circuit="n2", ends="Failed", code=1517, reason="Not an ISA circuit.")
    run(ibmq_service, numbers(3), tmp_path / "here", max_circuits_per_job=1)
    again = run(ibmq_service, numbers(3), tmp_path / "there", max_circuits_per_job=1, resubmit="failed")
    assert again.statuses() == ["Completed", "Completed", "Failed"]
    assert len(ibmq_service.jobs()) == 4


def test_a_fresh_machine_is_told_of_what_failed_and_of_what_is_gone(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on("POST /jobs", answer="lost", work_done=True, times=1)
    ibmq_service.faults.on_job(circuit="n2", ends="Failed", code=1517, reason="Not an ISA circuit.")
    job_set = run(ibmq_service, numbers(6), tmp_path / "here", max_circuits_per_job=2)
    assert len(ibmq_service.jobs()) == 3
    ibmq_service.faults.assert_all_fired()
    found = retrieve_job_set(job_set.job_set_id, ibmq_service.provider, archive=tmp_path / "there")
    assert found.statuses() == ["Completed", "Failed", "Completed"]
    assert [(each.circuit, each.job_id) for each in found.results().missing] == [
        (name, job_set.jobs()[1].job_id) for name in ("n2", "n3")
    ]
    assert "1517" in found.report()
    delete_job(job_set.jobs()[2].job_id, ibmq_service.provider, force=True)
    left = retrieve_job_set(job_set.job_set_id, ibmq_service.provider, archive=tmp_path / "elsewhere")
    assert (left.circuits, len(left.parts), left.is_complete) == (6, 2, False)
    assert "2 circuits are in no job" in left.report()
    gone = left.results()[5]
    with pytest.raises(InputError, match=r"position 5\).*No job of the set"):
        _ = gone.result
    # where the run's folder is, its result stays
    here = retrieve_job_set(job_set.job_set_id, ibmq_service.provider, archive=tmp_path / "here")
    assert likeliest(here.counts(5)) == "101"


def test_a_set_can_be_left_cancelled_and_gone_on_with(ibmq_services: Callable[..., Any], tmp_path: Path) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)
    job_set = run(service, numbers(4), tmp_path, max_circuits_per_job=2, wait=False, name="night")
    assert job_set.refresh().statuses() == ["Queued", "Queued"]
    early = collect_job_set(job_set, wait=False)
    assert [each.is_there for each in early] == [False] * 4
    assert "queued" in early[0].reason
    assert sorted(cancel_job_set(job_set.job_set_id, service.provider, archive=tmp_path)) == sorted(
        job.id for job in service.jobs()
    )
    found = retrieve_job_set(job_set.job_set_id, service.provider, archive=tmp_path)
    assert found.statuses() == ["Cancelled", "Cancelled"]
    assert found.cancel() == []
    (summary,) = list_job_sets(service.provider, "nig", archive=tmp_path)
    assert (summary.job_set_id, summary.name, summary.run_key) == (job_set.job_set_id, "night", "set")
    assert summary.statuses == {"Cancelled": 2}
    assert list_job_sets(service.provider, "^day", archive=tmp_path) == []
    again = run(service, numbers(4), tmp_path, wait=False)
    assert [handle.attempt for handle in again.jobs()] == [2, 2]
    service.clock.advance(3600)
    assert [likeliest(again.counts(index)) for index in range(4)] == ["000", "001", "010", "011"]
    assert again.is_complete


def test_a_batch_holds_the_jobs_and_its_end_costs_no_part(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on_job(position=1, ends="Failed", code=1217, reason="Session has been closed.", times=1)
    job_set = run(ibmq_service, numbers(3), tmp_path, max_circuits_per_job=1, batch=True)
    assert job_set.is_complete
    sessions = [job.session_id for job in ibmq_service.jobs()]
    assert len({each for each in sessions if each}) == 1
    assert sessions.count(None) == 1
    ibmq_service.faults.assert_all_fired()
    opened = ibmq_service.counts["POST /sessions"]
    run(ibmq_service, numbers(3), tmp_path, batch=True)
    assert ibmq_service.counts["POST /sessions"] == opened == 1
    assert ibmq_service.counts["PATCH /sessions/{id}"] == 1
    ibmq_service.faults.on("POST /sessions", answer="error", status=400, code=1352, message="Not on this plan.")
    without = run(ibmq_service, numbers(3), tmp_path, batch=True, repetition=1)
    assert without.is_complete
    assert ibmq_service.jobs()[-1].session_id is None


# --- reports and records -------------------------------------------------------------------------------------------


def test_the_report_is_a_text_and_a_table(ibmq_service: Any, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    ibmq_service.faults.on_job(circuit="n1", ends="Failed", code=1517, reason="Not an ISA circuit.")

    @flow
    async def night() -> tuple[str, Any]:
        job_set = await arun_job_set(
            numbers(3), "fake_manila", ibmq_service.provider, 20, run_key="reported", archive=tmp_path,
            max_circuits_per_job=1, optimization_level=0,
        )  # fmt: skip
        from prefect_ibmq import ajob_set_report

        results = await acollect_job_set(job_set)
        assert len(results.missing) == 1
        async with get_client() as client:
            text = await ajob_set_report(job_set)
            artifacts = await client.read_artifacts(limit=20)
        return text, next(each for each in artifacts if each.key == "ibmq-jobs-reported")

    import asyncio

    text, artifact = asyncio.run(night())
    assert "3 circuits in 3 jobs: 2 completed, 1 failed" in text
    assert "circuits 1: Failed, job" in text
    assert "code 1517: Not an ISA circuit." in text
    assert "n1" in artifact.data
    assert artifact.type == "table"
    plain = job_set_report(retrieve_job_set(_id_in(text), ibmq_service.provider, archive=tmp_path))
    assert plain == text


def test_a_second_task_of_a_flow_run_is_refused_and_a_retry_is_not(ibmq_service: Any, tmp_path: Path) -> None:
    given = (numbers(2), "fake_manila", ibmq_service.provider, 20)
    order = {"run_key": "twice", "archive": tmp_path, "optimization_level": 0}

    @flow
    def twice(**more: Any) -> Any:
        first = run_job_set(*given, **order)
        return first, run_job_set(*given, **order, **more)

    with pytest.raises(InputError, match=r"repetition=1.*share=True"):
        twice()
    assert len(ibmq_service.jobs()) == 1
    first, shared = twice(share=True)
    assert first.jobs() == shared.jobs()
    assert len(ibmq_service.jobs()) == 1
    first, other = twice(repetition=1)
    assert first.job_set_id != other.job_set_id
    assert len(ibmq_service.jobs()) == 2


def _id_in(text: str) -> str:
    return text.splitlines()[0].removeprefix("Job set ")


def test_a_set_travels_without_what_can_be_read_again(
    ibmq_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_set = run(ibmq_service, numbers(2), tmp_path)
    counts = job_set.counts(1)
    again = pickle.loads(pickle.dumps(job_set))
    assert ibmq_service.provider.credentials.token.get_secret_value() not in str(pickle.dumps(job_set))
    assert repr(again) == repr(job_set)
    monkeypatch.setenv("QISKIT_IBM_TOKEN", ibmq_service.provider.credentials.token.get_secret_value())
    assert again.counts(1) == counts


def test_what_cannot_be_is_refused_before_anything_is_sent(ibmq_service: Any, tmp_path: Path) -> None:
    two = [flipped(0, name="same"), flipped(1, name="same")]
    for wrong, said in (
        ({"on_failure": "ignore"}, "on_failure='ignore'"),
        ({"max_circuits_per_job": 0}, "max_circuits_per_job=0"),
        ({"resubmit": "all"}, "resubmit='all'"),
        ({"batch": True, "session_id": "s"}, "batch and a session_id"),
        ({"nme": "x"}, "nme"),
        ({"program": "estimatr"}, "estimatr"),
        ({"shots": 20_000_000}, "20,000,000"),
    ):
        with pytest.raises(InputError, match=said):
            run(ibmq_service, two, tmp_path, **wrong)
    assert ibmq_service.counts.get("POST /jobs", 0) == 0
    with pytest.raises(InputError, match="no job set's id"):
        retrieve_job_set("nonsense", ibmq_service.provider)
    with pytest.raises(InputError, match="There is no job set"):
        retrieve_job_set("0" * 64, ibmq_service.provider)
    with pytest.raises(InputError, match="no regular expression"):
        list_job_sets(ibmq_service.provider, "(")
    job_set = run(ibmq_service, two, tmp_path)
    for which, said in (("same", "positions 0, 1"), ("other", "no circuit 'other'"), (7, "has 2"), (1.5, "no circuit")):
        with pytest.raises(InputError, match=said):
            job_set.counts(which)
    with pytest.raises(InputError, match="no register 'c'"):
        job_set.counts(0, "c")
    with pytest.raises(InputError, match="no circuit"):
        job_set.counts(flipped(2))
    assert likeliest(job_set.counts(two[1])) == "010"
