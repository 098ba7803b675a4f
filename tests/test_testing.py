"""The fixtures for users' tests: flows meet a service that misbehaves, and pay once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from option_runs import bell
from prefect import flow
from qiskit import QuantumCircuit

from prefect_ibmq import (
    IBMQProvider,
    IBMQSettings,
    JobFailed,
    fetch_result,
    get_settings,
    loop,
    run_circuits,
    submit_job,
    wait_for_job,
)
from prefect_ibmq.clients import transport_of

if TYPE_CHECKING:
    from prefect_ibmq.testing import IBMQServer, IBMQService

pytest_plugins = ["prefect_ibmq.testing"]


def flip() -> QuantumCircuit:
    """An ISA circuit of the devices, so that it can be submitted as it is."""
    circuit = QuantumCircuit(1, name="flip")
    circuit.x(0)
    circuit.measure_all()
    return circuit


@flow
def lab(provider: IBMQProvider, archive: str) -> dict[str, int]:
    result = run_circuits([bell()], backend="fake_manila", provider=provider, shots=100, archive=archive)
    counts: dict[str, int] = result[0].data.meas.get_counts()
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ibmq_service", "ibmq_server"])
def test_flow_pays_once_whatever_the_wire_does(
    name: str, request: pytest.FixtureRequest, prefect_server: None, tmp_path: Path
) -> None:
    service: IBMQService = request.getfixturevalue(name)
    service.faults.on("GET /jobs/{id}/results", answer="cut", times=2)
    service.faults.on("GET /backends/{name}/properties", answer="html", status=502, times=1)
    service.faults.revoke_tokens()
    assert sum(lab(service.provider, str(tmp_path / "archive")).values()) == 100
    service.faults.assert_all_fired()
    assert len(service.jobs()) == service.counts["POST /jobs"] == 1
    assert service.counts["GET /jobs/{id}/results"] == 3


@pytest.mark.slow
def test_lost_answer_of_an_accepted_job_costs_no_second_one(
    ibmq_service: IBMQService, prefect_server: None, tmp_path: Path
) -> None:
    ibmq_service.faults.on("POST /jobs", answer="lost", work_done=True, times=1)

    @flow
    def night() -> int:
        chosen = {"backend": "fake_manila", "provider": ibmq_service.provider, "archive": str(tmp_path / "archive")}
        return len(run_circuits([bell()], shots=10, run_key="night", **chosen))

    assert night() == 1
    ibmq_service.faults.assert_all_fired()
    assert len(ibmq_service.jobs()) == ibmq_service.counts["POST /jobs"] == 1


def test_failed_job_is_told_as_on_hardware(ibmq_service: IBMQService, prefect_server: None) -> None:
    ibmq_service.faults.on_job(position=0, ends="Failed", code=1517, reason="Not an ISA circuit.")

    @flow
    def failing() -> None:
        wait_for_job(submit_job(flip(), "fake_manila", provider=ibmq_service.provider), provider=ibmq_service.provider)

    with pytest.raises(JobFailed) as caught:
        failing()
    assert caught.value.code == 1517
    ibmq_service.faults.assert_all_fired()


@pytest.mark.slow
def test_an_hour_in_the_queue_passes_at_once(ibmq_services: Callable[..., IBMQService], prefect_server: None) -> None:
    service = ibmq_services(queue_seconds=3600, clock_speed=0)

    @flow
    def patient() -> int:
        handle = submit_job(flip(), "fake_manila", provider=service.provider, shots=10)
        service.clock.advance(3600)
        done = wait_for_job(handle, provider=service.provider, timeout=20)
        assert done.created is not None
        assert service.clock() - done.created.timestamp() > 3599
        return int(fetch_result(done, provider=service.provider)[0].data.meas.num_shots)

    assert patient() == 10


def test_services_are_strangers_to_each_other(ibmq_services: Callable[..., IBMQService]) -> None:
    one, two = ibmq_services(), ibmq_services(backends=("fake_torino",))

    def names(service: IBMQService) -> list[str]:
        async def ask() -> list[str]:
            client = await service.provider.aget_client()
            return [each.name for each in await client.list_backends()]

        return loop.run(ask())

    assert (names(one), names(two)) == (["fake_manila", "fake_torino"], ["fake_torino"])
    assert one.root != two.root
    assert len(one.requests) == len(two.requests) == 2
    assert two.requests[-1].route == "GET /backends"


def test_environment_leads_here(ibmq_service: IBMQService, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ibmq_service.env.items():
        monkeypatch.setenv(name, value)
    assert IBMQProvider.from_environment().verify()["backends"] == ["fake_manila", "fake_torino"]
    assert ibmq_service.counts["GET /backends"] == 1


def test_instance_is_found_by_name(ibmq_service: IBMQService) -> None:
    provider = IBMQProvider(credentials=ibmq_service.provider.credentials, instance="local")
    assert provider.verify()["instance"] == ibmq_service.service.crn


def test_settings_do_not_wait_and_own_ones_stay(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_SETTLE_SECONDS", "3")
    request.getfixturevalue("ibmq_service")
    settings: IBMQSettings = get_settings()
    assert (settings.poll_floor_seconds, settings.settle_seconds) == (0.05, 3.0)
    assert tmp_path in settings.folder().parents


def test_after_the_test_the_address_leads_nowhere(request: pytest.FixtureRequest) -> None:
    from prefect_ibmq import clients

    service: IBMQService = request.getfixturevalue("ibmq_service")
    assert transport_of(service.provider.credentials) is not None
    clients.unmount(service.root)
    assert transport_of(service.provider.credentials) is None


def test_server_leads_other_processes_here(ibmq_server: IBMQServer) -> None:
    code = "from prefect_ibmq import IBMQProvider; print(IBMQProvider.from_environment().verify()['backends'])"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **ibmq_server.env}, capture_output=True, text=True, check=True
    )
    assert "fake_manila" in told.stdout
    assert ibmq_server.counts["POST /identity/token"] == 1


USERS_TEST = """
def test_mine(ibmq_service):
    ibmq_service.faults.on("GET /backends", answer="error", times=1)
    assert ibmq_service.provider.verify()["backends"]
    ibmq_service.faults.assert_all_fired()


