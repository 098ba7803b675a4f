"""PUBs -> the params of program `executor` (schema v2.0), `sampler` or `estimator` (both version 2).

`executor` is the default: the server-side primitives are deprecated. One `executor` job has one number of shots;
`sampler` takes one a PUB, and `estimator` a precision.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pybase64
from qiskit import qpy
from qiskit.exceptions import QiskitError
from qiskit.primitives.containers.sampler_pub import SamplerPub

from prefect_ibmq import ibm
from prefect_ibmq.errors import CircuitError, InputError
from prefect_ibmq.wire.tensors import packed_text

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.transpiler import Target

__all__ = ["PROGRAMS", "build_params", "is_prepared", "prepare"]

PROGRAMS = ("executor", "sampler", "estimator")
_POST_PROCESSOR = "v0.1"  # the recipe by which IBM's client makes a PrimitiveResult of the result
_ROLE = "sampler_v2"
_EXECUTION = ("init_qubits", "rep_delay", "scheduler_timing", "stretch_values")
_MEASUREMENTS = ("classified", "kerneled", "avg_kerneled")
_SAMPLER_OPTIONS = (
    "default_shots",
    "dynamical_decoupling",
    "execution",
    "experimental",
    "simulator",
    "twirling",
)
_PREPARED = ("default_shots", "dynamical_decoupling", "execution", "experimental", "twirling")
_FIELDS_OF_DATABIN = frozenset({"keys", "values", "items", "shape", "ndim", "size"})


def build_params(
    program: str,
    pubs: Sequence[SamplerPub] | Sequence[EstimatorPub],
    *,
    shots: int,
    options: dict[str, Any] | None = None,
    passthrough: dict[str, Any] | None = None,
    target: Target | None = None,
) -> dict[str, Any]:
    """The `params` of `POST /jobs` for some PUBs, as plain JSON values.

    Args:
        program: `executor`, `sampler` or `estimator`.
        pubs: ISA circuits with their parameter values; of the estimator with observables of the ISA circuits' qubits.
        shots: For PUBs that have no shots of their own; the estimator has a precision instead.
        options: As `SamplerOptions` nests them. `executor` takes `execution` (`init_qubits`, `rep_delay` in seconds,
            `meas_type`, `scheduler_timing`, `stretch_values`) and `experimental`; for it `dynamical_decoupling` and
            `twirling` are built into the circuits here, as IBM's client does, which `sampler` leaves to the service.
        passthrough: JSON values that `executor` hands back with the result.
        target: Of the backend; needed where `executor` circuits are to be decoupled.

    Raises:
        InputError: A number of shots, an option or a program that cannot be.
        CircuitError: A circuit that the wire cannot carry.
    """
    if not pubs:
        raise InputError("A job needs at least one circuit.")
    for index, pub in enumerate(pubs):
        _check_circuit(pub.circuit, index)
    if program == "estimator":
        return _estimator_params(pubs, options or {})
    each = [_checked_shots(shots if pub.shots is None else pub.shots) for pub in pubs]
    if program == "executor":
        return _executor_params(pubs, each, options or {}, passthrough or {}, target)
    if program == "sampler":
        if passthrough:
            raise InputError("Program 'sampler' passes no data through; use program 'executor'.")
        return _sampler_params(pubs, each, options or {})
    raise InputError(f"Program {program!r} is not spoken here; {', '.join(PROGRAMS)} are.")


def _checked_shots(shots: object) -> int:
    if isinstance(shots, bool) or not isinstance(shots, (int, np.integer)) or shots < 1:
        raise InputError(f"Shots must be a whole number of at least 1, not {shots!r}.")
    return int(shots)


def _check_circuit(circuit: QuantumCircuit, index: int) -> None:
    for register in circuit.cregs:
        if register.name in _FIELDS_OF_DATABIN:
            raise CircuitError(
                f"Circuit {index} ({circuit.name}) has a classical register named {register.name!r}; a result cannot "
                "hold it.",
                hint="Rename the register.",
            )


# --- executor ----------------------------------------------------------------------------------------------------


def _executor_params(
    pubs: Sequence[SamplerPub],
    shots: list[int],
    options: dict[str, Any],
    passthrough: dict[str, Any],
    target: Target | None,
) -> dict[str, Any]:
    if len(set(shots)) > 1:
        raise InputError(
            f"One 'executor' job has one number of shots; these circuits ask for {sorted(set(shots))}.",
            hint="Submit one job for each number of shots, or use program 'sampler'.",
        )
    if "post_processor" in passthrough:
        raise InputError("'post_processor' in the passthrough data belongs to the decoder of results.")
    execution, meas_type = _executor_options(options)
    if is_prepared(options):
        params = prepare(pubs, options, shots[0], target)
        passed = params["quantum_program"]["passthrough_data"]
        passed["post_processor"]["circuits_metadata"] = _metadata_of(pubs)
        passed.update(_plain(passthrough, "passthrough data"))
        return params
    circuits = [_with_metadata(pub.circuit, {}) for pub in pubs]
    post_processor = {
        "version": _POST_PROCESSOR,
        "twirling": False,
        "meas_type": meas_type,
        "shots": shots[0],
        "circuits_metadata": _metadata_of(pubs),
        "options": _plain(options, "options"),
    }
    return {
        "schema_version": "v2.0",
        "quantum_program": {
            "shots": shots[0],
            "circuits": {
                "b64_data": _qpy_text(circuits, qpy.QPY_VERSION),
                "qpy_version": qpy.QPY_VERSION,
                "num_programs": len(circuits),
            },
            "items": [_item(pub) for pub in pubs],
            "semantic_role": _ROLE,
            "meas_level": meas_type,
            "passthrough_data": {**_plain(passthrough, "passthrough data"), "post_processor": post_processor},
        },
        "options": execution,
    }


def prepare(
    pubs: Sequence[SamplerPub], options: Mapping[str, Any], shots: int, target: Target | None
) -> dict[str, Any]:
    """The params of an `executor` job with twirled or decoupled circuits; errors as `build_params`."""
    known = {name: value for name, value in options.items() if name in _PREPARED}
    bare = [SamplerPub(_with_metadata(pub.circuit, {}), pub.parameter_values, shots) for pub in pubs]
    params: dict[str, Any] = ibm.prepared_params(bare, _plain(known, "options"), shots, target)
    return params


def is_prepared(options: Mapping[str, Any]) -> bool:
    """Whether decoupling or twirling is switched on, and not just described."""
    return any(_is_asked_for(options.get(name)) for name in ("dynamical_decoupling", "twirling"))


def _metadata_of(pubs: Sequence[SamplerPub]) -> list[dict[str, Any]]:
    return [_plain(pub.circuit.metadata or {}, "circuit metadata") for pub in pubs]


def _executor_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The program's options and the kind of measurement; whatever it cannot do is refused, not dropped."""
    for name in options:
        if name not in _PREPARED:
            substitute = "Use program 'sampler'." if name in _SAMPLER_OPTIONS else f"It has {', '.join(_EXECUTION)}."
            raise InputError(f"Program 'executor' has no option {name!r}.", hint=substitute)
    execution = dict(options.get("execution") or {})
    meas_type = execution.pop("meas_type", None) or "classified"
    if meas_type not in _MEASUREMENTS:
        raise InputError(f"meas_type is one of {', '.join(_MEASUREMENTS)}, not {meas_type!r}.")
    if unknown := sorted(set(execution) - set(_EXECUTION)):
        raise InputError(f"Program 'executor' has no execution option {unknown[0]!r}; it has {', '.join(_EXECUTION)}.")
    defaults = {"init_qubits": True, "rep_delay": None, "scheduler_timing": False, "stretch_values": False}
    given = {name: value for name, value in execution.items() if value is not None}
    experimental = _plain(options.get("experimental") or {}, "experimental options")
    return {**defaults, **_plain(given, "execution options"), "experimental": experimental}, meas_type


