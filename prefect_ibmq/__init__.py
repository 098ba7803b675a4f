"""A Prefect 3 integration for IBM Quantum.

Importing this defines the blocks, the errors and the small records: the server and every worker import it. All other
public names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from prefect_ibmq._version import __version__
from prefect_ibmq.credentials import IBMQCredentials, list_saved_accounts
from prefect_ibmq.errors import (
    AnswerLost,
    ArchiveError,
    AuthenticationError,
    BackendNotFound,
    BudgetExceeded,
    CalibrationDrifted,
    CalibrationNotFound,
    CircuitError,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    IBMQError,
    InputError,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobNotFinished,
    JobRanTooLong,
    JobVanished,
    NoBackendLeft,
    NotFound,
    NothingSent,
    NotOffered,
    PendingLimit,
    PermissionDenied,
    RateLimited,
    ResultUnreadable,
    ServiceError,
    ServiceUnavailable,
    SessionClosed,
    SubmissionUnclear,
    TransportError,
    UnusableAnswer,
)
from prefect_ibmq.failures import JobStatus, explain_error
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.job_blocks import IBMQJob
from prefect_ibmq.job_runs import IBMQJobRun
from prefect_ibmq.provider import IBMQProvider
from prefect_ibmq.settings import IBMQSettings, get_settings

__all__ = [
    "AnswerLost", "ArchiveError", "AuthenticationError", "BackendNotFound", "BackendRecord", "BudgetExceeded",
    "CalibrationDrifted", "CalibrationLimits", "CalibrationNotFound", "CircuitError", "CircuitOutcome",
    "ConfigurationError", "Conflict", "DeadlineExceeded", "IBMQCredentials", "IBMQError", "IBMQJob", "IBMQJobRun",
    "IBMQProvider", "IBMQSession", "IBMQSettings", "InputError", "JobCancelled", "JobEnded", "JobFailed",
    "JobHandle", "JobLimit", "JobNotFinished", "JobRanTooLong", "JobSet", "JobSetSummary", "JobStatus", "JobTimes",
    "JobVanished", "NoBackendLeft", "NotFound", "NotOffered", "NothingSent", "PendingLimit", "PermissionDenied",
    "PropertiesRecord", "QueueInfo", "RateLimited", "ResultUnreadable", "ServiceError", "ServiceUnavailable",
    "SessionClosed", "SetResults", "SubmissionUnclear", "TransportError", "UnusableAnswer", "__version__",
    "aactive_jobs", "abackend_configuration", "abackend_properties", "abackend_status", "abackend_target",
    "abackfill_calibrations", "abest_backend", "acalibration_history", "acancel_job", "acancel_job_set",
    "acancel_session", "acollect_job_set", "acompact_calibrations", "active_jobs", "adelete_job",
    "aexport_calibrations", "aexport_counts", "aexport_estimates", "afetch_result", "aget_backend", "aget_job",
    "aiter_jobs", "ajob_limit", "ajob_logs", "ajob_metrics", "ajob_properties", "ajob_set_report", "ajobs_frame",
    "aleast_busy", "alist_backends", "alist_job_sets", "alist_jobs", "alist_providers", "aopen_run", "aplan_run",
    "aqueue_info", "aread_calibration", "aremaining_jobs_count", "areport_drift", "aretrieve_job",
    "aretrieve_job_set", "arun_circuits", "arun_job_set", "asnapshot_calibrations", "astore_calibration",
    "asubmit_job", "asubmit_part", "atarget_history", "atime_per_step", "atranspile_circuits", "aupdate_job_tags",
    "await_for_job", "backend_configuration", "backend_properties", "backend_status", "backend_target",
    "backfill_calibrations", "best_backend", "calibration_history", "cancel_job", "cancel_job_set",
    "cancel_session", "check_calibration", "collect_job_set", "compact_calibrations", "compare_calibrations",
    "delete_job", "estimate_success", "explain_error", "export_calibrations", "export_counts", "export_estimates",
    "fetch_result", "get_backend", "get_job", "get_settings", "iter_jobs", "job_limit", "job_logs", "job_metrics",
    "job_properties", "job_set_report", "jobs_frame", "least_busy", "list_backends", "list_job_sets", "list_jobs",
    "list_providers", "list_saved_accounts", "load_circuits", "open_run", "open_session", "plan_run", "queue_info",
    "read_calibration", "read_counts", "read_estimates", "remaining_jobs_count", "report_drift", "retrieve_job",
    "retrieve_job_set", "run_circuits", "run_job_set", "snapshot_calibrations", "store_calibration", "submit_job",
    "submit_part", "target_history", "time_per_step", "transpile_circuits", "update_job_tags", "wait_for_job",
]  # fmt: skip

if TYPE_CHECKING:
    from prefect_ibmq.archive.reading import read_counts, read_estimates
    from prefect_ibmq.backend_records import BackendRecord, PropertiesRecord
    from prefect_ibmq.backends import (
        abackend_configuration,
        abackend_properties,
        abackend_status,
        abackend_target,
        aget_backend,
        aleast_busy,
        alist_backends,
        atarget_history,
        backend_configuration,
        backend_properties,
        backend_status,
        backend_target,
        get_backend,
        least_busy,
        list_backends,
        target_history,
    )
    from prefect_ibmq.backfill import abackfill_calibrations, backfill_calibrations
    from prefect_ibmq.calibration_exports import aexport_calibrations, export_calibrations
    from prefect_ibmq.calibration_gate import check_calibration
    from prefect_ibmq.calibration_limits import CalibrationLimits
    from prefect_ibmq.calibrations import (
        acalibration_history,
        acompact_calibrations,
        aread_calibration,
        astore_calibration,
        calibration_history,
        compact_calibrations,
        read_calibration,
        store_calibration,
    )
    from prefect_ibmq.circuits import load_circuits
    from prefect_ibmq.counts import aexport_counts, export_counts
    from prefect_ibmq.drift import compare_calibrations
    from prefect_ibmq.drift_report import areport_drift, report_drift
    from prefect_ibmq.estimates import aexport_estimates, export_estimates
    from prefect_ibmq.instances import alist_providers, list_providers
    from prefect_ibmq.job_changes import adelete_job, aupdate_job_tags, delete_job, update_job_tags
    from prefect_ibmq.job_details import (
        JobTimes,
        QueueInfo,
        aget_job,
        ajob_logs,
        ajob_metrics,
        ajob_properties,
        aqueue_info,
        aretrieve_job,
        atime_per_step,
        get_job,
        job_logs,
        job_metrics,
        job_properties,
        queue_info,
        retrieve_job,
        time_per_step,
    )
    from prefect_ibmq.job_limits import JobLimit, ajob_limit, aremaining_jobs_count, job_limit, remaining_jobs_count
    from prefect_ibmq.job_listing import (
        aactive_jobs,
        active_jobs,
        aiter_jobs,
        ajobs_frame,
        alist_jobs,
        iter_jobs,
        jobs_frame,
        list_jobs,
    )
    from prefect_ibmq.job_sets import (
        acancel_job_set,
        acollect_job_set,
        ajob_set_report,
        aretrieve_job_set,
        arun_job_set,
        cancel_job_set,
        collect_job_set,
        job_set_report,
        retrieve_job_set,
        run_job_set,
    )
    from prefect_ibmq.jobs import acancel_job, afetch_result, await_for_job, cancel_job, fetch_result, wait_for_job
    from prefect_ibmq.planning import aopen_run, aplan_run, open_run, plan_run
    from prefect_ibmq.ranking import abest_backend, best_backend
    from prefect_ibmq.running import arun_circuits, run_circuits
    from prefect_ibmq.sessions import IBMQSession, acancel_session, cancel_session, open_session
    from prefect_ibmq.set_listing import JobSetSummary, alist_job_sets, list_job_sets
    from prefect_ibmq.set_record import JobSet
    from prefect_ibmq.set_results import CircuitOutcome, SetResults
    from prefect_ibmq.snapshots import asnapshot_calibrations, snapshot_calibrations
    from prefect_ibmq.submissions import asubmit_job, asubmit_part, submit_job, submit_part
    from prefect_ibmq.success import estimate_success
    from prefect_ibmq.transpilation import atranspile_circuits, transpile_circuits
else:
    # The imports above once more, as a table; a test holds the two together.
    _HOME_OF = {
        "estimates": "aexport_estimates export_estimates",
        "ranking": "abest_backend best_backend",
        "set_results": "CircuitOutcome SetResults",
        "set_record": "JobSet",
        "set_listing": "JobSetSummary alist_job_sets list_job_sets",
        "job_sets": (
            "acancel_job_set acollect_job_set ajob_set_report aretrieve_job_set arun_job_set cancel_job_set "
            "collect_job_set job_set_report retrieve_job_set run_job_set"
        ),
        "archive.reading": "read_counts read_estimates",
        "backend_records": "BackendRecord PropertiesRecord",
        "backfill": "abackfill_calibrations backfill_calibrations",
        "backends": (
            "abackend_configuration abackend_properties abackend_status abackend_target aget_backend "
            "aleast_busy alist_backends atarget_history backend_configuration backend_properties "
            "backend_status backend_target get_backend least_busy list_backends target_history"
        ),
        "calibration_exports": "aexport_calibrations export_calibrations",
        "calibration_gate": "check_calibration",
        "calibration_limits": "CalibrationLimits",
        "calibrations": (
            "acalibration_history acompact_calibrations aread_calibration astore_calibration calibration_history "
            "compact_calibrations read_calibration store_calibration"
        ),
        "circuits": "load_circuits",
        "counts": "aexport_counts export_counts",
        "drift": "compare_calibrations",
        "drift_report": "areport_drift report_drift",
        "instances": "alist_providers list_providers",
        "job_listing": ("aactive_jobs active_jobs aiter_jobs ajobs_frame alist_jobs iter_jobs jobs_frame list_jobs"),
        "jobs": "acancel_job afetch_result await_for_job cancel_job fetch_result wait_for_job",
        "planning": "aopen_run aplan_run open_run plan_run",
        "running": "arun_circuits run_circuits",
        "sessions": "IBMQSession acancel_session cancel_session open_session",
        "snapshots": "asnapshot_calibrations snapshot_calibrations",
        "submissions": "asubmit_job asubmit_part submit_job submit_part",
        "success": "estimate_success",
        "transpilation": "atranspile_circuits transpile_circuits",
        "job_details": (
            "JobTimes QueueInfo aget_job ajob_logs ajob_metrics ajob_properties aqueue_info aretrieve_job "
            "atime_per_step get_job job_logs job_metrics job_properties queue_info retrieve_job "
            "time_per_step"
        ),
        "job_changes": "adelete_job aupdate_job_tags delete_job update_job_tags",
        "job_limits": "JobLimit ajob_limit aremaining_jobs_count job_limit remaining_jobs_count",
    }
    _HOME_OF = {name: module for module, names in _HOME_OF.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
