"""The job handle: a small JSON record that finds a job again, from any process, machine or year."""

from __future__ import annotations

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_ibmq.errors import InputError

__all__ = ["JobHandle", "handle_of", "id_of"]


class JobHandle(BaseModel):
    """Where a job is and what it is part of. Holds no secret, no connection, no circuit and no result.

    Attributes:
        channel: `ibm_quantum_platform` or `local`.
        host: Base URL of the API.
        instance: The instance's CRN.
        backend: The backend's name.
        job_id: The service's id of the job.
        program: `executor`, `sampler` or `estimator`.
        run_key: What the author calls this run.
        set_key: Content key of the set of circuits that the job belongs to.
        first: First position of the part that the job runs.
        last: Last position of that part, inclusive.
        attempt: Which attempt at the part this is, from 1.
        created: When the service accepted the job, UTC; None where it has not told yet.
        simulated: Whether its counts are simulated.
        private: Whether the result can be read only once.
        transpiled_for: Calibration stamp that the circuits were transpiled for, ISO 8601, or None.
        snapshot_transpiled: Id of that calibration's snapshot, or None.
        snapshot_submitted: Id of the calibration that held when the service accepted the job, or None where nobody
            has told yet.
        snapshot_executed: Id of the calibration that held when the job began to run, in the same way.
        calibration_id: The service's own name of the job's calibration, where it tells one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    channel: str
    host: str
    instance: str
    backend: str
    job_id: str
    program: str = "executor"
    run_key: str | None = None
    set_key: str | None = None
    first: int = 0
    last: int = 0
    attempt: int = Field(default=1, ge=1)
    created: AwareDatetime | None = None
    simulated: bool = False
    private: bool = False
    transpiled_for: str | None = None
    snapshot_transpiled: str | None = None
    snapshot_submitted: str | None = None
    snapshot_executed: str | None = None
    calibration_id: str | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a handle back from its JSON.

        Raises:
            pydantic.ValidationError: The text is not the JSON of a handle.
        """
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """The handle as JSON."""
        return self.model_dump_json()

    @property
    def page(self) -> str | None:
        """IBM's web page of the job; None for a simulated one."""
        return (
            None
            if self.simulated or self.channel == "local"
            else f"https://quantum.cloud.ibm.com/workloads/{self.job_id}"
        )


def handle_of(job: object) -> JobHandle | str:
    """A handle, or a bare job id, from what a task was given: a handle, its JSON, a job's id, or a row of `list_jobs`.

    Raises:
        InputError: It is none of these.
    """
    from prefect_ibmq.wire.records import JobRecord

    if isinstance(job, JobHandle):
        return job
    if isinstance(job, JobRecord):
        return job.id
    if not isinstance(job, str) or not job.strip():
        raise InputError(f"{job!r} is no job.", hint="Give a job's handle or its id.")
    if not job.lstrip().startswith("{"):
        return job.strip()
    try:
        return JobHandle.from_json(job)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
        raise InputError(f"This text is not a job handle ({wrong}).") from error


def id_of(job: JobHandle | str) -> str:
    """The service's id of a job that is told by its handle or its id."""
    return job.job_id if isinstance(job, JobHandle) else job
