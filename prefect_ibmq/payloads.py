"""What the job of a part looks like on the wire, and how large it is.

Each PUB's circuit carries in its metadata which positions of the set it runs. That comes back with the result, and
from the service with the job's params, so that a set can be read without its run folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect_ibmq.decoding import STAMP
from prefect_ibmq.merging import groups_of, merged_pub, structures
from prefect_ibmq.observables import estimator_pub
from prefect_ibmq.options import wire_options
from prefect_ibmq.packing import MAX_PAYLOAD_BYTES, Measure
from prefect_ibmq.runs import Part

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.runs import Run

__all__ = ["measure_of", "measure_of_sizes", "merged_parts", "params_of"]

_ANY_BACKEND = "backend"  # its name, too, is within the bytes that are set aside for tags
_TAG_BYTES = 2_000  # tags, program, backend and the like, beside the params
_GROWTH = 4 / 3 * 1.01  # base64, and what zlib adds where it cannot compress
_STAMP_BYTES = 600


def params_of(
    run: Run,
    program: str,
    isa: Sequence[QuantumCircuit],
    pubs: Sequence[Sequence[int]],
    options: dict[str, Any],
    calibration: str | None = None,
    snapshot: str | None = None,
) -> dict[str, Any]:
    """The params of the job that runs these PUBs.

    Args:
        run: The run; what it holds is by place.
        program: The program.
        isa: Its ISA circuits, by place.
        pubs: The places of each PUB; those with several are merged.
        options: The run's options.
        calibration: Date of the calibration that the circuits were transpiled for.
        snapshot: Id of that calibration.
    """
    from prefect_ibmq.wire.programs import build_params

    shots = run.shots[pubs[0][0]]
    made = [_pub(run, isa, places) for places in pubs]
    made[0].circuit.metadata[STAMP] |= {"run_key": run.run_key, "calibration": calibration, "snapshot": snapshot}
    return build_params(program, made, shots=shots, options=wire_options(options), target=run.target)


def _pub(run: Run, isa: Sequence[QuantumCircuit], places: Sequence[int]) -> SamplerPub | EstimatorPub:
    first = places[0]
    if len(places) > 1:
        pub = merged_pub(run.inputs, isa, places, run.shots[first])
        stamp = _job_stamp(run, first)
        stamp["members"] = [
            {**_stamp(run.inputs[place]), "metadata": dict(isa[place].metadata or {})} for place in places
        ]
        pub.circuit.metadata = {STAMP: stamp}
        return pub
    circuit = isa[first].copy()
    stamp = {**_stamp(run.inputs[first]), **_job_stamp(run, first)}
    circuit.metadata = {**(circuit.metadata or {}), STAMP: stamp}
    if run.inputs[first].observed is not None:
        return estimator_pub(run.inputs[first], circuit)
    return run.inputs[first].pub(circuit, run.shots[first])


def _job_stamp(run: Run, place: int) -> dict[str, Any]:
    """What travels with a PUB, whatever circuits it runs."""
    return {"of": len(run.inputs), "shots": run.shots[place], **({"notes": run.notes} if run.notes else {})}


def _stamp(item: CircuitInput) -> dict[str, Any]:
    """What travels with a circuit: its position and name, of a sweep shape and parameters' names, observables."""
    told: dict[str, Any] = {"position": item.position, "circuit": item.name}
    if item.parameter_values is not None:
        names = [str(name) for keys in item.parameter_values.data for name in keys]
        told |= {"shape": list(item.parameter_values.shape), "parameters": names}
    if item.observed is not None:
        told |= {"observables": list(item.observed.texts), "observables_shape": list(item.observed.shape)}
    return told


def merged_parts(parts: Sequence[Part], run: Run, isa: Sequence[QuantumCircuit]) -> tuple[Part, ...]:
    """The parts, each with the groups of its places that become one PUB."""
    keys = structures(run.inputs, isa, run.shots)
    return tuple(
        part.model_copy(update={"merged": groups_of(range(part.first, part.last + 1), keys, run.inputs, isa)})
        for part in parts
    )


def measure_of(
    run: Run,
    program: str,
    isa: Sequence[QuantumCircuit],
    options: dict[str, Any],
    *,
    merge: bool,
    payload: int = MAX_PAYLOAD_BYTES,
) -> Measure | None:
    """What measures the body of a job as it is sent; None where even all circuits in one job would be small enough."""
    if _at_most(run, isa) <= payload:
        return None
    from prefect_ibmq.wire.job_requests import JobRequest

    keys = structures(run.inputs, isa, run.shots) if merge else [None] * len(isa)

    def measure(places: Sequence[int]) -> int:
        groups = groups_of(places, keys, run.inputs, isa)
        part = Part(first=0, last=-1, shots=0, merged=groups)
        params = params_of(run, program, isa, part.pubs(places), options)
        return len(JobRequest(program=program, backend=_ANY_BACKEND, params=params).encoded()) + _TAG_BYTES

    return measure


def measure_of_sizes(sizes: Sequence[int]) -> Measure:
    """What measures a job by the bytes that each of its circuits takes alone: together they take no more."""
    return lambda places: sum(sizes[place] + _STAMP_BYTES for place in places) + _TAG_BYTES


def _at_most(run: Run, isa: Sequence[QuantumCircuit]) -> float:
    """No job of these circuits is larger."""
    from prefect_ibmq.transpilation import dumps_circuits

    swept = (item.parameter_values for item in run.inputs if item.parameter_values is not None)
    observed = sum(len(json.dumps(item.observed.sent)) for item in run.inputs if item.observed is not None)
    numbers = sum(int(values.num_parameters) * int(values.size) for values in swept)
    return _GROWTH * (len(dumps_circuits(isa)) + 8 * numbers + 2 * observed) + _STAMP_BYTES * len(isa) + _TAG_BYTES
