"""One calibration payload: its bytes, what they say, its id and its date; or why it cannot be read.

A payload is the JSON of `GET /backends/{id}/properties`, however it was come by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.snapshot_ids import id_of_canonical, read_json

__all__ = ["CalibrationPayload", "PayloadUnreadable", "encode_payload", "load_json", "parse_payload"]


class PayloadUnreadable(ValueError):
    """A payload is no calibration; the message is the reason.

    Attributes:
        raw: Its bytes, to be kept in quarantine.
    """

    def __init__(self, reason: str, raw: bytes = b"") -> None:
        super().__init__(reason)
        self.raw = raw


@dataclass(frozen=True, slots=True)
class CalibrationPayload:
    """A payload that can be read.

    Attributes:
        raw: Its bytes as they came; of a dict, its JSON.
        document: What they say.
        snapshot: The id of its content.
        last_update_date: Its own date, in UTC.
    """

    raw: bytes
    document: Mapping[str, Any]
    snapshot: str
    last_update_date: datetime

    def without_document(self) -> CalibrationPayload:
        """The same without what takes most memory."""
        return replace(self, document={})


def parse_payload(payload: Mapping[str, Any] | bytes) -> CalibrationPayload:
    """Read one payload.

    Raises:
        PayloadUnreadable: It is not JSON, not an object, has no readable `last_update_date`, or its `qubits`,
            `gates` and `general` are no lists.
    """
    raw = payload if isinstance(payload, bytes) else encode_payload(payload)
    try:
        return _parsed(raw)
    except PayloadUnreadable as error:
        raise PayloadUnreadable(str(error), raw) from error


def _parsed(raw: bytes) -> CalibrationPayload:
    document, canonical = load_json(raw)
    if not isinstance(document, dict):
        raise PayloadUnreadable(f"it is {_kind(document)}, not a JSON object")
    if document.get("last_update_date") is None:
        raise PayloadUnreadable("it has no last_update_date")
    if (date := parse_date(document["last_update_date"])) is None:
        raise PayloadUnreadable(f"its last_update_date is no date: {str(document['last_update_date'])[:100]!r}")
    if "qubits" not in document:
        raise PayloadUnreadable("it has no qubits")
    for name in ("qubits", "gates", "general"):
        if not isinstance(document.get(name), list | None):
            raise PayloadUnreadable(f"its {name} are {_kind(document[name])}, not a list")
    return CalibrationPayload(raw, document, id_of_canonical(canonical), date)


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """The JSON of a payload that somebody has decoded; datetimes in it take the service's tagged form.

    Raises:
        PayloadUnreadable: It holds what JSON does not have.
    """
    try:
        return json.dumps(payload, default=_tagged).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadUnreadable(f"it cannot be written as JSON: {error}", _shown(payload)) from error


def _shown(payload: Mapping[str, Any]) -> bytes:
    try:
        return repr(payload).encode(errors="backslashreplace")
    except RecursionError:
        return b"(nested too deeply to be shown)"


def _tagged(value: object) -> dict[str, Any]:
    if isinstance(value, datetime):
        return {"__type__": "datetime", "__value__": value.isoformat()}
    if isinstance(value, Mapping):  # read-only ones, and those of other packages
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def load_json(raw: bytes) -> tuple[Any, bytes]:
    """What JSON text says, as `json.loads` would tell it, and its canonical form.

    Raises:
        PayloadUnreadable: It is empty, cut, or no JSON at all.
    """
    if not raw.strip():
        raise PayloadUnreadable("it is empty")
    try:
        return read_json(raw)
    except RecursionError as error:
        raise PayloadUnreadable("it is nested too deeply") from error
    except ValueError as error:
        raise PayloadUnreadable(f"it is not JSON: {error}") from error


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
