"""Tasks that submit: one part of a planned run, or circuits that make one job."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.attempts import PartJournal, due_attempt, place_at
from prefect_ibmq.backend_records import BackendRecord
from prefect_ibmq.backends import get_loaded
from prefect_ibmq.budget import execution_limit
from prefect_ibmq.calibration_gate import Gate, limits_of
from prefect_ibmq.calibration_limits import CalibrationLimits
from prefect_ibmq.errors import InputError
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.loop import doors
from prefect_ibmq.options import OPTIONS, nearest
from prefect_ibmq.payloads import params_of
from prefect_ibmq.planning import cut, isa_circuits_of, job_limits, open_a_run, plan_a_run
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.refusals import refuse_legacy
from prefect_ibmq.run_keys import claim, release, root_flow_run
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.runs import Part, Plan, Run
from prefect_ibmq.sessions import check_session
from prefect_ibmq.settings import get_settings
from prefect_ibmq.tags import own_tags, part_tags
from prefect_ibmq.wire.submission import Submitted, submit_place

if TYPE_CHECKING:
    from prefect_ibmq.wire.job_requests import JobRequest
    from prefect_ibmq.wire.turns import Turn

__all__ = ["asubmit_job", "asubmit_part", "split_arguments", "submit_a_part", "submit_job", "submit_part"]

_SUBMISSION = frozenset(
    {"name", "tags", "experiment_id", "max_execution_time", "session_id", "private", "share", "resubmit", "gate"}
)


async def submit_a_part(
    run: Run,
    part: Part,
    provider: IBMQProvider | str | None = None,
    *,
    name: str | None = None,
    tags: Sequence[str] = (),
    experiment_id: str | None = None,
    max_execution_time: int | None = None,
    session_id: str | None = None,
    private: bool = False,
    share: bool = False,
    resubmit: str | None = None,
    gate: Gate = None,
) -> JobHandle:
    """Submit one part of a planned run, once. A part that has a job already keeps it.

    Where the answer to a POST is lost, the job is looked for until a list has proved that there is none. Rate and
    pending limits are waited out. A part whose job failed for a transient reason is submitted again, once (a setting).

    Args:
        run: The run; it must have a plan.
        part: The part.
        provider: The provider, its block's name, or None for the environment's.
        name: A name for the job; it travels as a tag.
        tags: At most two tags of your own, of at most 86 characters each.
        experiment_id: What the job belongs to; it travels as a tag, and takes the place of one of your own.
        max_execution_time: Seconds after which the service stops the job, at most 10800; five times the estimate and
            a minute if None.
        session_id: A session or batch to run in.
        private: Whether the service hides the job's content, and gives the result once only.
        share: Whether another task of this flow run may share the job.
        resubmit: `failed` or `cancelled`: run again, once more, what ended so for good.
        gate: Whether to look at the device's calibration before the POST: True with the usual limits, or
            `CalibrationLimits` or a mapping of your own. It asks for the calibration once for all parts.

    Raises:
        CalibrationDrifted: The gate is shut: the circuits must be transpiled again.
        JobEnded: The part's job ended for good before, and nobody asks to run it again.
        BudgetExceeded: The provider's budget does not hold the part's estimate.
        SessionClosed: The session takes no more jobs, or this one could not start before its time is over.
        SubmissionUnclear: The answer was lost and looking for the job failed for a reason that will last; the next
            run with this run key looks for it first.
        ServiceError: The service refused; nothing was submitted.
    """
    with run.turns.of(part.first) as turn:
        chosen = await provider_of(provider)
        plan = await asyncio.to_thread(run.plan)
        if plan is None:
            raise InputError(f"{run!r} has no plan.", hint="Plan it first, with plan_run.")
        limits = limits_of(gate)
        claim(run.claim_of(part), run.order, share=share)
        try:
            return await _submit(
                chosen,
                run,
                plan,
                part,
                turn,
                {"name": name, "own": tags, "experiment_id": experiment_id},
                {
                    "max_execution_time": _limit(max_execution_time, part),
                    "session_id": session_id,
                    "private": private,
                },
                resubmit,
                limits,
            )
        except BaseException:
            # The way on is to call again, which must not be taken for a second order.
            release(run.claim_of(part))
            raise


def _limit(asked: int | None, part: Part) -> int | None:
    return execution_limit(part.seconds) if asked is None and part.seconds is not None else asked


async def _submit(
    provider: IBMQProvider,
    run: Run,
    plan: Plan,
    part: Part,
    turn: Turn,
    own: dict[str, Any],
    fields: dict[str, Any],
    resubmit: str | None,
    limits: CalibrationLimits | None,
) -> JobHandle:
    client = await provider.aget_client()
    listing, reruns, private = run.listing(client), get_settings().reruns, bool(fields["private"])
    # What the folder knows is not asked for; only what it does not know makes the one list of the set.
    attempt = await due_attempt(run, part, {}, reruns=reruns, resubmit=resubmit)
    known = await PartJournal(run, plan, part, attempt, private=private).handle()
    if known is not None:
        run_logger().info("Job %s runs circuits %s already", known.job_id, part.label)
        return known
    attempt = await due_attempt(run, part, await listing.known(), reruns=reruns, resubmit=resubmit)
    gate = run.gate(client, plan)
    admit = partial(gate.admit_again, part, limits) if limits is not None else None
    journal = PartJournal(run, plan, part, attempt, private=private, admit=admit)
    flow_run, reordered = await root_flow_run(), plan.reorders(part)
    tags = part_tags(run.set_key, part.label, attempt, run.run_key, flow_run, reordered=reordered, **own)

    async def request() -> JobRequest:
        if fields["session_id"] is not None:
            await check_session(client, fields["session_id"], plan.backend)
        if limits is not None:
            await gate.admit(part, limits)
        await _know_target(run, plan, provider)
        await run.ledger(client, provider.budget_seconds).reserve(part.seconds or 0.0)
        return replace(await asyncio.to_thread(_request, run, plan, part, tags), **fields)

    done = await submit_place(client, listing, place_at(part, attempt), journal, request, turn)
    _tell(done, plan, part)
    handle = await journal.handle()
    assert handle is not None, "what was submitted is noted"
    return handle


def _tell(done: Submitted, plan: Plan, part: Part) -> None:
    said = "Found job %s of an earlier attempt on %s" if done.adopted else "Submitted job %s to %s"
    run_logger().info(f"{said}: circuits %s", done.job_id, part.backend or plan.backend, part.label)
    if done.surplus:
        run_logger().warning("Cancelled as surplus: %s", ", ".join(done.surplus))


async def _know_target(run: Run, plan: Plan, provider: IBMQProvider) -> None:
    """Have the backend's target at hand where pulses are to be put between a circuit's gates: it knows the times."""
    if run.target is None and plan.program == "executor" and run.options.get("dynamical_decoupling"):
        run.target = (await get_loaded(plan.backend, provider)).target


def _request(run: Run, plan: Plan, part: Part, tags: tuple[str, ...]) -> JobRequest:
    """The job of a part, encoded for the wire."""
    from prefect_ibmq.wire.job_requests import JobRequest

    isa, stamps = run.isa_circuits(), (plan.calibration, plan.snapshot)
    params = params_of(run, plan.program, isa, part.pubs(), plan.options, *stamps)
    return JobRequest(program=plan.program, backend=plan.backend, params=params, tags=tags)


async def _submit_job(
    circuits: Any,
    backend: str | BackendRecord,
    provider: IBMQProvider | str | None = None,
    *,
    shots: int | None = None,
    run_key: str | None = None,
    repetition: int = 0,
    program: str = "executor",
    options: Mapping[str, Any] | None = None,
    parameter_binds: Sequence[Mapping[Any, float]] | None = None,
    header: Mapping[str, Any] | None = None,
    archive: str | Path | None = None,
    **more: Any,
) -> JobHandle:
    """Submit ISA circuits as one job, once: asked again with the same run key it gives the same job.

    Args:
        circuits: ISA circuits of the backend, in any form that `load_circuits` reads.
        backend: The backend's name or record.
        provider: The provider, its block's name, or None for the environment's.
        shots: Shots of each circuit that brings none of its own; 4000 by default, or the most that the backend takes.
        run_key: What the run is called; the root flow run's id by default, required outside of flows.
        repetition: Counts intended repetitions of the same circuits within a run key.
        program: `executor`, or `sampler` or `estimator`, IBM's server-side programs.
        options: Options of the run, which override the provider's; see `run_circuits`.
        parameter_binds: Mappings of parameters to numbers; each circuit becomes a sweep over them.
        header: Whatever else shall stand with each row of the results, as JSON; it travels with the job.
        archive: Path or URL of the archive whose run folder remembers the job.
        more: `name`, `tags`, `experiment_id`, `max_execution_time`, `session_id`, `private`, `share`: see
            `submit_part`; or options one by one.

    Raises:
        CircuitError: A circuit cannot be run on the backend; nothing was submitted.
        InputError: The circuits do not fit into one job, or an argument or option cannot be.
        NotOffered: The service has no more what is asked for.
        SubmissionUnclear: The answer was lost; the next run with this run key looks for the job first.
    """
    chosen = await provider_of(provider)
    submission, single = split_arguments(more)
    run = await open_a_run(
        circuits,
        chosen,
        shots=shots,
        run_key=run_key,
        repetition=repetition,
        options=options,
        parameter_binds=parameter_binds,
        header=header,
        archive=archive,
        program=program,
        **single,
    )
    _, parts = cut(run.inputs, run.shots, job_limits(program))
    if len(parts) != 1:
        raise InputError(
            f"These circuits need {len(parts)} jobs: a job has at most 10,000,000 executions, "
            "and with `executor` one shots value.",
            hint="Use run_circuits, which cuts them.",
        )
    plan = await asyncio.to_thread(run.plan)
    if plan is None:
        record = await get_loaded(backend, chosen)
        isa = await isa_circuits_of(run, record, True, 0, None)
        plan = await plan_a_run(run, record, isa, chosen, program=program)
    if len(plan.parts) != 1:
        raise InputError(
            f"Run {run.run_key!r} has begun with these circuits in {len(plan.parts)} jobs.",
            hint="Go on with run_circuits, or use another run_key.",
        )
    return await submit_a_part(run, plan.parts[0], chosen, **submission)


def split_arguments(more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a submission, and the options that were given one by one.

    Raises:
        InputError: An argument is neither; the nearest names are told.
        NotOffered: It is one of the IBMQ API's that has a substitute.
    """
    more = refuse_legacy(more)
    known = (*sorted(_SUBMISSION), *OPTIONS)
    for name in more:
        if name not in known:
            raise InputError(f"There is no argument {name!r}.", hint=nearest(name, known))
    submission = {name: value for name, value in more.items() if name in _SUBMISSION}
    own_tags(submission.get("name"), submission.get("tags") or (), submission.get("experiment_id"))
    limits_of(submission.get("gate"))
    return submission, {name: value for name, value in more.items() if name not in _SUBMISSION}


submit_part, asubmit_part = doors(submit_a_part, "submit_part")
submit_job, asubmit_job = doors(_submit_job, "submit_job")
