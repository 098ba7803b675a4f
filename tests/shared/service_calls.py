"""What tests of the embedded service ask of it, through our own client."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect_ibmq import loop
from prefect_ibmq.embedded.store import Job
from prefect_ibmq.wire.client import RuntimeClient
from prefect_ibmq.wire.job_requests import JobRequest

if TYPE_CHECKING:
    from prefect_ibmq.testing import IBMQService

STATUS = "GET /backends/{name}/status"
Make = Callable[..., "IBMQService"]


def ask(service: IBMQService, call: Callable[[RuntimeClient], Any]) -> Any:
    async def asking() -> Any:
        return await call(await service.provider.aget_client())

    return loop.run(asking())


def status(service: IBMQService) -> Any:
    return ask(service, lambda client: client.backend_status("fake_manila"))


def submit(service: IBMQService, *tags: str, **more: Any) -> str:
    request = JobRequest("sampler", "fake_manila", more.pop("params", {}), tags=tags, **more)
    job_id: str = ask(service, lambda client: client.create_job(request))
    return job_id


def job(service: IBMQService, job_id: str) -> Any:
    return ask(service, lambda client: client.job(job_id))


def ended(service: IBMQService, job_id: str) -> Job:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        [found] = [each for each in service.jobs() if each.id == job_id]
        if found.is_final:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{job_id} has not ended")
