"""What the service answers, as typed records.

Each record is made by `from_payload` from the JSON object that the service sent and keeps it whole as `raw`, so a
field that is not named here is never lost. Reading is lenient: fields that the documentation calls optional may be
missing or null, numbers may come as strings, unknown words and extra fields are kept. What makes a record useless
when it is missing (a job's id, a backend's name) raises `UnusableAnswer`. Times are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from prefect_ibmq.errors import UnusableAnswer
from prefect_ibmq.failures import JobStatus, job_status, parse_code

__all__ = [
    "EXPERIMENT_PREFIX",
    "NAME_PREFIX",
    "BackendStatus",
    "BackendSummary",
    "Instance",
    "JobMetrics",
    "JobPage",
    "JobRecord",
    "Payload",
    "Session",
    "Usage",
    "moment_of",
    "required_text",
]

Payload = Mapping[str, Any]
NAME_PREFIX = "ibmq-name:"
EXPERIMENT_PREFIX = "ibmq-experiment:"


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _text_or_none(value: object) -> str | None:
    return _text(value) or None


def _number(value: object) -> float | None:
    """A float from a number or a numeric string (`GET /instance` writes its numbers as strings)."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _whole(value: object) -> int | None:
    number = _number(value)
    try:
        return None if number is None else int(number)
    except (ValueError, OverflowError):
        return None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in value) if isinstance(value, list) else ()


def moment_of(value: object) -> datetime | None:
    """An aware UTC datetime from ISO-8601 text; text without a zone is UTC, as the service writes it."""
    if not isinstance(value, str) or not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def required_text(payload: object, what: str, *names: str) -> str:
    """The first of the named fields that is there; the answer is not a `what` without one."""
    if not isinstance(payload, dict):
        raise UnusableAnswer(f"A {what} was expected, not {type(payload).__name__}.")
    for name in names:
        if text := _text(payload.get(name)):
            return text
    raise UnusableAnswer(f"A {what} came without {' or '.join(repr(name) for name in names)}.")


