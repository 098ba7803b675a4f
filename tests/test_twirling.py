"""Twirling and dynamical decoupling: circuits are prepared, what comes back is as if they were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ibm_quantum_schemas.sampler.version_0_1 import ParamsModel as SamplerParams
from option_runs import bell, distance, in_the_middle, sent, table, teleported, turned
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.executor.calculate_twirling_shots import calculate_twirling_shots

from prefect_ibmq import (
    CircuitError,
    InputError,
    export_counts,
    fetch_result,
    get_backend,
    open_run,
    plan_run,
    read_counts,
    run_circuits,
    submit_part,
    transpile_circuits,
    wait_for_job,
)
from prefect_ibmq.options import twirled_shots
from prefect_ibmq.payloads import measure_of_sizes
from prefect_ibmq.restoring import restored_run
from prefect_ibmq.wire.job_requests import JobRequest
from prefect_ibmq.wire.programs import build_params, prepare

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


def test_twirled_runs_are_untwirled(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    swept = (turned("a", "b"), np.array([[0.0, np.pi], [np.pi, 0.7]]))
    circuits = [bell(), in_the_middle(reset=False), swept]
    plain = run_circuits(circuits, "fake_torino", provider, 1500, run_key="plain")
    arguments: dict[str, Any] = {"run_key": "twirled", "archive": tmp_path, "header": {"kind": "twirled"}}
    twirled = run_circuits(circuits, "fake_torino", provider, 1500, twirling=True, **arguments)
    job = sent(ibmq_service)[-1]["quantum_program"]
    assert {item["item_type"] for item in job["items"]} == {"samplex"}
    assert job["shots"] == 64
    for one, other in zip(plain, twirled, strict=True):
        assert other.data.shape == one.data.shape
        assert list(other.data.keys()) == list(one.data.keys())
        for name, bits in other.data.items():
            assert bits.num_shots == 1536  # 24 randomizations of 64 shots
            for place in np.ndindex(bits.shape):
                assert distance(bits.get_counts(place), one.data[name].get_counts(place)) < 0.08
    export_counts(twirled, tmp_path)
    rows = read_counts(tmp_path)
    totals = rows.groupby(["circuit", "register", "parameter_index"])["count"].sum()
    assert set(totals) == {1536}
    assert len(totals) == 1 + 2 + 2
    assert set(rows["shots"]) == {1536}
    assert set(rows["header"].map(lambda text: json.loads(text)["kind"])) == {"twirled"}


def test_twirling_flips_measurements_and_flips_them_back(ibmq_service: Any) -> None:
    options = {"twirling": {"enable_measure": True, "num_randomizations": 50, "shots_per_randomization": 20}}
    result = run_circuits((turned("a"), [[0.0], [np.pi]]), "fake_torino", ibmq_service.provider, run_key="m", **options)
    bits = result[0].data.meas
    assert bits.num_shots == 1000
    ones = [bits.get_counts(place).get("1", 0) / 1000 for place in range(2)]
    assert ones[0] < 0.1
    assert ones[1] > 0.9
    raw = json.loads(ibmq_service.service.store.payload(ibmq_service.jobs()[-1].id, "result"))
    assert "measurement_flips.meas" in raw["data"][0]["results"]


def test_decoupled_runs_give_what_they_would_give_without(ibmq_service: Any) -> None:
    provider, waiting = ibmq_service.provider, QuantumCircuit(2)
    waiting.h(0)
    waiting.delay(20, 0, unit="us")
    waiting.h(0)
    waiting.measure_all()
    shares = {}
    for sequence in (None, "XX", "XpXm", "XY4"):
        result = run_circuits(
            [bell(), waiting], "fake_torino", provider, 2000, run_key=f"dd {sequence}", dynamical_decoupling=sequence
        )
        shares[sequence] = [pub.data.meas.get_counts() for pub in result]
    for sequence in ("XX", "XpXm", "XY4"):
        assert distance(shares[sequence][0], shares[None][0]) < 0.08
        assert distance(shares[sequence][1], shares[None][1]) < 0.12
    # The wait is filled with pulses: the circuits that were sent differ by them.
    sizes = [len(params["quantum_program"]["circuits"]["b64_data"]) for params in sent(ibmq_service)]
    assert min(sizes[1:]) > sizes[0]


def test_twirled_decoupled_and_kerneled_at_once(ibmq_service: Any, tmp_path: Path) -> None:
    """Gate twirling goes with points, and decoupling with both; later attempts prepare the same."""
    provider = ibmq_service.provider
    options = {"twirling": {"enable_gates": True}, "dynamical_decoupling": {"sequence_type": "XY4"}, "meas_level": 1}
    arguments: dict[str, Any] = {"run_key": "all", "archive": tmp_path, "options": options}
    ibmq_service.faults.on("POST /jobs", answer="lost", times=1)
    result = run_circuits(bell(), "fake_torino", provider, 100, **arguments)
    assert result[0].data.meas.shape == (128, 2)
    ibmq_service.faults.assert_all_fired()
    assert len(ibmq_service.jobs()) == 1


def test_prepared_circuits_take_no_more_together_than_alone(ibmq_service: Any) -> None:
    """So a job of them that is packed by their sizes alone is within the service's limit."""
    backend, told = get_backend("fake_torino", ibmq_service.provider), {"twirling": {"enable_gates": True}}
    isa = transpile_circuits([bell(f"bell {n}") for n in range(6)] + [turned("a", "b")], backend, ibmq_service.provider)
    pubs = [SamplerPub.coerce(circuit if not circuit.parameters else (circuit, [[0.1, 0.2]] * 9)) for circuit in isa]
    alone = [len(json.dumps(prepare([pub], told, 100, backend.target))) for pub in pubs]
    for places in (range(7), range(6), [0, 6], [3]):
        params = build_params("executor", [pubs[place] for place in places], shots=100, options=told)
        body = JobRequest(program="executor", backend="fake_torino", params=params).encoded()
        assert len(body) <= measure_of_sizes(alone)(list(places))


