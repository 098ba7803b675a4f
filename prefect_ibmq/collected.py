"""What became of the calibrations of several backends, where one that fails does not cost the others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import BackendNotFound, IBMQError, InputError, NotFound
from prefect_ibmq.run_logs import run_logger

if TYPE_CHECKING:
    from prefect_ibmq.archive.calibrations import StoredCalibration
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = ["Collected", "asked_backends", "joined", "why"]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Collected:
    """What became of the calibrations of several backends.

    Attributes:
        archive: Path or URL of the archive.
        asked: The backends.
        stored: What was done with each payload, by backend, in the order in which they came.
        failures: What went wrong, by backend; a backend can have payloads too.
        details: More to tell, by backend.
    """

    archive: str
    asked: list[str]
    stored: dict[str, list[StoredCalibration]] = field(default_factory=dict)
    failures: dict[str, IBMQError] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)

    def count(self, status: str) -> int:
        """How many payloads were `stored`, `unchanged` or `quarantined`."""
        return sum(each.status == status for stored in self.stored.values() for each in stored)

    @property
    def got_nothing(self) -> bool:
        """Whether every backend failed, and none gave anything."""
        return len(self.failures) == len(self.asked) and not any(self.stored.values())

    def concluded(self) -> dict[str, Any]:
        """What a task tells; what went wrong with some of the backends is said in its log.

        Raises:
            IBMQError: Nothing came at all; the first reason against which waiting can help, else the first one.
        """
        if self.got_nothing:
            raise min(self.failures.values(), key=lambda error: not error.retryable)
        for name, error in self.failures.items():
            run_logger().warning("%s: %s", name, error)
        return self.told()

    def told(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "archive": self.archive,
            "snapshots": self.count("stored"),
            "unchanged": self.count("unchanged"),
            "quarantined": self.count("quarantined"),
            "failed": {name: str(error) for name, error in sorted(self.failures.items())},
            "backends": {name: self._told(name) for name in self.asked},
        }

    def _told(self, name: str) -> dict[str, Any]:
        stored = self.stored.get(name) or []
        newest = max(stored, key=lambda each: each.last_update_date or _LONG_AGO, default=None)
        date = newest.last_update_date if newest is not None else None
        return {
            "snapshots": sum(each.status == "stored" for each in stored),
            "snapshot": newest.snapshot if newest is not None else None,
            "last_update_date": date.isoformat() if date is not None else None,
            "quarantined": [each.reason for each in stored if each.status == "quarantined"],
            **self.details.get(name, {}),
        }


async def asked_backends(client: RuntimeClient, backends: Sequence[str] | str | None) -> list[str]:
    """The backends that a task means: one, several, or all of the instance.

    Raises:
        InputError: None is named, or the instance has none.
    """
    if backends is None:
        names = [summary.name for summary in await client.list_backends(wait_times=False)]
        if not names:
            raise InputError("The instance has no backend.")
        return names
    names = list(dict.fromkeys(name.strip() for name in ([backends] if isinstance(backends, str) else backends)))
    if not names or not all(names):
        raise InputError(f"backends={backends!r} names no backend.", hint="Leave it out for all of the instance's.")
    return names


async def why(error: IBMQError, backend: str, client: RuntimeClient) -> IBMQError:
    """The error, or one that names the nearest backends where the service does not list this one."""
    if not isinstance(error, NotFound):
        return error
    try:
        names = [summary.name for summary in await client.list_backends(wait_times=False)]
    except IBMQError:
        return error
    if backend in names:
        return error
    return BackendNotFound(
        backend, difflib.get_close_matches(backend, names, n=3, cutoff=0.5), where="in this instance"
    )


def joined(ended: Mapping[str, dict[str, Any] | Exception]) -> dict[str, Any]:
    """What tasks of one backend each have told, or raised, as one of all of them would tell it.

    Raises:
        IBMQError: None has told anything; the first reason is raised.
    """
    told = {name: each for name, each in ended.items() if not isinstance(each, Exception)}
    failures = {name: each for name, each in ended.items() if isinstance(each, Exception)}
    for error in failures.values():
        if not isinstance(error, IBMQError) or not told:
            raise error
    failed = {name: str(error) for name, error in failures.items()}
    backends: dict[str, Any] = {}
    for each in told.values():
        failed |= each["failed"]
        backends |= each["backends"]
    return {
        "archive": next(iter(told.values()))["archive"],
        **{word: sum(each[word] for each in told.values()) for word in ("snapshots", "unchanged", "quarantined")},
        "failed": dict(sorted(failed.items())),
        "backends": dict(sorted(backends.items())),
    }
