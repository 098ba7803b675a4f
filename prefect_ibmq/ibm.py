"""The only door to the modules of qiskit-ibm-runtime.

Everything that IBM's package does for us passes through here: device snapshots, backend models, targets, the wire
codecs and the ISA check. Its private modules are touched in this file alone, so that a new version breaks one file
and one contract test (`tests/test_ibm.py`). Importing this module is cheap; each function imports what it needs.
Nothing here opens a connection: the package's HTTP session is never used.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import BackendNotFound, CircuitError, InputError, ResultUnreadable, UnusableAnswer

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub
    from qiskit.transpiler import Target

__all__ = [
    "bare_configuration",
    "configuration_model",
    "decode_json",
    "decode_result",
    "device_configuration",
    "device_names",
    "device_physical_qubits",
    "device_properties",
    "draw_samplex",
    "encode_estimates",
    "encode_json",
    "execution_spans",
    "executor_program",
    "isa_problem",
    "noise_model_of",
    "prepared_params",
    "properties_model",
    "sampler_qpy_version",
    "target_from",
]

SAMPLER_QPY_CEILING = 17  # what server-side `sampler` and `estimator` read (qiskit_ibm_runtime.json)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """One shipped device: where its files are."""

    configuration: Path
    properties: Path
    physical_qubits: int | None


@cache
def _snapshots() -> dict[str, _Snapshot]:
    """The shipped devices, read from the text of their modules: to import IBM's package takes a second."""
    spec = importlib.util.find_spec("qiskit_ibm_runtime")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    sources = [path for folder in folders for path in Path(folder).glob("fake_provider/backends/*/fake_*.py")]
    return dict(found for path in sources for found in _snapshots_of(path))


def _snapshots_of(path: Path) -> Iterator[tuple[str, _Snapshot]]:
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(statement, ast.ClassDef):
            continue
        says = {
            target.id: assignment.value.value
            for assignment in statement.body
            if isinstance(assignment, ast.Assign) and isinstance(assignment.value, ast.Constant)
            for target in assignment.targets
            if isinstance(target, ast.Name)
        }
        name, physical = says.get("backend_name"), says.get("_physical_qubits")
        if isinstance(name, str):
            configuration, properties = (path.with_name(str(says[f"{kind}_filename"])) for kind in ("conf", "props"))
            yield name, _Snapshot(configuration, properties, physical if isinstance(physical, int) else None)


def device_names() -> tuple[str, ...]:
    """Names of the device snapshots that the installed qiskit-ibm-runtime ships, sorted: `fake_torino`, …"""
    return tuple(sorted(_snapshots()))


def _snapshot(name: str) -> _Snapshot:
    if (found := _snapshots().get(name)) is None:
        import difflib

        raise BackendNotFound(name, difflib.get_close_matches(name, _snapshots(), n=3, cutoff=0.4))
    return found


def device_configuration(name: str) -> dict[str, Any]:
    """The configuration of a shipped device as the service would send it, under its `fake_…` name.

    Units are the wire's: `dt` and `dtm` in ns, `rep_delay_range` and `default_rep_delay` in µs.
    """
    payload: dict[str, Any] = json.loads(_snapshot(name).configuration.read_text(encoding="utf-8"))
    return {**payload, "backend_name": name}


def device_properties(name: str) -> dict[str, Any]:
    """The calibration of a shipped device as the service would send it, under its `fake_…` name."""
    payload: dict[str, Any] = json.loads(_snapshot(name).properties.read_text(encoding="utf-8"))
    return {**payload, "backend_name": name}


def device_physical_qubits(name: str) -> int | None:
    """Physical qubits (with couplers) of a shipped device, where IBM tells it."""
    return _snapshot(name).physical_qubits


