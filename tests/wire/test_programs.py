"""What `programs` writes and reads, held against IBM's own models and decoders."""

import base64
import json
import tracemalloc
import zlib
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0.models import (
    ItemMetadataModel,
    MetadataModel,
    ParamsModel,
    QuantumProgramResultItemModel,
    QuantumProgramResultModel,
)
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, transpile
from qiskit.circuit import Parameter
from qiskit.primitives import BindingsArray, BitArray, DataBin, PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.decoders.defaults import DEFAULT_DECODERS
from qiskit_ibm_runtime.executor_sampler.prepare import prepare
from qiskit_ibm_runtime.options_models.sampler import SamplerOptions
from qiskit_ibm_runtime.quantum_program.converters.converters_2_0 import quantum_program_from_2_0

from prefect_ibmq import ibm
from prefect_ibmq.errors import CircuitError, InputError, ResultUnreadable
from prefect_ibmq.wire import tensors
from prefect_ibmq.wire.programs import build_params
from prefect_ibmq.wire.results import decode_result

WHEN = "2026-08-17T01:39:15"


def bell(name: str = "bell") -> QuantumCircuit:
    circuit = QuantumCircuit(2, name=name, metadata={"purpose": "test", "n": np.int64(3)})
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


@cache
def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(1, "q"), ClassicalRegister(1, "c"))
    circuit.rx(Parameter("a"), 0)
    circuit.rz(Parameter("b"), 0)
    circuit.measure(0, 0)
    return circuit


def official(text: str) -> Any:
    value: Any = text
    for decoder in DEFAULT_DECODERS["executor"]:
        if decoder.is_applicable(value):
            value = decoder.decode(value)
    return value


def result_text(
    items: list[dict[str, np.ndarray]],
    *,
    twirling: bool = False,
    meas_type: str = "classified",
    role: str = "sampler_v2",
) -> str:
    passed = {
        "post_processor": {
            "version": "v0.1",
            "twirling": twirling,
            "meas_type": meas_type,
            "shots": 10,
            "circuits_metadata": [{"index": index} for index in range(len(items))],
            "options": {},
        }
    }
    part = {"idx_item": 0, "size": 1, "permutation": [], "element_range": [0, 1, 1]}
    model = QuantumProgramResultModel(
        data=[
            QuantumProgramResultItemModel(
                results={name: CompressedTensorModel.from_numpy(array) for name, array in item.items()},
                metadata=ItemMetadataModel(),
            )
            for item in items
        ],
        metadata=MetadataModel(chunk_timing=[{"start": WHEN, "stop": WHEN, "parts": [part]}]),
        passthrough_data=passed,
        semantic_role="sampler_v2",
    )
    return str(model.model_dump_json())


