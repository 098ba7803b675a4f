"""Exactly one job a part: clients, a service with lag and faults, kills and races, in virtual time.

The service of this test is a model of the documented one, small enough to be exact about when things happen: when a
job is accepted, when the list shows it, when a connection ends. The real service's wire is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import in_virtual_time

from prefect_ibmq.errors import (
    AnswerLost,
    NotFound,
    NothingSent,
    PendingLimit,
    RateLimited,
    ServiceError,
    ServiceUnavailable,
    SubmissionUnclear,
)
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.wire.job_requests import JobRequest
from prefect_ibmq.wire.records import JobRecord
from prefect_ibmq.wire.rivals import SET_PREFIX, Place, marked, place_of, settle_rivals, surplus_of, winner
from prefect_ibmq.wire.submission import SetListing, Submitted, submit_place
from prefect_ibmq.wire.turns import Turns

START = datetime(2026, 1, 1, tzinfo=UTC)
SET = f"{SET_PREFIX}abc"
SETTLE = 10.0
PLACE = Place(0, 3, 1)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """Jobs, when each is visible in lists, and what goes wrong with each POST, in order."""

    faults: list[str] = field(default_factory=list)
    lag: float = 0.0
    acceptance: float = 0.0
    list_failures: int = 0
    jobs: dict[str, JobRecord] = field(default_factory=dict)
    visible: dict[str, float] = field(default_factory=dict)
    posts: int = 0
    gets: int = 0

    def accept(self, tags: Sequence[str]) -> str:
        job_id = f"job{len(self.jobs)}"
        self.jobs[job_id] = JobRecord.from_payload(
            {
                "id": job_id,
                "backend": "ibm_fez",
                "created": (START + timedelta(seconds=now())).isoformat(),
                "program": {"id": "executor"},
                "state": {"status": "Queued"},
                "tags": list(tags),
            }
        )
        self.visible[job_id] = now() + self.lag
        return job_id

    async def _accept_later(self, tags: Sequence[str]) -> None:
        await asyncio.sleep(self.acceptance)
        self.accept(tags)

    async def create_job(self, request: JobRequest) -> str:
        self.posts += 1
        fault = self.faults.pop(0) if self.faults else "none"
        await asyncio.sleep(0.3)
        if fault == "none":
            return self.accept(request.tags)
        if fault == "unconnected":
            raise NothingSent("No connection.")
        if fault == "rate":
            raise RateLimited("Too many requests.", status=429, retry_after=3.0)
        if fault == "pending":
            raise PendingLimit("Too many pending jobs.", status=400, code=3458)
        if fault == "refused":
            raise ServiceError("The body is not valid.", status=400, code=1208)
        if fault == "lost before":
            raise AnswerLost("The answer did not come.")
        self._later = asyncio.create_task(self._accept_later(request.tags))
        if fault == "504 after":
            raise ServiceUnavailable("Gateway timeout.", status=504)
        raise AnswerLost("The answer did not come.")

    async def list_jobs(self, *, tags: tuple[str, ...]) -> AsyncIterator[JobRecord]:
        self.gets += 1
        await asyncio.sleep(0.1)
        if self.list_failures:
            self.list_failures -= 1
            raise ServiceUnavailable("Bad gateway.", status=502)
        for job_id, job in list(self.jobs.items()):
            if self.visible[job_id] <= now():
                yield job

    async def job(self, job_id: str) -> JobRecord:
        await asyncio.sleep(0.1)
        if job_id not in self.jobs:
            raise NotFound("Job not found.", status=404, code=1291)
        return self.jobs[job_id]

    async def set_job_tags(self, job_id: str, tags: Sequence[str]) -> None:
        await asyncio.sleep(0.1)
        self.jobs[job_id] = replace(self.jobs[job_id], tags=tuple(tags))

    async def cancel_job(self, job_id: str) -> bool:
        await asyncio.sleep(0.1)
        if self.jobs[job_id].status.is_final:
            return False
        self.jobs[job_id] = replace(self.jobs[job_id], status=JobStatus.CANCELLED)
        return True

    def live(self) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status is not JobStatus.CANCELLED]


@dataclass
class Disk:
    """A run's folder: what is on it survives a kill."""

    job: str | None = None
    intent: bool = False


