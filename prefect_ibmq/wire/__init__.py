"""The wire: one async client for the IBM Quantum Platform REST API. Knows HTTP, JSON and IBM's words."""

from prefect_ibmq.wire.answers import nothing_ran
from prefect_ibmq.wire.auth import IAMAuth, TokenAuth
from prefect_ibmq.wire.client import RuntimeClient
from prefect_ibmq.wire.connection import API_VERSION
from prefect_ibmq.wire.hosts import CRN, host_of, iam_url_of, parse_crn
from prefect_ibmq.wire.job_requests import JobRequest
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
from prefect_ibmq.wire.transport import Limits

__all__ = [
    "API_VERSION",
    "CRN",
    "BackendStatus",
    "BackendSummary",
    "IAMAuth",
    "Instance",
    "JobMetrics",
    "JobPage",
    "JobRecord",
    "JobRequest",
    "Limits",
    "RuntimeClient",
    "Session",
    "TokenAuth",
    "Usage",
    "host_of",
    "iam_url_of",
    "nothing_ran",
    "parse_crn",
]
