"""The programs of the service: params text in, pieces of work out; bits in, result text out."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prefect_ibmq import ibm

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = [
    "BadProgram",
    "Piece",
    "Work",
    "circuit_names",
    "decoded_params",
    "fields_of",
    "parameter_values",
    "read_circuit",
    "read_work",
    "reading",
    "twirled_shots",
    "write_result",
]

Array = npt.NDArray[Any]


class BadProgram(Exception):
    """Params that cannot be read; `code` is what the service says."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


@dataclass(slots=True)
class Piece:
    """One circuit with its parameter values: a PUB, or an item of a quantum program.

    Attributes:
        circuit: As it came.
        values: Shape (*sweep, parameters), in the order of `circuit.parameters`.
        shots: Of each point of the sweep.
        extras: Further arrays of the result, such as measurement flips.
    """

    circuit: QuantumCircuit
    values: npt.NDArray[np.float64]
    shots: int
    extras: dict[str, Array] = field(default_factory=dict)

    @property
    def sweep(self) -> tuple[int, ...]:
        """The shape of the sweep."""
        return tuple(self.values.shape[:-1])


@dataclass(slots=True)
class Work:
    """What a job asks for, whatever program it came as.

    Attributes:
        program: `sampler` or `executor`.
        pieces: In order.
        level: `classified`, `kerneled`, `avg_kerneled` or `both`.
        form: What the result has to echo.
    """

    program: str
    pieces: list[Piece]
    level: str = "classified"
    form: dict[str, Any] = field(default_factory=dict)


@contextmanager
def reading() -> Iterator[None]:
    """Make everything that goes wrong with params a `BadProgram`."""
    try:
        yield
    except BadProgram:
        raise
    except Exception as error:
        # QPY, QASM and JSON of strangers fail in ways that nobody can list.
        raise BadProgram(1603, f"The program could not be read: {type(error).__name__}: {error}") from error


def read_work(program: str, text: str, rng: np.random.Generator) -> Work:
    """Decode the params of a job of `sampler` or `executor`.

    Raises:
        BadProgram: They cannot be read, or the program is not offered.
    """
    readers = {"sampler": _read_sampler, "executor": _read_executor}
    if program not in readers:
        raise BadProgram(1603, f"Program {program!r} is not offered by this service.")
    with reading():
        return readers[program](text, rng)


def circuit_names(program: str, text: str) -> list[str]:
    """Names of a job's circuits; none where the params cannot be read."""
    try:
        return [piece.circuit.name for piece in read_work(program, text, np.random.default_rng(0)).pieces]
    except BadProgram:
        return []


