"""The rows of a calibration payload: every value of its qubits, gates and general part, flagged, never altered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prefect_ibmq.archive.dates import microseconds, parse_date
from prefect_ibmq.archive.properties import CalibrationPayload
from prefect_ibmq.archive.units import si_unit

__all__ = [
    "AFTER_SNAPSHOT",
    "MISSING",
    "OUT_OF_RANGE",
    "SENTINEL",
    "STALE",
    "STALE_AFTER",
    "UNKNOWN_UNIT",
    "UNREADABLE",
    "ParameterRows",
    "parameter_rows",
]

SENTINEL = "sentinel"
"""A gate error of 1 or more: the service's word for "not calibrated"."""
MISSING = "missing"
"""The parameter is named, but has no value."""
OUT_OF_RANGE = "out_of_range"
"""T2 above twice T1 of the same qubit, a readout error of 0.5 or more, a negative time or error, an infinite value."""
STALE = "stale"
"""Measured more than `STALE_AFTER` before its snapshot."""
AFTER_SNAPSHOT = "after_snapshot"
"""Dated after its snapshot's `last_update_date`."""
UNREADABLE = "unreadable"
"""Name, value, unit or date is there, but is no text, number or date: it is null here, the payload has it."""
UNKNOWN_UNIT = "unknown_unit"
"""A unit that nobody here knows, so that there is no value in SI units."""

