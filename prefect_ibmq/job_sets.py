"""Job sets: many circuits in few jobs, found again by one id, with every good result kept when a job fails.

The set's id is its set key, which is a tag of each of its jobs. So any machine finds the whole set by the id alone: the
circuits' metadata, which come back with params and results, tell which circuit ran where.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect_ibmq.artifacts import jobs_table
from prefect_ibmq.attempts import check_resubmit
from prefect_ibmq.backend_records import BackendRecord
from prefect_ibmq.errors import InputError, ServiceError, SubmissionUnclear
from prefect_ibmq.finishing import DIRECT, Finishing, Steps
from prefect_ibmq.loop import doors
from prefect_ibmq.planning import opened_and_planned
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_keys import release
from prefect_ibmq.run_listing import EXPORTED, FAILED, FETCHED, SUBMITTED, stored_run
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.running import within
from prefect_ibmq.sessions import open_session
from prefect_ibmq.set_record import JobSet, read_set, retrieved
from prefect_ibmq.set_results import SetResults
from prefect_ibmq.submissions import split_arguments

__all__ = [
    "acancel_job_set",
    "acollect_job_set",
    "ajob_set_report",
    "aretrieve_job_set",
    "arun_job_set",
    "cancel_job_set",
    "collect_job_set",
    "job_set_report",
    "retrieve_job_set",
    "run_job_set",
]

_POLICIES = ("salvage", "cancel_all")
# The results stay in the run's folder, where `collect_job_set` and the set's methods find them.
_STEPS = Steps(DIRECT.submit, DIRECT.wait, DIRECT.fetch, None)


async def _run_job_set(
    circuits: Any,
    backend: str | BackendRecord | None = None,
    provider: IBMQProvider | str | None = None,
    shots: int | None = None,
    *,
    run_key: str | None = None,
    repetition: int = 0,
    isa: bool = False,
    optimization_level: int = 2,
    seed: int | None = None,
    max_circuits_per_job: int | None = None,
    merge: bool = True,
    program: str = "executor",
    options: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
    archive: str | Path | None = None,
    on_failure: str = "salvage",
    resubmit: str | None = None,
    batch: bool = False,
    max_time: int | str | None = None,
    wait: bool = True,
    timeout: float | None = None,
    **more: Any,
) -> JobSet:
    """Run many circuits in as few jobs as the limits allow, and keep every good result.

    A job has at most 10,000,000 executions, 50 MB as sent, `max_circuits_per_job` circuits and, with `executor`, one
    number of shots. Asked again with the same run key, circuits, shots and options it goes on with the same jobs: what
    has a result is not run again, what failed for a transient reason is, once, and other failures on demand.

    Args:
        circuits: Whatever `load_circuits` reads: circuits, PUB tuples, OpenQASM text, files, folders, or a sequence.
        backend: The backend's name or record; None chooses the least busy one that is wide enough.
        provider: The provider, its block's name, or None for the environment's.
        shots: Shots of each circuit that brings none of its own; 4000 by default, or the most that the backend takes.
        run_key: What the run is called; the root flow run's id by default, required outside of flows.
        repetition: Counts intended repetitions of the same circuits within a run key.
        isa: Whether the circuits are ISA circuits of that backend already: they are checked, not transpiled.
        optimization_level: The transpiler's, 0 to 3.
        seed: The transpiler's seed.
        max_circuits_per_job: Most circuits of one job; None cuts only where the service's limits ask for it.
        merge: Whether circuits that differ in angles or parameter values alone become one parametric PUB. The same
            operations run on the same qubits, and the results come back one by one. Circuits that are twirled or
            decoupled stay apart.
        program: `executor`, or `sampler` or `estimator`, IBM's server-side programs; see `run_circuits`.
        options: Options of the run by name, which override the provider's; see `run_circuits`.
        header: Whatever else shall stand with each row of the results, as JSON; it travels with the jobs.
        archive: Path or URL of the archive whose run folder remembers jobs and raw results.
        on_failure: What happens where a job fails for good. `salvage`: the others go on. `cancel_all`: those that have
            not ended are cancelled, nothing more is submitted, and what has completed is kept.
        resubmit: `failed` or `cancelled`: run again, once more, what ended so for good in an earlier run.
        batch: Whether to open a batch for the jobs. Where it cannot be opened, or closes too early, parts run
            outside of it.
        max_time: The batch's longest life: seconds, or a text such as `2h 30m`.
        wait: Whether to wait for the jobs; else the set is returned when all are submitted.
        timeout: Seconds for everything; None waits as long as jobs live.
        more: `name`, `tags`, `experiment_id`, `max_execution_time`, `session_id`, `private`, `share`: see
            `submit_part`; or options one by one, which override `options`.

    Returns:
        The set. Its `statuses()`, `error_messages()` and `report()` say what is missing, if anything is.

    Raises:
        InputError: Something cannot be run; nothing was submitted.
        DeadlineExceeded: `timeout` is over; jobs that are submitted go on.
        TransportError: The service could not be reached; run the same again.
        IBMQError: No part could be submitted; the first one's error.
    """
    submission, single = split_arguments(more)
    _check(on_failure, resubmit, batch, submission)
    async with within(timeout):
        chosen = await provider_of(provider)
        run, plan = await opened_and_planned(
            circuits,
            backend,
            chosen,
            isa=isa,
            optimization_level=optimization_level,
            seed=seed,
            max_circuits_per_job=max_circuits_per_job,
            program=program,
            merge=merge,
            shots=shots,
            run_key=run_key,
            repetition=repetition,
            options=options,
            header=header,
            archive=archive,
            **single,
        )
        going = Finishing(
            run,
            plan,
            chosen,
            steps=_STEPS,
            resubmit=resubmit,
            waits=wait,
            on_failure=on_failure,
            submission=submission,
        )
        try:
            await _go(going, max_time if batch else None, batch=batch)
            return await _ran(going, chosen)
        finally:
            if not all(state.status == "fetched" for state in going.states):
                # The way on is to run the set again, which must not be taken for a second order.
                for part in plan.parts:
                    release(run.claim_of(part))


def _check(on_failure: str, resubmit: str | None, batch: bool, submission: dict[str, Any]) -> None:
    if on_failure not in _POLICIES:
        raise InputError(f"on_failure={on_failure!r} is unknown.", hint=f"Use one of {', '.join(_POLICIES)}.")
    check_resubmit(resubmit)
    if batch and submission.get("session_id"):
        raise InputError("Both a batch and a session_id are asked for.", hint="A job runs in one of them.")


async def _go(going: Finishing, max_time: int | str | None, *, batch: bool) -> None:
    async with AsyncExitStack() as stack:
        if batch:
            stored = await asyncio.to_thread(stored_run, going.run.archive, going.run.set_key)
            begun = (SUBMITTED, FETCHED, EXPORTED) if going.resubmit else (SUBMITTED, FETCHED, EXPORTED, FAILED)
            if stored is None or any(part.status not in begun for part in stored.parts):
                session = open_session(going.provider, going.plan.backend, "batch", max_time)
                try:
                    going.submission["session_id"] = (await stack.enter_async_context(session)).id
                except (ServiceError, SubmissionUnclear) as error:
                    run_logger().warning("No batch could be opened, and the jobs run without one: %s", error)
        await going.go()


async def _ran(going: Finishing, provider: IBMQProvider) -> JobSet:
    """The set as it stands, with what kept parts from being submitted."""
    run = going.run
    if going.errors and all(state.handle is None for state in going.states):
        raise going.errors[0]
    for error in going.errors:
        # Going on later would help, or the call itself is wrong; the rest is told part by part.
        if error.retryable or isinstance(error, InputError):
            raise error
    job_set = await read_set(run.set_key, provider, run.archive, asks=False)
    reasons = {state.part.label: state.reason for state in going.states if state.handle is None and state.reason}
    job_set.parts = tuple(
        part if part.handle or part.label not in reasons else replace(part, reason=reasons[part.label])
        for part in job_set.parts
    )
    return job_set.with_circuits(run.inputs)


async def _set_of(job_set: JobSet | str, provider: IBMQProvider | str | None, archive: str | Path | None) -> JobSet:
    return job_set if isinstance(job_set, JobSet) else await retrieved(job_set, provider, archive=archive, asks=False)


async def _collect_job_set(
    job_set: JobSet | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | None = None,
    wait: bool = True,
    timeout: float | None = None,
) -> SetResults:
    """Wait for the jobs of a set and collect one result for each circuit, in the order given.

    Each result is fetched once, and read from the run's folder later.

    Args:
        job_set: The set, or its id.
        provider: The provider, its block's name, or None for the environment's; a set has its own.
        archive: Path or URL of the archive with the run's folder; without it the service tells everything.
        wait: Whether to wait for jobs that go on; else their circuits are told to be missing.
        timeout: Seconds to wait at most; None waits as long as jobs live.

    Returns:
        The outcomes: each has its `result`, or says why there is none. `.result` is all there is as one
        `PrimitiveResult`, which `export_counts` takes.

    Raises:
        InputError: There is no such set.
        DeadlineExceeded: `timeout` is over; the jobs go on.
    """
    return await (await _set_of(job_set, provider, archive)).aresults(wait=wait, timeout=timeout)


async def _job_set_report(
    job_set: JobSet | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | None = None,
) -> str:
    """The set as a text, and within a run as a table artifact: what is done, and why something is missing.

    Args:
        job_set: The set, or its id.
        provider: The provider, its block's name, or None for the environment's; a set has its own.
        archive: Path or URL of the archive with the run's folder.

    Raises:
        InputError: There is no such set.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    current = await _set_of(job_set, provider, archive)
    await current.arefresh()
    if FlowRunContext.get() is not None or TaskRunContext.get() is not None:
        await jobs_table(current.rows(), current.run_key or current.job_set_id)
    return current.report()


