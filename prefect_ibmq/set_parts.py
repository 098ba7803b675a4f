"""The parts of a job set, as its run folder and the service tell them: which circuit ran where, and how that ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prefect_ibmq.attempts import End
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.jobs import handle_from
from prefect_ibmq.runs import stored_values
from prefect_ibmq.surviving import sent_stamps
from prefect_ibmq.tags import set_tag
from prefect_ibmq.wire.rivals import Place, is_reordered, places_of, stopped_by, winner

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.provider import IBMQProvider
    from prefect_ibmq.run_listing import StoredRun
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import JobRecord

__all__ = ["NOT_SUBMITTED", "SUBMITTED", "SetCircuit", "SetPart", "as_listed", "stored_parts", "surviving_parts"]

NOT_SUBMITTED, SUBMITTED = "Not submitted", "Submitted"
_AT_ONCE = 8  # requests for params, tens of MB each perhaps


@dataclass(frozen=True)
class SetCircuit:
    """Where one circuit of a set runs within its job.

    Attributes:
        position: Its position in the set, as given.
        circuit: Its name.
        pub: Index of the PUB of the job.
        element: Index of its first element in the PUB's sweep; above 0 only where circuits of one structure share it.
        shape: Shape of its own sweep of parameter values.
        parameters: Names of its parameters.
    """

    position: int
    circuit: str
    pub: int
    element: int = 0
    shape: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetPart:
    """One part of a set: the circuits of one job, and its last attempt.

    Attributes:
        first: First place of the part.
        last: Last place, inclusive.
        circuits: What runs there.
        status: A word of `JobStatus`, `Not submitted`, or `Submitted` where nobody has asked what became of it.
        handle: Its job, or None.
        attempt: Which attempt it is, from 1; 0 where there is none.
        reason: Why there is no result, as far as anybody tells.
        code: IBM's reason code, or None.
        seconds: QPU seconds of the job, or None where the service has not told.
    """

    first: int
    last: int
    circuits: tuple[SetCircuit, ...]
    status: str = NOT_SUBMITTED
    handle: JobHandle | None = None
    attempt: int = 0
    reason: str = ""
    code: int | None = None
    seconds: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether its job may still end otherwise than is told here."""
        return self.handle is not None and self.status not in _FINAL

    @property
    def label(self) -> str:
        """`<first>-<last>`."""
        return f"{self.first}-{self.last}"


_FINAL = frozenset(
    status.value for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.RAN_TOO_LONG)
)


def stored_parts(archive: Archive, run: StoredRun) -> tuple[SetPart, ...]:
    """The parts of a set as its run folder tells them."""
    plan = run.plan
    values = stored_values(archive, plan.set_key, sum(part.part.last - part.part.first + 1 for part in run.parts))
    parts = []
    for told in run.parts:
        circuits = []
        for pub, places in enumerate(told.part.pubs()):
            element = 0
            for place in places:
                position, bound = plan.position(place), values[place]
                shape = () if bound is None else tuple(bound.shape)
                names = () if bound is None else tuple(str(name) for keys in bound.data for name in keys)
                name = plan.circuits[place] if plan.circuits else f"circuit_{position}"
                circuits.append(SetCircuit(position, name, pub, element, shape, names))
                element += math.prod(shape)
        part = SetPart(told.part.first, told.part.last, _by_position(circuits), attempt=told.attempt)
        parts.append(replace(part, handle=told.handle, **_told(told.is_done, told.handle, told.end)))
    return tuple(parts)


def _by_position(circuits: Sequence[SetCircuit]) -> tuple[SetCircuit, ...]:
    return tuple(sorted(circuits, key=lambda each: each.position))


def _told(is_done: bool, handle: JobHandle | None, end: End | None) -> dict[str, Any]:
    if is_done:
        return {"status": JobStatus.COMPLETED.value}
    if handle is None:
        return {"reason": "It has not been submitted."}
    if end is None:
        return {"status": SUBMITTED}
    stopped = "It was cancelled by us." if end.stopped_by else ""
    return {"status": end.status.value, "reason": end.reason or stopped or str(end.error()), "code": end.code}


