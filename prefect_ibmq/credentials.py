"""`IBMQCredentials`: the API key, where it comes from, and how to reach the service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, WithJsonSchema, field_validator

from prefect_ibmq.errors import ConfigurationError, IBMQError, NotOffered

if TYPE_CHECKING:
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = [
    "LOCAL",
    "PLATFORM",
    "SAVED_ACCOUNTS",
    "VARIABLES",
    "IBMQCredentials",
    "OptionalNumber",
    "OptionalText",
    "list_saved_accounts",
    "own_errors",
    "saved_instance",
    "told_by_environment",
]

PLATFORM: Literal["ibm_quantum_platform"] = "ibm_quantum_platform"
LOCAL: Literal["local"] = "local"
# Prefect's UI would show "text or null" as two forms to choose from.
OptionalText = Annotated[str | None, WithJsonSchema({"type": "string"})]
OptionalNumber = Annotated[int | None, WithJsonSchema({"type": "integer"})]
OptionalKey = Annotated[SecretStr | None, WithJsonSchema({"type": "string", "format": "password", "writeOnly": True})]
SAVED_ACCOUNTS = Path("~/.qiskit/qiskit-ibm.json")
VARIABLES = ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_URL", "QISKIT_IBM_CHANNEL", "IAM_URL")
_CHANNEL_NAMES = {PLATFORM: PLATFORM, "ibm_cloud": PLATFORM, LOCAL: LOCAL}
_DEFAULT_ACCOUNTS = {"ibm_quantum_platform": "default-ibm-quantum-platform", "ibm_cloud": "default-ibm-cloud"}
_SAVED_FIELDS = frozenset(  # the key is not among them
    {"channel", "url", "instance", "verify", "private_endpoint", "region", "plans_preference", "tags"}
)
_said_local = False


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise our own error where pydantic has wrapped one of ours; its other errors stay as they are."""
    try:
        yield
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False):
            ours = each.get("ctx", {}).get("error")
            if isinstance(ours, IBMQError):
                raise ours from None
        raise


