"""`IBMQProvider`: credentials and the chosen instance, which together are what jobs are sent to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from prefect_ibmq import loop
from prefect_ibmq.credentials import (
    LOCAL,
    IBMQCredentials,
    OptionalNumber,
    OptionalText,
    own_errors,
    saved_instance,
    told_by_environment,
)
from prefect_ibmq.errors import ConfigurationError
from prefect_ibmq.options import OPTIONS, OptionsField, run_options

if TYPE_CHECKING:
    from prefect_ibmq.backend_records import BackendRecord
    from prefect_ibmq.backend_service import BackendService
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = ["IBMQProvider", "provider_of"]


class IBMQProvider(Block):
    """Holds credentials and the instance whose backends are used and whose account pays.

    Loading or saving the block opens no connection; `verify` does. The instance is a full CRN, which needs no look-up,
    or a name or `hub/group/project` path, which IBM's resource search resolves once.

    Attributes:
        credentials: The API key and how to reach the service.
        instance: CRN, name, or `hub/group/project`; not needed for the local channel.
        budget_seconds: QPU seconds that the instance may use in its usage period; None is without a limit.
        options: Options of its runs by default, as `run_circuits` describes them; each call overrides them.
        pending_limit: How many jobs the instance may have pending, where you know it.

    Example:
        Load the provider from a saved block:
        ```python
        from prefect_ibmq import IBMQProvider

        provider = IBMQProvider.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "IBM Quantum Provider"
    _block_type_slug = "ibmq-provider"
    _logo_url = "https://avatars.githubusercontent.com/u/30696987?s=200&v=4"  # type: ignore[assignment]
    _documentation_url = "https://quantum.cloud.ibm.com/docs/guides/instances"  # type: ignore[assignment]

    credentials: IBMQCredentials = Field(
        title="Credentials",
        description="The API key and how to reach the service.",
    )
    instance: OptionalText = Field(
        default=None,
        title="Instance",
        description="CRN of the instance (then nothing is looked up), or its name, or a hub/group/project path "
        "that it bears as name or tags. Not needed for the local channel.",
    )

    budget_seconds: OptionalNumber = Field(
        default=None,
        title="Budget",
        description="QPU seconds that the instance may use in its usage period. A job whose estimate does not fit "
        "is refused before it is sent. No limit if empty.",
    )

    options: OptionsField = Field(
        default_factory=dict,
        title="Run options",
        description='What runs take by default, such as {"shots": 1000, "rep_delay": "250us", "memory": true}. '
        f"Known: {', '.join(OPTIONS)}.",
    )

    pending_limit: OptionalNumber = Field(
        default=None,
        title="Pending limit",
        description="How many jobs the instance may have waiting or running at once, where you know it: the service "
        "does not tell. `job_limit` says how many are left. No limit if empty.",
    )

    model_config = ConfigDict(hide_input_in_errors=True)

    _crn: str | None = PrivateAttr(default=None)

    @field_validator("instance")
    @classmethod
    def _check_instance(cls, instance: str | None) -> str | None:
        from prefect_ibmq.instances import is_crn
        from prefect_ibmq.wire.hosts import parse_crn

        if instance is None or not instance.strip():
            return None
        if is_crn(instance):
            parse_crn(instance.strip())
        return instance.strip()

    def __init__(self, *args: Any, **fields: Any) -> None:
        with own_errors():
            super().__init__(*args, **fields)

    @classmethod
    def local(cls) -> Self:
        """The provider of the embedded service, which needs no account and simulates all counts."""
        return cls(credentials=IBMQCredentials(channel=LOCAL))

    @classmethod
    def from_environment(cls) -> Self:
        """The provider that the environment names, as the official client reads it.

        `QISKIT_IBM_TOKEN` and `QISKIT_IBM_INSTANCE` together, with `QISKIT_IBM_URL`, `QISKIT_IBM_CHANNEL` and
        `IAM_URL` as refinements. With none of them set it is the embedded service, which is said on stderr.

        Raises:
            ConfigurationError: Some are set, but not both key and instance; or none is set and the run belongs to a
                deployment, which never falls back to the embedded service.
        """
        told = told_by_environment(["QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE"])
        if told is None:
            return cls.local()
        return cls(credentials=IBMQCredentials.from_environment(), instance=told["QISKIT_IBM_INSTANCE"])

    @classmethod
    def from_saved_account(cls, name: str | None = None, filename: str | Path | None = None) -> Self:
        """The provider of an account that the official client saved, with the instance saved with it.

        Raises:
            ConfigurationError: No such account, or it names no instance.
        """
        credentials = IBMQCredentials.from_saved_account(name, filename)
        instance = saved_instance(name, filename)
        if instance is None:
            raise ConfigurationError(
                "The saved account names no instance.",
                hint="Pass one: IBMQProvider(credentials=IBMQCredentials.from_saved_account(), instance=…).",
            )
        return cls(credentials=credentials, instance=instance)

    def set_options(self, **fields: Any) -> None:
        """Change the options that runs take by default; None gives one back to its own default.

        Options that a call names go before these. A saved block is changed by saving it again.

        Raises:
            InputError: There is no such option (the nearest names are told), or its value cannot be.
            NotOffered: The service has no more what is asked for; the substitute is named.
        """
        kept = {name: value for name, value in self.options.items() if name not in fields}
        self.options = {**kept, **run_options(fields)}

    @property
    def channel(self) -> str:
        """`ibm_quantum_platform`, or `local` for the embedded service."""
        return self.credentials.channel

    @property
    def simulated(self) -> bool:
        """Whether its counts come from a simulator: true of the embedded service only."""
        return self.channel == LOCAL

    @property
    def backends(self) -> BackendService:
        """Its backends: `provider.backends(…)` lists them, `provider.backends.<name>` is one, with completion.

        Reading this property asks nothing; what is done with it asks the service (see `BackendService`).
        """
        from prefect_ibmq.backend_service import BackendService

        return BackendService(self)

    @property
    def backend(self) -> BackendService:
        """The same, under the name that later versions of the IBMQ API had."""
        return self.backends

    def get_backend(self, name: str) -> BackendRecord:
        """One backend with its configuration, status and calibration; the task is `get_backend`.

        Raises:
            BackendNotFound: The instance has no backend of that name; the nearest names are told.
        """
        from prefect_ibmq.backends import find_backend

        return loop.run(find_backend(name, self))

    async def aget_client(self) -> RuntimeClient:
        """The wire's client for this instance, on the wire's loop. A name is resolved on the first call."""
        if self.channel != LOCAL and self.credentials.token is None:
            # A key that is read again from its block costs a request to Prefect, which must not hold up the loop.
            await asyncio.to_thread(self.credentials.get_token)
        return self.credentials.get_client(await self._resolve())

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        name = getattr(self, "_block_document_name", None)
        if not name:
            return state
        return {**state, "__dict__": {**state["__dict__"], "credentials": self.credentials._as_part_of(name)}}

    async def _resolve(self) -> str | None:
        from prefect_ibmq.instances import choose_instance, is_crn, search

        if self._crn is None:
            if self.instance is None and self.channel == LOCAL:
                return None
            if self.instance is None:
                raise ConfigurationError(
                    "The provider names no instance.", hint="Give its CRN or its name as `instance`."
                )
            self._crn = (
                self.instance
                if is_crn(self.instance)
                else choose_instance(await search(self.credentials), self.instance).crn
            )
        return self._crn

    def verify(self) -> dict[str, Any]:
        """Ask the service whether it accepts the key and the instance, and what they may use.

        Returns:
            `channel`, `instance` (CRN), `backends` (names), `usage_consumed_seconds`, `usage_remaining_seconds`
            (None where no limit is set).

        Raises:
            AuthenticationError: The key was refused.
            NotFound: The instance is unknown there, or not of this account.
        """
        return loop.run(self._verify())

    async def averify(self) -> dict[str, Any]:
        """The async door of `verify`."""
        return await loop.arun(self._verify())

    async def _verify(self) -> dict[str, Any]:
        client = await self.aget_client()
        backends = await client.list_backends(wait_times=False)
        usage = await client.usage()
        return {
            "channel": self.channel,
            "instance": client.crn,
            "backends": [backend.name for backend in backends],
            "usage_consumed_seconds": usage.consumed_seconds,
            "usage_remaining_seconds": usage.remaining_seconds,
        }

    async def _active_account(self) -> dict[str, Any]:
        """The account in use: which instance, on what plan, and what of its usage is left. No key is told.

        Returns:
            `channel`, `instance` (CRN), `name`, `plan` and `tags` of the instance (None where the account's instance
            search does not tell them), `region`, `usage_consumed_seconds`, `usage_limit_seconds` and
            `usage_remaining_seconds` (None where no limit is set), `usage_period_start` and `usage_period_end` (UTC).

        Raises:
            AuthenticationError: The key was refused.
            NotFound: The instance is unknown there, or not of this account.
        """
        from prefect_ibmq.instances import told_of

        client = await self.aget_client()
        usage, found = await asyncio.gather(client.usage(), told_of(self, client.crn))
        return {
            "channel": self.channel,
            "instance": client.crn,
            "name": found.name if found else None,
            "plan": found.plan if found and found.plan != "unknown" else None,
            "tags": list(found.tags) if found else None,
            "region": client.crn.split(":")[5],
            "usage_consumed_seconds": usage.consumed_seconds,
            "usage_limit_seconds": usage.limit_seconds if usage.limit_seconds is not None else usage.allocation_seconds,
            "usage_remaining_seconds": usage.remaining_seconds,
            "usage_period_start": usage.period_start,
            "usage_period_end": usage.period_end,
        }

    active_account, aactive_account = loop.both(_active_account, "active_account")

    def close(self) -> None:
        """Forget the token and close the connections that were made with it."""
        self.credentials.close()

    async def aclose(self) -> None:
        """Forget the token and close the connections that were made with it."""
        await self.credentials.aclose()


async def provider_of(provider: IBMQProvider | str | None) -> IBMQProvider:
    """The provider that a task's argument means: itself, the name of a saved block, or the environment's."""
    if isinstance(provider, IBMQProvider):
        return provider
    if isinstance(provider, str):
        try:
            loaded = await IBMQProvider.aload(provider)
        except ValueError as error:
            raise ConfigurationError(
                f"There is no provider block {provider!r}.",
                hint="Save one with IBMQProvider(…).save(name), or see `prefect block ls`.",
            ) from error
        assert isinstance(loaded, IBMQProvider)
        return loaded
    return IBMQProvider.from_environment()
