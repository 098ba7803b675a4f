"""The calibration archive: every payload as it came, the rows that it gives, and when it was seen.

Three tables, written in this order, so that whoever finds an observation finds all of it: `calibrations` (the bytes,
once a snapshot), `calibration_parameters` (derived from them) and `calibration_observations` (append only; what is seen
again unchanged goes to `repeated_observations`). A payload that cannot be read goes to `quarantined_calibrations`.
There are three times: when a value was measured, when the service says that the calibration was changed
(`last_update_date`), and when we saw it (`collected_at`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefect_ibmq.archive.compaction import Compacted, compact_partition
from prefect_ibmq.archive.configurations import read_configuration, store_configuration, store_status
from prefect_ibmq.archive.datasets import Archive
from prefect_ibmq.archive.dates import sortable
from prefect_ibmq.archive.intake import StoredCalibration, store_payload, store_payloads
from prefect_ibmq.archive.keyed import keys, partitions, read_row
from prefect_ibmq.archive.observations import Observation, are_of_one_date, latest
from prefect_ibmq.archive.parameters import parameter_rows
from prefect_ibmq.archive.properties import load_json, parse_payload
from prefect_ibmq.archive.schemas import (
    BACKEND_STATUSES,
    CALIBRATION_OBSERVATIONS,
    CALIBRATION_PARAMETERS,
    CALIBRATIONS,
    CONFIGURATIONS,
    QUARANTINED_CALIBRATIONS,
    REPEATED_OBSERVATIONS,
    Dataset,
)
from prefect_ibmq.errors import ArchiveError, CalibrationNotFound

__all__ = [
    "Compacted",
    "KnownCalibration",
    "StoredCalibration",
    "compact",
    "history",
    "observations",
    "parameters_table",
    "read_configuration",
    "read_payload",
    "read_snapshot",
    "snapshots",
    "store_configuration",
    "store_payload",
    "store_payloads",
    "store_status",
]


@dataclass(frozen=True, slots=True)
class KnownCalibration:
    """A calibration from the archive.

    Attributes:
        backend: Whose it is.
        snapshot: The id of its content.
        last_update_date: Its own date, in UTC.
        collected_at: When it was seen last, of the observations that count, in UTC.
        payload: Its bytes as they came.
    """

    backend: str
    snapshot: str
    last_update_date: datetime
    collected_at: datetime
    payload: bytes

    def properties(self) -> dict[str, Any]:
        """What the service said: the payload's JSON."""
        found: dict[str, Any] = load_json(self.payload)[0]
        return found


def read_payload(
    archive: Archive, backend: str, at: datetime | None = None, known_at: datetime | None = None
) -> KnownCalibration:
    """The newest calibration whose `last_update_date` is not after a moment, among those seen by another.

    Of equal dates the one seen last.

    Args:
        archive: Where from.
        backend: Whose; it need not exist any more.
        at: The moment, inclusive; the newest of all by default. A naive one is local time.
        known_at: Only what was seen by then, inclusive. A naive one is local time.

    Raises:
        CalibrationNotFound: There is none.
    """
    seen = keys(archive.storage, CALIBRATION_OBSERVATIONS, (backend,))
    found = latest(seen, at, known_at)
    if found is None:
        raise CalibrationNotFound(_none_found(archive, backend, seen, at, known_at))
    if are_of_one_date(seen, found):
        found = latest(seen | keys(archive.storage, REPEATED_OBSERVATIONS, (backend,)), at, known_at) or found
    row = read_row(archive.storage, CALIBRATIONS, (backend,), found.snapshot)
    if row is None:
        raise ArchiveError(
            f"The archive {archive.url} has seen calibration {found.snapshot} of {backend} and has lost its payload.",
            hint="Files of the table 'calibrations' were removed; bring them back from a copy.",
        )
    payload: bytes = row["payload"][0].as_py()
    return KnownCalibration(backend, found.snapshot, found.last_update_date, found.collected_at, payload)


def read_snapshot(archive: Archive, backend: str, snapshot: str) -> bytes:
    """The payload of one calibration, as it came.

    Raises:
        CalibrationNotFound: There is no such calibration.
    """
    row = read_row(archive.storage, CALIBRATIONS, (backend,), snapshot)
    if row is None:
        raise CalibrationNotFound(f"The archive {archive.url} has no calibration {snapshot!r} of {backend!r}.")
    payload: bytes = row["payload"][0].as_py()
    return payload


def _none_found(
    archive: Archive, backend: str, seen: Iterable[str], at: datetime | None, known_at: datetime | None
) -> str:
    if not seen:
        listing = f"`prefect-ibmq calibrations show --archive {archive.url}` lists what it has"
        return f"The archive {archive.url} has no calibration of {backend!r}; {listing}."
    asked = [f"not dated after {at.astimezone(UTC).isoformat()}"] if at is not None else []
    asked += [f"seen by {known_at.astimezone(UTC).isoformat()}"] if known_at is not None else []
    known = [Observation(each) for each in seen]
    dates, times = (each.last_update_date for each in known), (each.collected_at for each in known)
    return (
        f"The archive {archive.url} has no calibration of {backend!r} {' and '.join(asked)}: "
        f"the oldest is dated {min(dates).isoformat()}, the first was seen at {min(times).isoformat()}."
    )


