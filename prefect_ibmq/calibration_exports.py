"""Calibrations as files that other programs read: tidy rows as CSV or Parquet, and the columns of IBM's web page.

IBM documents the columns of its page's download nowhere. The names here are those of files that the page
(https://quantum.cloud.ibm.com/computers) gave in 2023 and 2024, and in 2026, as people publish them with their
analyses. The older ones have frequencies and name each pair in full (`0_1:0.0076`); today's have gate lengths and, in a
qubit's row, name its partner (`1:0.0013`).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.archives import archive_of
from prefect_ibmq.calibrations import known_calibration
from prefect_ibmq.errors import ArchiveError, CalibrationNotFound, InputError
from prefect_ibmq.loop import doors
from prefect_ibmq.moments import moment_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from prefect_ibmq.archive.datasets import Archive

__all__ = ["aexport_calibrations", "export_calibrations", "web_table"]

_FORMS = ("csv", "parquet", "ibm-csv")
_SAME_UNIT = {"us": ("us", "µs", "μs"), "ns": ("ns",), "GHz": ("GHz",), "": ("", None)}
_SCALE = {"us": 1e6, "ns": 1e9, "GHz": 1e-9, "": 1.0}

_COHERENCE = [("T1 (us)", "T1", "us"), ("T2 (us)", "T2", "us")]
_FREQUENCY = [("Frequency (GHz)", "frequency", "GHz"), ("Anharmonicity (GHz)", "anharmonicity", "GHz")]
_READOUT = [
    ("Readout assignment error", "readout_error", ""),
    ("Prob meas0 prep1", "prob_meas0_prep1", ""),
    ("Prob meas1 prep0", "prob_meas1_prep0", ""),
    ("Readout length (ns)", "readout_length", "ns"),
]
_ONE_QUBIT = {"rx": "RX error", "rz": "Z-axis rotation (rz) error", "sx": "√x (sx) error", "x": "Pauli-X error"}
_PAIRS = {"cx": "CNOT error", "ecr": "ECR error", "cz": "CZ error"}
_MEASURED = {"measure": "MEASURE error", "measure_2": "MEASURE_2 error"}


async def _export_calibrations(
    archive: str | Path | Archive | None,
    path: str | Path,
    backend: str,
    *,
    form: str | None = None,
    at: datetime | str | None = None,
    known_at: datetime | str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
) -> dict[str, Any]:
    """Write calibrations of a backend into a file for other programs.

    Args:
        archive: Path or URL; the folder under `$PREFECT_HOME/ibmq` if None.
        path: The file; one that is there is replaced, at once.
        backend: The backend.
        form: `csv` or `parquet`: a row for each value, with units, dates and flags. `ibm-csv`: a row for each qubit,
            with the columns of IBM's web page. By the file's ending if None.
        at: The calibration in force then; the newest if None.
        known_at: Among those known then.
        since: Instead of one calibration all that are dated then or later; not as `ibm-csv`.
        until: And all that are dated then or before.

    Returns:
        `path`, `form`, `rows`.

    Raises:
        CalibrationNotFound: The archive has none of that time.
        InputError: `form` is unknown, a moment is no date, or they do not go together.
        ArchiveError: The archive cannot be read, or the file not be written.
    """
    chosen = _form(form, Path(path))
    first, last = moment_of(since, "since"), moment_of(until, "until")
    if first is not None and last is not None and first > last:
        raise InputError(f"since={since} is after until={until}.")
    several = first is not None or last is not None
    if several and (at is not None or known_at is not None):
        raise InputError("One calibration (at, known_at) or several (since, until) can be exported, not both.")
    if several and chosen == "ibm-csv":
        raise InputError("IBM's columns have no place for a date.", hint="Export one calibration, or use form='csv'.")

    def write() -> tuple[Path, int]:
        opened = archive_of(archive, writable=False)
        table = (
            _between(opened, backend.strip(), first, last)
            if several
            else _one(opened, backend, moment_of(at, "at"), moment_of(known_at, "known_at"))
        )
        target = Path(path).expanduser()
        return target, _write(table, target, chosen)

    written, rows = await asyncio.to_thread(write)
    return {"path": str(written), "form": chosen, "rows": rows}


def _form(form: str | None, path: Path) -> str:
    chosen = form or path.suffix.lower().removeprefix(".")
    if chosen not in _FORMS:
        raise InputError(
            f"form={form!r} is unknown." if form else f"{path.name} does not say its form by its ending.",
            hint=f"Use form={', '.join(map(repr, _FORMS))}.",
        )
    return chosen


def _one(archive: Archive, backend: str, at: datetime | None, known_at: datetime | None) -> pa.Table:
    from prefect_ibmq.archive.calibrations import parameters_table

    known = known_calibration(archive, backend, at, known_at)
    return parameters_table(archive, known.backend, known.snapshot)


def _between(archive: Archive, backend: str, first: datetime | None, last: datetime | None) -> pa.Table:
    import pyarrow.compute as pc

    wanted = pc.field("backend") == backend
    if first is not None:
        wanted &= pc.field("last_update_date") >= pc.scalar(first)
    if last is not None:
        wanted &= pc.field("last_update_date") <= pc.scalar(last)
    table = archive.read("calibration_parameters", filters=wanted)
    if not table.num_rows and not _has_any(archive, backend, first, last):
        asked = [f"since {first.isoformat()}"] if first is not None else []
        asked += [f"until {last.isoformat()}"] if last is not None else []
        raise CalibrationNotFound(
            f"The archive {archive.url} has no calibration of {backend!r} dated {' and '.join(asked)}; "
            f"`prefect-ibmq calibrations show --archive {archive.url}` lists what it has."
        )
    return table.sort_by([("last_update_date", "ascending"), ("snapshot", "ascending"), ("row", "ascending")])


def _has_any(archive: Archive, backend: str, first: datetime | None, last: datetime | None) -> bool:
    """Whether there is a calibration of that time, be it one without a single value."""
    from prefect_ibmq.archive.calibrations import snapshots

    dates = snapshots(archive, backend)["last_update_date"].to_pylist()
    return any((first is None or date >= first) and (last is None or date <= last) for date in dates)


def _write(table: pa.Table, path: Path, form: str) -> int:
    """Write the file beside and rename it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    frame = web_table(table) if form == "ibm-csv" else None
    try:
        if frame is not None:
            frame.to_csv(beside, index=False)
        elif form == "csv":
            table.to_pandas().to_csv(beside, index=False)
        else:
            import pyarrow.parquet as pq

            pq.write_table(table, beside, compression="zstd")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ArchiveError(f"{path} cannot be written: {error.strerror or error}.") from error
    return len(table if frame is None else frame)