def test_idle(ibmq_service):
    ibmq_service.faults.on("POST /jobs", answer="lost", name="never mind")
    ibmq_service.faults.assert_all_fired()
"""


@pytest.mark.slow
def test_plugin_is_registered_by_one_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["prefect_ibmq.testing"]\n')
    (tmp_path / "test_mine.py").write_text(USERS_TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 failed, 1 passed" in told.stdout, told.stdout + told.stderr
    assert "never mind" in told.stdout
    assert "warning" not in told.stdout.lower()


@pytest.mark.parametrize("missing", ["pytest", "qiskit_aer"])
def test_what_is_missing_is_said(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import prefect_ibmq.testing"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"prefect_ibmq.testing needs {missing}" in told.stderr.splitlines()[-1]
    assert "prefect-ibmq[local]" in told.stderr.splitlines()[-1]


def _serve(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect_ibmq.cli", "serve", *arguments]


def test_serve_reads_faults_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps({"routes": [{"name": "gone", "route": "GET /versions", "answer": "lost", "times": 1}]}))
    command = _serve("--backend", "fake_manila", "--faults", str(file))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready: dict[str, Any] = json.loads(process.stdout.readline())
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(ready["url"] + "/versions")
            assert httpx.get(ready["url"] + "/versions").status_code == 200
            root = ready["url"].removesuffix("/api/v1")
            assert httpx.get(root + "/embedded/log").json()["fired"] == {"gone": 1}
            assert httpx.post(root + "/embedded/clock", json={"advance": 60}).json()["virtual"] is True
        finally:
            process.kill()


def test_serve_refuses_faults_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps({"routes": [{"route": "POST /jobs", "anwser": "lost"}]}))
    told = subprocess.run(_serve("--faults", str(file)), capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("error: ")
    assert "routes.0.anwser" in told.stderr
