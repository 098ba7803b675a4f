"""The errors of `prefect_ibmq`, each saying whether waiting or retrying can help.

IBMQError                     everything below; `retryable`, `hint`
├── InputError                what you passed cannot work; nothing was submitted  (also a ValueError)
│   ├── CircuitError          a circuit, or the file that it came from
│   ├── ConfigurationError    account, instance, environment or setting
│   ├── BackendNotFound       no such backend here; the nearest names are told
│   └── NoBackendLeft         the filters rejected every backend; each one's reason is told
├── ServiceError              the service refused: `status`, `code`, `solution`, `trace`, `request`
│   ├── AuthenticationError   401, or IAM refused the key
│   ├── PermissionDenied      403 that the service itself sent
│   ├── NotFound              404 that the service itself sent
│   ├── Conflict              409: already final, or the usage limit is reached
│   ├── RateLimited           429, and codes 1202 and 2402: `retry_after`
│   ├── PendingLimit          codes 1012 and 3458: wait for a job to finish
│   └── ServiceUnavailable    5xx
├── TransportError            no answer of the service: `request`
│   ├── NothingSent           connect, DNS, TLS or pool: the service has seen nothing
│   ├── AnswerLost            the request went out, its answer did not come back whole
│   └── UnusableAnswer        an answer came that is not the service's: HTML, not JSON, cut, too large, another shape
├── DeadlineExceeded          the time that you allowed is over; what was waited for may go on  (also a TimeoutError)
├── BudgetExceeded            the provider's budget of QPU seconds does not hold what was asked; nothing was submitted
├── CalibrationDrifted        the device is not any more what the circuits were transpiled for; nothing was submitted
├── SubmissionUnclear         a POST whose outcome nobody has proved; it was not sent again
├── SessionClosed             the session takes no more jobs, or one more could not start in its time
├── JobNotFinished            results were asked for before the job ended
├── JobVanished               the service showed the job before and knows it no more
├── JobEnded                  the job is over and has no result: `job_id`, `code`, `reason`
│   ├── JobFailed             the service ran it, or tried to, and failed
│   ├── JobCancelled          somebody cancelled it
│   └── JobRanTooLong         it passed its maximum execution time
├── ResultUnreadable          the result text was stored but cannot be decoded; nothing is lost
├── ArchiveError              the archive cannot be read or written
│   └── CalibrationNotFound   it has no calibration of that backend for that moment
└── NotOffered                the service does not have it (any longer); the substitute is named
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AnswerLost",
    "ArchiveError",
    "AuthenticationError",
    "BackendNotFound",
    "BudgetExceeded",
    "CalibrationDrifted",
    "CalibrationNotFound",
    "CircuitError",
    "ConfigurationError",
    "Conflict",
    "DeadlineExceeded",
    "IBMQError",
    "InputError",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobNotFinished",
    "JobRanTooLong",
    "JobVanished",
    "NoBackendLeft",
    "NotFound",
    "NotOffered",
    "NothingSent",
    "PendingLimit",
    "PermissionDenied",
    "RateLimited",
    "ResultUnreadable",
    "ServiceError",
    "ServiceUnavailable",
    "SessionClosed",
    "SubmissionUnclear",
    "TransportError",
    "UnusableAnswer",
]


class IBMQError(Exception):
    """Base of all errors of this package.

    Attributes:
        retryable: Whether the same call can succeed later without anybody changing anything.
        hint: The way out, or an empty string.
    """

    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (task runners, persisted results); keyword-only arguments would break that.
        return _rebuild, (type(self), str(self), self.__dict__.copy())


def _rebuild(kind: type[IBMQError], message: str, state: dict[str, object]) -> IBMQError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InputError(IBMQError, ValueError):
    """What was passed cannot work. Nothing was submitted."""


class CircuitError(InputError):
    """A circuit, or the file that it came from, cannot be run."""


class ConfigurationError(InputError):
    """Account, instance, environment or settings do not fit together."""


class BackendNotFound(InputError):
    """No backend of that name; `nearest` are the likeliest ones meant."""

    def __init__(self, name: str, nearest: Iterable[str] = (), *, where: str = "") -> None:
        self.name = name
        self.nearest = tuple(nearest)
        meant = f"Did you mean {', '.join(self.nearest)}?" if self.nearest else ""
        super().__init__(f"There is no backend {name!r}{' ' + where if where else ''}.", hint=meant)


_MOST_TOLD = 8  # reasons in a message; an account may see dozens of backends


class NoBackendLeft(InputError):
    """Every backend was rejected; `reasons` maps its name to why."""

    def __init__(self, reasons: dict[str, str], *, hint: str = "Loosen a filter.") -> None:
        self.reasons = dict(reasons)
        told = "; ".join(f"{name}: {reason}" for name, reason in list(self.reasons.items())[:_MOST_TOLD])
        if (more := len(self.reasons) - _MOST_TOLD) > 0:
            told += f"; and {more} more, which `reasons` tells"
        super().__init__(f"No backend is left ({told or 'the instance has none'}).", hint=hint)


class ServiceError(IBMQError):
    """The service answered, and its answer is a refusal.

    Attributes:
        status: HTTP status.
        code: IBM's error code, or None where the answer had none.
        solution: What the service says to do about it.
        trace: The service's id of this failure; quote it to IBM's support.
        request: Method and path, such as `POST /jobs`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: int | None = None,
        solution: str = "",
        trace: str = "",
        request: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.status, self.code, self.solution = status, code, solution
        self.trace, self.request, self.retry_after = trace, request, retry_after
        facts = [f"HTTP {status}"]
        facts += [f"code {code}"] if code is not None else []
        facts += [f"trace {trace}"] if trace else []
        facts += [f"asks to wait {retry_after:g} s"] if retry_after else []
        where = f"{request}: " if request else ""
        super().__init__(f"{where}{message} ({', '.join(facts)})", hint=solution)


