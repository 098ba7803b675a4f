"""Cancelling a flow run cancels its jobs: the hook for that, and what it shares with the collector's sweep.

A job that is cancelled for the sake of a flow run is marked so by a tag first. Whoever later goes on with the run by
its run key then submits the part again, instead of taking the end for somebody's verdict.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect_ibmq import loop
from prefect_ibmq.credentials import VARIABLES
from prefect_ibmq.errors import IBMQError
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.settings import get_settings
from prefect_ibmq.tags import FLOW_PREFIX, flow_tag, run_tag
from prefect_ibmq.wire.rivals import marked, stopped_tag

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import JobRecord

__all__ = ["acancel_jobs", "cancel_jobs", "flow_of", "stop_jobs"]

_HOOK_SECONDS = 120.0


def cancel_jobs(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Cancel the jobs of a flow run: a hook for `@flow(on_cancellation=[cancel_jobs])`.

    Prefect calls it in the runner's process, where the flow's memory is not: the jobs are found by their tag, the
    account by the flow run's parameter `provider` (the name of a block), or else by the environment. With the setting
    `PREFECT_INTEGRATIONS_IBMQ_CANCEL_JOBS=false` the jobs are left to run.

    Args:
        flow: The flow.
        flow_run: The flow run that is cancelled.
        state: Its state.
    """
    from prefect.logging.loggers import flow_run_logger

    logger = flow_run_logger(flow_run, flow)
    if not get_settings().cancel_jobs:
        logger.info("The jobs are left to run, as the setting CANCEL_JOBS says")
        return
    try:
        cancelled = loop.run(asyncio.wait_for(acancel_jobs(flow_run), _HOOK_SECONDS))
    except (IBMQError, TimeoutError, ValueError) as error:
        # Jobs that go on cost money, so whoever reads the log must learn of it.
        logger.error("The jobs of this flow run could not be cancelled: %s", str(error) or "it took too long")
        return
    logger.info("Cancelled %d jobs%s", len(cancelled), f": {', '.join(cancelled)}" if cancelled else "")


async def acancel_jobs(flow_run: FlowRun) -> list[str]:
    """Mark and cancel the jobs of a flow run that have not ended; returns their ids. Runs on the wire's loop.

    Of a subflow's run only the jobs of its `run_key` parameter are cancelled: the others belong to the root flow run.
    """
    given = (flow_run.parameters or {}).get("provider")
    if given is None and flow_run.deployment_id is not None and not any(os.environ.get(name) for name in VARIABLES):
        return []  # such a run never falls back to the embedded service, and so has no jobs
    tags = await _tags_of(flow_run)
    if not tags:
        return []
    provider = await provider_of(given if isinstance(given, str | IBMQProvider) else None)
    client = await provider.aget_client()
    cancelled = await _stop_listed(client, tags, str(flow_run.id))
    # What was accepted just before may not be listed yet.
    await asyncio.sleep(get_settings().settle_seconds)
    return cancelled + await _stop_listed(client, tags, str(flow_run.id))


async def _tags_of(flow_run: FlowRun) -> tuple[str, ...]:
    from prefect_ibmq.run_keys import root_of

    if flow_run.parent_task_run_id is None:
        return (flow_tag(flow_run.id),)
    run_key = (flow_run.parameters or {}).get("run_key")
    return (flow_tag(await root_of(flow_run.id)), run_tag(run_key)) if isinstance(run_key, str) else ()


async def _stop_listed(client: RuntimeClient, tags: tuple[str, ...], flow_run: str) -> list[str]:
    return await stop_jobs(client, [job async for job in client.list_jobs(tags=tags)], flow_run)


async def stop_jobs(client: RuntimeClient, jobs: Iterable[JobRecord], by: str) -> list[str]:
    """Mark and cancel those of the jobs that have not ended; returns their ids.

    Args:
        client: The instance's client.
        jobs: The jobs.
        by: The flow run for whose sake.
    """
    cancelled = []
    for job in jobs:
        if job.status.is_final:
            continue
        # Marked first: a cancelled job without a mark would look as if somebody had cancelled it on purpose.
        await client.set_job_tags(job.id, marked(job, stopped_tag(by)))
        if await client.cancel_job(job.id):
            cancelled.append(job.id)
    return cancelled


def flow_of(job: JobRecord) -> str | None:
    """The root flow run that a job was submitted in, by its tag; None where it tells none."""
    told = (tag.removeprefix(FLOW_PREFIX) for tag in job.tags or () if tag.startswith(FLOW_PREFIX))
    return next(told, None)
