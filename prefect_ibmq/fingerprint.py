"""Content keys: the same circuit, values or target give the same text, whoever asks, wherever and whenever.

Content is walked into plain tuples of text, numbers and None, and the `ascii()` of those is hashed: exact for floats
and the same in every process, under every hash seed, on every machine. Pickle, QPY and OpenQASM text are not hashed:
they carry random identifiers, versions and rounded angles.

What a circuit's key leaves out is what no run can see: its name, metadata and layout, the identity of its parameters,
the numbers that qiskit gives to what nobody named (`circuit-164`, `q3`, `c3`, `_loop_i_2`), and the order of the
qubits of a control-flow block, which follows from where objects lie in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import CircuitError, InputError

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

__all__ = [
    "circuit_fingerprint",
    "target_fingerprint",
    "values_fingerprint",
]

FORMAT = 1  # raise it when what is hashed changes: all keys change with it

_UNNAMED_CIRCUIT = re.compile(r"circuit-\d+(?:-\d+)*")
_UNNAMED_REGISTER = re.compile(r"[qca](\d+)")
_JUMPS = frozenset({"break_loop", "continue_loop"})
# Operations that their parameters describe completely. Their definitions are synthesised, by another algorithm in
# another release, so they are not looked at.
_TOLD_BY_PARAMS = frozenset(
    {
        "Barrier", "Delay", "DiagonalGate", "GlobalPhaseGate", "Initialize", "LinearFunction", "Measure", "PauliGate",
        "PermutationGate", "QFTGate", "Reset", "StatePreparation", "Store", "UnitaryGate",
    }
)  # fmt: skip


def circuit_fingerprint(circuit: QuantumCircuit) -> str:
    """The sha256 (hex) of what a circuit does.

    In it: registers (names, sizes, order), operations with exact parameters and bit indices, definitions of custom
    gates, control flow with its conditions, variables, delays with their units, annotations, labels, parameter names
    in order and the global phase. Not in it: see the module. Registers that qiskit named itself (`q3`, `c3`) count by
    their order only, so that building the same circuit again in one process gives the same key.

    Raises:
        CircuitError: It holds something that cannot be walked; the type is named.
    """
    return _digest(("circuit", FORMAT, _Walk().circuit(circuit)))


def values_fingerprint(value: object) -> str:
    """The sha256 (hex) of nested plain values and arrays, exactly.

    Takes None, bool, numbers, text, bytes, dates, paths, enum members, arrays, qiskit's `BindingsArray`, dataclasses,
    and mappings, sequences and sets of these. The order of keys and of a set's members does not matter, a list equals
    a tuple (JSON makes one of the other), and 1, 1.0, True and "1" are four values.

    Raises:
        InputError: A value is of another type, which is named.
    """
    return _digest(("values", FORMAT, _plain(value, _refuse_value)))


def target_fingerprint(target: Target) -> str:
    """The sha256 (hex) of a target: its operations, durations, errors, qubit properties and timing rules."""
    operations = sorted(
        (_target_operation(target, name) for name in target.operation_names), key=lambda entry: str(entry[0])
    )
    timing = (
        target.dt,
        target.granularity,
        target.min_length,
        target.pulse_alignment,
        target.acquire_alignment,
    )
    limits = _plain([target.num_qubits, timing, target.concurrent_measurements], _refuse_value)
    return _digest(("target", FORMAT, limits, _target_qubits(target), tuple(operations)))


def _digest(tree: object) -> str:
    return hashlib.sha256(ascii(tree).encode("ascii")).hexdigest()


def _target_operation(target: Target, name: str) -> tuple[object, ...]:
    operation = target.operation_from_name(name)
    kind: object = operation.__name__ if isinstance(operation, type) else _Walk().operation(operation)
    places = [
        (
            None if qubits is None else tuple(qubits),
            None if found is None else (found.duration, found.error),
        )
        for qubits, found in (target[name] or {}).items()
    ]
    # Named from qiskit 2.2 on.
    bounded = getattr(target, "gate_has_angle_bounds", lambda _: False)(name)
    return name, kind, bounded, tuple(sorted(places, key=ascii))


def _target_qubits(target: Target) -> object:
    if target.qubit_properties is None:
        return None
    names = ("t1", "t2", "frequency")
    return tuple(
        None if one is None else tuple(getattr(one, name, None) for name in names) for one in target.qubit_properties
    )


def _refuse_value(value: object) -> object:
    raise InputError(
        f"A value of type {type(value).__module__}.{type(value).__qualname__} cannot be part of a key.",
        hint="Pass plain values: text, numbers, arrays, and mappings or sequences of these.",
    )


def _plain(value: object, other: Callable[[object], object]) -> object:
    """Tuples of builtin values that stand for `value`; `other` is asked about types that are not known here."""
    simple = _scalar(value)
    if simple is not _UNKNOWN:
        return simple
    if isinstance(value, Mapping):
        pairs = ((_plain(key, other), _plain(item, other)) for key, item in value.items())
        return ("map", *sorted(pairs, key=ascii))
    if isinstance(value, list | tuple):
        return ("list", *(_plain(item, other) for item in value))
    if isinstance(value, range):
        return ("range", value.start, value.stop, value.step)
    if isinstance(value, set | frozenset):
        return ("set", *sorted((_plain(item, other) for item in value), key=ascii))
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return _array(value, other)
    if type(value).__name__ == "BindingsArray":
        return _bindings(value, other)
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: getattr(value, field.name) for field in fields(value)}
        return type(value).__qualname__, _plain(told, other)
    return other(value)


_UNKNOWN = object()


def _scalar(value: object) -> object:
    if isinstance(value, Enum):
        return "enum", type(value).__name__, value.name
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    for kind in (int, float, str):  # subclasses, numpy's float64 and str_ among them, print differently
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, complex):
        return "complex", float(value.real), float(value.imag)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, date):
        return "time", value.isoformat()
    if isinstance(value, PathLike):
        return "path", fspath(value)
    return _UNKNOWN


def _array(value: Any, other: Callable[[object], object]) -> object:
    import numpy as np

    array = np.asarray(value)
    if array.ndim == 0 and isinstance(value, np.generic):
        return _plain(array.item(), other)
    if array.dtype.kind not in "biufc":
        return "array", array.shape, _plain(array.ravel().tolist(), other)
    # One byte order and one layout, so that machines and views agree.
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    name = f"{array.dtype.kind}{array.dtype.itemsize}"
    return "array", name, array.shape, hashlib.sha256(little.tobytes()).hexdigest()


def _bindings(value: Any, other: Callable[[object], object]) -> object:
    """Values by parameter, however they were grouped."""
    import numpy as np

    columns = {
        name: np.asarray(array, dtype=float)[..., index]
        for names, array in value.data.items()
        for index, name in enumerate(names)
    }
    return "bindings", tuple(value.shape), _plain(columns, other)


def _register_names(registers: Iterable[Any]) -> tuple[str, ...]:
    """Names as given; of those that qiskit made up (`q17`) only their order."""
    names = [str(register.name) for register in registers]
    numbers = sorted({int(found[1]) for name in names if (found := _UNNAMED_REGISTER.fullmatch(name))})
    ranks = {number: rank for rank, number in enumerate(numbers)}
    return tuple(
        f"{name[0]}#{ranks[int(found[1])]}" if (found := _UNNAMED_REGISTER.fullmatch(name)) else name for name in names
    )


class _Walk:
    """One walk over one circuit. Bits are told by their index in the outermost circuit or definition."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, object]] = {}
        self._loop_names: dict[Any, Any] = {}

    def circuit(self, circuit: QuantumCircuit) -> tuple[object, ...]:
        """All that a whole circuit is; its registers are told too."""
        qubits = {bit: index for index, bit in enumerate(circuit.qubits)}
        clbits = {bit: index for index, bit in enumerate(circuit.clbits)}
        registers = tuple(
            tuple(
                (name, tuple(bits[bit] for bit in register))
                for name, register in zip(_register_names(kind), kind, strict=True)
            )
            for kind, bits in ((circuit.qregs, qubits), (circuit.cregs, clbits))
        )
        return registers, self.body(circuit, qubits, clbits)

    def body(self, circuit: QuantumCircuit, qubits: dict[Any, int], clbits: dict[Any, int]) -> object:
        """What a circuit does, its bits told by the given indices."""
        scope = (
            tuple(self._variable(one) for one in circuit.iter_input_vars()),
            # Captures lie in a set's order in blocks that the builder made.
            tuple(sorted((self._variable(one) for one in circuit.iter_captures()), key=ascii)),
            tuple(self._variable(one) for one in circuit.iter_declared_vars()),
            tuple(self._variable(one) for one in circuit.iter_declared_stretches()),
        )
        parameters = tuple(str(one.name) for one in circuit.parameters if one not in self._loop_names)
        phase = self.value(circuit.global_phase)
        steps = tuple(self._step(one, qubits, clbits) for one in circuit.data)
        return (len(qubits), len(clbits)), scope, parameters, phase, steps

    def _step(self, step: Any, qubits: dict[Any, int], clbits: dict[Any, int]) -> tuple[object, ...]:
        if step.is_control_flow() or step.name in _JUMPS:
            return self._control_flow(step, qubits, clbits)
        on = tuple([qubits[bit] for bit in step.qubits])
        if step.is_standard_gate():
            told: object = step.name, tuple([self._angle(one) for one in step.params]), step.label
            return told, on
        into = tuple([clbits[bit] for bit in step.clbits])
        return self.operation(step.operation, clbits), on, into

    def _angle(self, value: Any) -> object:
        return value if type(value) is float else self.value(value)

    def operation(self, operation: Any, clbits: dict[Any, int] | None = None) -> object:
        """What an operation is, apart from where it acts."""
        if type(operation).__name__ == "Store":
            return "store", tuple(self._expression(one, clbits or {}) for one in operation.params)
        if self._loop_names:
            return self._operation(operation)  # the names of loop parameters depend on where it stands
        if (known := self._seen.get(id(operation))) is not None:
            return known[1]
        told = self._operation(operation)
        # Held, so that no other object gets its id while this walk lasts.
        self._seen[id(operation)] = (operation, told)
        return told

    def _operation(self, operation: Any) -> object:
        from qiskit.circuit import AnnotatedOperation, ControlledGate

        if isinstance(operation, AnnotatedOperation):
            modifiers = tuple(self._object(one) for one in operation.modifiers)
            return "annotated", self.operation(operation.base_op), modifiers
        kind = getattr(operation, "base_class", type(operation))
        name = _UNNAMED_CIRCUIT.sub("circuit-", str(operation.name))
        size = (operation.num_qubits, operation.num_clbits)
        label = getattr(operation, "label", None)
        params = tuple(self.value(one) for one in getattr(operation, "params", ()))
        if isinstance(operation, ControlledGate):
            inner: object = (operation.num_ctrl_qubits, operation.ctrl_state, self.operation(operation.base_gate))
        elif kind.__name__ in _TOLD_BY_PARAMS and kind.__module__.startswith("qiskit."):
            inner = kind.__name__, getattr(operation, "unit", None), bool(getattr(operation, "inverse", False) is True)
        else:
            inner = self._insides(operation, kind)
        return name, size, label, params, inner

    def _insides(self, operation: Any, kind: type) -> object:
        if kind.__name__ == "PauliEvolutionGate":
            return "evolution", self.value(operation.operator), self._object(operation.synthesis)
        if kind.__name__ == "Clifford":
            return "clifford", self.value(operation.tableau)
        definition = getattr(operation, "definition", None)
        return None if definition is None else self._definition(definition)

    def _definition(self, definition: QuantumCircuit) -> object:
        qubits = {bit: index for index, bit in enumerate(definition.qubits)}
        clbits = {bit: index for index, bit in enumerate(definition.clbits)}
        return self.body(definition, qubits, clbits)

    def _control_flow(self, step: Any, qubits: dict[Any, int], clbits: dict[Any, int]) -> tuple[object, ...]:
        operation = step.operation
        on = tuple(sorted(qubits[bit] for bit in step.qubits))
        into = tuple(sorted(clbits[bit] for bit in step.clbits))
        if step.name in _JUMPS:
            return step.name, on, into
        return step.name, step.label, self._head(operation, clbits), on, into, self._blocks(step, qubits, clbits)

    def _blocks(self, step: Any, qubits: dict[Any, int], clbits: dict[Any, int]) -> tuple[object, ...]:
        variable = step.operation.params[1] if step.name == "for_loop" else None
        if variable is not None:
            self._loop_names[variable] = f"<loop {len(self._loop_names)}>"
        bodies = tuple(
            self.body(
                block,
                {inner: qubits[outer] for inner, outer in zip(block.qubits, step.qubits, strict=True)},
                {inner: clbits[outer] for inner, outer in zip(block.clbits, step.clbits, strict=True)},
            )
            for block in step.operation.blocks
        )
        if variable is not None:
            del self._loop_names[variable]
        return bodies

    def _head(self, operation: Any, clbits: dict[Any, int]) -> object:
        """What decides how often and with what a block runs."""
        name = operation.name
        if name in {"if_else", "while_loop"}:
            return self._condition(operation.condition, clbits)
        if name == "for_loop":
            indices, variable, _ = operation.params
            return self.value(indices), None if variable is None else type(variable).__name__
        if name == "switch_case":
            labels = tuple(tuple(str(label) for label in case) for case, _ in operation.cases_specifier())
            return self._condition(operation.target, clbits), labels
        if name == "box":
            notes = tuple(self._object(one) for one in operation.annotations)
            return self.value(operation.duration), operation.unit, notes
        return self._object(operation)

    def _condition(self, condition: Any, clbits: dict[Any, int]) -> object:
        """A condition is an expression, or a bit or register with the value that it must have."""
        if isinstance(condition, tuple):
            place, value = condition
            return "equals", self._place(place, clbits), int(value)
        return self._expression(condition, clbits)

    def _place(self, place: Any, clbits: dict[Any, int]) -> tuple[int, ...]:
        from qiskit.circuit import Clbit

        return (clbits[place],) if isinstance(place, Clbit) else tuple(clbits[bit] for bit in place)

    def _expression(self, node: Any, clbits: dict[Any, int]) -> object:
        from qiskit.circuit.classical import expr

        if not isinstance(node, expr.Expr):
            return self._place(node, clbits)
        kind, type_ = type(node).__name__, str(node.type)
        if isinstance(node, expr.Var | expr.Stretch):
            if not isinstance(node, expr.Stretch) and not node.standalone:
                return kind, type_, self._place(node.var, clbits)
            return self._variable(node)
        if isinstance(node, expr.Value):
            return kind, type_, self.value(node.value)
        operator = str(node.op) if hasattr(node, "op") else None
        names = ("operand", "left", "right", "target", "index")
        parts = (self._expression(getattr(node, one), clbits) for one in names if hasattr(node, one))
        return kind, type_, operator, *parts

    def _variable(self, node: Any) -> tuple[str, str, str]:
        return type(node).__name__, str(node.type), str(self._loop_names.get(node, node.name))

    def value(self, value: Any) -> object:
        """A parameter of an operation, whatever it may be. An integer equals the float of that value."""
        if type(value) is int:
            return float(value) if abs(value) <= 2**53 else value
        return _plain(value, self._object)

    def _object(self, value: Any) -> object:
        """What `_plain` does not know: parts of circuits, and objects of other packages by their attributes."""
        from qiskit import QuantumCircuit
        from qiskit.circuit import Operation, ParameterExpression
        from qiskit.circuit.classical import expr
        from qiskit.quantum_info import SparsePauliOp

        if isinstance(value, ParameterExpression):
            return self._parameters(value)
        if isinstance(value, SparsePauliOp):
            return "paulis", tuple(value.paulis.to_labels()), tuple(self.value(one) for one in value.coeffs)
        if isinstance(value, QuantumCircuit):
            return self._definition(value)
        if isinstance(value, Operation):
            return self.operation(value)
        if isinstance(value, expr.Expr):
            return self._expression(value, {})
        if hasattr(value, "__qualname__"):
            return "named", str(value.__module__), str(value.__qualname__)
        return self._attributes(value)

    def _attributes(self, value: Any) -> object:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        names = sorted({*slots, *getattr(value, "__dict__", {})} - {"__dict__", "__weakref__"})
        faceless = repr(value) == object.__repr__(value)
        if not names and faceless and not hasattr(value, "namespace"):
            raise CircuitError(
                f"A {type(value).__module__}.{type(value).__qualname__} in a circuit cannot be part of its key: "
                "it has no attributes to walk.",
                hint="Take it out of the circuit, or give its class attributes.",
            )
        told = tuple((name, self.value(getattr(value, name, None))) for name in names)
        return type(value).__qualname__, str(getattr(value, "namespace", "")), told or (faceless or repr(value))

    def _parameters(self, expression: Any) -> object:
        """An expression in qiskit's own normal form, which is exact and orders terms by name."""
        if not expression.parameters:
            return self.value(expression.numeric())
        loops = {one: name for one, name in self._loop_names.items() if one in expression.parameters}
        if loops:
            from qiskit.circuit import Parameter

            expression = expression.subs({one: Parameter(name) for one, name in loops.items()})
        return "expression", str(expression), tuple(sorted(str(one.name) for one in expression.parameters))


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
