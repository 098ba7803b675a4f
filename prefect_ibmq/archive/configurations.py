"""What else is kept of a backend: its configuration whenever it changed, and its status each time it was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect_ibmq.archive.datasets import Archive
from prefect_ibmq.archive.dates import sortable
from prefect_ibmq.archive.keyed import keys, read_row, write_keyed
from prefect_ibmq.archive.properties import PayloadUnreadable, encode_payload, load_json
from prefect_ibmq.archive.schemas import BACKEND_STATUSES, CONFIGURATIONS, rows_of
from prefect_ibmq.errors import InputError
from prefect_ibmq.snapshot_ids import id_of_canonical

__all__ = ["read_configuration", "store_configuration", "store_status"]

_COLLECTED, _CONTENT = slice(0, 22), slice(23, None)  # of an id: <collected_at>-<hash of the content>


def store_configuration(
    archive: Archive, backend: str, payload: Mapping[str, Any] | bytes, collected_at: datetime | None = None
) -> bool:
    """Store a backend's configuration if it is another one than was seen before it; tells whether it is.

    Args:
        archive: Where to.
        backend: Whose it is.
        payload: The bytes that the service sent, or what they say.
        collected_at: When it was seen; now by default, a naive one is local time.

    Raises:
        InputError: It is no JSON object.
    """
    raw, _, content = _object(backend, "configuration", payload)
    collected = (collected_at or datetime.now(UTC)).astimezone(UTC)
    moment = sortable(collected)
    seen = keys(archive.storage, CONFIGURATIONS, (backend,))
    before = max((each for each in seen if each[_COLLECTED] <= moment), default="")
    if before[_CONTENT] == content:
        return False
    row = {"configuration": f"{moment}-{content}", "collected_at": collected, "payload": raw}
    write_keyed(archive.storage, CONFIGURATIONS, (backend,), rows_of(CONFIGURATIONS, [row]))
    return True


def read_configuration(archive: Archive, backend: str, at: datetime | None = None) -> dict[str, Any] | None:
    """A backend's configuration as it was seen last by a moment.

    Where none was seen by then, the first one seen later: calibrations can be had from before the first look at a
    device, and its qubits and couplings change rarely.

    Args:
        archive: Where from.
        backend: Whose; it need not exist any more.
        at: The moment, inclusive; now by default. A naive one is local time.

    Returns:
        The service's JSON; None where no configuration was ever stored.
    """
    seen = sorted(keys(archive.storage, CONFIGURATIONS, (backend,)))
    if not seen:
        return None
    until = "~" if at is None else sortable(at)
    known = [each for each in seen if each[_COLLECTED] <= until]
    row = read_row(archive.storage, CONFIGURATIONS, (backend,), known[-1] if known else seen[0])
    document: dict[str, Any] | None = None if row is None else load_json(row["payload"][0].as_py())[0]
    return document


def store_status(
    archive: Archive, backend: str, payload: Mapping[str, Any] | bytes, collected_at: datetime | None = None
) -> None:
    """Store what a backend said of itself: a row for each time that it was asked.

    Args:
        archive: Where to.
        backend: Whose it is.
        payload: The answer of `GET /backends/{id}/status`.
        collected_at: When it was asked; now by default, a naive one is local time.

    Raises:
        InputError: It is no JSON object.
    """
    _, document, content = _object(backend, "status", payload)
    collected = (collected_at or datetime.now(UTC)).astimezone(UTC)
    operational, pending = document.get("state"), document.get("length_queue")
    row = {
        "observation": f"{sortable(collected)}-{content}",
        "collected_at": collected,
        "operational": operational if isinstance(operational, bool) else None,
        "status": _text(document.get("status")),
        "pending_jobs": pending if type(pending) is int and abs(pending) < 1 << 63 else None,
        "message": _text(document.get("message")),
        "payload": json.dumps(document, sort_keys=True),
    }
    write_keyed(archive.storage, BACKEND_STATUSES, (backend,), rows_of(BACKEND_STATUSES, [row]))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _object(backend: str, what: str, payload: Mapping[str, Any] | bytes) -> tuple[bytes, dict[str, Any], str]:
    if not backend:
        raise InputError(f"A {what} must say whose it is; the name of the backend is empty.")
    try:
        raw = payload if isinstance(payload, bytes) else encode_payload(payload)
        document, canonical = load_json(raw)
    except PayloadUnreadable as error:
        raise InputError(f"The {what} of {backend} cannot be stored: {error}.") from error
    if not isinstance(document, dict):
        raise InputError(f"The {what} of {backend} cannot be stored: it is no JSON object.")
    return raw, document, id_of_canonical(canonical)
