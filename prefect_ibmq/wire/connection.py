"""One request after the other to one instance: headers, one pool of connections, and what an answer amounts to.

The API version is pinned: without its header the service answers in its oldest shape, and does not say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx

from prefect_ibmq.errors import AnswerLost, InputError, ServiceError, ServiceUnavailable, UnusableAnswer
from prefect_ibmq.wire.answers import Answer, UnreadableAnswer, checked_object, json_value, refusal
from prefect_ibmq.wire.transport import Limits, Sink, TokenSource, retried, send, timeouts

__all__ = ["API_VERSION", "Auth", "Connection", "query_of"]

API_VERSION = "2026-04-15"
_PATIENCE = 0.5  # seconds that a request waits for the one before it
# Servers commonly close an idle connection after 5 s. A POST on one that is just being closed would be in doubt.
_POOL = httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=4.0)

Auth = TokenSource | httpx.Auth | None


def query_of(**values: object) -> dict[str, Any]:
    """Query values as the service reads them: no nulls, aware times in UTC, `true` and `false`."""
    query: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise InputError(f"{name} is {value}, a time without a time zone.")
            query[name] = value.astimezone(UTC).isoformat()
        elif isinstance(value, (list, tuple)):
            query.update({name: list(value)} if value else {})
        elif value is not None:
            query[name] = value
    return query


class Connection:
    """The requests of one instance; belongs to the event loop that it is used in. Arguments as of `RuntimeClient`."""

    def __init__(
        self,
        base_url: str,
        crn: str,
        auth: Auth,
        transport: httpx.AsyncBaseTransport | None,
        limits: Limits,
        client_application: str,
    ) -> None:
        self.auth = auth
        self._base_url, self._limits = base_url, limits
        self._turn = asyncio.Lock()
        self._traced = transport is None or isinstance(transport, httpx.AsyncHTTPTransport)
        self._client = httpx.AsyncClient(
            headers={
                "Service-CRN": crn,
                "IBM-API-Version": API_VERSION,
                "X-Qx-Client-Application": client_application,
                "User-Agent": client_application,
                "Accept-Encoding": "gzip",
            },
            timeout=timeouts(limits),
            limits=_POOL,
            transport=transport,
        )

    @property
    def is_closed(self) -> bool:
        """Whether no more requests can be sent."""
        return self._client.is_closed

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def once(
        self,
        deadline: float,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        content: bytes | None = None,
        accept: str | None = "application/json",
        max_bytes: int | None = None,
        sink: Sink | None = None,
        strict: bool = False,
    ) -> Answer:
        """Send a request once; raise what its answer amounts to where that is no success."""
        headers = {"Accept": accept} if accept else {}
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = self._client.build_request(
            method, self._base_url + path, params=query or None, content=content, headers=headers
        )
        async with self._one_by_one():
            answer = await send(
                self._client,
                request,
                auth=self.auth,
                deadline=deadline,
                max_bytes=max_bytes or self._limits.max_answer_bytes,
                sink=sink,
                strict=strict,
                traced=self._traced,
            )
        if not 200 <= answer.status < 300:
            raise refusal(answer, f"{method} {path}", strict=strict)
        return answer

    @asynccontextmanager
    async def _one_by_one(self) -> AsyncIterator[None]:
        """Quick requests share one connection; behind a slow one nobody waits for long, and takes another."""
        ours = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                ours = await self._turn.acquire()
        try:
            yield
        finally:
            if ours:
                self._turn.release()

    async def safely(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request that can be repeated without harm."""
        return await retried(
            partial(self.once, method=method, path=path, **options),
            self._limits,
            deadline=self._limits.request_timeout,
        )

    async def change(self, method: str, path: str, already: type[ServiceError], **options: Any) -> bool:
        """Send a change that can be repeated; False where the service says that it was `already` done.

        That is an error where no earlier answer was lost: then it was not us.
        """
        lost = False

        async def attempt(seconds: float) -> Answer:
            nonlocal lost
            try:
                return await self.once(seconds, method, path, **options)
            except (AnswerLost, UnusableAnswer, ServiceUnavailable):
                lost = True
                raise

        try:
            await retried(attempt, self._limits, deadline=self._limits.request_timeout)
        except already:
            if lost:
                return False
            raise
        return True

    async def read_json(self, path: str, query: dict[str, Any], *, believing: bool = False) -> tuple[Any, bytes]:
        """The JSON of a read, and its bytes. An answer that is not whole JSON is asked for again.

        Args:
            path: What to read.
            query: How.
            believing: Whether what is not JSON and comes the same again is what the service has.
        """
        parsed: Any = None
        unreadable: bytes | None = None

        async def attempt(seconds: float) -> Answer:
            nonlocal parsed, unreadable
            answer = await self.once(seconds, "GET", path, query=query)
            try:
                parsed = json_value(answer, f"GET {path}")
            except UnreadableAnswer as error:
                error.retryable = not (believing and error.body == unreadable)
                unreadable = error.body
                raise
            return answer

        answer = await retried(attempt, self._limits, deadline=self._limits.request_timeout)
        return parsed, answer.body

    async def read_object(self, path: str, **query: object) -> dict[str, Any]:
        """The JSON object of a read."""
        parsed, _ = await self.read_json(path, query_of(**query))
        return checked_object(parsed, f"GET {path}")