def web_table(parameters: pa.Table) -> pd.DataFrame:
    """One calibration with the columns of IBM's web page, a row for each qubit.

    What was not measured is empty; an error of 1 is what the service sent, and means that the gate is not calibrated. A
    device with frequencies has the older columns, any other today's; columns of gates that it lacks are left out.

    Args:
        parameters: Its rows in the table `calibration_parameters`.
    """
    import pandas as pd

    told = _Told(parameters.to_pylist())
    older = any(parameter == "frequency" for _, parameter in told.qubits)
    columns: dict[str, list[Any]] = {"Qubit": list(range(told.num_qubits))}
    for title, parameter, unit in [*_COHERENCE, *(_FREQUENCY if older else []), *_READOUT]:
        columns[title] = [told.of_qubit(qubit, parameter, unit) for qubit in range(told.num_qubits)]
    columns |= _gate_columns(told, older)
    columns["Operational"] = ["No" if qubit in told.faulty else "Yes" for qubit in range(told.num_qubits)]
    return pd.DataFrame(columns)


class _Told:
    """The values of one calibration by place."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.qubits: dict[tuple[int, str], Mapping[str, Any]] = {}
        self.gates: dict[str, dict[tuple[int, ...], dict[str, Mapping[str, Any]]]] = {}
        self.num_qubits = 0
        for row in rows:
            places = tuple(int(place) for place in (row["qubits"] or "").split("_") if place)
            # There is no device with more qubits than values: such a place is an error of whoever wrote it.
            self.num_qubits = max([self.num_qubits, *(place + 1 for place in places if place < len(rows))])
            if row["kind"] == "qubit" and places:
                self.qubits[places[0], row["parameter"]] = row
            elif row["kind"] == "gate":
                self.gates.setdefault(row["gate"], {}).setdefault(places, {})[row["parameter"]] = row
        self.faulty = {
            qubit for (qubit, name), row in self.qubits.items() if name == "operational" and not row["value"]
        }

    def of_qubit(self, qubit: int, parameter: str, unit: str) -> float | None:
        return _in_unit(self.qubits.get((qubit, parameter)), unit)

    def of_gate(self, gate: str, qubits: tuple[int, ...], parameter: str, unit: str) -> float | None:
        return _in_unit(self.gates.get(gate, {}).get(qubits, {}).get(parameter), unit)


def _in_unit(row: Mapping[str, Any] | None, unit: str) -> float | None:
    if row is None or row["value"] is None:
        return None
    # What is in the unit already is taken as it was sent: to SI and back would change its last digit.
    if row["unit"] in _SAME_UNIT[unit]:
        return float(row["value"])
    return None if row["value_si"] is None else float(row["value_si"]) * _SCALE[unit]


def _gate_columns(told: _Told, older: bool) -> dict[str, list[Any]]:
    def alone(gate: str, parameter: str, unit: str) -> list[float | None]:
        return [told.of_gate(gate, (qubit,), parameter, unit) for qubit in range(told.num_qubits)]

    def pairs(gate: str, parameter: str, unit: str) -> list[str | None]:
        return [_pair_cell(told, gate, qubit, parameter, unit, older) for qubit in range(told.num_qubits)]

    columns: dict[str, list[Any]] = {"ID error": alone("id", "gate_error", "")} if "id" in told.gates else {}
    if not older and (pulsed := next((gate for gate in ("sx", "x", "id") if gate in told.gates), None)):
        columns["Single-qubit gate length (ns)"] = alone(pulsed, "gate_length", "ns")
    columns |= {title: alone(gate, "gate_error", "") for gate, title in _ONE_QUBIT.items() if gate in told.gates}
    lengths = "Gate time (ns)" if older else "Gate length (ns)"
    for gate, title in _PAIRS.items():
        if gate in told.gates:
            columns[title] = pairs(gate, "gate_error", "")
            columns.setdefault(lengths, pairs(gate, "gate_length", "ns"))
    if "rzz" in told.gates:
        columns["RZZ error"] = pairs("rzz", "gate_error", "")
    columns |= {title: alone(gate, "gate_error", "") for gate, title in _MEASURED.items() if gate in told.gates}
    return columns


def _pair_cell(told: _Told, gate: str, qubit: int, parameter: str, unit: str, older: bool) -> str | None:
    """The gate's values on pairs that begin with a qubit."""
    cells = []
    for places in sorted(told.gates[gate]):
        value = told.of_gate(gate, places, parameter, unit)
        if len(places) == 2 and places[0] == qubit and value is not None:
            number = repr(value).removesuffix(".0")
            cells.append(f"{qubit}_{places[1]}:{number}" if older else f"{places[1]}:{number}")
    return ";".join(cells) or None


export_calibrations, aexport_calibrations = doors(_export_calibrations, "export_calibrations")
