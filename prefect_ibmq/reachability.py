"""Whether Prefect's API answers and the service accepts the account: short deadlines, and what refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from prefect_ibmq.environment import environment
from prefect_ibmq.errors import (
    AuthenticationError,
    IBMQError,
    NotFound,
    NothingSent,
    PermissionDenied,
    RateLimited,
    ServiceError,
    UnusableAnswer,
)
from prefect_ibmq.findings import Finding, apart
from prefect_ibmq.wording import counted

if TYPE_CHECKING:
    from prefect_ibmq.provider import IBMQProvider

__all__ = ["check_prefect", "check_service", "explain_refusal"]

DEADLINE_SECONDS = 15.0
PREFECT_SECONDS = 5.0
# One retry at most, so that the cause is told before the deadline ends everything.
_HASTE = {
    "PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS": "2",
    "PREFECT_INTEGRATIONS_IBMQ_RETRY_SECONDS": "14",
    "PREFECT_INTEGRATIONS_IBMQ_REQUEST_TIMEOUT_SECONDS": "7",
    "PREFECT_INTEGRATIONS_IBMQ_CONNECT_TIMEOUT_SECONDS": "3",
}
_KEYS_PAGE = "https://quantum.cloud.ibm.com"
_INSTANCES_PAGE = "https://quantum.cloud.ibm.com/instances"
_STATUS_PAGE = "https://cloud.ibm.com/status"


def check_prefect(api_url: str | None) -> Finding:
    """Whether Prefect's API answers, where flows report their runs and blocks are saved.

    Args:
        api_url: What `PREFECT_API_URL` or the profile says; None where Prefect starts a server of its own.
    """
    import httpx

    if not api_url:
        return Finding("prefect api", "ok", "none is set: Prefect starts a temporary server when it needs one")
    where = httpx.URL(api_url).host
    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/health", timeout=PREFECT_SECONDS)
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        advice = "Start it (prefect server start), or unset PREFECT_API_URL for a temporary one."
        return Finding("prefect api", "error", f"Prefect's API at {where} does not answer.", why, advice)
    if answer.status_code >= 500:
        summary = f"Prefect's API at {where} is in trouble (HTTP {answer.status_code})."
        return Finding("prefect api", "error", summary, resolution="Look at its log.")
    return Finding("prefect api", "ok", f"Prefect's API at {where} answers")


def check_service(provider: IBMQProvider, *, seconds: float = DEADLINE_SECONDS) -> Finding:
    """Ask the service whether it accepts the key and the instance; never longer than `seconds`."""
    from prefect_ibmq import loop

    async def ask() -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                return await provider.averify()
        finally:
            # Its hasty deadlines are for this question only.
            await provider.aclose()

    try:
        with environment(**_HASTE):
            told = loop.run(ask())
    except TimeoutError:
        return Finding(
            "service",
            "error",
            f"No answer came within {seconds:g} s.",
            resolution=f"Check the network, a proxy (HTTPS_PROXY) and {_STATUS_PAGE}.",
        )
    except IBMQError as error:
        return explain_refusal(error)
    return _accepted(told)


def _accepted(told: Mapping[str, Any]) -> Finding:
    names, left = told["backends"], told["usage_remaining_seconds"]
    backends = counted(len(names), "backend")
    if told["channel"] == "local":
        return Finding("service", "ok", f"The embedded service answers: {backends}")
    detail = f"Instance {told['instance']}"
    if not names:
        return Finding("service", "warn", "The instance has no backends.", detail, f"Look at {_INSTANCES_PAGE}.")
    if left is not None and left <= 0:
        summary = "The instance has no QPU seconds left in this period."
        advice = f"Wait for the next period or raise the limit: {_INSTANCES_PAGE}."
        return Finding("service", "warn", summary, detail, advice)
    left_told = "" if left is None else f", {left:,.0f} QPU seconds left"
    return Finding("service", "ok", f"The key and the instance are accepted: {backends}{left_told}", detail)


def explain_refusal(error: IBMQError) -> Finding:
    """Why the service could not be used, and what to do about it, told apart by the class of the error."""
    summary, way_out = apart(error)
    for kinds, applies, sentence, advice in _REASONS:
        if isinstance(error, kinds) and applies(error):
            return Finding("service", "error", sentence, summary, advice)
    return Finding("service", "error", summary, resolution=way_out or f"Look at {_STATUS_PAGE}.")


def _always(_: IBMQError) -> bool:
    return True


def _of_iam(error: IBMQError) -> bool:
    """Whether IAM is meant, which gives the token that every request needs."""
    request = getattr(error, "request", "")
    return "/identity/token" in request or (not request and "IAM" in str(error)) or "No token came" in str(error)


_Reason = tuple[type[IBMQError] | tuple[type[IBMQError], ...], Callable[[IBMQError], bool], str, str]
_REASONS: tuple[_Reason, ...] = (
    (
        AuthenticationError,
        _of_iam,
        "IAM refuses the API key.",
        f"Check QISKIT_IBM_TOKEN or the block: the key may be mistyped or deleted. New ones are made at {_KEYS_PAGE}.",
    ),
    (
        AuthenticationError,
        _always,
        "The service refuses the token that IAM gave for the key.",
        "The key and the instance may be of different accounts: take both from the same one.",
    ),
    (
        NotFound,
        _always,
        "The service does not know the instance.",
        f"Copy its CRN whole from {_INSTANCES_PAGE}; it must be of the key's account. "
        "QISKIT_IBM_URL, if it is set, must end in /api/v1.",
    ),
    (
        PermissionDenied,
        _always,
        "The account may not use the instance.",
        "Ask the account's owner for access to it in IBM Cloud IAM.",
    ),
    (
        NothingSent,
        _of_iam,
        "IAM cannot be reached, which gives the token that every request needs.",
        "Check the network, a proxy (HTTPS_PROXY) and, if it is set, IAM_URL.",
    ),
    (
        NothingSent,
        _always,
        "The service cannot be reached.",
        "Check the network, a proxy (HTTPS_PROXY) and, if it is set, QISKIT_IBM_URL.",
    ),
    (
        UnusableAnswer,
        _always,
        "What answers is not the service.",
        "A proxy or a log-in page may stand between; QISKIT_IBM_URL, if it is set, must end in /api/v1.",
    ),
    (RateLimited, _always, "The service has had too many requests.", "Wait a minute and ask again."),
    (ServiceError, lambda error: error.retryable, "The service is in trouble.", f"Look at {_STATUS_PAGE}; ask later."),
)
