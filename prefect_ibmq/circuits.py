"""What users pass as circuits -> one list of `CircuitInput`, and the checks before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_ibmq import circuit_files, ibm
from prefect_ibmq.circuit_files import NamedCircuit, automatic_name
from prefect_ibmq.errors import CircuitError
from prefect_ibmq.refusals import refuse_program
from prefect_ibmq.wording import some

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import Clbit
    from qiskit.primitives.containers.bindings_array import BindingsArray
    from qiskit.primitives.containers.sampler_pub import SamplerPub
    from qiskit.transpiler import Target

    from prefect_ibmq.observables import Observed

__all__ = ["CircuitInput", "bound_to", "check_isa", "check_runnable", "executions", "load_circuits", "measured_bits"]

_TOLD = 5  # problems in one error message; the rest is counted


@dataclass(frozen=True, slots=True, eq=False)
class CircuitInput:
    """One circuit of a set, as it was given.

    Attributes:
        position: Its place in the set, from 0; the only thing that tells two equal circuits apart.
        name: Its own name, its file's stem, or `circuit_<position>`.
        circuit: The caller's object. It is not changed and must not be.
        parameter_values: A `BindingsArray` of its parameters in the circuit's order, or None where it has none.
        shots: Shots of this circuit, or None for the set's.
        observed: What the estimator is asked for, or None.
        source: `circuit`, `PUB`, `OpenQASM text`, or the file's path (with `[index]` for one of many in QPY).
    """

    position: int
    name: str
    circuit: QuantumCircuit
    parameter_values: BindingsArray | None = None
    shots: int | None = None
    source: str = "circuit"
    observed: Observed | None = None

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"Circuit {self.name!r} (position {self.position}, {self.source})"

    @property
    def bindings(self) -> int:
        """How many sets of parameter values it runs with; 1 without parameters."""
        return 1 if self.parameter_values is None else int(self.parameter_values.size)

    def pub(self, circuit: QuantumCircuit | None = None, shots: int | None = None) -> SamplerPub:
        """The PUB of this circuit, or of the ISA circuit made of it; `shots` where it has none of its own."""
        from qiskit.primitives.containers.sampler_pub import SamplerPub

        return SamplerPub(
            circuit=self.circuit if circuit is None else circuit,
            parameter_values=self.parameter_values,
            shots=self.shots if self.shots is not None else shots,
        )


def load_circuits(circuits: object, *, shots: int | None = None) -> list[CircuitInput]:
    """Read circuits from whatever they come as.

    Args:
        circuits: A `QuantumCircuit`, a PUB (a `SamplerPub`, or a tuple of circuit, parameter values and shots; its
            circuit may also be text or a file with one circuit), OpenQASM 2 or 3 text, the path of a `.qasm`,
            `.qasm2`, `.qasm3` or `.qpy` file or of a folder with such, or a sequence of these (one level deep).
        shots: For the circuits that bring no shots of their own.

    Raises:
        CircuitError: One of them cannot be read; value, rule and way out are told.
        NotOffered: One of them is a Qobj or a pulse schedule.
    """
    default = _checked_shots(shots, "The call")
    read = list(_flat(circuits))
    if not read:
        raise CircuitError("There are no circuits: the list is empty.", hint="Pass at least one.")
    return [_input(position, one, default) for position, one in enumerate(read)]


def bound_to(inputs: Sequence[CircuitInput], parameter_binds: object) -> list[CircuitInput]:
    """Each circuit with all binds, as one sweep: m circuits and n binds are m PUBs of n elements.

    Args:
        inputs: Circuits that bring no values of their own.
        parameter_binds: A sequence of mappings of a parameter (or its name) to a number, or of a vector of parameters
            to as many numbers. Each must name every parameter of each circuit, and no other.

    Raises:
        CircuitError: Naming circuit or bind, what is wrong, and the way out.
    """
    from qiskit.primitives.containers.bindings_array import BindingsArray

    if isinstance(parameter_binds, str | Mapping) or not isinstance(parameter_binds, Sequence) or not parameter_binds:
        raise CircuitError(
            f"parameter_binds={repr(parameter_binds)[:80]} cannot be.",
            hint="Pass a list with a mapping of parameters to numbers for each bind: [{theta: 0.1}, {theta: 0.2}].",
        )
    binds = [_bind(index, one) for index, one in enumerate(parameter_binds)]
    bound = []
    for one in inputs:
        if one.parameter_values is not None:
            raise CircuitError(
                f"{one.label} brings parameter values, and there are parameter_binds.", hint="Use one of the two."
            )
        names = tuple(str(parameter.name) for parameter in one.circuit.parameters)
        for index, bind in enumerate(binds):
            if sorted(bind) != sorted(names):
                raise CircuitError(
                    f"{one.label}, bind {index}: {_misfit(list(bind), names)}.",
                    hint="Each bind names every parameter of each circuit.",
                )
        rows = [[bind[name] for name in names] for bind in binds]
        values = BindingsArray({names: rows} if names else None, shape=(len(binds),))
        bound.append(replace(one, parameter_values=values))
    return bound


def _bind(index: int, bind: object) -> dict[str, float]:
    if not isinstance(bind, Mapping):
        raise CircuitError(
            f"Bind {index} is {repr(bind)[:80]}, not a mapping.", hint="Map parameters to numbers: {theta: 0.1}."
        )
    values: dict[str, float] = {}
    for key, value in bind.items():
        for name, number in _named_numbers(index, key, value):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise CircuitError(
                    f"Bind {index} gives {repr(number)[:80]} to {name!r}, which is no real number.",
                    hint="A bind has one number for each parameter; more values are more binds.",
                )
            values[name] = float(number)
    return values


def _named_numbers(index: int, key: object, value: object) -> Iterable[tuple[str, object]]:
    """One pair for a parameter or its name, one for each parameter of a vector."""
    if isinstance(key, str) or not isinstance(key, Iterable):
        return [(str(getattr(key, "name", key)), value)]
    names, numbers = [str(one.name) for one in key], list(value) if isinstance(value, Iterable) else [value]
    if len(names) != len(numbers):
        raise CircuitError(
            f"Bind {index} gives {len(numbers)} numbers to {getattr(key, 'name', key)}, a vector of {len(names)}.",
            hint="Give one number for each of its parameters.",
        )
    return zip(names, numbers, strict=True)


def executions(one: CircuitInput, shots: int | None = None) -> int:
    """How often the device runs it: its shots (or `shots`, where it has none) for each set of parameter values.

    Raises:
        CircuitError: Neither it nor the call says how many shots.
    """
    count = one.shots if one.shots is not None else _checked_shots(shots, one.label)
    if count is None:
        raise CircuitError(f"{one.label} has no shots.", hint="Pass `shots`.")
    return count * one.bindings


def check_runnable(
    inputs: Sequence[CircuitInput],
    *,
    shots: int | None,
    max_shots: int | None = None,
    num_qubits: int | None = None,
    measured: bool = True,
) -> None:
    """Refuse what would fail on the service, or be charged for in vain. The ISA is not looked at.

    Args:
        inputs: What is to run.
        shots: For the circuits that have none of their own; None leaves the number to the service.
        max_shots: The most that the backend takes in one circuit, if known.
        num_qubits: The backend's width, if known.
        measured: Whether they are to measure something themselves; the estimator adds its own measurements.

    Raises:
        CircuitError: Naming each circuit, what is wrong and the way out.
    """
    default = _checked_shots(shots, "The call")
    problems = [
        f"{one.label} {problem}"
        for one in inputs
        for problem in _problems(one, one.shots if one.shots is not None else default, max_shots, num_qubits, measured)
    ]
    _refuse(problems)


def check_isa(inputs: Sequence[CircuitInput], target: Target) -> None:
    """Refuse circuits that are not ISA circuits of a target: the service would fail them, and charge for it.

    Raises:
        CircuitError: Naming each circuit, the instruction and the way out.
    """
    problems = [
        f"{one.label} is no ISA circuit: {said}" for one in inputs if (said := ibm.isa_problem(one.circuit, target))
    ]
    _refuse(problems, hint="Let it be transpiled for this backend (on by default), or transpile it for its target.")


def _refuse(problems: list[str], *, hint: str = "") -> None:
    if not problems:
        return
    more = f" (and {len(problems) - _TOLD} more problems)" if len(problems) > _TOLD else ""
    raise CircuitError(" ".join(problems[:_TOLD]) + more, hint=hint)


def _problems(
    one: CircuitInput, shots: int | None, max_shots: int | None, num_qubits: int | None, measured: bool
) -> Iterator[str]:
    circuit = one.circuit
    if num_qubits is not None and circuit.num_qubits > num_qubits:
        yield f"needs {circuit.num_qubits} qubits and the backend has {num_qubits}: choose a wider backend."
    yield from _output_problems(circuit) if measured else ()
    yield from _parameter_problems(one)
    if shots is not None and max_shots is not None and shots > max_shots:
        yield f"asks for {shots:,} shots and the limit is {max_shots:,}: split it into several circuits."


def _output_problems(circuit: QuantumCircuit) -> Iterator[str]:
    if circuit.num_clbits == 0:
        yield "has no classical bits, so there is nothing to count: add `measure_all()`."
    elif not circuit.cregs:
        yield "keeps its classical bits in no register, so none is returned: add a `ClassicalRegister`."
    elif not _measures(circuit):
        yield "has no measurement: add `measure` or `measure_all()`."
    if circuit.num_input_vars or circuit.num_captured_vars or circuit.num_captured_stretches:
        yield "waits for input or captured variables, which nobody sets: declare them with a value."


def _parameter_problems(one: CircuitInput) -> Iterator[str]:
    names = [str(parameter.name) for parameter in one.circuit.parameters]
    if one.parameter_values is None:
        if names:
            yield f"has unbound parameters ({some(names)}): pass (circuit, values), or bind them."
        return
    if one.parameter_values.size == 0:
        yield f"has an empty set of parameter values (shape {one.parameter_values.shape}): it would not run at all."
    import numpy as np

    for keys, array in one.parameter_values.data.items():
        bad = [
            str(name)
            for name, column in zip(keys, np.moveaxis(array, -1, 0), strict=True)
            if not np.isfinite(column).all()
        ]
        if bad:
            yield f"has values that are not finite numbers (NaN or infinite) for {some(bad)}."


def measured_bits(circuit: QuantumCircuit) -> set[Clbit]:
    """The classical bits that a circuit measures into, in its control flow, too."""
    found: set[Clbit] = set()
    for step in circuit.data:
        for block in step.operation.blocks if step.is_control_flow() else ():
            inner = measured_bits(block)
            found.update(bit for bit, of_block in zip(step.clbits, block.clbits, strict=True) if of_block in inner)
        if step.name.startswith("measure"):
            found.update(step.clbits)
    return found


def _measures(circuit: QuantumCircuit) -> bool:
    return any(
        any(_measures(block) for block in step.operation.blocks)
        if step.is_control_flow()
        else bool(step.clbits) and step.name not in {"break_loop", "continue_loop", "barrier"}
        for step in circuit.data
    )


def _checked_shots(shots: object, who: str) -> int | None:
    if shots is None:
        return None
    if isinstance(shots, bool) or not isinstance(shots, Integral) or int(shots) < 1:
        raise CircuitError(f"{who} asks for {shots!r} shots.", hint="Shots are a whole number from 1 up.")
    return int(shots)


@dataclass(frozen=True, slots=True)
class _Given:
    """A circuit that was read, with what came along in a PUB."""

    read: NamedCircuit
    values: object = None
    shots: object = None


def _input(position: int, given: _Given, shots: int | None) -> CircuitInput:
    read = given.read
    name = read.name if read.name and not automatic_name(read.name) else f"circuit_{position}"
    label = f"Circuit {name!r} (position {position}, {read.source})"
    own = _checked_shots(given.shots, label)
    return CircuitInput(
        position=position,
        name=name,
        circuit=read.circuit,
        parameter_values=_bound(read.circuit, given.values, label),
        shots=own if own is not None else shots,
        source=read.source,
    )


def _bound(circuit: QuantumCircuit, values: object, label: str) -> BindingsArray | None:
    """Values by parameter, in the circuit's order, whatever shape of PUB they came in."""
    from qiskit.primitives.containers.bindings_array import BindingsArray

    names = tuple(str(parameter.name) for parameter in circuit.parameters)
    if values is None:
        return None
    try:
        by_name = values if isinstance(values, BindingsArray | Mapping) else {names: values}
        bindings = BindingsArray.coerce(by_name)
    except (TypeError, ValueError, KeyError) as error:
        why = str(error).rstrip(".")
        raise CircuitError(
            f"{label}: its parameter values do not fit its {len(names)} parameters ({some(names)}): {why}.",
            hint="Pass a mapping of names to values, or an array whose last axis has one entry for each parameter.",
        ) from error
    given = [str(name) for keys in bindings.data for name in keys]
    if sorted(given) != sorted(names):
        raise CircuitError(f"{label}: {_misfit(given, names)}.", hint="Give each parameter of the circuit its values.")
    if not names:  # a shape without parameters repeats the circuit
        return BindingsArray(shape=bindings.shape) if bindings.shape else None
    return BindingsArray({names: bindings.as_array(names)}, shape=bindings.shape)


