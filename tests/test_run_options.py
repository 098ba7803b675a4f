"""Options of runs: each does what it says, is checked before anything is sent, and is kept with the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from option_runs import bell, in_the_middle, sent, table, teleported, turned
from prefect import flow
from qiskit.result.models import MeasLevel, MeasReturnType

from prefect_ibmq import (
    CircuitError,
    IBMQJob,
    IBMQProvider,
    InputError,
    afetch_result,
    arun_circuits,
    await_for_job,
    export_counts,
    fetch_result,
    get_backend,
    open_run,
    read_counts,
    run_circuits,
    run_job_set,
    submit_job,
    transpile_circuits,
    wait_for_job,
)

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


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
