"""Changing a job that is there: its tags, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_ibmq.archives import archive_of
from prefect_ibmq.errors import InputError, JobNotFinished
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.jobs import reached
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider
from prefect_ibmq.runs import raw_path, stored_handle
from prefect_ibmq.tags import OUR_PREFIX
from prefect_ibmq.wire.job_requests import MAX_TAG_LENGTH, MAX_TAGS
from prefect_ibmq.wire.rivals import SET_PREFIX

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.wire.records import JobRecord

__all__ = ["adelete_job", "aupdate_job_tags", "change_tags", "delete_job", "update_job_tags"]


async def change_tags(
    job: JobHandle | JobRecord | str,
    tags: Sequence[str] | None = None,
    provider: IBMQProvider | str | None = None,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
) -> list[str]:
    """Change your tags of a job. Those by which this package finds it again (`ibmq-…`) are always kept.

    The service replaces all tags at once: of two changes at the same moment the later one stays.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        tags: All tags that it is to have; None leaves those that it has.
        provider: The provider, its block's name, or None for the environment's.
        add: Tags that it is to have besides.
        remove: Tags that it is to lose.

    Returns:
        The tags that it has now, ours included.

    Raises:
        InputError: A tag is none, could be taken for one of ours, or there are more than a job can have: 8, of which
            one stays free on jobs that this package submitted.
        NotFound: The instance has no such job.
    """
    for given in (tags or (), add, remove):
        _check(given)
    client, _, job_id = await reached(job, provider)
    record = await client.job(job_id)
    before = list(record.tags or ())
    ours = [tag for tag in before if tag.startswith(OUR_PREFIX)]
    own = [tag for tag in before if tag not in ours] if tags is None else list(tags)
    now = [*ours, *(tag for tag in dict.fromkeys([*own, *add]) if tag not in remove)]
    most = MAX_TAGS - any(tag.startswith(SET_PREFIX) for tag in ours)
    if len(now) > most:
        raise InputError(
            f"Job {record.id} would have {len(now)} tags; {most} are possible, {len(ours)} of which are ours.",
            hint=f"Keep {most - len(ours)} of your own.",
        )
    if now != before:
        await client.set_job_tags(record.id, now)
    return now


def _check(tags: object) -> None:
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise InputError(f"{tags!r} are no tags.", hint="Pass a list of texts.")
    for tag in tags:
        if not isinstance(tag, str) or not tag.strip() or len(tag) > MAX_TAG_LENGTH:
            raise InputError(f"{tag!r} is no tag.", hint=f"A tag is a text of 1 to {MAX_TAG_LENGTH} characters.")
        if tag.lower().startswith(OUR_PREFIX):
            raise InputError(f"The tag {tag!r} is one of ours, which find the job again.", hint="Leave it out.")


async def _delete_job(
    job: JobHandle | JobRecord | str,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | Archive | None = None,
    force: bool = False,
) -> None:
    """Delete an ended job and its result from the service, for ever.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.
        archive: Path or URL of the archive that keeps its result; None is the folder under `$PREFECT_HOME/ibmq`.
        force: Delete it although its result is stored nowhere.

    Raises:
        InputError: It has a result that the archive does not keep, and `force` was not given.
        JobNotFinished: It has not ended.
        NotFound: The instance has no such job.
    """
    client, known, job_id = await reached(job, provider)
    store = await asyncio.to_thread(archive_of, archive)
    record = await client.job(job_id)
    if not record.status.is_final:
        raise JobNotFinished(record.id, record.status_word)
    # A job that ended without a result leaves nothing to lose.
    needs_result = record.status is JobStatus.COMPLETED and not force
    if needs_result and not await asyncio.to_thread(_is_stored, store, known):
        raise InputError(
            f"The result of job {record.id} is not stored in {store.url}; nothing was deleted.",
            hint="Fetch it first with fetch_result(job, archive=…), or pass force=True.",
        )
    await client.delete_job(record.id)


def _is_stored(store: Archive, job: JobHandle | str) -> bool:
    handle = stored_handle(store, job)
    return handle is not None and store.storage.exists(raw_path(handle))


update_job_tags, aupdate_job_tags = doors(change_tags, "update_job_tags")
delete_job, adelete_job = doors(_delete_job, "delete_job")
