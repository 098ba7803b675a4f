"""One job: submitted, watched, fetched, cancelled; and what is stored of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

from prefect_ibmq import (
    DeadlineExceeded,
    IBMQProvider,
    InputError,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobHandle,
    JobNotFinished,
    JobRanTooLong,
    NotFound,
    ResultUnreadable,
    acancel_job,
    afetch_result,
    asubmit_job,
    await_for_job,
    cancel_job,
    fetch_result,
    submit_job,
    transpile_circuits,
    wait_for_job,
)
from prefect_ibmq.circuits import load_circuits

pytestmark = pytest.mark.usefixtures("prefect_server")

Answer = Callable[[Any, Any, Any, Any], Awaitable[None]]


def says(
    payload: Any = None, *, status: int = 200, body: bytes | None = None, kind: str = "application/json"
) -> Answer:
    """An answer of somebody else than the service."""

    async def act(app: Any, scope: Any, receive: Any, send: Any) -> None:
        content = json.dumps(payload).encode() if body is None else body
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]})
        await send({"type": "http.response.body", "body": content})

    return act


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, name="bell")
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


@pytest.fixture(scope="module")
def isa_bell(served_session: Any, prefect_server: None) -> QuantumCircuit:
    (done,) = transpile_circuits(bell(), "fake_manila", served_session.provider(), optimization_level=0)
    return done


@pytest.fixture
def submit(served: Any, isa_bell: QuantumCircuit, tmp_path: Path) -> Callable[..., JobHandle]:
    def call(run_key: str, **more: Any) -> JobHandle:
        handle: JobHandle = submit_job(
            isa_bell, "fake_manila", served.provider(), shots=100, run_key=run_key, archive=tmp_path, **more
        )
        return handle

    return call


@pytest.fixture
def stuck(served_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are submitted now stay queued."""
    from dataclasses import replace

    monkeypatch.setattr(served_session.service, "options", replace(served_session.service.options, queue_seconds=3600))


def test_a_job_is_found_by_handle_by_its_json_and_by_its_id(submit: Any, served: Any, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    handle = submit("found")
    done = wait_for_job(handle, served.provider(), archive=tmp_path)
    assert done.created is not None
    assert began.replace(microsecond=0) <= done.created <= datetime.now(UTC)
    assert done.model_copy(update={"created": None}) == handle
    results = [
        fetch_result(each, served.provider(), archive=tmp_path)
        for each in (done, handle, handle.to_json(), handle.job_id, f" {handle.job_id} ")
    ]
    assert all(each[0].data.meas == results[0][0].data.meas for each in results)
    stamps = [each[0].metadata["prefect_ibmq"] for each in results]
    assert {stamp["circuit"] for stamp in stamps} == {"bell"}  # travels in the circuit's metadata
    assert {stamp["job"]["created"] for stamp in stamps} == {done.model_dump(mode="json")["created"]}
    assert all(stamp["job"]["simulated"] for stamp in stamps)
    assert all(began <= stamp["executed"] <= datetime.now(UTC) for stamp in stamps)


def test_a_handle_is_small_plain_json_and_holds_no_secret(submit: Any, served: Any) -> None:
    handle = submit("plain")
    told = json.loads(handle.to_json())
    assert told["job_id"] == handle.job_id
    assert told["instance"] == served.service.crn
    assert len(handle.to_json()) < 2000
    assert JobHandle.from_json(handle.to_json()) == handle


@pytest.mark.parametrize("job", ["", "  ", '{"job_id": 3}', None, 7])
def test_what_is_no_job_is_refused(served: Any, job: Any) -> None:
    with pytest.raises(InputError, match="job"):
        fetch_result(job, served.provider())


def test_the_stored_result_is_read_when_the_service_has_forgotten_the_job(
    submit: Any, served: Any, tmp_path: Path
) -> None:
    handle = submit("forgotten")
    first = fetch_result(wait_for_job(handle, served.provider(), archive=tmp_path), served.provider(), archive=tmp_path)
    served.service.store.delete_job(handle.job_id)
    served.seen.clear()
    done = wait_for_job(handle, served.provider(), archive=tmp_path)
    again = fetch_result(done, served.provider(), archive=tmp_path)
    assert first[0].data.meas == again[0].data.meas
    assert first[0].metadata["prefect_ibmq"]["job"] == again[0].metadata["prefect_ibmq"]["job"]
    assert served.seen == []


def test_waiting_ends_at_its_deadline_and_the_job_goes_on(submit: Any, served: Any, stuck: None) -> None:
    handle = submit("slow")
    with pytest.raises(DeadlineExceeded, match=rf"{handle.job_id}.*0\.2 s.*goes on"):
        wait_for_job(handle, served.provider(), timeout=0.2)
    with pytest.raises(JobNotFinished, match=handle.job_id):
        fetch_result(handle, served.provider())
    assert cancel_job(handle, served.provider()) is True
    assert cancel_job(handle.job_id, served.provider()) is False
    with pytest.raises(JobCancelled, match=handle.job_id) as caught:
        wait_for_job(handle, served.provider())
    assert caught.value.job_id == handle.job_id
    with pytest.raises(JobCancelled):
        fetch_result(handle, served.provider())


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ({"status": "Failed", "reason": "no luck", "reason_code": 1517}, JobFailed, "1517.*no luck"),
        ({"status": "Cancelled", "reason_code": 1305}, JobRanTooLong, "maximum execution time"),
        ({"status": "Cancelled"}, JobCancelled, "was cancelled"),
    ],
    ids=["failed", "ran too long", "cancelled"],
)
def test_an_end_without_a_result_is_an_error_that_says_why(
    submit: Any, served: Any, state: dict[str, Any], error: type[JobEnded], told: str
) -> None:
    handle = submit(f"ends {error.__name__}")
    word = "Cancelled - Ran too long" if error is JobRanTooLong else state["status"]
    payload = {"id": handle.job_id, "backend": "fake_manila", "program": {"id": "executor"}, "status": word}
    served.fail("GET", f"/jobs/{handle.job_id}", says(payload | {"created": "2026-11-20T00:00:00Z", "state": state}))
    with pytest.raises(error, match=told) as caught:
        wait_for_job(handle.job_id, served.provider())
    assert (caught.value.job_id, caught.value.retryable) == (handle.job_id, False)


