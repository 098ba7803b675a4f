"""Faults of the network and of what stands in it, over real sockets."""

import asyncio
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from prefect_ibmq.errors import (
    AnswerLost,
    Conflict,
    IBMQError,
    NotFound,
    NothingSent,
    PendingLimit,
    PermissionDenied,
    RateLimited,
    ServiceError,
    ServiceUnavailable,
    UnusableAnswer,
)
from prefect_ibmq.wire import JobRequest, RuntimeClient
from prefect_ibmq.wire.answers import OversizedAnswer, nothing_ran

VERSIONS = "GET /api/v1/versions"
JOBS = "POST /api/v1/jobs"
GOOD = {"versions": [{"version": "2026-04-15", "status": "live"}]}
REQUEST = JobRequest("sampler", "ibm_fez", {"pubs": []}, ("t",))


def error(code: Any, status: int, message: str = "no", **more: Any) -> tuple[dict[str, Any], int]:
    return {"errors": [{"code": code, "message": message, **more}], "trace": "trace-1"}, status


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- reads: retried ----------------------------------------------------------------------------------------------


async def test_read_survives_lost_answers_and_5xx(server: Any) -> None:
    cut = server.answer(GOOD, length=10_000)
    html = server.answer(status=522, body=b"<html>down</html>", kind="text/html")
    garbled = server.answer(body=b'{"versions": [{"vers')
    server.on(VERSIONS, server.drop, server.answer(*error(1000, 500)), cut, html, garbled, server.answer(GOOD))
    async with server.client() as client:
        assert await client.versions() == GOOD["versions"]
    assert server.count(VERSIONS) == 6


async def test_read_gives_up_after_its_attempts(server: Any) -> None:
    server.on(VERSIONS, server.answer(*error(1000, 503)))
    async with server.client(retry_attempts=2) as client:
        with pytest.raises(ServiceUnavailable, match=r"HTTP 503.*trace-1"):
            await client.versions()
    assert server.count(VERSIONS) == 2


