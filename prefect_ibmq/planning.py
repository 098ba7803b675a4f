"""Tasks that open a run and plan it: read the circuits, check them against a backend, cut them into parts.

A set is cut into parts; one job runs one part (`packing.py` says which circuits). The run's folder remembers the plan
(`runs.py`), so planning again goes on with what was planned first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.archives import archive_of
from prefect_ibmq.backend_records import BackendRecord
from prefect_ibmq.backends import get_loaded, least_busy_of
from prefect_ibmq.budget import estimate_seconds
from prefect_ibmq.calibration_stamps import SeenCalibration, keep_calibration
from prefect_ibmq.errors import CircuitError, InputError
from prefect_ibmq.loop import doors
from prefect_ibmq.observables import laid_out, load_observed
from prefect_ibmq.options import (
    check_backend,
    check_circuits,
    check_program,
    checked_header,
    effective_options,
    of_program,
    precision_asked,
    shots_asked,
    twirled_shots,
    wire_options,
)
from prefect_ibmq.packing import MAX_EXECUTIONS, Limits, Measure, packed
from prefect_ibmq.payloads import measure_of, measure_of_sizes, merged_parts
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_keys import is_taken_up, run_key_of, set_key_of, take_up
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.runs import Part, Plan, Run
from prefect_ibmq.surviving import filled, surviving

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.wire.client import RuntimeClient

__all__ = [
    "aopen_run",
    "aplan_run",
    "check_against",
    "cut",
    "isa_circuits_of",
    "job_limits",
    "open_a_run",
    "open_run",
    "opened_and_planned",
    "plan_a_run",
    "plan_run",
]

DEFAULT_SHOTS = 4000  # what the IBMQ API took where none were asked for


async def open_a_run(
    circuits: Any,
    provider: IBMQProvider | str | None = None,
    *,
    shots: int | None = None,
    run_key: str | None = None,
    repetition: int = 0,
    options: Mapping[str, Any] | None = None,
    parameter_binds: Sequence[Mapping[Any, float]] | None = None,
    header: Mapping[str, Any] | None = None,
    archive: str | Path | None = None,
    program: str = "executor",
    **more_options: Any,
) -> Run:
    """Read circuits and open the folder of the run that they make, new or begun before.

    Args:
        circuits: Whatever `load_circuits` reads: circuits, PUB tuples, OpenQASM text, files, folders, or a sequence.
        provider: The provider, its block's name, or None for the environment's.
        shots: Shots of each circuit that brings none of its own; 4000 by default, or the most that the backend takes.
        run_key: What the run is called; the root flow run's id by default, required outside of flows.
        repetition: Counts intended repetitions of the same circuits within a run key.
        options: Options of the run, which override the provider's; see `run_circuits`.
        parameter_binds: Mappings of parameters to numbers; each circuit becomes a sweep over them.
        header: Whatever else shall stand with each row of the results, as JSON; it travels with the jobs.
        archive: Path or URL of the archive.
        program: With `estimator` the circuits come as PUBs with observables (`run_circuits`).
        more_options: Options one by one, as the IBMQ API took them; they override `options`.

    Raises:
        CircuitError: A circuit cannot be read or run; nothing was submitted.
        InputError: Shots, run key or an option cannot be.
        NotOffered: The service has no more what is asked for.
        ArchiveError: The archive cannot be written.
    """
    from prefect_ibmq.circuits import bound_to, check_runnable, load_circuits

    chosen = await provider_of(provider)
    _check_program(program)
    effective = effective_options(of_program(chosen.options, program), {**(options or {}), **more_options})
    check_program(effective, program)
    asked = shots_asked(effective, shots)
    default = DEFAULT_SHOTS if asked is None else asked
    notes = {"header": checked_header(header), "memory": effective.get("memory")}
    in_key = {name: value for name, value in effective.items() if name not in ("shots", "memory")}
    key = await run_key_of(run_key)
    store = await asyncio.to_thread(archive_of, archive)
    observes = program == "estimator"
    if observes and parameter_binds is not None:
        raise InputError(
            "parameter_binds are not for program 'estimator'.",
            hint="Give the values in the PUBs, after the observables.",
        )
    if observes:
        inputs = await asyncio.to_thread(load_observed, circuits, precision=precision_asked(effective, asked))
    else:
        inputs = await asyncio.to_thread(load_circuits, circuits)
    if parameter_binds is not None:
        inputs = await asyncio.to_thread(bound_to, inputs, parameter_binds)
    most = None if observes else MAX_EXECUTIONS
    await asyncio.to_thread(check_runnable, inputs, shots=default, max_shots=most, measured=not observes)
    check_circuits(in_key, inputs)
    client = await chosen.aget_client()
    counts = tuple(shots_asked(in_key, item.shots) or default for item in inputs)
    set_key = await asyncio.to_thread(
        set_key_of,
        channel=chosen.channel,
        host=client.base_url,
        instance=client.crn,
        run_key=key,
        repetition=repetition,
        inputs=inputs,
        shots=counts,
        options=in_key,
    )
    take_up(set_key)
    return Run(
        archive=store,
        run_key=key,
        set_key=set_key,
        inputs=inputs,
        shots=counts,
        options=in_key,
        notes={name: value for name, value in notes.items() if value},
        shots_are_default=asked is None,
    )


async def plan_a_run(
    run: Run,
    backend: BackendRecord,
    isa_circuits: Sequence[QuantumCircuit],
    provider: IBMQProvider | str | None = None,
    *,
    max_circuits_per_job: int | None = None,
    program: str = "executor",
    seed: int | None = None,
    merge: bool = False,
) -> Plan:
    """Check the ISA circuits, cut the set into parts and keep the plan. A plan that the run has already is kept.

    Args:
        run: The run.
        backend: A loaded record of the backend that it shall run on.
        isa_circuits: One ISA circuit of that backend for each circuit of the run, in order.
        provider: The provider, its block's name, or None for the environment's.
        max_circuits_per_job: Most circuits of one job; None cuts only where the service's limits ask for it.
        program: `executor`, or `sampler` or `estimator`, IBM's server-side programs.
        seed: The transpiler's seed, for the record.
        merge: Whether circuits of the same structure become one parametric PUB (`merging.py`). Circuits that are
            twirled or decoupled do not.

    Raises:
        CircuitError: A circuit is not an ISA circuit of the backend, which the service would charge for.
        InputError: The program is unknown, or a limit is broken.
    """
    from prefect_ibmq.wire.programs import is_prepared

    earlier = await asyncio.to_thread(run.plan)
    if earlier is not None:
        return earlier
    chosen = await provider_of(provider)
    client = await chosen.aget_client()
    _check_program(program)
    check_backend(run.options, backend)
    if program != "estimator":
        await asyncio.to_thread(_settle_shots, run, backend)
    await asyncio.to_thread(check_against, run, isa_circuits, backend)
    limits = job_limits(program, max_circuits_per_job)
    pairs = zip(run.inputs, isa_circuits, strict=True)
    run.inputs = tuple([await asyncio.to_thread(laid_out, item, circuit) for item, circuit in pairs])
    sizes = await asyncio.to_thread(_prepared_sizes, run, isa_circuits, backend) if program == "executor" else None
    merge = merge and program != "estimator" and not is_prepared(wire_options(run.options))
    if sizes is not None:
        measure: Measure | None = measure_of_sizes(sizes)
    else:
        measure = await asyncio.to_thread(measure_of, run, program, isa_circuits, run.options, merge=merge)
    order, parts = await _parted(run, client, limits, measure)
    isa = [isa_circuits[position] for position in order]
    run.arrange(order)
    if merge:
        parts = await asyncio.to_thread(merged_parts, parts, run, isa)
    seen = await asyncio.to_thread(SeenCalibration.of_record, backend)
    if seen is not None:
        await keep_calibration(run.archive, backend.name, seen)
    plan = Plan(
        run_key=run.run_key,
        set_key=run.set_key,
        channel=chosen.channel,
        host=client.base_url,
        instance=client.crn,
        backend=backend.name,
        program=program,
        simulated=backend.simulated,
        parts=await asyncio.to_thread(_estimated, run, parts, isa, backend),
        calibration=backend.calibration,
        snapshot=seen.snapshot if seen else None,
        options=run.options,
        notes=run.notes,
        seed=seed,
        made=datetime.now(UTC),
        circuits=tuple(item.name for item in run.inputs),
        shots=run.shots,
        positions=() if order == sorted(order) else tuple(order),
    )
    await asyncio.to_thread(_tell_namesakes, run)
    return await asyncio.to_thread(run.write_plan, plan, isa)


def _tell_namesakes(run: Run) -> None:
    """Warn of a new set where it looks as if an old one was meant: paying twice is easy if circuits are drawn anew."""
    others = run.namesakes()
    if any(map(is_taken_up, others)):
        return
    if others := [each for each in others if run.archive.storage.exists(f"runs/{each}/plan.json")]:
        run_logger().warning(
            "Run key %r has another set already (%s), of other circuits, shots, options or instance. This one is new, "
            "and paid for. A retry goes on with its jobs only if it builds the same circuits again: fix their seeds.",
            run.run_key,
            others[0][:12] if len(others) == 1 else f"{others[0][:12]} and {len(others) - 1} more",
        )


async def _parted(
    run: Run, client: RuntimeClient, limits: Limits, measure: Measure | None
) -> tuple[list[int], tuple[Part, ...]]:
    """Which position runs at which place, and the parts. Where the run's folder was lost, parts that have jobs stay."""
    run.arrange(())
    survivors = await surviving(run, client)
    if not survivors:
        return await asyncio.to_thread(cut, run.inputs, run.shots, limits, measure)
    order, gaps = filled(run, survivors)
    parts = [part for part, _ in survivors]
    for gap in gaps:
        inputs, shots = [run.inputs[order[place]] for place in gap], [run.shots[order[place]] for place in gap]

        def measure_here(places: Sequence[int], gap: Sequence[int] = gap) -> int:
            assert measure is not None
            return measure([order[gap[place]] for place in places])

        inner, pieces = await asyncio.to_thread(cut, inputs, shots, limits, measure and measure_here)
        order[gap[0] : gap[-1] + 1] = [order[gap[place]] for place in inner]
        shift = gap[0]
        parts += [
            piece.model_copy(update={"first": piece.first + shift, "last": piece.last + shift}) for piece in pieces
        ]
    return order, tuple(sorted(parts, key=lambda part: part.first))