def test_a_failed_job_is_told_even_if_its_traceback_cannot_be_had(submit: Any, served: Any) -> None:
    handle = submit("silent failure")
    payload = {"id": handle.job_id, "backend": "b", "program": {"id": "executor"}, "status": "Failed"}
    served.fail("GET", f"/jobs/{handle.job_id}/results", says(status=404, body=b"<html>no</html>", kind="text/html"))
    served.fail("GET", f"/jobs/{handle.job_id}", says(payload | {"created": "2026-11-20T00:00:00Z"}))
    with pytest.raises(JobFailed, match=handle.job_id):
        wait_for_job(handle.job_id, served.provider())
    served.faults.clear()
    served.fail(
        "GET", f"/jobs/{handle.job_id}/results", says(body=b"...\nTraceback: qubit fell off", kind="text/plain")
    )
    served.faults.insert(0, ("GET", f"/jobs/{handle.job_id}", says(payload | {"created": "2026-11-20T00:00:00Z"})))
    with pytest.raises(JobFailed, match="qubit fell off"):
        wait_for_job(handle.job_id, served.provider())


def test_an_unknown_status_is_waited_on_and_an_unshown_job_is_borne_with(submit: Any, served: Any) -> None:
    handle = submit("odd words")
    missing = {"errors": [{"code": 1291, "message": "Job not found."}], "trace": "t"}
    path = f"/jobs/{handle.job_id}"
    served.fail("GET", path, says(missing, status=404), times=2)
    odd = {"id": handle.job_id, "backend": "b", "program": {"id": "executor"}, "status": "Pondering"}
    served.fail("GET", path, says(odd | {"created": "2026-11-20T00:00:00Z"}))
    assert wait_for_job(handle, served.provider()).created is not None
    with pytest.raises(NotFound):
        wait_for_job("d000000000000000000g", served.provider())


def test_a_private_result_is_asked_for_once(submit: Any, served: Any, tmp_path: Path) -> None:
    handle = submit("private", private=True)
    assert handle.private
    done = wait_for_job(handle, served.provider(), archive=tmp_path)
    first = fetch_result(done, served.provider(), archive=tmp_path)
    again = fetch_result(done, served.provider(), archive=tmp_path)
    assert first[0].data.meas == again[0].data.meas
    assert served.seen.count(("GET", f"/jobs/{handle.job_id}/results")) == 1
    with pytest.raises(JobEnded, match="private job gives its result once"):
        fetch_result(done, served.provider(), archive=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "text", [b'{"data": [', b"not json", b"<p>down</p>", b"{}"], ids=["cut", "text", "page", "empty"]
)
def test_a_result_text_is_stored_before_it_is_decoded_and_asked_for_again_if_it_cannot_be(
    submit: Any, served: Any, tmp_path: Path, text: bytes
) -> None:
    handle = wait_for_job(submit(f"garbled {text!r}"), served.provider())
    path = f"/jobs/{handle.job_id}/results"
    served.fail("GET", path, says(body=text), times=5)  # less is mended at once
    with pytest.raises(ResultUnreadable, match=rf"{handle.job_id}.*stored; nothing is lost"):
        fetch_result(handle, served.provider(), archive=tmp_path)
    (stored,) = tmp_path.glob("runs/*/raw.*.json")
    assert stored.read_bytes() == text
    # the service has it still
    result = fetch_result(handle, served.provider(), archive=tmp_path)
    assert sum(result[0].data.meas.get_counts().values()) == 100
    assert {file.read_bytes() == text for file in tmp_path.glob("runs/*/raw.*")} == {True, False}
    asked = served.seen.count(("GET", path))
    fetch_result(handle, served.provider(), archive=tmp_path)
    assert served.seen.count(("GET", path)) == asked


