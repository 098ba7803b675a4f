"""Odd calibration payloads give a target all the same: of what is in order in them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from prefect_ibmq import ibm
from prefect_ibmq.archive.mending import in_order, mended
from prefect_ibmq.fingerprint import target_fingerprint

DEVICE = "fake_manila"
PAYLOAD = ibm.device_properties(DEVICE)
CONFIGURATION = ibm.device_configuration(DEVICE)


def _target(payload: dict[str, Any]) -> Any:
    return ibm.target_from(CONFIGURATION, mended(payload))


@pytest.mark.parametrize("name", ["fake_manila", "fake_torino", "fake_cambridge"])
def test_a_payload_in_order_is_left_as_it_is(name: str) -> None:
    payload = ibm.device_properties(name)
    assert mended(payload) == in_order(payload) == payload


def _first(payload: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = payload["qubits"][0][0]
    assert entry["name"] == "T1"
    return entry


def _t1(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda payload: _first(payload).update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        _t1(value=None),
        _t1(value="131.5"),
        _t1(value=float("nan")),
        _t1(value=True),
        _t1(value=10**400),
        _t1(unit="parsec"),
        _t1(unit=None),
        _t1(name=None),
        lambda payload: _first(payload).pop("value"),
        lambda payload: payload["qubits"][0].__setitem__(0, None),
        lambda payload: payload["qubits"][0].pop(0),
    ],
)
def test_a_value_that_is_none_is_missing_and_the_rest_stays(spoil: Callable[[dict[str, Any]], object]) -> None:
    payload = copy.deepcopy(PAYLOAD)
    spoil(payload)
    found, whole = _target(payload).qubit_properties, _target(PAYLOAD).qubit_properties
    assert found[0].t1 is None
    assert found[0].t2 == whole[0].t2
    assert [one.t1 for one in found[1:]] == [one.t1 for one in whole[1:]]


@pytest.mark.parametrize(
    "spoil",
    [
        _t1(date=None),
        _t1(date="yesterday"),
        _t1(date="2016-12-31T23:59:60Z"),
        _t1(date={"__type__": "datetime", "__value__": "2026-08-14T12:00:00+02:00"}),
        _t1(unit="\N{GREEK SMALL LETTER MU}s"),
        _t1(comment="measured twice"),
        lambda payload: payload["general"].append({**_first(payload), "name": "clock", "unit": "Hz"}),
        lambda payload: payload["gates"].append({**payload["gates"][0], "qubits": [10**30]}),
        lambda payload: payload["gates"].append({**payload["gates"][0], "qubits": [-1]}),
        lambda payload: _first(payload).pop("date"),
        lambda payload: payload.pop("backend_version"),
        lambda payload: payload.pop("backend_name"),
        lambda payload: payload.pop("general"),
        lambda payload: payload.update(general=None, last_update_date="2026-W33-5T12:00Z"),
        lambda payload: payload["gates"].extend([None, {}, {"gate": "cx", "qubits": [0.5]}]),
    ],
)
def test_what_does_not_matter_to_a_target_changes_nothing(spoil: Callable[[dict[str, Any]], object]) -> None:
    payload = copy.deepcopy(PAYLOAD)
    spoil(payload)
    found = _target(json.loads(json.dumps(payload)))
    assert found.qubit_properties[0].t1 == pytest.approx(_target(PAYLOAD).qubit_properties[0].t1)
    for target in (found, whole := _target(PAYLOAD)):
        target.qubit_properties[0].t1 = None
    assert target_fingerprint(found) == target_fingerprint(whole)


def test_a_qubit_of_which_nothing_is_told_has_no_values() -> None:
    payload = copy.deepcopy(PAYLOAD)
    payload["qubits"][2] = []
    target = _target(payload)
    assert [found.t1 is None for found in target.qubit_properties] == [False, False, True, False, False]
    assert target["measure"][(2,)].error is None


def test_frequencies_in_hertz_are_read() -> None:
    payload = copy.deepcopy(PAYLOAD)
    entry = next(entry for entry in payload["qubits"][0] if entry["name"] == "frequency")
    entry.update(value=4.9e9, unit="Hz")
    assert _target(payload).qubit_properties[0].frequency == 4.9e9


def test_a_payload_without_gates_gives_a_target_without_their_errors() -> None:
    target = _target({**PAYLOAD, "gates": None})
    assert all(found is None or found.error is None for found in target["cx"].values())


@pytest.mark.parametrize("told", [3, 5, 7])
def test_a_calibration_of_fewer_or_more_qubits_gives_a_target_of_the_device(told: int) -> None:
    payload = copy.deepcopy(PAYLOAD)
    payload["qubits"] = [payload["qubits"][qubit % 5] for qubit in range(told)]
    target = ibm.target_from(CONFIGURATION, mended(payload, 5))
    known = [each is not None and each.t1 is not None for each in target.qubit_properties]
    assert known == [qubit < told for qubit in range(5)]
    assert target.num_qubits == 5


@pytest.mark.parametrize("odd", [3, "x", {}, None, True])
def test_qubits_and_gates_that_are_no_lists_are_none(odd: object) -> None:
    target = ibm.target_from(CONFIGURATION, mended({**PAYLOAD, "qubits": odd, "gates": odd}, 5))
    assert target.operation_names == ibm.target_from(CONFIGURATION, None).operation_names
