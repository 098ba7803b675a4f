"""A research pipeline: choose a backend, transpile, run, wait, collect, export, plot.

Run it as it is, with no account, and it uses the embedded service: `python flows/research_pipeline.py`. With
`QISKIT_IBM_TOKEN` and `QISKIT_IBM_INSTANCE` set it runs on IBM's machines. Running it again with the same
`--run-key` and `--archive` goes on with the same jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.tasks import task
from prefect.utilities.annotations import opaque

from prefect_ibmq import (
    IBMQError,
    JobCancelled,
    JobEnded,
    JobVanished,
    NoBackendLeft,
    aexport_counts,
    afetch_result,
    aget_backend,
    aleast_busy,
    alist_backends,
    aopen_run,
    aplan_run,
    asubmit_part,
    atranspile_circuits,
    await_for_job,
    read_counts,
)
from prefect_ibmq.artifacts import jobs_table
from prefect_ibmq.cancellation import cancel_jobs
from prefect_ibmq.run_listing import is_stopped, write_stopped
from prefect_ibmq.scripts import for_a_person, line_that_goes_on
from prefect_ibmq.together import each_of
from prefect_ibmq.wording import counted, some

SEED = 2026
# Reads are retried on the wire already; these carry a run through minutes of trouble. Only errors that say that
# waiting can help are retried, so a wrong circuit fails at once and nothing is submitted twice.
PATIENT: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [5, 30, 120], "retry_jitter_factor": 0.3}
# As long as nothing is submitted nothing can be lost: whoever watches learns soon that the service does not answer.
PROMPT: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [5, 20], "retry_jitter_factor": 0.3}


@flow(name="research-pipeline", on_cancellation=[cancel_jobs])
async def research_pipeline(
    provider: str | None = None,
    backend: str | None = None,
    circuits: str | None = None,
    isa: bool = False,
    shots: int | None = None,
    max_circuits_per_job: int | None = None,
    run_key: str | None = None,
    archive: str = "archive",
    seed: int = SEED,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run circuits on the least busy backend that fits them, and keep their counts.

    Args:
        provider: Name of a saved provider block; the environment's provider if None.
        backend: Name of the backend; the least busy one that is wide enough if None.
        circuits: A .qasm, .qasm3 or .qpy file, or a folder of them; a GHZ ladder and textbook circuits if None.
        isa: Whether they are ISA circuits of that backend already: they are checked, not transpiled.
        shots: Shots of each circuit; 4000 if None.
        max_circuits_per_job: Most circuits of one job.
        run_key: What the run is called; this flow run's id if None.
        archive: Path or URL where counts, plots and the run's folder are kept.
        seed: The transpiler's seed.
        dry_run: Only say how many jobs and QPU seconds it would take.

    Returns:
        `archive`, `backend`, `channel`, `job_ids`, `rows`, `run_key`, `seconds`, `plot`.
    """
    began, logger = time.monotonic(), get_run_logger()
    run = await aopen_run(given_circuits(circuits), provider, shots=shots, run_key=run_key, archive=archive)
    logger.info("Run %s: %s of up to %s", run.run_key, counted(len(run.inputs), "circuit"), counted(run.width, "qubit"))
    given = {
        "run_key": run.run_key,
        "archive": archive,
        "provider": provider,
        "backend": backend,
        "circuits": circuits,
        "isa": isa,
        "shots": shots,
        "max_circuits_per_job": max_circuits_per_job,
        "seed": None if seed == SEED else seed,
    }
    logger.info("To go on with it: %s", line_that_goes_on(__file__, given))
    plan = run.plan()
    if plan is None:
        chosen, isa_circuits = await isa_of(run, provider, backend, isa, seed)
        if dry_run:
            return dry(run, chosen, isa_circuits, cut_into(run, max_circuits_per_job), began)
        plan = await aplan_run(
            run, chosen, opaque(isa_circuits), provider, max_circuits_per_job=max_circuits_per_job, seed=seed
        )
    else:
        logger.info("This run has a plan already: going on with it on %s", plan.backend)
        if backend not in (None, plan.backend):
            logger.warning("It was planned for %s, so %s is not used; another run key would", plan.backend, backend)
        if dry_run:
            chosen = await aget_backend.with_options(**PROMPT)(plan.backend, provider)
            return dry(run, chosen, run.isa_circuits(), plan.parts, began)

    # Whoever runs it again goes on with it; an order to cancel that is given from now on holds.
    await asyncio.to_thread(write_stopped, run.archive, run.set_key, None)
    finished = await each_of(finish(run, part, provider, archive) for part in plan.parts)
    await jobs_table([row(run, *each) for each in zip(plan.parts, finished, strict=True)], run.run_key)
    # What worked is in the archive before anything that did not is told.
    for each in finished:
        if isinstance(each, Exception):
            raise each
    handles = [each for each in finished if not isinstance(each, Exception)]
    told = summary(run, plan.backend, plan.channel, [handle.job_id for handle in handles], 0, began)
    told |= await present(run, archive, plan.backend)
    logger.info("%s, %s of counts", counted(len(handles), "job"), counted(told["rows"], "row"))
    return {**told, "seconds": round(time.monotonic() - began, 3)}