# What the model asks for; a payload may lack it, of the history or once the service drops what pulses and simulators
# needed. None of it changes a target, apart from gates, which then are none.
_ASKED_FOR: dict[str, Any] = {
    "backend_version": "",
    "basis_gates": [],
    "conditional": False,
    "coupling_map": None,
    "gates": [],
    "local": False,
    "memory": False,
    "online_date": "1970-01-01T00:00:00+00:00",
    "open_pulse": False,
    "simulator": False,
}
_ASKED_OF_A_GATE: dict[str, Any] = {"parameters": [], "qasm_def": ""}
# What the model looks into wherever it stands; a null there means that it is absent.
_TAKEN_APART = frozenset(
    {"basis_gates", "gates", "meas_lo_range", "online_date", "qubit_lo_range", "rep_times", "supported_instructions"}
    | {"timing_constraints", "u_channel_lo"}
)


def configuration_model(configuration: dict[str, Any], *, fractional_gates: bool | None = None) -> Any:
    """IBM's `BackendConfiguration` of a wire payload; the payload is left as it is.

    Args:
        configuration: As the service sends it. The model turns ns and µs into seconds.
        fractional_gates: True keeps rx and rzz, False hides them, None keeps everything as sent.

    Raises:
        UnusableAnswer: It does not say how many qubits there are, or has another form than the service gives it.
    """
    from qiskit_ibm_runtime.models import QasmBackendConfiguration
    from qiskit_ibm_runtime.utils.backend_decoder import (
        decode_backend_configuration,
        filter_raw_configuration,
    )

    payload = copy.deepcopy(configuration)
    for name in _TAKEN_APART.intersection(payload):
        if payload[name] is None:
            del payload[name]
    payload = {**_ASKED_FOR, **payload}
    if absent := [name for name in ("backend_name", "n_qubits") if name not in payload]:
        raise UnusableAnswer(f"A backend's configuration has no {' and no '.join(absent)}.")
    with _told_as_unusable(payload["backend_name"], "model of the configuration"):
        payload["gates"] = [{**_ASKED_OF_A_GATE, **gate} for gate in payload["gates"]]
        if not isinstance(payload["online_date"], datetime):
            decode_backend_configuration(payload)
        filter_raw_configuration(payload, use_fractional_gates=fractional_gates)
        return QasmBackendConfiguration.from_dict(payload)


@contextmanager
def _told_as_unusable(backend: object, what: str) -> Iterator[None]:
    """Make our error of whatever the packages of IBM and qiskit stumble over."""
    try:
        yield
    except UnusableAnswer:
        raise
    except Exception as error:
        raise UnusableAnswer(
            f"What the service told of {backend} gives no {what}: {type(error).__name__}: {error}",
            hint="Choose another backend, or try again later: configurations and calibrations are renewed.",
        ) from error


def properties_model(properties: dict[str, Any]) -> Any:
    """IBM's `BackendProperties` of a wire payload, in SI units; the payload is left as it is."""
    from qiskit_ibm_runtime.utils.backend_decoder import properties_from_server_data

    # `None`: filtering by fractional gates would drop measured values.
    return properties_from_server_data(copy.deepcopy(properties), use_fractional_gates=None)


def target_from(
    configuration: dict[str, Any],
    properties: dict[str, Any] | None,
    *,
    fractional_gates: bool = False,
) -> Target:
    """The qiskit `Target` of a configuration and a calibration, faulty qubits and gates left out.

    Args:
        configuration: As the service sends it.
        properties: As the service sends it; None gives a target without errors and durations.
        fractional_gates: Whether rx and rzz are offered where the device has them.

    Raises:
        UnusableAnswer: They have another form than the service gives them.
    """
    from qiskit_ibm_runtime.utils.backend_converter import convert_to_target

    with _told_as_unusable(configuration.get("backend_name"), "target"):
        target: Target = convert_to_target(
            configuration=configuration_model(_placed(configuration, properties), fractional_gates=fractional_gates),
            properties=properties_model(properties) if properties else None,
            include_control_flow=True,
            include_fractional_gates=fractional_gates,
        )
    return target