def test_a_result_that_comes_garbled_once_is_asked_for_again(submit: Any, served: Any, tmp_path: Path) -> None:
    handle = wait_for_job(submit("garbled once"), served.provider())
    path = f"/jobs/{handle.job_id}/results"
    served.fail("GET", path, says(body=b"not json"))
    result = fetch_result(handle, served.provider(), archive=tmp_path)
    assert sum(result[0].data.meas.get_counts().values()) == 100
    assert served.seen.count(("GET", path)) == 2


def test_a_result_of_another_number_of_circuits_is_refused(submit: Any, served: Any, tmp_path: Path) -> None:
    handle = wait_for_job(submit("too few"), served.provider(), archive=tmp_path)
    fetch_result(handle, served.provider(), archive=tmp_path)
    wider = handle.model_copy(update={"last": 3})
    (stored,) = tmp_path.glob("runs/*/raw.*")
    stored.rename(stored.with_name("raw.0-3.1.json"))
    with pytest.raises(ResultUnreadable, match=r"circuits 0 to 3.*is of 1"):
        fetch_result(wider, served.provider(), archive=tmp_path)


def test_a_result_without_what_its_circuit_measures_is_refused(
    submit: Any, served: Any, isa_bell: QuantumCircuit, tmp_path: Path
) -> None:
    handle = wait_for_job(submit("too few registers"), served.provider(), archive=tmp_path)
    fetch_result(handle, served.provider(), archive=tmp_path, inputs=load_circuits(isa_bell))
    more, wider = isa_bell.copy(), QuantumCircuit(QuantumRegister(3), ClassicalRegister(3, "meas"))
    more.add_register(ClassicalRegister(2, "late"), ClassicalRegister(1, "never measured"))
    with more.if_test((more.clbits[0], 1)):
        more.measure(0, more.cregs[1][1])
    refused = ((more, r"no register 'late'; it has 'meas'"), (wider, r"2 bits of .* 'meas', which has 3"))
    for circuit, said in refused:
        with pytest.raises(ResultUnreadable, match=said + ".*stored; nothing is lost"):
            fetch_result(handle, served.provider(), archive=tmp_path, inputs=load_circuits(circuit))


def test_a_job_of_another_account_or_address_is_not_asked_for(submit: Any, served: Any, local: IBMQProvider) -> None:
    handle = submit("elsewhere")
    for call in (wait_for_job, fetch_result, cancel_job):
        with pytest.raises(InputError, match="provider that it was submitted with"):
            call(handle, local)


async def test_async_doors_and_bare_ids(served: Any, isa_bell: QuantumCircuit, tmp_path: Path) -> None:
    provider = served.provider()

    @flow
    async def several() -> list[Any]:
        handles = await asyncio.gather(
            *(
                asubmit_job(isa_bell, "fake_manila", provider, shots=10, archive=tmp_path, repetition=number)
                for number in range(3)
            )
        )
        done = await asyncio.gather(*(await_for_job(each.job_id, provider, archive=tmp_path) for each in handles))
        return list(await asyncio.gather(*(afetch_result(each, provider, archive=tmp_path) for each in done)))

    results = await several()
    assert [result[0].data.meas.num_shots for result in results] == [10, 10, 10]
    ids = [result[0].metadata["prefect_ibmq"]["job"]["job_id"] for result in results]
    assert len(set(ids)) == 3
    assert await acancel_job(ids[0], provider) is False


def test_each_change_of_status_is_an_event_within_a_run(
    submit: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[tuple[str, str, str]] = []

    def note(event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append((event, resource["prefect.resource.id"], payload["backend"]))

    monkeypatch.setattr("prefect.events.emit_event", note)
    handle = submit("events")
    wait_for_job(handle, served.provider())
    assert emitted[-1] == ("ibmq.job.completed", f"ibmq.job.{handle.job_id}", "fake_manila")
    assert len(emitted) == len(set(emitted))