async def test_who_waits_is_told_what_is_tried_again_once_it_takes_longer(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.on(VERSIONS, *[server.answer(*error(1000, 503))] * 4, server.answer(GOOD))
    async with server.client() as client:
        await client.versions()
    said = [record.getMessage() for record in caplog.records if record.name == "prefect_ibmq.wire"]
    assert [words[:13] for words in said] == ["Tried 3 times", "Tried 4 times"]
    assert all("HTTP 503" in words and "trace-1" in words for words in said)


@pytest.mark.parametrize("status", [400, 404, 409, 501])
async def test_read_is_not_retried_where_no_retry_helps(server: Any, status: int) -> None:
    server.on(VERSIONS, server.answer(*error(1208, status)))
    async with server.client() as client:
        with pytest.raises(ServiceError):
            await client.versions()
    assert server.count(VERSIONS) == 1


@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_is_obeyed(server: Any, dated: bool) -> None:
    now = datetime.now(UTC) - timedelta(days=3)  # the service's clock need not be ours
    wait = format_datetime(now + timedelta(seconds=1), usegmt=True) if dated else "1"
    headers = {"retry-after": wait, "date": format_datetime(now, usegmt=True)}
    server.on(VERSIONS, server.answer(*error(1202, 429), headers), server.answer(GOOD))
    started = time.monotonic()
    async with server.client() as client:
        await client.versions()
    assert 0.95 <= time.monotonic() - started < 2


async def test_retry_after_beyond_the_limit_is_told_and_not_waited_for(server: Any) -> None:
    server.on(
        VERSIONS, server.answer(status=429, body=b"slow down", kind="text/plain", headers={"retry-after": "3600"})
    )
    async with server.client() as client:
        with pytest.raises(RateLimited, match="asks to wait 3600 s") as caught:
            await client.versions()
    assert caught.value.retry_after == 3600
    assert server.count(VERSIONS) == 1


# --- deadlines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "body"])
async def test_stalled_read_ends_at_its_deadline(server: Any, where: str) -> None:
    server.on(VERSIONS, server.stall if where == "header" else server.answer(GOOD, stall_after=5))
    started = time.monotonic()
    async with server.client(request_timeout=0.3, retry_attempts=1) as client:
        with pytest.raises(AnswerLost, match=r"0\.3 s"):
            await client.versions()
    assert time.monotonic() - started < 1.5


async def test_dripping_body_ends_at_its_deadline(server: Any) -> None:
    async def drip(writer: asyncio.StreamWriter, seen: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await asyncio.sleep(0.05)

    server.on(VERSIONS, drip)
    started = time.monotonic()
    async with server.client(request_timeout=0.4, retry_attempts=1) as client:
        with pytest.raises(AnswerLost):
            await client.versions()
    assert time.monotonic() - started < 1.5


async def test_connection_refused_means_that_nothing_was_sent(server: Any) -> None:
    client = RuntimeClient(f"http://127.0.0.1:{free_port()}/api/v1", server.crn, None)
    async with client:
        with pytest.raises(NothingSent, match=r"127\.0\.0\.1") as caught:
            await client.create_job(REQUEST)
    assert nothing_ran(caught.value)


async def test_stalled_tls_handshake_means_that_nothing_was_sent(server: Any) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        await asyncio.sleep(1)
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with server.client() as borrowed:
        client = RuntimeClient(f"https://127.0.0.1:{port}/api/v1", server.crn, None, limits=borrowed.limits)
        with pytest.raises(NothingSent):
            await client.create_job(REQUEST)
        await client.aclose()
    listening.close()


async def test_post_that_never_got_a_connection_of_the_pool_is_not_sent(server: Any) -> None:
    server.on(VERSIONS, server.stall)
    server.on(JOBS, server.answer({"id": "job-1"}))
    async with server.client(request_timeout=120.0, submit_timeout=0.4, retry_attempts=1) as client:
        readers = [asyncio.create_task(client.versions()) for _ in range(50)]
        while server.count(VERSIONS) < len(readers):  # noqa: ASYNC110 - the server tells no event
            await asyncio.sleep(0.05)
        with pytest.raises(NothingSent):
            await client.create_job(REQUEST)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert server.count(JOBS) == 0


# --- what is no answer of the service ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 403, 404])
async def test_html_is_not_the_service(server: Any, status: int) -> None:
    page = b"<!DOCTYPE html><html><body>Attention Required! | Cloudflare</body></html>"
    server.on(VERSIONS, server.answer(status=status, body=page, kind="text/html", headers={"cf-ray": "8f2-FRA"}))
    async with server.client() as client:
        with pytest.raises(UnusableAnswer, match="cf-ray 8f2-FRA"):
            await client.versions()
    assert server.count(VERSIONS) == 1


@pytest.mark.parametrize("body", [b"hello", b"[1, 2]", b"", b"null", b"\xff\xfe", b'"x"', b"[" * 200_000, b'{"a": '])
async def test_what_is_no_json_object_is_unusable(server: Any, body: bytes) -> None:
    server.on(VERSIONS, server.answer(body=body))
    async with server.client(retry_attempts=1) as client:
        with pytest.raises(UnusableAnswer):
            await client.versions()


async def test_garbage_instead_of_http_is_a_lost_answer(server: Any) -> None:
    server.on(VERSIONS, server.raw(b"SSH-2.0-OpenSSH_9.6\r\n"))
    async with server.client(retry_attempts=1) as client:
        with pytest.raises(AnswerLost):
            await client.versions()


async def test_announced_giant_is_not_read(server: Any) -> None:
    server.on(VERSIONS, server.answer(GOOD, length=10**9))
    async with server.client(max_answer_bytes=1000) as client:
        with pytest.raises(OversizedAnswer, match="1000000000"):
            await client.versions()
    assert server.count(VERSIONS) == 1


async def test_unannounced_giant_is_cut_off(server: Any) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter, seen: Any) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
            sent += 65_536

    server.on(VERSIONS, endless)
    async with server.client(max_answer_bytes=10**6, request_timeout=20.0) as client:
        with pytest.raises(OversizedAnswer):
            await client.versions()
    assert sent < 20 * 2**20


@pytest.mark.parametrize("status", [200, 500])
async def test_gzip_bomb_is_never_unpacked(server: Any, status: int) -> None:
    bomb = gzip.compress(bytes(300 * 2**20), 6)
    server.on(VERSIONS, server.answer(status=status, body=bomb, headers={"content-encoding": "gzip"}))
    async with server.client(max_answer_bytes=2**20, retry_attempts=1, request_timeout=20.0) as client:
        tracemalloc.start()
        with pytest.raises(OversizedAnswer):
            await client.versions()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_packed_answer_is_unpacked(server: Any, pack: Any) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    server.on(VERSIONS, server.answer(body=pack(json.dumps(GOOD).encode()), headers={"content-encoding": coding}))
    async with server.client() as client:
        assert await client.versions() == GOOD["versions"]


async def test_packed_answer_that_is_cut_or_broken_is_unusable(server: Any) -> None:
    packed = gzip.compress(json.dumps(GOOD).encode())
    coded = {"content-encoding": "gzip"}
    for body in (packed[:-9], b"not gzip at all", packed[:10] + b"\xff" * 20):
        server.on(VERSIONS, server.answer(body=body, headers=coded))
        async with server.client(retry_attempts=1) as client:
            with pytest.raises((AnswerLost, UnusableAnswer)):
                await client.versions()
    server.on(VERSIONS, server.answer(body=b"x", headers={"content-encoding": "br"}))
    async with server.client(retry_attempts=1) as client:
        with pytest.raises(UnusableAnswer, match="br"):
            await client.versions()


async def test_redirect_is_told_and_not_followed(server: Any) -> None:
    server.on(VERSIONS, server.answer(status=302, body=b"", headers={"location": f"{server.url}/elsewhere"}))
    async with server.client() as client:
        with pytest.raises(UnusableAnswer, match="elsewhere"):
            await client.versions()
    assert server.count("GET /elsewhere") == 0


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, 1200, PermissionDenied),
        (404, 1279, NotFound),
        (409, 1234, Conflict),
        (400, 1202, RateLimited),
        (400, 2402, RateLimited),
        (400, "3458", PendingLimit),
        (409, 1012, PendingLimit),
        (400, 1208, ServiceError),
    ],
)
async def test_refusal_carries_code_trace_and_way_out(server: Any, status: int, code: Any, kind: type) -> None:
    server.on(VERSIONS, server.answer(*error(code, status, "It cannot be.", solution="Do otherwise.")))
    async with server.client() as client:
        with pytest.raises(kind) as caught:
            await client.versions()
    refused = caught.value
    assert isinstance(refused, ServiceError)
    assert type(refused) is kind
    assert (refused.status, refused.code, refused.trace) == (status, int(code), "trace-1")
    assert refused.solution == refused.hint == "Do otherwise."
    assert "GET /versions" in str(refused)