def _misfit(given: Sequence[str], names: Sequence[str]) -> str:
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    said = [f"no values for {some(missing)}"] if missing else []
    said += [f"values for {some(unknown)}, which it does not have"] if unknown else []
    return "its parameter values hold " + " and ".join(said or ["a parameter twice"])


def _flat(circuits: object) -> Iterator[_Given]:
    if (single := _single(circuits)) is not None:
        yield from single
        return
    for one in _members(circuits):
        if (single := _single(one)) is not None:
            yield from single
            continue
        for inner in _members(one):
            if (single := _single(inner)) is None:
                raise _not_a_circuit(inner)
            yield from single


def _members(value: object) -> Iterable[object]:
    if isinstance(value, Mapping | bytes | bytearray | set | frozenset) or not isinstance(value, Iterable):
        raise _not_a_circuit(value)
    from qiskit.circuit import CircuitInstruction, QuantumRegister

    if isinstance(value, CircuitInstruction | QuantumRegister):
        raise _not_a_circuit(value)
    return value


def _not_a_circuit(value: object) -> CircuitError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return CircuitError(
        f"A {kind} is not a circuit: {repr(value)[:80]}.",
        hint="Pass a QuantumCircuit, a PUB tuple, OpenQASM text, a file or a folder, or a list of these.",
    )


