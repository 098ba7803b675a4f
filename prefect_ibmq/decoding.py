"""A job's result text -> one result for each circuit of its part, each with its stamp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import ResultUnreadable
from prefect_ibmq.handles import JobHandle
from prefect_ibmq.merging import pieces_of
from prefect_ibmq.run_logs import run_logger
from prefect_ibmq.settings import get_settings

if TYPE_CHECKING:
    from qiskit.primitives import PrimitiveResult, PubResult

    from prefect_ibmq.circuits import CircuitInput

__all__ = ["STAMP", "decoded", "stamps_of"]

STAMP = "prefect_ibmq"  # key of our entry in a result's and a circuit's metadata
_SHARED = ("of", "shots", "notes", "run_key", "calibration", "snapshot")


def stamps_of(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The circuits of one PUB as its metadata tell them, in the order of its sweep; none where they tell nothing.

    Each has `position`, `circuit`, `shape`, `of` (how many circuits the set has) and `metadata` (the circuit's own),
    and perhaps `parameters` (names), `shots`, and `notes` (the run's `header` and `memory`). Those of a job's first PUB
    have `run_key`, `calibration` and `snapshot` too.
    """
    stamp = metadata.get(STAMP)
    if not isinstance(stamp, dict):
        return []
    own = {key: value for key, value in metadata.items() if key != STAMP}
    members = stamp.get("members") or [{**stamp, "metadata": own}]
    shared = {name: stamp[name] for name in _SHARED if name in stamp}
    return [{"shape": [], "of": None, **shared, **member} for member in members if "position" in member]


def decoded(handle: JobHandle, text: bytes, inputs: Sequence[CircuitInput] | None) -> PrimitiveResult:
    """The result of a job, its PUB results by position.

    Args:
        handle: The job.
        text: What it gave.
        inputs: The circuits of its part, for names and parameter values; what is missing is read from the metadata.

    Raises:
        ResultUnreadable: The text cannot be decoded, is of another number of circuits, or lacks registers of theirs.
    """
    from qiskit.primitives import PrimitiveResult

    from prefect_ibmq.wire.results import decode_result

    try:
        result = decode_result(handle.program, text, max_bytes=get_settings().max_result_bytes)
    except ResultUnreadable as error:
        raise ResultUnreadable(f"Job {handle.job_id}: {error}", hint="Its text is stored; nothing is lost.") from error
    if left := result.metadata.get("not_applied"):  # the embedded service says so of its older programs
        run_logger().warning("Job %s was simulated without %s", handle.job_id, ", ".join(map(str, left)))
    pubs = _one_by_one(handle, result)
    if handle.set_key and len(pubs) != handle.last - handle.first + 1:
        raise ResultUnreadable(
            f"Job {handle.job_id} ran circuits {handle.first} to {handle.last}, but its result is of {len(pubs)}.",
            hint="Its text is stored; nothing is lost.",
        )
    for offset, pub in enumerate(pubs):
        item = inputs[offset] if inputs is not None and offset < len(inputs) else None
        if item is not None:
            _check_registers(handle, item, pub)
            told = {"position": item.position, "circuit": item.name, "parameters": item.parameter_values}
            pub.metadata[STAMP] |= told
    job = pubs[0].metadata[STAMP]["job"] if pubs else handle.model_dump(mode="json")
    return PrimitiveResult(pubs, metadata={**result.metadata, STAMP: {"job": job}})


def _check_registers(handle: JobHandle, item: CircuitInput, pub: PubResult) -> None:
    """Whether a result has what its circuit measures; what is left out must not look as if nothing was measured."""
    if item.observed is not None:
        return
    from qiskit.primitives import BitArray

    from prefect_ibmq.circuits import measured_bits

    told = dict(pub.data.items())
    for register in item.circuit.cregs:
        found = told.get(register.name)
        if found is None and not measured_bits(item.circuit).isdisjoint(register):
            said = f"has no register {register.name!r}; it has {', '.join(map(repr, told)) or 'none'}"
        elif isinstance(found, BitArray) and found.num_bits != register.size:
            said = f"has {found.num_bits} bits of the register {register.name!r}, which has {register.size}"
        else:
            continue
        raise ResultUnreadable(
            f"Job {handle.job_id}: the result of {item.label} {said}.", hint="Its text is stored; nothing is lost."
        )


def _one_by_one(handle: JobHandle, result: PrimitiveResult) -> list[Any]:
    """One result a circuit, by position, each with its stamp; merged PUBs are taken apart."""
    told = [stamps_of(pub.metadata.get("circuit_metadata") or {}) for pub in result]
    job = _job_of(handle, told)
    began = _beginnings(result.metadata.get("execution") or [])
    pubs: list[Any] = []
    for index, (pub, stamps) in enumerate(zip(result, told, strict=True)):
        shapes = [tuple(stamp["shape"]) for stamp in stamps]
        element = 0
        for piece, shape, stamp in zip(
            [pub] if len(stamps) < 2 else pieces_of(pub, shapes), shapes or [()], stamps or [{}], strict=True
        ):
            piece.metadata["circuit_metadata"] = stamp.get("metadata", pub.metadata.get("circuit_metadata"))
            piece.metadata[STAMP] = {
                "job": job,
                "position": stamp.get("position", handle.first + index),
                "circuit": stamp.get("circuit"),
                "parameters": None,
                "shots": stamp.get("shots"),
                **(stamp.get("notes") or {}),
                **{name: stamp[name] for name in ("observables", "observables_shape") if name in stamp},
                "pub": index,
                "element": element,
                "executed": began.get(index),
            }
            element += math.prod(shape)
            pubs.append(piece)
    return sorted(pubs, key=lambda each: int(each.metadata[STAMP]["position"]))


_CARRIED = {"run_key": "run_key", "transpiled_for": "calibration", "snapshot_transpiled": "snapshot"}


def _job_of(handle: JobHandle, told: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The handle as JSON values; what it does not know, since its job was found without our notes, its result may."""
    job = handle.model_dump(mode="json")
    first = next((stamps[0] for stamps in told if stamps), {})
    for name, carried in _CARRIED.items():
        job[name] = job[name] or first.get(carried)
    return job


def _beginnings(spans: Sequence[dict[str, Any]]) -> dict[int, datetime]:
    """When each PUB began to run, where the result tells."""
    began: dict[int, datetime] = {}
    for span in spans:
        for pub in span["pubs"]:
            began[pub] = min(span["start"], began.get(pub, span["start"]))
    return began