class IBMQCredentials(CredentialsBlock):
    """Holds an IBM Quantum API key and how to reach the service.

    Loading or saving the block opens no connection. The key never appears in a repr, log, cache key or pickle.

    An unpickled block reads it again from where it came, the saved block or the environment.

    Attributes:
        channel: `ibm_quantum_platform`, or `local` for the embedded service, which needs no key.
        token: The API key of an IBM Cloud account.
        url: Base of the API if it is not to follow from the instance's CRN.
        iam_url: Base under which `/identity/token` answers, if not IBM's own.
        private_endpoint: Whether IBM's private endpoints are used.

    Example:
        Load the key from a saved block:
        ```python
        from prefect_ibmq import IBMQCredentials

        credentials = IBMQCredentials.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "IBM Quantum Credentials"
    _block_type_slug = "ibmq-credentials"
    _logo_url = "https://avatars.githubusercontent.com/u/30696987?s=200&v=4"  # type: ignore[assignment]
    _documentation_url = "https://quantum.cloud.ibm.com/docs/guides/cloud-setup"  # type: ignore[assignment]

    channel: Literal["ibm_quantum_platform", "local"] = Field(
        default=PLATFORM,
        title="Channel",
        description="`ibm_quantum_platform` for IBM's machines, `local` for the embedded service, which needs no key.",
    )
    token: OptionalKey = Field(
        default=None,
        title="API key",
        description="API key of your IBM Cloud account, made on the IBM Quantum Platform dashboard. "
        "Not needed locally.",
    )
    url: OptionalText = Field(
        default=None,
        title="API base URL",
        description="Base of the REST API, used as given (it ends in `/api/v1`). Leave it empty: "
        "the host then follows from the instance's CRN.",
    )
    iam_url: OptionalText = Field(
        default=None,
        title="IAM URL",
        description="Base under which `/identity/token` answers. Leave it empty for IBM's own.",
    )
    private_endpoint: bool = Field(
        default=False,
        title="Private endpoint",
        description="Reach the service through IBM Cloud's private network.",
    )

    # An error that showed its input could show the key.
    # No title of its own: Prefect's UI finds a nested block by the class's name.
    model_config = ConfigDict(hide_input_in_errors=True)

    _origin: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, *args: Any, **fields: Any) -> None:
        with own_errors():
            super().__init__(*args, **fields)

    @field_validator("token")
    @classmethod
    def _strip_token(cls, token: SecretStr | None) -> SecretStr | None:
        # A key pasted with its line end is refused by IAM with a message that does not help.
        if token is None or not token.get_secret_value().strip():
            return None
        return SecretStr(token.get_secret_value().strip())

    @field_validator("url", "iam_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None or not url.strip():
            return None
        if not url.strip().startswith(("http://", "https://")):
            raise ConfigurationError(
                f"{url!r} is not an address.", hint="It must begin with https:// (or http:// on loopback)."
            )
        if "@" in urlsplit(url.strip()).netloc:
            raise ConfigurationError("The address holds a user or a password.", hint="Leave it out of the URL.")
        return url.strip().rstrip("/")

    @classmethod
    def from_environment(cls) -> Self:
        """Credentials from `QISKIT_IBM_TOKEN`, `QISKIT_IBM_URL`, `QISKIT_IBM_CHANNEL` and `IAM_URL`.

        With nothing of an account in the environment they are those of the embedded service, which is said on stderr.

        Raises:
            ConfigurationError: The channel is unknown; or something of an account is set, but no key; or nothing is
                set and the run belongs to a deployment, which never falls back to the embedded service.
        """
        told = told_by_environment(["QISKIT_IBM_TOKEN"])
        if told is None:
            return cls(channel=LOCAL)
        made = cls(
            token=SecretStr(told["QISKIT_IBM_TOKEN"]),
            url=_own_address(told["QISKIT_IBM_URL"]),
            iam_url=told["IAM_URL"] or None,
        )
        made._origin = {"kind": "environment"}
        return made

    @classmethod
    def from_saved_account(cls, name: str | None = None, filename: str | Path | None = None) -> Self:
        """Credentials of an account that the official client saved.

        Args:
            name: The account's name; by default the one that the official client would take.
            filename: The file; `~/.qiskit/qiskit-ibm.json` by default.

        Raises:
            ConfigurationError: No such file or account, or the account cannot be used.
            NotOffered: The account switches TLS verification off, or names proxies.
        """
        account, chosen = _saved_account(name, filename)
        if account.get("verify") is False:
            raise NotOffered(
                f"The saved account {chosen!r} switches TLS verification off, which is not done here.",
                hint="Point SSL_CERT_FILE to your certificate authority instead.",
            )
        if account.get("proxies"):
            raise NotOffered(
                f"The saved account {chosen!r} names proxies, which are not read from there.",
                hint="Set HTTPS_PROXY in the environment instead.",
            )
        made = cls(
            channel=_channel(account.get("channel") or PLATFORM),
            token=SecretStr(str(account["token"])),
            url=_own_address(account.get("url")),
            iam_url=os.environ.get("IAM_URL") or None,
            private_endpoint=bool(account.get("private_endpoint")),
        )
        made._origin = {"kind": "saved account", "name": chosen, "filename": str(filename) if filename else None}
        return made

    @staticmethod
    def list_saved_accounts(filename: str | Path | None = None) -> dict[str, dict[str, Any]]:
        """The accounts that the official client saved, as `list_saved_accounts` gives them."""
        return list_saved_accounts(filename)

    def get_token(self) -> SecretStr:
        """The API key, read again from its origin where this object was unpickled without it.

        Raises:
            ConfigurationError: There is no key, and none can be had from where it came.
        """
        if self.token is None:
            self.token = self._reread()
        if self.token is None:
            raise ConfigurationError(
                "These credentials hold no API key.",
                hint="Pass token=…, load a saved block, or set QISKIT_IBM_TOKEN.",
            )
        return self.token

    def _reread(self) -> SecretStr | None:
        kind = self._origin.get("kind")
        if kind is None:
            return None
        if kind == "saved account":
            return IBMQCredentials.from_saved_account(self._origin["name"], self._origin["filename"]).token
        if kind == "block":
            return _load_block(self._origin["type"], self._origin["name"]).token
        if token := os.environ.get("QISKIT_IBM_TOKEN", "").strip():
            return SecretStr(token)
        raise ConfigurationError(
            "These credentials came through a pickle, which never carries the API key, and they were "
            f"{'made in memory' if kind == 'memory' else 'read from the environment'}.",
            hint="Set QISKIT_IBM_TOKEN here, or save them as a block and load that.",
        )

    def get_client(self, instance: str | None = None) -> RuntimeClient:
        """The wire's client for an instance; clients of one instance share a connection pool.

        Args:
            instance: The instance's full CRN; not needed for the local channel.
        """
        from prefect_ibmq import clients

        return clients.client_of(self, instance)

    def close(self) -> None:
        """Forget the token and close the connections that were made with it."""
        from prefect_ibmq import clients, loop

        loop.run(clients.close_of(self))

    async def aclose(self) -> None:
        """Forget the token and close the connections that were made with it."""
        from prefect_ibmq import clients, loop

        await loop.arun(clients.close_of(self))

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        origin = self._where_from()
        private = {**(state.get("__pydantic_private__") or {}), "_origin": origin}
        return {**state, "__dict__": {**state["__dict__"], "token": None}, "__pydantic_private__": private}

    def _where_from(self) -> dict[str, Any]:
        name = getattr(self, "_block_document_name", None)
        if self.token is None:
            return self._origin
        return {"kind": "block", "type": "credentials", "name": name} if name else self._origin or {"kind": "memory"}

    def _as_part_of(self, provider: str) -> Self:
        """A copy that knows that its key is in a provider's block, where it has no better origin."""
        copied = self.model_copy()
        if self._where_from().get("kind") == "memory":
            copied._origin = {"kind": "block", "type": "provider", "name": provider}
        return copied


