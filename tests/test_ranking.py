"""The backend that is worth waiting for."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from qiskit import QuantumCircuit

from prefect_ibmq import (
    BackendRecord,
    InputError,
    NoBackendLeft,
    best_backend,
    estimate_success,
    ibm,
    list_backends,
    transpile_circuits,
)
from prefect_ibmq.wire.records import BackendSummary

pytest_plugins = ["prefect_ibmq.testing"]
pytestmark = pytest.mark.usefixtures("prefect_server")

OPTIONS: dict[str, Any] = {"seed": 3, "optimization_level": 1}


def ghz(qubits: int = 3) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits, name=f"ghz{qubits}")
    circuit.h(0)
    for qubit in range(qubits - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    return circuit


def loaded(name: str, *, wait: float | None = None, pending: int | None = 5, errors: float = 1.0) -> BackendRecord:
    """A record of manila under another name, its gates' errors so many times as large."""
    configuration = {**ibm.device_configuration("fake_manila"), "backend_name": name}
    payload = copy.deepcopy(ibm.device_properties("fake_manila"))
    for gate in payload["gates"]:
        for parameter in gate["parameters"]:
            if parameter["name"] == "gate_error":
                parameter["value"] *= errors
    row = {"name": name, "status": {"name": "online"}, "qubits": 5, "queue_length": pending}
    row["wait_time_seconds"] = None if wait is None else {"p50": wait}
    summary = BackendSummary.from_payload(row)
    known = {"configuration": configuration, "properties": payload}
    return BackendRecord(summary, channel="ibm_quantum_platform", instance="crn", loaded=True, **known)


def scores(choice: Any) -> dict[str, float | None]:
    return {each.backend: each.score for each in choice.candidates}


def test_quality_is_weighed_against_the_queue(ibmq_service: Any) -> None:
    good, bad = loaded("good", wait=3600), loaded("bad", wait=0, errors=4)
    for patience, name in ((None, "good"), (86_400, "good"), (600, "bad")):
        choice = best_backend(ibmq_service.provider, ghz(), backends=[bad, good], patience_seconds=patience, **OPTIONS)
        assert choice.name == name
        assert choice.backend.name == name
        assert [each.verdict for each in choice.candidates] == ["chosen", "fits"]
    by_name = {each.backend: each for each in choice.candidates}
    isa = transpile_circuits(ghz(), good, ibmq_service.provider, **OPTIONS)
    assert by_name["good"].success == pytest.approx(estimate_success(isa[0], good).probability)
    assert by_name["good"].score == pytest.approx(by_name["good"].success * 2 ** (-3600 / 600))


def test_a_wait_that_is_not_told_is_no_short_one(ibmq_service: Any) -> None:
    records = [loaded("silent"), loaded("empty", pending=0), loaded("long", wait=900), loaded("short", wait=60)]
    choice = best_backend(ibmq_service.provider, ghz(), backends=records, **OPTIONS)
    waits = {each.backend: (each.wait_seconds, each.counted_wait) for each in choice.candidates}
    assert waits == {"silent": (None, 900), "empty": (None, 0), "long": (900, 900), "short": (60, 60)}
    assert choice.name == "empty"
    assert "counted as the longest" in choice.text()


def test_where_nobody_tells_a_wait_the_jobs_that_pend_break_the_tie(ibmq_service: Any) -> None:
    records = [loaded("many", pending=70), loaded("few", pending=7), loaded("unknown", pending=None)]
    choice = best_backend(ibmq_service.provider, ghz(), backends=records, **OPTIONS)
    assert [each.backend for each in choice.candidates] == ["few", "many", "unknown"]
    assert len({each.score for each in choice.candidates}) == 1
    assert {each.counted_wait for each in choice.candidates} == {None}


def test_an_edge_that_is_not_calibrated_makes_a_backend_worthless(ibmq_service: Any) -> None:
    broken, fair = loaded("broken", wait=0), loaded("fair", wait=5000, errors=3)
    for gate in broken.raw_properties["gates"]:  # type: ignore[index]
        for parameter in gate["parameters"]:
            if parameter["name"] == "gate_error" and len(gate["qubits"]) == 2:
                parameter["value"] = 1
    choice = best_backend(ibmq_service.provider, ghz(5), backends=[broken, fair], **OPTIONS)
    assert choice.name == "fair"
    assert scores(choice)["broken"] == 0


