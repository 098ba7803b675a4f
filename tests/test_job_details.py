"""One job: retrieved, its place in the queue, its times, its calibration."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from small_jobs import submit

from prefect_ibmq import (
    InputError,
    JobStatus,
    JobTimes,
    NotFound,
    QueueInfo,
    ajob_properties,
    aqueue_info,
    aretrieve_job,
    backend_properties,
    fetch_result,
    get_job,
    job_logs,
    job_metrics,
    job_properties,
    queue_info,
    retrieve_job,
    time_per_step,
    wait_for_job,
)

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


def test_a_job_is_retrieved_by_its_id_and_finds_its_result(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    submitted = submit(ibmq_service, name="ghz", tags=["mine"])
    handle = retrieve_job(provider, submitted.job_id)
    assert (handle.job_id, handle.backend, handle.program) == (submitted.job_id, "fake_manila", "executor")
    assert (handle.set_key, handle.first, handle.last) == (submitted.set_key, 0, 0)
    wait_for_job(handle, provider=provider)
    assert fetch_result(handle, provider=provider)[0].data.c.get_counts() == {"1": 10}
    record = get_job(handle, provider)
    assert (record.name, record.status, record.id) == ("ghz", JobStatus.COMPLETED, submitted.job_id)
    assert "mine" in (record.tags or ())


async def test_a_job_of_a_retired_backend_is_retrieved(ibmq_service: Any) -> None:
    from prefect_ibmq.embedded.store import Job

    provider, store = ibmq_service.provider, ibmq_service.service.store
    fields: Any = {"instance": ibmq_service.service.crn, "user_id": "me", "created": 1.7e9, "program": "executor"}
    store.add_job(Job(id="old", backend="ibm_gone", cost=600, ready_at=4e9, status="Completed", **fields), b"{}")
    store.add_job(Job(id="ran", backend="ibm_gone", cost=600, ready_at=4e9, status="Completed", running_at=1.7e9,
                      finished_at=1.7e9 + 5, **fields), b"{}")  # fmt: skip
    handle = await aretrieve_job(provider, "old")
    assert (handle.backend, handle.set_key) == ("ibm_gone", None)
    assert await ajob_properties(handle, provider) is None
    assert await ajob_properties("ran", provider) is None
    assert (await aqueue_info("old", provider)) == QueueInfo(JobStatus.COMPLETED)


def test_a_backend_that_is_given_is_checked(ibmq_service: Any) -> None:
    job_id = submit(ibmq_service).job_id
    assert retrieve_job(ibmq_service.provider, job_id, "fake_manila").job_id == job_id
    with pytest.raises(InputError, match="is of fake_manila, not of fake_torino"):
        retrieve_job(ibmq_service.provider, job_id, backend="fake_torino")
    for task in (queue_info, time_per_step, job_metrics, job_properties, get_job):
        with pytest.raises(NotFound, match="1291"):
            task("no-such-job", ibmq_service.provider)
    with pytest.raises(NotFound, match="1291"):
        retrieve_job(ibmq_service.provider, "no-such-job")


def test_times_and_logs_come_with_the_steps(ibmq_services: Any) -> None:
    service = ibmq_services(queue_seconds=3600, run_seconds=20, clock_speed=0)
    handle = submit(service)
    before = time_per_step(handle, service.provider)
    assert (before.running, before.finished, before.queued_seconds, before.total_seconds) == (None,) * 4
    assert job_logs(handle, service.provider) == ""
    assert job_properties(handle, service.provider) is None
    service.clock.advance(3600)
    until = time.monotonic() + 120
    while get_job(handle, service.provider).status is not JobStatus.RUNNING:
        assert time.monotonic() < until
        time.sleep(0.05)
    service.clock.advance(30)
    wait_for_job(handle, provider=service.provider)
    times = time_per_step(handle.job_id, service.provider)
    assert isinstance(times, JobTimes)
    assert times.queued_seconds == pytest.approx(3600)
    assert times.running_seconds == pytest.approx(30)
    assert times.total_seconds == pytest.approx(3630)
    assert times.created.utcoffset() == timedelta(0)
    assert "is Completed" in job_logs(handle, service.provider)
    metrics = job_metrics(handle, service.provider)
    assert (metrics.running, metrics.finished) == (times.running, times.finished)


def test_the_calibration_is_the_one_in_force_when_it_ran(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    handle = submit(ibmq_service)
    wait_for_job(handle, provider=provider)
    then = backend_properties("fake_manila", provider)
    ibmq_service.clock.advance(3 * 86_400)
    now = backend_properties("fake_manila", provider, refresh=True)
    mine = job_properties(handle, provider)
    assert mine.last_update_date == then.last_update_date != now.last_update_date
    assert mine.t1(0) == then.t1(0)
    running = job_metrics(handle, provider).running
    assert mine.last_update_date < running


def test_what_the_service_tells_of_the_queue_is_told(ibmq_services: Any) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)
    handle = submit(service)
    info = queue_info(handle, service.provider)
    assert info.status is JobStatus.QUEUED
    assert (info.queue_length or 0) >= 1
    assert (info.estimated_running_time_seconds or 0) > 0
    assert info.estimated_wait_seconds is not None
    # absent stays absent
    assert (info.position, info.estimated_start_time, info.estimated_complete_time) == (None, None, None)
    service.faults.on(
        "GET /jobs/{id}/metrics",
        answer="raw",
        body='{"timestamps": {}, "position_in_queue": 7, "estimated_start_time": "2026-08-17T01:39:15Z"}',
    )
    service.faults.on("GET /backends", answer="raw", body='{"devices": []}')
    told = queue_info(handle, service.provider)
    assert (told.position, told.queue_length, told.estimated_wait_seconds) == (7, None, None)
    assert told.estimated_start_time == datetime.fromisoformat("2026-08-17T01:39:15+00:00")
