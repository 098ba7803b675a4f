"""A nightly run: the same circuits every night, with retries, salvage and a deadline, and nothing paid twice.

`python flows/nightly_run.py --archive archive` runs it by hand and prints first how to go on with it; under a
deployment each scheduled start is a run of its own. A start first takes up what older runs of the same name have left.
Started again with the same `--run-key` and `--archive` it finishes what is open.

Exit status: 0 all counts are in the archive; 3 some circuits failed for good, the others' counts are in the archive;
4 the deadline was reached, and jobs are left; 75 submitted, and to be collected later (`--mode suspend`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.flow_runs import asuspend_flow_run
from prefect.utilities.annotations import opaque
from prefect_ibmq.flows.research_pipeline import (
    PATIENT,
    SEED,
    cut_into,
    dry,
    given_circuits,
    isa_of,
    linked,
    present,
)
from prefect_ibmq.flows.research_pipeline import arguments as pipeline_arguments

from prefect_ibmq import (
    IBMQError,
    aexport_counts,
    afetch_result,
    aget_backend,
    aopen_run,
    aplan_run,
    asubmit_part,
    await_for_job,
)
from prefect_ibmq.archives import archive_of
from prefect_ibmq.artifacts import slug
from prefect_ibmq.cancellation import cancel_jobs
from prefect_ibmq.deadlines import LastLine
from prefect_ibmq.finishing import Finishing, PartState, Steps, place_of, usage_of, was_stopped
from prefect_ibmq.restoring import restored_run
from prefect_ibmq.run_keys import name_flow_run
from prefect_ibmq.run_listing import older_runs, write_stopped
from prefect_ibmq.scripts import for_a_person, line_that_goes_on
from prefect_ibmq.suspension import new_pause_key
from prefect_ibmq.together import all_of
from prefect_ibmq.wording import counted, some

NAME = "nightly-run"
DONE, TROUBLE, SOME_FAILED, DEADLINE, SUSPENDED = 0, 1, 3, 4, 75
MOST_ROWS = 200  # artifacts live in Prefect's database
_USAGE_SECONDS = 15.0
last_line = LastLine()


class NightUnfinished(IBMQError):
    """The run ended without having all counts in the archive; `told` says what is there and what is not."""

    def __init__(self, message: str, told: dict[str, Any] | None = None) -> None:
        self.told = told or {}
        super().__init__(message)


@dataclass
class Night:
    """What is known of a nightly run while it goes on; read by whoever prints the last line, whatever stalls."""

    run_key: str
    archive: str
    began: float = field(default_factory=time.monotonic)
    run: Any = None
    plan: Any = None
    own: Finishing | None = None
    older: list[Finishing] = field(default_factory=list)
    usage: dict[str, float | None] | None = None
    plot: str | None = None
    rows: int | None = None
    suspends: bool = False
    gate: bool = False

    @property
    def states(self) -> list[PartState]:
        """The parts of this run, and of the older ones that it has taken up."""
        return [state for each in (self.own, *self.older) if each is not None for state in each.states]

    @property
    def errors(self) -> list[IBMQError]:
        """What kept parts open."""
        return [error for each in (self.own, *self.older) if each is not None for error in each.errors]

    @property
    def status(self) -> int:
        """The exit status as things stand."""
        if self.errors:
            return TROUBLE
        if self.own is None or any(state.is_open for state in self.states):
            return SUSPENDED if self.suspends else DEADLINE
        return SOME_FAILED if any(state.status == "failed" for state in self.states) else DONE

    def told(self) -> dict[str, Any]:
        """The last line."""
        own, states = self.own.states if self.own else [], self.states
        seconds = [each for each in (self.usage or {}).values() if each is not None]
        return {
            "archive": self.run.archive.dataset_url("counts") if self.run else self.archive,
            "backend": self.plan.backend if self.plan else None,
            "channel": self.plan.channel if self.plan else None,
            "job_ids": [state.job_id for state in own if state.job_id],
            "rows": sum(state.rows for state in own) if self.rows is None else self.rows,
            "run_key": self.run_key,
            "seconds": round(time.monotonic() - self.began, 3),
            "plot": self.plot,
            "status": self.status,
            "set_key": self.run.set_key if self.run else None,
            "adopted": [state.job_id for state in states if state.adopted],
            "resubmitted": [state.job_id for state in states if state.resubmitted],
            "open": [state.job_id for state in states if state.status == "submitted"],
            "unsubmitted": [state.part.label for state in own if state.status == "not submitted"],
            "failed": [
                {"circuit": circuit, "job_id": state.job_id, "reason": state.reason}
                for state in states
                if state.status == "failed"
                for circuit in state.circuits
            ],
            "qpu_seconds": round(sum(seconds), 3) if seconds else None,  # what nobody tells is not zero
            "older": [each.plan.run_key for each in self.older],
        }


@flow(name=NAME, on_cancellation=[cancel_jobs])
async def nightly_run(
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
    mode: Literal["wait", "suspend"] = "wait",
    deadline: float | None = None,
    resubmit: Literal["failed", "cancelled"] | None = None,
    gate: bool = False,
) -> dict[str, Any]:
    """Run circuits, keep what worked, and finish what earlier starts have left.

    Args:
        provider: Name of a saved provider block; the environment's provider if None.
        backend: Name of the backend; the least busy one that is wide enough if None.
        circuits: A .qasm, .qasm3 or .qpy file, or a folder of them; a GHZ ladder and textbook circuits if None.
        isa: Whether they are ISA circuits of that backend already: they are checked, not transpiled.
        shots: Shots of each circuit; 4000 if None.
        max_circuits_per_job: Most circuits of one job.
        run_key: What the run is called; `<deployment or flow name>/<scheduled start>` if None. What stands before the
            last `/` is the name that it shares with older runs.
        archive: Path or URL where counts, plots and the run's folder are kept.
        seed: The transpiler's seed.
        dry_run: Only say how many jobs and QPU seconds it would take.
        mode: `wait` for the jobs, or `suspend` until `flows/collector.py` resumes the run.
        deadline: Seconds from the start of the flow after which it ends, whatever is open; the jobs go on.
        resubmit: `failed` or `cancelled`: run again, once more, what ended so for good.
        gate: Whether to submit nothing that the device's calibration does not bear any more.

    Returns:
        What the research pipeline returns, and `status`, `set_key`, `adopted`, `resubmitted`, `open`, `unsubmitted`,
        `failed`, `qpu_seconds`, `older`.

    Raises:
        NightUnfinished: Circuits failed for good, the deadline was reached, or the service could not be reached.
    """
    night = Night(run_key or await default_run_key(), archive, gate=gate)
    get_run_logger().info("Run %s", night.run_key)
    await name_flow_run(night.run_key)
    if deadline is not None and last_line.wanted:
        last_line.by(deadline, night.told)
    try:
        async with asyncio.timeout(deadline) as timer:
            opened = await open_night(night, circuits, shots, provider)
            if dry_run:
                if opened is not None:
                    raise opened
                return await dry_night(night, backend, isa, max_circuits_per_job, provider, seed)
            waits = mode == "wait"
            await take_up_older(night, provider, waits=waits)

            async def tonight() -> None:
                if opened is not None:
                    raise opened
                await plan_night(night, backend, isa, max_circuits_per_job, provider, seed)
                await finish_night(night, provider, waits=waits, resubmit=resubmit)

            # What is stuck in a queue since yesterday does not hold tonight up, nor is tonight's trouble last night's.
            await all_of([tonight(), *(older.go() for older in night.older)])
            await report(night, provider)
    except TimeoutError:
        if not timer.expired():
            raise
    return await end(night, provider, mode)


async def open_night(night: Night, circuits: str | None, shots: int | None, provider: str | None) -> IBMQError | None:
    """Read the circuits and open the run's folder; an error is returned, since older runs have not deserved it."""
    given = given_circuits(circuits)
    try:
        night.run = await aopen_run(given, provider, shots=shots, run_key=night.run_key, archive=night.archive)
    except IBMQError as error:
        return error
    night.plan = await asyncio.to_thread(night.run.plan)
    if night.plan is not None:
        night.own = Finishing(night.run, night.plan, provider, steps(night.gate))
        await night.own.look()  # should the deadline come early, it is known what is open
    get_run_logger().info("%s, set %s", counted(len(night.run.inputs), "circuit"), night.run.set_key)
    return None


