"""One method an endpoint: what is sent, and what is made of the answer."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from prefect_ibmq.errors import (
    AnswerLost,
    Conflict,
    InputError,
    JobNotFinished,
    NotFound,
    UnusableAnswer,
)
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.wire import JobRequest

API = "/api/v1"
WHEN = datetime(2026, 8, 14, 12, tzinfo=timezone(timedelta(hours=2)))
QUEUED = {
    "id": "da16cgu3kjvs7386btng",
    "backend": "ibm_marrakesh",
    "created": "2026-08-17T01:39:15.646554Z",
    "program": {"id": "sampler"},
    "cost": 600,
    "state": {"status": "Queued"},
    "status": "Queued",
    "estimated_running_time_seconds": 4.558073203,
}
FEZ = {
    "name": "ibm_fez",
    "status": {"name": "online", "reason": "available"},
    "is_simulator": False,
    "qubits": 156,
    "clops": {"type": "hardware", "value": 195000},
    "processor_type": {"family": "Heron", "revision": "2", "segment": None},
    "queue_length": 24835,
    "wait_time_seconds": {"average": 10.1, "p50": 3.2, "p95": None},
    "new_field": 1,
}


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_backends_are_listed(server: Any) -> None:
    server.on(f"GET {API}/backends", server.answer({"devices": [FEZ, {"name": "ibm_bare", "wait_time_seconds": None}]}))
    async with server.client() as client:
        fez, bare = await client.list_backends()
    assert (fez.name, fez.operational, fez.status, fez.num_qubits) == ("ibm_fez", True, "online", 156)
    assert (fez.clops, fez.queue_length, fez.wait_time_seconds) == (195000.0, 24835, {"average": 10.1, "p50": 3.2})
    assert fez.raw == FEZ
    assert "raw" not in repr(fez)
    assert (bare.operational, bare.queue_length, bare.wait_time_seconds, bare.clops) == (False, None, None, None)
    assert server.seen[f"GET {API}/backends"][0].query == {"fields": ["wait_time_seconds"]}


async def test_backends_in_the_oldest_shape_are_told(server: Any) -> None:
    server.on(f"GET {API}/backends", server.answer({"devices": ["ibm_fez"]}))
    async with server.client() as client:
        with pytest.raises(UnusableAnswer, match="2026-04-15") as told:
            await client.list_backends()
    assert not told.value.retryable  # it will be the same in an hour


async def test_properties_are_asked_for_in_utc(server: Any) -> None:
    route = f"GET {API}/backends/ibm_fez/properties"
    payload = {"backend_name": "ibm_fez", "qubits": []}
    server.on(route, server.answer(payload))
    async with server.client() as client:
        assert await client.backend_properties("ibm_fez", WHEN) == payload
        assert await client.backend_properties_text("ibm_fez") == json.dumps(payload).encode()
        with pytest.raises(InputError, match="time zone"):
            await client.backend_properties("ibm_fez", datetime(2026, 1, 1))
    assert server.seen[route][0].query == {"updated_before": ["2026-08-14T10:00:00+00:00"]}
    assert server.seen[route][1].query == {}


@pytest.mark.parametrize("body", [b"null", b"", b"{}"])
async def test_properties_that_are_not_there_are_none(server: Any, body: bytes) -> None:
    server.on(f"GET {API}/backends/ibm_fez/properties", server.answer(body=body))
    async with server.client() as client:
        assert await client.backend_properties("ibm_fez") is None
        assert await client.backend_properties_text("ibm_fez") is None


@pytest.mark.parametrize("body", [b'{"qubits": [[', b"[1, 2]"])
async def test_properties_nobody_can_read_are_given_as_they_came(server: Any, body: bytes) -> None:
    route = f"GET {API}/backends/ibm_fez/properties"
    server.on(route, server.answer(body=body))
    async with server.client(retry_attempts=2) as client:
        assert await client.backend_properties_text("ibm_fez") == body
        with pytest.raises(UnusableAnswer):
            await client.backend_properties("ibm_fez")


async def test_backend_status_and_configuration_are_read(server: Any) -> None:
    status = {"state": False, "status": "maintenance", "message": "m", "length_queue": 15}
    server.on(f"GET {API}/backends/ibm_fez/status", server.answer(status))
    server.on(f"GET {API}/backends/ibm_fez/configuration", server.answer({"dt": 4.0}))
    async with server.client() as client:
        read = await client.backend_status("ibm_fez")
        assert (read.name, read.operational, read.status, read.pending_jobs) == ("ibm_fez", False, "maintenance", 15)
        assert await client.backend_configuration("ibm_fez", calibration_id="c-1") == {"dt": 4.0}
    assert server.seen[f"GET {API}/backends/ibm_fez/configuration"][0].query == {"calibration_id": ["c-1"]}


async def test_job_is_read_without_its_params(server: Any) -> None:
    server.on(f"GET {API}/jobs/a", server.answer({**QUEUED, "params": {"pubs": ["large"]}}))
    async with server.client() as client:
        job = await client.job("a")
    assert (job.status, job.tags, job.reason_code, job.cost, job.private) == (JobStatus.QUEUED, None, None, 600, False)
    assert job.created == datetime(2026, 8, 17, 1, 39, 15, 646554, tzinfo=UTC)
    assert "params" not in job.raw
    assert server.seen[f"GET {API}/jobs/a"][0].query == {"exclude_params": ["true"]}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"state": {"status": "Cancelled", "reason": "", "reason_code": 1305}}, JobStatus.RAN_TOO_LONG),
        ({"state": {"status": "Cancelled", "reasonCode": "1305"}}, JobStatus.RAN_TOO_LONG),
        ({"state": {"status": "Cancelled"}, "status": "Cancelled - Ran too long"}, JobStatus.RAN_TOO_LONG),
        ({"state": {"status": "Cancelled"}, "status": "Cancelled"}, JobStatus.CANCELLED),
        ({"state": {"status": "Pondering"}, "status": "Pondering"}, JobStatus.UNKNOWN),
        ({"state": None, "status": "Completed"}, JobStatus.COMPLETED),
    ],
)
async def test_job_status_is_read_from_all_its_words(server: Any, fields: dict[str, Any], status: JobStatus) -> None:
    server.on(f"GET {API}/jobs/a", server.answer({**QUEUED, **fields}))
    async with server.client() as client:
        assert (await client.job("a")).status is status


async def test_ids_are_encoded_and_empty_ones_refused(server: Any) -> None:
    server.on(f"GET {API}/jobs/a/../b?c#d é", server.answer(QUEUED))
    async with server.client() as client:
        await client.job("a/../b?c#d é")
        for empty in ("", "  ", ".", ".."):
            with pytest.raises(InputError):
                await client.job(empty)
            with pytest.raises(InputError):
                await client.delete_job(empty)
    assert [seen.path for seen in server.seen[f"GET {API}/jobs/a/../b?c#d é"]] == [
        f"{API}/jobs/a%2F..%2Fb%3Fc%23d%20%C3%A9"
    ]


# --- results -----------------------------------------------------------------------------------------------------

RESULTS = f"GET {API}/jobs/a/results"


async def test_results_come_as_sent(server: Any, tmp_path: Path) -> None:
    server.on(RESULTS, server.drop, server.answer(body=b'{"x": 1}', length=100), server.answer(body=b'{"x": 1}'))
    async with server.client() as client:
        assert await client.job_results("a") == b'{"x": 1}'
        assert await client.job_results_to(tmp_path / "raw.json", "a") == 8
    assert (tmp_path / "raw.json").read_bytes() == b'{"x": 1}'
    assert names_in(tmp_path) == ["raw.json"]


@pytest.mark.parametrize("status", [200, 204])
async def test_results_that_are_not_there_are_none(server: Any, tmp_path: Path, status: int) -> None:
    server.on(RESULTS, server.answer(body=b"", status=status))
    async with server.client() as client:
        assert await client.job_results("a") is None
        assert await client.job_results_to(tmp_path / "raw.json", "a") is None
    assert not names_in(tmp_path)


@pytest.mark.parametrize("status", [400, 404])
async def test_results_of_a_running_job_are_not_finished(server: Any, status: int) -> None:
    refused = {"errors": [{"code": 1234, "message": "non-terminal state"}]}
    server.on(RESULTS, server.answer(refused, status))
    async with server.client() as client:
        with pytest.raises(JobNotFinished):
            await client.job_results("a")


async def test_private_results_are_asked_for_once_and_kept_as_far_as_they_came(server: Any, tmp_path: Path) -> None:
    server.on(RESULTS, server.answer(body=b'{"x": 1}', length=100))
    async with server.client() as client:
        with pytest.raises(AnswerLost):
            await client.job_results("a", private=True)
        with pytest.raises(AnswerLost) as caught:
            await client.job_results_to(tmp_path / "raw.json", "a", private=True)
    assert server.count(RESULTS) == 2
    (part,) = names_in(tmp_path)
    assert (tmp_path / part).read_bytes() == b'{"x": 1}'
    assert part in caught.value.__notes__[0]


async def test_results_as_html_or_too_large_are_unusable(server: Any, tmp_path: Path) -> None:
    async with server.client(max_result_bytes=1000) as client:
        for act in (server.answer(body=b"<html></html>", kind="text/html"), server.answer(body=b"x" * 1001)):
            server.on(RESULTS, act)
            with pytest.raises(UnusableAnswer):
                await client.job_results_to(tmp_path / "raw.json", "a")
    assert not names_in(tmp_path)


# --- changes -----------------------------------------------------------------------------------------------------


async def test_job_is_cancelled_or_had_ended(server: Any) -> None:
    route = f"POST {API}/jobs/a/cancel"
    ended = server.answer({"errors": [{"code": 1, "message": "already final"}]}, 409)
    async with server.client() as client:
        server.on(route, server.answer(status=204))
        assert await client.cancel_job("a") is True
        server.on(route, ended)
        assert await client.cancel_job("a") is False
        server.on(route, server.drop, ended)
        server.on(
            f"GET {API}/jobs/a", server.answer({**QUEUED, "state": {"status": "Cancelled"}, "status": "Cancelled"})
        )
        assert await client.cancel_job("a") is True


async def test_job_is_deleted_once(server: Any) -> None:
    route = f"DELETE {API}/jobs/a"
    gone = server.answer({"errors": [{"code": 1291, "message": "Job not found"}]}, 404)
    async with server.client() as client:
        server.on(route, gone)
        with pytest.raises(NotFound):
            await client.delete_job("a")
        server.on(route, server.drop, gone)
        await client.delete_job("a")


async def test_tags_are_replaced_and_searched(server: Any) -> None:
    server.on(f"PUT {API}/jobs/a/tags", server.answer(status=204))
    server.on(f"GET {API}/tags", server.answer({"tags": ["night-1"]}))
    async with server.client() as client:
        await client.set_job_tags("a", [])
        await client.set_job_tags("a", ["x"])
        with pytest.raises(InputError):
            await client.set_job_tags("a", ["x"] * 9)
        assert await client.search_tags("night") == ["night-1"]
        with pytest.raises(InputError):
            await client.search_tags("ni")
    assert [json.loads(seen.body) for seen in server.seen[f"PUT {API}/jobs/a/tags"]] == [{"tags": []}, {"tags": ["x"]}]
    assert server.seen[f"GET {API}/tags"][0].query == {"type": ["job"], "search": ["night"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": ("x",) * 9},
        {"tags": ("x" * 87,)},
        {"tags": (" ",)},
        {"max_execution_time": 0},
        {"max_execution_time": 10801},
    ],
)
def test_request_that_would_be_refused_is_refused_here(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        JobRequest("sampler", "ibm_fez", {}, **wrong).body()


async def test_metrics_and_logs_are_read(server: Any) -> None:
    metrics = {
        "timestamps": {"created": "2026-08-17T01:39:15Z", "running": None},
        "usage": {"qpu_charge_time_seconds": 20, "status": "complete"},
        "circuits_execution_time_ns": 20000000,
        "caller": "me",
    }
    server.on(f"GET {API}/jobs/a/metrics", server.answer(metrics))
    server.on(f"GET {API}/jobs/a/logs", server.answer(body=b"line\n", kind="text/plain"))
    async with server.client() as client:
        read = await client.job_metrics("a")
        assert (read.running, read.finished, read.usage_seconds) == (None, None, 20.0)
        assert (read.circuits_execution_time_ns, read.caller, read.qiskit_version) == (20000000, "me", "")
        assert await client.job_logs("a") == "line\n"
        assert await client.job_logs("b") == ""


async def test_sessions_are_opened_closed_and_cancelled(server: Any) -> None:
    opened = {"id": "s-1", "backend_name": "ibm_fez", "mode": "batch", "state": "open", "accepting_jobs": True}
    server.on(f"POST {API}/sessions", server.answer({**opened, "max_ttl": 28800, "started_at": None}))
    server.on(f"GET {API}/sessions/s-1", server.answer(opened))
    server.on(f"PATCH {API}/sessions/s-1", server.answer(status=204))
    server.on(f"DELETE {API}/sessions/s-1/close", server.answer(status=204))
    async with server.client() as client:
        session = await client.create_session("batch", "ibm_fez", 28800)
        assert (session.id, session.state, session.accepting_jobs, session.max_ttl) == ("s-1", "open", True, 28800)
        assert (await client.session("s-1")).backend == "ibm_fez"
        await client.close_session("s-1")
        await client.cancel_session("s-1")
        await client.close_session("gone")
        with pytest.raises(InputError):
            await client.create_session("interactive", "ibm_fez")
    assert json.loads(server.seen[f"PATCH {API}/sessions/s-1"][0].body) == {"accepting_jobs": False}
    assert json.loads(server.seen[f"POST {API}/sessions"][0].body)["instance"] == server.crn


async def test_session_is_posted_once(server: Any) -> None:
    server.on(f"POST {API}/sessions", server.drop)
    async with server.client() as client:
        with pytest.raises(AnswerLost):
            await client.create_session("batch", "ibm_fez")
    assert server.count(f"POST {API}/sessions") == 1


async def test_usage_and_instance_are_read(server: Any) -> None:
    usage = {
        "instance_id": server.crn,
        "plan_id": "p",
        "usage_consumed_seconds": 12,
        "usage_period": {"start_time": "2026-08-01T00:00:00Z", "end_time": "2026-08-29T00:00:00Z"},
        "usage_allocation_seconds": 600,
    }
    server.on(f"GET {API}/instances/usage", server.answer(usage))
    facts = {"backends": ["ibm_fez"], "instance_limit_seconds": "61", "usage_allocation_seconds": "200"}
    server.on(f"GET {API}/instance", server.answer(facts))
    async with server.client() as client:
        read = await client.usage()
        assert (read.consumed_seconds, read.remaining_seconds, read.limit_reached) == (12.0, 588.0, False)
        instance = await client.instance()
    assert (instance.crn, instance.region, instance.usage_limit_seconds) == (server.crn, "us-east", 61.0)
    assert instance.backends == ("ibm_fez",)


async def test_conflict_at_posting_is_told(server: Any) -> None:
    refused = {"errors": [{"code": 4317, "message": "Usage exceeds instance limit"}]}
    server.on(f"POST {API}/jobs", server.answer(refused, 409))
    async with server.client() as client:
        with pytest.raises(Conflict, match="Usage exceeds"):
            await client.create_job(JobRequest("sampler", "ibm_fez", {}))