@given(
    shots=st.integers(1, 300_000),
    randomizations=st.one_of(st.just("auto"), st.integers(1, 2000)),
    each=st.one_of(st.just("auto"), st.integers(1, 2000)),
)
def test_shots_are_rounded_up_as_ibms_client_does(shots: int, randomizations: Any, each: Any) -> None:
    twirling = {"num_randomizations": randomizations, "shots_per_randomization": each}
    run = twirled_shots({"twirling": twirling}, shots)
    assert run == np.prod(calculate_twirling_shots(shots, randomizations, each))
    assert twirled_shots({"twirling": twirling}, run) == run


def test_a_planned_run_goes_on_from_its_folder_alone(ibmq_service: Any, tmp_path: Path) -> None:
    """What is needed to twirl and decouple is in the folder, or asked for again."""
    provider, options = ibmq_service.provider, {"dynamical_decoupling": True, "twirling": True, "memory": True}
    arguments: dict[str, Any] = {"run_key": "left", "archive": tmp_path, "shots": 100, "header": {"by": "me"}}
    run = open_run(bell(), provider, options=options, **arguments)
    isa = transpile_circuits(run.inputs, "fake_torino", provider)
    plan = plan_run(run, get_backend("fake_torino", provider), isa, provider)
    restored = restored_run(run.archive, plan)
    [part] = plan.parts
    handle = wait_for_job(submit_part(restored, part, provider), provider)
    result = fetch_result(handle, provider, archive=tmp_path)
    assert result[0].data.meas.num_shots == 128
    export_counts(result, tmp_path)
    assert set(table(tmp_path, "memory")["header"]) == {'{"by":"me"}'}
    assert len(table(tmp_path, "memory")) == 128


def test_the_older_program_is_told_what_to_twirl_and_decouple(
    ibmq_service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"twirling": {"enable_gates": True, "strategy": "all"}, "dynamical_decoupling": "XpXm"}
    caplog.set_level("WARNING", "prefect.task_runs")
    run_circuits(bell(), "fake_manila", ibmq_service.provider, 100, run_key="s", program="sampler", options=options)
    [params] = sent(ibmq_service)
    SamplerParams.model_validate(params)
    assert params["pubs"][0][2] == 128
    assert params["options"]["twirling"]["strategy"] == "all"
    assert params["options"]["dynamical_decoupling"]["sequence_type"] == "XpXm"
    assert params["options"]["dynamical_decoupling"]["enable"] is True
    assert "was simulated without twirling.enable_gates, dynamical_decoupling" in caplog.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"twirling": True}, "control flow, which twirling"),
        ({"dynamical_decoupling": True}, "control flow, which dynamical_decoupling"),
        ({"twirling": {"strategy": "all"}}, "not switched on"),
        ({"twirling": {"stategy": "all"}}, "'stategy'. Did you mean strategy"),
        ({"twirling": {"enable_gates": 1}}, "twirling.enable_gates=1"),
        ({"twirling": {"enable_gates": True, "num_randomizations": 0}}, "num_randomizations=0"),
        ({"twirling": "XX"}, "twirling='XX'"),
        ({"dynamical_decoupling": "XYXY"}, "sequence_type='XYXY'.*'XX' or 'XpXm' or 'XY4'"),
        ({"shots": 7, "twirling": {"enable_gates": True, "num_randomizations": 3, "shots_per_randomization": 5}}, "15"),
    ],
)
def test_what_cannot_be_twirled_or_decoupled_is_refused(ibmq_service: Any, options: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        run_circuits([bell(), teleported()], "fake_torino", ibmq_service.provider, run_key="t", options=options)
    assert ibmq_service.jobs() == []


def between_measurements() -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(2, "q"), ClassicalRegister(1, "first"), ClassicalRegister(2, "last"))
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [1, 2])
    return circuit


@pytest.mark.parametrize(
    ("circuit", "twirling"), [(between_measurements(), {"enable_measure": True}), (in_the_middle(), True)]
)
def test_what_ibms_code_cannot_prepare_is_refused_before_anything_is_sent(
    ibmq_service: Any, circuit: QuantumCircuit, twirling: Any
) -> None:
    """Measurement twirling alone cannot pass a gate after a measurement in the middle, and none passes a reset."""
    arguments: dict[str, Any] = {"run_key": "t", "max_circuits_per_job": 1, "twirling": twirling}
    with pytest.raises(CircuitError, match=r"position 1.*: It cannot be twirled"):
        run_circuits([bell(), circuit], "fake_torino", ibmq_service.provider, 10, **arguments)
    assert ibmq_service.jobs() == []
