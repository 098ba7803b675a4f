"""Which calibration held when: as a set was transpiled, as it was submitted, and as its jobs ran.

Each is told by the id of its snapshot, and its payload is kept in the run's archive, so that the id can be resolved
later. A stamp that the service cannot tell stays empty; a run that is paid for never fails for the sake of one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, proxy

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.errors import IBMQError, NotFound
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.snapshot_ids import snapshot_id

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.backend_records import BackendRecord
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = [
    "BackendHistory",
    "SeenCalibration",
    "ask_calibration",
    "history_of",
    "keep_calibration",
    "stamp_calibrations",
]

_PATIENCE_SECONDS = 30.0  # that a stamp may take; results are worth more than stamps
_SPARED_SECONDS = 60.0  # in which nobody asks again what the service has just failed to tell
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_MOST_SPANS = 16


@dataclass(frozen=True)
class SeenCalibration:
    """A calibration as the service told it.

    Attributes:
        snapshot: The id of its content.
        sent: What was sent: the bytes, or what they say.
    """

    snapshot: str
    sent: bytes | Mapping[str, Any] = field(repr=False)

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """The payload, decoded."""
        told: Mapping[str, Any] = json.loads(self.sent) if isinstance(self.sent, bytes) else self.sent
        return told

    @cached_property
    def updated(self) -> datetime | None:
        """Its `last_update_date`, in UTC."""
        return parse_date(self.properties.get("last_update_date"))

    @property
    def date(self) -> str | None:
        """The same, ISO 8601."""
        return self.updated.isoformat() if self.updated else None

    @classmethod
    def of_record(cls, record: BackendRecord) -> SeenCalibration | None:
        """That of a loaded backend; None where it has none."""
        sent = record.raw_properties
        return cls(snapshot_id(sent), sent) if sent else None


async def ask_calibration(
    client: RuntimeClient, backend: str, before: datetime | None = None
) -> SeenCalibration | None:
    """The newest calibration of a backend, or the newest older than a moment; None where the service has none.

    A backend that is retired, and so not found, has none any more.

    Raises:
        ServiceError: The service refused.
        TransportError: No answer of the service came.
    """
    try:
        sent = await client.backend_properties_text(backend, updated_before=before)
    except NotFound:
        return None
    return await asyncio.to_thread(_read, backend, sent) if sent else None


def _read(backend: str, sent: bytes) -> SeenCalibration | None:
    try:
        told = json.loads(sent)
    except ValueError as error:
        run_logger().warning("The service sent a calibration of %s that is not JSON: %s", backend, error)
        return None
    return SeenCalibration(snapshot_id(told), sent) if isinstance(told, dict) else None


async def keep_calibration(archive: Archive, backend: str, seen: SeenCalibration) -> None:
    """Store a payload in an archive, so that its id can be resolved; a failure is told and costs nothing else."""
    from prefect_ibmq.archive.calibrations import store_payload

    try:
        await asyncio.to_thread(store_payload, archive, backend, seen.sent)
    except IBMQError as error:
        run_logger().warning("Calibration %s of %s was not stored: %s", seen.snapshot, backend, error)


class BackendHistory:
    """Which calibrations of a backend held when, as far as the service was asked; shared by all jobs of a client.

    A calibration with the date d that is the newest one when we ask has held ever since d. So a single question after
    the last job tells of all jobs that began after d. All moments are the service's: our clock may be wrong.
    """

    def __init__(self, client: RuntimeClient, backend: str) -> None:
        self._client: RuntimeClient = proxy(client)  # by which it is found, and with which it goes
        self._backend = backend
        self._spans: list[tuple[datetime, datetime, SeenCalibration]] = []
        self._heard: datetime | None = None  # the latest moment that has certainly passed
        self._asked_for: datetime | None = None  # the same when the newest one was last asked for
        self._nothing_until: datetime | None = None  # up to here the service has none
        self._spared_until = float("-inf")
        self._questions: dict[str, tuple[float, float]] = {}  # when each set asked first, and last
        self._lock = asyncio.Lock()

    def hear(self, moment: datetime) -> None:
        """That this moment of the service's time has passed."""
        self._heard = max(moment, self._heard or moment)

    async def at(self, moment: datetime, set_key: str | None = None) -> SeenCalibration | None:
        """What held at a past moment; None where the service does not tell, or not in time.

        Args:
            moment: The moment, by the service's time.
            set_key: The set that asks. Its parts end one by one: each question after the first waits until twice as
                long has passed since, so that it answers for several of them.
        """
        self.hear(moment)
        clock = asyncio.get_running_loop().time
        while True:
            async with self._lock:
                if (found := self._known(moment)) is not None:
                    return found
                if clock() < self._spared_until or self._is_before_history(moment):
                    return None
                if (pause := self._turn(set_key) - clock()) <= 0:
                    return await self._asked_in_time(moment, set_key)
            await asyncio.sleep(pause)

    def _turn(self, set_key: str | None) -> float:
        """When a set may ask again."""
        if set_key is None or set_key not in self._questions:
            return float("-inf")
        first, last = self._questions[set_key]
        return last + min(max(last - first, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    async def _asked_in_time(self, moment: datetime, set_key: str | None) -> SeenCalibration | None:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._asked(moment)
        except (IBMQError, TimeoutError) as error:
            self._spared_until = clock() + _SPARED_SECONDS
            why = str(error) or f"no answer within {_PATIENCE_SECONDS:g} s"
            run_logger().warning("Which calibration of %s jobs ran under is not known: %s", self._backend, why)
            return None
        finally:
            if set_key is not None:
                self._questions[set_key] = (self._questions.get(set_key, (clock(),))[0], clock())

    def _known(self, moment: datetime) -> SeenCalibration | None:
        return next((seen for since, until, seen in self._spans if since <= moment <= until), None)

    async def _asked(self, moment: datetime) -> SeenCalibration | None:
        if self._asked_for is None or self._asked_for < moment:
            heard = self._heard or moment
            self._note(await ask_calibration(self._client, self._backend), heard)
            self._asked_for = heard
        if (found := self._known(moment)) is not None:
            return found
        # The one before the first that is known to have come later; it serves every job of its time.
        if later := [since for since, _, _ in self._spans if since > moment]:
            self._note(await ask_calibration(self._client, self._backend, min(later)), min(later))
        if self._known(moment) is None:
            self._note(await ask_calibration(self._client, self._backend, moment), moment)
        if (found := self._known(moment)) is None:
            self._nothing_until = max(moment, self._nothing_until or moment)
        return found

    def _is_before_history(self, moment: datetime) -> bool:
        return self._nothing_until is not None and moment <= self._nothing_until

    def _note(self, seen: SeenCalibration | None, until: datetime) -> None:
        if seen is not None and seen.updated is not None:
            self._spans = [*self._spans, (seen.updated, until, seen)][-_MOST_SPANS:]


_histories: WeakKeyDictionary[RuntimeClient, dict[str, BackendHistory]] = WeakKeyDictionary()


def history_of(client: RuntimeClient, backend: str) -> BackendHistory:
    """What is known of a backend's calibrations through a client; for use on the wire's loop."""
    return _histories.setdefault(client, {}).setdefault(backend, BackendHistory(client, backend))


async def stamp_calibrations(
    client: RuntimeClient, archive: Archive, results: Sequence[Any], key: str
) -> list[dict[str, Any]]:
    """Complete the stamps of results: the calibrations that held when each job was created, and when it began to run.

    Args:
        client: The client of their jobs.
        archive: Where payloads are kept.
        results: `PrimitiveResult`s with our stamps.
        key: Of our entry in their metadata.

    Returns:
        The jobs with a stamp that is new, as their results tell them.
    """
    wanted = [each for result in results for each in _wanted(result, key)]
    wanted.sort(key=lambda each: each[2], reverse=True)  # what is told of the last moment is told of most others
    for job, _, moment in wanted:
        history_of(client, job["backend"]).hear(moment)
    found: dict[str, dict[str, Any]] = {}
    for job, column, moment in wanted:
        seen = await history_of(client, job["backend"]).at(moment, job.get("set_key"))
        if seen is None:
            continue
        if seen.snapshot not in {job.get(each) for each in ("snapshot_transpiled", *_MOMENTS)}:
            await keep_calibration(archive, job["backend"], seen)
        job[column] = seen.snapshot
        found[job["job_id"]] = job
    return list(found.values())


_MOMENTS = ("snapshot_submitted", "snapshot_executed")


def _wanted(result: Any, key: str) -> list[tuple[dict[str, Any], str, datetime]]:
    """The stamps that a result lacks, with the moment that each is of."""
    job = result.metadata[key]["job"]
    told = [parse_date((pub.metadata.get(key) or {}).get("executed")) for pub in result]
    began = min((moment for moment in told if moment is not None), default=None)
    moments = zip(_MOMENTS, (parse_date(job.get("created")), began), strict=True)
    return [(job, column, moment) for column, moment in moments if moment is not None and not job.get(column)]
