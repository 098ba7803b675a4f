"""Tasks on jobs: ask after one, wait for it, fetch its result, cancel it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

from prefect_ibmq.archives import archive_of
from prefect_ibmq.artifacts import emit_status
from prefect_ibmq.attempts import End, ended, write_end
from prefect_ibmq.calibration_stamps import stamp_calibrations
from prefect_ibmq.decoding import STAMP, decoded
from prefect_ibmq.errors import (
    ArchiveError,
    DeadlineExceeded,
    InputError,
    JobEnded,
    JobNotFinished,
    JobVanished,
    NotFound,
    ResultUnreadable,
    ServiceError,
    TransportError,
)
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.handles import JobHandle, handle_of, id_of
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.runs import handle_path, raw_path, read_or_none, stored_handle
from prefect_ibmq.settings import get_settings
from prefect_ibmq.tags import set_tag
from prefect_ibmq.wire.answers import ForeignAnswer
from prefect_ibmq.wire.rivals import surplus_of
from prefect_ibmq.wire.watcher import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qiskit.primitives import PrimitiveResult

    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import JobRecord

__all__ = [
    "acancel_job",
    "afetch_result",
    "await_for_job",
    "cancel",
    "cancel_job",
    "client_for",
    "fetch_result",
    "fetch_stored",
    "fetch_unstamped",
    "handle_from",
    "job_record",
    "reached",
    "reason_of",
    "stamp_results",
    "wait_for_job",
    "wait_until_completed",
]

_MOST_UNREADABLE = 5  # texts of one result that cannot be decoded, before that is an error


async def client_for(job: JobHandle | str, provider: IBMQProvider) -> RuntimeClient:
    """The client that reaches a job.

    Raises:
        InputError: The handle is of another channel, host or instance than the provider.
    """
    client = await provider.aget_client()
    if isinstance(job, JobHandle):
        there = (job.channel, job.host, job.instance)
        here = (provider.channel, client.base_url, client.crn)
        if there != here:
            raise InputError(
                f"Job {job.job_id} is in instance {job.instance} at {job.host}, but the provider is for {client.crn} "
                f"at {client.base_url}.",
                hint="Use the provider that it was submitted with.",
            )
    return client


async def reached(
    job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None
) -> tuple[RuntimeClient, JobHandle | str, str]:
    """The client that reaches a job, the job, and its id; errors as those of `handle_of` and `client_for`."""
    known, chosen = handle_of(job), await provider_of(provider)
    return await client_for(known, chosen), known, id_of(known)


async def wait_until_completed(
    job: JobHandle | JobRecord | str,
    provider: IBMQProvider | str | None = None,
    *,
    timeout: float | None = None,
    archive: str | Path | Archive | None = None,
) -> JobHandle:
    """Wait until a job has completed.

    The pause between two looks grows from the settings' floor to their ceiling. A status word that nobody knows is
    reported once and waited on until the deadline.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.
        timeout: Seconds to wait at most; None means the settings' `wait_seconds`, a week.
        archive: Path or URL of the archive; where its run folder has the result already, nothing is asked.

    Returns:
        The job's handle, with `created` filled in.

    Raises:
        JobFailed: The service could not run it; `code` and `reason` say why.
        JobCancelled: Somebody cancelled it.
        JobRanTooLong: It passed its maximum execution time.
        DeadlineExceeded: `timeout` is over; the job goes on.
    """
    timeout = get_settings().wait_seconds if timeout is None else timeout
    known, store = handle_of(job), await asyncio.to_thread(archive_of, archive)
    done = await asyncio.to_thread(_completed, store, known)
    if done is not None:
        return done
    chosen = await provider_of(provider)
    client = await client_for(known, chosen)
    try:
        async with asyncio.timeout(timeout) as deadline:
            known, record = await _final(client, store, known, _pace(chosen))
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(
            f"Job {id_of(known)} has not ended within {timeout} s. It goes on.",
            hint="Wait for it again with the same handle or id; nothing is submitted twice by that.",
        ) from None
    if record.status is not JobStatus.COMPLETED:
        raise await _ending(client, record, store, known)
    return await _noted(store, handle_from(record, known, chosen, client))


def _completed(store: Archive, job: JobHandle | str) -> JobHandle | None:
    """The stored handle of a job whose result is stored; None of any other."""
    kept = stored_handle(store, job)
    return kept if kept is not None and kept.created and store.storage.exists(raw_path(kept)) else None


async def _noted(store: Archive, handle: JobHandle) -> JobHandle:
    """Keep what is known of a job now, so that it is known when the service has forgotten the job."""
    await asyncio.to_thread(store.storage.put, handle_path(handle), handle.to_json().encode())
    return handle


def _pace(provider: IBMQProvider) -> Pace:
    settings = get_settings()
    if provider.simulated:  # the embedded service is asked in process, where a look costs a millisecond
        return Pace(floor=0.05, ceiling=0.5, settle=settings.settle_seconds)
    floor, ceiling = settings.poll_floor_seconds, settings.poll_ceiling_seconds
    return Pace(floor=floor, ceiling=max(floor, ceiling), settle=settings.settle_seconds)


async def _final(
    client: RuntimeClient, store: Archive, job: JobHandle | str, pace: Pace
) -> tuple[JobHandle | str, JobRecord]:
    """The final record of a job, or of the job in whose favour it was cancelled as surplus."""
    followed: set[str] = set()
    while True:
        record = await _follow(client, store, job, pace)
        kept = surplus_of(record) if record.status is JobStatus.CANCELLED else None
        followed.add(record.id)
        if not isinstance(job, JobHandle) or kept is None or kept in followed:
            return job, record
        run_logger().info("Job %s was surplus; going on with %s", record.id, kept)
        job = await _noted(store, job.model_copy(update={"job_id": kept, "created": None}))


async def _follow(client: RuntimeClient, store: Archive, job: JobHandle | str, pace: Pace) -> JobRecord:
    logger, job_id = run_logger(), id_of(job)
    tag = set_tag(job.set_key) if isinstance(job, JobHandle) and job.set_key else None
    # The service may not show at once what it has accepted; an id that somebody types has been seen before.
    settle = pace.settle if isinstance(job, JobHandle) else 0.0
    created = job.created if isinstance(job, JobHandle) else None
    record: JobRecord | None = None
    try:
        async for record in client.watcher(pace).follow(job_id, tag=tag, created=created, settle=settle):
            unknown = " (a word that prefect_ibmq does not know)" if record.status is JobStatus.UNKNOWN else ""
            logger.info("Job %s on %s: %s%s", job_id, record.backend, record.status_word, unknown)
            emit_status(record, client.crn)
    except (JobVanished, NotFound) as error:
        if isinstance(job, JobHandle):
            gone = End(job_id=job_id, status=JobStatus.UNKNOWN, reason=str(error))
            await asyncio.to_thread(write_end, store, job, gone)
        raise
    assert record is not None, "a job is followed to its end"
    return record


async def _ending(
    client: RuntimeClient, record: JobRecord, store: Archive, job: JobHandle | str
) -> JobEnded | JobNotFinished:
    """Why there is no result; of a job of a set it is noted, so that nobody has to ask again."""
    if not record.status.is_final:
        return JobNotFinished(record.id, record.status_word)
    if record.status is JobStatus.COMPLETED:
        hint = "A private job gives its result once; it has been fetched before." if record.private else ""
        return JobEnded(record.id, reason="The service says that it completed, and sends no result.", hint=hint)
    end = ended(record, await reason_of(client, record))
    if isinstance(job, JobHandle):
        await asyncio.to_thread(write_end, store, job, end)
    return end.error()


async def reason_of(client: RuntimeClient, record: JobRecord) -> str:
    """Why a job ended without a result, in the service's words; empty where it says nothing."""
    reason = record.reason or ""
    if record.status is JobStatus.FAILED and not reason and not record.private:
        return await _last_words(client, record.id)
    return reason