async def isa_of(
    run: Any, provider: str | None, backend: str | None, isa: bool, seed: int, retried: Mapping[str, Any] = PROMPT
) -> tuple[Any, Any]:
    """The backend, and the run's circuits for it."""
    from prefect_ibmq.transpilation import isa_circuits

    chosen = await choose_backend(provider, backend, run.width, retried)
    if isa:  # they are checked: the service would charge for others
        return chosen, isa_circuits(run.inputs, chosen.target)
    return chosen, await atranspile_circuits(opaque(run.inputs), chosen, provider, seed=seed)


async def choose_backend(provider: str | None, name: str | None, width: int, retried: Mapping[str, Any]) -> Any:
    """The backend asked for, or the least busy one that is wide enough, with its calibration of now."""
    from prefect_ibmq.artifacts import backends_table

    if name is not None:
        return await aget_backend.with_options(**retried)(name, provider)
    fitting, rejected = await alist_backends.with_options(**retried)(
        provider, min_num_qubits=width, operational=True, simulator=False, explain=True
    )
    try:
        chosen = await aleast_busy(fitting, rejected=rejected)
    except NoBackendLeft as none:
        raise NoBackendLeft(
            none.reasons,
            hint=f"The widest circuit has {counted(width, 'qubit')}; `prefect-ibmq backends` lists what there is.",
        ) from none
    get_run_logger().info(
        "%d of %d backends fit; %s is the least busy; pending jobs: %s, qubits: %d",
        len(fitting), len(fitting) + len(rejected), chosen.name, chosen.pending_jobs, chosen.num_qubits,
    )  # fmt: skip
    await backends_table(fitting, rejected, chosen.name)
    return await aget_backend.with_options(**retried)(chosen, provider)


async def finish(run: Any, part: Any, provider: str | None, archive: str) -> Any:
    """Submit a part, wait for its job, bring its counts into the archive; returns the job's handle.

    Where a job has ended without a result, submitting again decides by what is noted of it: after a transient failure
    the part is run again, once; everything else is raised.
    """
    over: set[str] = set()
    while True:
        handle = await asubmit_part.with_options(**PATIENT)(run, part, provider)
        try:
            done = await await_for_job.with_options(**PATIENT)(handle, provider, archive=archive)
            inputs = run.inputs[handle.first : handle.last + 1]
            result = await afetch_result.with_options(**PATIENT)(done, provider, archive=archive, inputs=opaque(inputs))
            await aexport_counts(opaque(result), archive)
        except (JobEnded, JobVanished) as error:
            ordered = isinstance(error, JobCancelled) and await asyncio.to_thread(is_stopped, run.archive, run.set_key)
            if ordered or handle.job_id in over:
                raise
            over.add(handle.job_id)
            get_run_logger().warning("%s", error)
        else:
            return done


@task(name="plot counts", cache_policy=NO_CACHE)
async def present(run: Any, archive: str, backend: str) -> dict[str, Any]:
    """Draw the run's counts, as they stand in the archive, beside them and in the Prefect UI."""
    run_key = run.run_key
    from prefect_ibmq.archives import archive_of
    from prefect_ibmq.artifacts import file_name, picture
    from prefect_ibmq.plots import plot_counts

    drawn = ("position", "parameter_index", "circuit", "register", "bitstring", "count", "shots", "simulated")
    # Not by run key: it may have been used with other circuits, too.
    counts = await asyncio.to_thread(read_counts, archive, set_key=run.set_key, columns=drawn)
    title = f"{run_key} on {backend}" + (" (simulated)" if bool(counts["simulated"].all()) else "")
    try:
        png = await asyncio.to_thread(plot_counts, counts, title)
    except IBMQError as error:
        get_run_logger().warning("No plot: %s", error)
        return {"rows": len(counts), "plot": None}
    path = await asyncio.to_thread(archive_of(archive).storage.put, f"plots/{file_name(run_key)}.png", png)
    await picture(png, f"ibmq-counts-{run_key}", f"Counts of {title}")
    return {"rows": len(counts), "plot": path}


