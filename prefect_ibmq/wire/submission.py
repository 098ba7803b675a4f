"""Submit each part of a set exactly once.

`POST /jobs` has no idempotency key, and an answer can be lost after the job exists. So before each POST an intent is
written down and after it the job's handle; a POST whose outcome is unclear is never simply repeated. What proves that
no job came of it is a refusal by the service itself, or a list of the set's jobs that succeeded long enough after the
connection had ended: the list may lag. A job that the list shows is adopted, whoever posted it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from prefect_ibmq.errors import (
    DeadlineExceeded,
    IBMQError,
    NothingSent,
    PendingLimit,
    RateLimited,
    ServiceError,
    SubmissionUnclear,
    TransportError,
)
from prefect_ibmq.wire.answers import nothing_ran
from prefect_ibmq.wire.rivals import Place, places_of, settle_rivals

if TYPE_CHECKING:
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.job_requests import JobRequest
    from prefect_ibmq.wire.records import JobRecord
    from prefect_ibmq.wire.turns import Turn

__all__ = ["Journal", "SetListing", "Submitted", "submit_place"]

_logger = logging.getLogger("prefect_ibmq.wire")
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 1.0, 30.0, 1.6
_MOST_UNCLEAR = 3  # POSTs without a usable answer, each proved to have made no job, before that is an error
_ASK_AGAIN = "Run the same again with the same run key: what is submitted already is gone on with."
_UNCONNECTED = 5  # how often a connection that was never made is tried again


class Journal(Protocol):
    """What outlives the process: notes on one place, each written whole before the method returns."""

    async def job_id(self) -> str | None:
        """The job of this place, if one is known."""

    async def has_intent(self) -> bool:
        """Whether somebody was about to post this place, and said no more."""

    async def prepare(self) -> None:
        """This place's turn to be posted has come. What speaks against it is raised, and is no error of the wire."""

    async def write_intent(self) -> None:
        """This place is about to be posted."""

    async def withdraw_intent(self) -> None:
        """It is proved that no job came of it."""

    async def write_job(self, job_id: str, record: JobRecord | None) -> None:
        """The job of this place, with what the service says of it where that is known."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job of a place.

    Attributes:
        job_id: The service's id.
        created: When it was created, where the list told.
        adopted: Whether it was there already: posted by an earlier attempt, or by another process.
        surplus: Ids of other jobs of the same place, cancelled in its favour.
    """

    job_id: str
    created: datetime | None = None
    adopted: bool = False
    surplus: tuple[str, ...] = ()


class SetListing:
    """The jobs of a set as the service lists them: asked once for all parts, and again only where that proves more.

    Args:
        client: Where to ask.
        tag: The set's tag.
        settle: Seconds that the list may lag behind an accepted job.
    """

    def __init__(self, client: RuntimeClient, tag: str, settle: float) -> None:
        self._client, self.tag, self._settle = client, tag, settle
        self._places: dict[Place, list[JobRecord]] = {}
        self._asked_at: float | None = None
        self._lock = asyncio.Lock()

    async def known(self) -> dict[Place, list[JobRecord]]:
        """The set's jobs by place, as first listed."""
        return await self._since(float("-inf"))

    async def settled(self, ended: float) -> dict[Place, list[JobRecord]]:
        """The set's jobs by a list that was asked for long enough after a connection had ended.

        Args:
            ended: When it ended, by the event loop's clock.
        """
        return await self._since(ended + self._settle)

    async def _since(self, moment: float) -> dict[Place, list[JobRecord]]:
        clock = asyncio.get_running_loop().time
        while True:
            async with self._lock:
                if self._asked_at is not None and self._asked_at >= moment:
                    return self._places
                if (pause := moment - clock()) <= 0:
                    asked_at = clock()
                    jobs = [job async for job in self._client.list_jobs(tags=(self.tag,))]
                    self._places, self._asked_at = places_of(jobs, self.tag), asked_at
                    return self._places
            await asyncio.sleep(pause)


async def submit_place(
    client: RuntimeClient,
    listing: SetListing,
    place: Place,
    journal: Journal,
    make_request: Callable[[], Awaitable[JobRequest]],
    turn: Turn,
    *,
    deadline: float | None = None,
) -> Submitted:
    """The job of a place: the one that is known, or listed, or else a new one.

    Args:
        client: The instance's client.
        listing: The set's jobs.
        place: Which part, and which attempt at it.
        journal: Notes on the place.
        make_request: Encodes the job; called only where it is posted, when its turn has come.
        turn: Its turn among the parts of the set.
        deadline: Until when waiting is worth while, by the event loop's clock; None waits as long as it takes.

    Raises:
        SubmissionUnclear: A POST's outcome could not be proved before the deadline; the intent stays.
        ServiceError: The service refused; no job was made.
        NothingSent: No connection could be made; no job was made.
        DeadlineExceeded: Its turn did not come before the deadline; no job was made.
    """
    clock = asyncio.get_running_loop().time
    if (job_id := await journal.job_id()) is not None:
        return Submitted(job_id, adopted=True)
    adopted = await _adopt(client, await listing.known(), place, journal)
    if adopted is None and await journal.has_intent():
        turn.leave()  # others need not wait for the list to settle
        adopted = await _adopt(client, await listing.settled(clock()), place, journal)
    if adopted is not None:
        return adopted
    return await _post(client, listing, place, journal, make_request, turn, deadline)


