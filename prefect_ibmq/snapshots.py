"""Tasks that take a snapshot of calibrations: every chosen backend at once, each kept as it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.archives import archive_of
from prefect_ibmq.collected import Collected, asked_backends, why
from prefect_ibmq.errors import IBMQError
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.together import all_of, each_of

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = ["asnapshot_calibrations", "collect_snapshots", "snapshot_calibrations"]

_BACKENDS_AT_ONCE = 8


async def _snapshot_calibrations(
    provider: IBMQProvider | str | None = None,
    backends: Sequence[str] | str | None = None,
    archive: str | Path | Archive | None = None,
) -> dict[str, Any]:
    """Keep the calibration that each backend has now, with its configuration, status and queue.

    Payloads are stored as they were sent. A calibration that the archive holds already costs an observation at most,
    and a configuration is stored where it has changed. It is safe to run twice, at once, and from several machines.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        backends: Names; all of the instance's if None.
        archive: Path or URL of the archive; the folder under `$PREFECT_HOME/ibmq` if None.

    Returns:
        `archive` (path or URL), `snapshots` (new ones), `unchanged`, `quarantined` (payloads that cannot be read),
        `failed` (backend -> what went wrong) and `backends`: for each its `snapshot`, `last_update_date` (ISO 8601,
        UTC), `quarantined` (reasons), `operational` and `pending_jobs`.

    Raises:
        IBMQError: No backend gave anything; the first reason is raised.
        ArchiveError: The archive cannot be written.
        InputError: No backend is named.
    """
    return (await collect_snapshots(provider, backends, archive)).concluded()


async def collect_snapshots(
    provider: IBMQProvider | str | None, backends: Sequence[str] | str | None, archive: str | Path | Archive | None
) -> Collected:
    """What `snapshot_calibrations` does; that every backend failed is told, not raised."""
    client = await (await provider_of(provider)).aget_client()
    opened = await asyncio.to_thread(archive_of, archive)
    collected = Collected(opened.url, await asked_backends(client, backends))
    places = asyncio.Semaphore(_BACKENDS_AT_ONCE)

    async def look(name: str) -> None:
        async with places:
            await _look(client, opened, name, collected)

    await all_of(look(name) for name in collected.asked)
    return collected


async def _look(client: RuntimeClient, archive: Archive, name: str, collected: Collected) -> None:
    """Ask a backend for everything; what came is kept, whatever became of the rest."""
    collected.details[name] = {}
    asking = (
        _look_at_properties(client, archive, name, collected),
        _look_at_configuration(client, archive, name),
        _look_at_status(client, archive, name, collected),
    )
    for ended in await each_of(asking):
        if isinstance(ended, IBMQError):
            if name not in collected.failures:
                collected.failures[name] = await why(ended, name, client)
        elif isinstance(ended, Exception):
            raise ended


async def _look_at_properties(client: RuntimeClient, archive: Archive, name: str, collected: Collected) -> None:
    from prefect_ibmq.archive.calibrations import store_payload

    sent = await client.backend_properties_text(name)
    if sent is None:
        raise IBMQError(f"The service has no calibration of {name}.")
    collected.stored[name] = [await asyncio.to_thread(store_payload, archive, name, sent, datetime.now(UTC))]


async def _look_at_configuration(client: RuntimeClient, archive: Archive, name: str) -> None:
    from prefect_ibmq.archive.calibrations import store_configuration

    configuration = await client.backend_configuration(name)
    await asyncio.to_thread(store_configuration, archive, name, configuration, datetime.now(UTC))


async def _look_at_status(client: RuntimeClient, archive: Archive, name: str, collected: Collected) -> None:
    from prefect_ibmq.archive.calibrations import store_status

    status = await client.backend_status(name)
    await asyncio.to_thread(store_status, archive, name, status.raw, datetime.now(UTC))
    collected.details[name] |= {"operational": status.operational, "pending_jobs": status.pending_jobs}


snapshot_calibrations, asnapshot_calibrations = doors(_snapshot_calibrations, "snapshot_calibrations")