def summary(run: Any, backend: str, channel: str, job_ids: list[str], rows: int, began: float) -> dict[str, Any]:
    """What the last line on stdout says."""
    return {
        "archive": run.archive.dataset_url("counts"),
        "backend": backend,
        "channel": channel,
        "job_ids": job_ids,
        "rows": rows,
        "run_key": run.run_key,
        "seconds": round(time.monotonic() - began, 3),
    }


def cut_into(run: Any, max_circuits_per_job: int | None) -> Any:
    """The parts that the run would be cut into."""
    from prefect_ibmq.planning import cut, job_limits

    return cut(run.inputs, run.shots, job_limits("executor", max_circuits_per_job))[1]


def dry(run: Any, backend: Any, isa_circuits: Any, parts: Any, began: float) -> dict[str, Any]:
    """What the run would take from here, without a POST."""
    from prefect_ibmq.budget import estimate_seconds
    from prefect_ibmq.planning import check_against

    check_against(run, isa_circuits, backend)
    known = [handle for part in parts if (handle := run.handle(part)) is not None]
    left = [part for part in parts if run.handle(part) is None]
    estimate = round(estimate_seconds(run, left, isa_circuits, backend), 3)
    get_run_logger().info(
        "Dry run: %s, %d of them submitted before; about %.1f QPU seconds; nothing was sent",
        counted(len(parts), "job"), len(known), estimate,
    )  # fmt: skip
    told = summary(run, backend.name, backend.channel, [handle.job_id for handle in known], rows_of(run), began)
    return {**told, "dry_run": True, "jobs": len(left), "estimated_qpu_seconds": estimate}


def rows_of(run: Any) -> int:
    """Rows of this run's own set that the archive holds."""
    return len(read_counts(run.archive, set_key=run.set_key, columns=["count"]))


def row(run: Any, part: Any, finished: Any) -> dict[str, Any]:
    """A part's row in the Prefect UI."""
    names = [each.name for each in run.inputs[part.first : part.last + 1]]
    if isinstance(finished, BaseException):
        return {"circuits": some(names), "job": getattr(finished, "job_id", ""), "backend": "", "result": str(finished)}
    return {
        "circuits": some(names),
        "job": linked(finished.job_id, finished.page),
        "backend": finished.backend,
        "result": "in the archive",
    }


def linked(job_id: str | None, page: str | None) -> str | None:
    """A job's id, with a link to its page if it has one."""
    return f"[{job_id}]({page})" if page else job_id


def given_circuits(path: str | None) -> Any:
    """What there is to be run: what is asked for, or the textbook's circuits."""
    if path is not None:
        return path
    from prefect_ibmq.flows.textbook import textbook_circuits

    return textbook_circuits()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", metavar="NAME", help="the backend; the least busy one that fits by default")
    parser.add_argument("--circuits", metavar="PATH", help="a .qasm, .qasm3 or .qpy file, or a folder of them")
    parser.add_argument(
        "--isa", action="store_true", help="they are ISA circuits of that backend: check, don't transpile"
    )
    parser.add_argument("--shots", type=int, metavar="N", help="shots of each circuit (4000)")
    parser.add_argument("--max-circuits-per-job", type=int, metavar="N", help="most circuits of one job")
    parser.add_argument("--run-key", metavar="TEXT", help="what the run is called; the same key finds the same jobs")
    parser.add_argument("--archive", default="archive", metavar="PATH_OR_URL", help="where counts are kept (archive)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"the transpiler's seed ({SEED})")
    parser.add_argument("--dry-run", action="store_true", help="say how many jobs and QPU seconds; send nothing")
    parser.add_argument("--provider", metavar="BLOCK", help="name of a saved provider block")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the flow from the command line; the last line on stdout is one JSON object."""
    options = vars(arguments().parse_args(argv))
    with for_a_person():
        told = asyncio.run(research_pipeline(**options))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
