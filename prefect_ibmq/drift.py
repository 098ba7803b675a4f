"""How a calibration has moved: value by value, what came and what went, and what crossed a limit.

Values are compared in SI units. Nothing is invented: a value that is absent on one side has no difference, and a
`gate_error` or `readout_error` of 1 or more is the service's word for "not calibrated", not a number to subtract.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.archive.mending import in_order
from prefect_ibmq.archive.units import si_unit
from prefect_ibmq.backend_records import BackendRecord, PropertiesRecord
from prefect_ibmq.calibration_limits import COHERENCE, ERRORS, CalibrationLimits, Crossing, crossing_of, place_of
from prefect_ibmq.errors import InputError
from prefect_ibmq.snapshot_ids import snapshot_id

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    import pyarrow as pa

__all__ = [
    "Calibration",
    "CalibrationDrift",
    "Change",
    "Place",
    "State",
    "changes_between",
    "compare_calibrations",
    "gates_of",
    "payload_of",
    "table_of",
    "tells_of",
]

State = Literal["unchanged", "changed", "appeared", "vanished", "failed", "recovered", "uncalibrated"]
Place: TypeAlias = tuple[str, tuple[int, ...]]  # a gate on its qubits; of a qubit itself the gate is empty
Key: TypeAlias = tuple[str, str, tuple[int, ...], str]  # kind, gate, qubits, parameter


@runtime_checkable
class _Known(Protocol):
    """What the archive gives: a payload with what is known of it."""

    @property
    def backend(self) -> str: ...

    def properties(self) -> dict[str, Any]: ...


Calibration: TypeAlias = "Mapping[str, Any] | bytes | PropertiesRecord | BackendRecord | _Known"
"""A payload as the service sends it, decoded or not; a `PropertiesRecord`, a loaded `BackendRecord`, or what
`read_payload` of an archive gives."""


def payload_of(calibration: Calibration) -> dict[str, Any]:
    """The payload of a calibration, decoded, without what the service would never send.

    Raises:
        InputError: It is no calibration.
    """
    return in_order(_decoded(calibration))


def _decoded(calibration: Calibration) -> dict[str, Any]:
    given: Any = calibration
    if isinstance(given, BackendRecord):
        given = given.raw_properties
    elif isinstance(given, PropertiesRecord):
        given = given.raw
    elif isinstance(given, _Known):
        given = given.properties()
    if isinstance(given, bytes):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise InputError(f"These {len(given)} bytes are no calibration: {error}.") from error
    if not isinstance(given, Mapping) or not (given.keys() & {"qubits", "gates"}):
        raise InputError(
            f"{str(given)[:80]!r} is no calibration.",
            hint="Give a payload of GET /backends/{name}/properties, a PropertiesRecord or a loaded backend.",
        )
    return dict(given)


@dataclass(frozen=True, slots=True)
class Change:
    """One value of a device in two calibrations.

    Attributes:
        kind: `qubit`, `gate` or `general`.
        gate: The gate's name; empty of other kinds.
        qubits: What it is of, in order.
        parameter: `T1`, `readout_error`, `gate_error`, …
        before: The first value in SI units; None where it is missing.
        after: The second one.
        unit: `s`, `Hz` or empty; of an unknown unit the service's own word.
        state: `unchanged`, `changed`, `appeared`, `vanished`; `failed`, `recovered` or `uncalibrated` where the
            second, the first or both are the service's word for "not calibrated".
        dated: The service's dates of the two values, as they came.
    """

    kind: str
    gate: str
    qubits: tuple[int, ...]
    parameter: str
    before: float | None
    after: float | None
    unit: str
    state: State
    dated: tuple[Any, Any] = (None, None)

    @property
    def change(self) -> float | None:
        """The second value less the first; None where either is missing or not a measured number."""
        if self.state not in ("changed", "unchanged") or self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def relative(self) -> float | None:
        """The change as part of the first value; None where that is 0, or where there is no change to tell."""
        change = self.change
        return None if change is None or not self.before else change / abs(self.before)

    @property
    def place(self) -> str:
        """`qubit 3`, `cz on 3-4`, or the parameter of the device as a whole."""
        return place_of(self.gate, self.qubits)


@dataclass(frozen=True)
class CalibrationDrift:
    """What has become of each value of a device from one calibration to another.

    Attributes:
        backend: The device.
        before: The first calibration's `last_update_date`, UTC.
        after: The second one's.
        snapshots: The ids of both.
        changes: One for each value that either of them has.
        gates_gone: Gates on their qubits that only the first one has.
        gates_new: Those that only the second one has.
        qubits_gone: Qubits that only the first one tells anything of.
    """

    backend: str
    before: datetime | None
    after: datetime | None
    snapshots: tuple[str, str]
    changes: tuple[Change, ...] = field(repr=False)
    gates_gone: tuple[Place, ...] = ()
    gates_new: tuple[Place, ...] = ()
    qubits_gone: tuple[int, ...] = ()

    @cached_property
    def by_key(self) -> dict[Key, Change]:
        """The changes by kind, gate, qubits and parameter."""
        return {(each.kind, each.gate, each.qubits, each.parameter): each for each in self.changes}

    def get(self, parameter: str, qubits: int | Sequence[int] = (), gate: str = "") -> Change | None:
        """What has become of one value, such as `get("gate_error", (3, 4), "cz")`; None where there never was one."""
        where = (qubits,) if isinstance(qubits, int) else tuple(qubits)
        kind = "gate" if gate else "qubit" if where else "general"
        return self.by_key.get((kind, gate, where, parameter))

    def of_state(self, *states: State) -> list[Change]:
        """The changes of these states."""
        return [each for each in self.changes if each.state in states]

    def moved_most(self, parameter: str | None = None, most: int = 10) -> list[Change]:
        """What moved most, by the ratio of its values; up and down alike. Without a parameter: errors, T1 and T2.

        Values that are one measurement under several names (both directions of an edge, x and sx of a qubit) stand
        once, under the first.
        """
        wanted = {parameter} if parameter else ERRORS | COHERENCE
        moved = [each for each in self.changes if each.parameter in wanted and _ratio(each) > 0]
        once: dict[tuple[object, ...], Change] = {}
        for each in moved:
            once.setdefault((each.parameter, frozenset(each.qubits), each.before, each.after), each)
        return sorted(once.values(), key=_ratio, reverse=True)[:most]

    def crossings(self, limits: CalibrationLimits | None = None) -> list[Crossing]:
        """What crossed a limit between the two, on the whole device; what was as bad before is left out."""
        asked = limits or CalibrationLimits()
        gone = [_gone(self, gate, qubits) for gate, qubits in self.gates_gone]
        gone += [Crossing("gone", "", (qubit,), "readout_error", None, None, "") for qubit in self.qubits_gone]
        worse = (crossing_of(each, asked) for each in self.changes if each.state != "uncalibrated")
        known = [each for each in worse if each is not None and each.before != each.after]
        return [*gone, *known]

    @overload
    def table(self, format: Literal["arrow"] = ...) -> pa.Table: ...
    @overload
    def table(self, format: Literal["pandas"]) -> pd.DataFrame: ...
    def table(self, format: Literal["arrow", "pandas"] = "arrow") -> pa.Table | pd.DataFrame:
        """All changes as a table: `kind`, `gate`, `qubits`, `parameter`, `before`, `after`, `unit`, `change`,
        `relative`, `state`, `measured_before`, `measured_after`; values in SI units, times in UTC."""
        made = table_of(self.changes)
        return made if format == "arrow" else made.to_pandas()

    def text(self, most: int = 5) -> str:
        """The whole in a few lines: medians, what moved most, what came and what went."""
        from prefect_ibmq.drift_report import told

        return "\n".join(told(self, most))


def table_of(changes: Sequence[Change]) -> pa.Table:
    """Changes as an Arrow table; see `CalibrationDrift.table`."""
    import pyarrow as pa

    time, number = pa.timestamp("us", "UTC"), pa.float64()
    return pa.table(
        {
            "kind": pa.array([each.kind for each in changes], pa.string()),
            "gate": pa.array([each.gate or None for each in changes], pa.string()),
            "qubits": pa.array([list(each.qubits) for each in changes], pa.list_(pa.int32())),
            "parameter": pa.array([each.parameter for each in changes], pa.string()),
            "before": pa.array([each.before for each in changes], number),
            "after": pa.array([each.after for each in changes], number),
            "unit": pa.array([each.unit for each in changes], pa.string()),
            "change": pa.array([each.change for each in changes], number),
            "relative": pa.array([each.relative for each in changes], number),
            "state": pa.array([each.state for each in changes], pa.string()),
            "measured_before": pa.array([parse_date(each.dated[0]) for each in changes], time),
            "measured_after": pa.array([parse_date(each.dated[1]) for each in changes], time),
        }
    )


def compare_calibrations(a: Calibration, b: Calibration) -> CalibrationDrift:
    """Compare two calibrations of a device, value by value.

    Args:
        a: The earlier one: a payload of `GET /backends/{name}/properties` (decoded or bytes), a `PropertiesRecord`, a
            loaded `BackendRecord`, or what an archive gives.
        b: The later one.

    Raises:
        InputError: One of them is no calibration.
    """
    sent = _decoded(a), _decoded(b)
    one, other = map(in_order, sent)
    old, new = gates_of(one), gates_of(other)
    told = range(len(one.get("qubits") or []))
    return CalibrationDrift(
        backend=b.backend if isinstance(b, _Known) else str(other.get("backend_name") or one.get("backend_name") or ""),
        before=parse_date(one.get("last_update_date")),
        after=parse_date(other.get("last_update_date")),
        snapshots=(snapshot_id(sent[0]), snapshot_id(sent[1])),
        changes=tuple(changes_between(one, other)),
        gates_gone=tuple(sorted(old - new)),
        gates_new=tuple(sorted(new - old)),
        qubits_gone=tuple(qubit for qubit in told if tells_of(one, qubit) and not tells_of(other, qubit)),
    )


@dataclass(frozen=True, slots=True)
class _Value:
    """One measured value in SI units; None where the service names it and tells nothing."""

    value: float | None
    unit: str
    date: Any


def changes_between(
    one: Mapping[str, Any], other: Mapping[str, Any], places: Set[Place] | None = None
) -> Iterator[Change]:
    """What has become of each value of two payloads, of certain places only where they are given."""
    first, second = dict(_values(one, places)), dict(_values(other, places))
    return (_compared(key, first.get(key), second.get(key)) for key in {**first, **second})


def _values(payload: Mapping[str, Any], places: Set[Place] | None) -> Iterator[tuple[Key, _Value]]:
    for qubit, parameters in enumerate(payload.get("qubits") or []):
        if places is None or ("", (qubit,)) in places:
            yield from ((("qubit", "", (qubit,), name), value) for name, value in _measured(parameters))
    for gate in payload.get("gates") or []:
        if "gate" in gate and "qubits" in gate:
            where = (str(gate["gate"]), tuple(gate["qubits"]))
            if places is None or where in places:
                yield from ((("gate", *where, name), value) for name, value in _measured(gate.get("parameters")))
    if places is None:
        yield from ((("general", "", (), name), value) for name, value in _measured(payload.get("general")))


def _measured(parameters: Iterable[Mapping[str, Any]] | None) -> Iterator[tuple[str, _Value]]:
    for entry in parameters or []:
        if "name" not in entry:
            continue
        value, unit = entry.get("value"), str(entry.get("unit") or "")
        unit, factor = si_unit(unit) or (unit, 1.0)
        number = float(value) * factor if isinstance(value, int | float) and math.isfinite(value) else None
        yield str(entry["name"]), _Value(number, unit, entry.get("date"))


def gates_of(payload: Mapping[str, Any]) -> set[Place]:
    """Every gate of a payload with its qubits."""
    return {
        (str(gate["gate"]), tuple(gate["qubits"]))
        for gate in payload.get("gates") or []
        if "gate" in gate and "qubits" in gate
    }


def tells_of(payload: Mapping[str, Any], qubit: int) -> bool:
    """Whether a payload tells anything of a qubit."""
    told = payload.get("qubits") or []
    return qubit < len(told) and bool(told[qubit])


def _compared(key: Key, first: _Value | None, second: _Value | None) -> Change:
    kind, gate, qubits, parameter = key
    before, after = (None if each is None else each.value for each in (first, second))
    units = {each.unit for each in (first, second) if each is not None and each.value is not None}
    state = _state(parameter, before, after, comparable=len(units) < 2)
    unit = " / ".join(sorted(units)) if units else ""
    dated = (first.date if first else None, second.date if second else None)
    return Change(kind, gate, qubits, parameter, before, after, unit, state, dated)


def _state(parameter: str, before: float | None, after: float | None, *, comparable: bool) -> State:
    if before is None or after is None:
        if before is after:
            return "unchanged"  # neither tells
        return "appeared" if before is None else "vanished"
    failed = parameter in ERRORS
    if failed and (before >= 1 or after >= 1):
        return "uncalibrated" if min(before, after) >= 1 else "failed" if after >= 1 else "recovered"
    # Units that nobody knows cannot be differenced: the value in the one went, that in the other came.
    if not comparable:
        return "appeared"
    return "unchanged" if before == after else "changed"


def _ratio(change: Change) -> float:
    """How far a value moved: the absolute logarithm of its ratio; 0 where there is none."""
    if change.state != "changed" or not change.before or not change.after or change.before * change.after < 0:
        return 0.0
    return abs(math.log(change.after / change.before))


def _gone(drift: CalibrationDrift, gate: str, qubits: tuple[int, ...]) -> Crossing:
    was = drift.get("gate_error", qubits, gate)
    return Crossing("gone", gate, qubits, "gate_error", was.before if was else None, None, "it must be there")