async def plan_night(
    night: Night, backend: str | None, isa: bool, most: int | None, provider: str | None, seed: int
) -> None:
    """Choose the backend, transpile and cut into parts, unless an earlier start has done so."""
    if night.plan is None:
        chosen, circuits = await isa_of(night.run, provider, backend, isa, seed, PATIENT)
        night.plan = await aplan_run(
            night.run, chosen, opaque(circuits), provider, max_circuits_per_job=most, seed=seed
        )
    get_run_logger().info("%s on %s", counted(len(night.plan.parts), "job"), night.plan.backend)


async def dry_night(
    night: Night, backend: str | None, isa: bool, most: int | None, provider: str | None, seed: int
) -> dict[str, Any]:
    """What the run would take from here, without a POST."""
    if night.plan is not None:
        chosen = await aget_backend.with_options(**PATIENT)(night.plan.backend, provider)
        told = dry(night.run, chosen, night.run.isa_circuits(), night.plan.parts, night.began)
    else:
        chosen, circuits = await isa_of(night.run, provider, backend, isa, seed, PATIENT)
        told = dry(night.run, chosen, circuits, cut_into(night.run, most), night.began)
    return {**night.told(), **told, "status": DONE}


async def take_up_older(night: Night, provider: str | None, *, waits: bool) -> None:
    """Find what earlier starts of the same name have left open in this archive and this instance."""
    archive = await asyncio.to_thread(archive_of, night.archive)
    set_key = night.run.set_key if night.run else None
    for found in await asyncio.to_thread(older_runs, archive, night.run_key, set_key):
        if (found.plan.channel, found.plan.host, found.plan.instance) != await place_of(provider):
            get_run_logger().warning("Run %s is of another instance, and left alone", found.plan.run_key)
            continue
        restored = await asyncio.to_thread(restored_run, archive, found.plan)
        if await was_stopped(restored, provider):
            get_run_logger().info("Run %s was cancelled, and is left alone", found.plan.run_key)
            await asyncio.to_thread(write_stopped, archive, found.plan.set_key, "its flow run was cancelled")
            continue
        get_run_logger().info("Going on with run %s, too: %s", found.plan.run_key, found.counted())
        older = Finishing(restored, found.plan, provider, steps(night.gate), waits=waits, restarts=False)
        await older.look()
        night.older.append(older)


