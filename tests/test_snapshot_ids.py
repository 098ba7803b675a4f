"""A calibration has one id, however its payload was written: by content, in the form that Python's `json` writes."""

from __future__ import annotations

import copy
import json
import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_ibmq import ibm
from prefect_ibmq.snapshot_ids import canonical_json, read_json, snapshot_id


def test_snapshot_id_is_of_what_a_payload_says() -> None:
    payload = ibm.device_properties("fake_manila")
    known = snapshot_id(payload)
    assert re.fullmatch("[0-9a-f]{32}", known)
    assert snapshot_id(json.dumps(payload, indent=2).encode()) == known
    assert snapshot_id(dict(reversed(payload.items()))) == known
    changed = copy.deepcopy(payload)
    changed["qubits"][0][0]["value"] += 1e-9
    assert snapshot_id(changed) != known


_TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(["µs", "1e-5", ":0.00001,", "[-1.5e-7", "\x7f", '"\\'])
_NUMBERS = st.integers() | st.floats() | st.floats(1e-12, 1e-3) | st.floats(1e12, 1e22) | st.sampled_from([1e-5, -0.0])
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner),
    max_leaves=30,
)


@given(_JSON)
@settings(max_examples=500, deadline=None)
def test_canonical_json_is_what_python_writes(value: Any) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert canonical_json(value) == text
    told, canonical = read_json(json.dumps(value).encode())
    assert (repr(told), canonical) == (repr(json.loads(json.dumps(value))), text)


@pytest.mark.parametrize("value", [{1: 2}, "\ud800", [10**30], {"a": {1: "x", 2: "y"}}])
def test_canonical_json_of_what_only_python_writes(value: Any) -> None:
    assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("value", [{"a": datetime(2026, 1, 1)}, {1, 2}, b"x"])
def test_canonical_json_refuses_what_json_does_not_have(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)
