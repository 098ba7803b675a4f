"""`run_circuits`: transpile, plan, submit, wait and fetch, all of it in one task.

The run's folder remembers the plan and every job (`runs.py`), so running the same again with the same run key goes on
with the same jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.backend_records import BackendRecord
from prefect_ibmq.decoding import STAMP
from prefect_ibmq.errors import DeadlineExceeded, JobCancelled, JobEnded, JobVanished, NotFound
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.jobs import fetch_unstamped, stamp_results, wait_until_completed
from prefect_ibmq.loop import doors
from prefect_ibmq.planning import opened_and_planned
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_keys import release
from prefect_ibmq.run_listing import is_stopped, write_stopped
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.runs import Part, Plan, Run
from prefect_ibmq.submissions import split_arguments, submit_a_part
from prefect_ibmq.together import all_of

if TYPE_CHECKING:
    from qiskit.primitives import PrimitiveResult

__all__ = ["arun_circuits", "begin", "joined", "one_by_one", "run_circuits", "within"]


async def _run_circuits(
    circuits: Any,
    backend: str | BackendRecord | None = None,
    provider: IBMQProvider | str | None = None,
    shots: int | None = None,
    *,
    run_key: str | None = None,
    repetition: int = 0,
    isa: bool = False,
    optimization_level: int = 2,
    seed: int | None = None,
    max_circuits_per_job: int | None = None,
    program: str = "executor",
    options: Mapping[str, Any] | None = None,
    parameter_binds: Sequence[Mapping[Any, float]] | None = None,
    header: Mapping[str, Any] | None = None,
    archive: str | Path | None = None,
    timeout: float | None = None,
    **more: Any,
) -> PrimitiveResult:
    """Transpile circuits for a backend, run them as jobs, and wait for their results.

    Asked again with the same run key, circuits, shots and options it goes on with the same jobs, whatever happened.

    Args:
        circuits: Whatever `load_circuits` reads: circuits, PUB tuples, OpenQASM text, files, folders, or a sequence.
        backend: The backend's name or record; None chooses the least busy one that is wide enough.
        provider: The provider, its block's name, or None for the environment's.
        shots: Shots of each circuit that brings none of its own; 4000 by default, or the most that the backend takes.
        run_key: What the run is called; the root flow run's id by default, required outside of flows.
        repetition: Counts intended repetitions of the same circuits within a run key.
        isa: Whether the circuits are ISA circuits of that backend already: they are checked, not transpiled.
        optimization_level: The transpiler's, 0 to 3.
        seed: The transpiler's seed.
        max_circuits_per_job: Most circuits of one job; None cuts only where the service's limits ask for it.
        program: `executor`, or `sampler` or `estimator`, IBM's server-side programs. For the estimator `circuits` are
            PUBs `(circuit, observables[, values[, precision]])`, observables for the circuit as given: Pauli strings,
            operators, or nested lists of them. `export_estimates` writes its expectation values.
        options: Options of the run by name, which override the provider's (below).
        parameter_binds: n mappings of parameters to numbers. m circuits run with each of them, as m parametric PUBs,
            and come back as m x n results: all binds of the first circuit, then of the second, …
        header: Whatever else shall stand with each row of the results, as JSON. It travels with the jobs, and
            stands in the column `header` of the counts.
        archive: Path or URL of the archive whose run folder remembers jobs and raw results.
        timeout: Seconds for everything, from planning to the last download; None waits as long as jobs live.
        more: `name`, `tags`, `experiment_id`, `max_execution_time`, `session_id`, `private`, `share`: see
            `submit_part`; or options one by one, which override `options`.

    Options:
        shots: As the argument.
        memory: Whether `export_counts` writes each single shot, too. Bits of each shot are in the result anyway.
        meas_level: 2 for classified bits, 1 for kerneled points of the IQ plane: complex arrays in place of bits.
        meas_return: Of `meas_level=1`: `single` keeps each shot's point (the default), `avg` their average.
        rep_delay: Seconds between two shots, or a text such as `250us`, within the backend's `rep_delay_range`.
        init_qubits: Whether qubits are reset before each shot; True by default.
        dynamical_decoupling: True, `XX`, `XpXm`, `XY4`, or a mapping of `sequence_type`, `extra_slack_distribution`,
            `scheduling_method` and `skip_reset_qubits`. Not for circuits with control flow.
        twirling: True for gates and measurements, or a mapping of `enable_gates`, `enable_measure`,
            `num_randomizations`, `shots_per_randomization` and `strategy`. Shots are rounded up to whole
            randomizations of equal size; results are untwirled. Not for circuits with control flow.
        precision: Of the estimator: the standard error of PUBs that have none of their own; 1/64 by default.
        resilience_level: Of the estimator: 0 mitigates nothing, 1 readout errors (the service's default), 2 also
            extrapolates to zero noise.

    Returns:
        One `PrimitiveResult` with one PUB result a circuit, in the order given, whatever job each ran in.

    Raises:
        InputError: Something cannot be run, or an argument or option cannot be; nothing was submitted.
        NotOffered: The service has no more what is asked for; the substitute is named. Nothing was submitted.
        JobEnded: A job ended without a result; the others' results are stored.
        DeadlineExceeded: `timeout` is over; jobs that are submitted go on.
    """
    async with within(timeout):
        chosen = await provider_of(provider)
        submission, single = split_arguments(more)
        run, plan = await opened_and_planned(
            circuits,
            backend,
            chosen,
            isa=isa,
            optimization_level=optimization_level,
            seed=seed,
            max_circuits_per_job=max_circuits_per_job,
            program=program,
            shots=shots,
            run_key=run_key,
            repetition=repetition,
            options=options,
            parameter_binds=parameter_binds,
            header=header,
            archive=archive,
            **single,
        )
        try:
            results = await _finish_all(run, plan, chosen, submission)
            await stamp_results(results, chosen, archive=run.archive)  # once for all of them
            result = joined(results)
            return result if parameter_binds is None else one_by_one(result)
        except BaseException:
            for part in plan.parts:
                release(run.claim_of(part))
            raise


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """One deadline for everything inside. A POST that is out is still written down; nothing else goes on."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(
            f"The run has not ended within {seconds:g} s. Jobs that are submitted go on.",
            hint="Run the same again with the same run key: nothing is submitted twice by that.",
        ) from None