async def _adopt(
    client: RuntimeClient, places: dict[Place, list[JobRecord]], place: Place, journal: Journal
) -> Submitted | None:
    if not (rivals := places.get(place)):
        return None
    kept, surplus = await settle_rivals(client, rivals)
    await journal.write_job(kept.id, kept)
    return Submitted(kept.id, kept.created, adopted=True, surplus=tuple(job.id for job in surplus))


async def _post(
    client: RuntimeClient,
    listing: SetListing,
    place: Place,
    journal: Journal,
    make_request: Callable[[], Awaitable[JobRequest]],
    turn: Turn,
    deadline: float | None,
) -> Submitted:
    clock = asyncio.get_running_loop().time
    async with turn.next_to_post() as posting:
        request = await make_request()
        await posting.acquire()
    for left in reversed(range(_MOST_UNCLEAR)):
        try:
            try:
                return await _accepted(client, journal, request, deadline)
            finally:
                posting.release()
        except (ServiceError, TransportError) as error:
            if nothing_ran(error):
                raise
            # Others take their turn while this one settles.
            adopted = await _resolve(client, listing, place, journal, error, clock(), deadline)
            if adopted is not None:
                return adopted
            if not left:
                raise _unclear(error, listing.tag, "It was posted several times, with no usable answer.") from error
        await posting.acquire()
    raise AssertionError("the last unclear POST is raised")


async def _accepted(client: RuntimeClient, journal: Journal, request: JobRequest, deadline: float | None) -> Submitted:
    """Post until the service accepts; limits are waited out, everything else is raised."""
    refusals = unconnected = 0
    while True:
        if deadline is not None and asyncio.get_running_loop().time() > deadline:
            raise DeadlineExceeded("The deadline passed before the job could be posted.", hint=_ASK_AGAIN)
        await journal.prepare()
        try:
            # Once a POST is out, a cancelled caller must still write down what became of it; but posts no more.
            return await asyncio.shield(asyncio.create_task(_posted(client, journal, request)))
        except (ServiceError, TransportError) as error:
            if not nothing_ran(error):
                raise
            unconnected += isinstance(error, NothingSent)
            if not _is_worth_waiting(error, unconnected):
                raise
            refusals += 1
            await _pause(error, refusals, deadline)


async def _posted(client: RuntimeClient, journal: Journal, request: JobRequest) -> Submitted:
    """One POST between its notes."""
    await journal.write_intent()
    try:
        job_id = await client.create_job(request)
    except (ServiceError, TransportError) as error:
        if nothing_ran(error):
            await journal.withdraw_intent()
        raise
    await journal.write_job(job_id, None)
    return Submitted(job_id)


def _is_worth_waiting(error: IBMQError, unconnected: int) -> bool:
    if isinstance(error, NothingSent):
        return error.retryable and unconnected < _UNCONNECTED
    return isinstance(error, RateLimited | PendingLimit)


async def _pause(error: IBMQError, refusals: int, deadline: float | None) -> None:
    """Wait before the next POST; the error itself is raised where the deadline would pass meanwhile."""
    asked = getattr(error, "retry_after", None)
    pause = min(_FIRST_PAUSE * _GROWTH ** (refusals - 1), _LONGEST_PAUSE) * random.uniform(0.8, 1.0)
    pause = max(pause, float(asked)) if asked is not None else pause
    if deadline is not None and asyncio.get_running_loop().time() + pause > deadline:
        raise error
    _logger.info("Not accepted yet, tried again in %.1f s: %s", pause, error)
    await asyncio.sleep(pause)


async def _resolve(
    client: RuntimeClient,
    listing: SetListing,
    place: Place,
    journal: Journal,
    error: IBMQError,
    ended: float,
    deadline: float | None,
) -> Submitted | None:
    """What became of a POST: its job, or None where a list that has settled proves that there is none."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return await _adopt(client, await listing.settled(ended), place, journal)
        except (ServiceError, TransportError) as trouble:
            now = asyncio.get_running_loop().time()
            if not trouble.retryable or (deadline is not None and now + pause > deadline):
                raise _unclear(error, listing.tag, f"Looking for it failed, too: {trouble}") from error
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def _unclear(error: IBMQError, tag: str, trouble: str) -> SubmissionUnclear:
    return SubmissionUnclear(
        f"Whether the service has accepted a job is unclear: {error} {trouble}",
        key=tag,
        hint="It is not sent again now. Run the same again with the same run key: "
        "it looks for the job first, and submits only if there is none.",
    )