def parameters_table(archive: Archive, backend: str, snapshot: str) -> pa.Table:
    """The rows of one calibration, in the payload's order.

    Raises:
        CalibrationNotFound: There is no such calibration.
    """
    rows = pa.Table.from_batches([parameter_rows(parse_payload(read_snapshot(archive, backend, snapshot)))])
    owner = pa.array([backend]).take(pa.array([0] * rows.num_rows, pa.int32()))
    return (
        rows.append_column("backend", owner)
        .select(CALIBRATION_PARAMETERS.schema.names)
        .cast(CALIBRATION_PARAMETERS.schema)
    )


def history(
    archive: Archive,
    backend: str,
    parameter: str,
    qubits: int | Sequence[int] | None = None,
    gate: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pa.Table:
    """How one parameter changed: its rows of all calibrations, ordered by their `last_update_date`.

    Args:
        archive: Where from.
        backend: Whose.
        parameter: Its name: `T1`, `readout_error`, `gate_error`, …
        qubits: Of which qubit, or of a gate on which qubits in this order; all by default.
        gate: Of which gate; all by default.
        since: From calibrations of that `last_update_date` on, inclusive. A naive one is local time.
        until: Up to calibrations of that `last_update_date`, inclusive. A naive one is local time.
    """
    wanted = (pc.field("backend") == backend) & (pc.field("parameter") == parameter)
    if qubits is not None:
        places = [qubits] if isinstance(qubits, int) else list(qubits)
        wanted &= pc.field("qubits") == "_".join(map(str, places))
    if gate is not None:
        wanted &= pc.field("gate") == gate
    if since is not None:
        wanted &= pc.field("last_update_date") >= pa.scalar(since.astimezone(UTC))
    if until is not None:
        wanted &= pc.field("last_update_date") <= pa.scalar(until.astimezone(UTC))
    found = archive.read(CALIBRATION_PARAMETERS.name, filters=wanted)
    return found.sort_by([(name, "ascending") for name in ("last_update_date", "snapshot", "row")])


def observations(archive: Archive, backend: str | None = None) -> pa.Table:
    """When which calibration was seen: `backend`, `snapshot`, `last_update_date`, `collected_at`, in that time's order.

    Seeing the same one again and again is one observation: the first.
    """
    return _seen(archive, CALIBRATION_OBSERVATIONS, backend)


def _seen(archive: Archive, spec: Dataset, backend: str | None) -> pa.Table:
    filters = None if backend is None else {"backend": backend}
    columns = ["backend", "snapshot", "last_update_date", "collected_at", "observation"]
    found = archive.read(spec.name, columns, filters)
    return found.sort_by([("backend", "ascending"), ("observation", "ascending")]).drop_columns(["observation"])


def snapshots(archive: Archive, backend: str | None = None) -> pa.Table:
    """Every calibration: `backend`, `snapshot`, `last_update_date`, `first_seen` and `last_seen`, oldest first."""
    seen = [_seen(archive, spec, backend) for spec in (CALIBRATION_OBSERVATIONS, REPEATED_OBSERVATIONS)]
    told = pa.concat_tables(seen).group_by(["backend", "snapshot", "last_update_date"])
    found = told.aggregate([("collected_at", "min"), ("collected_at", "max")])
    found = found.rename_columns(["backend", "snapshot", "last_update_date", "first_seen", "last_seen"])
    return found.sort_by([(name, "ascending") for name in ("backend", "last_update_date", "first_seen", "snapshot")])


COMPACTED = (
    CALIBRATIONS,
    CALIBRATION_PARAMETERS,
    CALIBRATION_OBSERVATIONS,
    REPEATED_OBSERVATIONS,
    QUARANTINED_CALIBRATIONS,
    CONFIGURATIONS,
    BACKEND_STATUSES,
)


def compact(archive: Archive, backend: str | None = None) -> Compacted:
    """Merge the small files of all tables of calibrations, of one backend or of all.

    May be killed, run twice or at once, and beside writers and readers: our readers see each row once throughout.
    Other readers may for a moment find rows in two files; (backend, snapshot, row) tells them apart.

    Raises:
        ArchiveError: A file cannot be read or written. Nothing is lost.
    """
    done = Compacted()
    for spec in COMPACTED:
        for partition in partitions(archive.storage, spec) if backend is None else [(backend,)]:
            seen = map(Observation, keys(archive.storage, CALIBRATION_OBSERVATIONS, partition))
            ages = {each.snapshot: sortable(each.last_update_date) for each in seen}
            done += compact_partition(archive, spec, partition, ages)
    return done
