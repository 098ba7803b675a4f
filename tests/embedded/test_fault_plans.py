"""Switches from outside: over the control routes and from a file, and the clock that tests move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from service_calls import STATUS, job, status, submit

from prefect_ibmq import loop
from prefect_ibmq.embedded.clock import VirtualClock, real_seconds
from prefect_ibmq.embedded.faults import FaultPlan, JobFault, ListLag, RouteFault
from prefect_ibmq.embedded.options import ServiceOptions
from prefect_ibmq.embedded.switchboard import Switchboard
from prefect_ibmq.errors import InputError, ServiceError
from prefect_ibmq.failures import JobStatus

if TYPE_CHECKING:
    from prefect_ibmq.testing import IBMQServer, IBMQService

pytest_plugins = ["prefect_ibmq.testing"]


def test_control_routes_change_switches_read_the_log_and_move_the_clock(
    ibmq_servers: Callable[..., IBMQServer],
) -> None:
    service = ibmq_servers(queue_seconds=10_000, clock_speed=0)
    with httpx.Client(base_url=service.root) as client:
        plan = {"routes": [{"name": "down", "route": STATUS, "answer": "error", "status": 400, "times": 1}]}
        assert client.put("/embedded/faults", json=plan).json()["fired"] == {"down": 0}
        more = {"jobs": [{"name": "paused", "shows": "Paused"}], "list_lag": {"seconds": 5}, "invisible_seconds": 1}
        assert set(client.post("/embedded/faults", json=more).json()["fired"]) >= {"down", "paused"}
        with pytest.raises(ServiceError):
            status(service)
        made = submit(service)
        assert client.post("/embedded/clock", json={"advance": 60}).json()["virtual"]
        assert job(service, made).status is JobStatus.UNKNOWN
        told = client.get("/embedded/log").json()
        assert told["fired"]["down"] == told["fired"]["paused"] == 1
        assert [r["route"] for r in told["requests"] if r["job_id"] == made] == ["POST /jobs", "GET /jobs/{id}"]
        assert told["counts"]["POST /jobs"] == 1
        last = told["requests"][-1]["number"]
        assert client.get("/embedded/log", params={"after": last}).json()["requests"] == []
        assert client.delete("/embedded/log").status_code == 204
        assert client.delete("/embedded/faults").status_code == 204
        assert client.get("/embedded/faults").json() == {"plan": {}, "fired": {}}
        assert service.requests == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embedded/faults", {"routes": [{"route": "jobs"}]}, "routes.0.route"),
        ("/embedded/faults", {"jobs": [{"end": "Failed"}]}, "jobs.0.end"),
        ("/embedded/clock", {"advance": -1}, "advance"),
        ("/embedded/clock", {"hours": 1}, "advance"),
    ],
)
def test_control_routes_name_the_field_that_is_wrong(
    ibmq_server: IBMQServer, path: str, body: dict[str, Any], field: str
) -> None:
    method = "PUT" if path.endswith("faults") else "POST"
    answer = httpx.request(method, ibmq_server.root + path, json=body)
    assert answer.status_code == 400
    assert field in answer.json()["errors"][0]["message"]


def test_control_routes_answer_to_this_machine_alone(ibmq_service: IBMQService) -> None:
    async def from_afar() -> httpx.Response:
        transport = httpx.ASGITransport(app=ibmq_service.service.app, client=("203.0.113.7", 1))
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get(f"{ibmq_service.root}/embedded/faults")

    assert loop.run(from_afar()).status_code == 403


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"routes": [{"answer": "nothing"}]}, "routes.0.answer"),
        ({"routes": [{"status": 42}]}, "routes.0.status"),
        ({"routes": [{"chance": 0}]}, "routes.0.chance"),
        ({"list_lag": {}}, "list_lag.seconds"),
        ({"job": []}, "job"),
        ([], "the whole"),
    ],
)
def test_plan_that_cannot_be_names_the_field(document: Any, field: str, tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=field) as caught:
        FaultPlan.from_file(file)
    assert "faults.json" in str(caught.value)


def test_plan_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        FaultPlan.from_file(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        FaultPlan.from_file(tmp_path / "bad.json")


def test_plan_goes_through_json_and_back() -> None:
    plan = FaultPlan(
        seed=3,
        routes=(RouteFault(route="POST /jobs", answer="lost", work_done=True, times=1),),
        jobs=(JobFault(position=2, ends="Failed", code=5203),),
        list_lag=ListLag(seconds=5, tagged_only=True),
    )
    assert FaultPlan.read(plan.model_dump(mode="json", exclude_defaults=True)) == plan
    assert Switchboard(plan).plan == plan
    assert ServiceOptions(faults=plan).faults is plan


def test_first_switch_that_is_due_is_applied_and_all_count() -> None:
    faults = Switchboard()
    faults.on("GET /jobs/{id}", name="second", after=1, times=1)
    faults.on("GET /jobs/*", name="rest")
    hits = [faults.begin("GET", "/jobs/abc", "")[1] for _ in range(3)]
    assert [hit.name if hit else None for hit in hits] == ["rest", "second", "rest"]
    assert faults.begin("GET", "/jobs", "")[1] is None
    assert faults.begin("GET", "/jobs/abc/results", "")[0].route == "GET /jobs/{id}/results"


def test_a_fault_that_never_fired_is_told() -> None:
    faults = Switchboard()
    faults.on("POST /jobs", name="never", answer="lost")
    with pytest.raises(AssertionError, match="never"):
        faults.assert_all_fired()
    with pytest.raises(InputError, match="answr"):
        faults.on("POST /jobs", answr="lost")


async def test_virtual_clock_sleeps_by_its_own_time() -> None:
    clock = VirtualClock(1000.0, speed=0)
    sleeper = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0.02)
    clock.advance(3599)
    await asyncio.sleep(0.02)
    assert not sleeper.done()
    await asyncio.to_thread(clock.advance, 1)
    await asyncio.wait_for(sleeper, 1)
    assert clock() == 4600.0
    clock.speed = 36_000
    await asyncio.wait_for(clock.sleep(3600), 1)
    assert real_seconds(clock, 3600) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="backwards"):
        clock.speed = -1