def _is_asked_for(option: object) -> bool:
    """Whether decoupling or twirling is switched on, and not just described."""
    if not isinstance(option, Mapping):
        return bool(option)
    return any(bool(option.get(switch)) for switch in ("enable", "enable_gates", "enable_measure"))


def _item(pub: SamplerPub) -> dict[str, Any]:
    """One circuit's arguments; the last axis runs over `circuit.parameters`, the others are the sweep."""
    values = np.asarray(pub.parameter_values.as_array(pub.circuit.parameters), dtype=np.float64)
    return {
        "item_type": "circuit",
        "circuit_arguments": {"data": packed_text(values), "shape": list(values.shape), "dtype": "f64"},
        "shape": [],
        "chunk_size": "auto",
    }


def _with_metadata(circuit: QuantumCircuit, metadata: dict[str, Any]) -> QuantumCircuit:
    """The circuit as it is sent; the caller's own is left as it is."""
    if not circuit.metadata:
        return circuit
    sent = circuit.copy()
    sent.metadata = metadata
    return sent


def _plain(value: Any, what: str) -> Any:
    """JSON values of a tree; numpy's numbers and arrays become Python's."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"The {what} have a key that is not text; JSON has no such thing.")
        return {key: _plain(inner, what) for key, inner in value.items()}
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist(), what)
    if isinstance(value, (list, tuple)):
        return [_plain(inner, what) for inner in value]
    raise InputError(f"The {what} hold a {type(value).__name__}, which JSON cannot hold.")


# --- sampler and estimator ---------------------------------------------------------------------------------------


def _sampler_params(pubs: Sequence[SamplerPub], shots: list[int], options: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(options) - set(_SAMPLER_OPTIONS)):
        raise InputError(
            f"Program 'sampler' has no option {unknown[0]!r}.", hint=f"It has {', '.join(_SAMPLER_OPTIONS)}."
        )
    return {
        "version": 2,
        "support_qiskit": True,
        "pubs": [[_circuit_value(pub.circuit), _array_value(pub), each] for pub, each in zip(pubs, shots, strict=True)],
        "options": _plain(options, "options"),
    }


def _estimator_params(pubs: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in options.items() if name != "resilience_level"}
    if unknown := sorted(set(told) - set(_SAMPLER_OPTIONS)):
        raise InputError(f"Program 'estimator' has no option {unknown[0]!r}.")
    level = options.get("resilience_level")
    return {
        "version": 2,
        "support_qiskit": True,
        "pubs": [
            [_circuit_value(pub.circuit), pub.observables.tolist(), _array_value(pub), pub.precision] for pub in pubs
        ],
        "options": _plain(told, "options"),
        **({"resilience_level": level} if level is not None else {}),
    }


def _circuit_value(circuit: QuantumCircuit) -> dict[str, str]:
    sent = _with_metadata(circuit, _plain(circuit.metadata or {}, "circuit metadata"))
    return {"__type__": "QuantumCircuit", "__value__": _qpy_text([sent], ibm.sampler_qpy_version())}


def _array_value(pub: SamplerPub | EstimatorPub) -> dict[str, str]:
    file = io.BytesIO()
    np.save(file, pub.parameter_values.as_array(pub.circuit.parameters), allow_pickle=False)
    return {"__type__": "ndarray", "__value__": _packed(file.getvalue())}


def _qpy_text(circuits: Iterable[QuantumCircuit], version: int) -> str:
    file = io.BytesIO()
    try:
        qpy.dump(list(circuits), file, version=version)
    except (QiskitError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise CircuitError(f"A circuit cannot be written as QPY {version}: {error}") from error
    return _packed(file.getvalue())


def _packed(content: bytes) -> str:
    return pybase64.b64encode(zlib.compress(content)).decode("ascii")