class Client:
    """One process. After `kill_at` calls it does nothing any more, wherever it is."""

    def __init__(self, server: Server, disk: Disk, kill_at: int | None = None) -> None:
        self.server, self.disk, self.kill_at = server, disk, kill_at
        self.calls = 0

    async def _step(self) -> None:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.kill_at is not None and self.calls >= self.kill_at:
            await asyncio.Event().wait()

    # --- the journal
    async def job_id(self) -> str | None:
        await self._step()
        return self.disk.job

    async def has_intent(self) -> bool:
        await self._step()
        return self.disk.intent and self.disk.job is None

    async def prepare(self) -> None:
        await self._step()

    async def write_intent(self) -> None:
        await self._step()
        self.disk.intent = True
        await self._step()

    async def withdraw_intent(self) -> None:
        await self._step()
        self.disk.intent = False
        await self._step()

    async def write_job(self, job_id: str, record: JobRecord | None) -> None:
        await self._step()
        self.disk.job = job_id
        await self._step()

    # --- the service, as far as this process still lives
    async def create_job(self, request: JobRequest) -> str:
        await self._step()
        try:
            return await self.server.create_job(request)
        finally:
            await self._step()

    async def list_jobs(self, *, tags: tuple[str, ...]) -> AsyncIterator[JobRecord]:
        await self._step()
        async for job in self.server.list_jobs(tags=tags):
            yield job
        await self._step()

    async def job(self, job_id: str) -> JobRecord:
        await self._step()
        return await self.server.job(job_id)

    async def set_job_tags(self, job_id: str, tags: Sequence[str]) -> None:
        await self._step()
        await self.server.set_job_tags(job_id, tags)
        await self._step()

    async def cancel_job(self, job_id: str) -> bool:
        await self._step()
        return await self.server.cancel_job(job_id)

    async def submit(self, place: Place = PLACE, deadline: float | None = None) -> Submitted:
        async def request() -> JobRequest:
            return JobRequest(program="executor", backend="ibm_fez", params={}, tags=(SET, place.tag))

        listing = SetListing(self, SET, SETTLE)  # type: ignore[arg-type]
        with Turns().of(place.first) as turn:
            return await submit_place(self, listing, place, self, request, turn, deadline=deadline)  # type: ignore[arg-type]


def submitted(server: Server, disk: Disk | None = None, **options: float) -> Submitted:
    told: Submitted = in_virtual_time(Client(server, disk or Disk()).submit(**options))
    return told


def test_submission_undisturbed_takes_one_list_and_one_post() -> None:
    server, disk = Server(), Disk()
    assert submitted(server, disk) == Submitted("job0")
    assert (server.posts, server.gets, disk.job) == (1, 1, "job0")


def test_submission_of_a_known_place_asks_nothing() -> None:
    server = Server()
    assert submitted(server, Disk(job="job7")).job_id == "job7"
    assert (server.posts, server.gets) == (0, 0)


@pytest.mark.parametrize("fault", ["lost after", "504 after"])
def test_submission_adopts_the_job_of_a_lost_answer(fault: str) -> None:
    server = Server([fault], lag=4, acceptance=5)
    assert submitted(server).adopted
    assert (server.posts, len(server.jobs), server.gets) == (1, 1, 2)


def test_submission_posts_again_when_the_list_proves_that_there_is_no_job() -> None:
    server = Server(["lost before", "lost before"])
    assert not submitted(server).adopted
    assert (server.posts, len(server.jobs)) == (3, 1)


def test_submission_waits_out_rate_and_pending_limits() -> None:
    server = Server(["rate", "pending", "pending", "pending", "rate"])
    assert submitted(server).job_id == "job0"
    assert (server.posts, server.gets) == (6, 1)


def test_submission_tries_a_connection_again_but_not_for_ever() -> None:
    assert submitted(Server(["unconnected"] * 3)).job_id == "job0"
    server = Server(["unconnected"] * 100)
    with pytest.raises(NothingSent):
        submitted(server)
    assert server.posts == 5


def test_submission_refused_withdraws_its_intent() -> None:
    server, disk = Server(["refused"]), Disk()
    with pytest.raises(ServiceError):
        submitted(server, disk)
    assert not disk.intent


def test_submission_that_cannot_be_proved_says_so_and_posts_nothing_more() -> None:
    server, disk = Server(["lost after"]), Disk()

    async def main() -> None:
        client = Client(server, disk)
        task = asyncio.create_task(client.submit(deadline=60))
        await asyncio.sleep(0.5)
        server.list_failures = 10_000
        with pytest.raises(SubmissionUnclear):
            await task
        assert now() <= 60
        server.list_failures = 0
        assert (await Client(server, disk).submit()).adopted

    in_virtual_time(main())
    assert (server.posts, len(server.jobs), disk.intent) == (1, 1, True)


def test_submission_cancelled_after_its_post_still_writes_the_job_down() -> None:
    server, disk = Server(), Disk()

    async def main() -> None:
        task = asyncio.create_task(Client(server, disk).submit())
        await asyncio.sleep(0.3)
        assert server.posts == 1
        assert disk.job is None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)

    in_virtual_time(main())
    assert disk.job == "job0"


def test_submission_ignores_foreign_jobs_with_tags_of_our_shape() -> None:
    server = Server()

    async def main() -> Submitted:
        server.accept([f"{SET_PREFIX}other", PLACE.tag])
        server.accept([SET])
        server.accept([SET, "ibmq-part:3-0.1"])
        server.accept([SET, PLACE.tag, "ibmq-part:4-7.1"])
        return await Client(server, Disk()).submit()

    assert not in_virtual_time(main()).adopted


