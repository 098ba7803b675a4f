"""The archive of calibrations from Python: store one however it was come by, read one of any moment, follow a value.

`store_calibration`, `read_calibration` and `calibration_history` are plain functions: they touch the archive alone, and
a task outside of a flow would first start a Prefect server. Their `a…` twins do the same off the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect_ibmq.archives import archive_of
from prefect_ibmq.errors import ArchiveError, ConfigurationError, InputError
from prefect_ibmq.loop import doors, twin
from prefect_ibmq.moments import moment_of

if TYPE_CHECKING:
    import pandas as pd
    from qiskit.transpiler import Target

    from prefect_ibmq.archive.calibrations import KnownCalibration, StoredCalibration
    from prefect_ibmq.archive.datasets import Archive

__all__ = [
    "acalibration_history",
    "acompact_calibrations",
    "aread_calibration",
    "astore_calibration",
    "calibration_history",
    "compact_calibrations",
    "known_calibration",
    "read_calibration",
    "store_calibration",
]

Form = Literal["properties", "table", "target", "noise_model"]
_FORMS = ("properties", "table", "target", "noise_model")


def store_calibration(
    archive: str | Path | Archive | None,
    backend: str,
    payload: Mapping[str, Any] | bytes,
    collected_at: datetime | str | None = None,
    *,
    configuration: Mapping[str, Any] | None = None,
) -> StoredCalibration:
    """Store one calibration payload, however it was come by. A payload that cannot be read is quarantined, not refused.

    Args:
        archive: Path or URL; the folder under `$PREFECT_HOME/ibmq` if None.
        backend: The backend that it is of.
        payload: As the service sends it (`GET /backends/{id}/properties`): the bytes, or the decoded JSON.
        collected_at: When it was seen: a datetime or ISO text, UTC where it has no zone; now if None.
        configuration: The backend's configuration at that time, where it is known too: a target needs one.

    Returns:
        What was done: `status` is `stored`, `unchanged` or `quarantined`, with its `reason`; `snapshot` is the id of
        its content, `last_update_date` its own date.

    Raises:
        InputError: `collected_at` is no date, or there is no backend's name.
        ArchiveError: The archive cannot be written.
    """
    from prefect_ibmq.archive.calibrations import store_configuration, store_payload

    seen, opened = moment_of(collected_at, "collected_at"), archive_of(archive)
    stored = store_payload(opened, _named(backend), _as_sent(payload), seen)
    if configuration is not None:
        store_configuration(opened, backend.strip(), dict(configuration), stored.collected_at)
    return stored


def _as_sent(payload: Any) -> Mapping[str, Any] | bytes:
    """The payload, or of what cannot be one the bytes that go to quarantine."""
    if isinstance(payload, bytes | Mapping):
        return payload
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    if isinstance(payload, str):
        return payload.encode("utf-8", "surrogatepass")
    try:
        return json.dumps(payload, default=repr).encode()
    except (TypeError, ValueError, RecursionError):  # keys that are no texts, a list within itself, …
        return f"(a {type(payload).__name__} that is no JSON)".encode()


def _named(backend: object) -> str:
    if not isinstance(backend, str) or not backend.strip():
        raise InputError(f"{backend!r} is no backend.", hint="Give a backend's name.")
    try:
        backend.encode()
    except UnicodeEncodeError:
        raise InputError(f"{backend!r} is no backend: it is no valid Unicode.", hint="Give its name.") from None
    return backend.strip()


def read_calibration(
    archive: str | Path | Archive | None,
    backend: str,
    at: datetime | str | None = None,
    known_at: datetime | str | None = None,
    form: Form = "properties",
    *,
    fractional_gates: bool = False,
) -> Any:
    """The calibration of a backend that was in force at a moment, be it one that the service lists no more.

    It is the newest whose `last_update_date` is not after `at`, among those that had been seen by `known_at`; of equal
    dates the one seen latest. Moments are datetimes or ISO texts, inclusive, UTC where they have no zone; None is no
    limit.

    Args:
        archive: Path or URL; the folder under `$PREFECT_HOME/ibmq` if None.
        backend: The backend.
        at: In force then.
        known_at: Known then, whatever was fetched later.
        form: `properties`: the payload as the service sent it, decoded. `table`: a pandas DataFrame, a row for each
            value, with units, dates and flags. `target`: the qiskit `Target`. `noise_model`: Aer's `NoiseModel` of
            that target.
        fractional_gates: Whether target and noise model have rx and rzz where the device has them.

    Raises:
        CalibrationNotFound: The archive has none of that time.
        InputError: `form` is unknown, a moment is no date, or there is no backend's name.
        ArchiveError: The archive cannot be read, or the calibration is too odd to give a target.

    A target needs a configuration too. It is the archived one that had been seen by `at` and `known_at`, else the first
    one seen later; where there is none, or it has not as many qubits, it is what the calibration itself tells, which
    leaves out `dt`, timing constraints, delays and control flow.
    """
    if form not in _FORMS:
        raise InputError(f"form={form!r} is unknown.", hint=f"Use one of {', '.join(_FORMS)}.")
    opened = archive_of(archive, writable=False)
    known = known_calibration(opened, backend, at, known_at)
    if form == "properties":
        return known.properties()
    if form == "table":
        from prefect_ibmq.archive.calibrations import parameters_table

        return parameters_table(opened, known.backend, known.snapshot).to_pandas()
    moments = [moment for moment in (moment_of(at, "at"), moment_of(known_at, "known_at")) if moment is not None]
    target = _target(opened, known, min(moments, default=None), fractional_gates)
    return target if form == "target" else _noise_model(target)


def known_calibration(
    archive: Archive, backend: str, at: datetime | str | None = None, known_at: datetime | str | None = None
) -> KnownCalibration:
    """The calibration that `read_calibration` means, with its dates.

    Raises:
        CalibrationNotFound: The archive has none of that time.
    """
    from prefect_ibmq.archive.calibrations import read_payload

    return read_payload(archive, _named(backend), at=moment_of(at, "at"), known_at=moment_of(known_at, "known_at"))


def _target(archive: Archive, known: KnownCalibration, seen_by: datetime | None, fractional_gates: bool) -> Target:
    from prefect_ibmq.archive.calibrations import read_configuration
    from prefect_ibmq.archive.mending import mended
    from prefect_ibmq.ibm import bare_configuration, target_from

    properties = mended(known.properties())
    configuration = read_configuration(archive, known.backend, seen_by)
    if configuration is None or configuration.get("n_qubits") != len(properties["qubits"]):
        configuration = bare_configuration(properties)
    try:
        return target_from(configuration, properties, fractional_gates=fractional_gates)
    except Exception as error:  # whatever the packages of IBM and qiskit make of what somebody once stored
        raise ArchiveError(
            f"Calibration {known.snapshot} of {known.backend} gives no target: {type(error).__name__}: {error}",
            hint="form='properties' and form='table' tell what it holds.",
        ) from error


def _noise_model(target: Target) -> Any:
    from prefect_ibmq.ibm import noise_model_of

    try:
        return noise_model_of(target)
    except ImportError as error:
        raise ConfigurationError(
            f"A noise model needs {error.name}, which is not installed.",
            hint="Install it: pip install 'prefect-ibmq[local]'.",
        ) from error


def calibration_history(
    archive: str | Path | Archive | None,
    backend: str,
    parameter: str = "T1",
    qubits: int | Sequence[int] | None = None,
    gate: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
) -> pd.DataFrame:
    """One parameter over time, a row for each calibration and place, oldest first.

    Args:
        archive: Path or URL; the folder under `$PREFECT_HOME/ibmq` if None.
        backend: The backend.
        parameter: As the service calls it: `T1`, `T2`, `readout_error`, `gate_error`, `gate_length`, …
        qubits: Only of this qubit, or of the gate on these qubits, in order; of all if None.
        gate: Only of this gate, such as `cz`.
        since: Only calibrations dated then or later.
        until: Only calibrations dated then or before.

    Returns:
        The values as sent and in SI units, each with its own date (UTC), its snapshot and its flags.

    Raises:
        InputError: A moment is no date, or there is no backend's name.
        ArchiveError: The archive cannot be read.
    """
    from prefect_ibmq.archive.calibrations import history

    opened = archive_of(archive, writable=False)
    places = (qubits,) if isinstance(qubits, int) else None if qubits is None else tuple(qubits)
    first, last = moment_of(since, "since"), moment_of(until, "until")
    found = history(opened, _named(backend), parameter, places, gate, first, last)
    frame: pd.DataFrame = found.to_pandas()
    return frame


async def _compact_calibrations(
    archive: str | Path | Archive | None = None, backend: str | None = None
) -> dict[str, Any]:
    """Merge the archive's many small files of calibrations into few. Readers go on meanwhile; a kill does no harm.

    Args:
        archive: Path or URL; the folder under `$PREFECT_HOME/ibmq` if None.
        backend: Only of this backend; of all if None.

    Returns:
        `archive`, `files_before`, `files_after`, `rows`.

    Raises:
        InputError: The backend has no name.
        ArchiveError: The archive cannot be read or written.
    """
    from prefect_ibmq.archive.calibrations import compact

    chosen = None if backend is None else _named(backend)
    opened = await asyncio.to_thread(archive_of, archive)
    done = await asyncio.to_thread(compact, opened, chosen)
    return {
        "archive": opened.url,
        "files_before": done.files_before,
        "files_after": done.files_after,
        "rows": done.rows,
    }


astore_calibration = twin(store_calibration)
aread_calibration = twin(read_calibration)
acalibration_history = twin(calibration_history)
compact_calibrations, acompact_calibrations = doors(_compact_calibrations, "compact_calibrations")