def list_saved_accounts(filename: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The accounts that the official client saved, by name, without their keys.

    Args:
        filename: The file; `~/.qiskit/qiskit-ibm.json` by default.

    Returns:
        For each account what was saved of `channel`, `url`, `instance`, `region`, `plans_preference`, `tags`, `verify`
        and `private_endpoint`.

    Raises:
        ConfigurationError: There is no such file, or it cannot be read.
    """
    return {
        name: {key: account[key] for key in account if key in _SAVED_FIELDS}
        for name, account in _read_accounts(filename).items()
    }


def _load_block(kind: str, name: str) -> IBMQCredentials:
    # `Block.load` gives a coroutine where a loop runs, so the sync form is asked for by name.
    from prefect_ibmq.provider import IBMQProvider

    load: Callable[..., Any] = IBMQProvider.load if kind == "provider" else IBMQCredentials.load
    try:
        block = load(name, _sync=True)
    except ValueError as error:
        raise ConfigurationError(f"The API key cannot be read again from the {kind} block {name!r}: {error}") from error
    credentials: IBMQCredentials = block.credentials if kind == "provider" else block
    return credentials


def told_by_environment(needed: Sequence[str]) -> dict[str, str] | None:
    """What the environment says of an account; None where it means the embedded service.

    Args:
        needed: The variables that must be there if any is.

    Raises:
        ConfigurationError: The channel is unknown, some of the needed ones are missing, or a run that belongs to a
            deployment would fall back to the embedded service.
    """
    told = {name: os.environ.get(name, "").strip() for name in VARIABLES}
    if told["QISKIT_IBM_CHANNEL"] and _channel(told["QISKIT_IBM_CHANNEL"]) == LOCAL:
        return None
    present = [name for name, value in told.items() if value]
    if not present:
        _refuse_local_in_deployment()
        _say_local()
        return None
    if missing := [name for name in needed if not told[name]]:
        raise ConfigurationError(
            f"The environment sets {', '.join(present)}, but not {' and '.join(missing)}.",
            hint="Set both QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or none of them to run locally.",
        )
    return told


def _say_local() -> None:
    global _said_local
    if not _said_local:
        _said_local = True
        sys.stderr.write(
            "prefect_ibmq: no IBM Quantum account in the environment (QISKIT_IBM_TOKEN, QISKIT_IBM_INSTANCE); "
            "using the embedded service: all counts are simulated.\n"
        )


def _refuse_local_in_deployment() -> None:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    deployment = context.flow_run.deployment_id if context and context.flow_run else None
    # Workers and runners start a deployment's process with this variable, subflows included.
    if deployment or os.environ.get("PREFECT__FLOW_RUN_ID"):
        raise ConfigurationError(
            "This run belongs to a deployment, and its environment names no IBM Quantum account.",
            hint="Pass a provider block's name, or set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE "
            "(QISKIT_IBM_CHANNEL=local asks for the embedded service on purpose).",
        )


def _channel(name: str) -> Literal["ibm_quantum_platform", "local"]:
    try:
        return _CHANNEL_NAMES[name]  # type: ignore[return-value]
    except KeyError:
        raise ConfigurationError(
            f"There is no channel {name!r}.", hint="Use 'ibm_quantum_platform' or 'local'."
        ) from None


def _own_address(url: str | None) -> str | None:
    """None for IBM's public addresses, which mean the default: the host follows from the CRN."""
    from prefect_ibmq.wire.hosts import is_ibm_public

    if not url or not url.strip():
        return None
    return None if is_ibm_public(url.strip()) else url.strip()


def _read_accounts(filename: str | Path | None) -> dict[str, dict[str, Any]]:
    path = Path(filename or SAVED_ACCOUNTS).expanduser()
    try:
        accounts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no file of saved accounts at {path}.",
            hint="Save one with QiskitRuntimeService.save_account, or set QISKIT_IBM_TOKEN.",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The saved accounts in {path} cannot be read: {error}.") from error
    if not isinstance(accounts, dict):
        raise ConfigurationError(f"The saved accounts in {path} are not a JSON object.")
    return {name: account for name, account in accounts.items() if isinstance(account, dict)}


def _saved_account(name: str | None, filename: str | Path | None) -> tuple[dict[str, Any], str]:
    accounts = _read_accounts(filename)
    if name is None:
        name = _default_account(accounts)
    if name is None or name not in accounts:
        told = ", ".join(sorted(accounts)) or "none"
        asked = f"no saved account {name!r}" if name else "no default saved account"
        raise ConfigurationError(f"There is {asked}.", hint=f"Saved: {told}.")
    if not str(accounts[name].get("token") or "").strip():
        raise ConfigurationError(f"The saved account {name!r} has no token.", hint="Save it again.")
    return accounts[name], name


def _default_account(accounts: dict[str, dict[str, Any]]) -> str | None:
    """The account that the official client takes where none is named; None where it finds none either."""
    usable = {each: account for each, account in accounts.items() if account.get("channel") in (*_CHANNEL_NAMES, None)}
    channel = os.environ.get("QISKIT_IBM_CHANNEL", "").strip() or PLATFORM
    marked = [each for each, account in usable.items() if account.get("is_default_account")]
    usual = [each for each in (_DEFAULT_ACCOUNTS.get(channel),) if each in usable]
    last = [each for each, account in usable.items() if account.get("channel", PLATFORM) == channel][-1:]
    others = [each for each in _DEFAULT_ACCOUNTS.values() if each in usable]
    return next(iter([*marked, *usual, *last, *others]), None)


def saved_instance(name: str | None, filename: str | Path | None) -> str | None:
    """The instance that a saved account names; None where it names none, or leaves the choice to the client."""
    account, _ = _saved_account(name, filename)
    instance = str(account.get("instance") or "").strip()
    return None if instance in ("", "auto") else instance