async def _last_words(client: RuntimeClient, job_id: str) -> str:
    """The end of what a failed job left: the service stores a Python traceback there."""
    try:
        left = await client.job_results(job_id)
    except (ServiceError, TransportError, JobNotFinished):
        return ""  # that it failed is known; why it did is not worth another error
    words = (left or b"").decode("utf-8", errors="replace")
    start = words.rfind("Traceback")
    return words[start:][-500:] if start >= 0 else words[-500:]


def handle_from(record: JobRecord, known: JobHandle | str, provider: IBMQProvider, client: RuntimeClient) -> JobHandle:
    """The handle of a job as the service tells it; one that is known already only learns when it was created."""
    if isinstance(known, JobHandle):
        return known.model_copy(update={"created": record.created, "calibration_id": record.calibration_id})
    return JobHandle(
        channel=provider.channel,
        host=client.base_url,
        instance=client.crn,
        backend=record.backend,
        job_id=record.id,
        program=record.program,
        created=record.created,
        simulated=provider.simulated or record.raw.get("simulated") is True,
        private=record.private,
        calibration_id=record.calibration_id,
    )


async def fetch_stored(
    job: JobHandle | JobRecord | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | Archive | None = None,
    inputs: Sequence[CircuitInput] | None = None,
) -> PrimitiveResult:
    """Fetch the result of a completed job, once: its text is stored before it is decoded, and read from there later.

    The job's handle in it is stamped with the calibrations that held when the job was created and when it began to
    run, by one question for all jobs that began before it was asked.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.
        archive: Path or URL of the archive whose run folder keeps the text; None keeps it under `$PREFECT_HOME/ibmq`.
        inputs: The circuits that the job ran, for names and parameter values; what is missing is read from the
            circuits' metadata, which comes back with the result.

    Returns:
        qiskit's `PrimitiveResult`, one PUB result a circuit. Each one's `metadata["prefect_ibmq"]` says which job,
        position, circuit and parameter values it is of, which is what `export_counts` reads.

    Raises:
        JobNotFinished: The job has not ended.
        JobEnded: The job ended without a result.
        ResultUnreadable: The text is stored, but cannot be decoded.
    """
    result = await fetch_unstamped(job, provider, archive=archive, inputs=inputs)
    await stamp_results([result], provider, archive=archive)
    return result