async def _retrieve_job_set(
    job_set_id: str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | None = None,
) -> JobSet:
    """Find a set again by its id, from any machine.

    Where the archive has the run's folder, it tells what the set is. Else the jobs do: one list by the set's tag, and
    one read of each job's params.

    Args:
        job_set_id: The id: `job_set.job_set_id`, a job handle's `set_key`.
        provider: The provider that it was run with.
        archive: Path or URL of the archive with the run's folder, if there is one; results are kept in it.

    Raises:
        InputError: There is no such set.
    """
    return await retrieved(job_set_id, provider, archive=archive, asks=True)


async def _cancel_job_set(
    job_set: JobSet | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | None = None,
) -> list[str]:
    """Cancel the jobs of a set that have not ended. What has completed is kept; running the set again goes on with it.

    Args:
        job_set: The set, or its id.
        provider: The provider, its block's name, or None for the environment's; a set has its own.
        archive: Path or URL of the archive with the run's folder.

    Returns:
        The ids of the jobs.

    Raises:
        InputError: There is no such set.
    """
    return await (await _set_of(job_set, provider, archive)).acancel()


run_job_set, arun_job_set = doors(_run_job_set, "run_job_set")
collect_job_set, acollect_job_set = doors(_collect_job_set, "collect_job_set")
job_set_report, ajob_set_report = doors(_job_set_report, "job_set_report")
retrieve_job_set, aretrieve_job_set = doors(_retrieve_job_set, "retrieve_job_set")
cancel_job_set, acancel_job_set = doors(_cancel_job_set, "cancel_job_set")