@pytest.mark.parametrize("kill_at", range(1, 16))
@pytest.mark.parametrize("fault", ["none", "lost after", "lost before", "504 after"])
def test_submission_killed_anywhere_is_finished_by_the_next_run(kill_at: int, fault: str) -> None:
    server, disk = Server([fault], lag=5, acceptance=4), Disk()

    async def main() -> None:
        first = asyncio.create_task(Client(server, disk, kill_at).submit())
        await asyncio.wait([first], timeout=40)
        again = await Client(server, disk).submit()
        assert again.job_id in server.live()
        assert (await Client(server, disk).submit()).job_id == again.job_id

    in_virtual_time(main())
    assert len(server.jobs) == 1


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), clients=st.integers(2, 4), lost_disk=st.booleans())
def test_submission_race_keeps_one_job_whatever_happens(seed: int, clients: int, lost_disk: bool) -> None:
    """Several processes, two machines' disks, kills, lag, faults: one job is kept, the surplus is cancelled."""
    rng = random.Random(seed)
    faults = rng.choices(["none", "lost after", "lost before", "504 after", "rate", "pending"], k=6)
    server = Server(faults, lag=rng.uniform(0, 5), acceptance=rng.uniform(0, 5))

    async def process(disk: Disk) -> None:
        await asyncio.sleep(rng.uniform(0, 15))
        kill_at = rng.choice([None, None, rng.randrange(1, 20)])
        running = asyncio.create_task(Client(server, disk, kill_at).submit())
        await asyncio.wait([running], timeout=200)

    async def main() -> None:
        disks = [Disk() for _ in range(clients)] if lost_disk else [Disk()] * clients
        await asyncio.gather(*(process(disk) for disk in disks))
        await asyncio.sleep(30)
        if server.jobs and rng.random() < 0.5:
            done = rng.choice(server.live())
            server.jobs[done] = replace(server.jobs[done], status=JobStatus.COMPLETED)
        # The watcher's ordinary list shows every process the rivals; all of them settle at once.
        rivals = [job for job in server.jobs.values() if place_of(job, SET) == PLACE]
        if rivals:
            kept = await asyncio.gather(*(settle_rivals(server, rivals) for _ in range(clients)))
            assert len({job.id for job, _ in kept}) == 1
        server.faults.clear()  # of several more in a row it would rightly say that all is unclear
        last = await Client(server, Disk()).submit()
        assert server.live() == [last.job_id]

    in_virtual_time(main())


def test_submission_race_on_one_disk_within_the_window_ends_in_one_job() -> None:
    server, disk = Server(lag=3), Disk()

    async def main() -> None:
        await asyncio.gather(Client(server, disk).submit(), Client(server, disk).submit())
        assert len(server.jobs) == 2
        await asyncio.sleep(10)
        await settle_rivals(server, list(server.jobs.values()))

    in_virtual_time(main())
    assert server.live() == ["job0"]
    assert surplus_of(server.jobs["job1"]) == "job0"


def test_a_rival_that_completes_while_it_is_cancelled_is_the_one_kept() -> None:
    class Completing(Server):
        async def cancel_job(self, job_id: str) -> bool:
            if job_id == "job1":
                self.jobs["job1"] = replace(self.jobs["job1"], status=JobStatus.COMPLETED)
            return await super().cancel_job(job_id)

    async def main() -> None:
        server = Completing()
        for _ in range(2):
            server.accept([SET, PLACE.tag])
        kept, surplus = await settle_rivals(server, list(server.jobs.values()))
        assert (kept.id, [job.id for job in surplus]) == ("job1", ["job0"])
        assert server.live() == ["job1"]

    in_virtual_time(main())


def test_winner_is_the_earliest_of_those_that_live() -> None:
    async def main() -> None:
        server = Server()
        for _ in range(3):
            server.accept([SET, PLACE.tag])
            await asyncio.sleep(1)
        first, second, third = server.jobs.values()
        assert winner([third, second, first]) is first
        assert winner([replace(first, status=JobStatus.CANCELLED), third, second]) is second
        assert winner([first, replace(third, status=JobStatus.COMPLETED)]).id == third.id

    in_virtual_time(main())


def test_a_mark_fits_into_eight_tags_and_replaces_an_earlier_one() -> None:
    async def main() -> None:
        server = Server()
        server.accept([SET, PLACE.tag, "c", "d", "e", "f", "g", "ibmq-stopped:run"])
        assert marked(server.jobs["job0"], "ibmq-surplus:x") == (
            SET,
            PLACE.tag,
            "c",
            "d",
            "e",
            "f",
            "g",
            "ibmq-surplus:x",
        )

    in_virtual_time(main())