async def finish_night(night: Night, provider: str | None, *, waits: bool, resubmit: str | None) -> None:
    """Submit, wait, fetch and export, all parts side by side; the progress is drawn on the run's graph."""
    total = len(night.plan.parts)
    drawn = await acreate_progress_artifact(0.0, key=slug(f"ibmq-progress-{night.run_key}"), description=night.run_key)

    async def changed(state: PartState) -> None:
        if state.is_open or night.own is None:
            return
        over = sum(not each.is_open for each in night.own.states)
        get_run_logger().info("%d of %d: job %s, %s", over, total, state.job_id, state.status)
        await aupdate_progress_artifact(drawn, 100.0 * over / total)

    night.own = night.own or Finishing(night.run, night.plan, provider, steps(night.gate))
    night.own.resubmit, night.own.waits, night.own.changed = resubmit, waits, changed
    await night.own.go()


def steps(gate: bool) -> Steps:
    """The four steps as tasks with our retries. Results and circuits are kept from Prefect's walk through arguments."""

    async def fetch(handle: Any, provider: Any, *, archive: Any, inputs: Any) -> Any:
        return await afetch_result.with_options(**PATIENT)(handle, provider, archive=archive, inputs=opaque(inputs))

    async def export(result: Any, archive: Any) -> Any:
        return await aexport_counts(opaque(result), archive)

    submit = partial(asubmit_part.with_options(**PATIENT), gate=gate)
    return Steps(submit, await_for_job.with_options(**PATIENT), fetch, export)


async def report(night: Night, provider: str | None) -> None:
    """What the run has used, as a table, and its counts as a picture. None of it is worth failing for."""
    assert night.own is not None
    try:
        async with asyncio.timeout(_USAGE_SECONDS):
            night.usage = await usage_of(night.run.set_key, provider)
    except (TimeoutError, IBMQError) as error:
        get_run_logger().warning("QPU seconds are not known: %s", str(error) or "the service does not answer")
    for state in night.own.states:
        state.seconds = (night.usage or {}).get(state.job_id or "")
    await acreate_table_artifact(
        [row(state) for state in night.own.states[:MOST_ROWS]],
        key=slug(f"ibmq-summary-{night.run_key}"),
        description=f"Jobs of run {night.run_key}: {len(night.own.states)}.",
    )
    if any(state.rows for state in night.own.states):
        shown = await present(night.run, night.archive, night.plan.backend)
        night.rows, night.plot = shown["rows"], shown["plot"]


