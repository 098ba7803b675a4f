"""Walks back through the calibrations that a service still has: what was asked, what came, and how far it went.

A walk asks for the newest calibration before a moment, then for the newest before that one, and so on. Each answer is
kept as one whole file the moment it comes, and several together are brought into the tables later, in few files. So
nobody asks again for what had come before a process was killed; and what a walk has gone through is known from then
on, since the service has said that nothing lies in between.

Layout: `<archive>/backfill/backend=<name>/<walk>/walk.json`, and beside it `answer-….json.z` for each answer that is
not in the tables yet.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from prefect_ibmq.archive.calibrations import StoredCalibration, store_payloads
from prefect_ibmq.archive.datasets import Archive
from prefect_ibmq.errors import ArchiveError

__all__ = ["Answer", "Span", "Walk", "finish_walks", "open_walk"]

FOLDER = "backfill"
GOES_ON_WITHIN = timedelta(days=1)  # a walk from the newest calibration is gone on with; later it is begun anew
ENDS_FOR = timedelta(days=1)  # that history ends may have been a mistake, so it is asked again
_FAR_AHEAD = datetime.max.replace(tzinfo=UTC)
SETTLED_AFTER = timedelta(days=1)  # a service may publish a calibration later than it is dated


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the service.

    Attributes:
        before: What was asked for: the newest calibration before this moment; None is the newest of all.
        low: Where the walk goes on: ask for what is before this moment.
        ended: Whether the service has nothing before `low`.
        collected_at: When it came.
        payload: The bytes as sent; none where the service had no calibration, or sent the previous one again.
    """

    before: datetime | None
    low: datetime | None
    ended: bool
    collected_at: datetime
    payload: bytes = b""

    def packed(self) -> bytes:
        """The answer as a file."""
        head = {
            "before": _text(self.before),
            "low": _text(self.low),
            "ended": self.ended,
            "collected_at": _text(self.collected_at),
        }
        return zlib.compress(json.dumps(head).encode() + b"\n" + self.payload, 1)

    @classmethod
    def unpacked(cls, content: bytes) -> Answer:
        """The answer of a file."""
        head, _, payload = zlib.decompress(content).partition(b"\n")
        told = json.loads(head)
        collected_at = _moment(told["collected_at"]) or datetime.min.replace(tzinfo=UTC)
        return cls(_moment(told["before"]), _moment(told["low"]), bool(told["ended"]), collected_at, payload)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time whose calibrations have all been fetched, those dated `low` and `high` among them."""

    low: datetime
    high: datetime
    ended: bool


@dataclass
class Walk:
    """One walk through one backend's calibrations.

    Attributes:
        started: When it was begun.
        until: The moment it was begun from; None for the newest calibration.
        low: How far back it has gone; None where it has not been answered yet.
        high: From where on nothing can be missing.
        ended: Whether the service has nothing before `low`.
        finished: Whether it is over: the next one from the newest calibration begins anew.
        known: Stretches that other walks have gone through.
    """

    archive: Archive
    backend: str
    name: str
    started: datetime
    until: datetime | None
    low: datetime | None = None
    high: datetime | None = None
    ended: bool = False
    finished: bool = False
    known: Sequence[Span] = ()
    _kept: dict[str, Answer] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """How many answers are not in the tables yet."""
        return len(self._kept)

    @property
    def folder(self) -> str:
        """Where its files are, below the archive's root."""
        return f"{_folder(self.backend)}/{self.name}"

    def keep(self, answer: Answer) -> None:
        """Note an answer; from now on nobody asks for it again."""
        if self.low is None and not self._kept:
            self.write()
        name = f"{self.folder}/answer-{_letters(answer.before)}.json.z"
        self.archive.storage.put(name, answer.packed())
        self._take(name, answer)

    def _take(self, name: str, answer: Answer) -> None:
        self._kept[name] = answer
        if self.high is None:
            settled = answer.before is not None and answer.before < answer.collected_at - SETTLED_AFTER
            self.high = answer.before if settled else answer.low
        self.low, self.ended = answer.low, self.ended or answer.ended

    def settle(self) -> list[StoredCalibration]:
        """Bring the kept answers into the tables and note how far the walk went.

        Raises:
            ArchiveError: They cannot be written; the answers stay kept.
        """
        came = [(self.backend, answer.payload, answer.collected_at) for answer in self._kept.values() if answer.payload]
        stored = store_payloads(self.archive, came) if came else []
        if self.low is not None:
            self.write()
        for name in self._kept:
            self.archive.storage.remove(name)
        self._kept.clear()
        return stored

    def write(self) -> None:
        """Note how far it went."""
        told = {
            "backend": self.backend,
            "started": _text(self.started),
            "until": _text(self.until),
            "low": _text(self.low),
            "high": _text(self.high),
            "ended": self.ended,
            "finished": self.finished,
        }
        self.archive.storage.put(f"{self.folder}/walk.json", json.dumps(told).encode())

    def takes_over(self, other: Walk) -> bool:
        """Add what another walk has gone through, if the two meet and the other one reaches not higher."""
        ours, theirs = self.span(), other.span()
        if ours is None or theirs is None or not ours.low <= theirs.high <= ours.high:
            return False
        if theirs.low < ours.low:
            self.low = theirs.low
            self.ended = theirs.ended and abs(self.started - other.started) < ENDS_FOR
        return True

    def span(self) -> Span | None:
        """What it has gone through; None where it has not been answered yet."""
        return None if self.low is None or self.high is None else Span(self.low, self.high, self.ended)

    def next(self) -> tuple[datetime | None, bool]:
        """What to ask for next: what is before this moment (None: the newest); and whether nothing is left there.

        What is known to be in the archive is passed over.
        """
        if self.low is None and self.until is None:
            return None, self.ended
        before, ended = self.low or self.until, self.ended
        assert before is not None
        while not ended and (over := self._over(before)) is not None:
            before, ended = over.low, over.ended
        return before, ended

    def _over(self, before: datetime) -> Span | None:
        found = [span for span in self.known if span.low <= before <= span.high and (span.low < before or span.ended)]
        return min(found, key=lambda span: (span.low, not span.ended)) if found else None