def _placed(configuration: dict[str, Any], properties: dict[str, Any] | None) -> dict[str, Any]:
    """A configuration that tells of each instruction where it is, as far as anything tells.

    Of one without a place IBM's converter makes an instruction on any qubits, couplings or none, and where the
    calibration then tells of a faulty place it raises a TypeError.
    """
    from qiskit.circuit.library import get_standard_gate_name_mapping

    gates = {gate["name"]: gate for gate in configuration.get("gates") or []}
    calibrated: dict[str, list[list[int]]] = {}
    for gate in (properties or {}).get("gates") or []:
        calibrated.setdefault(gate["gate"], []).append(list(gate["qubits"]))
    basis = configuration.get("basis_gates") or []
    standard = get_standard_gate_name_mapping()
    added = []
    for name in dict.fromkeys([*basis, *(configuration.get("supported_instructions") or []), *gates]):
        if name not in standard or gates.get(name, {}).get("coupling_map"):
            continue
        is_coupling = name in basis and standard[name].num_qubits == 2
        where = calibrated.get(name) or (configuration.get("coupling_map") if is_coupling else None)
        if where:
            added.append({**gates.get(name, {"name": name}), "coupling_map": where})
    if not added:
        return configuration
    names = {gate["name"] for gate in added}
    kept = [gate for name, gate in gates.items() if name not in names]
    return {**configuration, "gates": [*kept, *added]}


def bare_configuration(properties: dict[str, Any]) -> dict[str, Any]:
    """As much of a configuration as a calibration tells: qubits, gates, and which pairs they couple.

    It lacks what only the service's configuration has: `dt`, timing constraints, delays, control flow and the
    processor's type.
    """
    where: dict[str, list[list[int]]] = {}
    for gate in properties.get("gates") or []:
        where.setdefault(gate["gate"], []).append(list(gate["qubits"]))
    from qiskit.circuit.library import get_standard_gate_name_mapping

    standard = get_standard_gate_name_mapping()
    known = [name for name in where if name in standard and name not in ("measure", "reset")]
    pairs = {tuple(qubits) for places in where.values() for qubits in places if len(qubits) == 2}
    return {
        "backend_name": properties.get("backend_name", ""),
        "backend_version": properties.get("backend_version", ""),
        "n_qubits": len(properties.get("qubits") or []),
        "basis_gates": known,
        "gates": [{"name": name, "parameters": [], "qasm_def": "", "coupling_map": where[name]} for name in known],
        "coupling_map": sorted(map(list, pairs)),
        "supported_instructions": [*known, "measure", *(["reset"] if "reset" in where else [])],
        "local": False,
        "simulator": False,
        "conditional": False,
        "open_pulse": False,
        "memory": True,
    }


def noise_model_of(target: Target) -> Any:
    """Aer's noise model of a target: depolarizing and relaxation errors of gates, readout errors, relaxation in delays.

    What the target has no error, duration, T1 or T2 of has no such noise, nor has what these cannot be: T1 and T2 of 0
    or less, negative errors and durations, readout errors above 1.
    """
    from types import SimpleNamespace

    from qiskit_aer.noise import NoiseModel

    able = _with_possible_noise(target)
    # All that Aer asks of a device of today.
    device = SimpleNamespace(version=2, target=able, operation_names=list(able.operation_names), dt=able.dt)
    return NoiseModel.from_backend(device)


def _with_possible_noise(target: Target) -> Target:
    """A target without the values that Aer stumbles over: missing readout errors, and what cannot be."""
    from qiskit.transpiler import InstructionProperties, QubitProperties

    found = copy.deepcopy(target)
    found.qubit_properties = [
        QubitProperties(_if(qubit.t1, lambda it: it > 0), _if(qubit.t2, lambda it: it > 0), qubit.frequency)
        for qubit in target.qubit_properties or ()
    ] or None
    for name, places in target.items():
        for place, told in (places or {}).items():
            if told is None:
                continue
            duration = _if(told.duration, lambda it: it >= 0)
            is_measured = name.startswith("measure")
            error = _if(told.error, lambda it: 0 <= it <= 1) if is_measured else _if(told.error, lambda it: it >= 0)
            if is_measured and error is None:
                found.update_instruction_properties(name, place, None)
            elif (duration, error) != (told.duration, told.error):
                found.update_instruction_properties(name, place, InstructionProperties(duration, error))
    return found


