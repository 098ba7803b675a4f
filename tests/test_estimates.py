"""Program `estimator`: PUBs with observables in, expectation values out, in a table and from any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import PrimitiveResult, PubResult
from qiskit.quantum_info import SparsePauliOp, Statevector

from prefect_ibmq import (
    CircuitError,
    InputError,
    collect_job_set,
    export_counts,
    export_estimates,
    read_estimates,
    retrieve_job_set,
    run_circuits,
    run_job_set,
)
from prefect_ibmq.errors import ResultUnreadable
from prefect_ibmq.transpilation import transpile_circuits

pytest_plugins = ["prefect_ibmq.testing"]
pytestmark = pytest.mark.usefixtures("prefect_server")


def bell(name: str = "bell") -> QuantumCircuit:
    circuit = QuantumCircuit(2, name=name)
    circuit.h(0)
    circuit.cx(0, 1)
    return circuit


def turned() -> QuantumCircuit:
    circuit = QuantumCircuit(2, name="turned")
    circuit.ry(Parameter("angle"), 0)
    circuit.x(1)
    return circuit


ANGLES = np.linspace(0.0, np.pi, 3)[:, None, None]  # three points, beside an axis for observables


def pubs() -> list[Any]:
    energy = SparsePauliOp(["ZZ", "XX"], [1.0, 0.5])
    return [
        (bell(), [["ZZ", "XX"], ["IZ", energy]]),
        (turned(), ["IZ", "ZI"], ANGLES),
        (bell("tight"), "YY", None, 0.05),
    ]


def run(service: Any, archive: Path, **more: Any) -> Any:
    chosen = {"run_key": "estimates", "archive": archive, "program": "estimator", "optimization_level": 1} | more
    return run_circuits(chosen.pop("pubs", pubs()), "fake_manila", service.provider, **chosen)


def test_expectation_values_are_those_of_the_states(ibmq_service: Any, tmp_path: Path) -> None:
    result = run(ibmq_service, tmp_path)
    assert [pub.data.evs.shape for pub in result] == [(2, 2), (3, 2), ()]
    state = Statevector(bell())
    exact = [[1.0, 1.0], [0.0, 1.5]]
    assert np.allclose(result[0].data.evs, exact, atol=0.2)
    assert np.allclose(result[1].data.evs[:, 0], np.cos(ANGLES[:, 0, 0]), atol=0.15)
    assert np.allclose(result[1].data.evs[:, 1], -1, atol=0.15)
    assert result[2].data.evs == pytest.approx(state.expectation_value(SparsePauliOp("YY")).real, abs=0.25)
    assert len(ibmq_service.jobs()) == 1
    # the same again asks for nothing
    before = len(ibmq_service.requests)
    assert np.array_equal(run(ibmq_service, tmp_path)[0].data.evs, result[0].data.evs)
    assert len(ibmq_service.requests) == before


def test_observables_follow_the_qubits_of_the_layout(ibmq_service: Any, tmp_path: Path) -> None:
    """Five qubits, each in a state of its own, so that a wrong layout shows."""
    circuit = QuantumCircuit(3, name="ladder")
    circuit.x(0)
    circuit.ry(np.pi / 2, 1)
    circuit.cx(1, 2)
    circuit.cx(1, 0)
    circuit.cx(1, 0)
    given = [(circuit, ["IIZ", "IZI", "ZZI", "IXI", "XXI"])]
    exact = [Statevector(circuit).expectation_value(SparsePauliOp(label)).real for label in given[0][1]]
    (mine,) = run(ibmq_service, tmp_path, pubs=given, optimization_level=2, seed=7)
    assert np.allclose(mine.data.evs, exact, atol=0.25)
    # as an ISA circuit, observables of its own qubits
    (isa,) = transpile_circuits([circuit], "fake_manila", ibmq_service.provider, seed=7, optimization_level=2)
    observables = [SparsePauliOp(label).apply_layout(isa.layout) for label in given[0][1]]
    (theirs,) = run(ibmq_service, tmp_path, pubs=[(isa, observables)], isa=True, run_key="isa")
    assert np.allclose(theirs.data.evs, mine.data.evs, atol=0.2)


def test_a_set_of_estimates_in_a_table_and_from_another_machine(ibmq_service: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    job_set = run_job_set(
        pubs(), "fake_manila", ibmq_service.provider, run_key="set", archive=here, program="estimator",
        max_circuits_per_job=2, resilience_level=0,
    )  # fmt: skip
    assert job_set.is_complete
    assert len(ibmq_service.jobs()) == 2
    told = export_estimates(job_set.results().result, here)
    assert told["rows"] == 4 + 6 + 1
    assert export_estimates(job_set.results().result, here)["rows"] == 11
    frame = read_estimates(here)
    assert len(frame) == 11
    assert list(frame["observable"][:4]) == ["ZZ", "XX", "IZ", "0.5*XX + 1.0*ZZ"]
    assert list(frame["parameter_index"][4:10]) == [0, 0, 1, 1, 2, 2]
    assert list(frame["observable_index"][4:10]) == [0, 1] * 3
    assert list(frame["parameters"][4:6]) == ['{"angle":0.0}'] * 2
    assert set(frame["circuit"]) == {"bell", "turned", "tight"}
    assert frame["simulated"].all()
    assert frame["precision"].iloc[-1] == 0.05
    assert frame["shots"].iloc[-1] == 400
    assert frame["ev"].iloc[0] == job_set.results()[0].result.data.evs[0, 0]
    found = retrieve_job_set(job_set.job_set_id, ibmq_service.provider, archive=there)
    export_estimates(collect_job_set(found).result, there)
    assert read_estimates(there).equals(frame)
    with pytest.raises(InputError, match="no classified bits"):
        job_set.counts(0)


def test_whole_numbers_stay_whole_where_some_are_missing(ibmq_service: Any, tmp_path: Path) -> None:
    result = run(ibmq_service, tmp_path)
    told = {"job_id": "foreign", "backend": "fake_manila"}  # nobody says which attempt it was, or whether simulated
    bare = PrimitiveResult([PubResult(pub.data) for pub in result])
    export_estimates(result, tmp_path)
    export_estimates(bare, tmp_path, job=told)
    frame = read_estimates(tmp_path)
    assert [str(frame[name].dtype) for name in ("attempt", "shots", "simulated")] == ["Int32", "Int64", "boolean"]
    assert set(frame["attempt"].dropna()) == {1}


def test_what_does_not_fit_is_refused_before_anything_is_sent(ibmq_service: Any, tmp_path: Path) -> None:
    theta = Parameter("theta")
    unbound = QuantumCircuit(1)
    unbound.ry(theta, 0)
    for wrong, said in (
        ([(bell(), "ZZZ")], "2 qubits.*'ZZZ'"),
        ([(bell(), "AB")], "cannot be read"),
        ([(bell(), "Z0")], "'Z0'"),
        ([(bell(), [])], "observables"),
        ([(bell(),)], "PUB 0"),
        ([bell()], "PUB 0"),
        ([(unbound, "Z")], "unbound"),
        ([(bell(), "ZZ", None, -1)], "precision -1"),
        ([(turned(), ["IZ", "ZI"], [[0.1], [0.2], [0.3]])], "cannot be put together"),
        (3, "no PUB"),
    ):
        with pytest.raises(CircuitError, match=said):
            run(ibmq_service, tmp_path, pubs=wrong)
    for wrong, said in (
        ({"memory": True}, "'memory'"),
        ({"precision": 0}, "precision=0"),
        ({"resilience_level": 3}, "resilience_level=3"),
        ({"precision": 0.1, "shots": 100}, "two ways"),
        ({"parameter_binds": [{"angle": 0.1}]}, "after the observables"),
        ({"program": "executor", "resilience_level": 1, "pubs": [bell()]}, "estimator"),
    ):
        with pytest.raises(InputError, match=said):
            run(ibmq_service, tmp_path, **wrong)
    assert ibmq_service.counts.get("POST /jobs", 0) == 0
    measured = bell()
    measured.measure_all()
    sampled = run_circuits([measured], "fake_manila", ibmq_service.provider, 50, run_key="bits", archive=tmp_path)
    with pytest.raises(ResultUnreadable, match="export_counts"):
        export_estimates(sampled, tmp_path)
    assert export_counts(sampled, tmp_path)["rows"] > 0


def test_shots_and_resilience_reach_the_service(ibmq_service: Any, tmp_path: Path) -> None:
    (plain,) = run(ibmq_service, tmp_path, pubs=[(bell(), "ZZ")], shots=100, resilience_level=0, run_key="r0")
    (mitigated,) = run(ibmq_service, tmp_path, pubs=[(bell(), "ZZ")], shots=100, resilience_level=2, run_key="r2")
    assert plain.metadata["shots"] == 100
    assert plain.metadata["target_precision"] == pytest.approx(0.1)
    assert "evs_extrapolated" not in plain.data
    assert "evs_extrapolated" in mitigated.data
