"""`IBMQJobRun`: the methods that jobs of the IBMQ API had."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from small_jobs import FLIP

from prefect_ibmq import IBMQJob, IBMQJobRun, JobTimes, NotFound, QueueInfo

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]

IDLE = 'OPENQASM 3.0; include "stdgates.inc"; bit[1] c; c[0] = measure $0;'


def job(service: Any, tmp_path: Path, **more: Any) -> IBMQJob:
    fields = {"circuits": [FLIP, IDLE], "backend": "fake_manila", "shots": 10, "archive": str(tmp_path), "isa": True}
    return IBMQJob(provider=service.provider, **(fields | {"run_key": "k", "tags": ["mine"]} | more))


def test_a_job_tells_all_that_jobs_told(ibmq_service: Any, tmp_path: Path) -> None:
    run = job(ibmq_service, tmp_path, max_circuits_per_job=1).trigger()
    assert run.backend() == "fake_manila"
    assert len(run.result(timeout=100)) == 2
    assert run.status() == ["Completed", "Completed"]
    assert run.creation_date() == min(record.created for record in run.records())
    assert run.error_message() is None
    assert run.name() is None
    assert run.tags() == ["mine"]
    assert run.update_tags(add=["other"]) == ["mine", "other"]
    assert all(set(record.tags or ()) >= {"mine", "other"} for record in run.records())
    assert run.queue_info() == [QueueInfo(record.status) for record in run.records()]
    assert all(isinstance(times, JobTimes) and times.finished for times in run.time_per_step())
    assert [record.backend_name for record in run.properties() if record] == ["fake_manila"] * 2
    assert all("is Completed" in log for log in run.logs())
    assert all(metrics.finished for metrics in run.metrics())
    assert run.cancel() == [False, False]


async def test_a_retrieved_job_has_the_same_methods(ibmq_service: Any, tmp_path: Path) -> None:
    handle = (await job(ibmq_service, tmp_path, circuits=[FLIP]).atrigger()).handles[0]
    found = await IBMQJobRun.aretrieve(handle.job_id, ibmq_service.provider, archive=str(tmp_path / "elsewhere"))
    assert (found.job_id(), found.run_key, found.backend()) == (handle.job_id, None, "fake_manila")
    result = await found.aresult()
    assert result[0].data.c.get_counts() == {"1": 10}
    assert await found.astatus() == ["Completed"]
    assert await found.acreation_date() == (await found.arecords())[0].created
    assert await found.atags() == ["mine"]
    again = await IBMQJobRun.aretrieve(handle, ibmq_service.provider)
    assert again.run_key == "k"
    with pytest.raises(NotFound):
        await IBMQJobRun.aretrieve("no-such-job", ibmq_service.provider)


def test_a_failed_job_says_why(ibmq_service: Any, tmp_path: Path) -> None:
    ibmq_service.faults.on_job(ends="Failed", code=1517, reason="Not ISA.")
    run = job(ibmq_service, tmp_path, circuits=[FLIP]).trigger()
    found = IBMQJobRun.retrieve(run.job_id(), ibmq_service.provider)
    ibmq_service.clock.advance(10)
    with pytest.raises(Exception, match="1517"):
        found.wait_for_completion(timeout=100)
    assert found.error_message() == f"{run.job_id()}: Failed (code 1517): Not ISA."


def test_both_doors_have_the_words_and_the_signature_of_the_operation() -> None:
    assert str(inspect.signature(IBMQJobRun.result)) == str(inspect.signature(IBMQJobRun.aresult))
    assert "timeout" in str(inspect.signature(IBMQJobRun.aresult))
    assert inspect.iscoroutinefunction(IBMQJobRun.alogs)
    assert (IBMQJobRun.logs.__name__, IBMQJobRun.alogs.__name__) == ("logs", "alogs")
    assert IBMQJobRun.logs.__doc__ == IBMQJobRun.alogs.__doc__
