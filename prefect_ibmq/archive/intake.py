"""Payloads on their way into the calibration archive: read, compared with what was seen, written in a fixed order.

First the payloads' bytes, then the rows that they give, then the observations, so that whoever finds an observation
finds all of it, and a process that dies in between leaves nothing that the next one would not complete. While one
batch is being written the next is being read.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from prefect_ibmq.archive.datasets import Archive
from prefect_ibmq.archive.keyed import keys, write_keyed
from prefect_ibmq.archive.observations import Observation, preceding
from prefect_ibmq.archive.parameters import ParameterRows
from prefect_ibmq.archive.properties import CalibrationPayload, PayloadUnreadable, parse_payload
from prefect_ibmq.archive.schemas import (
    CALIBRATION_OBSERVATIONS,
    CALIBRATION_PARAMETERS,
    CALIBRATIONS,
    QUARANTINED_CALIBRATIONS,
    REPEATED_OBSERVATIONS,
    Dataset,
    rows_of,
)
from prefect_ibmq.errors import InputError

__all__ = ["StoredCalibration", "store_payload", "store_payloads"]

BATCH_BYTES = 1 << 24  # of one backend's payloads that go into one file
HELD_BYTES = 1 << 27  # of all payloads that are in memory at once

Item: TypeAlias = tuple[str, Mapping[str, Any] | bytes, datetime | None]


@dataclass(frozen=True, slots=True)
class StoredCalibration:
    """What became of a payload.

    Attributes:
        backend: Whose it is.
        snapshot: The id of its content; None where it cannot be read.
        status: `stored`: it is new. `unchanged`: the archive has it; at most an observation was written.
            `quarantined`: it cannot be read; its bytes are kept.
        reason: Why it cannot be read; None where it can.
        last_update_date: Its own date, in UTC; None where it cannot be read.
        collected_at: When it was seen, in UTC.
    """

    backend: str
    snapshot: str | None
    status: Literal["stored", "unchanged", "quarantined"]
    reason: str | None
    last_update_date: datetime | None
    collected_at: datetime


def store_payload(
    archive: Archive, backend: str, payload: Mapping[str, Any] | bytes, collected_at: datetime | None = None
) -> StoredCalibration:
    """Store one calibration payload, however it was come by.

    Safe to be done twice, at once, and from several machines.

    Args:
        archive: Where to.
        backend: Whose it is.
        payload: The bytes that the service sent, or what they say.
        collected_at: When it was seen; now by default, a naive one is local time.

    Raises:
        InputError: The backend has no name.
        ArchiveError: The archive cannot be read or written. A payload that cannot be read raises nothing.
    """
    return store_payloads(archive, [(backend, payload, collected_at)])[0]


def store_payloads(archive: Archive, payloads: Iterable[Item]) -> list[StoredCalibration]:
    """Store many payloads (backend, payload, collected_at), many of a backend in one file of each table.

    See `store_payload`. Payloads are read one after the other, so they may be more than the memory holds.
    """
    with _Writer() as writer:
        intake = _Intake(archive, writer)
        stored = [intake.take(*item) for item in payloads]
        intake.flush()
    return stored


class _Writer:
    """Does what it is given in a thread, one thing after the other; at most one is waiting."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "calibrations")
        self._doing: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._settle()
        finally:
            self._thread.shutdown()

    def do(self, work: Callable[[], None]) -> None:
        self._settle()
        self._doing = self._thread.submit(work)

    def _settle(self) -> None:
        if self._doing is not None:
            doing, self._doing = self._doing, None
            doing.result()


@dataclass(slots=True)
class _Batch:
    """What is new of one backend, to be written at once."""

    archive: Archive
    backend: str
    rows: ParameterRows = field(default_factory=ParameterRows)
    payloads: list[CalibrationPayload] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    repeated: list[Observation] = field(default_factory=list)
    size: int = 0

    def write(self) -> None:
        if self.payloads:
            fields = ("snapshot", "last_update_date")
            told = [{**{name: getattr(each, name) for name in fields}, "payload": each.raw} for each in self.payloads]
            self._write(CALIBRATIONS, rows_of(CALIBRATIONS, told))
            self._write(CALIBRATION_PARAMETERS, pa.Table.from_batches([self.rows.rows()]))
        self._write_observations(CALIBRATION_OBSERVATIONS, self.observations)
        self._write_observations(REPEATED_OBSERVATIONS, self.repeated)

    def _write_observations(self, spec: Dataset, observations: Iterable[Observation]) -> None:
        seen = [
            {
                "observation": each.id,
                "snapshot": each.snapshot,
                "last_update_date": each.last_update_date,
                "collected_at": each.collected_at,
            }
            for each in observations
        ]
        self._write(spec, rows_of(spec, seen))

    def _write(self, spec: Dataset, rows: pa.Table) -> None:
        if rows.num_rows:
            # A single payload waits for the disk anyway; of many, the time counts.
            hurried = len(self.payloads) > 1
            write_keyed(self.archive.storage, spec, (self.backend,), rows, hurried=hurried)


