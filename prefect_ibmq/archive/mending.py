"""What can be read of a calibration payload: its odd entries left out, the rest as it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.archive.units import si_unit

__all__ = ["in_order", "mended"]

# What qiskit_ibm_runtime.models reads right. Of other units it takes the first letter for a prefix: "Hz", too. Leap
# seconds it does not read.
_PLAIN_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_MODELLED_UNITS = frozenset({"", "s", "ms", "us", "µs", "ns", "kHz", "MHz", "GHz"})
_HALF_A_LETTER = re.compile("[\ud800-\udfff]")
_MOST_QUBITS = 1 << 31  # what a column of qubits can hold
_KEPT = ("name", "date", "unit", "value")  # any other word of an entry is an error to the model
_NOTHING_KNOWN = {"name": "nothing_known", "unit": "", "value": 0}  # the model stumbles over a qubit without entries


def in_order(document: Mapping[str, Any]) -> dict[str, Any]:
    """A payload whose entries all have the form that the service gives them; of a payload in order, the same.

    Entries without a name, and gates without a name or qubits, are left out. A value that is no finite number, or has a
    unit that is no text, is None.
    """
    qubits, gates = (_list(document.get(name)) for name in ("qubits", "gates"))
    gates = [gate for gate in gates if _is_gate(gate, range(_MOST_QUBITS))]
    return {
        **document,
        "qubits": [_formed(entries) for entries in qubits],
        "gates": [{**gate, "parameters": _formed(gate.get("parameters"))} for gate in gates],
        "general": _formed(document.get("general")),
    }


def _list(told: Any) -> list[Any]:
    return told if isinstance(told, list) else []


def _formed(entries: Any) -> list[dict[str, Any]]:
    told = [each for each in _list(entries) if isinstance(each, dict)]
    return [
        each if _is_formed(each) else {**each, "value": None, "unit": ""} for each in told if _is_text(each, "name")
    ]


def _is_formed(entry: Mapping[str, Any]) -> bool:
    has_unit = entry.get("unit") is None or _is_text(entry, "unit")
    return has_unit and (entry.get("value") is None or _is_number(entry["value"]))


def _is_text(entry: Mapping[str, Any], word: str) -> bool:
    """Whether a word of an entry is a text, and one that can be written: JSON can hold halves of letters."""
    text = entry.get(word)
    return isinstance(text, str) and (text.isascii() or not _HALF_A_LETTER.search(text))


def mended(document: Mapping[str, Any], num_qubits: int | None = None) -> dict[str, Any]:
    """A payload without what the model stumbles over; of a payload in order, the same.

    Values that are absent or no numbers, and those in units that nobody here knows, are left out, as are gates without
    a name, or on qubits that are not there. Units of another spelling are told in SI units. An entry without a date has
    that of the payload. Nothing is put in the place of what is missing.

    Args:
        document: The payload.
        num_qubits: How many qubits the device has: of those that it lacks nothing is known, and those beyond are left
            out. None takes those that it has.
    """
    date = _date(document.get("last_update_date"))
    qubits = [_entries(entries, date) for entries in _list(document.get("qubits"))]
    if num_qubits is not None:
        qubits = [*qubits, *([] for _ in range(num_qubits - len(qubits)))][:num_qubits]
    gates = [gate for gate in _list(document.get("gates")) if _is_gate(gate, range(len(qubits)))]
    return {
        "backend_name": "",
        "backend_version": "",
        **document,
        "last_update_date": date,
        "qubits": [entries or [{**_NOTHING_KNOWN, "date": date}] for entries in qubits],
        "gates": [_gate(gate, date) for gate in gates],
        "general": _entries(document.get("general"), date),
    }


def _is_gate(gate: Any, known: range) -> bool:
    if not isinstance(gate, dict) or not _is_text(gate, "gate"):
        return False
    qubits = gate.get("qubits")
    return isinstance(qubits, list) and set(map(type, qubits)) == {int} and all(qubit in known for qubit in qubits)


def _gate(gate: dict[str, Any], date: str | None) -> dict[str, Any]:
    return {**gate, "parameters": _entries(gate.get("parameters"), date)}


def _entries(entries: Any, date: str | None) -> list[dict[str, Any]]:
    found = [_entry(entry, date) for entry in _list(entries) if isinstance(entry, dict)]
    return [entry for entry in found if entry is not None]


def _entry(entry: dict[str, Any], date: str | None) -> dict[str, Any] | None:
    name, unit = entry.get("name"), entry.get("unit", "")
    value: Any = entry.get("value")
    if not isinstance(name, str) or not isinstance(unit, str) or not _is_number(value):
        return None
    told = {**entry, "unit": unit, "date": _date(entry.get("date")) or date}
    if unit not in _MODELLED_UNITS:
        if (known := si_unit(unit)) is None:
            return None
        told.update(unit="", value=float(value) * known[1])
    return {word: told[word] for word in _KEPT}


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _date(value: Any) -> str | None:
    """A date in the form that the service writes; None for what is none."""
    date = parse_date(value)
    if isinstance(value, str) and date is not None and _PLAIN_DATE.fullmatch(value):
        return value
    return None if date is None else date.isoformat()
