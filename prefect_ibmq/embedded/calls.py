"""What every route needs of a request: who calls, for which instance, in which API version, with what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_ibmq.embedded.options import Instance
from prefect_ibmq.embedded.refusals import Refusal
from prefect_ibmq.embedded.tokens import make_token, read_token
from prefect_ibmq.embedded.versions import is_past_sunset, resolve_version

if TYPE_CHECKING:
    from prefect_ibmq.embedded.app import LocalService

__all__ = [
    "Call",
    "answer",
    "call_of",
    "instant_query",
    "invalid_body",
    "json_body",
    "no_content",
    "number_query",
    "service_of",
    "switch_query",
    "user_of",
    "wire_time",
]


@dataclass(frozen=True, slots=True)
class Call:
    """An authorised request.

    Attributes:
        service: The service itself.
        user: The caller's id.
        instance: The instance that is called.
        version: The API version to answer in.
    """

    service: LocalService
    user: str
    instance: Instance
    version: str


def service_of(request: Request) -> LocalService:
    """The service that serves a request."""
    service: LocalService = request.app.state.service
    return service


def user_of(request: Request) -> str:
    """The caller, by bearer token or by API key; refuses with 401 and code 1219."""
    service = service_of(request)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    claims: dict[str, Any] | None = None
    if scheme.lower() == "bearer":
        claims = read_token(service.secret, text.strip())
    elif scheme.lower() == "apikey" and text.strip() and text.strip() not in service.options.bad_keys:
        now = int(service.options.clock())
        claims = read_token(service.secret, make_token(service.secret, text.strip(), issued=now, lifetime=60))
    if claims is None or not service.accepts(claims):
        raise Refusal(401, 1219, "Error authenticating user.")
    return str(claims["iam_id"])


def call_of(request: Request) -> Call:
    """Who calls and for what; refuses a bad token (401, 1219) and an unknown instance (404, 1279)."""
    user, service = user_of(request), service_of(request)
    crn = request.headers.get("service-crn", "").strip()
    if not crn:
        raise Refusal(400, 1208, "Request validation failed, because: header Service-CRN is missing.")
    if (instance := service.instance(crn)) is None:
        raise Refusal(404, 1279, f"Instance {crn} not found.")
    version = request.headers.get("ibm-api-version")
    today = datetime.fromtimestamp(service.options.clock(), UTC).date().isoformat()
    if service.options.sunset_versions_refused and is_past_sunset(version, today):
        raise Refusal(400, 1208, f"Request validation failed, because: API version {version} is not served any more.")
    return Call(service, user, instance, resolve_version(version))


async def json_body(request: Request) -> dict[str, Any]:
    """The request's JSON object; refuses anything else (400, 1208) and what is too large (413)."""
    most = service_of(request).options.max_body_bytes
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise Refusal(413, 1208, f"Request validation of body failed, because: it is larger than {most} bytes.")
        chunks.append(chunk)
    try:
        body = json.loads(b"".join(chunks))
    except ValueError as error:
        raise invalid_body(f"it is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid_body("it is not a JSON object")
    return body


def invalid_body(why: str) -> Refusal:
    """The refusal of a body that breaks the schema."""
    return Refusal(400, 1208, f"Request validation of body failed, because: {why}")


def invalid_query(name: str, why: str) -> Refusal:
    """The refusal of a query parameter."""
    return Refusal(400, 1208, f"Request validation of query failed, because: {name} {why}")


def instant_query(request: Request, name: str) -> float | None:
    """A date-time of the query, in seconds since 1970; one without a zone is UTC."""
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.strip().replace(" ", "+"))
    except ValueError as error:
        raise invalid_query(name, "is not an ISO-8601 date-time") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def switch_query(request: Request, name: str) -> bool | None:
    """A boolean of the query; `requests` writes `True`, the API's reference `true`."""
    text = request.query_params.get(name, "").lower()
    if text not in ("", "true", "false", "1", "0"):
        raise invalid_query(name, "is not true or false")
    return text in ("true", "1") if text else None


def number_query(request: Request, name: str, default: int, lowest: int, highest: int) -> int:
    """A number of the query. One that is out of range silently becomes the default, as at IBM."""
    text = request.query_params.get(name, "")
    if not text.lstrip("-").isdigit():
        return default
    return int(text) if lowest <= int(text) <= highest else default


def wire_time(seconds: float | None) -> str | None:
    """A time as the service writes it: `2026-08-17T01:39:15.646554Z`."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def no_content() -> Response:
    """204."""
    return Response(status_code=204)


def answer(body: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return JSONResponse(body, status_code=status)
