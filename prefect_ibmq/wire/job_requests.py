"""What `POST /jobs` is asked to do, within the limits that the service documents for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from prefect_ibmq.errors import InputError

__all__ = ["MAX_TAGS", "MAX_TAG_LENGTH", "JobRequest", "check_tags"]

MAX_TAGS = 8
MAX_TAG_LENGTH = 86
MAX_EXECUTION_SECONDS = 10_800


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What `POST /jobs` is asked to do.

    Attributes:
        params: What `programs.build_params` makes.
        tags: At most 8 of at most 86 characters each.
        max_execution_time: Seconds of QPU time, 1 to 10800; None reserves the plan's maximum.
    """

    program: str
    backend: str
    params: dict[str, Any] = field(repr=False)
    tags: tuple[str, ...] = ()
    max_execution_time: int | None = None
    session_id: str | None = None
    log_level: str | None = None
    private: bool = False
    calibration_id: str | None = None
    runtime: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON object to post. `InputError` where the service would refuse it."""
        self._check()
        optional = {
            "tags": list(self.tags) or None,
            "cost": self.max_execution_time,
            "session_id": self.session_id,
            "log_level": self.log_level,
            "private": True if self.private else None,
            "calibration_id": self.calibration_id,
            "runtime": self.runtime,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {"program_id": self.program, "backend": self.backend, "params": self.params, **given}

    def encoded(self) -> bytes:
        """The body as JSON bytes; `InputError` where it holds what JSON cannot."""
        try:
            text = json.dumps(self.body(), allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The job's params cannot be written as JSON: {error}.") from error
        return text.encode("utf-8")

    def _check(self) -> None:
        if not self.program or not self.backend:
            raise InputError("A job needs a program and a backend.")
        check_tags(self.tags)
        seconds = self.max_execution_time
        if seconds is not None and not 1 <= seconds <= MAX_EXECUTION_SECONDS:
            raise InputError(
                f"max_execution_time is {seconds}; the service takes 1 to {MAX_EXECUTION_SECONDS} seconds."
            )


def check_tags(tags: tuple[str, ...]) -> None:
    """`InputError` where the service would refuse the tags (its documentation of `POST /jobs`)."""
    if len(tags) > MAX_TAGS:
        raise InputError(f"{len(tags)} tags were given; a job can have {MAX_TAGS}.")
    for tag in tags:
        if not tag.strip():
            raise InputError("A tag must be text that is not blank.")
        if len(tag) > MAX_TAG_LENGTH:
            raise InputError(f"Tag {tag[:20]!r}… has {len(tag)} characters; {MAX_TAG_LENGTH} are allowed.")
