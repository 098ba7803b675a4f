"""Options of the service: both readings of what IBM's documents leave open."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from service_calls import Make, ask, ended, job, submit

from prefect_ibmq import loop
from prefect_ibmq.embedded.clock import VirtualClock
from prefect_ibmq.embedded.options import Instance
from prefect_ibmq.errors import Conflict, NotFound, PendingLimit, RateLimited, ServiceError
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.wire.client import RuntimeClient

pytest_plugins = ["prefect_ibmq.testing"]


@pytest.mark.parametrize("way", ["ibmq_services", "ibmq_servers"])
def test_results_of_unfinished_and_cancelled_jobs(request: pytest.FixtureRequest, way: str) -> None:
    make: Make = request.getfixturevalue(way)
    usual, other = make(queue_seconds=99), make(queue_seconds=99, cancelled_result_status=409)
    for service in (usual, other):
        made = submit(service)
        ask(service, lambda client, made=made: client.cancel_job(made))
    assert ask(usual, lambda client: client.job_results(usual.jobs()[0].id)) is None
    with pytest.raises(Conflict):
        ask(other, lambda client: client.job_results(other.jobs()[0].id))


@pytest.mark.parametrize("code", [3458, 1012])
@pytest.mark.parametrize("http_status", [400, 409])
def test_pending_limit_has_either_code_and_status(ibmq_services: Make, code: int, http_status: int) -> None:
    options = {"pending_limit": 1, "pending_limit_code": code, "pending_limit_status": http_status}
    service = ibmq_services(queue_seconds=99, **options)
    submit(service)
    with pytest.raises(PendingLimit) as caught:
        submit(service)
    assert (caught.value.code, caught.value.status) == (code, http_status)


@pytest.mark.parametrize("told", [True, False])
def test_rate_limit_says_when_to_come_again_or_not(ibmq_services: Make, told: bool) -> None:
    service = ibmq_services(queue_seconds=99, jobs_per_minute=1, retry_after_sent=told)
    submit(service)
    with pytest.raises(RateLimited) as caught:
        submit(service)
    assert (caught.value.retry_after is not None) is told
    service.clock.advance(61)
    submit(service)


def test_spent_usage_refuses_or_leaves_queued(ibmq_services: Make) -> None:
    for conflicts in (True, False):
        instance = Instance(usage_limit_seconds=2)
        service = ibmq_services(instances=(instance,), spent_usage_conflicts=conflicts, clock_speed=0)
        service.faults.on_job(ends="Failed", code=5203)
        ended(service, submit(service))
        if conflicts:
            with pytest.raises(Conflict) as caught:
                submit(service)
            assert caught.value.code == 4317
            continue
        made = submit(service)
        service.clock.advance(86_400)
        time.sleep(0.1)
        assert job(service, made).status is JobStatus.QUEUED
        service.clock.advance(28 * 86_400)
        assert ended(service, made).status == "Failed"


def test_large_params_are_refused_where_there_is_a_cap(ibmq_services: Make) -> None:
    params = {"pubs": ["x" * 2000]}
    submit(ibmq_services(queue_seconds=99), params=params)
    with pytest.raises(ServiceError) as caught:
        submit(ibmq_services(queue_seconds=99, max_params_bytes=1000), params=params)
    assert caught.value.code == 1208


@pytest.mark.parametrize(("told", "expected"), [("null", None), ("empty", None), ("404", NotFound)])
def test_before_the_first_calibration(ibmq_services: Make, told: str, expected: Any) -> None:
    from datetime import UTC, datetime

    service = ibmq_services(before_first_calibration=told)

    def call(client: RuntimeClient) -> Any:
        return client.backend_properties("fake_manila", updated_before=datetime(2001, 1, 1, tzinfo=UTC))

    if expected is None:
        assert ask(service, call) is None
    else:
        with pytest.raises(expected):
            ask(service, call)


def test_retired_programs_and_versions_are_refused(ibmq_services: Make) -> None:
    service = ibmq_services(
        retired_programs=frozenset({"sampler"}), sunset_versions_refused=True, clock=VirtualClock(1_900_000_000.0)
    )
    with pytest.raises(NotFound):
        submit(service)
    with pytest.raises(NotFound):  # our own version is the live one
        submit(service)

    async def old() -> httpx.Response:
        transport = httpx.ASGITransport(app=service.service.app)
        headers = {"Authorization": "apikey local", "Service-CRN": service.service.crn, "IBM-API-Version": "2025-01-01"}
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            return await client.get(f"{service.url}/backends")

    assert loop.run(old()).status_code == 400
