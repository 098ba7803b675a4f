"""Fetch the calibrations of the past that the service still has, before it drops them.

Run it as it is, with no account, and it asks the embedded service:
`python flows/calibration_backfill.py --since 2026-08-01`. With `QISKIT_IBM_TOKEN` and `QISKIT_IBM_INSTANCE` set it asks
IBM's. Running it again goes on where it was broken off, and asks for nothing twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect_ibmq.flows.calibration_snapshot import PATIENT, chosen, warn_of
from prefect_ibmq.flows.calibration_snapshot import arguments as snapshot_arguments

from prefect_ibmq import abackfill_calibrations
from prefect_ibmq.artifacts import calibrations_table
from prefect_ibmq.backfill import close_walks
from prefect_ibmq.collected import joined
from prefect_ibmq.scripts import for_a_person
from prefect_ibmq.together import each_of

BACKENDS_AT_ONCE = 4


@flow(name="calibration-backfill")
async def calibration_backfill(
    since: str | None = None,
    until: str | None = None,
    provider: str | None = None,
    backends: list[str] | None = None,
    archive: str = "archive",
) -> dict[str, Any]:
    """Fetch the calibrations that the service still has of the past, newest first.

    Args:
        since: Back to the calibration that was in force then, as ISO text (UTC where it has no zone); all that the
            service has if None.
        until: Begin with the newest calibration before this moment; with the newest of all if None.
        provider: Name of a saved provider block; the environment's provider if None.
        backends: Names of the backends, also of retired ones; all of the instance's if None.
        archive: Path or URL of the archive.

    Returns:
        `archive`, `snapshots`, `unchanged`, `quarantined`, `failed`, `backends`, as `backfill_calibrations` tells them.
    """
    names = await chosen(backends, provider)
    progress = await acreate_progress_artifact(0.0, description=f"Backends done, of {len(names)}")
    # What came stays, so a retry goes on where the backend was left.
    walk, places, done = abackfill_calibrations.with_options(**PATIENT), asyncio.Semaphore(BACKENDS_AT_ONCE), 0

    async def fetch(name: str) -> dict[str, Any]:
        nonlocal done
        async with places:
            try:
                told: dict[str, Any] = await walk(provider, [name], since, until, archive, keep_open=True)
            finally:
                done += 1
                await aupdate_progress_artifact(progress, 100 * done / len(names))
            return told

    ended = await each_of(fetch(name) for name in names)
    told = joined(dict(zip(names, ended, strict=True)))
    await close_walks(archive, [name for name in names if name not in told["failed"]])
    await calibrations_table(told, "ibmq-calibration-backfill")
    warn_of(told["failed"])
    get_run_logger().info(
        "%d calibrations that were not known, %d that were, %d quarantined, %d backends failed; in %s",
        told["snapshots"], told["unchanged"], told["quarantined"], len(told["failed"]), told["archive"],
    )  # fmt: skip
    return told


def arguments() -> argparse.ArgumentParser:
    """The options of the snapshot, and ours."""
    parser: argparse.ArgumentParser = snapshot_arguments()
    parser.description = __doc__
    parser.add_argument(
        "--since", metavar="TIME", help="how far back, as ISO text; all that the service has by default"
    )
    parser.add_argument("--until", metavar="TIME", help="begin before this moment; with the newest by default")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the flow from the command line; the last line on stdout is one JSON object."""
    options = vars(arguments().parse_args(argv))
    with for_a_person("What came is in the archive; run the same again to go on."):
        told = asyncio.run(calibration_backfill(**options))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
