"""Sessions and batches: opened once, closed on every path, and sent nothing that they cannot run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_jobs import FLIP

from prefect_ibmq import (
    InputError,
    NotOffered,
    ServiceError,
    SessionClosed,
    SubmissionUnclear,
    acancel_session,
    cancel_session,
    open_session,
    submit_job,
    wait_for_job,
)
from prefect_ibmq.embedded import Instance
from prefect_ibmq.sessions import is_session_error

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:0-1::"


def sessions(service: Any) -> list[Any]:
    return service.service.store.sessions(service.service.crn)  # type: ignore[no-any-return]


def states(service: Any) -> list[str]:
    return [session.state for session in sessions(service)]


def submit(service: Any, session: Any, **more: Any) -> Any:
    given: Any = {"provider": service.provider, "shots": 10, "run_key": "k", "session_id": session.id} | more
    return submit_job(FLIP, "fake_manila", **given)


def test_a_batch_is_open_in_its_block_and_closed_after_it(ibmq_service: Any) -> None:
    with open_session(ibmq_service.provider, "fake_manila", max_time="1h 30m") as batch:
        assert repr(batch) == f"IBMQSession({batch.id!r}, 'fake_manila', mode='batch')"
        handle = submit(ibmq_service, batch)
        wait_for_job(handle, provider=ibmq_service.provider)
        told = batch.details()
        assert (told.mode, told.backend, told.max_ttl, told.state) == ("batch", "fake_manila", 5400, "active")
        assert told.accepting_jobs
        [job] = ibmq_service.jobs()
        assert job.session_id == batch.id
    assert states(ibmq_service) == ["closed"]
    assert batch.details().state == "closed"
    with pytest.raises(SessionClosed, match="Run it without a session"):
        submit(ibmq_service, batch, run_key="late")
    assert len(ibmq_service.jobs()) == 1


async def test_an_exception_and_a_cancellation_close_it(ibmq_service: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_session(ibmq_service.provider, "fake_manila", mode="dedicated"):
            raise ZeroDivisionError

    inside = asyncio.Event()

    async def waits() -> None:
        async with open_session(ibmq_service.provider, "fake_manila"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.wait_for(inside.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert states(ibmq_service) == ["closed", "closed"]
    assert {session.mode for session in sessions(ibmq_service)} == {"batch", "dedicated"}


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_one_that_is_cancelled_while_it_opens_is_closed(ibmq_service: Any) -> None:
    ibmq_service.faults.on("POST /sessions", answer="own", delay=0.5, times=1)

    async def opens() -> None:
        async with open_session(ibmq_service.provider, "fake_manila"):
            await asyncio.Event().wait()

    task = asyncio.create_task(opens())
    await _until(lambda: bool(ibmq_service.counts.get("POST /sessions")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(lambda: states(ibmq_service) == ["closed"])


SCRIPT = """
import asyncio, os, sys
from prefect.utilities.engine import capture_sigterm
from prefect_ibmq import open_session

def opened():
    return open_session(None, "fake_manila")

def sync():
    with capture_sigterm(), opened() as batch:
        print(batch.id, flush=True)
        import time
        time.sleep(300)

async def asynchronous():
    with capture_sigterm():
        async with opened() as batch:
            print(batch.id, flush=True)
            await asyncio.sleep(300)

def ends():
    print(opened().__enter__().id, flush=True)