class AuthenticationError(ServiceError):
    """The API key or the token made from it was refused."""


class PermissionDenied(ServiceError):
    """The account may not do this."""


class NotFound(ServiceError):
    """The service knows no such thing."""


class Conflict(ServiceError):
    """The thing is in a state that does not allow it."""


class RateLimited(ServiceError):
    """Too many requests; `retry_after` is what the service asks for, in seconds, or None."""

    retryable = True


class PendingLimit(ServiceError):
    """As many jobs are pending as the account may have."""

    retryable = True


class ServiceUnavailable(ServiceError):
    """The service, or something before it, is in trouble."""

    retryable = True


class TransportError(IBMQError):
    """No answer of the service came back."""

    retryable = True

    def __init__(self, message: str, *, request: str = "", hint: str = "") -> None:
        self.request = request
        super().__init__(f"{request}: {message}" if request else message, hint=hint)


class NothingSent(TransportError):
    """The connection was never made, so the service has seen nothing."""


class AnswerLost(TransportError):
    """The request went out; whether the service acted on it is not known."""


class UnusableAnswer(TransportError):
    """Something answered that is not what the service's documentation promises."""


class DeadlineExceeded(IBMQError, TimeoutError):
    """The time allowed is over. What was waited for may still go on."""

    retryable = True


class BudgetExceeded(IBMQError):
    """The provider's budget of QPU seconds does not hold what was asked for. Nothing was submitted.

    Attributes:
        budget: The budget, in seconds.
        used: What the instance's usage period and this run have used of it, in seconds.
        asked: Estimate of what was asked for, in seconds.
    """

    def __init__(self, budget: float, used: float, asked: float) -> None:
        self.budget, self.used, self.asked = budget, used, asked
        super().__init__(
            f"The budget is {budget:g} QPU seconds, {used:.1f} of them are used, "
            f"and this job would take about {asked:.1f}.",
            hint="Use fewer shots or circuits, raise the provider's budget, or wait until the usage period is over.",
        )


class CalibrationDrifted(IBMQError):
    """The calibration has moved too far since the circuits were transpiled. Nothing was submitted.

    Attributes:
        backend: The device.
        findings: What moved, each in a sentence: the edge or qubit, both values and the limit.
    """

    def __init__(self, backend: str, findings: Iterable[str], *, hint: str) -> None:
        self.backend, self.findings = backend, tuple(findings)
        more = f" (and {len(self.findings) - 3} more)" if len(self.findings) > 3 else ""
        super().__init__(
            f"{backend} is not any more what these circuits were transpiled for: {'; '.join(self.findings[:3])}{more}.",
            hint=hint,
        )


class SubmissionUnclear(IBMQError):
    """A job was posted and nobody can say whether the service has it. It was not posted again.

    Attributes:
        key: The set key, which is also a tag of the job if it exists.
    """

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        self.key = key
        super().__init__(message, hint=hint)


class SessionClosed(IBMQError):
    """The session takes no more jobs, or its time ends before one more could start. Nothing was submitted.

    Attributes:
        session_id: The session or batch.
    """

    def __init__(self, session_id: str, why: str) -> None:
        self.session_id = session_id
        super().__init__(
            f"Nothing more can run in session {session_id}: {why}.",
            hint="Run it without a session, or open another one.",
        )


class JobNotFinished(IBMQError):
    """The job has not ended, so there is no result to fetch yet."""

    retryable = True

    def __init__(self, job_id: str, status: str) -> None:
        self.job_id, self.status = job_id, status
        super().__init__(f"Job {job_id} is {status}; it has no result yet.", hint="Wait for it first.")


class JobVanished(IBMQError):
    """The service showed the job before, and now does not know it: somebody deleted it."""

    def __init__(self, job_id: str, status: str) -> None:
        self.job_id, self.status = job_id, status
        super().__init__(
            f"Job {job_id} was {status} when it was last seen, and the service does not know it any more.",
            hint="Somebody may have deleted it.",
        )


class JobEnded(IBMQError):
    """The job is over and has no result.

    Attributes:
        job_id: The job.
        code: IBM's reason code, or None.
        reason: What the service says happened.
    """

    verb: ClassVar[str] = "ended without a result"

    def __init__(self, job_id: str, *, reason: str = "", code: int | None = None, hint: str = "") -> None:
        self.job_id, self.reason, self.code = job_id, reason, code
        coded = f" (code {code})" if code is not None else ""
        super().__init__(f"Job {job_id} {self.verb}{coded}{': ' + reason if reason else '.'}", hint=hint)


class JobFailed(JobEnded):
    """The service could not run the job."""

    verb = "failed"


class JobCancelled(JobEnded):
    """Somebody cancelled the job."""

    verb = "was cancelled"


class JobRanTooLong(JobEnded):
    """The job passed its maximum execution time and was stopped."""

    verb = "ran longer than its maximum execution time"


class ResultUnreadable(IBMQError):
    """A result text came whole but cannot be decoded."""


class ArchiveError(IBMQError):
    """The archive cannot be read or written."""


class CalibrationNotFound(ArchiveError):
    """The archive has no calibration of this backend for this moment."""


class NotOffered(IBMQError, NotImplementedError):
    """The service does not have this (any longer); the message names the substitute."""