def assert_same(ours: PrimitiveResult[Any], theirs: PrimitiveResult[Any]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.data.shape == other.data.shape
        assert list(mine.data.keys()) == list(other.data.keys())
        for name in other.data:
            if isinstance(other.data[name], BitArray):
                assert mine.data[name] == other.data[name]
                assert mine.data[name].array.flags.c_contiguous
            else:
                np.testing.assert_array_equal(mine.data[name], other.data[name])
        assert mine.metadata == other.metadata


# --- params ------------------------------------------------------------------------------------------------------


def test_executor_params_parse_with_ibms_models() -> None:
    sweep = SamplerPub.coerce((rotated(), np.arange(12.0).reshape(2, 3, 2)))
    options = {"execution": {"rep_delay": 0.00025, "init_qubits": False}, "experimental": {"x": 1}}
    params = json.loads(
        json.dumps(build_params("executor", [SamplerPub.coerce(bell()), sweep], shots=100, options=options))
    )
    model = ParamsModel.model_validate(params)
    program, decoded = quantum_program_from_2_0(model)
    assert program.shots == 100
    assert program._semantic_role == "sampler_v2"
    assert [item.circuit for item in program.items] == [bell(), rotated()]
    assert program.items[0].circuit_arguments.shape == (0,)
    np.testing.assert_array_equal(
        program.items[1].circuit_arguments, sweep.parameter_values.as_array(rotated().parameters)
    )
    assert program.items[1].circuit_arguments.shape == (2, 3, 2)
    assert program.passthrough_data["post_processor"]["circuits_metadata"] == [{"purpose": "test", "n": 3}, {}]
    assert not program.items[0].circuit.metadata
    assert decoded.execution.rep_delay == 0.00025
    assert decoded.execution.init_qubits is False
    assert decoded.experimental == {"x": 1}


def test_executor_result_of_our_passthrough_is_a_primitive_result_for_ibm() -> None:
    params = build_params("executor", [SamplerPub.coerce(bell())], shots=4, passthrough={"ours": "yes"})
    model = ParamsModel.model_validate(params)
    bits = np.array([[0, 1], [1, 1], [0, 0], [1, 0]], dtype=bool)
    text = QuantumProgramResultModel(
        data=[{"results": {"meas": CompressedTensorModel.from_numpy(bits)}, "metadata": {}}],
        metadata={"chunk_timing": []},
        passthrough_data=model.quantum_program.passthrough_data,
        semantic_role=model.quantum_program.semantic_role,
    ).model_dump_json()
    theirs = official(text)
    assert isinstance(theirs, PrimitiveResult)
    assert_same(decode_result("executor", text), theirs)
    assert theirs[0].metadata["circuit_metadata"] == {"purpose": "test", "n": 3}


def test_sampler_params_decode_as_ibm_decodes_them() -> None:
    pubs = [SamplerPub.coerce(bell()), SamplerPub.coerce((rotated(), [[0.1, 0.2], [0.3, 0.4]], 50))]
    params = build_params("sampler", pubs, shots=100, options={"execution": {"meas_type": "classified"}})
    decoded = ibm.decode_json(json.dumps(params))
    assert (decoded["version"], decoded["support_qiskit"]) == (2, True)
    assert [pub[0] for pub in decoded["pubs"]] == [bell(), rotated()]
    assert [pub[2] for pub in decoded["pubs"]] == [100, 50]
    assert decoded["pubs"][0][1].shape == (0,)
    np.testing.assert_array_equal(decoded["pubs"][1][1], [[0.1, 0.2], [0.3, 0.4]])
    qpy_bytes = zlib.decompress(base64.b64decode(params["pubs"][0][0]["__value__"]))
    assert qpy_bytes[6] <= 17


@pytest.mark.parametrize("shots", [0, -1, True, 1.5])
def test_params_with_impossible_shots_are_refused(shots: Any) -> None:
    with pytest.raises(InputError, match="Shots"):
        build_params("executor", [SamplerPub.coerce(bell())], shots=shots)


@cache
def target() -> Any:
    return ibm.target_from(ibm.device_configuration("fake_manila"), ibm.device_properties("fake_manila"))


def steps(circuit: QuantumCircuit) -> list[Any]:
    """What a circuit does where; the parameters of a template are new ones each time it is built."""
    return [(step.name, [circuit.find_bit(qubit).index for qubit in step.qubits]) for step in circuit.data]


@pytest.mark.parametrize(("twirls", "decouples"), [(True, False), (False, True), (True, True)])
def test_prepared_params_are_those_of_ibms_client(twirls: bool, decouples: bool) -> None:
    options = {"twirling": {"enable_gates": twirls, "enable_measure": twirls}, "execution": {"rep_delay": 0.0001}}
    options["dynamical_decoupling"] = {"enable": decouples, "sequence_type": "XY4"}
    isa = transpile(bell(), target=target(), seed_transpiler=1)
    sweep = transpile(rotated(), target=target(), seed_transpiler=1)
    pubs = [SamplerPub.coerce(isa), SamplerPub.coerce((sweep, np.arange(12.0).reshape(2, 3, 2)))]
    given = {"shots": 100, "options": options, "passthrough": {"ours": 1}, "target": target()}
    params = json.loads(json.dumps(build_params("executor", pubs, **given)))
    program, decoded = quantum_program_from_2_0(ParamsModel.model_validate(params))
    theirs, their_options = prepare(pubs, SamplerOptions(**options), 100, backend=SimpleNamespace(target=target()))
    assert program.shots == theirs.shots
    assert decoded.execution.rep_delay == their_options.execution.rep_delay == 0.0001
    assert [steps(item.circuit) for item in program.items] == [steps(item.circuit) for item in theirs.items]
    assert [item.shape for item in program.items] == [item.shape for item in theirs.items]
    passed, told = program.passthrough_data, theirs.passthrough_data["post_processor"]
    assert passed["ours"] == 1
    assert {**passed["post_processor"], "options": None} == {
        **told,
        "circuits_metadata": [{"purpose": "test", "n": 3}, {}],
        "options": None,
    }


def test_a_sweep_without_parameters_keeps_its_shape_when_it_is_prepared() -> None:
    isa = transpile(bell(), target=target(), seed_transpiler=1)
    pub = SamplerPub(isa, BindingsArray(shape=(3,)))
    twirled, decoupled = ({"twirling": {"enable_gates": True}}, {"dynamical_decoupling": {"enable": True}})
    items = [
        build_params("executor", [pub], shots=100, options=options, target=target())["quantum_program"]["items"][0]
        for options in (twirled, decoupled)
    ]
    assert items[0]["shape"] == [2, 3]
    assert items[1]["circuit_arguments"]["shape"] == [3, 0]


def test_what_cannot_be_prepared_names_its_circuit() -> None:
    dynamic = QuantumCircuit(QuantumRegister(1, "q"), ClassicalRegister(1, "c"), name="dynamic")
    dynamic.measure(0, 0)
    with dynamic.if_test((dynamic.cregs[0], 1)):
        dynamic.x(0)
    pubs = [SamplerPub.coerce(transpile(bell(), target=target())), SamplerPub.coerce(dynamic)]
    for option in ({"twirling": {"enable_gates": True}}, {"dynamical_decoupling": {"enable": True}}):
        with pytest.raises(CircuitError, match=r"Circuit 1 \(dynamic\) cannot be twirled or decoupled"):
            build_params("executor", pubs, shots=5, options=option, target=target())
    with pytest.raises(InputError, match="These options cannot be"):
        build_params("executor", pubs, shots=5, options={"twirling": {"enable_gates": True, "strategy": "none"}})


def test_params_that_would_be_ignored_are_refused() -> None:
    one, two = SamplerPub.coerce((bell(), None, 10)), SamplerPub.coerce((bell(), None, 20))
    with pytest.raises(InputError, match="one number of shots"):
        build_params("executor", [one, two], shots=5)
    with pytest.raises(InputError, match=r"'simulator'.*sampler"):
        build_params("executor", [one], shots=5, options={"simulator": {"seed_simulator": 1}})
    with pytest.raises(InputError, match="'nonsense'"):
        build_params("executor", [one], shots=5, options={"execution": {"nonsense": 1}})
    with pytest.raises(InputError, match="'nonsense'"):
        build_params("sampler", [one], shots=5, options={"nonsense": 1})
    with pytest.raises(InputError, match="at least one"):
        build_params("executor", [], shots=5)
    with pytest.raises(InputError, match="'noise-learner'"):
        build_params("noise-learner", [one], shots=5)
    build_params("executor", [one], shots=5, options={"twirling": {"enable_gates": False}})


def test_params_of_a_register_that_no_result_can_hold_are_refused() -> None:
    circuit = QuantumCircuit(QuantumRegister(1), ClassicalRegister(1, "items"))
    with pytest.raises(CircuitError, match="'items'"):
        build_params("executor", [SamplerPub.coerce(circuit)], shots=5)


def test_params_of_the_estimator_are_what_ibms_decoder_reads() -> None:
    circuit = QuantumCircuit(2, metadata={"mine": 1})
    circuit.ry(Parameter("angle"), 0)
    pub = EstimatorPub.coerce((circuit, [["ZZ"], [{"XX": 0.5, "IZ": 1.0}]], [[0.1], [0.2]], 0.02))
    params = build_params(
        "estimator", [pub], shots=1, options={"resilience_level": 2, "twirling": {"enable_gates": True}}
    )
    assert (params["version"], params["support_qiskit"], params["resilience_level"]) == (2, True, 2)
    assert params["options"] == {"twirling": {"enable_gates": True}}
    ((read, observables, values, precision),) = ibm.decode_json(json.dumps(params))["pubs"]
    assert read == circuit
    assert read.metadata == {"mine": 1}
    assert observables == [[{"ZZ": 1.0}], [{"IZ": 1.0, "XX": 0.5}]]
    assert values.tolist() == [[0.1], [0.2]]
    assert precision == 0.02
    assert "resilience_level" not in build_params("estimator", [pub], shots=1)
    with pytest.raises(InputError, match="'nonsense'"):
        build_params("estimator", [pub], shots=1, options={"nonsense": 1})


# --- results of executor -----------------------------------------------------------------------------------------

sizes = st.integers(0, 3)
widths = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 127, 128, 156]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_executor_bits_equal_ibms_decoder(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    twirling = data.draw(st.booleans())
    items = []
    for _ in range(data.draw(st.integers(1, 3))):
        sweep = tuple(data.draw(st.lists(sizes, max_size=2)))
        shots = data.draw(st.integers(1, 20))
        leading = (3, *sweep) if twirling else sweep
        item = {}
        for index in range(data.draw(st.integers(1, 3))):
            width = data.draw(widths)
            item[f"c{index}"] = random.random((*leading, shots, width)) < 0.5
            if twirling:
                item[f"measurement_flips.c{index}"] = random.random((*leading, 1, width)) < 0.5
        items.append(item)
    text = result_text(items, twirling=twirling)
    assert_same(decode_result("executor", text), official(text))


@pytest.mark.parametrize("bits", [1, 5, 8, 127])
def test_executor_bits_over_many_slices_equal_ibms_decoder(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(tensors, "SLICE_ROWS", 64)
    monkeypatch.setattr(tensors, "_BLOCK", 100)
    array = np.random.default_rng(7).random((2, 501, bits)) < 0.3
    text = result_text([{"c": array}])
    assert_same(decode_result("executor", text), official(text))


@pytest.mark.parametrize(("meas_type", "suffix"), [("kerneled", "_iq"), ("avg_kerneled", "_avg_iq")])
@pytest.mark.parametrize("twirling", [False, True])
def test_executor_kerneled_equals_ibms_decoder(meas_type: str, suffix: str, twirling: bool) -> None:
    random = np.random.default_rng(3)
    shape = (*((4,) if twirling else ()), 2, *((6,) if meas_type == "kerneled" else ()), 3)
    array = random.random(shape) + 1j * random.random(shape)
    text = result_text([{f"c{suffix}": array}], meas_type=meas_type, twirling=twirling)
    assert_same(decode_result("executor", text), official(text))


def test_executor_older_schema_without_compression_is_read() -> None:
    bits = np.random.default_rng(1).random((2, 9, 3)) < 0.5
    packed = base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()
    payload = {
        "schema_version": "v0.1",
        "data": [{"results": {"c": {"data": packed, "shape": [2, 9, 3], "dtype": "bool"}}, "metadata": None}],
        "metadata": None,
    }
    result = decode_result("executor", json.dumps(payload))
    assert result[0].data.c == BitArray.from_bool_array(bits, order="little")


def test_executor_spans_are_aware_and_name_their_pubs() -> None:
    text = result_text([{"c": np.ones((2, 1), dtype=bool)}])
    when = datetime(2026, 8, 17, 1, 39, 15, tzinfo=UTC)
    assert decode_result("executor", text).metadata["execution"] == [{"start": when, "stop": when, "pubs": [0]}]


# --- results that are broken -------------------------------------------------------------------------------------


def test_executor_bomb_is_refused_before_it_unpacks() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(200 * 2**20), 9)).decode()
    payload = json.loads(result_text([{"c": np.ones((2, 1), dtype=bool)}]))
    for shape in ([200 * 2**20, 8], [2, 8], [10**18, 8]):
        payload["data"][0]["results"]["c"] = {"data": bomb, "shape": shape, "dtype": "bool"}
        text = json.dumps(payload)
        tracemalloc.start()
        with pytest.raises(ResultUnreadable):
            decode_result("executor", text, max_bytes=2**20)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        tracemalloc.stop()


