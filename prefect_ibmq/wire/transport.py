"""One request, one answer: deadlines over connect, header and body, size limits, and the retry of safe requests.

httpx's own timeouts count the pause between two bytes, and its ASGI transport ignores them, so each request is
enclosed in one asyncio deadline. Bodies are unpacked here, in small steps, so that no answer can become larger than
what is accepted; only gzip is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import httpx
import stamina

from prefect_ibmq.errors import (
    AnswerLost,
    AuthenticationError,
    NothingSent,
    ServiceError,
    TransportError,
    UnusableAnswer,
)
from prefect_ibmq.wire.answers import Answer, OversizedAnswer, refusal

__all__ = ["RETRYABLE_STATUSES", "Limits", "Sink", "TokenSource", "retried", "send", "timeouts"]

RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504, 520, 521, 522, 524})
MAX_ERROR_BYTES = 2**20
_NO_CONNECTION = "Check the address, the network and proxies; `prefect-ibmq doctor` tells them apart."
_TOO_LARGE = "If it is the service's, raise PREFECT_INTEGRATIONS_IBMQ_MAX_ANSWER_BYTES or …_MAX_RESULT_BYTES."
_logger = logging.getLogger("prefect_ibmq.wire")
_TOLD_FROM = 3  # tries without an answer from which on whoever watches is told
_STEP = 2**20  # most that one step of unpacking yields

Sink = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how large the wire may get. Times are seconds.

    Attributes:
        connect_timeout: Making a connection.
        request_timeout: One read, from connecting to the last byte.
        submit_timeout: One `POST /jobs`.
        result_timeout: One download of results.
        retry_attempts: How often a safe request is tried in all.
        retry_seconds: How long it is retried in all.
        max_answer_bytes: Largest answer, unpacked; results apart.
        max_result_bytes: Largest result text, unpacked.
    """

    connect_timeout: float = 10.0
    request_timeout: float = 60.0
    submit_timeout: float = 900.0
    result_timeout: float = 900.0
    retry_attempts: int = 6
    retry_seconds: float = 120.0
    max_answer_bytes: int = 64 * 2**20
    max_result_bytes: int = 512 * 2**20


def timeouts(limits: Limits) -> httpx.Timeout:
    """httpx's own timeouts: connecting only; the rest is under one deadline."""
    return httpx.Timeout(None, connect=limits.connect_timeout)


@runtime_checkable
class TokenSource(Protocol):
    """Where bearer tokens come from, and how a refused one is replaced."""

    async def bearer(self) -> str:
        """A token to send."""

    async def renew(self, refused: str) -> str:
        """A newer token than the refused one."""


class _Progress:
    """How far a request got, told by httpcore's trace; of a transport without a trace the worst is assumed."""

    def __init__(self, traced: bool) -> None:
        self.sent, self.awaits_token, self._traced = False, False, traced

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.startswith(("connection.connect_tcp.", "connection.start_tls.", "connection.connect_unix")):
            self.sent = not event.endswith((".started", ".failed"))
        elif ".send_" in event:
            self.sent = True

    def begin(self) -> None:
        """The request is handed over; a traced one waits for a connection first."""
        self.sent = not self._traced

    async def token(self, coming: Awaitable[str]) -> str:
        """Wait for a token. Until it is there nothing is under way that the service could have acted on."""
        self.sent, self.awaits_token = False, True
        token = await coming
        self.awaits_token = False
        return token


async def send(
    client: httpx.AsyncClient,
    request: httpx.Request,
    *,
    auth: TokenSource | httpx.Auth | None,
    deadline: float,
    max_bytes: int,
    sink: Sink | None = None,
    strict: bool = False,
    traced: bool = False,
) -> Answer:
    """Send one request and read its answer whole, whatever its status.

    A 401 is answered once, by a newer token; nothing else is repeated here.

    Args:
        client: Where to send it.
        request: The request, its body in memory.
        auth: Who signs it.
        deadline: Seconds for everything: token, connecting, header, body.
        max_bytes: Largest body, unpacked.
        sink: Takes the body of a 200 in pieces instead of memory.
        strict: Whether only an `errors[]` JSON counts as a 401 (see `answers.refusal`).
        traced: Whether the transport tells httpcore's trace, so that waiting for the pool is known to send nothing.

    Raises:
        NothingSent: The service has seen nothing.
        AnswerLost: The request went out, the answer did not come whole.
        UnusableAnswer: The answer is too large or is packed wrongly.
    """
    progress, named = _Progress(traced), f"{request.method} {request.url.path}"
    request.extensions["trace"] = progress
    try:
        async with asyncio.timeout(deadline):
            return await _authorised(client, request, auth, progress, max_bytes, sink, strict)
    except TimeoutError as error:
        if progress.sent:
            raise AnswerLost(f"No whole answer came within {deadline:.3g} s.", request=named) from error
        missing = "No token came" if progress.awaits_token else "No connection was made"
        raise NothingSent(f"{missing} within {deadline:.3g} s.", request=named, hint=_NO_CONNECTION) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise NothingSent(
            f"No connection to {request.url.host}: {_why(error)}.", request=named, hint=_NO_CONNECTION
        ) from error
    except httpx.UnsupportedProtocol as error:
        raise NothingSent(f"{_why(error)}.", request=named) from error
    except (httpx.DecodingError, zlib.error) as error:
        raise UnusableAnswer(f"The answer cannot be unpacked: {_why(error)}.", request=named) from error
    except httpx.TransportError as error:
        raise AnswerLost(f"The answer did not come whole: {_why(error)}.", request=named) from error