def open_walk(
    archive: Archive, backend: str, until: datetime | None, now: datetime
) -> tuple[Walk, list[StoredCalibration]]:
    """Go on with the walk that was broken off, or begin one; and bring in what broken-off walks had left.

    A walk from a moment is gone on with whenever it is asked for again; one from the newest calibration only within a
    day, since there may be newer ones by then.

    Args:
        archive: The archive.
        backend: The backend.
        until: Begin with the newest calibration before this moment; None is the newest of all.
        now: The time.

    Returns:
        The walk, and what became of the answers that were left.
    """
    walks = _walks(archive, backend)
    for walk in walks:
        walk.ended = walk.ended and now - walk.started < ENDS_FOR
    stored = [each for walk in walks if walk.kept for each in walk.settle()]
    open_ones = [
        walk
        for walk in walks
        if not walk.finished and walk.until == until and (until is not None or now - walk.started < GOES_ON_WITHIN)
    ]
    if open_ones:
        walk = max(open_ones, key=lambda each: each.started)
    else:
        walk = Walk(archive, backend, f"{_letters(now)}-{uuid.uuid4().hex[:8]}", now, until)
    spans = [span for each in walks if each is not walk and (span := each.span()) is not None]
    walk.known = tuple(spans)
    return walk, stored


def finish_walks(archive: Archive, backend: str) -> None:
    """Note that all walks of a backend are over; those that meet become one, so that there are few to be read."""
    walks = [walk for walk in _walks(archive, backend) if walk.span() is not None and not walk.kept]
    met: list[tuple[Walk, list[Walk]]] = []
    for walk in sorted(walks, key=lambda each: each.high or each.started, reverse=True):
        if not (met and met[-1][0].takes_over(walk)):
            met.append((walk, []))
        else:
            met[-1][1].append(walk)
    for walk, others in met:
        if others or not walk.finished:
            walk.finished = True
            walk.write()
        for other in others:
            archive.storage.remove(f"{other.folder}/walk.json")


def _walks(archive: Archive, backend: str) -> list[Walk]:
    """The walks of a backend, with the answers that are not in the tables yet."""
    names = [entry.name for entry in archive.storage.entries(_folder(backend))]
    walks = []
    for name in names:
        if name.endswith("/walk.json") and (walk := _read(archive, backend, name)) is not None:
            folder = name.removesuffix("walk.json")
            _take_left(walk, [each for each in names if each.startswith(f"{folder}answer-")])
            walks.append(walk)
    return walks


def _read(archive: Archive, backend: str, name: str) -> Walk | None:
    try:
        told: dict[str, Any] = json.loads(archive.storage.read(name))
        started = _moment(told["started"])
        low, high, until = (_moment(told[key]) for key in ("low", "high", "until"))
    except (ArchiveError, ValueError, KeyError, TypeError):
        return None  # it only costs asking again
    if started is None:
        return None
    ended, finished = told.get("ended") is True, told.get("finished") is True
    return Walk(archive, backend, name.split("/")[-2], started, until, low, high, ended, finished)


def _take_left(walk: Walk, names: Sequence[str]) -> None:
    answers = []
    for name in names:
        try:
            answers.append((name, Answer.unpacked(walk.archive.storage.read(name))))
        except (ArchiveError, ValueError, KeyError, zlib.error):
            continue  # another process has just brought it in
    for name, answer in sorted(answers, key=lambda each: each[1].before or _FAR_AHEAD, reverse=True):
        walk._take(name, answer)


def _folder(backend: str) -> str:
    return f"{FOLDER}/backend={quote(backend, safe='')}"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _moment(text: Any) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _letters(moment: datetime | None) -> str:
    return "newest" if moment is None else f"{moment.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
