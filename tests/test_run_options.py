"""Options of runs: each does what it says, is checked before anything is sent, and is kept with the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ibm_quantum_schemas.sampler.version_0_1 import ParamsModel as SamplerParams
from prefect import flow
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter, ParameterVector
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.result.models import MeasLevel, MeasReturnType
from qiskit_ibm_runtime.executor.calculate_twirling_shots import calculate_twirling_shots

from prefect_ibmq import (
    CircuitError,
    IBMQJob,
    IBMQProvider,
    InputError,
    NotOffered,
    afetch_result,
    arun_circuits,
    await_for_job,
    export_counts,
    fetch_result,
    get_backend,
    open_run,
    plan_run,
    read_counts,
    run_circuits,
    run_job_set,
    submit_job,
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


# --- shots -------------------------------------------------------------------------------------------------------


def test_default_shots_are_4000_or_what_the_backend_takes(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    small = get_backend("fake_manila", provider)
    small.raw_configuration["max_shots"] = 1000
    for backend, shots in (("fake_manila", 4000), (small, 1000)):
        result = run_circuits(bell(), backend, provider, run_key=f"default {shots}", archive=tmp_path)
        assert result[0].data.meas.num_shots == shots
    # Found again without being planned again, with the shots that were planned.
    again = run_circuits(bell(), "fake_manila", provider, run_key="default 1000", archive=tmp_path)
    assert again[0].data.meas.num_shots == 1000
    assert len(ibmq_service.jobs()) == 2


def test_more_shots_than_the_backend_takes_are_refused(ibmq_service: Any) -> None:
    with pytest.raises(CircuitError, match=r"'bell'.*100,001 shots and the limit is 100,000"):
        run_circuits(bell(), "fake_manila", ibmq_service.provider, 100_001, run_key="many")
    assert ibmq_service.jobs() == []


# --- memory and header -------------------------------------------------------------------------------------------


def test_memory_keeps_each_shot_in_order(ibmq_service: Any, tmp_path: Path) -> None:
    provider, arguments = ibmq_service.provider, {"run_key": "memory", "archive": tmp_path}
    result = run_circuits([bell(), in_the_middle()], "fake_torino", provider, 60, memory=True, **arguments)
    export_counts(result, tmp_path)
    rows = table(tmp_path, "memory")
    for position, register, width in ((0, "meas", 2), (1, "first", 1), (1, "last", 3)):
        mine = rows[(rows["position"] == position) & (rows["register"] == register)]
        assert mine["shot"].tolist() == list(range(60))
        assert mine["bitstring"].tolist() == getattr(result[position].data, register).get_bitstrings()
        assert set(mine["bitstring"].str.len()) == {width}
    assert rows["simulated"].all()
    # It changes nothing of what is run: the same jobs without it, and with it again.
    assert run_circuits([bell(), in_the_middle()], "fake_torino", provider, 60, **arguments) is not None
    assert len(ibmq_service.jobs()) == 1


def test_without_memory_there_are_counts_alone(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    result = run_circuits(bell(), "fake_manila", provider, 50, run_key="none", archive=tmp_path)
    export_counts(result, tmp_path)
    assert not (tmp_path / "memory").exists()
    export_counts(result, tmp_path, memory=True)
    assert len(table(tmp_path, "memory")) == 50


def test_memory_and_header_are_found_with_the_job_alone(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    circuit = bell()
    circuit.metadata = {"series": 7}
    [isa] = transpile_circuits(circuit, "fake_manila", provider)
    header = {"purpose": "calibration", "tries": [1, 2]}
    for program in ("executor", "sampler"):
        arguments: dict[str, Any] = {"program": program, "run_key": program, "header": header, "memory": True}
        handle = submit_job(isa, "fake_manila", provider, shots=30, **arguments)
        wait_for_job(handle, provider=provider)
        fresh = tmp_path / program  # nothing is known here of the run
        export_counts(fetch_result(handle.job_id, provider, archive=fresh), fresh)
        [told] = set(read_counts(fresh)["header"])
        assert json.loads(told) == {"purpose": "calibration", "tries": [1, 2], "series": 7}
        assert len(table(fresh, "memory")) == 30


def test_job_sets_take_the_same_options(ibmq_service: Any, tmp_path: Path) -> None:
    circuits = [bell(), turned("a").assign_parameters([0.0]), turned("a").assign_parameters([np.pi])]
    options: dict[str, Any] = {"memory": True, "rep_delay": "300us", "header": {"kind": "set"}}
    ran = run_job_set(circuits, "fake_torino", ibmq_service.provider, 40, run_key="set", archive=tmp_path, **options)
    export_counts(ran.results().result, tmp_path)
    rows = table(tmp_path, "memory")
    assert rows.groupby("position").size().to_dict() == {0: 40, 1: 40, 2: 40}
    assert rows[rows["position"] == 2]["bitstring"].tolist() == ran.memory(2)
    assert set(rows["header"]) == {'{"kind":"set"}'}
    assert {params["options"]["rep_delay"] for params in sent(ibmq_service)} == {0.0003}
    points = run_job_set(circuits[0], "fake_torino", ibmq_service.provider, 40, run_key="iq", meas_level=1)
    with pytest.raises(InputError, match="no classified bits"):
        points.counts(0)
    assert points.results().result[0].data.meas.shape == (40, 2)


@pytest.mark.parametrize("header", [["purpose"], {"when": object()}, {"x": float("nan")}])
def test_a_header_that_is_no_json_is_refused(ibmq_service: Any, header: Any) -> None:
    with pytest.raises(InputError, match="header="):
        run_circuits(bell(), "fake_manila", ibmq_service.provider, 10, run_key="h", header=header)
    assert ibmq_service.jobs() == []


# --- measurement level -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["executor", "sampler"])
def test_kerneled_points_come_as_complex_arrays_and_are_exported(
    ibmq_service: Any, tmp_path: Path, program: str
) -> None:
    provider = ibmq_service.provider
    circuit, values = turned("a", "b"), np.pi * np.array([[0, 1], [1, 0], [1, 1]])
    arguments: dict[str, Any] = {"run_key": "iq", "program": program, "archive": tmp_path}
    single = run_circuits((circuit, values), "fake_manila", provider, 40, meas_level=MeasLevel.KERNELED, **arguments)
    average = run_circuits(
        (circuit, values), "fake_manila", provider, 40, meas_level=1, meas_return=MeasReturnType.AVERAGE, **arguments
    )
    points, means = single[0].data.meas, average[0].data.meas
    assert points.shape == (3, 40, 2)
    assert means.shape == (3, 2)
    assert ((points.mean(axis=1).real < 0) == (values > 1)).all()
    assert ((means.real < 0) == (values > 1)).all()
    told = export_counts(single, tmp_path)
    assert told["rows"] == 240
    assert told["archive"].endswith("kerneled")
    export_counts(average, tmp_path)
    rows = table(tmp_path, "kerneled")
    assert len(rows) == 246
    assert rows["simulated"].all()
    assert not (tmp_path / "counts").exists()
    shot = rows[rows["shot"].notna()]
    np.testing.assert_array_equal((shot["real"] + 1j * shot["imag"]).to_numpy(), points.reshape(-1))
    assert shot["parameters"].map(json.loads).tolist()[80] == {"a": np.pi, "b": 0.0}
    mean = rows[rows["shot"].isna()]
    np.testing.assert_array_equal((mean["real"] + 1j * mean["imag"]).to_numpy(), means.reshape(-1))
    assert set(rows["shots"]) == {40}


def test_kerneled_registers_stay_apart(ibmq_service: Any, tmp_path: Path) -> None:
    circuits = [in_the_middle(), teleported()]
    result = run_circuits(circuits, "fake_torino", ibmq_service.provider, 20, run_key="iq", meas_level=1)
    shapes = [{name: field.shape for name, field in pub.data.items()} for pub in result]
    assert shapes == [{"first": (20, 1), "last": (20, 3)}, {"early": (20, 1), "late": (20, 2)}]
    assert (result[1].data.late.mean(axis=0).real < 0).all()
    export_counts(result, tmp_path)
    sizes = table(tmp_path, "kerneled").groupby(["position", "register"]).size()
    assert sizes.to_dict() == {(0, "first"): 20, (0, "last"): 60, (1, "early"): 20, (1, "late"): 40}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"meas_level": 0}, "raw traces"),
        ({"meas_level": True}, "meas_level=True"),
        ({"meas_return": "avg"}, "meas_level=1"),
        ({"meas_level": 1, "meas_return": "all"}, "'single'"),
        ({"meas_level": 1, "memory": True}, "no bits"),
        ({"meas_level": 1, "twirling": {"enable_measure": True}}, "exclude each other"),
    ],
)
def test_measurements_that_cannot_be_are_refused(ibmq_service: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run_circuits(bell(), "fake_manila", ibmq_service.provider, 10, run_key="m", options=options)
    assert ibmq_service.jobs() == []


# --- execution ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0003, "300us", "300 µs", "0.3ms", "3e-4s", "300000 ns"])
def test_rep_delay_is_seconds_or_says_its_unit(ibmq_service: Any, delay: Any) -> None:
    provider = ibmq_service.provider
    run = open_run(bell(), provider, run_key="rep", rep_delay=delay)
    assert run.options == {"rep_delay": 0.0003}
    assert run.set_key == open_run(bell(), provider, run_key="rep", options={"rep_delay": 0.0003}).set_key


def test_rep_delay_and_init_qubits_reach_the_service(ibmq_service: Any) -> None:
    arguments: dict[str, Any] = {"run_key": "sent", "rep_delay": "300us", "init_qubits": False}
    for program in ("executor", "sampler"):
        run_circuits(
            bell(), "fake_torino", ibmq_service.provider, 10, program=program, repetition=len(program), **arguments
        )
    executor, sampler = sent(ibmq_service)
    assert (executor["options"]["rep_delay"], executor["options"]["init_qubits"]) == (0.0003, False)
    assert sampler["options"]["execution"] == {"rep_delay": 0.0003, "init_qubits": False}


@pytest.mark.parametrize(
    ("delay", "told"),
    [
        (0.001, "fake_torino's range 0.0 to 0.0005 s"),
        ("1 ms", "range"),
        (-1.0, "no length of time"),
        ("fast", "no length of time"),
        ("3 weeks", "no length of time"),
        (True, "no length of time"),
        (float("nan"), "no length of time"),
    ],
)
def test_a_rep_delay_that_cannot_be_is_refused(ibmq_service: Any, delay: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        run_circuits(bell(), "fake_torino", ibmq_service.provider, 10, run_key="rep", rep_delay=delay)
    assert ibmq_service.jobs() == []


def test_options_that_a_backend_does_not_have_are_refused(ibmq_service: Any) -> None:
    old = get_backend("fake_manila", ibmq_service.provider)
    old.raw_configuration.update(dynamic_reprate_enabled=False, meas_levels=[2])
    for options, told in (({"rep_delay": 0.0001}, "dynamic_reprate_enabled"), ({"meas_level": 1}, "only 2")):
        with pytest.raises(InputError, match=told):
            run_circuits(bell(), old, ibmq_service.provider, 10, run_key="old", options=options)
    assert ibmq_service.jobs() == []


# --- parameter binds ---------------------------------------------------------------------------------------------


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


# --- decoupling and twirling -------------------------------------------------------------------------------------


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


# --- the provider's options --------------------------------------------------------------------------------------


def test_a_providers_options_hold_unless_a_call_says_otherwise(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    provider.set_options(shots=30, rep_delay="200us", init_qubits=False)
    assert provider.options == {"shots": 30, "rep_delay": 0.0002, "init_qubits": False}
    result = run_circuits(bell(), "fake_torino", provider, run_key="defaults")
    other = run_circuits(bell(), "fake_torino", provider, 20, run_key="call", rep_delay=0.0001, init_qubits=None)
    assert [each[0].data.meas.num_shots for each in (result, other)] == [30, 20]
    first, second = (params["options"] for params in sent(ibmq_service))
    assert (first["rep_delay"], first["init_qubits"]) == (0.0002, False)
    assert (second["rep_delay"], second["init_qubits"]) == (0.0001, True)
    provider.set_options(shots=None)
    assert provider.options == {"rep_delay": 0.0002, "init_qubits": False}


def test_a_providers_options_for_other_programs_are_left_to_them(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    provider.set_options(memory=True, precision=0.1)
    assert run_circuits(bell(), "fake_manila", provider, 10, run_key="s")[0].data.meas.num_shots == 10
    result = run_circuits(
        (bell().remove_final_measurements(inplace=False), "ZZ"),
        "fake_manila",
        provider,
        run_key="e",
        program="estimator",
    )
    assert float(result[0].data.evs) > 0.8
    for program, option in (("executor", {"precision": 0.1}), ("estimator", {"memory": True})):
        with pytest.raises(InputError, match=f"'{program}' has no option '{next(iter(option))}'"):
            open_run(bell(), provider, run_key="w", program=program, options=option)


def test_unknown_options_are_refused_when_the_block_is_made() -> None:
    for wrong, told in (({"rep_dly": 1}, "Did you mean rep_delay"), ({"shots": 0}, "shots=0")):
        with pytest.raises(InputError, match=told):
            IBMQProvider(credentials=IBMQProvider.local().credentials, options=wrong)
        with pytest.raises(InputError, match=told):
            IBMQProvider.local().set_options(**wrong)


def test_a_jobs_options_go_before_its_providers(ibmq_service: Any, tmp_path: Path) -> None:
    provider = ibmq_service.provider
    provider.set_options(shots=30, init_qubits=False)
    text = "OPENQASM 3.0; bit[1] c; qubit[1] q; c[0] = measure q[0];"
    options = {"rep_delay": "100us", "init_qubits": True, "memory": True}
    job = IBMQJob(provider=provider, circuits=[text], backend="fake_torino", run_key="block", options=options)
    run = job.trigger()
    run.wait_for_completion()
    export_counts(run.fetch_result(), tmp_path)
    assert len(table(tmp_path, "memory")) == 30
    [params] = sent(ibmq_service)
    assert (params["options"]["rep_delay"], params["options"]["init_qubits"]) == (0.0001, True)
    with pytest.raises(InputError, match="Did you mean memory"):
        IBMQJob(options={"memroy": True})


def test_options_are_saved_with_the_block(prefect_server: None) -> None:
    given = {"shots": 100, "rep_delay": "250us", "dynamical_decoupling": "XY4", "twirling": True}
    IBMQProvider(credentials=IBMQProvider.local().credentials, options=given).save("with-options", overwrite=True)
    loaded = IBMQProvider.load("with-options", _sync=True)
    assert isinstance(loaded, IBMQProvider)
    assert loaded.options["rep_delay"] == 0.00025
    assert loaded.options["twirling"]["enable_measure"] is True
    assert loaded.options == IBMQProvider(credentials=loaded.credentials, options=loaded.options).options


def test_the_effective_options_are_part_of_the_set_key(ibmq_service: Any) -> None:
    def key(**options: Any) -> str:
        return str(open_run(bell(), ibmq_service.provider, run_key="k", **{"shots": 100, **options}).set_key)

    plain = key()
    assert open_run(bell(), ibmq_service.provider, run_key="k", init_qubits=True, memory=True).options == {}
    assert key(init_qubits=True, memory=True, meas_level=2, twirling=False, dynamical_decoupling=None) == plain
    assert key(header={"note": "none"}, shots=100) == plain
    others = [
        key(init_qubits=False), key(rep_delay=0.0001), key(meas_level=1), key(meas_level=1, meas_return="avg"),
        key(twirling=True), key(twirling={"enable_gates": True}), key(dynamical_decoupling=True),
    ]  # fmt: skip
    assert len({plain, *others}) == 8
    assert key(dynamical_decoupling="XX") == key(dynamical_decoupling={"sequence_type": "XX"}) == others[-1]
    ibmq_service.provider.set_options(rep_delay="100us")
    assert key() == others[1]
    assert key(rep_delay=None) == plain


# --- what there is no more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ({"qubit_lo_freq": [5e9]}, "fractional gates"),
        ({"meas_lo_freq": [7e9]}, "gates and delays"),
        ({"schedule_los": [{}]}, "gates and delays"),
        ({"qubit_lo_range": [[5, 6]]}, "gates and delays"),
        ({"meas_lo_range": [[5, 6]]}, "gates and delays"),
        ({"meas_map": [[0, 1]]}, "gates and delays"),
        ({"instruction_schedule_map": object()}, "gates and delays"),
        ({"memory_slots": 2}, "classical registers"),
        ({"memory_slot_size": 100}, "meas_level=1"),
        ({"rep_time": 1e-3}, "rep_delay"),
        ({"job_share_level": "hub"}, "IBM Cloud"),
        ({"use_measure_esp": True}, "twirling"),
        ({"live_data_enabled": True}, "wait_for_job"),
        ({"dynamic": True}, "Leave it out"),
        ({"job_name": "a"}, "name="),
        ({"job_tags": ["a"]}, "tags="),
        ({"meas_type": "kerneled"}, "meas_level=1"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_arguments_of_the_ibmq_api_are_refused_with_their_substitute(
    ibmq_service: Any, argument: dict[str, Any], instead: str
) -> None:
    provider, [name] = ibmq_service.provider, argument
    for refused in (
        lambda: run_circuits(bell(), "fake_manila", provider, 10, run_key="old", **argument),
        lambda: run_circuits(bell(), "fake_manila", provider, 10, run_key="old", options=argument),
        lambda: submit_job(bell(), "fake_manila", provider, shots=10, run_key="old", **argument),
        lambda: provider.set_options(**argument),
    ):
        with pytest.raises(NotOffered, match=rf"^{name}=.*{instead}"):
            refused()
    assert ibmq_service.counts.get("POST /jobs", 0) == 0


def test_arguments_of_the_ibmq_api_that_are_none_ask_for_nothing(ibmq_service: Any) -> None:
    result = run_circuits(bell(), "fake_manila", ibmq_service.provider, 10, run_key="n", job_share_level=None)
    assert result[0].data.meas.num_shots == 10


class Schedule:
    """Stands for qiskit's class of that name, which went with qiskit 2."""


