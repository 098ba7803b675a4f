"""How likely a circuit is to run without an error, as far as a calibration tells.

The estimate is the product of `1 - gate_error` over all instructions of the ISA circuit, times `1 - readout_error` for
each measurement. It ignores what the calibration has no number for in this form: relaxation while qubits wait, delays
and resets, crosstalk, leakage, errors that cancel, and everything that mitigation does afterwards. So it ranks
circuits and calibrations; it does not foretell counts.

Control flow: of an `if_else` or a `switch` the worse branch counts, of a `for_loop` its body as often as it runs, of a
`while_loop` and a `box` the body once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect_ibmq.drift import Place, payload_of

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import CircuitInstruction, Qubit

    from prefect_ibmq.drift import Calibration

__all__ = ["IGNORED", "MEASURE", "ErrorRates", "SuccessEstimate", "Usage", "estimate_success", "usage_of_circuit"]

IGNORED = frozenset({"barrier", "delay", "reset", "store"})  # the service publishes no error of these
MEASURE = "measure"


@dataclass(slots=True)
class Usage:
    """What a circuit does to which qubits, and how often.

    Attributes:
        operations: Gates on their physical qubits, and how often each runs.
        choices: Branches of which one runs, and how often the choice is made.
        touched: Qubits that something happens to, delays and barriers apart.
        assumed: What had to be assumed, in words.
    """

    operations: Counter[Place] = field(default_factory=Counter)
    choices: list[tuple[int, list[Usage]]] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    assumed: set[str] = field(default_factory=set)

    def everything(self) -> set[Place]:
        """All operations that may run."""
        branches = (branch.everything() for _, several in self.choices for branch in several)
        return set(self.operations).union(*branches)

    def qubits(self) -> set[int]:
        """All qubits that may be touched."""
        return self.touched.union(*(branch.qubits() for _, several in self.choices for branch in several))


def usage_of_circuit(circuit: QuantumCircuit) -> Usage:
    """What an ISA circuit uses of its device."""
    usage = Usage()
    _walk(circuit, {bit: index for index, bit in enumerate(circuit.qubits)}, 1, usage)
    return usage


def _walk(circuit: QuantumCircuit, places: Mapping[Qubit, int], times: int, usage: Usage) -> None:
    for step in circuit.data:
        qubits = tuple(places[bit] for bit in step.qubits)
        if step.is_control_flow():
            _walk_into(step, qubits, times, usage)
        elif step.name not in IGNORED and qubits:
            usage.operations[step.name, qubits] += times
            usage.touched.update(qubits)
        elif step.name == "reset":
            usage.touched.update(qubits)


def _walk_into(step: CircuitInstruction, qubits: Sequence[int], times: int, usage: Usage) -> None:
    def inner(block: QuantumCircuit) -> Mapping[Qubit, int]:
        return dict(zip(block.qubits, qubits, strict=True))

    blocks = step.operation.blocks
    if step.name in ("if_else", "switch_case"):
        branches = [Usage() for _ in blocks]
        for block, branch in zip(blocks, branches, strict=True):
            _walk(block, inner(block), 1, branch)
            usage.assumed |= branch.assumed
        usage.choices.append((times, branches))
        usage.assumed.add("of each choice the worse branch")
        return
    for block in blocks:
        if step.name == "while_loop":
            usage.assumed.add("each while loop once")
        rounds = len(list(step.operation.params[0])) if step.name == "for_loop" else 1
        _walk(block, inner(block), times * rounds, usage)


@dataclass(frozen=True, slots=True)
class SuccessEstimate:
    """How likely a circuit is to run without an error.

    Attributes:
        circuit: The circuit's name.
        probability: The estimate; 0 where a gate in use is not calibrated (`gate_error` of 1 or more).
        missing: What is in use and has no error in the calibration. It counts as if it had none, so with anything
            here the estimate is too high.
        uncalibrated: What is in use and is not calibrated.
        assumed: What had to be assumed about control flow, in words.
    """

    circuit: str
    probability: float
    missing: tuple[Place, ...] = ()
    uncalibrated: tuple[Place, ...] = ()
    assumed: tuple[str, ...] = ()


class ErrorRates:
    """The errors of a payload, by gate and qubits; that of measuring is the qubit's readout error."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._rates = dict(_rates(payload))

    def get(self, place: Place) -> float | None:
        """The error of an operation on its qubits; None where it is not told."""
        return self._rates.get(place)

    def worst(self) -> dict[str, float]:
        """By gate, the largest error of those that are calibrated."""
        found: dict[str, float] = {}
        for (gate, _), error in self._rates.items():
            if error < 1:
                found[gate] = max(error, found.get(gate, 0.0))
        return found

    def estimate(self, usage: Usage, name: str = "", unknown: Mapping[str, float] | None = None) -> SuccessEstimate:
        """The estimate for a circuit.

        Args:
            usage: What it uses.
            name: Its name.
            unknown: By gate, what counts where its error is not told; nothing by default.
        """
        used = sorted(usage.everything())
        return SuccessEstimate(
            circuit=name,
            probability=math.exp(self._log(usage, unknown or {})),
            missing=tuple(place for place in used if self.get(place) is None),
            uncalibrated=tuple(place for place in used if (self.get(place) or 0.0) >= 1),
            assumed=tuple(sorted(usage.assumed)),
        )

    def _log(self, usage: Usage, unknown: Mapping[str, float]) -> float:
        errors = ((self._rates.get(place, unknown.get(place[0])), times) for place, times in usage.operations.items())
        total = math.fsum(times * _log_success(error) for error, times in errors)
        for times, branches in usage.choices:
            total += times * min((self._log(branch, unknown) for branch in branches), default=0.0)
        return total


def _log_success(error: float | None) -> float:
    if error is None:
        return 0.0
    return math.log1p(-error) if error < 1 else -math.inf


def _rates(payload: Mapping[str, Any]) -> Iterator[tuple[Place, float]]:
    for gate in payload.get("gates") or []:
        for entry in gate.get("parameters") or []:
            if entry.get("name") == "gate_error" and gate.get("gate") != MEASURE and _is_error(entry.get("value")):
                yield (str(gate["gate"]), tuple(gate["qubits"])), float(entry["value"])
    for qubit, parameters in enumerate(payload.get("qubits") or []):
        for entry in parameters or []:
            if entry.get("name") == "readout_error" and _is_error(entry.get("value")):
                yield (MEASURE, (qubit,)), float(entry["value"])


def _is_error(value: Any) -> bool:
    """Whether this is a rate; a negative one tells nothing, and would make the estimate more than 1."""
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def estimate_success(isa_circuit: QuantumCircuit, calibration: Calibration) -> SuccessEstimate:
    """How likely an ISA circuit is to run without an error under a calibration.

    The product of `1 - gate_error` over its instructions, times `1 - readout_error` for each measurement. Ignored are
    relaxation of waiting qubits, delays, resets and crosstalk. Of an `if_else` or a `switch` the worse branch counts,
    of a `for_loop` its body as often as it runs, of a `while_loop` the body once.

    Args:
        isa_circuit: A circuit on the device's qubits, as the transpiler gives it.
        calibration: A payload, a `PropertiesRecord`, a loaded `BackendRecord`, or what an archive gives.

    Raises:
        InputError: It is no calibration.
    """
    usage = usage_of_circuit(isa_circuit)
    return ErrorRates(payload_of(calibration)).estimate(usage, isa_circuit.name or "")