@dataclass(frozen=True, slots=True)
class BackendSummary:
    """One row of `GET /backends`.

    Attributes:
        operational: Whether it accepts jobs (`status` is `online`).
        status: `online`, `paused`, `offline`, or a word that IBM adds later.
        queue_length: Jobs of all users that wait there.
        clops: Layer operations a second.
        wait_time_seconds: Recent waits (`average`, `p50`, `p95`) where they were asked for and known.
        performance_metrics: Error figures as the service sends them, each with `value` and `unit`.
    """

    name: str
    operational: bool
    status: str
    status_reason: str
    num_qubits: int
    simulator: bool
    queue_length: int | None
    processor_type: dict[str, Any] | None
    clops: float | None
    wait_time_seconds: dict[str, float] | None
    performance_metrics: dict[str, Any] | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read one row; `UnusableAnswer` where it has no name."""
        name = required_text(payload, "backend", "name", "backend_name")
        state, clops = payload.get("status"), payload.get("clops")
        word = _text(state.get("name")) if isinstance(state, dict) else _text(state)
        waits = {key: _number(value) for key, value in _mapping(payload.get("wait_time_seconds")).items()}
        return cls(
            name=name,
            operational=word.lower() == "online",
            status=word,
            status_reason=_text(_mapping(state).get("reason")),
            num_qubits=_whole(payload.get("qubits", payload.get("n_qubits"))) or 0,
            simulator=payload.get("is_simulator") is True,
            queue_length=_whole(payload.get("queue_length")),
            processor_type=_mapping(payload.get("processor_type")) or None,
            clops=_number(clops.get("value")) if isinstance(clops, dict) else _number(clops),
            wait_time_seconds={key: value for key, value in waits.items() if value is not None} or None,
            performance_metrics=_mapping(payload.get("performance_metrics")) or None,
            raw=dict(payload),
        )


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """`GET /backends/{id}/status`.

    Attributes:
        operational: Whether it accepts jobs. With status `internal` it accepts them and does not run them.
        pending_jobs: Jobs of all users that wait there.
    """

    name: str
    operational: bool
    status: str
    message: str
    pending_jobs: int
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def status_msg(self) -> str:
        """`status`, under the name that it had in the IBMQ API."""
        return self.status

    @classmethod
    def from_payload(cls, payload: Payload, *, name: str) -> Self:
        """Read it; the payload does not say whose status it is, so `name` does."""
        return cls(
            name=name,
            operational=payload.get("state") is True,
            status=_text(payload.get("status")),
            message=_text(payload.get("message")),
            pending_jobs=max(_whole(payload.get("length_queue")) or 0, 0),
            raw=dict(payload),
        )


def _charged(payload: Payload) -> float | None:
    """QPU seconds charged; API versions before 2026-03-15 use two other names."""
    usage = _mapping(payload.get("usage"))
    for name in ("qpu_charge_time_seconds", "quantum_seconds", "seconds"):
        if (seconds := _number(usage.get(name))) is not None:
            return seconds
    return None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as `GET /jobs` and `GET /jobs/{id}` tell it, without its params.

    Attributes:
        status: What its words, code and reason amount to.
        status_word: The service's own word, for people and for statuses that we do not know.
        reason: Why it failed or was cancelled; None where the service does not say.
        tags: Its tags; None where the row tells none, which is not the same as having none.
        cost: The maximum execution time in seconds.
        usage_seconds: QPU seconds charged.
    """

    id: str
    backend: str
    program: str
    created: datetime
    status: JobStatus
    status_word: str
    reason: str | None
    reason_code: int | None
    reason_solution: str | None
    tags: tuple[str, ...] | None
    session_id: str | None
    cost: int | None
    usage_seconds: float | None
    estimated_running_time_seconds: float | None
    private: bool
    calibration_id: str | None
    user_id: str | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def name(self) -> str | None:
        """Its name, which travels as a tag; None where it has none."""
        return self._tagged(NAME_PREFIX)

    @property
    def experiment_id(self) -> str | None:
        """The experiment that it belongs to, which travels as a tag; None where it belongs to none."""
        return self._tagged(EXPERIMENT_PREFIX)

    def _tagged(self, prefix: str) -> str | None:
        return next((tag.removeprefix(prefix) for tag in self.tags or () if tag.startswith(prefix)), None)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read it; `UnusableAnswer` where it has no id or no time of creation."""
        job_id = required_text(payload, "job", "id")
        if (created := moment_of(payload.get("created"))) is None:
            raise UnusableAnswer(f"Job {job_id} came without the time of its creation.")
        state, program, tags = payload.get("state"), payload.get("program"), payload.get("tags")
        inner = _mapping(state)
        word = _text(inner.get("status")) if inner else _text(state)
        reason = _text_or_none(inner.get("reason"))
        code = parse_code(inner.get("reason_code", inner.get("reasonCode")))
        top = _text_or_none(payload.get("status"))
        return cls(
            id=job_id,
            backend=_text(payload.get("backend")),
            program=_text(program.get("id")) if isinstance(program, dict) else _text(program),
            created=created,
            status=job_status(word or None, top, code=code, reason=reason),
            status_word=top or word,
            reason=reason,
            reason_code=code,
            reason_solution=_text_or_none(inner.get("reason_solution", inner.get("reasonSolution"))),
            tags=_texts(tags) if isinstance(tags, list) else None,
            session_id=_text_or_none(payload.get("session_id")),
            cost=_whole(payload.get("cost")),
            usage_seconds=_charged(payload),
            estimated_running_time_seconds=_number(payload.get("estimated_running_time_seconds")),
            private=payload.get("private") is True,
            calibration_id=_text_or_none(payload.get("calibration_id")),
            user_id=_text_or_none(payload.get("user_id")),
            raw={key: value for key, value in payload.items() if key != "params"},
        )


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of `GET /jobs`; `count` is how many jobs match in all, None where the service does not say."""

    jobs: tuple[JobRecord, ...]
    count: int | None
    limit: int | None
    offset: int | None

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read it; `UnusableAnswer` where it is not a list of jobs."""
        rows = payload.get("jobs")
        if rows is None:
            rows = [] if _whole(payload.get("count")) == 0 else False
        if not isinstance(rows, list):
            raise UnusableAnswer("A list of jobs was expected.")
        return cls(
            jobs=tuple(JobRecord.from_payload(row) for row in rows),
            count=_whole(payload.get("count")),
            limit=_whole(payload.get("limit")),
            offset=_whole(payload.get("offset")),
        )


@dataclass(frozen=True, slots=True)
class JobMetrics:
    """`GET /jobs/{id}/metrics`.

    Attributes:
        created: When the service accepted the job; `running` and `finished` are None until they happen.
        usage_seconds: QPU seconds charged.
        circuits_execution_time_ns: Time on the QPU in ns.
        caller: What the submitting client called itself.
    """

    created: datetime | None
    running: datetime | None
    finished: datetime | None
    usage_seconds: float | None
    circuits_execution_time_ns: int | None
    caller: str
    qiskit_version: str
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read it; every field may be missing."""
        times = _mapping(payload.get("timestamps"))
        inner = _mapping(payload.get("usage")).get("circuits_execution_time_ns")
        return cls(
            created=moment_of(times.get("created")),
            running=moment_of(times.get("running")),
            finished=moment_of(times.get("finished")),
            usage_seconds=_charged(payload),
            circuits_execution_time_ns=_whole(payload.get("circuits_execution_time_ns", inner)),
            caller=_text(payload.get("caller")),
            qiskit_version=_text(payload.get("qiskit_version")),
            raw=dict(payload),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """`GET /instances/usage`: QPU seconds of an instance in its current period.

    Attributes:
        limit_seconds: The instance's own limit, None where none is set.
        allocation_seconds: What the account allots to it, None where nothing is said.
    """

    instance: str
    plan_id: str
    consumed_seconds: float
    period_start: datetime | None
    period_end: datetime | None
    limit_seconds: float | None
    allocation_seconds: float | None
    limit_reached: bool
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def remaining_seconds(self) -> float | None:
        """What is left of the limit, or of the allocation where there is no limit; None without either."""
        ceiling = self.limit_seconds if self.limit_seconds is not None else self.allocation_seconds
        return None if ceiling is None else max(ceiling - self.consumed_seconds, 0.0)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read it; all but the consumption may be missing."""
        if (consumed := _number(payload.get("usage_consumed_seconds"))) is None:
            raise UnusableAnswer("The usage came without 'usage_consumed_seconds'.")
        period = _mapping(payload.get("usage_period"))
        return cls(
            instance=_text(payload.get("instance_id")),
            plan_id=_text(payload.get("plan_id")),
            consumed_seconds=consumed,
            period_start=moment_of(period.get("start_time")),
            period_end=moment_of(period.get("end_time")),
            limit_seconds=_number(payload.get("usage_limit_seconds")),
            allocation_seconds=_number(payload.get("usage_allocation_seconds")),
            limit_reached=payload.get("usage_limit_reached") is True,
            raw=dict(payload),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session or a batch.

    Attributes:
        mode: `dedicated` or `batch`.
        state: `open`, `active`, `inactive`, `closed`, or a word that IBM adds later.
        accepting_jobs: Whether it takes jobs; where the service does not say, whether it is not closed.
        max_ttl: Its longest life, in seconds; `active_ttl` is what is left of it where the service counts that.
        interactive_ttl: How long it waits for its next job, in seconds.
        elapsed_time: Seconds of use so far.
    """

    id: str
    backend: str
    mode: str
    state: str
    accepting_jobs: bool
    max_ttl: int | None
    active_ttl: int | None
    interactive_ttl: int | None
    elapsed_time: float | None
    started_at: datetime | None
    activated_at: datetime | None
    closed_at: datetime | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Read it; `UnusableAnswer` where it has no id."""
        accepting = payload.get("accepting_jobs")
        return cls(
            id=required_text(payload, "session", "id"),
            backend=_text(payload.get("backend_name", payload.get("backend"))),
            mode=_text(payload.get("mode")),
            state=_text(payload.get("state")),
            accepting_jobs=accepting if isinstance(accepting, bool) else _text(payload.get("state")) != "closed",
            max_ttl=_whole(payload.get("max_ttl")),
            active_ttl=_whole(payload.get("active_ttl")),
            interactive_ttl=_whole(payload.get("interactive_ttl")),
            elapsed_time=_number(payload.get("elapsed_time")),
            started_at=moment_of(payload.get("started_at")),
            activated_at=moment_of(payload.get("activated_at")),
            closed_at=moment_of(payload.get("closed_at")),
            raw=dict(payload),
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of the account, from the instance search or from `GET /instance`.

    Attributes:
        plan: The plan's display name in lower case (`open`, `premium`, …), or `unknown`.
        pricing_type: `free`, `trial`, `paygo`, `paid`, `subscription` or `unknown`.
        backends: Names that it may use; empty where it may use any.
        usage_limit_seconds: Its limit in QPU seconds, None where none is set.
    """

    crn: str
    name: str
    plan: str
    pricing_type: str
    tags: tuple[str, ...]
    region: str
    backends: tuple[str, ...]
    usage_limit_seconds: float | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_payload(
        cls, payload: Payload, *, crn: str = "", plan: str = "unknown", pricing_type: str = "unknown"
    ) -> Self:
        """Read an item of the instance search (the plan comes from the catalogue) or `GET /instance`."""
        address = crn or required_text(payload, "instance", "crn")
        facts = _mapping(_mapping(payload.get("doc")).get("extensions")) or payload
        fields = address.split(":")
        limit = _number(facts.get("instance_limit_seconds"))
        names = _texts(facts.get("backends"))
        return cls(
            crn=address,
            name=_text(payload.get("name")),
            plan=plan,
            pricing_type=pricing_type,
            tags=tuple(tag.lower() for tag in _texts(payload.get("tags"))),
            region=fields[5] if len(fields) > 5 else "",
            backends=() if any(name.upper() == "ANY" for name in names) else names,
            usage_limit_seconds=(limit if limit is not None else _number(facts.get("usage_allocation_seconds"))),
            raw=dict(payload),
        )
