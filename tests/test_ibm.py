"""The contract of `ibm.py` with the installed qiskit-ibm-runtime: fails loudly where a new version differs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.primitives import PrimitiveResult
from qiskit.transpiler import Target

from prefect_ibmq import ibm
from prefect_ibmq.errors import BackendNotFound, ResultUnreadable, UnusableAnswer

FAMILIES = ["fake_torino", "fake_fez", "fake_nighthawk", "fake_sherbrooke", "fake_manila", "fake_armonk"]


def _fake(name: str) -> Any:
    from qiskit_ibm_runtime.fake_provider import FakeProviderForBackendV2

    [backend] = [each for each in FakeProviderForBackendV2().backends() if each.name == name]
    return backend


def test_all_shipped_devices_are_named_as_ibm_names_them() -> None:
    from qiskit_ibm_runtime.fake_provider import FakeProviderForBackendV2

    theirs = {backend.name for backend in FakeProviderForBackendV2().backends()}
    assert set(ibm.device_names()) == theirs
    assert list(ibm.device_names()) == sorted(theirs)
    assert {"fake_torino", "fake_fez", "fake_nighthawk"} <= theirs


@pytest.mark.parametrize("name", ibm.device_names())
def test_every_shipped_device_has_a_configuration_and_a_calibration(name: str) -> None:
    configuration, properties = ibm.device_configuration(name), ibm.device_properties(name)
    assert configuration["backend_name"] == properties["backend_name"] == name
    assert configuration["n_qubits"] == len(properties["qubits"])
    assert ibm.configuration_model(configuration).n_qubits == configuration["n_qubits"]
    assert ibm.properties_model(properties).backend_name == name
    assert (ibm.device_physical_qubits(name) or 1) > 0


def test_an_unknown_device_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(BackendNotFound, match="fake_torino") as told:
        ibm.device_configuration("fake_torrino")
    assert "fake_torino" in told.value.nearest


def test_payloads_stay_as_they_were() -> None:
    configuration, properties = ibm.device_configuration("fake_manila"), ibm.device_properties("fake_manila")
    before = json.dumps([configuration, properties])
    ibm.configuration_model(configuration, fractional_gates=False)
    ibm.properties_model(properties)
    ibm.target_from(configuration, properties)
    assert json.dumps([configuration, properties]) == before


def _content(target: Target) -> dict[str, dict[Any, Any]]:
    return {
        name: {
            qubits: None if told is None else (told.duration, told.error)
            for qubits, told in (target[name] or {None: None}).items()
        }
        for name in target.operation_names
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_target_is_the_one_that_ibms_client_builds(name: str) -> None:
    theirs = _fake(name).target
    configuration, properties = ibm.device_configuration(name), ibm.device_properties(name)
    ours = ibm.target_from(configuration, properties, fractional_gates=_has_fractional_gates(theirs))
    assert ours.num_qubits == theirs.num_qubits
    assert ours.dt == theirs.dt
    mine, others = _content(ours), _content(theirs)
    common = mine.keys() & others.keys()
    assert {each: mine[each] for each in common} == {each: others[each] for each in common}
    # Control flow is in every device's target; IBM's snapshots of small devices leave it out.
    assert set(mine) ^ set(others) <= {"if_else", "for_loop", "while_loop", "switch_case"}
    for qubit in range(theirs.num_qubits or 0):
        assert ours.qubit_properties[qubit].t1 == theirs.qubit_properties[qubit].t1


def _has_fractional_gates(target: Target) -> bool:
    return bool({"rzz", "rx"} & set(target.operation_names))


def test_fractional_gates_are_offered_on_request() -> None:
    configuration, properties = ibm.device_configuration("fake_fractional"), ibm.device_properties("fake_fractional")
    assert "rzz" not in ibm.target_from(configuration, properties).operation_names
    assert "rzz" in ibm.target_from(configuration, properties, fractional_gates=True).operation_names


def test_a_target_without_calibration_has_gates_but_no_errors() -> None:
    target = ibm.target_from(ibm.device_configuration("fake_manila"), None)
    assert target.num_qubits == 5
    assert {told.error for told in target["cx"].values() if told is not None} <= {None}


def test_a_configuration_of_the_history_may_lack_fields() -> None:
    bare = ibm.device_configuration("fake_manila")
    for name in ("online_date", "gates"):
        bare.pop(name, None)
    assert ibm.configuration_model(bare).n_qubits == 5


def test_a_configuration_needs_only_what_makes_a_target() -> None:
    whole = ibm.device_configuration("fake_torino")
    needed = ("backend_name", "n_qubits", "basis_gates", "gates", "coupling_map", "supported_instructions", "dt")
    bare = {name: whole[name] for name in needed}
    nulls = bare | dict.fromkeys(("online_date", "u_channel_lo", "qubit_lo_range", "rep_times", "timing_constraints"))
    for configuration in (bare, nulls):
        target = ibm.target_from(configuration, None)
        assert (target.num_qubits, target.dt) == (133, 4e-9)
        assert set(target.operation_names) == set(ibm.target_from(whole, None).operation_names)
    del bare["n_qubits"]
    with pytest.raises(UnusableAnswer, match="n_qubits"):
        ibm.target_from(bare, None)


def test_a_faulty_place_is_left_out_of_an_instruction_that_the_configuration_does_not_place() -> None:
    configuration, properties = ibm.device_configuration("fake_manila"), ibm.device_properties("fake_manila")
    assert any(gate["gate"] == "reset" for gate in properties["gates"])
    properties["qubits"][1].append({**properties["qubits"][1][0], "name": "operational", "unit": "", "value": 0})
    for gates in ([each for each in configuration["gates"] if each["name"] != "reset"], [], None):
        target = ibm.target_from({**configuration, "gates": gates}, properties)
        assert (0, 1) not in target["cx"]
        assert (3, 4) in target["cx"]
        assert sorted(target["reset"]) == [(0,), (2,), (3,), (4,)]


def test_couplings_hold_where_neither_gates_nor_calibration_tell_them() -> None:
    configuration = ibm.device_configuration("fake_manila")
    target = ibm.target_from({**configuration, "gates": []}, None)
    assert sorted(target["cx"]) == sorted(map(tuple, configuration["coupling_map"]))


def test_gates_may_lack_what_pulses_needed() -> None:
    configuration = ibm.device_configuration("fake_manila")
    needed = ("name", "coupling_map")
    gates = [{key: gate[key] for key in needed if key in gate} for gate in configuration["gates"]]
    bare, whole = (ibm.target_from({**configuration, "gates": each}, None) for each in (gates, configuration["gates"]))
    assert [(name, bare[name]) for name in sorted(bare)] == [(name, whole[name]) for name in sorted(whole)]


@pytest.mark.parametrize(
    "odd",
    [
        {"n_qubits": "5"},
        {"gates": [None]},
        {"gates": [{}]},
        {"gates": [{"name": "cx", "coupling_map": [[0, None]]}]},
        {"basis_gates": 3},
        {"online_date": "x"},
        {"timing_constraints": 1},
        {"dt": [1]},
    ],
)
def test_a_configuration_of_another_form_is_an_error_of_ours(odd: dict[str, Any]) -> None:
    with pytest.raises(UnusableAnswer, match="What the service told of fake_manila gives no"):
        ibm.target_from({**ibm.device_configuration("fake_manila"), **odd}, None)


def test_whether_a_circuit_is_an_isa_circuit_is_told_with_the_reason() -> None:
    target = ibm.target_from(ibm.device_configuration("fake_manila"), ibm.device_properties("fake_manila"))
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    assert "h" in ibm.isa_problem(circuit, target)
    assert ibm.isa_problem(transpile(circuit, target=target, seed_transpiler=1), target) == ""


def test_encoding_and_decoding_gives_the_same_back() -> None:
    circuit = QuantumCircuit(2, 2, name="bell")
    circuit.rx(Parameter("theta"), 0)
    circuit.measure([0, 1], [0, 1])
    value = {
        "circuit": circuit,
        "array": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
        "complex": 1 + 2j,
        "nested": [{"x": None}, "µ", 0.1],
    }
    there = ibm.decode_json(ibm.encode_json(value))
    assert there["circuit"] == circuit
    np.testing.assert_array_equal(there["array"], value["array"])
    assert there["complex"] == 1 + 2j
    assert there["nested"] == value["nested"]


def test_the_qpy_version_is_one_that_the_service_reads() -> None:
    assert 13 <= ibm.sampler_qpy_version() <= ibm.SAMPLER_QPY_CEILING


def test_a_sampler_result_is_decoded_by_ibms_decoder() -> None:
    from qiskit.primitives import BitArray, DataBin, SamplerPubResult

    bits = BitArray.from_counts({"00": 3, "11": 5})
    result = PrimitiveResult([SamplerPubResult(DataBin(meas=bits))], metadata={"version": 2})
    decoded = ibm.decode_result("sampler", ibm.encode_json(result))
    assert decoded[0].data.meas.get_counts() == {"00": 3, "11": 5}


@pytest.mark.parametrize(
    "text", ["", "<html></html>", '"text"', "{", "\x00", '{"__type__": "ndarray", "__value__": "!"}']
)
@pytest.mark.parametrize("program", ["sampler", "executor"])
def test_what_is_no_result_is_unreadable(program: str, text: str) -> None:
    with pytest.raises(ResultUnreadable):
        ibm.decode_result(program, text)


@pytest.mark.parametrize("version", [None, "v0.0", 7])
def test_an_executor_program_of_no_known_version_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match="schema_version"):
        ibm.executor_program({"schema_version": version})


def test_execution_spans_tell_which_pubs_ran_when() -> None:
    from datetime import UTC, datetime, timedelta

    start = datetime(2026, 8, 14, 12, tzinfo=UTC)
    spans = ibm.execution_spans([(start, start + timedelta(seconds=2), {0: (100,), 1: (3, 100)})])
    [span] = list(spans)
    assert span.pub_idxs == [0, 1]
    assert span.size == 400
    assert span.duration == 2
    assert span.mask(1).shape == (3, 100)