def test_sampler_bomb_is_refused_before_it_unpacks() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(200 * 2**20), 9)).decode()
    tracemalloc.start()
    with pytest.raises(ResultUnreadable, match="more than"):
        decode_result("sampler", json.dumps({"a": [{"__type__": "ndarray", "__value__": bomb}]}), max_bytes=2**20)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


GOOD = result_text([{"c": np.ones((20, 5), dtype=bool)}])


@settings(max_examples=150, deadline=None)
@given(where=st.integers(0, len(GOOD) - 1), char=st.characters(codec="utf-8"), cut=st.booleans())
def test_damaged_results_are_unreadable_or_read(where: int, char: str, cut: bool) -> None:
    text = GOOD[:where] if cut else GOOD[:where] + char + GOOD[where + 1 :]
    try:
        decode_result("executor", text)
    except ResultUnreadable:
        return


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"x"',
        "Traceback (most recent call last): boom",
        "[" * 100_000,
        '{"schema_version": "v9.9", "data": []}',
        '{"schema_version": "v2.0", "data": [{"results": {"c": {"data": "x", "shape": [-1], "dtype": "bool"}}}]}',
        '{"__type__": "PrimitiveResult", "__value__": {}}',
        '{"results": [{"data": {"c": {"samples": ["zz"], "num_bits": 2}}}]}',
    ],
)
@pytest.mark.parametrize("program", ["executor", "sampler"])
def test_what_is_no_result_is_unreadable(program: str, text: str) -> None:
    with pytest.raises(ResultUnreadable):
        decode_result(program, text)


