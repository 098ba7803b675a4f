"""Tasks that fetch the calibrations of the past: back through the service's history, each asked for once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.archives import archive_of
from prefect_ibmq.collected import Collected, asked_backends, why
from prefect_ibmq.errors import IBMQError, InputError, NotFound
from prefect_ibmq.loop import doors
from prefect_ibmq.moments import moment_of
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.together import all_of

if TYPE_CHECKING:
    from prefect_ibmq.archive.calibrations import StoredCalibration
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.archive.walks import Walk
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = ["Reached", "abackfill_calibrations", "backfill_calibrations", "close_walks", "collect_history"]

_BACKENDS_AT_ONCE = 4
_KEPT_AT_ONCE = 24  # answers that are brought into the tables together, as one file each table
_ROUNDING = timedelta(seconds=1)
_FIRST_HOP = timedelta(minutes=15)
_LONGEST_HOP = timedelta(days=32)
_FIRST_DEVICE = datetime(2016, 5, 1, tzinfo=UTC)  # IBM's first one was opened that month: an older date is a mistake
_DATE = re.compile(rb'"last_update_date"\s*:\s*(?:\{[^{}]*"__value__"\s*:\s*)?"([^"]{8,40})"')


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the walk of a backend has come.

    Attributes:
        backend: The backend.
        payloads: How many calibrations came so far.
        low: The moment down to which everything is known.
        part: How much of the way is done, 0 to 1; None where nobody knows how far it is.
    """

    backend: str
    payloads: int
    low: datetime
    part: float | None


Tell = Callable[[Reached], None]


async def _backfill_calibrations(
    provider: IBMQProvider | str | None = None,
    backends: Sequence[str] | str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    archive: str | Path | Archive | None = None,
    *,
    keep_open: bool = False,
) -> dict[str, Any]:
    """Fetch the calibrations that the service still has of the past, newest first.

    What came before a run was killed is not asked for again, nor is what an earlier run has gone through. A backend is
    done where the calibration in force at `since` is reached, or where the service has nothing older. Payloads are
    stored as they were sent, collected now: what is known only since today does not become older by being fetched.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        backends: Names, also of retired ones; all of the instance's if None.
        since: Back to the calibration that was in force then: a datetime or ISO text, UTC where it has no zone. None
            is all that the service has.
        until: Begin with the newest calibration before this moment; with the newest of all if None.
        archive: Path or URL of the archive; the folder under `$PREFECT_HOME/ibmq` if None.
        keep_open: For a run that is one of several with one purpose: should they be broken off, whoever begins them
            again does not ask anew what is the newest. `close_walks` says that all are over.

    Returns:
        As `snapshot_calibrations`; of each backend also `requests`, `reached` (ISO 8601, UTC: from then on nothing is
        missing) and `history_ends` (whether the service has nothing older).

    Raises:
        IBMQError: No backend gave anything; the first reason is raised.
        ArchiveError: The archive cannot be written.
        InputError: `since` or `until` is no date, or they are the wrong way round; or no backend is named.
    """
    collected = await collect_history(provider, backends, since, until, archive, _in_the_log(), keep_open=keep_open)
    return collected.concluded()


def _in_the_log() -> Tell:
    logger = run_logger()

    def tell(reached: Reached) -> None:
        done = f" ({reached.part:.0%})" if reached.part is not None else ""
        logger.info("%s: %d calibrations, back to %s%s", reached.backend, reached.payloads, reached.low, done)

    return tell


async def collect_history(
    provider: IBMQProvider | str | None,
    backends: Sequence[str] | str | None,
    since: datetime | str | None,
    until: datetime | str | None,
    archive: str | Path | Archive | None,
    tell: Tell,
    *,
    keep_open: bool = False,
) -> Collected:
    """What `backfill_calibrations` does; that every backend failed is told, not raised.

    Args:
        tell: Is told each time that a backend's calibrations have been stored.
    """
    first, last = moment_of(since, "since"), moment_of(until, "until")
    if first is not None and last is not None and first >= last:
        raise InputError(f"since={since} is not before until={until}.")
    client = await (await provider_of(provider)).aget_client()
    opened = await asyncio.to_thread(archive_of, archive)
    collected = Collected(opened.url, await asked_backends(client, backends))
    places = asyncio.Semaphore(_BACKENDS_AT_ONCE)

    async def walk(name: str) -> None:
        async with places:
            walking = _Walking(client, opened, name, first, last, tell)
            try:
                await walking.go()
            except IBMQError as error:
                collected.failures[name] = await why(error, name, client)
            collected.stored[name] = walking.stored
            collected.details[name] = walking.details()

    await all_of(walk(name) for name in collected.asked)
    if not keep_open:
        await close_walks(opened, [name for name in collected.asked if name not in collected.failures])
    return collected


async def close_walks(archive: str | Path | Archive | None, backends: Sequence[str]) -> None:
    """Say that walks which were kept open are over: the next ones begin with the newest calibration again.

    Raises:
        ArchiveError: The archive cannot be written.
    """
    from prefect_ibmq.archive.walks import finish_walks

    opened = await asyncio.to_thread(archive_of, archive)
    for name in backends:
        await asyncio.to_thread(finish_walks, opened, name)