def _why(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


async def _authorised(
    client: httpx.AsyncClient,
    request: httpx.Request,
    auth: TokenSource | httpx.Auth | None,
    progress: _Progress,
    max_bytes: int,
    sink: Sink | None,
    strict: bool,
) -> Answer:
    if not isinstance(auth, TokenSource):
        progress.begin()
        return await _exchange(client, request, auth, max_bytes, sink)
    token = await progress.token(auth.bearer())
    progress.begin()
    answer = await _with_token(client, request, token, max_bytes, sink)
    if answer.status != 401 or not isinstance(refusal(answer, "", strict=strict), AuthenticationError):
        return answer
    token = await progress.token(auth.renew(token))
    progress.begin()
    return await _with_token(client, request, token, max_bytes, sink)


async def _with_token(
    client: httpx.AsyncClient, request: httpx.Request, token: str, max_bytes: int, sink: Sink | None
) -> Answer:
    request.headers["Authorization"] = f"Bearer {token}"
    return await _exchange(client, request, None, max_bytes, sink)


async def _exchange(
    client: httpx.AsyncClient, request: httpx.Request, auth: httpx.Auth | None, max_bytes: int, sink: Sink | None
) -> Answer:
    response = await client.send(request, stream=True, auth=auth)
    try:
        good = response.status_code == 200
        limit = max_bytes if good else min(max_bytes, MAX_ERROR_BYTES)
        kept: list[bytes] = []
        take = sink if good and sink is not None else kept.append
        await _read(response, limit, take)
    finally:
        await response.aclose()
    return Answer(response.status_code, response.headers, b"".join(kept))


async def _read(response: httpx.Response, limit: int, take: Sink) -> None:
    """Read the body in pieces, unpacked; `OversizedAnswer` as soon as it is known to pass the limit."""
    named = f"{response.request.method} {response.request.url.path}"
    length = response.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() else None
    if declared is not None and declared > limit:
        raise OversizedAnswer(
            f"An answer of {declared} bytes was announced; {limit} are allowed.", request=named, hint=_TOO_LARGE
        )
    unpacker, raw_bytes = _unpacker(response, limit, named), 0
    async for chunk in response.aiter_raw():
        raw_bytes += len(chunk)
        for piece in unpacker.feed(chunk):
            take(piece)
    if declared is not None and raw_bytes != declared:
        raise AnswerLost(f"{raw_bytes} of {declared} announced bytes came.", request=named)
    unpacker.finish()


class _Unpacker:
    """Counts what passes, and unpacks it where it is packed."""

    def __init__(self, limit: int, named: str, packed: bool) -> None:
        self._left, self._limit, self._named = limit, limit, named
        self._stream = zlib.decompressobj(wbits=47) if packed else None
        self._fed = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces that a chunk unpacks to."""
        if self._stream is None:
            yield self._counted(chunk)
            return
        self._fed = True
        while chunk:
            if self._stream.eof:  # a gzip file may hold several members
                self._stream = zlib.decompressobj(wbits=47)
            yield self._counted(self._stream.decompress(chunk, _STEP))
            chunk = self._stream.unconsumed_tail or self._stream.unused_data

    def finish(self) -> None:
        """Check that the packed stream has ended."""
        if self._stream is not None and self._fed and not self._stream.eof:
            raise AnswerLost("The packed answer ends before its end.", request=self._named)

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise OversizedAnswer(
                f"The answer is larger than {self._limit} bytes.", request=self._named, hint=_TOO_LARGE
            )
        return piece


def _unpacker(response: httpx.Response, limit: int, named: str) -> _Unpacker:
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise UnusableAnswer(f"The answer is packed with {coding!r}, which nobody asked for.", request=named)
    return _Unpacker(limit, named, packed=coding not in ("", "identity"))


def _is_worth_repeating(error: Exception) -> bool:
    if isinstance(error, ServiceError):
        return error.status in RETRYABLE_STATUSES
    return isinstance(error, TransportError) and error.retryable


async def retried(attempt: Callable[[float], Awaitable[Answer]], limits: Limits, *, deadline: float) -> Answer:
    """Repeat a safe request until it is answered, or until the limits are reached.

    Statuses 429, 500, 502, 503, 504, 520, 521, 522, 524, lost answers and failed connections are repeated, with
    growing pauses and jitter; `Retry-After` is obeyed, and where it asks for more than is left, the error is raised.

    Args:
        attempt: Sends the request once, within the seconds it is given; raises what its answer amounts to.
        limits: How often and how long.
        deadline: Seconds for one attempt.
    """
    started, sent = time.monotonic(), 0

    def pause(error: Exception) -> bool | float:
        if not _is_worth_repeating(error):
            return False
        asked = getattr(error, "retry_after", None)
        left = limits.retry_seconds - (time.monotonic() - started)
        if asked is not None and asked > left:
            return False
        if _TOLD_FROM <= sent < limits.retry_attempts:
            _logger.warning("Tried %d times, and tried again: %s", sent, error)
        return True if asked is None else max(float(asked), 0.01) * (1 + random.random() / 20)

    def allowed() -> float:
        left = limits.retry_seconds - (time.monotonic() - started)
        return deadline if sent == 1 else max(min(deadline, left), 1.0)

    async for each in stamina.retry_context(
        on=pause,
        attempts=limits.retry_attempts,
        timeout=limits.retry_seconds,
        wait_initial=0.2,
        wait_max=20.0,
        wait_jitter=0.3,
    ):
        with each:
            sent += 1
            answer = await attempt(allowed())
    return replace(answer, attempts=sent)