def _single(value: object) -> list[_Given] | None:
    """The circuits of anything but a sequence; None for a sequence."""
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    refuse_program(value)
    if isinstance(value, SamplerPub):
        read = NamedCircuit(value.circuit, value.circuit.name, "PUB")
        values = value.parameter_values
        return [_Given(read, values if values.num_parameters or values.shape else None, value.shots)]
    if isinstance(value, QuantumCircuit):
        return [_Given(NamedCircuit(value, value.name, "circuit"))]
    if isinstance(value, str) and circuit_files.looks_like_openqasm(value):
        return [_Given(NamedCircuit(circuit_files.read_text(value), None, "OpenQASM text"))]
    if isinstance(value, str | PathLike):
        return [_Given(one) for one in circuit_files.read_path(Path(_text_path(value)))]
    if isinstance(value, tuple) and _is_pub(value):
        return [_pub(value)]
    return None


def _text_path(value: str | PathLike[Any]) -> str:
    text = str(value)
    if not text.strip():
        raise CircuitError("An empty text is neither OpenQASM nor a path.", hint="Pass OpenQASM text or a file.")
    return text


def _is_pub(value: tuple[object, ...]) -> bool:
    """A tuple is a PUB if what follows its circuit is no circuit."""
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    circuit = QuantumCircuit | str | PathLike
    if not value or not isinstance(value[0], circuit):
        return False
    return len(value) > 1 and not isinstance(value[1], circuit | SamplerPub) and not _holds_circuits(value[1])


def _holds_circuits(value: object) -> bool:
    from qiskit import QuantumCircuit

    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], QuantumCircuit | str | PathLike)


def _pub(value: tuple[object, ...]) -> _Given:
    if len(value) > 3:
        raise CircuitError(
            f"A PUB has up to three parts (circuit, parameter values, shots), not {len(value)}.",
            hint="Put several circuits into a list.",
        )
    circuits = _single(value[0])
    if circuits is None or len(circuits) != 1:
        raise CircuitError(
            f"The PUB of {str(value[0])[:80]!r} has {len(circuits or ())} circuits.", hint="A PUB has one circuit."
        )
    values, shots = (*value[1:], None, None)[:2]
    read = circuits[0].read
    source = "PUB" if read.source == "circuit" else read.source
    return _Given(NamedCircuit(read.circuit, read.name, source), values, shots)
