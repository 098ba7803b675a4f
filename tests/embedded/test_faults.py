"""Each switch fires, over a real socket and in process, and what our client makes of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from service_calls import STATUS, Make, ask, ended, job, status, submit

from prefect_ibmq import ibm
from prefect_ibmq.embedded.faults import FaultPlan, RouteFault
from prefect_ibmq.embedded.switchboard import Switchboard
from prefect_ibmq.errors import (
    AnswerLost,
    AuthenticationError,
    NotFound,
    NothingSent,
    PendingLimit,
    PermissionDenied,
    RateLimited,
    ServiceError,
    ServiceUnavailable,
    TransportError,
    UnusableAnswer,
)
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.wire.answers import nothing_ran

if TYPE_CHECKING:
    from prefect_ibmq.testing import IBMQService

pytest_plugins = ["prefect_ibmq.testing"]

WAYS = ["ibmq_services", "ibmq_servers"]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """What IBM's package costs to import is not to count against a deadline."""
    ibm.device_configuration("fake_manila")


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire that repeats nothing and does not wait long; a POST writes, which may take a while on a busy machine."""
    values = {"RETRY_ATTEMPTS": "1", "REQUEST_TIMEOUT_SECONDS": "1", "SUBMIT_TIMEOUT_SECONDS": "4"}
    for name, value in {**values, "RESULT_TIMEOUT_SECONDS": "1", "MAX_ANSWER_BYTES": "1000000"}.items():
        monkeypatch.setenv(f"PREFECT_INTEGRATIONS_IBMQ_{name}", value)


@pytest.fixture(params=WAYS, ids=["in process", "socket"])
def make(request: pytest.FixtureRequest, one_try: None) -> Make:
    """Makes services, in process and on a socket."""
    made: Make = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def service(make: Make) -> IBMQService:
    """A service in which nothing runs by itself."""
    return make(queue_seconds=10_000)


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"answer": "lost"}, AnswerLost, "disconnected"),
    ({"answer": "lost", "work_done": True}, AnswerLost, "disconnected"),
    ({"answer": "error"}, ServiceUnavailable, "1999"),
    ({"answer": "error", "status": 500}, ServiceUnavailable, "1000"),
    ({"answer": "error", "status": 429}, RateLimited, ""),
    ({"answer": "error", "status": 400, "code": 3458, "message": "Too many."}, PendingLimit, "Too many"),
    ({"answer": "error", "status": 403}, PermissionDenied, ""),
    ({"answer": "error", "status": 401}, AuthenticationError, ""),
    ({"answer": "html", "status": 403}, UnusableAnswer, "cf-ray"),
    ({"answer": "html", "status": 404}, UnusableAnswer, "cf-ray"),
    ({"answer": "html", "status": 524}, UnusableAnswer, "HTTP 524"),
    ({"answer": "raw", "status": 200}, UnusableAnswer, ""),
    ({"answer": "raw", "status": 520, "body": "error code: 520"}, UnusableAnswer, "HTTP 520"),
    ({"answer": "garbage"}, UnusableAnswer, ""),
    ({"answer": "cut"}, AnswerLost, ""),
    ({"answer": "cut_json"}, UnusableAnswer, ""),
    ({"answer": "bomb", "bomb_bytes": 40_000_000}, UnusableAnswer, "larger than"),
    ({"stall": "header"}, AnswerLost, "within 1 s"),
    ({"stall": "body"}, AnswerLost, "within 1 s"),
    ({"delay": 5}, AnswerLost, "within 1 s"),
    ({"drip": 5}, AnswerLost, "within 1 s"),
]


@pytest.mark.parametrize(("fields", "kind", "text"), FAULTS, ids=[json.dumps(fields) for fields, _, _ in FAULTS])
def test_route_fault_is_what_our_client_sees(
    service: IBMQService, fields: dict[str, Any], kind: type[Exception], text: str
) -> None:
    times = 2 if fields.get("status") == 401 else 1  # a 401 is answered by a newer token, once
    switch = service.faults.on(STATUS, **fields, times=times)
    with pytest.raises(kind) as caught:
        status(service)
    assert text in f"{caught.value} {getattr(caught.value, 'code', '')}"
    assert service.faults.fired == {switch.label: times}
    service.faults.assert_all_fired()
    assert [each.fault for each in service.requests if each.fault] == [switch.label] * times
    assert status(service).operational is True


def test_slow_answers_within_the_deadline_are_answers(service: IBMQService) -> None:
    service.faults.on(STATUS, delay=0.15, drip=0.15)
    status(service)
    started = time.monotonic()
    assert status(service).name == "fake_manila"
    assert time.monotonic() - started >= 0.29


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_seconds_or_a_date(service: IBMQService, as_date: bool) -> None:
    service.faults.on(STATUS, answer="error", status=429, retry_after=30, retry_after_as_date=as_date)
    with pytest.raises(RateLimited) as caught:
        status(service)
    assert caught.value.retry_after == pytest.approx(30, abs=2)


def test_own_answer_can_have_another_status_and_headers(service: IBMQService) -> None:
    service.faults.on(STATUS, status=500, headers={"X-Extra": "1"}, times=1)
    with pytest.raises(TransportError):
        status(service)
    assert service.requests[-1].status == 500


POSTS: list[tuple[dict[str, Any], int, bool]] = [
    ({"answer": "lost"}, 0, False),
    ({"answer": "lost", "work_done": True}, 1, False),
    ({"answer": "error", "status": 504}, 0, False),
    ({"answer": "error", "status": 504, "work_done": True}, 1, False),
    ({"answer": "html", "status": 403, "work_done": True}, 1, False),
    ({"answer": "error", "status": 429}, 0, True),
    ({"answer": "error", "status": 400}, 0, True),
    ({"answer": "cut"}, 1, False),
    ({"stall": "header"}, 1, False),
    ({"answer": "error", "stall": "body"}, 0, False),
]


@pytest.mark.parametrize(("fields", "jobs", "proved"), POSTS, ids=[json.dumps(fields) for fields, _, _ in POSTS])
def test_a_failed_post_leaves_a_job_or_none(
    service: IBMQService, fields: dict[str, Any], jobs: int, proved: bool
) -> None:
    service.faults.on("POST /jobs", **fields, times=1)
    with pytest.raises((ServiceError, TransportError)) as caught:
        submit(service)
    assert nothing_ran(caught.value) is proved
    made = service.jobs()
    assert len(made) == jobs
    assert [each.job_id for each in service.requests if each.route == "POST /jobs"] == (
        [made[0].id] if jobs else [None]
    )
    submit(service)
    assert len(service.jobs()) == jobs + 1
    assert service.counts["POST /jobs"] == 2


def test_refused_connections_prove_that_nothing_was_sent(service: IBMQService) -> None:
    with service.refusing(), pytest.raises(NothingSent):
        submit(service)
    assert service.jobs() == []
    assert submit(service) == service.jobs()[0].id


def test_switches_count_seconds_and_requests(service: IBMQService) -> None:
    service.faults.on(STATUS, answer="error", after=2, times=2)
    seen = []
    for _ in range(6):
        try:
            status(service)
            seen.append("ok")
        except ServiceError:
            seen.append("fault")
    assert seen == ["ok", "ok", "fault", "fault", "ok", "ok"]
    assert [each.status for each in service.requests if each.route == STATUS] == [200, 200, 503, 503, 200, 200]


def test_chance_is_seeded() -> None:
    def hits(seed: int) -> list[bool]:
        faults = Switchboard(FaultPlan(seed=seed, routes=(RouteFault(answer="lost", chance=0.3),)))
        return [faults.begin("GET", "/jobs", "")[1] is not None for _ in range(200)]

    assert hits(5) == hits(5) != hits(6)
    assert 30 < sum(hits(5)) < 90


def test_iam_is_down_for_a_minute(service: IBMQService) -> None:
    service.faults.on("POST /identity/token", answer="html", status=503, for_seconds=60)
    with pytest.raises(NothingSent, match="gave no token"):
        status(service)
    service.clock.advance(61)
    assert status(service).operational
    service.faults.assert_all_fired()


def test_revoked_token_is_replaced_once(service: IBMQService) -> None:
    status(service)
    service.faults.on(STATUS, answer="revoked", times=1)
    assert status(service).operational
    assert [each.status for each in service.requests] == [200, 200, 401, 200, 200]
    assert service.counts["POST /identity/token"] == 2
    service.faults.revoke_tokens()
    assert status(service).operational
    assert service.counts["POST /identity/token"] == 3


def test_token_expires_as_the_clock_says(service: IBMQService) -> None:
    status(service)
    service.clock.advance(3601)
    status(service)
    assert service.counts["POST /identity/token"] == 2


# Lists and visibility


def _listed(service: IBMQService, **query: Any) -> list[Any]:
    return list(ask(service, lambda client: client.list_jobs_page(**query)).jobs)


def test_lists_lag_behind_jobs_and_statuses(make: Make) -> None:
    service = make(queue_seconds=10_000, clock_speed=0)
    service.faults.lag_lists(5)
    first = submit(service, "mine")
    assert _listed(service) == _listed(service, tags=["mine"]) == []
    assert job(service, first).status is JobStatus.QUEUED
    service.clock.advance(5)
    assert [each.id for each in _listed(service, tags=["mine"])] == [first]
    ask(service, lambda client: client.cancel_job(first))
    assert [each.status for each in _listed(service)] == [JobStatus.QUEUED]
    assert len(_listed(service, pending=True)) == 1
    assert job(service, first).status is JobStatus.CANCELLED
    service.clock.advance(5)
    assert [each.status for each in _listed(service)] == [JobStatus.CANCELLED]
    assert _listed(service, pending=True) == []
    service.faults.assert_all_fired()


def test_lists_by_tag_alone_can_lag(service: IBMQService) -> None:
    service.faults.lag_lists(5, tagged_only=True)
    submit(service, "mine")
    assert len(_listed(service)) == 1
    assert _listed(service, tags=["mine"]) == []
    service.faults.lag_lists(0)
    assert len(_listed(service, tags=["mine"])) == 1


def test_new_jobs_are_invisible_for_a_while(service: IBMQService) -> None:
    service.faults.hide_jobs(3)
    made = submit(service)
    with pytest.raises(NotFound) as caught:
        job(service, made)
    assert caught.value.code == 1291
    service.clock.advance(3)
    assert job(service, made).id == made
    service.faults.assert_all_fired()


# Jobs


def test_job_fault_hits_by_position_tag_and_number(make: Make) -> None:
    service = make()
    service.faults.on_job(position=1, ends="Failed", code=5203, reason="Failed to run job.")
    service.faults.on_job(tag="stop", ends="Cancelled", times=1)
    service.faults.on_job(ends="Cancelled", reason="By an operator.")
    jobs = [submit(service, *tags) for tags in (("a",), ("b",), ("stop",), ("stop",))]
    stored = [ended(service, each) for each in jobs]
    assert [(each.status, each.reason_code, each.reason) for each in stored] == [
        ("Cancelled", None, "By an operator."),
        ("Failed", 5203, "Failed to run job."),
        ("Cancelled", None, None),
        ("Cancelled", None, "By an operator."),
    ]
    failed = job(service, jobs[1])
    assert (failed.status, failed.reason_code) == (JobStatus.FAILED, 5203)
    service.faults.assert_all_fired()


@pytest.mark.parametrize("shape", ["full", "word", "code", "reason_code_null", "camel_case", "template"])
def test_a_job_that_ran_too_long_is_known_in_every_shape(make: Make, shape: str) -> None:
    service = make()
    service.faults.on_job(ends="Cancelled - Ran too long", shape=shape)
    made = submit(service)
    ended(service, made)
    assert job(service, made).status is JobStatus.RAN_TOO_LONG
    assert _listed(service)[0].status is JobStatus.RAN_TOO_LONG
    service.faults.assert_all_fired()


def test_shapes_of_ran_too_long_differ(make: Make) -> None:
    service, seen = make(), []
    for shape in ("full", "word", "code", "reason_code_null", "camel_case", "template"):
        service.faults.clear()
        service.faults.on_job(ends="Cancelled - Ran too long", shape=shape)
        made = submit(service)
        ended(service, made)
        raw = job(service, made).raw
        seen.append((raw["status"], raw["state"]))
    assert seen[1] == ("Cancelled - Ran too long", {"status": "Cancelled"})
    assert seen[2] == ("Cancelled", {"status": "Cancelled", "reason_code": 1305})
    assert seen[3][1] == {"status": "Cancelled", "reason": "Ran too long", "reasonCode": None}
    assert len({json.dumps(each) for each in seen}) == 6


def test_a_job_shows_a_word_that_nobody_knows(service: IBMQService) -> None:
    service.faults.on_job(shows="Paused", shows_seconds=60)
    made = submit(service)
    assert (job(service, made).status, job(service, made).status_word) == (JobStatus.UNKNOWN, "Paused")
    service.clock.advance(60)
    assert job(service, made).status is JobStatus.QUEUED
    service.faults.assert_all_fired()


def test_a_job_vanishes(service: IBMQService) -> None:
    service.faults.on_job(vanishes_after=30)
    made = submit(service)
    assert job(service, made).id == made
    service.clock.advance(30)
    with pytest.raises(NotFound):
        job(service, made)
    assert service.jobs() == []
    service.faults.assert_all_fired()


def test_an_hour_of_queue_and_an_hour_of_run_pass_at_once(make: Make) -> None:
    service = make(clock_speed=0)
    service.faults.on_job(queue_seconds=3600, run_seconds=3000, ends="Failed", code=9999)
    made = submit(service)
    assert job(service, made).status is JobStatus.QUEUED
    service.clock.advance(3599)
    assert job(service, made).status is JobStatus.QUEUED
    service.clock.advance(1)
    until = time.monotonic() + 5
    while job(service, made).status is not JobStatus.RUNNING and time.monotonic() < until:
        time.sleep(0.02)
    service.clock.advance(2999)
    time.sleep(0.05)
    assert job(service, made).status is JobStatus.RUNNING  # its lease was moved past, and is still its own
    service.clock.advance(1)
    stored = ended(service, made)
    assert (stored.status, stored.starts) == ("Failed", 1)
    assert stored.running_at is not None
    assert stored.finished_at == pytest.approx(stored.running_at + 3000, abs=1)
    service.faults.assert_all_fired()


@pytest.mark.slow
def test_a_job_is_hit_by_the_name_of_its_circuit(make: Make) -> None:
    from qiskit import QuantumCircuit

    def params(name: str) -> Any:
        circuit = QuantumCircuit(5, 1, name=name)
        circuit.measure(0, 0)
        return json.loads(ibm.encode_json({"version": 2, "support_qiskit": True, "pubs": [[circuit, None, 10]]}))

    service = make()
    service.faults.on_job(circuit="ghz", ends="Failed", code=1003)
    good, bad = (submit(service, params=params(name)) for name in ("bell", "ghz"))
    assert ended(service, bad).reason_code == 1003
    assert ended(service, good).status == "Completed"