async def stamp_results(
    results: Sequence[PrimitiveResult],
    provider: IBMQProvider | str | None,
    *,
    archive: str | Path | Archive | None = None,
) -> None:
    """Stamp results with the calibrations of their jobs, and note the stamps, so that nobody has to ask again."""
    store = await asyncio.to_thread(archive_of, archive)
    client = await (await provider_of(provider)).aget_client()
    for job in await stamp_calibrations(client, store, results, STAMP):
        await _noted(store, JobHandle.model_validate(job))


async def fetch_unstamped(
    job: JobHandle | JobRecord | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | Archive | None = None,
    inputs: Sequence[CircuitInput] | None = None,
) -> PrimitiveResult:
    """`fetch_stored` without the stamps of calibrations."""
    store, chosen = await asyncio.to_thread(archive_of, archive), await provider_of(provider)
    client = await client_for(handle_of(job), chosen)
    known = await _known(store, handle_of(job), chosen, client)
    text = await asyncio.to_thread(read_or_none, store, raw_path(known))
    for left in reversed(range(_MOST_UNREADABLE)):
        if text is None:
            text = await _download(client, known, store)
        try:
            return await asyncio.to_thread(decoded, known, text, inputs)
        except ResultUnreadable:
            # It may be what a gateway said, or was damaged since it was stored; the service may still have it.
            if known.private or not left:
                raise
        await asyncio.to_thread(store.storage.put, f"{raw_path(known)}.unreadable", text)
        text = None
        await asyncio.sleep(get_settings().settle_seconds / 8)
    raise AssertionError("the last unreadable text is raised")


async def _known(store: Archive, job: JobHandle | str, provider: IBMQProvider, client: RuntimeClient) -> JobHandle:
    """The job's handle with its time of creation, which every row of counts tells."""
    if isinstance(job, JobHandle) and job.created is not None:
        return job
    kept = await asyncio.to_thread(stored_handle, store, job)
    if kept is not None and kept.created is not None:
        await client_for(kept, provider)
        return kept
    return await _noted(store, handle_from(await client.job(id_of(job)), job, provider, client))


async def _download(client: RuntimeClient, handle: JobHandle, store: Archive) -> bytes:
    """The result text, which is stored before anybody looks at it.

    It comes by way of a file: an answer that is too large to be accepted should not fill the memory first.
    """
    folder = get_settings().folder() / "incoming"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    path = folder / f"{quote(handle.job_id, safe='')}.{uuid4().hex[:8]}.json"
    if not await _streamed(client, path, handle):
        raise await _ending(client, await client.job(handle.job_id), store, handle)
    text = await asyncio.to_thread(path.read_bytes)
    try:
        await asyncio.to_thread(store.storage.put, raw_path(handle), text)
    except ArchiveError as error:
        error.add_note(f"The result of job {handle.job_id} is kept in {path}.")
        raise
    await asyncio.to_thread(path.unlink)
    return text


async def _streamed(client: RuntimeClient, path: Path, handle: JobHandle) -> int | None:
    """The result in a file; its size, or None where the job has none.

    A job that a list shows may be unknown to single reads for a while; and of a result that is paid for, what some
    gateway says is not the last word.
    """
    clock, settle = asyncio.get_running_loop().time, get_settings().settle_seconds
    until = clock() + settle
    while True:
        try:
            return await client.job_results_to(path, handle.job_id, private=handle.private)
        except (NotFound, ForeignAnswer) as error:
            if clock() >= until or (handle.private and isinstance(error, ForeignAnswer)):
                raise
        await asyncio.sleep(settle / 8)


async def cancel(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> bool:
    """Cancel a job.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Returns:
        Whether the service took the order; False where the job had ended already.

    Raises:
        NotFound: The instance has no such job.
    """
    client, _, job_id = await reached(job, provider)
    return await client.cancel_job(job_id)


async def job_record(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> JobRecord:
    """What the service says of a job now: its status, its backend, its name and tags, why it failed.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        NotFound: The instance has no such job.
    """
    client, _, job_id = await reached(job, provider)
    return await client.job(job_id)


wait_for_job, await_for_job = doors(wait_until_completed, "wait_for_job")
fetch_result, afetch_result = doors(fetch_stored, "fetch_result")
cancel_job, acancel_job = doors(cancel, "cancel_job")
