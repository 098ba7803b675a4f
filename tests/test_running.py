"""Sets of circuits: planned once, submitted once, in the order given; what a second task run may and may not."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow, task
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter

from prefect_ibmq import (
    ArchiveError,
    IBMQProvider,
    InputError,
    ServiceError,
    SubmissionUnclear,
    aget_backend,
    aopen_run,
    aplan_run,
    arun_circuits,
    asubmit_part,
    atranspile_circuits,
    get_backend,
    ibm,
    run_circuits,
    submit_job,
    transpile_circuits,
)
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.attempts import End, runs_again
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.runs import Part, Run

pytestmark = pytest.mark.usefixtures("prefect_server")


def flipped(*qubits: int, width: int = 3, name: str | None = None) -> QuantumCircuit:
    """A circuit whose likeliest outcome says which qubits were flipped."""
    circuit = QuantumCircuit(width, name=name)
    for qubit in qubits:
        circuit.x(qubit)
    circuit.measure_all()
    return circuit


def likeliest(result: Any, index: int, register: str = "meas") -> str:
    counts = getattr(result[index].data, register).get_counts()
    return str(max(counts, key=counts.get))


def isa(provider: IBMQProvider, *circuits: QuantumCircuit) -> list[QuantumCircuit]:
    done: list[QuantumCircuit] = transpile_circuits(list(circuits), "fake_manila", provider, optimization_level=0)
    return done


def one_run(store: Path) -> Path:
    """The only run folder of an archive."""
    (folder,) = (store / "runs").iterdir()
    return folder


# --- what runs, and in which order -------------------------------------------------------------------------------


def test_results_come_in_the_order_given_over_several_jobs(local: IBMQProvider, tmp_path: Path) -> None:
    circuits = [flipped(0), flipped(1), flipped(2), flipped(0, 2), flipped()]
    result = run_circuits(
        circuits, "fake_manila", local, 200, run_key="order", max_circuits_per_job=2, archive=tmp_path
    )
    assert [likeliest(result, index) for index in range(5)] == ["001", "010", "100", "101", "000"]
    stamps = [pub.metadata["prefect_ibmq"] for pub in result]
    assert [stamp["position"] for stamp in stamps] == [0, 1, 2, 3, 4]
    assert len({stamp["job"]["job_id"] for stamp in stamps}) == 3
    assert all(pub.data.meas.num_shots == 200 for pub in result)


def test_shots_of_each_circuit_are_its_own(local: IBMQProvider) -> None:
    circuits = [(flipped(0), None, 50), flipped(1), (flipped(2), None, 50)]
    for program, jobs in (("executor", 2), ("sampler", 1)):
        result = run_circuits(circuits, "fake_manila", local, 70, run_key=f"shots {program}", program=program)
        assert [pub.data.meas.num_shots for pub in result] == [50, 70, 50]
        assert [likeliest(result, index) for index in range(3)] == ["001", "010", "100"]
        assert len({pub.metadata["prefect_ibmq"]["job"]["job_id"] for pub in result}) == jobs


def test_sweeps_keep_their_shape_and_the_order_of_their_parameters(local: IBMQProvider) -> None:
    b, a = Parameter("b"), Parameter("a")
    circuit = QuantumCircuit(2)
    circuit.rx(b, 0)
    circuit.rx(a, 1)
    circuit.measure_all()
    turned = np.pi * np.array([[0, 1, 0], [1, 0, 1]])  # of a, by name: the circuit's order is alphabetical
    values = {"a": turned, "b": np.zeros((2, 3))}
    result = run_circuits([(circuit, values)], "fake_manila", local, 300, run_key="sweep")
    bits = result[0].data.meas
    assert bits.shape == (2, 3)
    ones = bits.slice_bits([1]).expectation_values("Z").real < 0
    assert ones.tolist() == [[False, True, False], [True, False, True]]
    assert (bits.slice_bits([0]).expectation_values("Z") > 0.8).all()


def test_several_registers_and_measurements_in_the_middle(local: IBMQProvider) -> None:
    qubits, early, late = QuantumRegister(2, "q"), ClassicalRegister(1, "early"), ClassicalRegister(2, "late")
    circuit = QuantumCircuit(qubits, early, late)
    circuit.x(0)
    circuit.measure(0, early[0])
    with circuit.if_test((early, 1)):
        circuit.x(1)
    circuit.measure([0, 1], late)
    result = run_circuits(circuit, "fake_torino", local, 200, run_key="registers")
    assert (likeliest(result, 0, "early"), likeliest(result, 0, "late")) == ("1", "11")


def test_backends_come_as_name_record_loaded_record_or_not_at_all(local: IBMQProvider) -> None:
    record = get_backend("fake_manila", local)
    assert record.loaded
    for number, backend in enumerate(("fake_manila", record, None)):
        result = run_circuits([flipped(1)], backend, local, 100, run_key=f"backend {number}")
        job = result[0].metadata["prefect_ibmq"]["job"]
        assert job["backend"] == "fake_manila" or backend is None
        assert likeliest(result, 0) == "010"


def test_execution_options_reach_the_service(local: IBMQProvider) -> None:
    options = {"rep_delay": 0.0003, "init_qubits": True}
    # fake_manila's snapshot is of before rep_delay could be chosen
    result = run_circuits([flipped(0)], "fake_torino", local, 50, run_key="options", options=options)
    assert likeliest(result, 0) == "001"
    for wrong in ({"rep_dly": 1}, {"rep_delay": 1.0}):
        with pytest.raises(InputError, match="rep_d"):
            run_circuits([flipped(0)], "fake_torino", local, 50, run_key="options", options=wrong)


def test_results_equal_what_ibms_decoder_gives_of_the_stored_text(local: IBMQProvider, tmp_path: Path) -> None:
    angle = Parameter("angle")
    turned = QuantumCircuit(2, name="turned")
    turned.rx(angle, 0)
    turned.measure_all()
    circuits = [flipped(0), (turned, [[0.1], [0.2], [3.1]])]
    for program in ("executor", "sampler"):
        store = tmp_path / program
        result = run_circuits(
            circuits, "fake_manila", local, 64, run_key=f"k {program}", program=program, archive=store
        )
        text = next(one_run(store).glob("raw.*")).read_text()
        theirs = ibm.decode_result(program, text)
        assert len(result) == len(theirs) == 2
        assert all(mine.data.meas == other.data.meas for mine, other in zip(result, theirs, strict=True))


def test_a_set_of_many_parts_reads_its_isa_circuits_once(
    local: IBMQProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect_ibmq.transpilation as transpilation

    reads, real = [], transpilation.loads_circuits
    monkeypatch.setattr(transpilation, "loads_circuits", lambda content: reads.append(1) or real(content))
    circuits = [flipped(index % 3, name=f"c{index}") for index in range(12)]
    result = run_circuits(circuits, "fake_manila", local, 20, run_key="many", max_circuits_per_job=1, archive=tmp_path)
    assert [pub.metadata["prefect_ibmq"]["circuit"] for pub in result] == [f"c{index}" for index in range(12)]
    # Prefect's cache reads what it wrote through the same function.
    assert len(reads) <= 2


# --- the same run again ------------------------------------------------------------------------------------------


def test_the_same_run_key_goes_on_with_the_same_jobs(served: Any, tmp_path: Path) -> None:
    provider, before = served.provider(), served.jobs()
    arguments: dict[str, Any] = {"run_key": "again", "archive": tmp_path, "max_circuits_per_job": 1}
    first = run_circuits([flipped(0), flipped(1)], "fake_manila", provider, 100, **arguments)
    assert (served.posts(), served.jobs() - before) == (2, 2)
    served.seen.clear()
    # another backend and packing are asked for, but the plan stands
    again = run_circuits([flipped(0), flipped(1)], "fake_torino", provider, 100, run_key="again", archive=tmp_path)
    assert (served.posts(), served.jobs() - before) == (0, 2)
    assert [pub.data.meas for pub in first] == [pub.data.meas for pub in again]
    assert [p.metadata["prefect_ibmq"]["job"] for p in first] == [p.metadata["prefect_ibmq"]["job"] for p in again]
    # all results are stored, so nothing at all is asked of the service
    assert served.seen == []


@pytest.mark.parametrize(
    "change",
    [{"run_key": "other"}, {"repetition": 1}, {"shots": 101}, {"options": {"init_qubits": False}}],
    ids=["run_key", "repetition", "shots", "options"],
)
def test_other_work_makes_other_jobs(served: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    before = served.jobs()
    # A new folder alone makes no new job: the set is found by its tag.
    arguments: dict[str, Any] = {"shots": 100, "run_key": f"one {sorted(change)}", "archive": tmp_path}
    run_circuits([flipped(0)], "fake_manila", served.provider(), **arguments)
    run_circuits([flipped(0)], "fake_manila", served.provider(), **(arguments | change))
    assert served.jobs() - before == 2


def test_outside_of_a_flow_a_run_key_is_needed(served: Any) -> None:
    before = served.jobs()
    for call in (run_circuits, submit_job):
        with pytest.raises(InputError, match="run_key"):
            call([flipped(0)], "fake_manila", served.provider())
    with pytest.raises(InputError, match="run_key"):
        run_circuits([flipped(0)], "fake_manila", served.provider(), run_key="  ")
    assert (served.posts(), served.jobs()) == (0, before)


def test_submit_job_gives_the_same_handle_again_and_takes_one_job_only(served: Any, tmp_path: Path) -> None:
    provider = served.provider()
    circuits = isa(provider, flipped(0), flipped(1))
    arguments: dict[str, Any] = {"shots": 10, "run_key": "single", "archive": tmp_path}
    first = submit_job(circuits, "fake_manila", provider, name="night", tags=["a", "b"], **arguments)
    again = submit_job(circuits, "fake_manila", provider, **arguments)
    assert (first, served.posts()) == (again, 1)
    assert (first.first, first.last, first.simulated, first.page) == (0, 1, True, None)
    with pytest.raises(InputError, match="need 2 jobs"):
        submit_job([(circuits[0], None, 5), (circuits[1], None, 6)], "fake_manila", provider, run_key="two")
    with pytest.raises(InputError, match="nme"):
        submit_job(circuits, "fake_manila", provider, run_key="typo", nme="night")
    assert served.posts() == 1


# --- within flows ------------------------------------------------------------------------------------------------


async def test_run_key_is_the_root_flow_runs_id_wherever_it_is_asked_for(local: IBMQProvider, tmp_path: Path) -> None:
    from prefect.runtime import flow_run

    @task
    async def key_in_task(number: int) -> str:
        run = await aopen_run.fn([flipped(0)], local, archive=tmp_path, repetition=number)
        return run.run_key

    @flow
    async def inner() -> list[str]:
        opened = await aopen_run([flipped(0)], local, archive=tmp_path, repetition=1)
        return [opened.run_key, await key_in_task(2)]

    @flow
    async def outer() -> tuple[str, list[str]]:
        opened = await aopen_run([flipped(0)], local, archive=tmp_path)
        return str(flow_run.id), [opened.run_key, await key_in_task(3), *await inner()]

    root, keys = await outer()
    assert keys == [root] * 4


async def test_a_retried_flow_meets_its_own_jobs_and_a_new_one_makes_its_own(served: Any, tmp_path: Path) -> None:
    tries = []

    @flow(retries=1)
    async def inner() -> str:
        result = await arun_circuits([flipped(1)], "fake_manila", served.provider(), 20, archive=tmp_path)
        tries.append(result[0].metadata["prefect_ibmq"]["job"]["job_id"])
        if len(tries) in (1, 2):
            raise RuntimeError("after the job was paid for")
        return tries[-1]

    @flow(retries=1)
    async def outer() -> str:
        return await inner()

    before = served.jobs()
    await outer()
    assert (len(tries), len(set(tries)), served.jobs() - before) == (3, 1, 1)
    await outer()
    assert (len(set(tries)), served.jobs() - before) == (2, 2)


async def test_the_same_set_twice_in_a_flow_run_is_refused_unless_it_is_meant(served: Any, tmp_path: Path) -> None:
    provider = served.provider()

    def run(**more: Any) -> Any:
        return arun_circuits([flipped(1)], "fake_manila", provider, 20, archive=tmp_path, **more)

    @flow
    async def twice() -> list[str]:
        first = await run()
        with pytest.raises(InputError, match=r"repetition=1, 2, .*share=True"):
            await run()
        shared = await run(share=True)
        repeated = await run(repetition=1)
        return [each[0].metadata["prefect_ibmq"]["job"]["job_id"] for each in (first, shared, repeated)]

    before = served.jobs()
    first, shared, repeated = await twice()
    assert first == shared != repeated
    assert served.jobs() - before == 2


async def test_calling_again_after_a_failure_is_no_second_order(served: Any, tmp_path: Path) -> None:
    @flow
    async def stubborn() -> Any:
        with pytest.raises(ServiceError):
            await arun_circuits([flipped(1)], "fake_manila", served.provider(), 20, archive=tmp_path)
        return await arun_circuits([flipped(1)], "fake_manila", served.provider(), 20, archive=tmp_path)

    before = served.jobs()
    served.fail("POST", "/jobs", refusing(1208))
    assert likeliest(await stubborn(), 0) == "010"
    assert (served.posts(), served.jobs() - before) == (2, 1)


def test_sync_doors_in_sync_flows_and_submitted_to_threads(served: Any, tmp_path: Path) -> None:
    provider = served.provider()

    @flow
    def sync_flow() -> list[str]:
        direct = run_circuits([flipped(0)], "fake_manila", provider, 50, archive=tmp_path)
        futures = [
            run_circuits.submit([flipped(*qubits)], "fake_manila", provider, 50, archive=tmp_path)
            for qubits in ((1,), (2,))
        ]
        return [likeliest(each, 0) for each in (direct, *(future.result() for future in futures))]

    assert sync_flow() == ["001", "010", "100"]
    assert served.posts() == 3


async def test_async_doors_gathered_in_an_async_flow(served: Any, tmp_path: Path) -> None:
    @flow
    async def async_flow() -> list[str]:
        runs = [
            arun_circuits([flipped(each)], "fake_manila", served.provider(), 50, archive=tmp_path) for each in (0, 2)
        ]
        return [likeliest(each, 0) for each in await asyncio.gather(*runs)]

    assert await async_flow() == ["001", "100"]


async def test_sync_doors_in_an_async_flow_and_beside_a_running_loop(served: Any, tmp_path: Path) -> None:
    @flow
    async def mixed() -> str:
        return likeliest(run_circuits([flipped(1)], "fake_manila", served.provider(), 50, archive=tmp_path), 0)

    assert await mixed() == "010"
    result = run_circuits([flipped(2)], "fake_manila", served.provider(), 50, archive=tmp_path, run_key="notebook")
    assert likeliest(result, 0) == "100"


# --- lost answers ------------------------------------------------------------------------------------------------


async def answer_lost(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """The service takes the job, and its answer is cut."""
    await app(scope, receive, _nowhere)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b'{"id": "d'})


async def nothing_taken(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Something before the service answers, and the service has seen nothing."""
    await receive()
    await send({"type": "http.response.start", "status": 502, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<html>Bad gateway</html>"})


def refusing(code: int) -> Any:
    """The service itself refuses, which proves that nothing was taken."""

    async def refused(app: Any, scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps({"errors": [{"code": code, "message": "no"}], "trace": "t"}).encode()
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return refused


async def _nowhere(message: Any) -> None:
    del message


async def planned(provider: IBMQProvider, store: Path, key: str, *circuits: QuantumCircuit) -> tuple[Run, Any]:
    run = await aopen_run(list(circuits), provider, shots=20, run_key=key, archive=store)
    backend = await aget_backend("fake_manila", provider)
    return run, await aplan_run(run, backend, await atranspile_circuits(run.inputs, backend, provider), provider)


@pytest.mark.parametrize(("fault", "posts"), [(answer_lost, 1), (nothing_taken, 2)], ids=["taken", "not taken"])
async def test_an_unclear_post_is_looked_up_before_it_is_sent_again(
    served: Any, tmp_path: Path, fault: Any, posts: int
) -> None:
    provider, before = served.provider(), served.jobs()
    run, plan = await planned(provider, tmp_path, f"unclear {posts}", flipped(0))
    served.fail("POST", "/jobs", fault)
    served.seen.clear()
    handle = await asubmit_part(run, plan.parts[0], provider)
    assert served.seen.index(("GET", "/jobs")) > served.seen.index(("POST", "/jobs"))
    assert served.posts() == posts
    assert served.jobs() - before == 1
    assert handle == await asubmit_part(run, plan.parts[0], provider)


async def test_prefects_retries_do_not_post_again(served: Any, tmp_path: Path) -> None:
    def always(_task: Any, _run: Any, _state: Any) -> bool:
        return True

    provider, before = served.provider(), served.jobs()
    run, plan = await planned(provider, tmp_path, "retried", flipped(0))
    served.fail("POST", "/jobs", answer_lost)
    handle = await asubmit_part.with_options(retries=2, retry_condition_fn=always)(run, plan.parts[0], provider)
    assert (served.posts(), served.jobs() - before) == (1, 1)
    assert handle.created is not None

    fails = iter([True, True, False])

    @task(retries=2)
    async def submit_and_fall() -> Any:
        handle = await asubmit_part.fn(run, plan.parts[0], provider)
        if next(fails):
            raise RuntimeError("after the submission")
        return handle

    @flow
    async def falling() -> Any:
        return await submit_and_fall()

    assert (await falling()).job_id == handle.job_id
    assert (served.posts(), served.jobs() - before) == (1, 1)


async def test_unclear_for_good_is_an_error_and_not_retried_by_itself(served: Any, tmp_path: Path) -> None:
    provider = served.provider()
    run, plan = await planned(provider, tmp_path, "not retried", flipped(0))
    served.fail("POST", "/jobs", nothing_taken, times=10)
    with pytest.raises(SubmissionUnclear, match="run key") as caught:
        await asubmit_part.with_options(retries=3)(run, plan.parts[0], provider)
    assert run.set_key in caught.value.key
    assert served.posts() == 3
    served.faults.clear()
    before = served.jobs()
    await asubmit_part(run, plan.parts[0], provider)
    assert served.jobs() - before == 1


async def test_a_refusal_leaves_nothing_to_settle(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = served.provider()
    run, plan = await planned(provider, tmp_path, "refused", flipped(0))
    served.fail("POST", "/jobs", refusing(1012))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_SETTLE_SECONDS", "60")
    began = time.monotonic()
    # PendingLimit says that waiting helps, so it is posted again soon, with nothing to settle
    await asubmit_part(run, plan.parts[0], provider)
    assert time.monotonic() - began < 20
    assert served.posts() == 2


async def test_an_old_intent_is_looked_up_at_once(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, before = served.provider(), served.jobs()
    run, plan = await planned(provider, tmp_path, "old", flipped(0))
    handle = await asubmit_part(run, plan.parts[0], provider)
    folder = one_run(tmp_path)
    (folder / "handle.0-0.1.json").unlink()
    old = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    (folder / "intent.0-0.1.json").write_text(json.dumps({"part": "0-0", "attempt": 1, "at": old}))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_SETTLE_SECONDS", "60")
    began = time.monotonic()
    assert (await asubmit_part(run, plan.parts[0], provider)).job_id == handle.job_id
    assert time.monotonic() - began < 20
    assert (served.posts(), served.jobs() - before) == (1, 1)


@pytest.mark.parametrize("damage", [b"", b'{"job_id"', b"\x00\xff"], ids=["empty", "cut", "noise"])
async def test_damaged_records_cost_no_second_job(served: Any, tmp_path: Path, damage: bytes) -> None:
    provider, before = served.provider(), served.jobs()
    run, plan = await planned(provider, tmp_path, f"damaged {damage!r}", flipped(0))
    handle = await asubmit_part(run, plan.parts[0], provider)
    for file in ("handle.0-0.1.json", "intent.0-0.1.json"):
        (one_run(tmp_path) / file).write_bytes(damage)
    assert (await asubmit_part(run, plan.parts[0], provider)).job_id == handle.job_id
    assert (served.posts(), served.jobs() - before) == (1, 1)


async def test_a_cancelled_caller_still_writes_down_what_it_posted(served: Any, tmp_path: Path) -> None:
    taken = threading.Event()

    async def slow(app: Any, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.4)
        await app(scope, receive, send)
        taken.set()

    provider, before = served.provider(), served.jobs()
    run, plan = await planned(provider, tmp_path, "cancelled", flipped(0))
    served.fail("POST", "/jobs", slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asubmit_part.fn(run, plan.parts[0], provider), 0.2)
    assert await asyncio.to_thread(taken.wait, 20)
    # the answer may still be on its way to the handle's file, which is what settling is for
    await asubmit_part(run, plan.parts[0], provider)
    assert run.handle(plan.parts[0]) is not None
    assert (served.posts(), served.jobs() - before) == (1, 1)


async def test_a_part_without_a_plan_is_refused(local: IBMQProvider, tmp_path: Path) -> None:
    run = await aopen_run([flipped(0)], local, run_key="planless", archive=tmp_path)
    with pytest.raises(InputError, match="plan_run"):
        await asubmit_part(run, Part(first=0, last=0, shots=20), local)
    assert open_archive(tmp_path).storage.entries("runs") == []


@pytest.mark.parametrize(
    ("status", "code", "attempt", "resubmit", "again"),
    [
        ("Unknown", None, 1, None, True),
        ("Unknown", None, 2, None, False),  # a job that vanishes again and again is not paid for without end
        ("Unknown", None, 2, "failed", True),
        ("Failed", 5203, 1, None, True),
        ("Failed", 5203, 2, None, False),
        ("Failed", 1517, 1, None, False),
        ("Cancelled", None, 1, None, False),
        ("Cancelled", None, 1, "cancelled", True),
        ("Ran too long", 1305, 1, None, False),
    ],
)
def test_a_part_is_run_again_within_one_budget(
    status: str, code: int | None, attempt: int, resubmit: str | None, again: bool
) -> None:
    end = End(job_id="job", status=JobStatus(status), code=code)
    assert runs_again(end, attempt, 1, resubmit) is again


# --- a run key that is used again ---------------------------------------------------------------------------------

NAMESAKE = "has another set already"


@task
def run_it(circuit: QuantumCircuit, local: IBMQProvider, store: Path) -> None:
    run_circuits.fn(circuit, "fake_manila", local, 50, run_key="again", archive=store)


def test_a_retry_that_draws_other_circuits_is_warned_of(
    local: IBMQProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "prefect.task_runs")
    drawn = iter([flipped(0), flipped(1)])

    @flow(retries=1)
    def draws_anew() -> None:
        attempt = next(drawn)
        run_it(attempt, local, tmp_path)
        assert attempt == flipped(1), "the first attempt fails"

    draws_anew()
    assert caplog.text.count(NAMESAKE) == 1


def test_two_sets_of_one_attempt_are_nothing_to_warn_of(
    local: IBMQProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "prefect.task_runs")
    attempts = iter([1, 2])

    @flow(retries=1)
    def runs_two() -> None:
        run_it(flipped(0), local, tmp_path)
        run_it(flipped(1), local, tmp_path)
        assert next(attempts) == 2, "the first attempt fails"

    runs_two()
    assert NAMESAKE not in caplog.text


def test_a_new_process_with_other_circuits_is_warned_of(
    local: IBMQProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it.fn(flipped(0), local, tmp_path)
    monkeypatch.setattr("prefect_ibmq.run_keys._taken_up", {})  # what another process knows
    run_it.fn(flipped(0), local, tmp_path)
    assert NAMESAKE not in caplog.text
    monkeypatch.setattr("prefect_ibmq.run_keys._taken_up", {})
    run_it.fn(flipped(1), local, tmp_path)
    assert caplog.text.count(NAMESAKE) == 1
    assert "'again'" in caplog.text


def test_no_set_has_a_plan_that_its_run_key_does_not_know(local: IBMQProvider, tmp_path: Path) -> None:
    (tmp_path / "run_keys").write_text("in the way")
    with pytest.raises(ArchiveError, match="run_keys"):
        run_it.fn(flipped(0), local, tmp_path)
    assert not list(tmp_path.glob("runs/*/plan.json"))


def test_a_set_that_was_never_planned_is_nothing_to_warn_of(
    local: IBMQProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it.fn(flipped(0), local, tmp_path)
    (plan,) = tmp_path.glob("runs/*/plan.json")
    plan.unlink()  # as if the process had died just before it was written
    monkeypatch.setattr("prefect_ibmq.run_keys._taken_up", {})
    run_it.fn(flipped(1), local, tmp_path)
    assert NAMESAKE not in caplog.text