async def test_refusal_says_whether_a_retry_can_help(server: Any) -> None:
    async with server.client() as client:
        for code, helps in ((1004, True), (1999, True), (1208, False), (4242, False)):
            server.on(VERSIONS, server.answer(*error(code, 400)))
            with pytest.raises(ServiceError) as caught:
                await client.versions()
            assert caught.value.retryable is helps


async def test_refusal_without_solution_gets_ours(server: Any) -> None:
    server.on(VERSIONS, server.answer(*error(1279, 404, "Instance not found")))
    async with server.client() as client:
        with pytest.raises(NotFound, match="region"):
            await client.versions()


@pytest.mark.parametrize(
    "payload",
    [
        {"errors": [{"code": "not_found", "message": "unknown session"}], "trace": "t"},
        {"errors": ["unknown session"]},
        {"error": {"message": "unknown session", "code": 1291}},
        {"errorCode": "X", "errorMessage": "unknown session"},
    ],
)
async def test_refusal_in_older_shapes_is_read(server: Any, payload: Any) -> None:
    server.on(VERSIONS, server.answer(payload, 404))
    async with server.client() as client:
        with pytest.raises(NotFound, match="unknown session"):
            await client.versions()


# --- POST /jobs --------------------------------------------------------------------------------------------------


async def test_job_is_posted_with_its_headers_and_body(server: Any) -> None:
    server.on(JOBS, server.answer({"id": "job-1", "backend": "ibm_fez"}))
    async with server.client() as client:
        request = JobRequest("sampler", "ibm_fez", {"pubs": []}, ("a",), 600, "s-1", private=True)
        assert await client.create_job(request) == "job-1"
    seen = server.seen[JOBS][0]
    assert seen.headers["service-crn"] == server.crn
    assert seen.headers["ibm-api-version"] == "2026-04-15"
    assert seen.headers["content-type"] == "application/json"
    assert json.loads(seen.body) == {
        "program_id": "sampler",
        "backend": "ibm_fez",
        "params": {"pubs": []},
        "tags": ["a"],
        "cost": 600,
        "session_id": "s-1",
        "private": True,
    }


