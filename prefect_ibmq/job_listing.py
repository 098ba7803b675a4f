"""Jobs of an instance, with every filter of the IBMQ API, safe while jobs come and go.

Pages are walked by time of creation, never by offset alone (`wire/listing.py`): no job is listed twice, and none is
missed that was there from the beginning of the listing to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq import loop
from prefect_ibmq.errors import InputError
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.job_filters import JobCriteria, criteria_of
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of

if TYPE_CHECKING:
    import pandas as pd

    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import JobRecord

__all__ = [
    "aactive_jobs",
    "active_jobs",
    "aiter_jobs",
    "ajobs_frame",
    "alist_jobs",
    "iter_jobs",
    "jobs_frame",
    "list_jobs",
    "list_matching",
    "matching_jobs",
]

_COLUMNS = (
    "job_id", "name", "status", "status_word", "backend", "program", "created", "usage_seconds", "reason",
    "reason_code", "tags", "experiment_id", "session_id", "private", "estimated_running_time_seconds",
    "max_execution_time", "simulated", "channel", "instance",
)  # fmt: skip
_AT_ONCE = 100  # jobs that cross from the wire's loop to the caller's together: half a page


async def matching_jobs(
    client: RuntimeClient, criteria: JobCriteria, most: int | None = None
) -> AsyncGenerator[JobRecord, None]:
    """All jobs that match, each once, by time of creation; on the wire's loop.

    Args:
        client: The instance's client.
        criteria: What they must match.
        most: How many are wanted, which spares large pages where nothing is filtered here.
    """
    enough = None if criteria.predicates else most
    streams = [client.list_jobs(enough, tags=tags, **criteria.asked) for tags in criteria.tag_sets]
    merged = streams[0] if len(streams) == 1 else _merged(streams, newest_first=criteria.asked["sort"] == "DESC")
    async for job in merged:
        if criteria.accepts(job):
            yield job


async def _merged(streams: Sequence[AsyncIterator[JobRecord]], *, newest_first: bool) -> AsyncIterator[JobRecord]:
    """Several sorted streams as one, each job once."""
    heads = [await anext(stream, None) for stream in streams]
    seen: set[str] = set()
    while left := [index for index, head in enumerate(heads) if head is not None]:

        def created(index: int) -> datetime:
            head = heads[index]
            assert head is not None
            return head.created

        chosen = max(left, key=created) if newest_first else min(left, key=created)
        job = heads[chosen]
        heads[chosen] = await anext(streams[chosen], None)
        if job is not None and job.id not in seen:
            seen.add(job.id)
            yield job


async def _pieces(
    provider: IBMQProvider | str | None, criteria: JobCriteria, limit: int | None, skip: int
) -> AsyncIterator[list[JobRecord]]:
    """The jobs asked for, in lists of up to half a page."""
    client = await (await provider_of(provider)).aget_client()
    most = None if limit is None else skip + limit
    piece: list[JobRecord] = []
    passed = 0
    if limit == 0:
        return
    async with aclosing(matching_jobs(client, criteria, most)) as jobs:
        async for job in jobs:
            passed += 1
            if passed <= skip:
                continue
            piece.append(job)
            if passed == most:
                break
            if len(piece) == _AT_ONCE:
                yield piece
                piece = []
    if piece:
        yield piece


def _asked(filters: dict[str, Any], limit: int | None, skip: int) -> JobCriteria:
    for name, number in (("limit", limit), ("skip", skip)):
        if number is not None and (isinstance(number, bool) or number < 0):
            raise InputError(f"{name}={number!r} is no number of jobs.", hint="Use 0 or more; limit=None lists all.")
    return criteria_of(**filters)


async def list_matching(
    provider: IBMQProvider | str | None = None,
    limit: int | None = 10,
    skip: int = 0,
    backend_name: str | None = None,
    status: JobStatus | str | Sequence[JobStatus | str] | None = None,
    job_name: str | None = None,
    start_datetime: datetime | None = None,
    end_datetime: datetime | None = None,
    job_tags: Sequence[str] | None = None,
    job_tags_operator: str = "OR",
    experiment_id: str | None = None,
    descending: bool = True,
    db_filter: Mapping[str, Any] | None = None,
    *,
    session_id: str | None = None,
    program: str | None = None,
    pending: bool | None = None,
) -> list[JobRecord]:
    """The jobs of an instance that pass every filter, those of retired backends included.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        limit: Most jobs; None lists all, 200 with each request.
        skip: How many matching jobs are passed over first. To go on with a listing, `iter_jobs` is safer: jobs that
            come and go meanwhile move what a number of jobs means.
        backend_name: Only jobs of this backend.
        status: Only jobs of this status, or one of these: `JobStatus` or its words, and `DONE` and `ERROR` of the
            IBMQ API. Filtered here.
        job_name: A regular expression that is found in the job's name. Filtered here.
        start_datetime: Only jobs created then or later; a naive time is local time.
        end_datetime: Only jobs created then or earlier; a naive time is local time.
        job_tags: Only jobs with these tags.
        job_tags_operator: `OR`: any of the tags is enough. `AND`: all of them.
        experiment_id: Only jobs submitted with this `experiment_id`.
        descending: Newest first; else oldest first.
        db_filter: A LoopBack `where` filter on `id`, `name`, `backend`, `status`, `tags`, `created`, `experiment_id`,
            `program`, `session_id`, `private`, `cost`, `usage_seconds`, `reason_code` or `user_id`, such as
            `{"usage_seconds": {"gt": 60}}`. Filtered here.
        session_id: Only jobs of this session or batch.
        program: Only jobs of this program.
        pending: True: only jobs that have not ended, whatever the service calls their status. False: only ended ones.

    Returns:
        Job records: `id`, `name`, `backend`, `created` (UTC), `status`, `tags`, `usage_seconds` and more. Tasks on
        jobs take them in the place of a handle.

    Raises:
        InputError: A value cannot be used.
        NotOffered: A status, or a field or operator of `db_filter`, that the service does not have; the substitute
            is named.
    """
    criteria = _asked(
        {
            "backend_name": backend_name,
            "status": status,
            "job_name": job_name,
            "start_datetime": start_datetime,
            "end_datetime": end_datetime,
            "job_tags": job_tags,
            "job_tags_operator": job_tags_operator,
            "experiment_id": experiment_id,
            "session_id": session_id,
            "program": program,
            "pending": pending,
            "descending": descending,
            "db_filter": db_filter,
        },
        limit,
        skip,
    )
    return [job async for piece in _pieces(provider, criteria, limit, skip) for job in piece]


_DEFAULTS: dict[str, Any] = {
    "backend_name": None, "status": None, "job_name": None, "start_datetime": None, "end_datetime": None,
    "job_tags": None, "job_tags_operator": "OR", "experiment_id": None, "session_id": None, "program": None,
    "pending": None, "descending": True, "db_filter": None,
}  # fmt: skip


def _read(filters: dict[str, Any], limit: int | None, skip: int) -> JobCriteria:
    if unknown := sorted(set(filters) - set(_DEFAULTS)):
        raise InputError(f"Jobs have no filter {unknown[0]!r}.", hint=f"Use one of {', '.join(_DEFAULTS)}.")
    return _asked(_DEFAULTS | filters, limit, skip)


def iter_jobs(
    provider: IBMQProvider | str | None = None, limit: int | None = None, skip: int = 0, **filters: Any
) -> Iterator[JobRecord]:
    """The jobs of `list_jobs`, one after the other, while further pages are asked for only as they are needed.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        limit: Most jobs; None is all of them.
        skip: How many matching jobs are passed over first.
        filters: As `list_jobs` takes them.

    Raises:
        InputError: A filter is unknown, or a value cannot be used; at once, before the first job.
    """
    return _iterated(_pieces(provider, _read(filters, limit, skip), limit, skip))


def _iterated(pieces: AsyncIterator[list[JobRecord]]) -> Iterator[JobRecord]:
    while True:
        piece = loop.run(_next(pieces))
        if piece is None:
            return
        yield from piece


def aiter_jobs(
    provider: IBMQProvider | str | None = None, limit: int | None = None, skip: int = 0, **filters: Any
) -> AsyncIterator[JobRecord]:
    """The async form of `iter_jobs`, for `async for`."""
    return _aiterated(_pieces(provider, _read(filters, limit, skip), limit, skip))


async def _aiterated(pieces: AsyncIterator[list[JobRecord]]) -> AsyncIterator[JobRecord]:
    while (piece := await loop.arun(_next(pieces))) is not None:
        for job in piece:
            yield job


async def _next(pieces: AsyncIterator[list[JobRecord]]) -> list[JobRecord] | None:
    return await anext(pieces, None)


async def _jobs_frame(
    provider: IBMQProvider | str | None = None, limit: int | None = None, skip: int = 0, **filters: Any
) -> pd.DataFrame:
    """The jobs of `list_jobs` as a DataFrame, one row a job.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        limit: Most jobs; None is all of them.
        skip: How many matching jobs are passed over first.
        filters: As `list_jobs` takes them.

    Returns:
        Columns `job_id`, `name`, `status`, `status_word`, `backend`, `program`, `created` (UTC), `usage_seconds`
        (QPU), `reason`, `reason_code`, `tags`, `experiment_id`, `session_id`, `private`,
        `estimated_running_time_seconds`, `max_execution_time` (seconds), `simulated`, `channel`, `instance`. What the
        service does not tell is missing.

    Raises:
        InputError: A filter is unknown, or a value cannot be used.
    """
    chosen, criteria = await provider_of(provider), _read(filters, limit, skip)
    client = await chosen.aget_client()
    rows = [_row(job, chosen, client.crn) async for piece in _pieces(chosen, criteria, limit, skip) for job in piece]
    return await asyncio.to_thread(_frame, rows)


def _row(job: JobRecord, provider: IBMQProvider, crn: str) -> tuple[Any, ...]:
    simulated = provider.simulated or job.raw.get("simulated") is True
    return (
        job.id, job.name, job.status.value, job.status_word, job.backend, job.program, job.created, job.usage_seconds,
        job.reason, job.reason_code, job.tags, job.experiment_id, job.session_id, job.private,
        job.estimated_running_time_seconds, job.cost, simulated, provider.channel, crn,
    )  # fmt: skip


def _frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    # Without a row nobody knows that this is a column of times, nor that a missing code is not 0.0.
    frame["created"] = pd.to_datetime(frame["created"], utc=True)
    numbers = {"usage_seconds": "float64", "estimated_running_time_seconds": "float64"}
    return frame.astype(numbers | {"reason_code": "Int64", "max_execution_time": "Int64"})


async def _active_jobs(
    provider: IBMQProvider | str | None = None, backend_name: str | None = None, limit: int | None = 10
) -> list[JobRecord]:
    """Your jobs that have not ended, newest first.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        backend_name: Only jobs of this backend.
        limit: Most jobs; None is all of them.
    """
    return await list_matching(provider, limit, backend_name=backend_name, pending=True)


list_jobs, alist_jobs = doors(list_matching, "list_jobs")
jobs_frame, ajobs_frame = doors(_jobs_frame, "jobs_frame")
active_jobs, aactive_jobs = doors(_active_jobs, "active_jobs")
