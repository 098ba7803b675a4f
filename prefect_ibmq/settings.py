"""What can be tuned without code: environment variables `PREFECT_INTEGRATIONS_IBMQ_*`."""

from __future__ import annotations

from pathlib import Path

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field

__all__ = ["IBMQSettings", "get_settings"]


class IBMQSettings(PrefectBaseSettings):
    """Settings of the integration; each is `PREFECT_INTEGRATIONS_IBMQ_<NAME>` in the environment."""

    model_config = build_settings_config(("integrations", "ibmq"))

    home: Path | None = Field(
        default=None,
        description="Folder of the embedded service and of runs without an archive; `$PREFECT_HOME/ibmq` if unset.",
    )
    poll_floor_seconds: float = Field(default=2.0, gt=0, description="Shortest pause between two looks at jobs.")
    poll_ceiling_seconds: float = Field(default=30.0, gt=0, description="Longest pause between two looks at jobs.")
    wait_seconds: float = Field(
        default=7 * 86_400.0, gt=0, description="Deadline of waiting for a job where the call names none."
    )
    settle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="How long the service's job list may lag behind an accepted job (W in the documentation).",
    )
    reruns: int = Field(
        default=1, ge=0, description="How often a part is run again after a transient failure, over all runs."
    )
    cancel_jobs: bool = Field(
        default=True, description="Whether cancelling a flow run cancels its jobs; else they are left to run."
    )
    request_timeout_seconds: float = Field(
        default=60.0, gt=0, description="Deadline of one read, from connecting to the last byte."
    )
    connect_timeout_seconds: float = Field(default=10.0, gt=0, description="Deadline of making a connection.")
    submit_timeout_seconds: float = Field(
        default=900.0, gt=0, description="Deadline of one `POST /jobs`; large programs take long to upload."
    )
    result_timeout_seconds: float = Field(default=900.0, gt=0, description="Deadline of one result download.")
    retry_attempts: int = Field(default=6, ge=1, description="How often a read is tried in all.")
    retry_seconds: float = Field(default=120.0, gt=0, description="How long a read is retried in all.")
    max_answer_bytes: int = Field(
        default=64 * 2**20, gt=0, description="Largest answer that is read, results apart; after unpacking."
    )
    max_result_bytes: int = Field(
        default=512 * 2**20,
        gt=0,
        description="Largest result text that is read, and largest size it may unpack to.",
    )
    local_backends: str = Field(
        default="",
        description="Comma-separated names of the embedded service's devices; all that IBM ships if empty.",
    )
    local_queue_seconds: float = Field(default=0.2, ge=0, description="Time that a local job spends queued.")
    local_run_seconds: float = Field(default=0.0, ge=0, description="Least time that a local job spends running.")

    def folder(self) -> Path:
        """The folder for what outlives a process; it need not exist yet."""
        if self.home is not None:
            return self.home.expanduser()
        from prefect.settings import get_current_settings

        return Path(get_current_settings().home) / "ibmq"


def get_settings() -> IBMQSettings:
    """The settings as the environment says now."""
    return IBMQSettings()