class PulseQobj(dict[str, Any]):
    """Likewise."""


@pytest.mark.parametrize(
    "program",
    [Schedule(), PulseQobj(), {"qobj_id": "1", "type": "QASM", "experiments": []}, [bell(), Schedule()]],
    ids=["schedule", "qobj", "json", "in a list"],
)
def test_qobjs_and_schedules_are_refused(ibmq_service: Any, program: Any) -> None:
    with pytest.raises(NotOffered, match=r"A (Qobj|PulseQobj|Schedule) cannot be run.*QuantumCircuit"):
        run_circuits(program, "fake_manila", ibmq_service.provider, 10, run_key="qobj")
    assert ibmq_service.jobs() == []


def test_unknown_arguments_are_refused_with_the_nearest_names(ibmq_service: Any) -> None:
    for wrong, nearest in (("memry", "memory"), ("rep_dealy", "rep_delay"), ("tag", "tags"), ("twirl", "twirling")):
        for run in (run_circuits, submit_job):
            with pytest.raises(InputError, match=f"no argument '{wrong}'.*{nearest}"):
                run(bell(), "fake_manila", ibmq_service.provider, shots=10, run_key="w", **{wrong: 1})
    assert ibmq_service.jobs() == []


def test_options_work_in_async_flows(ibmq_service: Any, tmp_path: Path) -> None:
    @flow
    async def measured() -> int:
        result = await arun_circuits(
            turned("a"), "fake_manila", ibmq_service.provider, 20, parameter_binds=[{"a": 0.0}, {"a": 3.0}], name="two"
        )
        handle = result[0].metadata["prefect_ibmq"]["job"]["job_id"]
        await await_for_job(handle, provider=ibmq_service.provider)
        return len(await afetch_result(handle, ibmq_service.provider)) + len(result)

    import asyncio

    assert asyncio.run(measured()) == 3
    [job] = ibmq_service.jobs()
    assert "ibmq-name:two" in job.tags
