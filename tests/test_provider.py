"""`IBMQProvider`: blocks without network, the environment's rules, verifying, forgetting."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from prefect import flow, task
from pydantic import SecretStr

from prefect_ibmq import IBMQCredentials, IBMQProvider, loop
from prefect_ibmq import credentials as credentials_module
from prefect_ibmq.errors import AuthenticationError, ConfigurationError, NotFound, NothingSent
from prefect_ibmq.provider import provider_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Loopback

KEY = "s3cr3t-api-key-0123456789"
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/1234:5678::"
VARIABLES = ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_URL", "QISKIT_IBM_CHANNEL", "IAM_URL")

pytest_plugins = ["prefect_ibmq.testing"]


def _made(instance: str | None = CRN, **fields: Any) -> IBMQProvider:
    return IBMQProvider(credentials=IBMQCredentials(token=SecretStr(KEY), **fields), instance=instance)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "PREFECT__FLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(credentials_module, "_said_local", False)
    return monkeypatch


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every connection that is made, Prefect's own API apart; names are resolved for nobody."""
    made: list[object] = []
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def noting(self: socket.socket, address: Any) -> None:
        if not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost", "::1")):
            made.append(address)
        connect(self, address)

    def resolving(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1", None):
            made.append(host)
        return lookup(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", noting)
    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    return made


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("instance", [CRN, "research", "ibm-q/open/main"])
async def test_saving_and_loading_opens_no_connection(sockets: list[object], instance: str) -> None:
    await _made(instance).asave("provider-round-trip", overwrite=True)
    loaded = await IBMQProvider.aload("provider-round-trip")
    assert loaded.instance == instance
    assert loaded.credentials.get_token().get_secret_value() == KEY
    assert sockets == []


@pytest.mark.usefixtures("prefect_server")
def test_saving_and_loading_in_sync_code() -> None:
    provider = _made()
    provider.save("provider-sync", overwrite=True)
    loaded: Any = IBMQProvider.load("provider-sync")
    assert loaded.model_dump() == provider.model_dump()


@pytest.mark.usefixtures("prefect_server")
async def test_a_provider_can_refer_to_a_saved_credentials_block() -> None:
    await IBMQCredentials(token=SecretStr(KEY)).asave("shared-key", overwrite=True)
    credentials = await IBMQCredentials.aload("shared-key")
    await IBMQProvider(credentials=credentials, instance=CRN).asave("provider-sharing", overwrite=True)
    loaded = await IBMQProvider.aload("provider-sharing")
    assert loaded.credentials.get_token().get_secret_value() == KEY
    content = pickle.dumps(loaded)
    assert KEY.encode() not in content
    assert pickle.loads(content).credentials.get_token().get_secret_value() == KEY


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
async def test_a_pickled_provider_reads_its_key_again_from_its_block(pickler: Any) -> None:
    await _made().asave("provider-pickled", overwrite=True)
    content = pickler.dumps(await IBMQProvider.aload("provider-pickled"))
    assert KEY.encode() not in content
    there = pickler.loads(content)
    assert there.credentials.token is None
    client = await loop.arun(there.aget_client())
    assert client.crn == CRN
    assert there.credentials.get_token().get_secret_value() == KEY
    again = pickler.loads(pickler.dumps(pickler.loads(content)))
    assert again.credentials.get_token().get_secret_value() == KEY


def test_a_pickled_provider_of_memory_says_that_it_has_no_key(environment: pytest.MonkeyPatch) -> None:
    there = pickle.loads(pickle.dumps(_made()))
    with pytest.raises(ConfigurationError, match="came through a pickle"):
        there.verify()


@pytest.mark.parametrize(
    "shown", [repr, str, lambda p: repr(p.model_dump()), lambda p: p.model_dump_json(), lambda p: repr(pickle.dumps(p))]
)
def test_the_key_shows_nowhere(shown: Any) -> None:
    assert KEY not in shown(_made())


@pytest.mark.usefixtures("prefect_server")
def test_a_provider_passes_through_flows_and_tasks_with_its_key() -> None:
    @task
    def read(provider: IBMQProvider) -> str:
        return provider.credentials.get_token().get_secret_value()

    @flow
    def asking(provider: IBMQProvider) -> list[str]:
        return [read(provider), read.submit(provider).result()]

    assert asking(_made()) == [KEY] * 2


@pytest.mark.parametrize(
    ("instance", "told"),
    [
        ("crn:v1:bluemix:public:quantum-computing:us-east:a/1234:5678", "has 8 fields"),
        ("crn:v2:x", "does not begin with 'crn:v1:'"),
        ("CRN:V1:bluemix", "does not begin with 'crn:v1:'"),
        (CRN.replace("quantum-computing", "cloudant"), "names the service 'cloudant'"),
        (CRN.replace("us-east", ""), "has no valid region"),
        (CRN.replace("a/1234", "1234"), "has no account"),
        (CRN.replace("5678", ""), "has no instance id"),
        (CRN.replace("5678", "56 78"), "holds a blank"),
    ],
)
def test_a_malformed_crn_is_refused_with_the_rule_it_breaks(instance: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        _made(instance)


@pytest.mark.parametrize(
    ("given", "kept"), [(f" {CRN}\n", CRN), ("", None), ("  ", None), (None, None), (" research ", "research")]
)
def test_an_instance_is_stripped(given: str | None, kept: str | None) -> None:
    assert _made(given).instance == kept


def test_a_provider_without_an_instance_says_so() -> None:
    with pytest.raises(ConfigurationError, match="names no instance"):
        _made(None).verify()


def test_errors_of_nested_credentials_come_unwrapped_and_without_the_key() -> None:
    with pytest.raises(ConfigurationError, match="is not an address") as told:
        IBMQProvider(credentials={"token": KEY, "url": "nonsense"}, instance=CRN)
    assert KEY not in str(told.value)


def test_the_local_provider_simulates() -> None:
    provider = IBMQProvider.local()
    assert (provider.channel, provider.simulated, provider.instance) == ("local", True, None)
    assert not _made().simulated


# --- the environment ---------------------------------------------------------------------------------------------


def test_an_empty_environment_means_the_local_service_and_says_so_once(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert IBMQProvider.from_environment().channel == "local"
    assert IBMQProvider.from_environment().channel == "local"
    told = capsys.readouterr()
    assert told.err.count("embedded service: all counts are simulated") == 1
    assert told.out == ""


def test_a_whole_environment_means_ibm(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("QISKIT_IBM_TOKEN", KEY)
    environment.setenv("QISKIT_IBM_INSTANCE", CRN)
    environment.setenv("QISKIT_IBM_URL", "https://eu-de.quantum.cloud.ibm.com/api/v1")
    provider = IBMQProvider.from_environment()
    assert (provider.channel, provider.instance, provider.credentials.url) == ("ibm_quantum_platform", CRN, None)
    assert loop.run(provider.aget_client()).base_url == "https://quantum.cloud.ibm.com/api/v1"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("present", VARIABLES)
def test_half_an_environment_is_an_error_that_names_the_other_half(
    environment: pytest.MonkeyPatch, present: str
) -> None:
    value = "ibm_quantum_platform" if present == "QISKIT_IBM_CHANNEL" else "http://127.0.0.1:1/api/v1"
    environment.setenv(present, value)
    missing = [name for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE") if name != present]
    with pytest.raises(ConfigurationError, match=f"sets {present}, but not {' and '.join(missing)}") as told:
        IBMQProvider.from_environment()
    assert "Set both" in told.value.hint


def test_the_local_channel_on_purpose_needs_no_saying(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("QISKIT_IBM_CHANNEL", "local")
    assert IBMQProvider.from_environment().channel == "local"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("classes", [IBMQProvider, IBMQCredentials])
def test_a_run_of_a_deployment_never_falls_back_to_local(environment: pytest.MonkeyPatch, classes: Any) -> None:
    environment.setenv("PREFECT__FLOW_RUN_ID", "0197d2c4-1111-7abc-8def-0123456789ab")
    with pytest.raises(ConfigurationError, match="belongs to a deployment"):
        classes.from_environment()
    environment.setenv("QISKIT_IBM_CHANNEL", "local")
    assert classes.from_environment().channel == "local"


@pytest.mark.usefixtures("prefect_server")
async def test_a_flow_run_that_has_a_deployment_never_falls_back_to_local(environment: pytest.MonkeyPatch) -> None:
    from uuid import uuid4

    from prefect.context import FlowRunContext

    @flow
    async def asking(deployed: bool) -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        # As the server fills it in for a run that a deployment made.
        context.flow_run.deployment_id = uuid4() if deployed else None
        return (await loop.arun(provider_of(None))).channel

    assert await asking(False) == "local"
    with pytest.raises(ConfigurationError, match="belongs to a deployment"):
        await asking(True)


def test_an_instance_comes_from_a_saved_account(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(json.dumps({"lab": {"channel": "ibm_quantum_platform", "token": KEY, "instance": CRN}}))
    provider = IBMQProvider.from_saved_account("lab", file)
    assert (provider.instance, provider.credentials.get_token().get_secret_value()) == (CRN, KEY)


@pytest.mark.parametrize("instance", [None, "", "auto"])
def test_a_saved_account_without_an_instance_says_so(tmp_path: Path, instance: str | None) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(json.dumps({"lab": {"channel": "ibm_quantum_platform", "token": KEY, "instance": instance}}))
    with pytest.raises(ConfigurationError, match="names no instance"):
        IBMQProvider.from_saved_account("lab", file)


# --- verifying, on a real socket -----------------------------------------------------------------------------------


def _there(loopback: Loopback, token: str, instance: str | None) -> IBMQProvider:
    credentials = IBMQCredentials(token=SecretStr(token), url=loopback.url, iam_url=loopback.root)
    return IBMQProvider(credentials=credentials, instance=instance)


def _crn(loopback: Loopback, number: int = 0) -> str:
    return loopback.service.options.instances[number].crn


def test_a_good_key_and_crn_are_verified_without_a_search(loopback: Loopback, loopback_token: str) -> None:
    before = len(loopback.requests)
    told = _there(loopback, loopback_token, _crn(loopback)).verify()
    assert told == {
        "channel": "ibm_quantum_platform",
        "instance": _crn(loopback),
        "backends": ["fake_fez", "fake_manila", "fake_torino"],
        "usage_consumed_seconds": 0.0,
        "usage_remaining_seconds": None,
    }
    assert not [request for request in loopback.requests[before:] if "search" in request]


@pytest.mark.parametrize(("name", "number"), [("research", 0), ("teaching", 1), ("ibm-q-edu/course/main", 1)])
async def test_a_name_is_resolved_once(loopback: Loopback, loopback_token: str, name: str, number: int) -> None:
    provider = _there(loopback, loopback_token, name)
    assert (await provider.averify())["instance"] == _crn(loopback, number)
    before = len(loopback.requests)
    assert (await provider.averify())["instance"] == _crn(loopback, number)
    assert not [request for request in loopback.requests[before:] if "search" in request]


@pytest.mark.parametrize(("name", "told"), [("twin", "Several instances fit"), ("reserch", "Did you mean 'research'")])
def test_a_name_that_means_none_or_several_lists_the_candidates(
    loopback: Loopback, loopback_token: str, name: str, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        _there(loopback, loopback_token, name).verify()


def test_a_bad_key_is_told_and_not_shown(loopback: Loopback, bad_token: str) -> None:
    with pytest.raises(AuthenticationError, match="IAM refused the API key") as told:
        _there(loopback, bad_token, _crn(loopback)).verify()
    assert bad_token not in f"{told.value!r} {told.value.__cause__!r} {told.value.__context__!r}"
    assert not told.value.retryable


async def test_a_crn_that_is_not_ours_is_told(loopback: Loopback, loopback_token: str) -> None:
    with pytest.raises(NotFound, match="1279"):
        await _there(loopback, loopback_token, CRN).averify()


def test_a_host_that_cannot_be_reached_is_told(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NothingSent, match="IAM"):
            _made(url=f"{nobody}/api/v1", iam_url=nobody).verify()


def test_the_environment_leads_to_a_served_service(environment: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from prefect_ibmq.embedded.server import serve_forever; from prefect_ibmq.embedded import ServiceOptions;"
            "serve_forever(ServiceOptions(backends=('fake_manila',)))",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        for name, value in ready["env"].items():
            environment.setenv(name, value)
        provider = IBMQProvider.from_environment()
        told = provider.verify()
        assert (told["channel"], told["instance"], told["backends"]) == (
            "ibm_quantum_platform",
            ready["crn"],
            ["fake_manila"],
        )
        provider.close()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_closing_forgets_the_token(loopback: Loopback, loopback_token: str) -> None:
    provider = _there(loopback, f"{loopback_token}-of-its-own", _crn(loopback))
    provider.verify()
    provider.close()
    before = len(loopback.requests)
    provider.verify()
    assert "POST /identity/token" in loopback.requests[before:]


async def test_two_accounts_share_no_token(loopback: Loopback, loopback_token: str) -> None:
    one, other = (_there(loopback, f"{loopback_token}-{n}", _crn(loopback, n)) for n in range(2))
    told = await asyncio.gather(one.averify(), other.averify())
    assert [each["instance"] for each in told] == [_crn(loopback, 0), _crn(loopback, 1)]
    clients = [await loop.arun(each.aget_client()) for each in (one, other)]
    assert clients[0]._http.auth is not clients[1]._http.auth


async def test_the_active_account_tells_instance_plan_and_usage(loopback: Loopback, loopback_token: str) -> None:
    provider = _there(loopback, loopback_token, "teaching")
    told = await provider.aactive_account()
    assert {name: told[name] for name in ("channel", "instance", "name", "plan", "tags", "region")} == {
        "channel": "ibm_quantum_platform",
        "instance": _crn(loopback, 1),
        "name": "teaching",
        "plan": "open",
        "tags": ["ibm-q-edu", "course", "main"],
        "region": "us-east",
    }
    assert told["usage_consumed_seconds"] == 0.0
    assert told["usage_limit_seconds"] is told["usage_remaining_seconds"] is None
    assert told["usage_period_start"] < told["usage_period_end"]
    assert loopback_token not in str(told)


def test_the_active_account_without_a_search_tells_what_it_can(ibmq_services: Any) -> None:
    from prefect_ibmq.embedded import Instance

    crn = "crn:v1:bluemix:public:quantum-computing:eu-de:a/1:0-1::"
    service = ibmq_services(instances=(Instance(crn=crn, name="paid", plan="premium", usage_limit_seconds=600),))
    assert service.provider.active_account()["plan"] == "premium"
    service.faults.on("POST /v3/resources/search", answer="error", status=403)
    told = service.provider.active_account()
    assert (told["name"], told["plan"], told["tags"], told["region"]) == (None, None, None, "eu-de")
    assert (told["usage_limit_seconds"], told["usage_remaining_seconds"]) == (600.0, 600.0)


def test_the_active_account_of_the_embedded_service() -> None:
    told = IBMQProvider.local().active_account()
    assert (told["channel"], told["name"], told["plan"]) == ("local", "local", "local")


# --- what tasks are given ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server")
async def test_a_provider_is_found_by_its_blocks_name() -> None:
    await _made().asave("by-name", overwrite=True)
    found = await loop.arun(provider_of("by-name"))
    assert (found.instance, found.credentials.get_token().get_secret_value()) == (CRN, KEY)


@pytest.mark.usefixtures("local_devices")
def test_the_local_service_knows_its_instance_by_name_and_refuses_others() -> None:
    local = IBMQCredentials(channel="local")
    assert IBMQProvider(credentials=local, instance="local").verify() == IBMQProvider.local().verify()
    with pytest.raises(NotFound, match="1279"):
        IBMQProvider(credentials=local, instance=CRN).verify()


def test_nothing_of_the_environment_is_left_behind() -> None:
    assert [name for name in VARIABLES if name in os.environ] == []
