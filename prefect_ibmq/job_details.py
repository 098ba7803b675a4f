"""What the service tells of one job beyond its status: where it stands in the queue, its times, its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.backend_records import BackendRecord, PropertiesRecord
from prefect_ibmq.calibration_stamps import ask_calibration
from prefect_ibmq.errors import InputError
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.jobs import handle_from, job_record, reached
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.wire.rivals import SET_PREFIX, place_of

if TYPE_CHECKING:
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import BackendSummary, JobMetrics, JobRecord

__all__ = [
    "JobTimes",
    "QueueInfo",
    "aget_job",
    "ajob_logs",
    "ajob_metrics",
    "ajob_properties",
    "aqueue_info",
    "aretrieve_job",
    "atime_per_step",
    "calibration_of_job",
    "find_job",
    "get_job",
    "job_logs",
    "job_metrics",
    "job_properties",
    "logs_of",
    "metrics_of",
    "properties_of",
    "queue_info",
    "queue_of",
    "retrieve_job",
    "time_per_step",
    "times_of",
]


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """Where a job stands in the queue, as far as the service tells; None is what it does not tell.

    Attributes:
        status: The job's status; of a job that is not queued all that follows is None.
        queue_length: Jobs of all users that wait for its backend.
        position: Its place among them; the service of today does not tell it.
        estimated_wait_seconds: The median of recent waits for that backend, in seconds.
        estimated_running_time_seconds: QPU seconds that the service expects the job to take.
        estimated_start_time: When the service expects it to begin, UTC; the service of today does not tell it.
        estimated_complete_time: When the service expects it to end, UTC; likewise.
    """

    status: JobStatus
    queue_length: int | None = None
    position: int | None = None
    estimated_wait_seconds: float | None = None
    estimated_running_time_seconds: float | None = None
    estimated_start_time: datetime | None = None
    estimated_complete_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobTimes:
    """When a job went through its steps, by the service's clock in UTC; None is a step that it has not reached.

    The steps that the IBMQ API had besides (creating, validating, transpiling) do not exist any more.
    """

    created: datetime
    running: datetime | None
    finished: datetime | None

    @property
    def queued_seconds(self) -> float | None:
        """Seconds from its creation until it ran."""
        return _seconds(self.created, self.running)

    @property
    def running_seconds(self) -> float | None:
        """Seconds from when it ran to its end; the QPU's share of them is `usage_seconds` of its metrics."""
        return _seconds(self.running, self.finished)

    @property
    def total_seconds(self) -> float | None:
        """Seconds from its creation to its end."""
        return _seconds(self.created, self.finished)


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


async def find_job(
    provider: IBMQProvider | str | None, job_id: str, backend: str | BackendRecord | None = None
) -> JobHandle:
    """The handle of a job of the instance, whoever submitted it, and whatever became of its backend.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        job_id: The service's id.
        backend: Its backend, where you want that to be checked.

    Returns:
        The handle that all tasks on jobs take: `wait_for_job`, `fetch_result`, `job_properties`, …

    Raises:
        NotFound: The instance has no such job.
        InputError: The job is of another backend.
    """
    chosen = await provider_of(provider)
    record = await job_record(job_id, chosen)
    name = backend.name if isinstance(backend, BackendRecord) else backend
    if name is not None and record.backend != name:
        raise InputError(f"Job {record.id} is of {record.backend}, not of {name}.", hint="Leave `backend` out.")
    return _placed(handle_from(record, record.id, chosen, await chosen.aget_client()), record)


def _placed(handle: JobHandle, record: JobRecord) -> JobHandle:
    """The handle with its place in a set, where the job's own tags tell one."""
    sets = [tag for tag in record.tags or () if tag.startswith(SET_PREFIX)]
    place = place_of(record, sets[0]) if len(sets) == 1 else None
    if place is None:
        return handle
    found = {"first": place.first, "last": place.last, "attempt": place.attempt}
    return handle.model_copy(update=found | {"set_key": sets[0].removeprefix(SET_PREFIX)})