# --- results of sampler ------------------------------------------------------------------------------------------


def test_sampler_result_equals_ibms_decoder() -> None:
    bits = BitArray.from_bool_array(np.random.default_rng(5).random((3, 40, 70)) < 0.5)
    wanted = PrimitiveResult(
        [SamplerPubResult(DataBin(shape=(3,), c=bits), metadata={"circuit_metadata": {}})], metadata={"version": 2}
    )
    result = decode_result("sampler", ibm.encode_json(wanted))
    assert result[0].data.c == bits
    assert result.metadata == {"version": 2, "execution": []}


def test_sampler_spans_become_a_list() -> None:
    from qiskit_ibm_runtime.execution_span import DoubleSliceSpan, ExecutionSpans

    start, stop = datetime(2026, 1, 1), datetime(2026, 1, 2)
    spans = ExecutionSpans([DoubleSliceSpan(start, stop, {1: ((), slice(0, 1), slice(0, 9))})])
    bits = BitArray.from_bool_array(np.ones((9, 2), dtype=bool))
    wanted = PrimitiveResult(
        [SamplerPubResult(DataBin(shape=(), c=bits))] * 2, metadata={"execution": {"execution_spans": spans}}
    )
    told = decode_result("sampler", ibm.encode_json(wanted)).metadata["execution"]
    assert told == [{"start": start.replace(tzinfo=UTC), "stop": stop.replace(tzinfo=UTC), "pubs": [1]}]


def test_sampler_plain_result_is_read() -> None:
    payload = {"results": [{"data": {"c": {"samples": ["0x1", "0x3"], "num_bits": 2}}, "metadata": {}}], "metadata": {}}
    assert decode_result("sampler", json.dumps(payload))[0].data.c.get_counts() == {"01": 1, "11": 1}