def _if(value: float | None, is_possible: Callable[[float], bool]) -> float | None:
    return value if value is not None and is_possible(value) else None


def isa_problem(circuit: QuantumCircuit, target: Target) -> str:
    """Why a circuit is not an ISA circuit of a target; an empty string where it is one."""
    from qiskit_ibm_runtime.utils.utils import is_isa_circuit

    return str(is_isa_circuit(circuit, target))


def encode_json(value: Any) -> str:
    """JSON in the service's encoding: circuits as QPY, arrays as npy, with type tags."""
    from qiskit_ibm_runtime import RuntimeEncoder

    return json.dumps(value, cls=RuntimeEncoder)


def decode_json(text: str) -> Any:
    """The opposite of `encode_json`. Decode only what a service sent you over a connection that you trust."""
    from qiskit_ibm_runtime import RuntimeDecoder

    return json.loads(text, cls=RuntimeDecoder)


def sampler_qpy_version() -> int:
    """The newest QPY version that both this qiskit writes and the server-side primitives read."""
    from qiskit.qpy import QPY_VERSION

    return min(SAMPLER_QPY_CEILING, int(QPY_VERSION))


def decode_result(program: str, text: str) -> Any:
    """Decode a result text with IBM's own decoders.

    Args:
        program: `sampler`, `estimator`, `executor`, …
        text: The body of `GET /jobs/{id}/results`.

    Raises:
        ResultUnreadable: The text is not a result of that program.
    """
    from qiskit_ibm_runtime.decoders.defaults import DEFAULT_DECODERS, ResultDecoder

    value: Any = text
    try:
        for decoder in DEFAULT_DECODERS.get(program, [ResultDecoder]):
            if not hasattr(decoder, "is_applicable") or decoder.is_applicable(value):
                value = decoder.decode(value)
    except Exception as error:
        # A text that is not what it says it is can make the decoders raise anything: zlib's, QPY's, struct's errors.
        raise ResultUnreadable(f"The result of program {program!r} cannot be decoded: {error}") from error
    if isinstance(value, str):
        raise ResultUnreadable(f"The result of program {program!r} is not JSON: {value[:200]!r}")
    return value


def executor_program(params: dict[str, Any]) -> Any:
    """IBM's `QuantumProgram` of the params of an `executor` job, of any schema version.

    Raises:
        ValueError: The params are of no known version, or not valid in theirs.
    """
    from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS

    converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS.get(str(params.get("schema_version")))
    if converter is None:
        known = ", ".join(QUANTUM_PROGRAM_PARAMS_CONVERTERS)
        raise ValueError(f"schema_version {params.get('schema_version')!r} is not one of {known}")
    program, _ = converter.decoder(converter.model.model_validate(params))
    return program