async def metrics_of(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> JobMetrics:
    """A job's times (UTC), its QPU seconds, and the client that submitted it.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        NotFound: The instance has no such job.
    """
    client, _, job_id = await reached(job, provider)
    return await client.job_metrics(job_id)


async def logs_of(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> str:
    """A job's log; empty while there is none. The service writes it once the job has ended.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.
    """
    client, _, job_id = await reached(job, provider)
    return await client.job_logs(job_id)


async def calibration_of_job(client: RuntimeClient, job_id: str, backend: str) -> PropertiesRecord | None:
    """The calibration in force when a job ran; on the wire's loop.

    It is the newest one that is older than the moment at which the job began to run.

    Returns:
        The calibration in SI units; None where the job has not run, and where the service has no calibration of that
        time, as of a backend that is retired.

    Raises:
        NotFound: The instance has no such job.
    """
    metrics = await client.job_metrics(job_id)
    # Where the service omits when a job began, it cannot have been long after its creation that it was calibrated for.
    executed = metrics.circuits_execution_time_ns is not None
    ran = metrics.running or (metrics.created if executed else None)
    if ran is None:
        return None
    seen = await ask_calibration(client, backend, ran)
    return PropertiesRecord(dict(seen.properties)) if seen else None


async def properties_of(
    job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None
) -> PropertiesRecord | None:
    """The calibration in force when a job ran.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Returns:
        The calibration in SI units; None where the job has not run, and where the service has no calibration of that
        time. `read_calibration` asks the archive, which keeps those of retired backends.

    Raises:
        NotFound: The instance has no such job.
    """
    client, known, job_id = await reached(job, provider)
    backend = known.backend if isinstance(known, JobHandle) else (await client.job(job_id)).backend
    return await calibration_of_job(client, job_id, backend)


async def queue_of(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> QueueInfo:
    """Where a job stands in the queue, as far as the service tells.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        NotFound: The instance has no such job.
    """
    client, _, job_id = await reached(job, provider)
    record = await client.job(job_id)
    if record.status is not JobStatus.QUEUED:
        return QueueInfo(record.status)
    backends = await client.list_backends(wait_times=True)
    backend = next((each for each in backends if each.name == record.backend), None)
    told = (await client.job_metrics(job_id)).raw
    position = told.get("position_in_queue")
    return QueueInfo(
        record.status,
        queue_length=backend.queue_length if backend else None,
        position=position if isinstance(position, int) and not isinstance(position, bool) else None,
        estimated_wait_seconds=_median_wait(backend),
        estimated_running_time_seconds=record.estimated_running_time_seconds,
        estimated_start_time=parse_date(told.get("estimated_start_time")),
        estimated_complete_time=parse_date(told.get("estimated_completion_time")),
    )


def _median_wait(backend: BackendSummary | None) -> float | None:
    return None if backend is None else (backend.wait_time_seconds or {}).get("p50")


async def times_of(job: JobHandle | JobRecord | str, provider: IBMQProvider | str | None = None) -> JobTimes:
    """When a job was created, ran and finished, and the seconds between.

    Args:
        job: The job's handle, its id, or its row of `list_jobs`.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        NotFound: The instance has no such job.
    """
    client, _, job_id = await reached(job, provider)
    metrics = await client.job_metrics(job_id)
    created = metrics.created or (await client.job(job_id)).created
    return JobTimes(created, metrics.running, metrics.finished)


retrieve_job, aretrieve_job = doors(find_job, "retrieve_job")
get_job, aget_job = doors(job_record, "get_job")
job_metrics, ajob_metrics = doors(metrics_of, "job_metrics")
job_logs, ajob_logs = doors(logs_of, "job_logs")
job_properties, ajob_properties = doors(properties_of, "job_properties")
queue_info, aqueue_info = doors(queue_of, "queue_info")
time_per_step, atime_per_step = doors(times_of, "time_per_step")
