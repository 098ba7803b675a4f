"""The REST API of the IBM Quantum Platform, one method an endpoint, typed records in and out.

Paths and fields: https://quantum.cloud.ibm.com/docs/api/qiskit-runtime-rest. `connection.py` sends the requests.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from uuid import uuid4

import httpx

from prefect_ibmq._version import __version__
from prefect_ibmq.errors import Conflict, InputError, JobNotFinished, NotFound, ServiceError, UnusableAnswer
from prefect_ibmq.failures import JobStatus
from prefect_ibmq.wire.answers import Answer, ForeignAnswer, UnreadableAnswer, checked_object, json_object
from prefect_ibmq.wire.connection import API_VERSION, Auth, Connection, query_of
from prefect_ibmq.wire.job_requests import JobRequest, check_tags
from prefect_ibmq.wire.listing import JobFilter, walk
from prefect_ibmq.wire.records import (
    BackendStatus,
    BackendSummary,
    Instance,
    JobMetrics,
    JobPage,
    JobRecord,
    Session,
    Usage,
)
from prefect_ibmq.wire.transport import Limits, Sink, retried
from prefect_ibmq.wire.watcher import Pace, Watcher
from prefect_ibmq.wire.workloads import Workload, workloads_of

__all__ = ["RuntimeClient"]

MAX_PAGE = 200
MAX_WORKLOADS = 50
NOT_FINISHED = 1234


def _segment(value: str, what: str) -> str:
    """A path segment. An empty one would fetch the list, or the web app."""
    if not value.strip() or value.strip(".") == "":
        raise InputError(f"{value!r} is not the id of a {what}.")
    return quote(value, safe="")


def _json_bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("utf-8")


def _emptied(target: list[bytes] | BinaryIO) -> Sink:
    """Empty what an earlier attempt filled, and give what fills it."""
    if isinstance(target, list):
        target.clear()
        return target.append
    target.seek(0)
    target.truncate()
    return target.write


class RuntimeClient:
    """One instance of the service, one pool of connections. Belongs to the event loop that it is used in.

    Reads, and what can be repeated without harm, are retried (see `transport.retried`); `create_job` and
    `create_session` send one POST and never repeat it. All methods raise the errors of `prefect_ibmq.errors`.

    Args:
        base_url: Base of the API (`hosts.host_of`).
        crn: The instance.
        auth: Who signs requests: an `IAMAuth`, any `httpx.Auth`, or nobody.
        transport: How to get there, where that is not the network. The client closes it.
        limits: How long and how large things may get.
        client_application: What the client calls itself; comes back as a job's `caller`.

    Example:
        >>> async with RuntimeClient(host_of(crn), crn, IAMAuth(api_key)) as client:
        ...     backends = await client.list_backends()
    """

    def __init__(
        self,
        base_url: str,
        crn: str,
        auth: Auth,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        limits: Limits | None = None,
        client_application: str = f"prefect-ibmq/{__version__}",
    ) -> None:
        self.base_url, self.crn = base_url.rstrip("/"), crn
        self.limits = limits or Limits()
        self._http = Connection(self.base_url, crn, auth, transport, self.limits, client_application)
        self._watcher: Watcher | None = None

    def watcher(self, pace: Pace) -> Watcher:
        """The one poller of this instance, at this pace from now on."""
        if self._watcher is None:
            self._watcher = Watcher(self, pace)
        self._watcher.pace = pace
        return self._watcher

    def __repr__(self) -> str:
        return f"RuntimeClient(base_url={self.base_url!r}, crn={self.crn!r})"

    async def __aenter__(self) -> RuntimeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- backends ----------------------------------------------------------------------------------------------

    async def versions(self) -> list[dict[str, Any]]:
        """The API's versions, each with `version`, and `sunset_date` or `status`."""
        payload = await self._http.read_object("/versions")
        return [row for row in payload.get("versions") or [] if isinstance(row, dict)]

    async def list_backends(self, wait_times: bool = True) -> list[BackendSummary]:
        """The backends that the instance may use.

        Args:
            wait_times: Whether to ask for recent waits too.
        """
        payload = await self._http.read_object("/backends", fields="wait_time_seconds" if wait_times else None)
        rows = payload.get("devices")
        if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
            raise ForeignAnswer(
                f"The service does not answer in the shape of API version {API_VERSION}.",
                request="GET /backends",
                hint="Is this the address of IBM's API, and is that version offered still? GET /versions tells.",
            )
        return [BackendSummary.from_payload(row) for row in rows]

    async def backend_configuration(self, name: str, calibration_id: str | None = None) -> dict[str, Any]:
        """A backend's configuration as sent: `dt` and `dtm` in ns, `rep_delay` in µs."""
        path = f"/backends/{_segment(name, 'backend')}/configuration"
        return await self._http.read_object(path, calibration_id=calibration_id)

    async def backend_properties(
        self, name: str, updated_before: datetime | None = None, calibration_id: str | None = None
    ) -> dict[str, Any] | None:
        """A backend's calibration as sent, each value with its own unit and date; None where there is none.

        Args:
            name: The backend.
            updated_before: Aware; the newest calibration older than this instead of the newest.
            calibration_id: A certain calibration.
        """
        properties, _ = await self._properties(name, updated_before, calibration_id)
        return checked_object(properties, f"GET /backends/{name}/properties") if properties else None

    async def backend_properties_text(
        self, name: str, updated_before: datetime | None = None, calibration_id: str | None = None
    ) -> bytes | None:
        """The same, as the bytes that the service sent; None where there is no calibration.

        What is not JSON is asked for again; where the same bytes come again, the service has no others, and they are
        given as they are.
        """
        try:
            properties, sent = await self._properties(name, updated_before, calibration_id, believing=True)
        except UnreadableAnswer as error:
            return error.body
        return sent if properties else None

    async def _properties(
        self, name: str, updated_before: datetime | None, calibration_id: str | None, *, believing: bool = False
    ) -> tuple[Any, bytes]:
        path = f"/backends/{_segment(name, 'backend')}/properties"
        query = query_of(updated_before=updated_before, calibration_id=calibration_id)
        return await self._http.read_json(path, query, believing=believing)

    async def backend_status(self, name: str) -> BackendStatus:
        """Whether a backend accepts jobs, and how many wait there."""
        payload = await self._http.read_object(f"/backends/{_segment(name, 'backend')}/status")
        return BackendStatus.from_payload(payload, name=name)

    # --- jobs --------------------------------------------------------------------------------------------------

    async def create_job(self, request: JobRequest) -> str:
        """Post a job and give its id. The POST is sent once.

        Raises:
            NothingSent: The service has seen nothing; posting again is safe.
            ServiceError: The service refused; `answers.nothing_ran` says whether that proves that no job exists.
            AnswerLost, UnusableAnswer: Whether there is a job now is not known.
        """
        content = request.encoded()
        answer = await self._http.once(self.limits.submit_timeout, "POST", "/jobs", content=content, strict=True)
        payload = json_object(answer, "POST /jobs")
        job_id = payload.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise UnusableAnswer("The service accepted something but named no job.", request="POST /jobs")
        return job_id

    async def list_jobs_page(
        self,
        limit: int = MAX_PAGE,
        offset: int = 0,
        *,
        pending: bool | None = None,
        program: str | None = None,
        backend: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        sort: str = "DESC",
        tags: Sequence[str] = (),
        session_id: str | None = None,
    ) -> JobPage:
        """One page of jobs as the service sends it. Filters that it does not know are silently ignored by it.

        Args:
            limit: Rows, 1 to 200.
            offset: Rows to pass over.
            pending: True for queued and running jobs, False for ended ones.
            program: A program's id.
            backend: A backend's name.
            created_after: Aware.
            created_before: Aware.
            sort: `DESC` (newest first) or `ASC`.
            tags: A job must have all of them.
            session_id: A session or batch.
        """
        if not 1 <= limit <= MAX_PAGE or offset < 0:
            raise InputError(f"A page has 1 to {MAX_PAGE} jobs from offset 0; {limit} from {offset} were asked for.")
        payload = await self._http.read_object(
            "/jobs",
            limit=limit,
            offset=offset,
            pending=pending,
            program=program,
            backend=backend,
            created_after=created_after,
            created_before=created_before,
            sort=sort,
            tags=list(tags),
            session_id=session_id,
            exclude_params=True,
        )
        return JobPage.from_payload(payload)

    async def list_jobs(
        self,
        limit: int | None = None,
        *,
        pending: bool | None = None,
        program: str | None = None,
        backend: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        sort: str = "DESC",
        tags: Sequence[str] = (),
        session_id: str | None = None,
    ) -> AsyncIterator[JobRecord]:
        """All jobs that match, each once, also while jobs come and go (see `listing.walk`).

        Takes what `list_jobs_page` takes, `limit` being the number of jobs in all. Every row is checked here
        against what was asked. Pages are fetched as they are needed.
        """
        wanted = JobFilter(
            pending=pending,
            program=program,
            backend=backend,
            created_after=created_after,
            created_before=created_before,
            sort=sort.upper(),
            tags=tuple(tags),
            session_id=session_id,
        )
        found = 0
        async for job in walk(self, wanted, page_size=MAX_PAGE if limit is None else min(max(limit, 20), MAX_PAGE)):
            if limit is not None and found >= limit:
                return
            found += 1
            yield job

    async def job(self, job_id: str) -> JobRecord:
        """One job, without its params."""
        payload = await self._http.read_object(f"/jobs/{_segment(job_id, 'job')}", exclude_params=True)
        return JobRecord.from_payload(payload)

    async def job_params(self, job_id: str) -> dict[str, Any]:
        """What was posted as a job's `params`: tens of MB perhaps; empty where it is private."""
        payload = await self._http.read_object(f"/jobs/{_segment(job_id, 'job')}", exclude_params=False)
        params = payload.get("params")
        return params if isinstance(params, dict) else {}

    async def job_results(self, job_id: str, *, private: bool = False) -> bytes | None:
        """The result text as sent; None where the job ended without one.

        Args:
            job_id: The job.
            private: Whether the job is private: its results can be read once, so nothing is repeated.

        Raises:
            JobNotFinished: The job has not ended.
        """
        kept: list[bytes] = []
        await self._results(job_id, private, kept)
        return b"".join(kept) or None

    async def job_results_to(self, path: Path, job_id: str, *, private: bool = False) -> int | None:
        """Write the result text to a file as it comes; its size in bytes, or None (and no file) without a result.

        The file is complete or absent: it is written beside and renamed. What came of a private result that was
        cut stays beside it, because it cannot be asked for again; the error's notes say where.
        """
        beside = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
        try:
            with beside.open("wb") as file:
                await self._results(job_id, private, file)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            if private and beside.exists() and beside.stat().st_size:
                error.add_note(f"What came of the private result is kept in {beside}.")
            else:
                beside.unlink(missing_ok=True)
            raise
        if not size:
            beside.unlink()
            return None
        beside.replace(path)
        return size

    async def _results(self, job_id: str, private: bool, target: list[bytes] | BinaryIO) -> None:
        """Fetch results into a list of pieces or a file, emptied before each attempt."""
        path = f"/jobs/{_segment(job_id, 'job')}/results"

        async def attempt(seconds: float) -> Answer:
            take = _emptied(target)
            return await self._http.once(
                seconds, "GET", path, accept=None, max_bytes=self.limits.max_result_bytes, sink=take
            )

        try:
            if private:
                answer = await attempt(self.limits.result_timeout)
            else:
                answer = await retried(attempt, self.limits, deadline=self.limits.result_timeout)
        except ServiceError as error:
            if error.code == NOT_FINISHED:
                raise JobNotFinished(job_id, "still under way") from error
            raise
        if answer.is_html:
            raise ForeignAnswer(f"HTML came instead of results ({answer.described()}).", request=f"GET {path}")

    async def job_metrics(self, job_id: str) -> JobMetrics:
        """Times and usage of a job."""
        return JobMetrics.from_payload(await self._http.read_object(f"/jobs/{_segment(job_id, 'job')}/metrics"))

    async def job_logs(self, job_id: str) -> str:
        """A job's log; empty where there is none (yet)."""
        path = f"/jobs/{_segment(job_id, 'job')}/logs"
        try:
            answer = await self._http.safely("GET", path, accept=None)
        except NotFound:
            return ""
        if answer.is_html:
            raise UnusableAnswer(f"HTML came instead of a log ({answer.described()}).", request=f"GET {path}")
        return answer.body.decode("utf-8", "replace")

    async def cancel_job(self, job_id: str) -> bool:
        """Cancel a job; False where it had ended already."""
        try:
            if await self._http.change("POST", f"/jobs/{_segment(job_id, 'job')}/cancel", Conflict):
                return True
        except Conflict:
            return False
        # The conflict came after a lost answer: it may be with our own first request.
        return (await self.job(job_id)).status is JobStatus.CANCELLED

    async def delete_job(self, job_id: str) -> None:
        """Delete an ended job and its results, for ever."""
        await self._http.change("DELETE", f"/jobs/{_segment(job_id, 'job')}", NotFound)

    async def set_job_tags(self, job_id: str, tags: Sequence[str]) -> None:
        """Replace all tags of a job; an empty sequence clears them."""
        check_tags(tuple(tags))
        content = _json_bytes({"tags": list(tags)})
        await self._http.safely("PUT", f"/jobs/{_segment(job_id, 'job')}/tags", content=content)

    async def search_tags(self, text: str) -> list[str]:
        """Tags of your jobs that contain a text of 3 to 100 characters."""
        if not 3 <= len(text) <= 100:
            raise InputError(f"Tags are searched by 3 to 100 characters; {len(text)} were given.")
        payload = await self._http.read_object("/tags", type="job", search=text)
        return [str(tag) for tag in payload.get("tags") or []]

    # --- sessions ----------------------------------------------------------------------------------------------

    async def create_session(self, mode: str, backend: str, max_ttl: int | None = None) -> Session:
        """Open a session (`dedicated`) or a batch. The POST is sent once.

        Args:
            mode: `dedicated` or `batch`. The Open plan allows batches only.
            backend: Where its jobs run.
            max_ttl: Its longest life in seconds.
        """
        if mode not in ("dedicated", "batch"):
            raise InputError(f"A session's mode is 'dedicated' or 'batch', not {mode!r}.")
        wanted = {"mode": mode, "backend": backend, "instance": self.crn, "max_ttl": max_ttl}
        content = _json_bytes({name: value for name, value in wanted.items() if value is not None})
        answer = await self._http.once(self.limits.request_timeout, "POST", "/sessions", content=content, strict=True)
        return Session.from_payload(json_object(answer, "POST /sessions"))

    async def session(self, session_id: str) -> Session:
        """One session or batch."""
        return Session.from_payload(await self._http.read_object(f"/sessions/{_segment(session_id, 'session')}"))

    async def close_session(self, session_id: str) -> None:
        """Let it take no more jobs; those queued still run. It cannot be opened again. Gone already is no error."""
        path = f"/sessions/{_segment(session_id, 'session')}"
        try:
            await self._http.safely("PATCH", path, content=_json_bytes({"accepting_jobs": False}))
        except NotFound:
            return

    async def cancel_session(self, session_id: str) -> None:
        """End it now; queued jobs will not run, the running one finishes. Gone already is no error."""
        try:
            await self._http.safely("DELETE", f"/sessions/{_segment(session_id, 'session')}/close")
        except NotFound:
            return

    async def list_workloads(
        self, limit: int = MAX_WORKLOADS, *, mode: str | None = None, backend: str | None = None
    ) -> list[Workload]:
        """Your newest jobs outside of sessions, sessions and batches; the only list that tells sessions.

        Args:
            limit: Most rows, 1 to 50.
            mode: `job`, `session` (dedicated ones) or `batch`; None is all of them.
            backend: A backend's name.
        """
        if not 1 <= limit <= MAX_WORKLOADS:
            raise InputError(f"A page has 1 to {MAX_WORKLOADS} workloads; {limit} were asked for.")
        return workloads_of(
            await self._http.read_object(
                "/workloads", user="me", sort="-createdAt", limit=limit, mode=mode, backend=backend
            )
        )

    # --- the instance ------------------------------------------------------------------------------------------

    async def usage(self) -> Usage:
        """QPU seconds used and left in the current period."""
        return Usage.from_payload(await self._http.read_object("/instances/usage"))

    async def instance(self) -> Instance:
        """The instance's backends and limits; its name and plan are known to the instance search only."""
        return Instance.from_payload(await self._http.read_object("/instance"), crn=self.crn)
