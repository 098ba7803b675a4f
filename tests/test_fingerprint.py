"""Keys are the same for the same content and differ for any other, in every process."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit, qasm2, qasm3, qpy
from qiskit.circuit import (
    AnnotatedOperation,
    Annotation,
    CircuitInstruction,
    ClassicalRegister,
    ControlModifier,
    Gate,
    InverseModifier,
    Parameter,
    ParameterVector,
    QuantumRegister,
)
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import PauliEvolutionGate, QFTGate, StatePreparation, UnitaryGate, XGate
from qiskit.circuit.random import random_circuit
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.quantum_info import Clifford, SparsePauliOp
from qiskit.synthesis import LieTrotter, SuzukiTrotter

from prefect_ibmq import ibm
from prefect_ibmq.errors import CircuitError, InputError
from prefect_ibmq.fingerprint import (
    circuit_fingerprint,
    target_fingerprint,
    values_fingerprint,
)


def rich_circuit() -> QuantumCircuit:
    """Something of everything."""
    theta, phi = Parameter("θ"), Parameter("phi")
    inner = QuantumCircuit(2)
    inner.h(0)
    inner.rzz(theta * 0.1, 0, 1)
    circuit = QuantumCircuit(QuantumRegister(4, "work"), ClassicalRegister(2, "low"), ClassicalRegister(3, "high"))
    circuit.global_phase = phi / 3
    total = circuit.add_var("total", expr.lift(5, types.Uint(8)))
    circuit.append(inner.to_gate(), [2, 1])
    circuit.append(UnitaryGate(np.array([[0, 1j], [-1j, 0]])), [3])
    circuit.initialize([1 / np.sqrt(2), 0, 0, 1j / np.sqrt(2)], [0, 1])
    circuit.delay(120, 2, unit="ns")
    circuit.measure([0, 1], [0, 1])
    with circuit.if_test(expr.bit_and(circuit.clbits[0], expr.less(total, 7))) as otherwise:
        circuit.x(3)
        circuit.cx(1, 2)
    with otherwise, circuit.for_loop(range(3)) as step:
        circuit.rx(step * 0.1 + theta, 1)
        circuit.continue_loop()
    with circuit.while_loop((circuit.cregs[0], 2)):
        circuit.store(total, expr.bit_not(total))
        circuit.measure(3, 4)
    with circuit.switch(circuit.cregs[1]) as case:
        with case(0, 3):
            circuit.sx(0)
        with case(case.DEFAULT):
            circuit.reset(2)
    with circuit.box(duration=2.0, unit="us"):
        circuit.cz(0, 3)
    circuit.measure([2, 3], [2, 3])
    return circuit


def with_steps(circuit: QuantumCircuit, index: int, steps: list[CircuitInstruction]) -> QuantumCircuit:
    """The circuit with the step at `index` replaced."""
    changed = circuit.copy_empty_like()
    for step in [*circuit.data[:index], *steps, *circuit.data[index + 1 :]]:
        changed.append(step)
    return changed


def other_process(code: str, seed: str) -> str:
    root = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def random_one(seed: int, *, flow: bool) -> QuantumCircuit:
    return random_circuit(4, 5, measure=True, conditional=flow, reset=True, seed=seed)


def test_circuit_fingerprint_built_again_is_equal() -> None:
    assert circuit_fingerprint(rich_circuit()) == circuit_fingerprint(rich_circuit())


def test_circuit_fingerprint_other_processes_and_hash_seeds_agree() -> None:
    code = (
        "from test_fingerprint import *\n"
        "[QuantumCircuit(QuantumRegister(1)) for _ in range(7)]\n"
        "print(circuit_fingerprint(rich_circuit()), circuit_fingerprint(random_one(3, flow=True)))"
    )
    here = f"{circuit_fingerprint(rich_circuit())} {circuit_fingerprint(random_one(3, flow=True))}"
    assert {other_process(code, seed) for seed in ("0", "1", "4711")} == {here}


def test_circuit_fingerprint_is_pinned() -> None:
    # A change here changes the key of every set ever submitted: raise FORMAT, and mean it.
    bell = QuantumCircuit(2, 2)
    bell.h(0)
    bell.cx(0, 1)
    bell.rz(0.1, 1)
    bell.measure([0, 1], [0, 1])
    assert circuit_fingerprint(bell) == "179e580b43a2c85a383d1f1e975bd6f82b67868ef53828ee4c34e3bdfe352ba1"
    assert circuit_fingerprint(rich_circuit()) == "78635bc3b70d499eb607b3e208795197f7c4127d68034500c6c092a4bba501c9"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_circuit_fingerprint_copies_are_equal(seed: int, flow: bool) -> None:
    circuit = random_one(seed, flow=flow)
    known = circuit_fingerprint(circuit)
    stream = io.BytesIO()
    qpy.dump(circuit, stream)
    stream.seek(0)
    renamed = circuit.copy(name="another")
    renamed.metadata = {"night": 3}
    for same in (circuit.copy(), copy.deepcopy(circuit), renamed, pickle.loads(pickle.dumps(circuit))):
        assert circuit_fingerprint(same) == known
    assert circuit_fingerprint(qpy.load(stream)[0]) == known
    assert circuit_fingerprint(random_one(seed, flow=flow)) == known


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.data())
def test_circuit_fingerprint_one_step_less_or_moved_differs(seed: int, flow: bool, data: st.DataObject) -> None:
    circuit = random_one(seed, flow=flow)
    known = circuit_fingerprint(circuit)
    index = data.draw(st.integers(0, len(circuit.data) - 1))
    step = circuit.data[index]
    qubits = [circuit.qubits[(circuit.find_bit(bit).index + 1) % 4] for bit in step.qubits]
    assert circuit_fingerprint(with_steps(circuit, index, [])) != known
    moved = circuit_fingerprint(with_steps(circuit, index, [step.replace(qubits=qubits)]))
    assert moved != known


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e300, 1e300), st.booleans())
def test_circuit_fingerprint_next_float_differs(angle: float, up: bool) -> None:
    near = float(np.nextafter(angle, np.inf if up else -np.inf))
    one, two = QuantumCircuit(1), QuantumCircuit(1)
    one.rz(angle, 0)
    two.rz(near, 0)
    assert circuit_fingerprint(one) != circuit_fingerprint(two)
    assert circuit_fingerprint(one) == circuit_fingerprint(one.copy())


def test_circuit_fingerprint_integer_and_float_angle_are_equal() -> None:
    one, two = QuantumCircuit(1), QuantumCircuit(1)
    one.rz(1, 0)
    two.rz(1.0, 0)
    assert circuit_fingerprint(one) == circuit_fingerprint(two)


def gate_of(angle: float, name: str = "mine") -> Gate:
    definition = QuantumCircuit(1)
    definition.rx(angle, 0)
    gate = Gate(name, 1, [])
    gate.definition = definition
    return gate


def boxed(*notes: Annotation) -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    with circuit.box(annotations=notes):
        circuit.cz(0, 1)
    return circuit


class Note(Annotation):
    namespace = "mine.note"

    def __init__(self, strength: float) -> None:
        self.strength = strength


def appended(operation: object, qubits: int = 2) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    circuit.append(operation, range(qubits))
    return circuit


def registers(*names: str, sizes: tuple[int, ...] = (1, 1)) -> QuantumCircuit:
    made = [ClassicalRegister(size, name) for name, size in zip(names, sizes, strict=True)]
    return QuantumCircuit(QuantumRegister(2, "q"), *made)


def flow(value: int = 1, *, loop: range | tuple[int, ...] = range(3), relation: str = "less") -> QuantumCircuit:
    circuit = QuantumCircuit(2, 3)
    with circuit.if_test((circuit.cregs[0], value)):
        circuit.x(0)
    with circuit.if_test(getattr(expr, relation)(circuit.cregs[0], 5)), circuit.for_loop(loop) as step:
        circuit.rx(step, 1)
    return circuit


def delayed(duration: float, unit: str) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.delay(duration, 0, unit=unit)
    return circuit


def stretched(name: str, factor: int) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    stretch = circuit.add_stretch(name)
    circuit.delay(expr.mul(stretch, factor), 0)
    return circuit


def rotated(expression: object) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.rx(expression, 0)
    return circuit


def declared(name: str, kind: types.Type, value: int) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.add_var(name, expr.lift(value, kind))
    return circuit


A, B = Parameter("a"), Parameter("b")
PAIRS: dict[str, tuple[Callable[[], QuantumCircuit], Callable[[], QuantumCircuit]]] = {
    "custom definition": (lambda: appended(gate_of(0.1), 1), lambda: appended(gate_of(0.2), 1)),
    "custom name": (lambda: appended(gate_of(0.1), 1), lambda: appended(gate_of(0.1, "yours"), 1)),
    "gate that borrows a name": (lambda: appended(gate_of(0.1, "x"), 1), lambda: appended(XGate(), 1)),
    "opaque gate": (lambda: appended(Gate("o", 1, [0.1]), 1), lambda: appended(Gate("o", 1, [0.2]), 1)),
    "unitary": (lambda: appended(UnitaryGate(np.eye(2)), 1), lambda: appended(UnitaryGate(1j * np.eye(2)), 1)),
    "prepared state": (lambda: appended(StatePreparation("01")), lambda: appended(StatePreparation("10"))),
    "inverse preparation": (
        lambda: appended(StatePreparation("01")),
        lambda: appended(StatePreparation("01", inverse=True)),
    ),
    "open control": (lambda: appended(XGate().control(1)), lambda: appended(XGate().control(1, ctrl_state=0))),
    "many controls": (lambda: appended(XGate().control(6), 7), lambda: appended(XGate().control(6, ctrl_state=5), 7)),
    "modifier": (
        lambda: appended(AnnotatedOperation(XGate(), ControlModifier(1))),
        lambda: appended(AnnotatedOperation(XGate(), [InverseModifier(), ControlModifier(1)])),
    ),
    "clifford": (lambda: appended(Clifford(XGate()), 1), lambda: appended(Clifford(QuantumCircuit(1)), 1)),
    "qft size": (lambda: appended(QFTGate(2), 2), lambda: appended(QFTGate(3), 3)),
    "evolved operator": (
        lambda: appended(PauliEvolutionGate(SparsePauliOp("XX"), 1.0)),
        lambda: appended(PauliEvolutionGate(SparsePauliOp("XZ"), 1.0)),
    ),
    "evolution's synthesis": (
        lambda: appended(PauliEvolutionGate(SparsePauliOp("XX"), 1.0, synthesis=LieTrotter(reps=1))),
        lambda: appended(PauliEvolutionGate(SparsePauliOp("XX"), 1.0, synthesis=SuzukiTrotter(reps=2))),
    ),
    "annotation": (lambda: boxed(Note(0.1)), lambda: boxed(Note(0.2))),
    "no annotation": (lambda: boxed(), lambda: boxed(Note(0.2))),
    "register name": (lambda: registers("a", "b"), lambda: registers("a", "d")),
    "register order": (lambda: registers("c0", "c1"), lambda: registers("c1", "c0")),
    "register sizes": (lambda: registers("a", "b", sizes=(1, 2)), lambda: registers("a", "b", sizes=(2, 1))),
    "condition's value": (lambda: flow(1), lambda: flow(2)),
    "condition's relation": (lambda: flow(), lambda: flow(relation="greater")),
    "loop's range": (lambda: flow(), lambda: flow(loop=range(4))),
    "loop's values": (lambda: flow(loop=(1, 2)), lambda: flow(loop=(2, 1))),
    "delay": (lambda: delayed(1.0, "ns"), lambda: delayed(2.0, "ns")),
    "delay's unit": (lambda: delayed(1.0, "ns"), lambda: delayed(1.0, "us")),
    "stretch": (lambda: stretched("s", 2), lambda: stretched("t", 2)),
    "stretch's factor": (lambda: stretched("s", 2), lambda: stretched("s", 3)),
    "parameter's name": (lambda: rotated(A), lambda: rotated(B)),
    "parameter's factor": (lambda: rotated(A * 0.1), lambda: rotated(A * 0.10000000000000002)),
    "parameter's function": (lambda: rotated(A.sin()), lambda: rotated(A.cos())),
    "parameter's difference": (lambda: rotated(A - B), lambda: rotated(B - A)),
    "parameter named as a product": (lambda: rotated(A * B), lambda: rotated(Parameter("a*b"))),
    "variable's name": (lambda: declared("v", types.Uint(8), 3), lambda: declared("w", types.Uint(8), 3)),
    "variable's width": (lambda: declared("v", types.Uint(8), 3), lambda: declared("v", types.Uint(9), 3)),
    "variable's value": (lambda: declared("v", types.Uint(8), 3), lambda: declared("v", types.Uint(8), 4)),
    "global phase": (lambda: QuantumCircuit(1), lambda: QuantumCircuit(1, global_phase=0.1)),
    "idle qubit": (lambda: QuantumCircuit(1), lambda: QuantumCircuit(2)),
    "unused bit": (lambda: QuantumCircuit(1, 1), lambda: QuantumCircuit(1, 2)),
}


@pytest.mark.parametrize("change", PAIRS)
def test_circuit_fingerprint_change_differs(change: str) -> None:
    one, two = PAIRS[change]
    assert circuit_fingerprint(one()) == circuit_fingerprint(one())
    assert circuit_fingerprint(two()) == circuit_fingerprint(two())
    assert circuit_fingerprint(one()) != circuit_fingerprint(two())


def test_circuit_fingerprint_change_inside_a_block_differs() -> None:
    def nested(angle: float, bit: int) -> QuantumCircuit:
        circuit = QuantumCircuit(2, 2)
        with circuit.while_loop((circuit.clbits[bit], 1)), circuit.if_test((circuit.clbits[0], 1)):
            circuit.rx(angle, 1)
        return circuit

    keys = {circuit_fingerprint(nested(angle, bit)) for angle in (0.1, 0.2) for bit in (0, 1)}
    assert len(keys) == 4


def test_circuit_fingerprint_ignores_names_that_nobody_gave() -> None:
    def unnamed() -> QuantumCircuit:
        inner = QuantumCircuit(1)
        inner.x(0)
        circuit = QuantumCircuit(QuantumRegister(2), QuantumRegister(1), ClassicalRegister(2), ClassicalRegister(1))
        circuit.append(inner.to_gate().control(1), [0, 2])
        circuit.append(inner.to_instruction(), [1])
        with circuit.for_loop(range(2)) as outer, circuit.for_loop(range(3)) as step:
            circuit.rx(outer + 2 * step, 0)
        return circuit

    assert circuit_fingerprint(unnamed()) == circuit_fingerprint(unnamed())


def test_circuit_fingerprint_outer_and_inner_loop_are_told_apart() -> None:
    def loops(*, swapped: bool) -> QuantumCircuit:
        circuit = QuantumCircuit(1)
        with circuit.for_loop(range(2)) as outer, circuit.for_loop(range(2)) as inner:
            circuit.rx(inner if swapped else outer, 0)
        return circuit

    assert circuit_fingerprint(loops(swapped=True)) != circuit_fingerprint(loops(swapped=False))


def test_circuit_fingerprint_order_of_vector_elements_is_the_circuits() -> None:
    def ansatz(kind: str) -> QuantumCircuit:
        circuit = QuantumCircuit(1)
        names = ParameterVector("v", 12) if kind == "vector" else [Parameter(f"v[{i}]") for i in range(12)]
        for one in names:
            circuit.rx(one, 0)
        return circuit

    # Values are given in the circuit's order: v[2] before v[10] in a vector, after it among single parameters.
    assert circuit_fingerprint(ansatz("vector")) == circuit_fingerprint(ansatz("vector"))
    assert circuit_fingerprint(ansatz("vector")) != circuit_fingerprint(ansatz("single"))


def test_circuit_fingerprint_openqasm_read_twice_is_equal() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.append(gate_of(0.3), [0])
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    for text, loads in ((qasm2.dumps(circuit), qasm2.loads), (qasm3.dumps(circuit), qasm3.loads)):
        assert circuit_fingerprint(loads(text)) == circuit_fingerprint(loads(text))


def test_circuit_fingerprint_leaves_the_circuit_alone() -> None:
    circuit = rich_circuit()
    before = circuit.copy()
    circuit_fingerprint(circuit)
    assert circuit == before


def test_circuit_fingerprint_of_6500_gates_takes_under_100_ms() -> None:
    circuit = random_circuit(127, 82, max_operands=2, measure=True, seed=7)
    assert circuit.size() > 6_400
    circuit_fingerprint(QuantumCircuit(1))
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        circuit_fingerprint(circuit)
        spent.append(time.perf_counter() - started)
    assert min(spent) < 0.1


def test_circuit_fingerprint_unwalkable_annotation_is_refused_by_name() -> None:
    class Sealed:
        __slots__ = ()

    with pytest.raises(CircuitError, match="Sealed"):
        circuit_fingerprint(boxed(Note(Sealed())))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Options:
    level: int
    seed: int | None


def test_values_fingerprint_order_of_keys_does_not_matter() -> None:
    assert values_fingerprint({"a": 1, "b": {2, 3}}) == values_fingerprint({"b": {3, 2}, "a": 1})
    assert values_fingerprint([1, (2, 3)]) == values_fingerprint((1, [2, 3]))
    assert values_fingerprint(np.float64(0.1)) == values_fingerprint(0.1)
    assert values_fingerprint(np.int32(3)) == values_fingerprint(3)
    assert values_fingerprint(Options(1, None)) == values_fingerprint(Options(1, None))
    assert values_fingerprint(Options(1, None)) != values_fingerprint(Options(2, None))


def test_values_fingerprint_values_of_other_types_differ() -> None:
    values: list[object] = [
        *(None, True, False, 0, 1, 1.0, -0.0, 0.0, "1", b"1", 1j, float("nan"), float("inf"), "", [], {}, set()),
        *([[]], [None], {"a": 1}, ["a", 1], [["a", 1]], np.zeros(1), np.zeros(2), np.zeros((1, 1))),
        *(np.zeros(1, np.float32), np.zeros(1, int), np.array(["a"]), np.array([None]), range(3), Path("a"), "a"),
        *(datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
    ]
    assert len({values_fingerprint(value) for value in values}) == len(values)


def test_values_fingerprint_arrays_by_content() -> None:
    array = np.arange(6, dtype=float).reshape(2, 3)
    same = (array.copy(order="F"), array.astype(">f8"), np.repeat(array, 2, axis=1)[:, ::2])
    assert {values_fingerprint(one) for one in same} == {values_fingerprint(array)}
    assert values_fingerprint(array) != values_fingerprint(array.T)
    assert values_fingerprint(array) != values_fingerprint(np.nextafter(array, 9))


def test_values_fingerprint_bindings_however_grouped() -> None:
    one = BindingsArray({("a", "b"): [[0.1, 0.2], [0.3, 0.4]]})
    two = BindingsArray({"b": [0.2, 0.4], "a": [0.1, 0.3]})
    assert values_fingerprint(one) == values_fingerprint(two)
    assert values_fingerprint(one) != values_fingerprint(BindingsArray({"a": [0.1, 0.3], "b": [0.2, 0.5]}))


def test_values_fingerprint_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"builtins\.object"):
        values_fingerprint({"a": object()})


def test_values_fingerprint_other_hash_seeds_agree() -> None:
    code = "from test_fingerprint import *\nprint(values_fingerprint({'b': {'x', 'y', 'z'}, 'a': [0.1, None]}))"
    here = values_fingerprint({"a": [0.1, None], "b": {"z", "y", "x"}})
    assert {other_process(code, seed) for seed in ("0", "99")} == {here}


def test_target_fingerprint_follows_the_calibration() -> None:
    configuration, properties = ibm.device_configuration("fake_manila"), ibm.device_properties("fake_manila")
    known = target_fingerprint(ibm.target_from(configuration, properties))
    assert target_fingerprint(ibm.target_from(configuration, copy.deepcopy(properties))) == known
    worse = copy.deepcopy(properties)
    worse["gates"][0]["parameters"][0]["value"] *= 1.01
    assert target_fingerprint(ibm.target_from(configuration, worse)) != known
    assert target_fingerprint(ibm.target_from(configuration, None)) != known
    shorter = copy.deepcopy(properties)
    shorter["qubits"][0][0]["value"] *= 0.9
    assert target_fingerprint(ibm.target_from(configuration, shorter)) != known


def test_target_fingerprint_other_hash_seeds_agree() -> None:
    code = (
        "from test_fingerprint import *\n"
        "made = ibm.target_from(ibm.device_configuration('fake_manila'), ibm.device_properties('fake_manila'))\n"
        "print(target_fingerprint(made))"
    )
    assert len({other_process(code, seed) for seed in ("0", "99")}) == 1