def job_limits(program: str, max_circuits_per_job: int | None = None) -> Limits:
    """What one job of a program may hold. The limit of executions is one of samplers."""
    executions = None if program == "estimator" else MAX_EXECUTIONS
    return Limits(max_circuits_per_job, one_shots_value=program == "executor", executions=executions)


def cut(
    inputs: Sequence[CircuitInput], shots: Sequence[int], limits: Limits, measure: Measure | None = None
) -> tuple[list[int], tuple[Part, ...]]:
    """A set cut into as few parts as the limits allow: which circuit runs at which place, and the parts.

    Raises:
        InputError: One circuit alone is over a limit.
    """
    order: list[int] = []
    parts: list[Part] = []
    for group in packed(inputs, shots, limits, measure=measure):
        parts.append(Part(first=len(order), last=len(order) + len(group) - 1, shots=shots[group[0]]))
        order += group
    return order, tuple(parts)


def _estimated(
    run: Run, parts: Sequence[Part], isa_circuits: Sequence[QuantumCircuit], backend: BackendRecord
) -> tuple[Part, ...]:
    seconds = (round(estimate_seconds(run, [part], isa_circuits, backend), 3) for part in parts)
    return tuple(part.model_copy(update={"seconds": each}) for part, each in zip(parts, seconds, strict=True))