class _Backend:
    """What the archive knows of a backend, and what is new of it."""

    def __init__(self, archive: Archive, name: str) -> None:
        if not name:
            raise InputError("A calibration must say whose it is; the name of the backend is empty.")
        self._archive, self._name = archive, name
        self._seen = keys(archive.storage, CALIBRATION_OBSERVATIONS, (name,))
        self._snapshots = {Observation(each).snapshot for each in self._seen}
        self.batch = _Batch(archive, name)

    def take(self, told: Mapping[str, Any] | bytes, collected_at: datetime) -> StoredCalibration:
        """Read a payload and note what is new of it.

        Raises:
            PayloadUnreadable: It cannot be read.
        """
        payload = parse_payload(told)
        is_new = payload.snapshot not in self._snapshots
        if is_new:
            self._snapshots.add(payload.snapshot)
            self.batch.rows.add(payload)
            self.batch.payloads.append(payload.without_document())
            self.batch.size += len(payload.raw)
        before = preceding(self._seen, collected_at)
        observation = Observation.of(payload.snapshot, payload.last_update_date, collected_at)
        if before is None or before.snapshot != payload.snapshot:
            self._seen.add(observation.id)
            self.batch.observations.append(observation)
        elif before != observation:
            self.batch.repeated.append(observation)
        status: Literal["stored", "unchanged"] = "stored" if is_new else "unchanged"
        date = payload.last_update_date
        return StoredCalibration(self._name, payload.snapshot, status, None, date, collected_at)

    def take_batch(self) -> _Batch:
        """What is to be written; what comes next goes into another batch."""
        batch, self.batch = self.batch, _Batch(self._archive, self._name)
        return batch


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Spare the search for cycles, which thousands of new dicts set off again and again: JSON has none.

    It takes longer than to read the payload, which is gone a moment later.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Intake:
    """Takes payloads of many backends, and has them written when there are enough."""

    def __init__(self, archive: Archive, writer: _Writer) -> None:
        self._archive, self._writer = archive, writer
        self._backends: dict[str, _Backend] = {}

    def take(self, name: str, payload: Mapping[str, Any] | bytes, collected_at: datetime | None) -> StoredCalibration:
        collected = (collected_at or datetime.now(UTC)).astimezone(UTC)
        if name not in self._backends:
            self._backends[name] = _Backend(self._archive, name)
        backend = self._backends[name]
        try:
            with _no_search_for_cycles():
                stored = backend.take(payload, collected)
        except PayloadUnreadable as error:
            _quarantine(self._archive, name, error.raw, str(error), collected)
            return StoredCalibration(name, None, "quarantined", str(error), None, collected)
        self._write_what_is_enough(backend)
        return stored

    def _write_what_is_enough(self, backend: _Backend) -> None:
        if backend.batch.size < BATCH_BYTES:
            if sum(each.batch.size for each in self._backends.values()) < HELD_BYTES:
                return
            backend = max(self._backends.values(), key=lambda each: each.batch.size)
        self._writer.do(backend.take_batch().write)

    def flush(self) -> None:
        """Have everything written."""
        for backend in self._backends.values():
            self._writer.do(backend.take_batch().write)


def _quarantine(archive: Archive, backend: str, payload: bytes, reason: str, collected_at: datetime) -> None:
    """Keep the bytes of a payload that cannot be read, once."""
    digest = hashlib.sha256(payload).hexdigest()
    row = {"payload_sha256": digest, "collected_at": collected_at, "reason": reason, "payload": payload}
    spec = QUARANTINED_CALIBRATIONS
    write_keyed(archive.storage, spec, (backend,), rows_of(spec, [row]))