{"sync": sync, "async": lambda: asyncio.run(asynchronous()), "ends": ends}[sys.argv[1]]()
"""


@pytest.mark.parametrize("how", ["sync", "async", "ends"])
def test_the_end_of_the_process_closes_it(ibmq_server: Any, tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    env = {**os.environ, **ibmq_server.env}
    process = subprocess.Popen([sys.executable, str(script), how], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    session_id = process.stdout.readline().strip()
    assert session_id
    if how != "ends":
        assert states(ibmq_server) == ["open"]
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    [session] = sessions(ibmq_server)
    assert (session.id, session.state) == (session_id, "closed")


def test_cancelling_keeps_queued_jobs_from_running(ibmq_services: Any) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)
    with open_session(service.provider, "fake_manila") as batch:
        submit(service, batch)
        batch.cancel()
    assert [job.status for job in service.jobs()] == ["Failed"]
    with open_session(service.provider, "fake_manila") as other:
        cancel_session(other.id, service.provider)
        cancel_session("gone-long-ago", service.provider)
    assert states(service) == ["closed", "closed"]
    with pytest.raises(InputError, match="no session"):
        cancel_session(" ", service.provider)


async def test_cancelling_by_the_async_door(ibmq_service: Any) -> None:
    async with open_session(ibmq_service.provider, "fake_manila") as batch:
        await acancel_session(batch)
        assert (await batch.adetails()).state == "closed"
        await batch.acancel()


def test_a_dedicated_session_on_the_open_plan_is_refused_before_it_is_posted(ibmq_services: Any) -> None:
    service = ibmq_services(instances=(Instance(crn=CRN, plan="open"),))
    with pytest.raises(NotOffered, match="mode='batch'"), open_session(service.provider, "fake_manila", "dedicated"):
        pytest.fail("it is not offered")
    assert "POST /sessions" not in service.counts
    with open_session(service.provider, "fake_manila"):
        pass
    # Where the search says nothing of plans, the service has the word.
    service.faults.on("POST /v3/resources/search", answer="error", status=403)
    with pytest.raises(ServiceError, match="1352"), open_session(service.provider, "fake_manila", "dedicated"):
        pytest.fail("it is not offered")


def test_a_job_that_could_not_start_in_time_is_not_sent(ibmq_services: Any) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)
    with open_session(service.provider, "fake_manila", max_time=3600) as batch:
        submit(service, batch, run_key="first")
        service.service.store.change_session(batch.id, state="active", activated_at=service.clock() - 3599)
        with pytest.raises(SessionClosed, match=r"1 s are left of it, and the jobs in it take about 2 s"):
            submit(service, batch, run_key="second")
        service.clock.advance(2)
        with pytest.raises(SessionClosed, match="it is closed"):
            submit(service, batch, run_key="third")
    assert service.counts["POST /jobs"] == 1


def test_a_job_of_another_backend_or_session_is_not_sent(ibmq_service: Any) -> None:
    with open_session(ibmq_service.provider, "fake_torino") as batch:
        with pytest.raises(InputError, match="is on fake_torino"):
            submit(ibmq_service, batch)
        with pytest.raises(SessionClosed, match="does not know it") as caught:
            submit(ibmq_service, batch, session_id="no-such-session")
    assert is_session_error(caught.value)
    assert caught.value.session_id == "no-such-session"
    assert ibmq_service.jobs() == []


def test_what_only_concerns_the_session_is_told_apart() -> None:
    assert is_session_error(ServiceError("closed", status=400, code=1217))
    assert not is_session_error(ServiceError("no", status=400, code=1208))
    assert not is_session_error(ValueError("closed"))


@pytest.mark.parametrize(
    ("answer", "work_done"),
    [("lost", True), ("lost", False), ("html", True), ("html", False), ("error", True), ("cut_json", True)],
)
def test_a_lost_answer_leaves_one_session_which_is_closed(ibmq_service: Any, answer: str, work_done: bool) -> None:
    with open_session(ibmq_service.provider, "fake_manila"):  # an older one, which is not taken for it
        ibmq_service.faults.on("POST /sessions", answer=answer, work_done=work_done, times=1)
        with open_session(ibmq_service.provider, "fake_manila", max_time=600) as batch:
            found = sessions(ibmq_service)
            assert [session.state for session in found] == ["open", "open"]
            assert batch.id in [session.id for session in found]
    assert states(ibmq_service) == ["closed", "closed"]
    ibmq_service.faults.assert_all_fired()


def test_several_that_look_alike_are_left_alone(ibmq_service: Any) -> None:
    ibmq_service.faults.on("POST /sessions", answer="lost", work_done=True, times=1)
    store = ibmq_service.service.store
    add = store.add_session

    def add_two(session: Any) -> None:
        add(session)
        add(replace(session, id=f"{session.id}-of-another-process"))

    store.add_session = add_two
    with (
        pytest.raises(SubmissionUnclear, match="closes by itself"),
        open_session(ibmq_service.provider, "fake_manila"),
    ):
        pytest.fail("nobody can say which is ours")
    assert states(ibmq_service) == ["open", "open"]
    assert ibmq_service.counts["POST /sessions"] == 1


def test_a_close_that_fails_is_told_and_costs_no_other_error(ibmq_service: Any) -> None:
    ibmq_service.faults.on("PATCH /sessions/{id}", answer="error", status=400)
    with pytest.raises(ZeroDivisionError) as caught, open_session(ibmq_service.provider, "fake_manila"):
        raise ZeroDivisionError
    assert "could not be closed" in caught.value.__notes__[0]
    with pytest.raises(ServiceError), open_session(ibmq_service.provider, "fake_manila"):
        pass
    for session in sessions(ibmq_service):  # else they would be tried again when this process ends
        cancel_session(session.id, ibmq_service.provider)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"mode": "interactive"}, "batch"),
        ({"backend": None}, "no backend"),
        ({"backend": " "}, "no backend"),
        ({"max_time": 0}, "no duration"),
        ({"max_time": "soon"}, "no duration"),
        ({"max_time": ""}, "no duration"),
        ({"max_time": True}, "no duration"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_session(**({"provider": "nobody", "backend": "fake_manila"} | arguments))


def test_one_that_is_not_open_has_no_id_and_opens_once(ibmq_service: Any) -> None:
    session = open_session(ibmq_service.provider, "fake_manila")
    with pytest.raises(InputError, match="not open"):
        _ = session.id
    with session:
        pass
    with pytest.raises(InputError, match="before"), session:
        pytest.fail("it was opened before")


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90", 90), ("1h 2m 3s", 3723), ("5min", 300), (7, 7)])
def test_durations_are_read(text: Any, seconds: int) -> None:
    assert open_session(None, "fake_manila", max_time=text).max_time == seconds
