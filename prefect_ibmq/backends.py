"""Tasks on backends: list and filter, the least busy one, status, configuration, properties, target."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq.backend_filters import LISTED, check_input_allowed, mismatch, refuse_hubs, too_small, verdict
from prefect_ibmq.backend_records import BackendRecord, PropertiesRecord, target_of
from prefect_ibmq.errors import BackendNotFound, DeadlineExceeded, InputError, NoBackendLeft, NotFound
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of

if TYPE_CHECKING:
    from pathlib import Path

    from qiskit.transpiler import Target

    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.records import BackendStatus

__all__ = [
    "abackend_configuration",
    "abackend_properties",
    "abackend_status",
    "abackend_target",
    "aget_backend",
    "aleast_busy",
    "alist_backends",
    "atarget_history",
    "backend_configuration",
    "backend_properties",
    "backend_status",
    "backend_target",
    "choose_least_busy",
    "find_backend",
    "get_backend",
    "get_loaded",
    "least_busy",
    "least_busy_of",
    "list_backends",
    "list_them",
    "load_all",
    "target_history",
]

_LOADS_AT_ONCE = 8


async def list_them(
    provider: IBMQProvider | str | None = None,
    name: str | None = None,
    *,
    min_num_qubits: int | None = None,
    filters: Callable[[BackendRecord], bool] | None = None,
    input_allowed: str | Sequence[str] | None = None,
    timeout: float | None = None,
    explain: bool = False,
    **attributes: Any,
) -> Any:
    """The backends of an instance that pass every filter, in the service's order.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        name: Only the backend of this name.
        min_num_qubits: Only backends with at least so many qubits.
        filters: A callable that gets a record whose configuration, status and properties are loaded.
        input_allowed: `job`, `runtime` or both, which every backend of today takes.
        timeout: Seconds for everything together.
        explain: Also tell why each rejected backend was rejected.
        attributes: Attributes that must have this value: `n_qubits=5, operational=True, simulator=False`, or any of
            the configuration, such as `dynamic_reprate_enabled=True`. A backend without the attribute is rejected.

    Returns:
        A list of `BackendRecord`; with `explain` a pair of that list and a dict of rejected name -> reason.

    Raises:
        InputError: `input_allowed` names something else.
        NotOffered: Backends are asked for by hub, group or project.
        DeadlineExceeded: `timeout` is over.
    """
    check_input_allowed(input_allowed)
    refuse_hubs(attributes)
    try:
        async with asyncio.timeout(timeout) as deadline:
            accepted, rejected = await _sift(await provider_of(provider), name, min_num_qubits, filters, attributes)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(f"The backends were not listed within {timeout} s.") from None
    return (accepted, rejected) if explain else accepted


async def _sift(
    provider: IBMQProvider,
    name: str | None,
    min_num_qubits: int | None,
    filters: Callable[[BackendRecord], bool] | None,
    attributes: dict[str, Any],
) -> tuple[list[BackendRecord], dict[str, str]]:
    client = await provider.aget_client()
    records = await _records(provider, client)
    rejected: dict[str, str] = {}

    def keep(reason_of: Callable[[BackendRecord], str]) -> list[BackendRecord]:
        told = {record.name: reason_of(record) for record in records}
        rejected.update({each: reason for each, reason in told.items() if reason})
        return [record for record in records if not told[record.name]]

    records = keep(lambda record: "" if name in (None, record.name) else f"its name is not {name!r}")
    records = keep(lambda record: too_small(record, min_num_qubits))
    listed = {key: value for key, value in attributes.items() if key in LISTED}
    records = keep(lambda record: mismatch(record, listed))
    deeper = {key: value for key, value in attributes.items() if key not in LISTED}
    if deeper or filters is not None:
        records = await load_all(client, records, everything=filters is not None)
        records = keep(lambda record: mismatch(record, deeper))
    if filters is not None:
        # In a thread: the author's code may take long, or use the sync tasks, and this is the loop that they need.
        verdicts = await asyncio.to_thread(lambda: {record.name: verdict(record, filters) for record in records})
        records = keep(lambda record: verdicts[record.name])
    return records, rejected


async def _records(provider: IBMQProvider, client: RuntimeClient) -> list[BackendRecord]:
    summaries = await client.list_backends(wait_times=True)
    where: dict[str, Any] = {"channel": provider.channel, "instance": client.crn, "provider": provider}
    return [BackendRecord(summary, **where) for summary in summaries]


async def load_all(client: RuntimeClient, records: list[BackendRecord], *, everything: bool) -> list[BackendRecord]:
    """The records with their configuration; with everything, also with status and calibration, asked now."""
    places = asyncio.Semaphore(_LOADS_AT_ONCE)

    async def load(record: BackendRecord) -> BackendRecord:
        async with places:
            return await _load(client, record, everything=everything)

    return list(await asyncio.gather(*(load(record) for record in records)))


async def _load(client: RuntimeClient, record: BackendRecord, *, everything: bool = True) -> BackendRecord:
    where: dict[str, Any] = {"channel": record.channel, "instance": record.instance, "provider": record.provider()}
    if not everything:
        configuration = await client.backend_configuration(record.name)
        return BackendRecord(record.summary, **where, configuration=configuration)
    configuration, status, properties = await asyncio.gather(
        client.backend_configuration(record.name),
        client.backend_status(record.name),
        client.backend_properties(record.name),
    )
    return BackendRecord(
        record.summary,
        **where,
        configuration=configuration,
        status=status,
        properties=properties,
        loaded=True,
    )


async def find_backend(backend: str | BackendRecord, provider: IBMQProvider | str | None = None) -> BackendRecord:
    """One backend with its configuration, status and calibration loaded, all asked now.

    Args:
        backend: Its name, or a record of it.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        BackendNotFound: The instance has no backend of that name; the nearest names are told.
    """
    chosen = await provider_of(provider)
    client = await chosen.aget_client()
    return await _load(client, await _find(chosen, client, _name_of(backend)))


async def get_loaded(backend: str | BackendRecord, provider: IBMQProvider) -> BackendRecord:
    """A loaded record of a backend: the one given if it is loaded, else asked now."""
    return backend if isinstance(backend, BackendRecord) and backend.loaded else await find_backend(backend, provider)


async def least_busy_of(provider: IBMQProvider, **filters: Any) -> BackendRecord:
    """The least busy backend that passes the filters of `list_backends`."""
    return await _least_busy(None, provider, **filters)


async def _find(provider: IBMQProvider, client: RuntimeClient, name: str) -> BackendRecord:
    records = await _records(provider, client)
    for record in records:
        if record.name == name:
            return record
    raise await _not_found(client, name, [record.name for record in records])


async def _not_found(client: RuntimeClient, name: str, names: Sequence[str]) -> BackendNotFound:
    """Why there is no such backend: its name is wrong, or it is retired, which your jobs on it tell."""
    if "simulator" in name.lower():
        return BackendNotFound(
            name, where="any more: IBM's simulators are gone, IBMQProvider.local() simulates devices"
        )
    if (await client.list_jobs_page(1, backend=name)).jobs:
        where = f"in this instance any more: it is retired, and list_jobs(provider, backend_name={name!r}) has its jobs"
        return BackendNotFound(name, where=where)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or sorted(names)[:5]
    return BackendNotFound(name, near, where="in this instance")


def _name_of(backend: str | BackendRecord) -> str:
    name = backend.name if isinstance(backend, BackendRecord) else backend
    if not name.strip():
        raise InputError(f"{backend!r} is no backend.", hint="Give a backend's name or its record.")
    return name.strip()


async def _least_busy(
    backends: Sequence[BackendRecord] | None = None,
    provider: IBMQProvider | str | None = None,
    *,
    by: str = "pending_jobs",
    rejected: dict[str, str] | None = None,
    **filters: Any,
) -> BackendRecord:
    """The operational backend with the shortest queue; among equals the first one.

    Args:
        backends: Records to choose from; None means those of the provider.
        provider: The provider, its block's name, or None for the environment's; used where `backends` is None.
        by: `pending_jobs`, or `wait_time` where the service tells it.
        rejected: Reasons of backends that were rejected before, told together with ours if none is left.
        filters: As `list_backends` takes them; used where `backends` is None.

    Raises:
        NoBackendLeft: None is left; each one's reason is told.
        InputError: `by` is something else, or filters were given together with `backends`.
    """
    if by not in ("pending_jobs", "wait_time"):
        raise InputError(f"by={by!r} is unknown.", hint="Use 'pending_jobs' or 'wait_time'.")
    if backends is None:
        backends, rejected = await list_them(provider, explain=True, **filters)
    elif filters:
        raise InputError(f"The filters {sorted(filters)} need the provider's list.", hint="Leave `backends` out.")
    return choose_least_busy(backends or [], rejected, by)


def choose_least_busy(
    backends: Sequence[BackendRecord], rejected: dict[str, str] | None = None, by: str = "pending_jobs"
) -> BackendRecord:
    """The pure part of `least_busy`."""
    reasons = dict(rejected or {})
    measured: list[tuple[float, BackendRecord]] = []
    for record in backends:
        if not isinstance(record, BackendRecord):
            raise InputError(f"{record!r} is no backend record.", hint="Pass what list_backends gives.")
        queue = record.pending_jobs if by == "pending_jobs" else record.wait_time_seconds
        if not record.operational:
            reasons[record.name] = f"it is not operational ({_why_not(record)})"
        elif queue is None:
            reasons[record.name] = f"the service does not tell its {by}"
        else:
            measured.append((float(queue), record))
    if not measured:
        raise NoBackendLeft(reasons)
    return min(measured, key=lambda pair: pair[0])[1]


def _why_not(record: BackendRecord) -> str:
    """The state of a backend that is not operational; `internal` is told by its status alone."""
    return record.status_msg if record.summary.operational else record.state


async def _asking(backend: str | BackendRecord, provider: IBMQProvider | str | None) -> tuple[RuntimeClient, str]:
    return await (await provider_of(provider)).aget_client(), _name_of(backend)


async def _told(client: RuntimeClient, name: str, answer: Any) -> Any:
    try:
        return await answer
    except NotFound as error:
        names = [summary.name for summary in await client.list_backends(wait_times=False)]
        if name in names:
            raise
        raise await _not_found(client, name, names) from error


async def _backend_status(backend: str | BackendRecord, provider: IBMQProvider | str | None = None) -> BackendStatus:
    """Whether a backend is operational, and how many jobs of all users wait for it, asked now.

    Operational together with the status `internal` means that it takes jobs and does not run them.

    Args:
        backend: Its name, or a record of it.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        BackendNotFound: The instance has no backend of that name.
    """
    client, name = await _asking(backend, provider)
    status: BackendStatus = await _told(client, name, client.backend_status(name))
    return status


async def _backend_configuration(
    backend: str | BackendRecord, provider: IBMQProvider | str | None = None
) -> dict[str, Any]:
    """A backend's configuration as the service sends it: `dt` and `dtm` in ns, repetition delays in µs.

    Args:
        backend: Its name, or a record of it.
        provider: The provider, its block's name, or None for the environment's.

    Raises:
        BackendNotFound: The instance has no backend of that name.
    """
    client, name = await _asking(backend, provider)
    configuration: dict[str, Any] = await _told(client, name, client.backend_configuration(name))
    return configuration


async def _backend_properties(
    backend: str | BackendRecord,
    provider: IBMQProvider | str | None = None,
    *,
    refresh: bool = False,
    datetime: datetime | None = None,
) -> PropertiesRecord | None:
    """A backend's calibration, now or at a past moment.

    Args:
        backend: Its name, or a record of it.
        provider: The provider, its block's name, or None for the environment's.
        refresh: Ask the service even where the record holds a calibration.
        datetime: Ask for the newest calibration before this moment; a naive one is local time.

    Returns:
        The calibration in SI units; None where the service has none.

    Raises:
        BackendNotFound: The instance has no backend of that name.
    """
    if isinstance(backend, BackendRecord) and backend.raw_properties and not refresh and datetime is None:
        return backend.properties()
    client, name = await _asking(backend, provider)
    before = datetime.astimezone(UTC) if datetime is not None else None
    payload = await _told(client, name, client.backend_properties(name, updated_before=before))
    return PropertiesRecord(payload) if payload else None


async def _backend_target(
    backend: str | BackendRecord,
    provider: IBMQProvider | str | None = None,
    *,
    datetime: datetime | None = None,
    fractional_gates: bool = False,
) -> Target:
    """The qiskit `Target` of a backend, now or at a past moment; faulty qubits and gates are left out.

    Args:
        backend: Its name, or a loaded record, which is used as it is unless `datetime` is given.
        provider: The provider, its block's name, or None for the environment's.
        datetime: Use the newest calibration before this moment; a naive one is local time.
        fractional_gates: Offer rx and rzz where the device has them.

    Raises:
        BackendNotFound: The instance has no backend of that name.
    """
    if isinstance(backend, BackendRecord) and backend.loaded and datetime is None:
        return target_of(backend.raw_configuration or {}, backend.raw_properties, fractional_gates=fractional_gates)
    configuration = await _backend_configuration(backend, provider)
    properties = await _backend_properties(backend, provider, refresh=True, datetime=datetime)
    return target_of(configuration, properties.raw if properties else None, fractional_gates=fractional_gates)


async def _target_history(
    backend: str | BackendRecord,
    datetime: datetime,
    provider: IBMQProvider | str | None = None,
    *,
    archive: str | Path | Archive | None = None,
    fractional_gates: bool = False,
) -> Target:
    """The qiskit `Target` of a backend at a past moment.

    Args:
        backend: Its name, or a record of it.
        datetime: The moment; a naive one is local time.
        provider: The provider, its block's name, or None for the environment's; not asked where `archive` is given.
        archive: Path or URL of an archive of calibrations, which knows backends that are retired, too. None asks the
            service, whose history reaches as far back as it chooses.
        fractional_gates: Offer rx and rzz where the device has them.

    Raises:
        BackendNotFound: The instance has no backend of that name.
        CalibrationNotFound: The archive has no calibration of that time.
    """
    if archive is None:
        return await _backend_target(backend, provider, datetime=datetime, fractional_gates=fractional_gates)
    from prefect_ibmq.calibrations import aread_calibration

    target: Target = await aread_calibration(
        archive, _name_of(backend), datetime.astimezone(UTC), form="target", fractional_gates=fractional_gates
    )
    return target


list_backends, alist_backends = doors(list_them, "list_backends")
get_backend, aget_backend = doors(find_backend, "get_backend")
least_busy, aleast_busy = doors(_least_busy, "least_busy")
backend_status, abackend_status = doors(_backend_status, "backend_status")
backend_configuration, abackend_configuration = doors(_backend_configuration, "backend_configuration")
backend_properties, abackend_properties = doors(_backend_properties, "backend_properties")
backend_target, abackend_target = doors(_backend_target, "backend_target")
target_history, atarget_history = doors(_target_history, "target_history")
