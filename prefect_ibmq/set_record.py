"""A job set as its run folder and the service tell it: what has become of each circuit, and the results."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq import loop
from prefect_ibmq.archives import archive_of
from prefect_ibmq.cancellation import stop_jobs
from prefect_ibmq.errors import InputError
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_listing import stored_run, write_stopped
from prefect_ibmq.running import within
from prefect_ibmq.runs import stored_values
from prefect_ibmq.set_parts import SetPart, as_listed, stored_parts, surviving_parts
from prefect_ibmq.set_results import SetResults, Source, collected
from prefect_ibmq.tags import set_tag
from prefect_ibmq.wire.rivals import SET_PREFIX
from prefect_ibmq.wording import counted

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.handles import JobHandle
    from prefect_ibmq.runs import Plan
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import JobRecord

__all__ = ["JobSet", "read_set", "retrieved"]

_SET_KEY = re.compile(r"[0-9a-f]{64}")
_MOST_NAMES, _MOST_SPANS = 6, 8  # told in one line


class JobSet:
    """A set of circuits in few jobs: what has become of each, and their results.

    A picture of one moment: `refresh` asks again, and so do `results`, `counts` and `memory`, which wait for what
    goes on. In async code use `arefresh`, `aresults` and `acancel`; the other methods ask nobody.

    Attributes:
        job_set_id: The set's id, by which `retrieve_job_set` finds it from any machine.
        run_key: What the run is called; None where nobody tells.
        parts: One for each job, in order.
        circuits: How many circuits the set has.
    """

    def __init__(
        self,
        job_set_id: str,
        parts: Sequence[SetPart],
        circuits: int,
        *,
        provider: IBMQProvider,
        archive: Archive,
        has_folder: bool,
        run_key: str | None = None,
    ) -> None:
        self.job_set_id, self.parts, self.circuits, self.run_key = job_set_id, tuple(parts), circuits, run_key
        self._provider, self._archive, self._has_folder = provider, archive, has_folder
        self._results: SetResults | None = None
        self._given: tuple[CircuitInput, ...] = ()

    def __repr__(self) -> str:
        return f"JobSet({self.job_set_id[:12]!r}, {self._summary()})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_results": None, "_given": ()}  # they can be read again

    def with_circuits(self, given: Sequence[CircuitInput]) -> JobSet:
        """The set, which then knows its circuits by what they do and not by their names alone."""
        self._given = tuple(given)
        return self

    @property
    def is_complete(self) -> bool:
        """Whether every circuit has a result."""
        done = sum(len(part.circuits) for part in self.parts if part.status == JobStatus.COMPLETED.value)
        return done == self.circuits

    def statuses(self) -> list[str]:
        """The status of each job: a word of `JobStatus`, `Submitted` where nobody asked since, or `Not submitted`."""
        return [part.status for part in self.parts]

    def jobs(self) -> list[JobHandle | None]:
        """The handle of each job, in order; None where the submission failed."""
        return [part.handle for part in self.parts]

    def error_messages(self) -> str | None:
        """Why circuits have no result, one line a job; None where there is nothing to say."""
        lines = [
            f"Circuits {_span(part)}: {part.status}{_job_of(part)}{_code_of(part)}: {part.reason}"
            for part in self.parts
            if part.reason
        ]
        return "\n".join(lines) or None

    def rows(self) -> list[dict[str, Any]]:
        """One row a job, as the table artifact shows them."""
        return [
            {
                "circuits": _span(part),
                "names": ", ".join(each.circuit for each in part.circuits[:6])
                + ("…" if len(part.circuits) > 6 else ""),
                "status": part.status,
                "job": part.handle.job_id if part.handle else None,
                "attempt": part.attempt or None,
                "backend": part.handle.backend if part.handle else None,
                "QPU seconds": part.seconds,
                "reason": part.reason or None,
            }
            for part in self.parts
        ]

    def report(self) -> str:
        """The set as a text: what it is, how far it is, and why something is missing."""
        seconds = [part.seconds for part in self.parts if part.seconds is not None]
        backends = sorted({part.handle.backend for part in self.parts if part.handle})
        lines = [
            f"Job set {self.job_set_id}",
            f"  run {self.run_key or '(not told)'} on {', '.join(backends) or '(nothing submitted)'}",
            f"  {self._summary()}",
        ]
        lines += [f"  {sum(seconds):g} QPU seconds"] if seconds else []
        lines += [
            f"  circuits {_span(part)}: {part.status}{_job_of(part)}{_code_of(part)}"
            + (f": {part.reason}" if part.reason else "")
            for part in self.parts
        ]
        covered = sum(len(part.circuits) for part in self.parts)
        lines += [f"  {self.circuits - covered} circuits are in no job"] if covered < self.circuits else []
        return "\n".join(lines)

    def _summary(self) -> str:
        statuses: dict[str, int] = {}
        for part in self.parts:
            statuses[part.status] = statuses.get(part.status, 0) + 1
        told = ", ".join(f"{number} {status.lower()}" for status, number in statuses.items()) or "none"
        return f"{counted(self.circuits, 'circuit')} in {counted(len(self.parts), 'job')}: {told}"

    def refresh(self) -> JobSet:
        """Ask the service how the jobs stand, with one list; returns this set."""
        return loop.run(self._refresh())

    async def arefresh(self) -> JobSet:
        """The async door of `refresh`."""
        return await loop.arun(self._refresh())

    async def _refresh(self) -> JobSet:
        read = await read_set(self.job_set_id, self._provider, self._archive, asks=True)
        self.parts, self.circuits = read.parts, read.circuits
        return self

    def results(self, *, wait: bool = True, timeout: float | None = None) -> SetResults:
        """One outcome for each circuit, in the order given; see `collect_job_set`."""
        return loop.run(self._collect(wait, timeout))

    async def aresults(self, *, wait: bool = True, timeout: float | None = None) -> SetResults:
        """The async door of `results`."""
        return await loop.arun(self._collect(wait, timeout))

    async def _collect(self, wait: bool, timeout: float | None) -> SetResults:
        if any(part.is_open for part in self.parts):
            await self._refresh()
        async with within(timeout):
            values = await asyncio.to_thread(self._stored_values) if self._has_folder else None
            contents = await asyncio.to_thread(self._contents)
            source = Source(self.job_set_id, self.circuits, self._provider, self._archive, values, contents)
            results = await collected(self.parts, source, waits=wait)
        if any(part.is_open for part in self.parts) and wait:
            await self._refresh()
        self._results = results
        return results

    def _stored_values(self) -> list[Any]:
        return stored_values(self._archive, self.job_set_id, self.circuits)

    def _contents(self) -> dict[str, list[int]]:
        from prefect_ibmq.fingerprint import circuit_fingerprint

        found: dict[str, list[int]] = {}
        for item in self._given:
            found.setdefault(circuit_fingerprint(item.circuit), []).append(item.position)
        return found

    def _collected(self) -> SetResults:
        return self._results if self._results is not None and self.is_complete else self.results()

    def counts(self, which: Any, register: str | None = None, *, element: Any = None) -> dict[str, int]:
        """How often each bitstring of one circuit was measured; see `SetResults.counts`. Waits for what goes on."""
        return self._collected().counts(which, register, element=element)

    def memory(self, which: Any, register: str | None = None, *, element: Any = None) -> list[str]:
        """What each shot of one circuit gave; see `SetResults.memory`. Waits for what goes on."""
        return self._collected().memory(which, register, element=element)

    def cancel(self) -> list[str]:
        """Cancel the jobs that have not ended; returns their ids."""
        return loop.run(self._cancel())

    async def acancel(self) -> list[str]:
        """The async door of `cancel`."""
        return await loop.arun(self._cancel())

    async def _cancel(self) -> list[str]:
        if self._has_folder:
            await asyncio.to_thread(write_stopped, self._archive, self.job_set_id, "somebody's order")
        client = await self._provider.aget_client()
        jobs = [job async for job in client.list_jobs(tags=(set_tag(self.job_set_id),))]
        cancelled = await stop_jobs(client, jobs, "cancel_job_set")
        await self._refresh()
        return cancelled


def _span(part: SetPart) -> str:
    """Positions as people write them: `0-3, 7`."""
    spans: list[list[int]] = []
    for each in part.circuits:
        if spans and spans[-1][1] == each.position - 1:
            spans[-1][1] = each.position
        else:
            spans.append([each.position, each.position])
    told = [f"{first}-{last}" if last > first else str(first) for first, last in spans]
    return _cut(told, _MOST_SPANS)


def _cut(texts: Sequence[str], most: int) -> str:
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "")


def _job_of(part: SetPart) -> str:
    return f", job {part.handle.job_id}, attempt {part.attempt}" if part.handle else ""


def _code_of(part: SetPart) -> str:
    return f", code {part.code}" if part.code is not None else ""


async def read_set(job_set_id: str, provider: IBMQProvider, archive: Archive, *, asks: bool) -> JobSet:
    """A set as its folder and the service tell it.

    Args:
        job_set_id: Its id.
        provider: Reaches the service.
        archive: Where its folder may lie.
        asks: Whether to ask the service although the folder is there.
    """
    stored = await asyncio.to_thread(stored_run, archive, job_set_id)
    client = await provider.aget_client()
    if stored is None:
        jobs = await _jobs(client, job_set_id)
        if not jobs:
            raise InputError(
                f"There is no job set {job_set_id!r}: neither has {archive.url} its folder, nor the instance its jobs.",
                hint="list_job_sets shows what there is.",
            )
        parts, circuits = await surviving_parts(jobs, job_set_id, provider, client)
        run_key = next((part.handle.run_key for part in parts if part.handle), None)
        return JobSet(
            job_set_id, parts, circuits, provider=provider, archive=archive, has_folder=False, run_key=run_key
        )
    plan = stored.plan
    _check_place(plan, provider, client)
    parts = await asyncio.to_thread(stored_parts, archive, stored)
    if asks:
        parts = as_listed(parts, await _jobs(client, job_set_id), job_set_id, provider, client)
    circuits = sum(len(part.circuits) for part in parts)
    return JobSet(
        job_set_id, parts, circuits, provider=provider, archive=archive, has_folder=True, run_key=plan.run_key
    )


async def _jobs(client: RuntimeClient, job_set_id: str) -> list[JobRecord]:
    return [job async for job in client.list_jobs(tags=(set_tag(job_set_id),))]


def _check_place(plan: Plan, provider: IBMQProvider, client: RuntimeClient) -> None:
    if (plan.channel, plan.host, plan.instance) != (provider.channel, client.base_url, client.crn):
        raise InputError(
            f"Run {plan.run_key} is of instance {plan.instance} at {plan.host}, the provider is for {client.crn} at "
            f"{client.base_url}.",
            hint="Use the provider that it was started with.",
        )


async def retrieved(
    job_set_id: str, provider: IBMQProvider | str | None, *, archive: str | Path | Archive | None, asks: bool
) -> JobSet:
    wanted = str(job_set_id).strip().removeprefix(SET_PREFIX)
    if not _SET_KEY.fullmatch(wanted):
        raise InputError(f"{job_set_id!r} is no job set's id.", hint="It has 64 hexadecimal digits: `job_set_id`.")
    store, chosen = await asyncio.to_thread(archive_of, archive), await provider_of(provider)
    return await read_set(wanted, chosen, store, asks=asks)