def row(state: PartState) -> dict[str, Any]:
    """A part's row in the summary."""
    page = state.handle.page if state.handle is not None else None
    return {
        "part": state.part.label,
        "circuits": some(state.circuits),
        "job": linked(state.job_id, page),
        "attempt": state.attempt,
        "status": f"{state.status}: {state.reason}" if state.reason else state.status,
        "QPU seconds": state.seconds,
    }


async def end(night: Night, provider: str | None, mode: str) -> dict[str, Any]:
    """Say what has become of the run: as a result, as an error, or by being suspended."""
    timed_out = night.own is None or not night.own.ended
    night.suspends = mode == "suspend" and not timed_out
    told = night.told()
    get_run_logger().info("%d rows of counts; status %d", told["rows"], told["status"])
    if told["status"] == SUSPENDED and await deployment_of() is not None:
        get_run_logger().info("Jobs open: %d; flows/collector.py resumes this run", len(told["open"]))
        await asuspend_flow_run(key=await new_pause_key(provider))
    if told["status"] in (DONE, SUSPENDED):
        return told
    if told["status"] == SOME_FAILED:
        names = sorted({each["circuit"] for each in told["failed"]})
        raise NightUnfinished(f"Failed for good, the rest is in the archive: {', '.join(names)}.", told)
    if told["status"] == DEADLINE:
        raise NightUnfinished(f"The deadline was reached. Jobs open: {len(told['open'])}; they go on.", told)
    raise NightUnfinished("; ".join(dict.fromkeys(str(error) for error in night.errors)), told)


# --- what the run is called --------------------------------------------------------------------------------------


async def deployment_of() -> str | None:
    """Name of the deployment that this flow run belongs to, or None."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return None
    async with get_client() as client:
        return str((await client.read_deployment(context.flow_run.deployment_id)).name)


async def default_run_key() -> str:
    """`<deployment>/<scheduled start>`; of a run by hand `<flow>/<start>-<flow run>`, since two may start at once."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    start = context.flow_run.expected_start_time or datetime.now(UTC)
    if (deployment := await deployment_of()) is not None:
        return key_under(deployment, start)
    return f"{key_under(NAME, start)}-{str(context.flow_run.id)[:8]}"


def key_under(name: str, start: datetime) -> str:
    """The run key of a scheduled start."""
    return f"{name}/{minute(start)}"


def minute(moment: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def resume_command(options: dict[str, Any]) -> str:
    """What goes on with a run that was started by hand: the same command, with the run key."""
    defaults = vars(arguments().parse_args([]))
    kept = {name: value for name, value in options.items() if value != defaults[name] or name == "archive"}
    # Asked for once, what ended for good is not to be paid for each time.
    return line_that_goes_on(__file__, kept | {"resubmit": None, "dry_run": None})


# --- the command -------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """The research pipeline's options, and ours."""
    parser: argparse.ArgumentParser = pipeline_arguments()
    parser.description = __doc__
    parser.add_argument("--mode", choices=("wait", "suspend"), default="wait", help="wait for the jobs, or come back")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="end after so long; the jobs go on")
    parser.add_argument(
        "--resubmit", choices=("failed", "cancelled"), help="run again, once more, what ended so for good"
    )
    parser.add_argument(
        "--gate", action="store_true", help="submit nothing that the device's calibration does not bear any more"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the flow from the command line; the last line on stdout is one JSON object."""
    options = vars(arguments().parse_args(argv))
    options["run_key"] = options["run_key"] or f"{key_under(NAME, datetime.now(UTC))}-{uuid4().hex[:8]}"
    sys.stderr.write(f"Run {options['run_key']}. To go on with it: {resume_command(options)}\n")
    sys.stderr.flush()
    with for_a_person():
        try:
            told = asyncio.run(nightly_run(**options))
        except NightUnfinished as error:
            sys.stderr.write(f"{'error: ' if error.told['status'] == TROUBLE else ''}{error}\n")
            told = error.told
    return last_line.say(told)


if __name__ == "__main__":
    last_line.wanted = True
    sys.exit(main())