class _Walking:
    """One backend's walk, from now on."""

    def __init__(
        self,
        client: RuntimeClient,
        archive: Archive,
        backend: str,
        since: datetime | None,
        until: datetime | None,
        tell: Tell,
    ) -> None:
        self._client, self._archive, self.backend = client, archive, backend
        self._since, self._until, self._tell = since, until, tell
        self._walk: Walk | None = None
        self._from = until
        self._hop = _FIRST_HOP
        self._previous = b""
        self.stored: list[StoredCalibration] = []
        self.requests = 0

    def details(self) -> dict[str, Any]:
        """What is told of the backend."""
        before, ended = self._walk.next() if self._walk is not None else (None, False)
        return {
            "requests": self.requests,
            "reached": before.isoformat() if before is not None else None,
            "history_ends": ended,
        }

    async def go(self) -> None:
        """Walk to the end; what came is in the tables, whatever ends it."""
        from prefect_ibmq.archive.walks import open_walk

        began = datetime.now(UTC)
        walk, left = await asyncio.to_thread(open_walk, self._archive, self.backend, self._until, began)
        self._walk = walk
        self.stored += left
        try:
            await self._go(walk)
        finally:
            await self._settle(walk)
        if self.requests:
            await self._note_configuration()

    async def _go(self, walk: Walk) -> None:
        while True:
            before, ended = walk.next()
            if ended or (before is not None and self._since is not None and before <= self._since):
                return
            self.requests += 1
            sent = await self._ask(walk, before)
            await asyncio.to_thread(self._keep, walk, before, sent)
            if walk.kept >= _KEPT_AT_ONCE:
                await self._settle(walk)

    async def _ask(self, walk: Walk, before: datetime | None) -> bytes | None:
        try:
            return await self._client.backend_properties_text(self.backend, updated_before=before)
        except NotFound:
            # Of a retired device the service can have a history, too: what came proves that it knows the name.
            if walk.low is None:
                listed = [summary.name for summary in await self._client.list_backends(wait_times=False)]
                if self.backend not in listed:
                    raise
            return None

    def _keep(self, walk: Walk, before: datetime | None, sent: bytes | None) -> None:
        """Note an answer, and where it leads."""
        from prefect_ibmq.archive.walks import Answer

        now = datetime.now(UTC)
        if sent is None:
            if before is None:
                raise IBMQError(f"The service has no calibration of {self.backend}.")
            walk.keep(Answer(before, before, True, now))
            return
        low, ended = self._after(sent, before, now)
        # On the way past a date that nobody can read, and at the end of history, the same one comes several times.
        walk.keep(Answer(before, low, ended, now, b"" if sent == self._previous else sent))
        self._previous = sent
        self._from = self._from or low
        if self._hop > _LONGEST_HOP:
            raise IBMQError(f"The service's calibrations of {self.backend} before {before} cannot be read.")
        if not ended and low == before:
            raise IBMQError(f"The calibration of {self.backend} before {before} was asked for, and a later one came.")

    def _after(self, sent: bytes, before: datetime | None, now: datetime) -> tuple[datetime, bool]:
        """Where the walk goes on after a payload, and whether history ends there."""
        made = _date_of(sent)
        if made is None or made < _FIRST_DEVICE:
            # Nobody can say how old it is, so the next one is looked for in growing steps.
            hop, self._hop = self._hop, 2 * self._hop
            return (before or now) - hop, False
        self._hop = _FIRST_HOP
        if before is None or made < before:
            return made, False
        if made == before:
            # Either the oldest one again, or a date that was rounded down: a second earlier shows which.
            return before - _ROUNDING, False
        # The oldest one again, be it the one that the walk had or, at its beginning, one after `until`.
        return before, made - before <= _ROUNDING or before == self._until

    async def _settle(self, walk: Walk) -> None:
        came = await asyncio.to_thread(walk.settle)
        self.stored += came
        if came and walk.low is not None:
            self._tell(Reached(self.backend, len(self.stored), walk.low, self._part(walk.low)))

    def _part(self, low: datetime) -> float | None:
        if self._since is None or self._from is None or self._from <= self._since:
            return None
        return min(1.0, (self._from - low) / (self._from - self._since))

    async def _note_configuration(self) -> None:
        """The configuration of now where none is known: without one there is no target of any time."""
        from prefect_ibmq.archive.calibrations import read_configuration, store_configuration

        if await asyncio.to_thread(read_configuration, self._archive, self.backend) is None:
            try:
                told = await self._client.backend_configuration(self.backend)
            except NotFound:
                return  # a retired device's is gone; calibrations tell most of a target themselves
            await asyncio.to_thread(store_configuration, self._archive, self.backend, told, datetime.now(UTC))


def _date_of(sent: bytes) -> datetime | None:
    """When a calibration was made, as far as its payload can be read."""
    from prefect_ibmq.archive.dates import parse_date
    from prefect_ibmq.archive.properties import PayloadUnreadable, parse_payload

    try:
        return parse_payload(sent).last_update_date
    except PayloadUnreadable:
        found = _DATE.search(sent)
        return parse_date(found[1].decode("ascii", "replace")) if found is not None else None


backfill_calibrations, abackfill_calibrations = doors(_backfill_calibrations, "backfill_calibrations")