STALE_AFTER = timedelta(days=7)
READOUT_ERROR_LIMIT = 0.5  # a coin is right as often
SENTINEL_ERROR = 1.0
NEVER_NEGATIVE = ("T1", "T2", "readout_error", "gate_error", "gate_length", "readout_length")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ParameterRows:
    """Gathers what payloads say, and makes rows of all of it at once: the fixed cost of an Arrow call is paid once."""

    def __init__(self) -> None:
        self._payloads: list[tuple[str, datetime, int, int]] = []  # snapshot, date, groups, rows
        self._kinds: list[str] = []
        self._qubits: list[str | None] = []
        self._gates: list[str | None] = []
        self._sizes: list[int] = []
        self._names: list[Any] = []
        self._values: list[Any] = []
        self._units: list[Any] = []
        self._dates: list[Any] = []

    def add(self, payload: CalibrationPayload) -> None:
        """Take in the next payload; nothing of its document is held on to."""
        groups, rows = len(self._sizes), len(self._names)
        document = payload.document
        entries = self._group("qubit", _lists(document.get("qubits")))
        self._qubits += map(str, range(len(self._sizes) - groups))
        self._gates += [None] * (len(self._sizes) - groups)
        gates = [gate if isinstance(gate, dict) else {"parameters": [gate]} for gate in document.get("gates") or ()]
        entries += self._group("gate", _lists([gate.get("parameters") for gate in gates]))
        self._qubits += _joined_qubits([gate.get("qubits") for gate in gates])
        self._gates += [name if isinstance(name, str) else None for name in [gate.get("gate") for gate in gates]]
        entries += self._group("general", _lists([document.get("general")]))
        self._qubits.append(None)
        self._gates.append(None)
        if not set(map(type, entries)) <= {dict}:
            entries = [_entry(entry) for entry in entries]
        self._names += _column(entries, "name")
        self._values += _column(entries, "value")
        self._units += _column(entries, "unit")
        self._dates += _column(entries, "date")
        self._payloads.append(
            (payload.snapshot, payload.last_update_date, len(self._sizes) - groups, len(self._names) - rows)
        )

    def _group(self, kind: str, lists: list[list[Any]]) -> list[Any]:
        self._kinds += [kind] * len(lists)
        self._sizes += map(len, lists)
        return list(chain.from_iterable(lists))

    def rows(self) -> pa.RecordBatch:
        """The rows of `calibration_parameters` that they give, without the column `backend`."""
        snapshots, updated, _, rows = zip(*self._payloads, strict=True) if self._payloads else ((), (), (), ())
        owner = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
        group = np.repeat(np.arange(len(self._sizes), dtype=np.int32), self._sizes)
        names, odd_names = _texts(self._names)
        units, odd_units = _texts(self._units)
        values, is_absent, odd_values = _numbers(self._values)
        dates, is_undated, odd_dates = _dates(self._dates)
        values_si, units_si, is_unknown = _in_si(values, units, odd_units)
        taken = np.array(list(map(microseconds, updated)), np.int64)[owner]
        flags = {  # in the order in which the column joins them
            SENTINEL: _named(names, "gate_error") & (values >= SENTINEL_ERROR),
            MISSING: is_absent,
            OUT_OF_RANGE: _out_of_range(names, values, values_si, group),
            STALE: ~is_undated & (dates < taken - STALE_AFTER // timedelta(microseconds=1)),
            AFTER_SNAPSHOT: ~is_undated & (dates > taken),
            UNREADABLE: odd_names | odd_units | odd_values | odd_dates,
            UNKNOWN_UNIT: is_unknown,
        }
        starts = np.repeat(np.cumsum([0, *rows[:-1]], dtype=np.int64), rows)
        columns = {
            "snapshot": _spread(snapshots, owner),
            "last_update_date": pa.array(taken).view(_TIME),
            "row": pa.array((np.arange(len(owner)) - starts).astype(np.int32)),
            "kind": _spread(self._kinds, group),
            "qubits": _spread(self._qubits, group),
            "gate": _spread(self._gates, group),
            "parameter": names,
            "value": pa.array(values, mask=np.isnan(values)),
            "unit": units,
            "value_si": pa.array(values_si, mask=np.isnan(values_si)),
            "unit_si": units_si,
            "measured_at": pa.array(dates, mask=is_undated).view(_TIME),
            "flags": _joined(flags),
        }
        return pa.RecordBatch.from_pydict(columns)


def parameter_rows(payload: CalibrationPayload) -> pa.RecordBatch:
    """The rows of `calibration_parameters` that one payload gives, without the column `backend`."""
    gathered = ParameterRows()
    gathered.add(payload)
    return gathered.rows()


def _lists(values: Sequence[Any] | None) -> list[list[Any]]:
    """Entries as lists: what is none stands alone in one, to be flagged."""
    if values is None:
        return []
    if set(map(type, values)) <= {list}:
        return list(values)
    return [value if isinstance(value, list) else [] if value is None else [value] for value in values]


def _entry(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {"value": None if value is None else "no entry"}


def _column(entries: list[dict[str, Any]], name: str) -> list[Any]:
    try:
        return list(map(itemgetter(name), entries))
    except KeyError:
        return [entry.get(name) for entry in entries]


def _joined_qubits(values: list[Any]) -> list[str | None]:
    """The qubits of gates as texts; None where they are no whole numbers."""
    if set(map(type, values)) <= {list} and set(map(type, chain.from_iterable(values))) <= {int}:
        return list(map(_joined_places, map(tuple, values)))
    return [_joined_qubits([value])[0] if _are_places(value) else None for value in values]


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {int}


@lru_cache(maxsize=1 << 14)
def _joined_places(qubits: tuple[int, ...]) -> str | None:
    return "_".join(map(str, qubits)) or None


def _texts(values: list[Any]) -> tuple[pa.DictionaryArray, Bools]:
    """Texts as a dictionary, and which of them are there but no texts."""
    odd = np.zeros(len(values), bool)
    if not set(map(type, values)) <= {str, type(None)}:
        odd = np.fromiter((not isinstance(value, str | None) for value in values), bool, len(values))
        values = [value if isinstance(value, str) else None for value in values]
    return _coded(values), odd


def _coded(texts: Sequence[str | None]) -> pa.DictionaryArray:
    try:
        return pa.array(texts, pa.string()).dictionary_encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold and Arrow cannot
        mended = [None if text is None else text.encode(errors="replace").decode() for text in texts]
        return pa.array(mended, pa.string()).dictionary_encode()


def _numbers(values: list[Any]) -> tuple[Floats, Bools, Bools]:
    """Numbers with NaN for what is none, which of them are absent, and which are there but no numbers."""
    absent = np.zeros(len(values), bool)
    if not set(map(type, values)) <= {float, int}:
        absent = np.fromiter((value is None for value in values), bool, len(values))
        values = [_number(value) for value in values]
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:  # an integer beyond the largest float
        numbers = np.array([_number(value) for value in values], np.float64)
    return numbers, absent, np.isnan(numbers) & ~absent


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _dates(values: list[Any]) -> tuple[NDArray[np.int64], Bools, Bools]:
    """Dates in µs since 1970, which of them are not known, and which are there but no dates."""
    try:
        # Arrow reads only what has an offset, as the service's dates have; in the years 1 to 9999 as `parse_date` does.
        dates = pa.array(values, pa.string()).cast(_TIME).view(pa.int64()).to_numpy()
        if len(dates) == 0 or (dates.min() >= _FIRST and dates.max() <= _LAST):
            return dates, *np.zeros((2, len(values)), bool)
    except (pa.ArrowException, ValueError, TypeError):
        pass
    texts = [value if isinstance(value, str) else _date_text(value) for value in values]
    known = {text: _date_number(text) for text in set(texts)}
    dates = np.fromiter(map(known.__getitem__, texts), np.int64, len(texts))
    unknown: Bools = dates == _NEVER
    absent = np.fromiter((value is None for value in values), bool, len(values))
    return dates, unknown, unknown & ~absent


_TIME = pa.timestamp("us", "UTC")
_NEVER = np.iinfo(np.int64).min
_FIRST, _LAST = (microseconds(date.replace(tzinfo=UTC)) for date in (datetime.min, datetime.max))


def _date_text(value: Any) -> str | None:
    """A date of any form as text, so that equal ones are read once; None for what is none."""
    date = parse_date(value)
    return None if date is None else date.isoformat()


def _date_number(text: str | None) -> int:
    date = parse_date(text)
    return int(_NEVER) if date is None else microseconds(date)


def _in_si(values: Floats, units: pa.DictionaryArray, odd: Bools) -> tuple[Floats, pa.DictionaryArray, Bools]:
    """Values and units in SI units, and which units nobody knows.

    No unit at all counts as a plain number; of one that is there, and no text, nothing is known.
    """
    told = [si_unit(unit) for unit in units.dictionary.to_pylist()]
    names = sorted({"", *(found[0] for found in told if found is not None)})
    factors = np.array([*(math.nan if found is None else found[1] for found in told), 1.0])
    codes = np.array([*(-1 if found is None else names.index(found[0]) for found in told), names.index("")], np.int32)
    which = units.indices.fill_null(len(told)).to_numpy(zero_copy_only=False)
    code = codes[which]
    si = pa.DictionaryArray.from_arrays(pa.array(code, mask=(code < 0) | odd), pa.array(names, pa.string()))
    with np.errstate(over="ignore"):  # beyond the largest float it is infinite, and flagged
        return np.where(odd, math.nan, values * factors[which]), si, code < 0


def _named(names: pa.DictionaryArray, *wanted: str) -> Bools:
    """Which rows have one of these names."""
    codes = [code for code, name in enumerate(names.dictionary.to_pylist()) if name in wanted]
    indices = names.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.isin(indices, codes)


def _out_of_range(names: pa.DictionaryArray, values: Floats, values_si: Floats, group: NDArray[np.int32]) -> Bools:
    """Which values cannot be what they say they are. What is missing is not among them: NaN compares as false."""
    is_t1, is_t2 = _named(names, "T1"), _named(names, "T2")
    t1 = np.full(int(group[-1]) + 1 if len(group) else 0, math.nan)
    t1[group[is_t1]] = values_si[is_t1]
    found = is_t2 & (values_si / 2 > t1[group])
    found |= _named(names, "readout_error") & (values >= READOUT_ERROR_LIMIT)
    found |= _named(names, *NEVER_NEGATIVE) & (values < 0)
    found |= np.isinf(values) | np.isinf(values_si)
    return found


def _joined(flags: Mapping[str, Bools]) -> pa.DictionaryArray:
    code = sum(mask.astype(np.int32) << bit for bit, mask in enumerate(flags.values()))
    kinds, indices = np.unique(code, return_inverse=True)
    texts = [",".join(name for bit, name in enumerate(flags) if kind >> bit & 1) for kind in kinds.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(texts, pa.string()))


def _spread(texts: Sequence[str | None], group: NDArray[np.int32]) -> pa.DictionaryArray:
    coded = _coded(texts)
    return pa.DictionaryArray.from_arrays(coded.indices.take(pa.array(group)), coded.dictionary)
