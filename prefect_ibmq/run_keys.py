"""What a run is called, and the set that it runs: retries meet their own jobs, and tomorrow's run makes new ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect_ibmq.errors import InputError
from prefect_ibmq.fingerprint import circuit_fingerprint, values_fingerprint

if TYPE_CHECKING:
    from prefect_ibmq.circuits import CircuitInput

__all__ = [
    "claim",
    "is_taken_up",
    "name_flow_run",
    "release",
    "root_flow_run",
    "root_of",
    "run_key_of",
    "set_key_of",
    "take_up",
]

_claims: dict[tuple[str, int, str], tuple[str, str]] = {}
_taken_up: dict[str, tuple[str, int] | None] = {}  # set key to the attempt at a flow run that has opened it last
_roots: dict[UUID, str] = {}  # a flow run's parent does not change
_lock = threading.Lock()


async def root_flow_run() -> str | None:
    """Id of the outermost flow run that this code runs in; None outside of flows.

    A subflow gets a new id when its parent is retried, so only the root's id stays the same.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    flow_context, task_context = FlowRunContext.get(), TaskRunContext.get()
    if flow_context is not None and flow_context.flow_run is not None:
        flow_run_id = flow_context.flow_run.id
        parent = flow_context.flow_run.parent_task_run_id
    elif task_context is not None and task_context.task_run.flow_run_id is not None:
        flow_run_id, parent = task_context.task_run.flow_run_id, None
    else:
        return None
    if parent is None and flow_context is not None:
        return str(flow_run_id)
    if flow_run_id not in _roots:
        _roots[flow_run_id] = await root_of(flow_run_id)
    return _roots[flow_run_id]


async def root_of(flow_run_id: UUID) -> str:
    """Id of the outermost flow run above a flow run, as Prefect's API tells it."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        flow_run = await client.read_flow_run(flow_run_id)
        while flow_run.parent_task_run_id is not None:
            task_run = await client.read_task_run(flow_run.parent_task_run_id)
            if task_run.flow_run_id is None:
                break
            flow_run = await client.read_flow_run(task_run.flow_run_id)
    return str(flow_run.id)


async def name_flow_run(run_key: str) -> None:
    """Call this flow run by its run key in the Prefect UI: a name made of two random words tells nobody which night."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and context.flow_run.name != run_key:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=run_key)


async def run_key_of(run_key: str | None) -> str:
    """The run key: as given, or the root flow run's id.

    Raises:
        InputError: It is empty, or none was given outside of a flow.
    """
    if run_key is not None:
        if not run_key.strip():
            raise InputError("An empty run_key names nothing.", hint="Give a text, or leave it out within a flow.")
        return run_key.strip()
    root = await root_flow_run()
    if root is None:
        raise InputError(
            "Outside of a flow a run needs a run_key: without one, running this again would pay again.",
            hint="Pass run_key='…'; the same key finds the same jobs.",
        )
    return root


def set_key_of(
    *,
    channel: str,
    host: str,
    instance: str,
    run_key: str,
    repetition: int,
    inputs: Sequence[CircuitInput],
    shots: Sequence[int],
    options: dict[str, Any],
) -> str:
    """The content key of a set: sha256 over where it runs, its run key and what is run, in order.

    Not in it: backend, ISA circuits, calibration, program, session, packing limits, tags. Transpiling again, or
    choosing another backend, must find the same set.
    """
    observed = [each.observed and each.observed.key for each in inputs]
    return values_fingerprint(
        {
            **({"observables": observed} if any(observed) else {}),
            "channel": channel,
            "host": host,
            "instance": instance,
            "run_key": run_key,
            "repetition": repetition,
            "circuits": [circuit_fingerprint(each.circuit) for each in inputs],
            "values": [each.parameter_values for each in inputs],
            "shots": list(shots),
            "options": options,
        }
    )


def claim(work: str, order: str, *, share: bool) -> None:
    """Refuse a second order of the same in one flow run: nothing is shared silently.

    An order is one opened run, or one task run with all its retries.

    Args:
        work: Set key and part.
        order: What tells the opened run from others.
        share: Whether it is meant.

    Raises:
        InputError: Another task run of this flow run has submitted the same.
    """
    if (ours := _place(work)) is None or share:
        return
    place, me = ours
    with _lock:
        earlier = _claims.setdefault(place, (order, me))
    if order != earlier[0] and me != earlier[1]:
        raise InputError(
            "Another task of this flow run submits the same circuits with the same shots, options and run key.",
            hint="Pass repetition=1, 2, … to run them again on purpose, or share=True to share the jobs on purpose.",
        )


def release(work: str) -> None:
    """Give a claim of this task run up, because it has failed: whoever tries again goes on with the same jobs."""
    if (ours := _place(work)) is None:
        return
    place, me = ours
    with _lock:
        if _claims.get(place, ("", ""))[1] == me:
            del _claims[place]


def take_up(set_key: str) -> None:
    """Note that a set was opened here and now."""
    now = _flow_attempt()
    with _lock:
        _taken_up[set_key] = now


def is_taken_up(set_key: str) -> bool:
    """Whether this process has opened a set, and not only at an earlier attempt at this flow run."""
    now = _flow_attempt()
    with _lock:
        if set_key not in _taken_up:
            return False
        then = _taken_up[set_key]
    return then is None or now is None or then[0] != now[0] or then[1] == now[1]


def _flow_attempt() -> tuple[str, int] | None:
    """The flow run that this code runs in, and which attempt at it this is."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    return str(context.flow_run.id), context.flow_run.run_count


def _place(work: str) -> tuple[tuple[str, int, str], str] | None:
    """Where a claim is kept, and who makes it; None outside of tasks in flows."""
    from prefect.context import TaskRunContext

    attempt, task_context = _flow_attempt(), TaskRunContext.get()
    if attempt is None or task_context is None:
        return None
    return (*attempt, work), str(task_context.task_run.id)
