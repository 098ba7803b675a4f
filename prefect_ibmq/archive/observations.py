"""When a calibration was seen: observations, whose ids tell everything, so that no row needs to be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from prefect_ibmq.archive.dates import of_sortable, sortable

__all__ = ["Observation", "are_of_one_date", "latest", "preceding"]

_COLLECTED, _UPDATED, _SNAPSHOT = slice(0, 22), slice(23, 45), slice(46, None)
_FOR_EVER = "~"  # sorts after every moment


@dataclass(frozen=True, slots=True)
class Observation:
    """That a snapshot was seen.

    Attributes:
        id: `<collected_at>-<last_update_date>-<snapshot>`, in letters that sort as these moments do.
    """

    id: str

    @classmethod
    def of(cls, snapshot: str, last_update_date: datetime, collected_at: datetime) -> Observation:
        """An observation of a snapshot."""
        return cls(f"{sortable(collected_at)}-{sortable(last_update_date)}-{snapshot}")

    @property
    def snapshot(self) -> str:
        """What was seen."""
        return self.id[_SNAPSHOT]

    @property
    def collected_at(self) -> datetime:
        """When it was seen, in UTC."""
        return of_sortable(self.id[_COLLECTED])

    @property
    def last_update_date(self) -> datetime:
        """When the service says that the calibration was changed, in UTC."""
        return of_sortable(self.id[_UPDATED])


def preceding(ids: Iterable[str], collected_at: datetime) -> Observation | None:
    """What was seen last, at that moment or before it."""
    until = sortable(collected_at)
    found = max((each for each in ids if each[_COLLECTED] <= until), default=None)
    return None if found is None else Observation(found)


def latest(ids: Iterable[str], at: datetime | None = None, known_at: datetime | None = None) -> Observation | None:
    """The newest calibration that is not dated after `at`, among those seen by `known_at`.

    Of equal dates the one seen last.
    """
    updated = _FOR_EVER if at is None else sortable(at)
    seen = _FOR_EVER if known_at is None else sortable(known_at)
    found = max(
        ((each[_UPDATED], each) for each in ids if each[_UPDATED] <= updated and each[_COLLECTED] <= seen),
        default=None,
    )
    return None if found is None else Observation(found[1])


def are_of_one_date(ids: Iterable[str], found: Observation) -> bool:
    """Whether there are other calibrations of the same date, so that it matters which was seen latest."""
    return any(each[_UPDATED] == found.id[_UPDATED] and each[_SNAPSHOT] != found.snapshot for each in ids)
