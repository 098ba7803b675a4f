"""Keep the calibrations that the devices have now: what to run every hour, for years.

Run it as it is, with no account, and it looks at the embedded service: `python flows/calibration_snapshot.py`. With
`QISKIT_IBM_TOKEN` and `QISKIT_IBM_INSTANCE` set it looks at IBM's machines. Running it twice, at once, or from several
machines stores nothing twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from prefect import flow, get_run_logger

from prefect_ibmq import IBMQError, alist_backends, asnapshot_calibrations
from prefect_ibmq.artifacts import calibrations_table
from prefect_ibmq.collected import joined
from prefect_ibmq.drift_report import areport_latest
from prefect_ibmq.scripts import for_a_person
from prefect_ibmq.together import each_of

BACKENDS_AT_ONCE = 8
MOST_TOLD = 5  # crossings of a device in a line of the log; the report has them all
# Reads are retried on the wire already; these carry a run through minutes of trouble. Each backend is a task of its
# own, so only the one in trouble is asked again.
PATIENT: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [5, 30, 120], "retry_jitter_factor": 0.3}


@flow(name="calibration-snapshot")
async def calibration_snapshot(
    provider: str | None = None, backends: list[str] | None = None, archive: str = "archive"
) -> dict[str, Any]:
    """Keep the calibration, the configuration, the status and the queue that each backend has now.

    Where a new calibration has crossed a limit since the one before, the flow run gets a report of the drift, and the
    event `ibmq.calibration.drifted` is sent, for an automation to act on.

    Args:
        provider: Name of a saved provider block; the environment's provider if None.
        backends: Names of the backends; all of the instance's if None.
        archive: Path or URL of the archive.

    Returns:
        `archive`, `snapshots`, `unchanged`, `quarantined`, `failed`, `backends`, as `snapshot_calibrations` tells them;
        and `drifted`: of each device that crossed limits, how many.
    """
    names = await chosen(backends, provider)
    places, task = asyncio.Semaphore(BACKENDS_AT_ONCE), asnapshot_calibrations.with_options(**PATIENT)

    async def look(name: str) -> dict[str, Any]:
        async with places:
            told: dict[str, Any] = await task(provider, [name], archive)
            return told

    ended = await each_of(look(name) for name in names)
    told = joined(dict(zip(names, ended, strict=True)))
    await calibrations_table(told, "ibmq-calibration-snapshot")
    told["drifted"] = await drifted([name for name, each in told["backends"].items() if each["snapshots"]], archive)
    warn_of(told["failed"])
    get_run_logger().info(
        "%d new calibrations, %d unchanged, %d quarantined, %d backends failed; in %s",
        told["snapshots"], told["unchanged"], told["quarantined"], len(told["failed"]), told["archive"],
    )  # fmt: skip
    return told


async def chosen(backends: list[str] | None, provider: str | None) -> list[str]:
    """The backends that are named, each once; all of the instance's if none is."""
    named = list(dict.fromkeys(backends or []))
    return named or [record.name for record in await alist_backends.with_options(**PATIENT)(provider)]


def warn_of(failed: dict[str, str]) -> None:
    """Say in the log which backends failed, and why."""
    for name, reason in failed.items():
        get_run_logger().warning("%s: %s", name, reason)


async def drifted(backends: list[str], archive: str) -> dict[str, int]:
    """Report which of these devices drifted beyond a limit with their new calibration. It is not worth failing for."""
    logger, found = get_run_logger(), {}
    for name in backends:
        try:
            crossed = await areport_latest(archive, name)
        except IBMQError as error:
            logger.warning("The drift of %s cannot be told: %s", name, error)
            continue
        if crossed:
            found[name] = len(crossed)
            logger.warning("%s has drifted: %s", name, "; ".join(each.text for each in crossed[:MOST_TOLD]))
    return found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backend", dest="backends", action="append", metavar="NAME", help="a backend; again for more (all)"
    )
    parser.add_argument("--archive", default="archive", metavar="PATH_OR_URL", help="where they are kept (archive)")
    parser.add_argument("--provider", metavar="BLOCK", help="name of a saved provider block")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the flow from the command line; the last line on stdout is one JSON object."""
    options = vars(arguments().parse_args(argv))
    with for_a_person("What came is in the archive."):
        told = asyncio.run(calibration_snapshot(**options))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