async def surviving_parts(
    jobs: Sequence[JobRecord], set_key: str, provider: IBMQProvider, client: RuntimeClient
) -> tuple[tuple[SetPart, ...], int]:
    """The parts of a set without its folder, by its jobs' tags and params; and how many circuits the set has.

    What no job covers is in no part.
    """
    latest = _latest(places_of(jobs, set_tag(set_key)))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def told(place: Place, job: JobRecord) -> tuple[SetPart, int]:
        async with gate:
            pubs = await sent_stamps(client, job)
        circuits: list[SetCircuit] = []
        for pub, stamps in enumerate(pubs):
            element = 0
            for stamp in stamps:
                shape = tuple(stamp["shape"])
                names = tuple(stamp.get("parameters") or ())
                name = str(stamp.get("circuit"))
                circuits.append(SetCircuit(int(stamp["position"]), name, pub, element, shape, names))
                element += math.prod(shape)
        if not circuits and not is_reordered(job):
            positions = range(place.first, place.last + 1)
            circuits = [SetCircuit(each, f"circuit_{each}", index) for index, each in enumerate(positions)]
        first = next((stamps[0] for stamps in pubs if stamps), {})
        handle = _handle(job, place, set_key, provider, client, first)
        part = SetPart(place.first, place.last, _by_position(circuits), handle=handle, attempt=place.attempt)
        return as_shown(part, job), int(first.get("of") or place.last + 1)

    found = await asyncio.gather(*(told(place, job) for place, job in sorted(latest.items())))
    return tuple(part for part, _ in found), max((count for _, count in found), default=0)


def _latest(places: Mapping[Place, Sequence[JobRecord]]) -> dict[Place, JobRecord]:
    """Of each part the job that counts: of a completed attempt, else of the last one."""
    best: dict[tuple[int, int], tuple[Place, JobRecord]] = {}
    for place, jobs in sorted(places.items()):
        job, earlier = winner(list(jobs)), best.get((place.first, place.last))
        if earlier is None or earlier[1].status is not JobStatus.COMPLETED:
            best[place.first, place.last] = (place, job)
    return dict(best.values())


def _handle(
    job: JobRecord,
    place: Place,
    set_key: str,
    provider: IBMQProvider,
    client: RuntimeClient,
    stamp: Mapping[str, Any],
) -> JobHandle:
    placed = {
        "run_key": stamp.get("run_key"),
        "set_key": set_key,
        "first": place.first,
        "last": place.last,
        "attempt": place.attempt,
        "transpiled_for": stamp.get("calibration"),
        "snapshot_transpiled": stamp.get("snapshot"),
    }
    return JobHandle.model_validate(handle_from(job, job.id, provider, client).model_dump() | placed)


def as_shown(part: SetPart, job: JobRecord) -> SetPart:
    """A part with what the service says of its job now."""
    reason = job.reason or ("It was cancelled by us." if stopped_by(job) else "")
    silent = "" if job.status in (JobStatus.COMPLETED, JobStatus.QUEUED, JobStatus.RUNNING) else "No reason is told."
    return replace(
        part, seconds=job.usage_seconds, status=job.status.value, reason=reason or silent, code=job.reason_code
    )


def as_listed(
    parts: Sequence[SetPart], jobs: Sequence[JobRecord], set_key: str, provider: IBMQProvider, client: RuntimeClient
) -> tuple[SetPart, ...]:
    """Parts with what the service's list says of their jobs; a result that is stored stays, whatever became of them."""
    latest = {
        (place.first, place.last): (place, job) for place, job in _latest(places_of(jobs, set_tag(set_key))).items()
    }
    shown = []
    for part in parts:
        place, job = latest.get((part.first, part.last), (None, None))
        if place is None or job is None or place.attempt < part.attempt:
            shown.append(part)
        elif part.status == JobStatus.COMPLETED.value:
            same = part.handle is not None and part.handle.job_id == job.id
            shown.append(replace(part, seconds=job.usage_seconds if same else part.seconds))
        elif part.handle is not None and part.handle.job_id == job.id:
            told = as_shown(part, job)
            shown.append(replace(told, reason=part.reason if part.reason and not part.is_open else told.reason))
        else:
            handle = _handle(job, place, set_key, provider, client, {"run_key": _run_key(parts)})
            shown.append(as_shown(replace(part, handle=handle, attempt=place.attempt), job))
    return tuple(shown)


def _run_key(parts: Sequence[SetPart]) -> str | None:
    return next((part.handle.run_key for part in parts if part.handle is not None), None)