async def begin(
    circuits: Any,
    backend: str | BackendRecord | None,
    provider: IBMQProvider,
    *,
    submission: dict[str, Any],
    **more: Any,
) -> tuple[Run, list[JobHandle]]:
    """Everything of `run_circuits` up to the service's acceptance of the jobs; `more` is what planning it takes."""
    submission, single = split_arguments(submission)
    run, plan = await opened_and_planned(circuits, backend, provider, **more, **single)
    return run, await all_of(submit_a_part(run, part, provider, **submission) for part in plan.parts)


async def _finish_all(
    run: Run, plan: Plan, provider: IBMQProvider, submission: dict[str, Any]
) -> list[PrimitiveResult]:
    # Whoever runs it again goes on with it; an order that is given from now on holds.
    await asyncio.to_thread(write_stopped, run.archive, run.set_key, None)
    return await all_of(_finish(run, part, provider, submission) for part in plan.parts)


async def _finish(run: Run, part: Part, provider: IBMQProvider, submission: dict[str, Any]) -> PrimitiveResult:
    """Submit a part, wait, fetch; again where its end allows that, which submitting decides."""
    over: set[str] = set()
    while True:
        handle = await submit_a_part(run, part, provider, **submission)
        submission = {**submission, "resubmit": None}  # it was asked for once
        try:
            done = await wait_until_completed(handle, provider, archive=run.archive)
            inputs = run.inputs[handle.first : handle.last + 1]
            return _noted(await fetch_unstamped(done, provider, archive=run.archive, inputs=inputs), run)
        except (JobEnded, JobVanished, NotFound) as error:
            stopped = isinstance(error, JobCancelled) and await asyncio.to_thread(is_stopped, run.archive, run.set_key)
            if stopped or handle.job_id in over:
                raise
            over.add(handle.job_id)
            run_logger().warning("%s", error)


def _noted(result: PrimitiveResult, run: Run) -> PrimitiveResult:
    """The result with this call's notes: a job of an earlier call may bear others, or none."""
    for pub in result:
        pub.metadata[STAMP].update({"header": run.notes.get("header"), "memory": run.notes.get("memory")})
    return result


def joined(results: Sequence[PrimitiveResult]) -> PrimitiveResult:
    """One result of several, its PUB results in the order of the set."""
    from qiskit.primitives import PrimitiveResult

    jobs = [result.metadata.get(STAMP, {}).get("job") for result in results]
    pubs = sorted((pub for result in results for pub in result), key=lambda pub: int(pub.metadata[STAMP]["position"]))
    return PrimitiveResult(pubs, metadata={STAMP: {"jobs": jobs}})


def one_by_one(result: PrimitiveResult) -> PrimitiveResult:
    """A result with one PUB result for each element of each sweep, in order; their stamps say which element each is."""
    from qiskit.primitives import PrimitiveResult

    return PrimitiveResult([piece for pub in result for piece in _elements(pub)], metadata=result.metadata)


def _elements(pub: Any) -> Iterator[Any]:
    from qiskit.primitives import DataBin

    stamp = pub.metadata.get(STAMP) or {}
    values = stamp.get("parameters")
    for flat, place in enumerate(product(*map(range, pub.data.shape))):
        data = DataBin(shape=(), **{name: field[place] for name, field in pub.data.items()})
        told = {**stamp, "parameter_index": flat, "parameters": None if values is None else values[place]}
        yield type(pub)(data, metadata={**pub.metadata, STAMP: told})


run_circuits, arun_circuits = doors(_run_circuits, "run_circuits")
