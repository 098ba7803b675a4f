"""Several providers at once in one process: each has its own key, token, instance, connections and jobs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from small_jobs import FLIP

from prefect_ibmq import (
    IBMQCredentials,
    IBMQProvider,
    InputError,
    NotFound,
    ajobs_frame,
    alist_backends,
    list_jobs,
    loop,
    open_run,
    retrieve_job,
    run_circuits,
    submit_job,
    wait_for_job,
)
from prefect_ibmq.embedded import Instance

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]

CRNS = [f"crn:v1:bluemix:public:quantum-computing:us-east:a/{n}:0000-{n}::" for n in range(2)]


def of_key(server: Any, key: str) -> IBMQProvider:
    credentials = IBMQCredentials(token=SecretStr(key), url=server.url, iam_url=server.root)
    return IBMQProvider(credentials=credentials, instance=server.service.crn)


@pytest.fixture
def accounts(ibmq_servers: Any) -> list[tuple[Any, IBMQProvider]]:
    """Two services on sockets, each with an account of its own and deaf to the other's key."""
    keys = ["key-of-one", "key-of-the-other"]
    servers = [
        ibmq_servers(instances=(Instance(crn=crn, name="main", plan=plan),), bad_keys=frozenset({foreign}))
        for crn, plan, foreign in zip(CRNS, ("open", "premium"), reversed(keys), strict=True)
    ]
    return [(server, of_key(server, key)) for server, key in zip(servers, keys, strict=True)]


def test_the_same_run_on_two_accounts_is_two_runs(accounts: list[tuple[Any, IBMQProvider]], tmp_path: Path) -> None:
    def run(provider: IBMQProvider) -> Any:
        return run_circuits(
            FLIP, "fake_manila", provider, 10, run_key="night", isa=True, archive=str(tmp_path), timeout=200
        )

    providers = [provider for _, provider in accounts]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, providers))
    ids = [result.metadata["prefect_ibmq"]["jobs"][0]["job_id"] for result in results]
    instances = [result.metadata["prefect_ibmq"]["jobs"][0]["instance"] for result in results]
    assert instances == CRNS
    for (server, provider), job_id in zip(accounts, ids, strict=True):
        assert [job.id for job in server.jobs()] == [job_id]
        assert [job.id for job in list_jobs(provider)] == [job_id]
        assert {request.status for request in server.requests} <= {200, 204}
    keys = {
        open_run(FLIP, provider, shots=10, run_key="night", archive=str(tmp_path)).set_key for provider in providers
    }
    assert len(keys) == 2
    with pytest.raises(NotFound):
        retrieve_job(providers[0], ids[1])


def test_a_handle_of_one_account_is_refused_by_the_other(accounts: list[tuple[Any, IBMQProvider]]) -> None:
    (_, one), (other_server, other) = accounts
    handle = submit_job(FLIP, "fake_manila", provider=one, shots=10, run_key="k")
    asked = len(other_server.requests)
    with pytest.raises(InputError, match="Use the provider that it was submitted with"):
        wait_for_job(handle, provider=other)
    assert len(other_server.requests) == asked


async def test_many_requests_at_once_never_change_accounts(accounts: list[tuple[Any, IBMQProvider]]) -> None:
    told = await asyncio.gather(
        *(provider.aactive_account() for _ in range(8) for _, provider in accounts),
        *(alist_backends.fn(provider) for _ in range(8) for _, provider in accounts),
    )
    plans = [each["plan"] for each in told[:16]]
    assert plans == ["open", "premium"] * 8
    assert [records[0].instance for records in told[16:]] == CRNS * 8
    assert [records[0].provider() for records in told[16:18]] == [provider for _, provider in accounts]
    for server, provider in accounts:
        assert {request.status for request in server.requests} == {200}
        assert server.counts["POST /identity/token"] == 1
        frame = await ajobs_frame(provider)
        assert frame.empty


async def test_two_keys_of_one_instance_are_two_users(ibmq_server: Any) -> None:
    one, other = of_key(ibmq_server, "key-a"), of_key(ibmq_server, "key-b")
    for number, provider in enumerate((one, other)):
        await asyncio.to_thread(submit_job, FLIP, "fake_manila", provider=provider, shots=10, run_key=f"k{number}")
    users = [job.user_id for job in ibmq_server.jobs()]
    assert len(set(users)) == 2
    clients = [await loop.arun(provider.aget_client()) for provider in (one, other)]
    assert clients[0] is not clients[1]
    tokens = ibmq_server.counts["POST /identity/token"]
    await one.aclose()
    await other.averify()  # it keeps its token and its connections
    assert ibmq_server.counts["POST /identity/token"] == tokens == 2
    await one.averify()
    assert ibmq_server.counts["POST /identity/token"] == 3
