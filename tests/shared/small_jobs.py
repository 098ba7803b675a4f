"""The smallest job: an ISA circuit of one flipped qubit, which every shot tells as 1."""

from __future__ import annotations

from typing import Any

from prefect_ibmq import submit_job

FLIP = 'OPENQASM 3.0; include "stdgates.inc"; bit[1] c; x $0; c[0] = measure $0;'


def submit(service: Any, run_key: str = "k", **more: Any) -> Any:
    return submit_job(FLIP, "fake_manila", provider=service.provider, shots=10, run_key=run_key, **more)
