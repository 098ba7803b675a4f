"""`IBMQCredentials`: where the key comes from, and that it goes nowhere else."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect import flow, task
from pydantic import SecretStr, ValidationError

from prefect_ibmq import IBMQCredentials, list_saved_accounts
from prefect_ibmq.errors import ConfigurationError, IBMQError, NotOffered

KEY = "s3cr3t-api-key-0123456789"
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/1234:5678::"
PICKLES = [pickle, cloudpickle]


def _made(**fields: Any) -> IBMQCredentials:
    return IBMQCredentials(token=SecretStr(KEY), **fields)


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        lambda c: repr(c.model_dump()),
        lambda c: c.model_dump_json(),
        lambda c: json.dumps(c.model_dump(mode="json")),
        lambda c: repr(dict(c)),
        lambda c: repr(pickle.dumps(c)),
        lambda c: repr(cloudpickle.dumps(c)),
        lambda c: f"{c!s} {c.token}",
    ],
)
def test_the_key_shows_nowhere(shown: Any) -> None:
    assert KEY not in shown(_made())


def test_the_key_is_not_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        made = _made()
        logging.getLogger("anybody").info("credentials: %s %r", made, made)
        made.logger.info("credentials: %s", made)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "nowhere"},
        {"url": "ftp://x"},
        {"token": [KEY]},
        {"private_endpoint": KEY},
        {"url": f"https://me:{KEY}@host/api/v1"},
    ],
)
def test_the_key_is_not_in_the_error_of_a_wrong_field(fields: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, ValidationError)) as told:
        IBMQCredentials(**{"token": KEY, **fields})
    assert KEY not in str(told.value)
    assert KEY not in repr(told.value)


@pytest.mark.parametrize(("given", "token"), [(f" {KEY}\n", KEY), ("", None), ("  ", None), (None, None)])
def test_a_key_is_stripped(given: str | None, token: str | None) -> None:
    made = IBMQCredentials(token=given)
    assert (made.token.get_secret_value() if made.token else None) == token


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://host/api/v1/", "https://host/api/v1"),
        (" http://127.0.0.1:1/api/v1 ", "http://127.0.0.1:1/api/v1"),
        ("", None),
    ],
)
def test_an_address_is_used_as_given(url: str, kept: str | None) -> None:
    assert IBMQCredentials(url=url).url == kept


@pytest.mark.parametrize("url", ["host/api/v1", "ftp://host", "https//host", "://"])
def test_what_is_no_address_is_refused_with_our_own_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an address"):
        IBMQCredentials(url=url)


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_URL", "QISKIT_IBM_CHANNEL", "IAM_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("set_", "expected"),
    [
        ({}, {"url": None, "iam_url": None}),
        ({"QISKIT_IBM_CHANNEL": "ibm_quantum_platform"}, {"url": None}),
        ({"QISKIT_IBM_CHANNEL": "ibm_cloud"}, {"channel": "ibm_quantum_platform"}),
        ({"QISKIT_IBM_URL": "https://quantum.cloud.ibm.com/api/v1"}, {"url": None}),
        ({"QISKIT_IBM_URL": "https://eu-de.quantum.cloud.ibm.com"}, {"url": None}),
        ({"QISKIT_IBM_URL": "https://cloud.ibm.com"}, {"url": None}),
        ({"QISKIT_IBM_URL": "https://auth.quantum-computing.ibm.com/api"}, {"url": None}),
        ({"QISKIT_IBM_URL": "http://127.0.0.1:8000/api/v1"}, {"url": "http://127.0.0.1:8000/api/v1"}),
        ({"QISKIT_IBM_URL": "https://cloud.ibm.com.evil.example/api/v1"}, {"url": "https://cloud.ibm.com.evil.example/api/v1"}),
        ({"IAM_URL": "http://127.0.0.1:8000"}, {"iam_url": "http://127.0.0.1:8000"}),
        ({"IAM_URL": "  "}, {"iam_url": None}),
    ],
)  # fmt: skip
def test_credentials_from_the_environment(
    environment: pytest.MonkeyPatch, set_: dict[str, str], expected: dict[str, Any]
) -> None:
    for name, value in {"QISKIT_IBM_TOKEN": f" {KEY}\n", **set_}.items():
        environment.setenv(name, value)
    made = IBMQCredentials.from_environment()
    assert made.get_token().get_secret_value() == KEY
    assert made.channel == "ibm_quantum_platform"
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize(
    "set_",
    [
        {"QISKIT_IBM_CHANNEL": "ibm_quantum_platform"},
        {"QISKIT_IBM_INSTANCE": CRN},
        {"QISKIT_IBM_URL": "http://127.0.0.1:8000/api/v1"},
        {"IAM_URL": "http://127.0.0.1:8000"},
        {"QISKIT_IBM_TOKEN": "  ", "QISKIT_IBM_INSTANCE": CRN},
    ],
)
def test_half_an_environment_is_an_error(environment: pytest.MonkeyPatch, set_: dict[str, str]) -> None:
    for name, value in set_.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigurationError, match="but not QISKIT_IBM_TOKEN"):
        IBMQCredentials.from_environment()


def test_an_unknown_channel_is_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QISKIT_IBM_TOKEN", KEY)
    environment.setenv("QISKIT_IBM_CHANNEL", "ibm_quantum")
    with pytest.raises(ConfigurationError, match="no channel 'ibm_quantum'"):
        IBMQCredentials.from_environment()


def test_the_local_channel_asks_for_no_key(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QISKIT_IBM_CHANNEL", "local")
    environment.setenv("QISKIT_IBM_TOKEN", KEY)
    made = IBMQCredentials.from_environment()
    assert (made.channel, made.token) == ("local", None)


# --- accounts that the official client saved -----------------------------------------------------------------------


def _save(file: Path, **fields: Any) -> None:
    from qiskit_ibm_runtime import QiskitRuntimeService

    given = {"channel": "ibm_quantum_platform", "token": KEY, "instance": CRN, "filename": str(file), **fields}
    QiskitRuntimeService.save_account(**given)


def test_a_saved_account_is_read(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    _save(file)
    made = IBMQCredentials.from_saved_account(filename=file)
    assert made.get_token().get_secret_value() == KEY
    assert (made.channel, made.url, made.iam_url, made.private_endpoint) == ("ibm_quantum_platform", None, None, False)


def test_fields_of_a_saved_account_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    _save(file, name="lab", url="https://example.org/api/v1", private_endpoint=True)
    made = IBMQCredentials.from_saved_account("lab", file)
    assert (made.url, made.private_endpoint) == ("https://example.org/api/v1", True)


def test_saved_accounts_are_listed_without_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    _save(file, name="lab", tags=["x"], region="eu-de", plans_preference=["open"])
    _save(file, name="other", proxies={"urls": {"https": "http://proxy"}, "username_ntlm": "me", "password_ntlm": KEY})
    listed = IBMQCredentials.list_saved_accounts(file)
    assert list_saved_accounts(file) == listed
    assert KEY not in repr(listed)
    assert set(listed) == {"lab", "other"}
    assert listed["lab"]["instance"] == CRN
    assert listed["lab"]["region"] == "eu-de"


@pytest.mark.parametrize(
    ("accounts", "channel", "expected"),
    [
        ([{"name": "only"}], "", "only"),
        ([{"name": "a"}, {"name": "b"}], "", "b"),
        ([{"name": "a"}, {"name": "b", "set_as_default": True}, {"name": "c"}], "", "b"),
        ([{"name": "a"}, {}], "", "default-ibm-quantum-platform"),
        ([{}, {"channel": "ibm_cloud"}], "", "default-ibm-quantum-platform"),
        ([{}, {"channel": "ibm_cloud"}], "ibm_cloud", "default-ibm-cloud"),
        ([{"channel": "ibm_cloud"}], "", "default-ibm-cloud"),
    ],
)
def test_the_default_account_is_the_one_that_the_official_client_takes(
    environment: pytest.MonkeyPatch, tmp_path: Path, accounts: list[dict[str, Any]], channel: str, expected: str
) -> None:
    from qiskit_ibm_runtime.accounts import AccountManager

    file = tmp_path / "accounts.json"
    for each in accounts:
        name = each.get("name") or f"default-{each.get('channel', 'ibm_quantum_platform').replace('_', '-')}"
        _save(file, **{**each, "token": f"key-of-{name}"})
    if channel:
        environment.setenv("QISKIT_IBM_CHANNEL", channel)
    ours = IBMQCredentials.from_saved_account(filename=file).get_token().get_secret_value()
    theirs = AccountManager.get(filename=str(file))
    assert theirs is not None
    assert ours == theirs.token == f"key-of-{expected}"


def test_no_file_of_saved_accounts_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file of saved accounts at .*nowhere\.json"):
        IBMQCredentials.from_saved_account(filename=tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", '"text"'])
def test_a_broken_file_of_saved_accounts_is_an_error_without_its_content(tmp_path: Path, content: str) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"accounts\.json"):
        IBMQCredentials.from_saved_account(filename=file)


@pytest.mark.parametrize(
    ("name", "accounts", "told"),
    [
        ("x", {"lab": {"token": KEY}}, "no saved account 'x'. Saved: lab"),
        (None, {}, "no default saved account. Saved: none"),
        ("lab", {"lab": {"token": " "}}, "'lab' has no token"),
        (None, {"old": {"token": KEY, "channel": "ibm_quantum"}}, "no default saved account. Saved: old"),
        ("old", {"old": {"token": KEY, "channel": "ibm_quantum"}}, "no channel 'ibm_quantum'"),
    ],
)
def test_a_saved_account_that_cannot_be_used_is_an_error(
    tmp_path: Path, name: str | None, accounts: dict[str, Any], told: str
) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(json.dumps(accounts))
    with pytest.raises(ConfigurationError, match=told):
        IBMQCredentials.from_saved_account(name, file)


@pytest.mark.parametrize(
    ("fields", "substitute"),
    [({"verify": False}, "SSL_CERT_FILE"), ({"proxies": {"urls": {"https": "http://proxy"}}}, "HTTPS_PROXY")],
)
def test_what_is_not_done_here_names_its_substitute(tmp_path: Path, fields: dict[str, Any], substitute: str) -> None:
    file = tmp_path / "accounts.json"
    _save(file, **fields)
    with pytest.raises(NotOffered, match=substitute):
        IBMQCredentials.from_saved_account(filename=file)


# --- pickles and blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", PICKLES)
def test_a_pickle_of_credentials_made_in_memory_says_that_it_has_no_key(
    environment: pytest.MonkeyPatch, pickler: Any
) -> None:
    there = pickler.loads(pickler.dumps(_made(url="https://host/api/v1")))
    assert there.url == "https://host/api/v1"
    with pytest.raises(ConfigurationError, match=r"came through a pickle.*made in memory.*QISKIT_IBM_TOKEN"):
        there.get_token()
    again = pickler.loads(pickler.dumps(there))
    with pytest.raises(ConfigurationError, match="came through a pickle"):
        again.get_client(CRN)


def test_a_pickle_reads_its_key_again_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QISKIT_IBM_TOKEN", KEY)
    made = IBMQCredentials.from_environment()
    content = pickle.dumps(made)
    assert KEY.encode() not in content
    assert pickle.loads(content).get_token().get_secret_value() == KEY
    environment.delenv("QISKIT_IBM_TOKEN")
    with pytest.raises(ConfigurationError, match="read from the environment"):
        pickle.loads(content).get_token()


def test_a_pickle_reads_its_key_again_from_the_saved_account(tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    _save(file, name="lab")
    content = pickle.dumps(IBMQCredentials.from_saved_account("lab", file))
    assert KEY.encode() not in content
    assert pickle.loads(content).get_token().get_secret_value() == KEY


def test_credentials_without_a_key_say_so() -> None:
    with pytest.raises(ConfigurationError, match="hold no API key"):
        IBMQCredentials().get_token()


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: c.model_copy(), lambda c: c.model_copy(deep=True)]
)
def test_a_copy_within_the_process_keeps_the_key(copied: Any) -> None:
    assert copied(_made()).get_token().get_secret_value() == KEY


@pytest.mark.usefixtures("prefect_server")
async def test_a_saved_block_is_loaded_with_its_key_and_pickled_without() -> None:
    await _made(iam_url="http://127.0.0.1:1").asave("credentials-round-trip", overwrite=True)
    loaded = await IBMQCredentials.aload("credentials-round-trip")
    assert loaded.get_token().get_secret_value() == KEY
    assert dict(loaded) == dict(_made(iam_url="http://127.0.0.1:1"))
    content = pickle.dumps(loaded)
    assert KEY.encode() not in content
    assert pickle.loads(content).get_token().get_secret_value() == KEY
    saved = _made()
    await saved.asave("credentials-saved-here", overwrite=True)
    assert pickle.loads(pickle.dumps(saved)).get_token().get_secret_value() == KEY
    await IBMQCredentials.adelete("credentials-round-trip")
    with pytest.raises(ConfigurationError, match="cannot be read again from the credentials block"):
        pickle.loads(content).get_token()


@pytest.mark.usefixtures("prefect_server")
def test_credentials_pass_through_flows_and_tasks_with_their_key() -> None:
    @task
    def read(credentials: IBMQCredentials) -> str:
        return credentials.get_token().get_secret_value()

    @flow
    def asking(credentials: IBMQCredentials) -> list[str]:
        return [read(credentials), read.submit(credentials).result(), read.submit([credentials][0]).result()]

    assert asking(_made()) == [KEY] * 3


@pytest.mark.usefixtures("prefect_server")
async def test_the_key_is_in_no_parameter_that_prefect_stores() -> None:
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    @flow
    async def asking(credentials: IBMQCredentials) -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    flow_run_id = await asking(_made())
    async with get_client() as client:
        flow_run = await client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
    assert "credentials" in flow_run.parameters
    assert KEY not in flow_run.model_dump_json()


# --- clients ---------------------------------------------------------------------------------------------------------


def test_clients_of_one_instance_are_one_and_of_others_apart() -> None:
    one = _made()
    assert one.get_client(CRN) is _made().get_client(CRN)
    assert one.get_client(CRN) is not one.get_client(CRN.replace("5678", "9999"))
    assert one.get_client(CRN) is not IBMQCredentials(token=SecretStr("another")).get_client(CRN)
    assert one.get_client(CRN) is not _made(iam_url="http://127.0.0.1:1").get_client(CRN)
    assert KEY not in repr(one.get_client(CRN))


@pytest.mark.parametrize(
    ("fields", "crn", "base_url"),
    [
        ({}, CRN, "https://quantum.cloud.ibm.com/api/v1"),
        ({}, CRN.replace("us-east", "eu-de"), "https://eu-de.quantum.cloud.ibm.com/api/v1"),
        ({"private_endpoint": True}, CRN, "https://private.us-east.quantum.cloud.ibm.com/api/v1"),
        ({"url": "http://127.0.0.1:1/api/v1"}, CRN, "http://127.0.0.1:1/api/v1"),
    ],
)
def test_the_host_follows_from_the_crn(fields: dict[str, Any], crn: str, base_url: str) -> None:
    assert _made(**fields).get_client(crn).base_url == base_url


def test_a_client_needs_an_instance() -> None:
    with pytest.raises(ConfigurationError, match="No instance is given"):
        _made().get_client()


def test_closing_forgets_the_clients_of_these_credentials_alone() -> None:
    mine, theirs = _made(), IBMQCredentials(token=SecretStr("another-key"))
    before, other = mine.get_client(CRN), theirs.get_client(CRN)
    mine.close()
    assert mine.get_client(CRN) is not before
    assert theirs.get_client(CRN) is other
    assert before._http.is_closed
    mine.close()
    mine.close()


async def test_closing_in_async_code_does_the_same() -> None:
    mine = _made()
    before = mine.get_client(CRN)
    await mine.aclose()
    assert before._http.is_closed
    assert not mine.get_client(CRN)._http.is_closed


def test_closing_credentials_that_were_never_used_does_nothing(environment: pytest.MonkeyPatch) -> None:
    pickle.loads(pickle.dumps(_made())).close()
    IBMQCredentials(channel="local").close()


def test_our_own_errors_come_unwrapped() -> None:
    with pytest.raises(IBMQError) as told:
        IBMQCredentials(url="nonsense")
    assert told.value.hint
