"""Changing a job: its tags, and deleting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_jobs import submit

from prefect_ibmq import (
    InputError,
    JobNotFinished,
    NotFound,
    adelete_job,
    aupdate_job_tags,
    cancel_job,
    delete_job,
    fetch_result,
    get_job,
    retrieve_job,
    update_job_tags,
    wait_for_job,
)

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


def own(service: Any, handle: Any) -> set[str]:
    return {tag for tag in get_job(handle, service.provider).tags or () if not tag.startswith("ibmq-")}


async def test_tags_are_changed_and_ours_are_kept(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    handle = submit(ibmq_service, tags=["a", "b"], name="ghz")
    ours = {tag for tag in get_job(handle, provider).tags or () if tag.startswith("ibmq-")}
    assert len(ours) == 4
    assert set(update_job_tags(handle, ["c"], provider)) == ours | {"c"}
    assert own(ibmq_service, handle) == {"c"}
    update_job_tags(handle.job_id, provider=provider, add=["d", "e"], remove=["c"])
    assert own(ibmq_service, handle) == {"d", "e"}
    assert set(await aupdate_job_tags(handle, [], provider)) == ours
    # the run finds its job again
    assert submit(ibmq_service, tags=["a", "b"], name="ghz").job_id == handle.job_id


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tags": ["a", "b", "c", "d"]}, "8 tags; 7 are possible, 4 of which are ours. Keep 3 of your own"),
        ({"tags": "abc"}, "are no tags"),
        ({"add": [""]}, "is no tag"),
        ({"add": ["x" * 87]}, "is no tag"),
        ({"remove": ["ibmq-set:1"]}, "is one of ours"),
        ({"add": [5]}, "5 is no tag"),
    ],
    ids=str,
)
def test_tags_that_cannot_be_are_refused(ibmq_service: Any, changes: dict[str, Any], told: str) -> None:
    handle = submit(ibmq_service, name="ghz")
    with pytest.raises(InputError, match=told):
        update_job_tags(handle, provider=ibmq_service.provider, **changes)
    assert "PUT /jobs/{id}/tags" not in ibmq_service.counts


def test_a_job_is_deleted_once_its_result_is_stored(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    handle = submit(ibmq_service, archive=str(tmp_path))
    wait_for_job(handle, provider=provider, archive=str(tmp_path))
    with pytest.raises(InputError, match="fetch_result"):
        delete_job(handle, provider, archive=str(tmp_path))
    result = fetch_result(handle, provider=provider, archive=str(tmp_path))
    with pytest.raises(InputError, match="is not stored"):
        delete_job(handle, provider)  # another archive
    delete_job(handle, provider, archive=str(tmp_path))
    with pytest.raises(NotFound):
        retrieve_job(provider, handle.job_id)
    again = fetch_result(handle, provider=provider, archive=str(tmp_path))
    assert again[0].data.c.get_counts() == result[0].data.c.get_counts()


async def test_force_and_jobs_without_a_result_need_no_store(ibmq_services: Any) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)
    handle = submit(service)
    with pytest.raises(JobNotFinished):
        delete_job(handle, service.provider, force=True)
    cancel_job(handle, provider=service.provider)
    await adelete_job(handle.job_id, service.provider)
    other = submit(service, run_key="other")
    service.clock.advance(3600)
    wait_for_job(other, provider=service.provider)
    delete_job(other.job_id, service.provider, force=True)
    assert service.jobs() == []