def test_a_device_of_which_nothing_is_known_does_not_win(ibmq_service: Any) -> None:
    silent, holed, fair = loaded("silent"), loaded("holed"), loaded("fair")
    silent.raw_properties["qubits"] = [[]] * 5  # type: ignore[index]
    for gate in silent.raw_properties["gates"]:  # type: ignore[index]
        gate["parameters"] = []
    measured = holed.raw_properties["qubits"][0]  # type: ignore[index]
    measured[:] = [each for each in measured if each["name"] != "readout_error"]
    choice = best_backend(ibmq_service.provider, ghz(5), backends=[silent, holed, fair], **OPTIONS)
    assert [each.backend for each in choice.candidates] == ["fair", "holed", "silent"]
    assert [each.note for each in choice.candidates][:2] == [
        "",
        "1 gates in use have no error in the calibration: counted as the worst of their kind",
    ]
    alone = best_backend(ibmq_service.provider, ghz(5), backends=[silent], **OPTIONS)
    assert "have none in any calibration, and are left out" in alone.candidates[0].note


def test_the_services_backends_are_chosen_from_and_reasons_told(ibmq_services: Any) -> None:
    service = ibmq_services(backends=("fake_manila", "fake_torino", "fake_lagos"))

    @flow
    def choosing() -> Any:
        return best_backend(service.provider, [ghz(5), ghz(6)], artifact="why-this-one", **OPTIONS)

    choice = choosing()
    operational = {record.name for record in list_backends(service.provider, operational=True)}
    assert choice.name in operational & {"fake_torino", "fake_lagos"}
    told = {each.backend: each for each in choice.candidates}
    assert set(told) == {"fake_manila", "fake_torino", "fake_lagos"}
    assert "it has 5 qubits, not 6" in told["fake_manila"].verdict
    frame = choice.table("pandas")
    assert frame["backend"].tolist() == [each.backend for each in choice.candidates]
    assert math.isnan(frame[frame["backend"] == "fake_manila"]["score"].iloc[0])
    assert frame["calibration"].iloc[0] is not None
    assert choice.table().num_rows == 3
    for name in told:
        assert name in choice.text()


async def test_the_table_of_reasons_is_an_artifact(ibmq_service: Any) -> None:
    from prefect_ibmq import abest_backend

    @flow
    async def choosing() -> Any:
        return await abest_backend(ibmq_service.provider, ghz(), artifact="why-this-one-then", **OPTIONS)

    choice = await choosing()
    kept = await Artifact.aget("why-this-one-then")
    assert kept is not None
    assert choice.name in str(kept.data)
    assert "chosen" in str(kept.data)


def test_of_many_circuits_a_sample_is_transpiled(ibmq_service: Any) -> None:
    record = loaded("one", wait=0)
    circuits = [ghz(2)] * 3 + [ghz(5)] * 3
    two = best_backend(ibmq_service.provider, circuits, backends=[record], sample=2, **OPTIONS)
    all_of_them = best_backend(ibmq_service.provider, circuits, backends=[record], sample=None, **OPTIONS)
    assert two.candidates[0].success == pytest.approx(all_of_them.candidates[0].success)


def test_with_nothing_left_each_reason_is_told(ibmq_service: Any) -> None:
    bare = loaded("bare")
    bare.raw_properties = None
    paused = loaded("paused")
    paused.summary = replace(paused.summary, operational=False, status="paused")
    with pytest.raises(NoBackendLeft) as caught:
        best_backend(ibmq_service.provider, ghz(), backends=[bare, paused], **OPTIONS)
    assert caught.value.reasons == {
        "bare": "the service has no calibration of it",
        "paused": "it is not operational (paused)",
    }
    with pytest.raises(NoBackendLeft, match="not 200 or more"):
        best_backend(ibmq_service.provider, ghz(), min_num_qubits=200, **OPTIONS)


@pytest.mark.parametrize("wrong", [{"patience_seconds": 0}, {"sample": 0}])
def test_what_cannot_be_is_refused(ibmq_service: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        best_backend(ibmq_service.provider, ghz(), **wrong)
    with pytest.raises(InputError):
        best_backend(ibmq_service.provider, [])
    with pytest.raises(InputError, match="Leave `backends` out"):
        best_backend(ibmq_service.provider, ghz(), backends=[loaded("a")], operational=True)
    assert ibmq_service.counts.get("GET /backends/{name}/properties", 0) == 0