def _settle_shots(run: Run, backend: BackendRecord) -> None:
    """Fit the shots to the backend: the default is no more than it takes, and twirling runs whole randomizations."""
    from prefect_ibmq.circuits import check_runnable

    most = getattr(backend, "max_shots", None)
    counts = [
        min(count, most) if most and run.shots_are_default and item.shots is None else count
        for item, count in zip(run.inputs, run.shots, strict=True)
    ]
    asked = [replace(item, shots=count) for item, count in zip(run.inputs, counts, strict=True)]
    check_runnable(asked, shots=None, max_shots=most, num_qubits=backend.num_qubits)
    run.settle_shots([twirled_shots(run.options, count) for count in counts])


def _prepared_sizes(run: Run, isa_circuits: Sequence[QuantumCircuit], backend: BackendRecord) -> list[int] | None:
    """Let IBM's code twirl and decouple every circuit once, before the first is submitted.

    Returns:
        The bytes that each takes as sent; None where nothing is to be prepared.
    """
    from prefect_ibmq.wire.programs import is_prepared, prepare

    told, sizes = wire_options(run.options), []
    if not is_prepared(told):
        return None
    run.target = backend.target
    for item, circuit, shots in zip(run.inputs, isa_circuits, run.shots, strict=True):
        try:
            sizes.append(len(json.dumps(prepare([item.pub(circuit, shots)], told, shots, backend.target))))
        except CircuitError as error:
            raise CircuitError(f"{item.label}: {error}") from error
    return sizes