def decoded_params(text: str, program: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The params of a server-side primitive, and their options without those that are not set.

    Raises:
        BadProgram: They have no PUBs, or are of another version.
    """
    params = ibm.decode_json(text)
    if not isinstance(params, dict) or not isinstance(params.get("pubs"), list) or not params["pubs"]:
        raise BadProgram(1603, "The params have no `pubs`.")
    if params.get("version", 2) != 2:
        raise BadProgram(1603, f"Version {params['version']!r} of the {program} is not supported; use version 2.")
    options = params.get("options") or {}
    return params, {name: value for name, value in options.items() if value is not None}


def _read_sampler(text: str, rng: np.random.Generator) -> Work:
    params, options = decoded_params(text, "sampler")
    execution, twirling = options.get("execution") or {}, options.get("twirling") or {}
    default = twirled_shots(twirling, options.get("default_shots") or 4096)
    pieces = [_read_pub(pub, params.get("shots") or default) for pub in params["pubs"]]
    level = execution.get("meas_type") or "classified"
    if level not in ("classified", "kerneled", "avg_kerneled"):
        raise BadProgram(1603, f"execution.meas_type {level!r} is not classified, kerneled or avg_kerneled.")
    decouples = bool((options.get("dynamical_decoupling") or {}).get("enable"))
    asked = {
        "twirling.enable_gates": bool(twirling.get("enable_gates")),
        "twirling.enable_measure": bool(twirling.get("enable_measure")),
        "dynamical_decoupling": decouples,
    }
    left = [name for name, is_asked in asked.items() if is_asked]
    return Work("sampler", pieces, level, {"plain": params.get("support_qiskit", True) is False, "not_applied": left})


def twirled_shots(twirling: Mapping[str, Any], shots: int) -> int:
    """Shots of a PUB that does not say them itself: where both numbers of a twirling are given, their product."""
    randomizations, each = twirling.get("num_randomizations"), twirling.get("shots_per_randomization")
    twirls = twirling.get("enable_gates") or twirling.get("enable_measure")
    if twirls and isinstance(randomizations, int) and isinstance(each, int):
        return randomizations * each
    return shots


def _read_pub(pub: Any, default_shots: int) -> Piece:
    parts = list(pub) if isinstance(pub, list | tuple) else [pub]
    circuit = read_circuit(parts[0])
    values = parts[1] if len(parts) > 1 else None
    shots = parts[2] if len(parts) > 2 and parts[2] is not None else default_shots
    return Piece(circuit, parameter_values(circuit, values), int(shots))


def read_circuit(value: Any) -> QuantumCircuit:
    """A circuit of a PUB: decoded from QPY already, or OpenQASM text."""
    from qiskit import QuantumCircuit

    if isinstance(value, QuantumCircuit):
        return value
    if not isinstance(value, str):
        raise BadProgram(1603, f"A PUB starts with {type(value).__name__}, not with a circuit.")
    if "OPENQASM 2" in value[:200]:
        from qiskit import qasm2

        return qasm2.loads(value)
    from qiskit import qasm3

    return qasm3.loads(value)


def parameter_values(circuit: QuantumCircuit, given: Any) -> npt.NDArray[np.float64]:
    """The values of a PUB, shape (*sweep, parameters)."""
    from qiskit.primitives.containers.bindings_array import BindingsArray

    names = [parameter.name for parameter in circuit.parameters]
    if given is None or (isinstance(given, list | dict) and not given):
        values = np.zeros((*(), len(names))) if not names else None
    elif isinstance(given, dict):
        values = BindingsArray.coerce(given).as_array(names)
    elif isinstance(given, BindingsArray):
        values = given.as_array(names)
    else:
        values = np.asarray(given, dtype=np.float64)
    if values is None or values.shape[-1:] != (len(names),):
        told = 0 if values is None else (values.shape[-1] if values.ndim else 1)
        raise BadProgram(1603, f"The circuit has {len(names)} parameters, but values for {told} were given.")
    return np.asarray(values, dtype=np.float64)


def _read_executor(text: str, rng: np.random.Generator) -> Work:
    params = json.loads(text)
    program = ibm.executor_program(params)
    raw = params["quantum_program"]
    form = {"schema_version": params["schema_version"], "passthrough_data": raw.get("passthrough_data")}
    form["semantic_role"] = raw.get("semantic_role")
    shapes = [tuple(item.get("shape") or ()) for item in raw["items"]]
    pieces = [_read_item(item, shape, program.shots, rng) for item, shape in zip(program.items, shapes, strict=True)]
    return Work("executor", pieces, raw.get("meas_level") or "classified", form)


def _read_item(item: Any, shape: tuple[int, ...], shots: int, rng: np.random.Generator) -> Piece:
    if hasattr(item, "samplex"):
        drawn = ibm.draw_samplex(item.samplex, item.samplex_arguments, tuple(item.shape), rng)
        values = drawn.pop("parameter_values", np.zeros((*item.shape, 0)))
        return Piece(item.circuit, np.asarray(values, dtype=np.float64), shots, drawn)
    given = item.circuit_arguments
    values = np.zeros(0) if given is None else np.asarray(given, dtype=np.float64)
    if values.shape[-1:] != (item.circuit.num_parameters,):
        told = values.shape[-1] if values.ndim else 0
        raise BadProgram(1603, f"The circuit has {item.circuit.num_parameters} parameters, values for {told} came.")
    sweep = np.broadcast_shapes(shape, values.shape[:-1])
    return Piece(item.circuit, np.broadcast_to(values, (*sweep, values.shape[-1])), shots)


# Results

Fields = list[dict[str, Array]]


def write_result(work: Work, fields: Fields, start: datetime, stop: datetime) -> str:
    """The result text of a finished job.

    Args:
        work: What was asked.
        fields: For each piece, register to array: bool of shape (*sweep, shots, size), last axis index 0 being the
            register's bit 0; complex for kerneled data.
        start: When the execution began, aware.
        stop: When it ended, aware.
    """
    if work.program == "executor":
        return _write_executor(work, fields, start, stop)
    return _write_plain(work, fields) if work.form["plain"] else _write_sampler(work, fields, start, stop)


def _write_sampler(work: Work, fields: Fields, start: datetime, stop: datetime) -> str:
    from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

    def data(piece: Piece, arrays: dict[str, Array]) -> Any:
        kept = {
            name: BitArray.from_bool_array(array, order="little") if array.dtype == np.bool_ else array
            for name, array in arrays.items()
        }
        return DataBin(**kept, shape=piece.sweep)

    results = [
        SamplerPubResult(data(piece, arrays), {"circuit_metadata": piece.circuit.metadata or {}})
        for piece, arrays in zip(work.pieces, fields, strict=True)
    ]
    shapes = {index: (*piece.sweep, piece.shots) for index, piece in enumerate(work.pieces)}
    metadata: dict[str, Any] = {
        "execution": {"execution_spans": ibm.execution_spans([(start, stop, shapes)])},
        "version": 2,
    }
    if work.form["not_applied"]:
        metadata["not_applied"] = work.form["not_applied"]  # not IBM's word
    return ibm.encode_json(PrimitiveResult(results, metadata=metadata))


def _write_plain(work: Work, fields: Fields) -> str:
    def samples(array: Array) -> list[str]:
        flat = array.reshape(-1, array.shape[-1])
        packed = np.packbits(flat, axis=1, bitorder="little")[:, ::-1]
        return [hex(int.from_bytes(row.tobytes(), "big")) for row in packed]

    results = [
        {"data": {n: {"samples": samples(a), "num_bits": a.shape[-1]} for n, a in arrays.items()}, "metadata": {}}
        for arrays in fields
    ]
    return json.dumps({"results": results, "metadata": {}})


def _write_executor(work: Work, fields: Fields, start: datetime, stop: datetime) -> str:
    version = work.form["schema_version"]
    compressed = version == "v2.0"
    data = [
        {
            "results": {name: _tensor(array, compressed) for name, array in {**arrays, **piece.extras}.items()},
            "metadata": None if version == "v0.1" else {"scheduler_timing": None, "stretch_values": None},
        }
        for piece, arrays in zip(work.pieces, fields, strict=True)
    ]
    parts = [_chunk_part(index, piece, version) for index, piece in enumerate(work.pieces)]
    span = {"start": start.isoformat(), "stop": stop.isoformat(), "parts": parts}
    result: dict[str, Any] = {"schema_version": version, "data": data, "metadata": {"chunk_timing": [span]}}
    if version != "v0.1":
        result["passthrough_data"] = work.form["passthrough_data"]
    if version not in ("v0.1", "v0.2"):
        result["semantic_role"] = work.form["semantic_role"]
    return json.dumps(result)


def _chunk_part(index: int, piece: Piece, version: str) -> dict[str, Any]:
    size = int(np.prod(piece.sweep, dtype=int))
    part: dict[str, Any] = {"idx_item": index, "size": size}
    if version not in ("v0.1", "v0.2"):
        part |= {"permutation": list(range(len(piece.sweep))), "element_range": [0, size, 1]}
    return part


_DTYPES = {"b": "bool", "f": "f64", "c": "c128", "u": "u8"}


def _tensor(array: Array, compressed: bool) -> dict[str, Any]:
    if array.dtype == np.bool_:
        raw = np.packbits(array.reshape(-1), bitorder="little").tobytes()
    else:
        raw = np.ascontiguousarray(array).tobytes()
    body = zlib.compress(raw, 1) if compressed else raw
    kind = _DTYPES.get(array.dtype.kind, "f64")
    return {"data": base64.b64encode(body).decode(), "shape": list(array.shape), "dtype": kind}


def registers(circuit: QuantumCircuit) -> dict[str, list[int]]:
    """Each classical register's bits as indices into the circuit's clbits."""
    return {
        register.name: [circuit.find_bit(bit).index for bit in register] for register in circuit.cregs if len(register)
    }


def fields_of(piece: Piece, bits: Sequence[Array]) -> dict[str, Array]:
    """Registers of a piece from the bits of its sweep's points, each of shape (shots, clbits)."""
    stacked = np.stack(list(bits)) if bits else np.zeros((0, piece.shots, piece.circuit.num_clbits), dtype=np.bool_)
    shape = (*piece.sweep, piece.shots)
    return {
        name: stacked[:, :, indices].reshape(*shape, len(indices)) for name, indices in registers(piece.circuit).items()
    }
