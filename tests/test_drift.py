"""What moved between two calibrations, what crossed a limit, and the gate that circuits meet."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

from prefect_ibmq import (
    CalibrationDrifted,
    CalibrationLimits,
    InputError,
    PropertiesRecord,
    check_calibration,
    compare_calibrations,
    estimate_success,
    ibm,
    report_drift,
)
from prefect_ibmq.calibration_gate import looked_at
from prefect_ibmq.embedded.drift import drifted
from prefect_ibmq.snapshot_ids import snapshot_id

MADE = datetime(2026, 4, 15, 7, tzinfo=UTC)
Payload = dict[str, Any]


def snapshot(device: str = "fake_manila", number: int = 0) -> Payload:
    """A calibration of a device, `number` days on."""
    return drifted(ibm.device_properties(device), seed="t", number=number, made=MADE + timedelta(days=number))


def entry(payload: Payload, parameter: str, *qubits: int, gate: str = "") -> dict[str, Any]:
    """One value of a payload, to be changed in place."""
    if not gate:
        return next(each for each in payload["qubits"][qubits[0]] if each["name"] == parameter)
    found = next(g for g in payload["gates"] if (g["gate"], tuple(g["qubits"])) == (gate, qubits))
    return next(each for each in found["parameters"] if each["name"] == parameter)


def changed(payload: Payload, parameter: str, value: Any, *qubits: int, gate: str = "") -> Payload:
    """A copy with another value."""
    copied = copy.deepcopy(payload)
    entry(copied, parameter, *qubits, gate=gate)["value"] = value
    return copied


def without_gate(payload: Payload, *qubits: int) -> Payload:
    """A copy without the edge."""
    kept = [gate for gate in payload["gates"] if set(gate["qubits"]) != set(qubits)]
    return {**copy.deepcopy(payload), "gates": kept}


def ladder(*edges: tuple[int, int], gate: str = "cx", qubits: int = 5) -> QuantumCircuit:
    """An ISA circuit on the physical qubits of a device; it measures what it touches."""
    used = sorted({qubit for edge in edges for qubit in edge})
    circuit = QuantumCircuit(qubits, len(used), name="ladder")
    for a, b in edges:
        circuit.sx(a)
        getattr(circuit, gate)(a, b)
    circuit.barrier()
    circuit.measure(used, range(len(used)))
    return circuit


# --- comparing ---------------------------------------------------------------------------------------------------


def test_a_value_has_its_absolute_and_relative_change_in_si_units() -> None:
    before = changed(snapshot(), "T1", 200.0, 2)
    entry(before, "T1", 2)["unit"] = "µs"
    drift = compare_calibrations(before, changed(before, "T1", 150.0, 2))
    [found] = [each for each in drift.changes if each.state != "unchanged"]
    assert (found.kind, found.qubits, found.parameter, found.unit) == ("qubit", (2,), "T1", "s")
    assert found.before == pytest.approx(200e-6)
    assert found.change == pytest.approx(-50e-6)
    assert found.relative == pytest.approx(-0.25)
    assert drift.get("T1", 2) == found
    assert "T1 200 µs → 150 µs (× 0.75)" in drift.text()


def test_another_spelling_of_a_unit_is_no_change() -> None:
    before = changed(snapshot(), "T1", 200.0, 2)
    after = changed(before, "T1", 0.2, 2)
    entry(after, "T1", 2)["unit"] = "ms"
    found = compare_calibrations(before, after).get("T1", 2)
    assert found is not None
    assert found.change == pytest.approx(0.0, abs=1e-12)


def test_what_came_and_went_has_no_difference() -> None:
    before = snapshot()
    after = without_gate(before, 3, 4)
    after["qubits"][1] = [each for each in after["qubits"][1] if each["name"] != "T2"]
    after["qubits"][0].append({"name": "T3", "value": 1.0, "unit": "", "date": "2026-04-16T00:00:00Z"})
    drift = compare_calibrations(before, after)
    assert drift.gates_gone == (("cx", (3, 4)), ("cx", (4, 3)))
    assert drift.gates_new == ()
    gone, new = drift.get("T2", 1), drift.get("T3", 0)
    assert gone is not None
    assert new is not None
    assert (gone.state, gone.change, gone.relative, gone.after) == ("vanished", None, None, None)
    assert (new.state, new.change, new.before) == ("appeared", None, None)
    text = drift.text()
    assert "Gone: cx on 3-4" in text
    assert "No longer told: qubit 1 T2" in text
    assert compare_calibrations(after, before).gates_new == drift.gates_gone


@pytest.mark.parametrize("sentinel", [1, 1.0, 1.5])
def test_not_calibrated_is_a_word_and_no_number(sentinel: float) -> None:
    good = snapshot()
    bad = changed(good, "gate_error", sentinel, 0, 1, gate="cx")
    states = {
        "failed": compare_calibrations(good, bad),
        "recovered": compare_calibrations(bad, good),
        "uncalibrated": compare_calibrations(bad, bad),
    }
    for state, drift in states.items():
        found = drift.get("gate_error", (0, 1), "cx")
        assert found is not None
        assert (found.state, found.change, found.relative) == (state, None, None)
        assert found not in drift.moved_most("gate_error", most=1000)


@pytest.mark.parametrize("value", [None, math.nan, "n/a"])
def test_missing_stays_missing(value: Any) -> None:
    found = compare_calibrations(snapshot(), changed(snapshot(), "T1", value, 0)).get("T1", 0)
    assert found is not None
    assert (found.state, found.after, found.change) == ("vanished", None, None)


def test_a_unit_that_nobody_knows_is_not_subtracted() -> None:
    after = changed(snapshot(), "T1", 3.0, 0)
    entry(after, "T1", 0)["unit"] = "fortnight"
    found = compare_calibrations(snapshot(), after).get("T1", 0)
    assert found is not None
    assert found.change is None


def test_the_table_has_a_row_for_each_value_of_either_side() -> None:
    before, after = snapshot("fake_kingston"), snapshot("fake_kingston", 1)
    drift = compare_calibrations(before, after)
    values = sum(map(len, before["qubits"])) + sum(len(gate["parameters"]) for gate in before["gates"])
    table = drift.table()
    assert table.num_rows >= values + len(before["general"])
    assert [str(table.schema.field(name).type) for name in ("qubits", "before", "measured_after")] == [
        "list<item: int32>", "double", "timestamp[us, tz=UTC]",
    ]  # fmt: skip
    frame = drift.table("pandas")
    both = frame[frame["state"] == "changed"]
    assert ((both["after"] - both["before"]) == both["change"]).all()
    assert (drift.before, drift.after) == (MADE, MADE + timedelta(days=1))
    assert drift.snapshots == (snapshot_id(before), snapshot_id(after))


def test_every_shipped_device_is_compared_with_itself_and_nothing_moved() -> None:
    for name in ibm.device_names()[::7]:
        payload = ibm.device_properties(name)
        drift = compare_calibrations(payload, json.dumps(payload).encode())
        assert drift.of_state("changed", "appeared", "vanished", "failed", "recovered") == []
        assert drift.crossings() == []
        assert "same calibration" in drift.text()


def test_what_moved_most_names_an_edge_once() -> None:
    before = snapshot()
    after = changed(before, "gate_error", 0.2, 0, 1, gate="cx")
    entry(after, "gate_error", 1, 0, gate="cx")["value"] = 0.2
    entry(before, "gate_error", 1, 0, gate="cx")["value"] = entry(before, "gate_error", 0, 1, gate="cx")["value"]
    [top] = compare_calibrations(before, after).moved_most()
    assert (top.gate, top.after) == ("cx", 0.2)


@pytest.mark.parametrize("wrong", [b"{", b"[]", {}, {"hello": 1}, "fake_manila", None])
def test_what_is_no_calibration_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"no calibration"):
        compare_calibrations(snapshot(), wrong)


# --- limits ------------------------------------------------------------------------------------------------------


def test_crossings_are_of_the_whole_device_and_new() -> None:
    before = changed(snapshot(), "gate_error", 0.004, 1, 2, gate="cx")
    before = changed(before, "gate_error", 1, 3, 4, gate="cx")  # was as bad before
    after = changed(before, "gate_error", 0.05, 1, 2, gate="cx")
    after = changed(without_gate(after, 0, 1), "readout_error", 0.4, 4)
    crossed = compare_calibrations(before, after).crossings()
    assert {(each.problem, each.gate, each.qubits) for each in crossed} == {
        ("gone", "cx", (0, 1)), ("gone", "cx", (1, 0)), ("drifted", "cx", (1, 2)), ("drifted", "", (4,)),
    }  # fmt: skip
    assert any("cx on 1-2: gate_error was 0.004, is 0.05; the limit is 3 times" in each.text for each in crossed)


def test_a_limit_has_a_factor_and_a_rise() -> None:
    before = changed(snapshot(), "gate_error", 0.0002, 1, 2, gate="cx")
    after = changed(before, "gate_error", 0.0009, 1, 2, gate="cx")
    assert compare_calibrations(before, after).crossings() == []
    assert compare_calibrations(before, after).crossings(CalibrationLimits(gate_error_rise=0.0005)) != []
    assert compare_calibrations(before, after).crossings(CalibrationLimits(gate_error_factor=None)) == []


def test_coherence_is_looked_at_where_asked() -> None:
    before, after = changed(snapshot(), "T1", 300.0, 1), changed(snapshot(), "T1", 90.0, 1)
    assert compare_calibrations(before, after).crossings() == []
    [found] = compare_calibrations(before, after).crossings(CalibrationLimits(coherence_factor=3))
    assert found.text == "qubit 1: T1 was 300 µs, is 90 µs; the limit is 1/3 of what it was"


# --- the estimate ------------------------------------------------------------------------------------------------


def by_hand(circuit: QuantumCircuit, payload: Payload) -> float:
    """The product, worked out in another way."""
    record, product = PropertiesRecord(payload), 1.0
    for step in circuit.data:
        qubits = [circuit.find_bit(bit).index for bit in step.qubits]
        if step.name == "measure":
            product *= 1 - (record.readout_error(qubits[0]) or 0.0)
        elif step.name not in ("barrier", "delay", "reset"):
            product *= 1 - (record.gate_error(step.name, qubits) or 0.0)
    return product


@settings(deadline=None, max_examples=20)
@given(edges=st.lists(st.sampled_from([(0, 1), (1, 2), (2, 3), (3, 4)]), min_size=1, max_size=60))
def test_the_estimate_is_the_product_over_all_instructions(edges: list[tuple[int, int]]) -> None:
    circuit = ladder(*edges)
    for payload in (snapshot(), snapshot(number=9)):
        found = estimate_success(circuit, payload)
        assert found.probability == pytest.approx(by_hand(circuit, payload), abs=1e-12)
        assert (found.missing, found.uncalibrated, found.assumed) == ((), (), ())


@pytest.mark.parametrize("nothing", [None, -0.5])
def test_a_missing_error_is_told_and_left_out(nothing: float | None) -> None:
    payload = snapshot()
    bare = changed(payload, "gate_error", nothing, 0, 1, gate="cx")
    found = estimate_success(ladder((0, 1)), bare)
    assert found.missing == (("cx", (0, 1)),)
    rate = entry(payload, "gate_error", 0, 1, gate="cx")["value"]
    assert found.probability == pytest.approx(estimate_success(ladder((0, 1)), payload).probability / (1 - rate))


def test_what_no_service_would_send_does_not_stop_a_comparison() -> None:
    odd = changed(snapshot(), "T1", 10**400, 1)
    odd["qubits"][3] = [None, "x", {"name": 5}]
    odd["gates"] += [None, {"gate": "cx"}, {"gate": "cx", "qubits": ["0", 1]}, {"gate": "cx", "qubits": [10**30, 0]}]
    drift = compare_calibrations(snapshot(), odd)
    assert drift.qubits_gone == (3,)
    assert (drift.gates_gone, drift.gates_new) == ((), ())
    assert drift.snapshots == (snapshot_id(snapshot()), snapshot_id(odd))
    found = drift.get("T1", 1)
    assert found is not None
    assert (found.state, found.after) == ("vanished", None)
    assert drift.table().num_rows == len(drift.changes)
    assert estimate_success(ladder((0, 1)), odd).probability > 0


def test_a_gate_that_is_not_calibrated_makes_it_nothing() -> None:
    found = estimate_success(ladder((0, 1)), changed(snapshot(), "gate_error", 1, 0, 1, gate="cx"))
    assert found.probability == 0
    assert found.uncalibrated == (("cx", (0, 1)),)


def test_control_flow_counts_the_worse_branch_and_each_round() -> None:
    payload = snapshot()
    qubits, bits = QuantumRegister(5), ClassicalRegister(1)
    circuit = QuantumCircuit(qubits, bits)
    with circuit.for_loop(range(3)):
        circuit.cx(0, 1)
    with circuit.if_test((bits, 1)) as otherwise:
        circuit.x(2)
    with otherwise:
        circuit.cx(2, 3)
    with circuit.while_loop((bits, 1)):
        circuit.measure(4, 0)
    rates = PropertiesRecord(payload)
    loop, branch = 1 - (rates.gate_error("cx", (0, 1)) or 0), 1 - (rates.gate_error("cx", (2, 3)) or 0)
    found = estimate_success(circuit, payload)
    assert found.probability == pytest.approx(loop**3 * branch * (1 - (rates.readout_error(4) or 0)))
    assert found.assumed == ("each while loop once", "of each choice the worse branch")


# --- the gate ----------------------------------------------------------------------------------------------------


def test_a_calm_day_passes_and_tells_what_changed() -> None:
    before, after = snapshot(), snapshot(number=1)
    check = check_calibration([ladder((0, 1)), ladder((1, 2))], before, after)
    assert check.passed
    assert {qubit for each in check.changes for qubit in each.qubits} == {0, 1, 2}
    assert {each.gate for each in check.changes} == {"", "sx", "cx"}
    for one, other, circuit in zip(check.before, check.after, [ladder((0, 1)), ladder((1, 2))], strict=True):
        assert one.probability == pytest.approx(by_hand(circuit, before), abs=1e-12)
        assert other.probability == pytest.approx(by_hand(circuit, after), abs=1e-12)
    assert check.table().num_rows == len(check.changes)
    assert "estimated success" in check.text()


def breakages() -> Iterator[tuple[str, Payload, Payload, str]]:
    """What must never pass, each with the words that name it."""
    before = changed(snapshot(), "gate_error", 0.004, 1, 2, gate="cx")
    yield "gone", before, without_gate(before, 1, 2), "cx on 1-2 is gone"
    yield "sentinel", before, changed(before, "gate_error", 1, 1, 2, gate="cx"), "cx on 1-2 is not calibrated"
    yield (
        "was one before",
        changed(before, "gate_error", 1, 1, 2, gate="cx"),
        changed(before, "gate_error", 1.0, 1, 2, gate="cx"),
        "cx on 1-2 is not calibrated",
    )
    faulty = copy.deepcopy(before)
    faulty["qubits"][2].append({"name": "operational", "value": 0, "unit": "", "date": "2026-04-16T00:00:00Z"})
    yield "qubit", before, faulty, "qubit 2 is faulty"
    faulty = copy.deepcopy(before)
    next(g for g in faulty["gates"] if g["qubits"] == [1, 2])["parameters"].append(
        {"name": "operational", "value": 0, "unit": "", "date": "2026-04-16T00:00:00Z"}
    )
    yield "gate", before, faulty, "cx on 1-2 is faulty"
    yield "no qubit", before, {**before, "qubits": before["qubits"][:2]}, "qubit 2 is gone"
    yield "empty qubit", before, {**before, "qubits": [*before["qubits"][:2], [], *before["qubits"][3:]]}, "qubit 2 is"
    worse = changed(before, "gate_error", 0.0301, 1, 2, gate="cx")
    yield "drifted", before, worse, "cx on 1-2: gate_error was 0.004, is 0.0301; the limit is 3 times what it was"
    before = changed(before, "readout_error", 0.02, 2)
    yield "readout", before, changed(before, "readout_error", 0.1, 2), "qubit 2: readout_error was 0.02, is 0.1"


@pytest.mark.parametrize(
    ("before", "after", "said"), [each[1:] for each in breakages()], ids=[e[0] for e in breakages()]
)
def test_the_gate_shuts_and_names_what_where_and_the_way_out(before: Payload, after: Payload, said: str) -> None:
    with pytest.raises(CalibrationDrifted, match="Transpile the circuits again") as caught:
        check_calibration(ladder((1, 2)), before, after)
    assert said in str(caught.value)
    assert "Nothing was submitted" in str(caught.value)
    assert caught.value.backend == "fake_manila"
    check_calibration(ladder((0, 1)), before, after)  # the same elsewhere concerns nobody


def test_every_edge_of_a_large_device_is_missed_when_it_is_gone() -> None:
    payload = snapshot("fake_kingston")
    edges = sorted({tuple(gate["qubits"]) for gate in payload["gates"] if gate["gate"] == "cz"})
    for edge in edges[::25]:
        circuit = ladder(edge, gate="cz", qubits=156)
        limits = CalibrationLimits()
        assert {
            each.problem for each in looked_at(circuit, payload, without_gate(payload, *edge), limits).findings
        } >= {"gone"}


def test_an_unmeasured_qubit_may_be_read_badly() -> None:
    circuit = QuantumCircuit(5, 1)
    circuit.cx(0, 1)
    circuit.measure(0, 0)
    before = changed(snapshot(), "readout_error", 0.02, 1)
    assert check_calibration(circuit, before, changed(before, "readout_error", 0.45, 1)).passed


def test_a_circuit_that_lost_half_its_success_is_refused() -> None:
    before = changed(snapshot(), "gate_error", 0.01, 0, 1, gate="cx")
    after = changed(before, "gate_error", 0.02, 0, 1, gate="cx")
    deep = ladder(*[(0, 1)] * 100)
    with pytest.raises(CalibrationDrifted, match=r"ladder: estimated success was .*; the limit is a fall of 50%"):
        check_calibration(deep, before, after)
    assert check_calibration(deep, before, after, {"success_fall": None}).passed


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"gate_error_factor.*Known: gate_error_factor"):
        check_calibration(ladder((0, 1)), snapshot(), snapshot(), {"gate_error_factor": 0.5})
    with pytest.raises(InputError, match=r"gate_errors"):
        check_calibration(ladder((0, 1)), snapshot(), snapshot(), {"gate_errors": 2})


def test_looking_costs_little_beside_reading_the_payloads() -> None:
    before, after = snapshot("fake_kingston"), snapshot("fake_kingston", 1)
    edges = sorted({tuple(gate["qubits"]) for gate in before["gates"] if gate["gate"] == "cz"})
    circuit = ladder(*edges, gate="cz", qubits=156)
    texts = [json.dumps(before), json.dumps(after)]

    def seconds(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    reading = min(seconds(lambda: [json.loads(text) for text in texts]) for _ in range(5))
    looking = min(seconds(lambda: looked_at(circuit, before, after)) for _ in range(5))
    assert looking <= 10 * reading


# --- the report --------------------------------------------------------------------------------------------------


@flow
def reporting(before: Payload, after: Payload) -> int:
    """Report within a run."""
    return len(report_drift(before, after, key="drift-of-manila"))


async def _artifacts(key: str) -> list[Any]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async with get_client() as client:
        return list(await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))))


@pytest.mark.usefixtures("prefect_server")
async def test_a_report_is_a_page_a_table_and_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    before = changed(snapshot(), "gate_error", 0.004, 1, 2, gate="cx")
    after = changed(before, "gate_error", 0.05, 1, 2, gate="cx")
    sent: list[Any] = []
    monkeypatch.setattr("prefect.events.emit_event", lambda **told: sent.append(told))
    assert reporting(before, after) == 1
    [page] = await _artifacts("drift-of-manila")
    assert "cx on 1-2: gate_error was 0.004, is 0.05" in page.data
    assert "data:image/png;base64," in page.data
    [table] = await _artifacts("drift-of-manila-table")
    assert "cx on 1-2" in table.data
    [event] = [each for each in sent if each["event"] == "ibmq.calibration.drifted"]
    assert event["resource"]["prefect.resource.id"] == "ibmq.backend.fake_manila"
    assert event["payload"]["snapshots"] == [snapshot_id(before), snapshot_id(after)]
    sent.clear()
    assert reporting(before, before) == 0
    assert [each for each in sent if each["event"] == "ibmq.calibration.drifted"] == []