def prepared_params(pubs: Sequence[SamplerPub], options: dict[str, Any], shots: int, target: Target | None) -> Any:
    """The params of an `executor` job (schema v2.0) whose circuits IBM's own code has twirled and decoupled.

    Twirling makes of a circuit a template and a samplex, from which the service draws the template's angles for each
    randomization, and the bits that its measurements are flipped by. Decoupling fills idle times with pulses.

    Args:
        pubs: PUBs of ISA circuits, all of `shots` shots.
        options: As `SamplerOptions` nests them.
        shots: Of each PUB; with twirling they are rounded up to whole randomizations.
        target: Of the backend, with durations; needed for decoupling only.

    Raises:
        CircuitError: A circuit cannot be prepared so; it is told which one.
        InputError: The options cannot be.
    """
    from types import SimpleNamespace

    from pydantic import ValidationError
    from qiskit_ibm_runtime.executor_sampler.prepare import prepare
    from qiskit_ibm_runtime.options_models.sampler import SamplerOptions
    from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS

    try:
        asked = SamplerOptions(**options)
    except ValidationError as error:
        raise InputError(f"These options cannot be: {error.errors(include_url=False)[0]['msg']}.") from error
    backend = SimpleNamespace(target=target) if target is not None else None
    items, program, executor_options = [], None, None
    for index, pub in enumerate(pubs):
        try:
            program, executor_options = prepare([pub], asked, shots, backend=backend)
        except Exception as error:
            # Its four stages (options, boxing, samplex, padding) each have errors of their own.
            said = str(getattr(error, "message", error)).strip("'\" .")
            which = f"Circuit {index} ({pub.circuit.name})" if len(pubs) > 1 else "It"
            raise CircuitError(
                f"{which} cannot be twirled or decoupled: {said}.",
                hint="Run it without dynamical_decoupling and twirling, apart from the others.",
            ) from error
        items.append(_repeated(program.items[0], pub))
    if program is None:
        raise InputError("A job needs at least one circuit.")
    program.items = items
    program._semantic_role = "sampler_v2"
    converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS["v2.0"]
    return converter.encoder(program, executor_options).model_dump(mode="json")


def _repeated(item: Any, pub: SamplerPub) -> Any:
    """The item of a PUB, with the shape of its sweep also where it has no parameters: IBM's code drops that."""
    if pub.parameter_values.num_parameters or not pub.shape:
        return item
    import numpy as np
    from qiskit_ibm_runtime.quantum_program.quantum_program import CircuitItem, SamplexItem

    if isinstance(item, SamplexItem):
        shape = (*item.shape, *pub.shape)
        return SamplexItem(item.circuit, item.samplex, samplex_arguments=item.samplex_arguments, shape=shape)
    return CircuitItem(item.circuit, circuit_arguments=np.zeros((*pub.shape, 0)))


def draw_samplex(samplex: Any, arguments: Any, shape: tuple[int, ...], rng: Any) -> dict[str, Any]:
    """Random parameter values and measurement flips of a samplex, as arrays of a shape and their own axes."""
    from qiskit_ibm_runtime.fake_provider.executor.broadcast_sample import broadcast_sample

    samplex.finalize()
    return dict(broadcast_sample(samplex, arguments, shape, rng))


def encode_estimates(results: list[tuple[dict[str, Any], dict[str, Any]]], metadata: dict[str, Any]) -> str:
    """The result text of an `estimator` job, from each PUB's arrays and metadata.

    Every array leads with the shape of `evs`.
    """
    from qiskit.primitives import DataBin, PrimitiveResult
    from qiskit_ibm_runtime.results import EstimatorPubResult

    pubs = [
        EstimatorPubResult(DataBin(**fields, shape=fields["evs"].shape), pub_metadata)
        for fields, pub_metadata in results
    ]
    return encode_json(PrimitiveResult(pubs, metadata=metadata))


def execution_spans(spans: list[tuple[datetime, datetime, dict[int, tuple[int, ...]]]]) -> Any:
    """IBM's `ExecutionSpans`: start, stop and, for each PUB in it, its shape with the shots as last axis."""
    import math

    from qiskit_ibm_runtime.execution_span import DoubleSliceSpan, ExecutionSpans

    def slices(shapes: dict[int, tuple[int, ...]]) -> dict[int, tuple[tuple[int, ...], slice, slice]]:
        return {index: (shape, slice(0, math.prod(shape[:-1])), slice(0, shape[-1])) for index, shape in shapes.items()}

    return ExecutionSpans([DoubleSliceSpan(start, stop, slices(shapes)) for start, stop, shapes in spans])
