"""Parameter binds: m circuits and n binds make m x n results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from option_runs import sent, turned
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector

from prefect_ibmq import CircuitError, export_counts, fetch_result, open_run, read_counts, run_circuits

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


def test_m_circuits_and_n_binds_come_back_as_m_times_n_results(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    a, b = Parameter("a"), Parameter("b")
    first, second = QuantumCircuit(2, name="first"), QuantumCircuit(2, name="second")
    for circuit, (low, high) in ((first, (a, b)), (second, (b, a))):
        circuit.rx(low, 0)
        circuit.rx(high, 1)
        circuit.measure_all()
    binds = [{a: 0.0, b: 0.0}, {"a": np.pi, b: 0.0}, {b: np.pi, "a": 0}]
    arguments: dict[str, Any] = {"run_key": "binds", "archive": tmp_path, "parameter_binds": binds}
    result = run_circuits([first, second], "fake_manila", provider, 200, **arguments)
    counts = [pub.data.meas.get_counts() for pub in result]
    assert [max(each, key=each.get) for each in counts] == ["00", "01", "10", "00", "10", "01"]
    stamps = [pub.metadata["prefect_ibmq"] for pub in result]
    assert [(stamp["circuit"], stamp["parameter_index"]) for stamp in stamps] == [
        (name, index) for name in ("first", "second") for index in range(3)
    ]
    [params] = sent(ibmq_service)
    assert [item["circuit_arguments"]["shape"] for item in params["quantum_program"]["items"]] == [[3, 2], [3, 2]]
    # One by one or as two sweeps: the same rows.
    export_counts(result, tmp_path / "counted")
    sweeps = fetch_result(stamps[0]["job"]["job_id"], provider, archive=tmp_path)
    assert [pub.data.shape for pub in sweeps] == [(3,), (3,)]
    rows = read_counts(tmp_path / "counted")
    assert rows.groupby(["position", "parameter_index"])["count"].sum().tolist() == [200] * 6
    mine = rows[(rows["position"] == 1) & (rows["parameter_index"] == 2)]
    assert dict(zip(mine["bitstring"], mine["count"], strict=True)) == counts[5]
    assert set(mine["parameters"].map(lambda text: tuple(json.loads(text).items()))) == {(("a", 0.0), ("b", np.pi))}
    # Asked again, the same job.
    again = run_circuits([first, second], "fake_manila", provider, 200, **arguments)
    assert [pub.data.meas.get_counts() for pub in again] == counts
    assert len(ibmq_service.jobs()) == 1


def test_a_vector_of_parameters_is_bound_at_once(ibmq_service: Any) -> None:
    angles = ParameterVector("t", 3)
    circuit = QuantumCircuit(3)
    for qubit in range(3):
        circuit.rx(angles[qubit], qubit)
    circuit.measure_all()
    binds = [{angles: [0, np.pi, 0]}, {angles: [np.pi, 0, np.pi]}]
    result = run_circuits(circuit, "fake_manila", ibmq_service.provider, 100, run_key="v", parameter_binds=binds)
    assert [max(c := pub.data.meas.get_counts(), key=c.get) for pub in result] == ["010", "101"]


@pytest.mark.parametrize(
    ("binds", "told"),
    [
        ([], r"parameter_binds=\[\]"),
        ({"a": 1.0}, "Pass a list"),
        ([{"a": 1.0}], "'turned'.*bind 0: its parameter values hold no values for b"),
        ([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}], "bind 1.*values for c, which it does not have"),
        ([{"a": 1.0, "b": [1.0, 2.0]}], "Bind 0 gives .*no real number"),
        ([{ParameterVector("t", 2): [1.0]}], "1 numbers to t, a vector of 2"),
        ([["a", 1.0]], "not a mapping"),
        ([{"a": float("nan"), "b": 1.0}], "not finite"),
    ],
)
def test_binds_that_do_not_fit_are_refused(ibmq_service: Any, binds: Any, told: str) -> None:
    with pytest.raises(CircuitError, match=told):
        run_circuits(turned("a", "b"), "fake_manila", ibmq_service.provider, 10, run_key="b", parameter_binds=binds)
    assert ibmq_service.jobs() == []


def test_binds_and_values_of_a_circuit_exclude_each_other(ibmq_service: Any) -> None:
    with pytest.raises(CircuitError, match="Use one of the two"):
        open_run((turned("a"), [0.1]), ibmq_service.provider, run_key="b", parameter_binds=[{"a": 1.0}])
