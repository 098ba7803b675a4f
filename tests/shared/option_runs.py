"""Circuits on which options of runs are tried, and how what came of them is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter

from prefect_ibmq import read_counts


def bell(name: str = "bell") -> QuantumCircuit:
    circuit = QuantumCircuit(2, name=name)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def turned(*names: str) -> QuantumCircuit:
    """One qubit for each parameter, turned by it about x."""
    circuit = QuantumCircuit(len(names), name="turned")
    for qubit, name in enumerate(names):
        circuit.rx(Parameter(name), qubit)
    circuit.measure_all()
    return circuit


def teleported() -> QuantumCircuit:
    """Two registers, a measurement in the middle and control flow."""
    circuit = QuantumCircuit(QuantumRegister(2, "q"), ClassicalRegister(1, "early"), ClassicalRegister(2, "late"))
    circuit.x(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.cregs[0], 1)):
        circuit.x(1)
    circuit.measure([0, 1], [1, 2])
    return circuit


def in_the_middle(*, reset: bool = True) -> QuantumCircuit:
    """Several registers, a measurement in the middle, a wait, and if asked for a reset."""
    circuit = QuantumCircuit(QuantumRegister(3, "q"), ClassicalRegister(1, "first"), ClassicalRegister(3, "last"))
    circuit.x(0)
    circuit.measure(0, 0)
    if reset:
        circuit.reset(0)
    circuit.h(1)
    circuit.cx(1, 2)
    circuit.delay(2000, 0)
    circuit.measure([0, 1, 2], [1, 2, 3])
    return circuit


def distance(one: dict[str, int], other: dict[str, int]) -> float:
    """Total variation distance of two tallies: 0 is the same distribution, 1 no outcome in common."""
    keys = {*one, *other}
    return sum(abs(one.get(k, 0) / sum(one.values()) - other.get(k, 0) / sum(other.values())) for k in keys) / 2


def sent(service: Any) -> list[dict[str, Any]]:
    """The params of the service's jobs, oldest first."""
    return [json.loads(service.service.store.payload(job.id, "params")) for job in service.jobs()]


def table(archive: Path, name: Any) -> pd.DataFrame:
    return read_counts(archive, table=name)