def check_against(run: Run, isa_circuits: Sequence[QuantumCircuit], backend: BackendRecord) -> None:
    """Check that there is one ISA circuit of the backend for each circuit of the run."""
    from prefect_ibmq.circuits import check_isa

    if len(isa_circuits) != len(run.inputs):
        raise InputError(f"The run has {len(run.inputs)} circuits, but {len(isa_circuits)} ISA circuits were given.")
    paired = zip(run.inputs, isa_circuits, strict=True)
    check_isa([replace(item, circuit=circuit) for item, circuit in paired], backend.target)


async def opened_and_planned(
    circuits: Any,
    backend: str | BackendRecord | None,
    provider: IBMQProvider,
    *,
    isa: bool,
    optimization_level: int,
    seed: int | None,
    max_circuits_per_job: int | None,
    program: str,
    merge: bool = False,
    **opening: Any,
) -> tuple[Run, Plan]:
    """The run that circuits make, and its plan, made where there is none; `opening` is what `open_a_run` takes more."""
    run = await open_a_run(circuits, provider, program=program, **opening)
    plan = await asyncio.to_thread(run.plan)
    if plan is None:
        record = await _backend_for(run, backend, provider)
        isa_circuits = await isa_circuits_of(run, record, isa, optimization_level, seed)
        plan = await plan_a_run(
            run,
            record,
            isa_circuits,
            provider,
            max_circuits_per_job=max_circuits_per_job,
            program=program,
            seed=seed,
            merge=merge,
        )
    return run, plan


def _check_program(program: str) -> None:
    from prefect_ibmq.wire.programs import PROGRAMS

    if program not in PROGRAMS:
        raise InputError(f"There is no program {program!r} here.", hint=f"Use one of {', '.join(PROGRAMS)}.")


async def _backend_for(run: Run, backend: str | BackendRecord | None, provider: IBMQProvider) -> BackendRecord:
    if backend is not None:
        return await get_loaded(backend, provider)
    return await get_loaded(await least_busy_of(provider, min_num_qubits=run.width), provider)


async def isa_circuits_of(
    run: Run, record: BackendRecord, isa: bool, optimization_level: int, seed: int | None
) -> list[QuantumCircuit]:
    from prefect_ibmq.transpilation import isa_circuits, transpile_for

    if isa:
        return await asyncio.to_thread(isa_circuits, run.inputs, record.target)
    return await transpile_for(run.inputs, record, optimization_level=optimization_level, seed=seed)


open_run, aopen_run = doors(open_a_run, "open_run")
plan_run, aplan_run = doors(plan_a_run, "plan_run")