UNCLEAR: dict[str, Callable[[Any], Any]] = {
    "dropped": lambda server: server.drop,
    "stalled": lambda server: server.stall,
    "5xx": lambda server: server.answer(*error(1000, 500)),
    "408": lambda server: server.answer(*error(1000, 408)),
    "cloudflare": lambda server: server.answer(status=403, body=b"<html>no</html>", kind="text/html"),
    "not json": lambda server: server.answer(status=400, body=b"bad request", kind="text/plain"),
    "other json": lambda server: server.answer({"detail": "bad"}, 400),
    "legacy": lambda server: server.answer({"error": {"message": "bad", "code": 1}}, 400),
    "no errors": lambda server: server.answer({"errors": []}, 400),
    "cut": lambda server: server.answer({"id": "job-1"}, length=1000),
    "garbled": lambda server: server.answer(body=b'{"id": "jo'),
    "no id": lambda server: server.answer({"backend": "x"}),
    "html": lambda server: server.answer(body=b"<html></html>", kind="text/html"),
    "empty": lambda server: server.answer(body=b""),
    "gateway 401": lambda server: server.answer(status=401, body=b"<html>no</html>", kind="text/html"),
}


@pytest.mark.parametrize("fault", UNCLEAR)
async def test_job_whose_answer_proves_nothing_is_posted_once(server: Any, fault: str) -> None:
    server.on(JOBS, UNCLEAR[fault](server))
    server.tokens("token-1", "token-2")
    async with server.client(server.iam(), submit_timeout=0.5) as client:
        with pytest.raises(IBMQError) as caught:
            await client.create_job(REQUEST)
    assert not nothing_ran(caught.value)
    assert server.count(JOBS) == 1


@pytest.mark.parametrize(("status", "code"), [(400, 1208), (404, 1007), (409, 4317), (429, 1202), (400, 3458)])
async def test_job_that_the_service_refused_is_posted_once_and_proved_absent(
    server: Any, status: int, code: int
) -> None:
    server.on(JOBS, server.answer(*error(code, status)))
    async with server.client() as client:
        with pytest.raises(ServiceError) as caught:
            await client.create_job(REQUEST)
    assert nothing_ran(caught.value)
    assert server.count(JOBS) == 1


async def test_job_that_json_cannot_hold_is_refused_before_it_is_sent(server: Any) -> None:
    async with server.client() as client:
        with pytest.raises(IBMQError, match="JSON"):
            await client.create_job(JobRequest("sampler", "ibm_fez", {"x": float("nan")}))
    assert server.count(JOBS) == 0
