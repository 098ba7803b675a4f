"""One calibration payload: what can be read of it, its dates, its units, its rows and their flags."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_ibmq.archive.dates import microseconds, of_sortable, parse_date, sortable
from prefect_ibmq.archive.parameters import (
    AFTER_SNAPSHOT,
    MISSING,
    OUT_OF_RANGE,
    SENTINEL,
    STALE,
    UNKNOWN_UNIT,
    UNREADABLE,
    ParameterRows,
    parameter_rows,
)
from prefect_ibmq.archive.properties import PayloadUnreadable, parse_payload
from prefect_ibmq.archive.units import si_unit
from prefect_ibmq.snapshot_ids import snapshot_id

DATE = "2026-08-14T12:44:02Z"


def _payload(qubits: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"backend_name": "ibm_x", "last_update_date": DATE, "qubits": qubits or [], "gates": [], **more}


def _entry(name: str, value: Any, unit: str = "", date: Any = DATE) -> dict[str, Any]:
    return {"date": date, "name": name, "unit": unit, "value": value}


def _rows(payload: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parameter_rows(parse_payload(payload)).to_pylist()
    return found


# --- what IBM ships --------------------------------------------------------------------------------------------------


def shipped() -> dict[str, bytes]:
    """Every calibration payload of the installed client, by its file's name."""
    import qiskit_ibm_runtime

    folder = Path(qiskit_ibm_runtime.__file__).parent / "fake_provider" / "backends"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*/props_*.json"))}


def _entries(payload: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for entries in payload["qubits"]:
        yield from (("qubit", entry) for entry in entries)
    for gate in payload["gates"]:
        yield from (("gate", entry) for entry in gate["parameters"])
    yield from (("general", entry) for entry in payload["general"])


def _counted(payload: dict[str, Any]) -> Counter[str]:
    """What there is to flag, counted on the JSON itself."""
    found: Counter[str] = Counter()
    for kind, entry in _entries(payload):
        found["dated"] += "date" in entry
        found["of qubits and gates"] += kind != "general"
        found["sentinel"] += entry["name"] == "gate_error" and entry["value"] >= 1
        found["micro sign"] += entry["unit"] == "µs"
        found["readout"] += entry["name"] == "readout_error" and entry["value"] >= 0.5
    for entries in payload["qubits"]:
        told = {entry["name"]: entry["value"] for entry in entries}
        found["T2 above 2 T1"] += "T1" in told and "T2" in told and told["T2"] > 2 * told["T1"]
    return found


def test_everything_shipped_is_flagged_as_counted_and_nothing_is_altered() -> None:
    expected: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for raw in shipped().values():
        payload = json.loads(raw)
        expected += _counted(payload)
        rows = _rows(raw)
        said = [(kind, entry["name"], entry["value"], entry["unit"]) for kind, entry in _entries(payload)]
        assert [(row["kind"], row["parameter"], row["value"], row["unit"]) for row in rows] == said
        assert [row["measured_at"] for row in rows] == [parse_date(entry["date"]) for _, entry in _entries(payload)]
        found["dated"] += sum(row["measured_at"] is not None for row in rows)
        found["of qubits and gates"] += sum(row["kind"] != "general" for row in rows)
        found["micro sign"] += sum(row["unit"] == "µs" and row["unit_si"] == "s" for row in rows)
        for row in rows:
            flags = row["flags"].split(",")
            found["sentinel"] += SENTINEL in flags
            found["readout"] += OUT_OF_RANGE in flags and row["parameter"] == "readout_error"
            found["T2 above 2 T1"] += OUT_OF_RANGE in flags and row["parameter"] == "T2"
            found["odd"] += OUT_OF_RANGE in flags and row["parameter"] not in ("readout_error", "T2")
            found["odd"] += any(flag in flags for flag in (MISSING, UNREADABLE, UNKNOWN_UNIT))
    assert found == expected
    if version("qiskit-ibm-runtime").startswith("0.51."):
        assert +found == {
            "dated": 93_669, "of qubits and gates": 84_049, "sentinel": 1_059, "micro sign": 408,
            "T2 above 2 T1": 58, "readout": 32,
        }  # fmt: skip


def _deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


# --- what can be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (json.dumps(_payload()).encode()[:-9], "it is not JSON"),
        (b"<html>", "it is not JSON"),
        (b"\xff\xfe\xfa", "it is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "it is a list, not a JSON object"),
        (b"null", "it is null, not a JSON object"),
        (b"3.5", "it is a number, not a JSON object"),
        (b"{}", "it has no last_update_date"),
        (_payload(last_update_date=None), "it has no last_update_date"),
        (_payload(last_update_date="the other day"), "its last_update_date is no date: 'the other day'"),
        (_payload(last_update_date=1_755_000_000), "its last_update_date is no date: '1755000000'"),
        (_payload(last_update_date={"__type__": "datetime"}), "its last_update_date is no date"),
        ({"last_update_date": DATE}, "it has no qubits"),
        (_payload(qubits={"0": []}), "its qubits are an object, not a list"),  # type: ignore[arg-type]
        (_payload(gates="none"), "its gates are a text, not a list"),
        (_payload(general=False), "its general are true or false, not a list"),
        (_payload(mood=_deep(20_000)), "it cannot be written as JSON"),
        (_payload(mood={1, 2}), "it cannot be written as JSON: set is not JSON"),
    ],
)
def test_what_is_no_calibration_is_refused_with_the_reason(payload: dict[str, Any] | bytes, reason: str) -> None:
    with pytest.raises(PayloadUnreadable) as refused:
        parse_payload(payload)
    assert reason in str(refused.value)
    assert refused.value.raw == payload if isinstance(payload, bytes) else refused.value.raw


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(_payload(), indent=4).encode(),
        json.dumps(_payload()).encode("utf-8-sig"),
        json.dumps(_payload()).encode("utf-16"),
        json.dumps(_payload(number=10**40, other=-(10**19))).encode(),
        json.dumps(_payload(number=math.nan, other=-math.inf)).encode(),
        json.dumps(_payload(text="\ud800")).encode(),
        b'{"a": 1, "last_update_date": "2026-08-14", "a": 2, "qubits": []}',
    ],
    ids=["spaces", "utf-8 with its mark", "utf-16", "long integers", "NaN", "half a letter", "a name twice"],
)
def test_odd_json_is_read_as_python_reads_it(raw: bytes) -> None:
    found = parse_payload(raw)
    assert found.raw == raw
    assert repr(found.document) == repr(json.loads(raw))
    assert found.snapshot == snapshot_id(json.loads(raw)) == parse_payload(json.loads(raw)).snapshot


def test_any_mapping_is_a_decoded_payload() -> None:
    payload = _payload([[_entry("T1", 1.5, "us")]])
    assert parse_payload(MappingProxyType({**payload, "more": MappingProxyType({})})).document == {
        **payload,
        "more": {},
    }


def test_a_decoded_payload_keeps_its_datetimes() -> None:
    taken = datetime(2026, 8, 14, 12, 44, 2, tzinfo=timezone(timedelta(hours=2)))
    found = parse_payload(_payload([[_entry("T1", 1.5, "us", taken)]], last_update_date=taken))
    assert found.last_update_date == taken
    assert json.loads(found.raw)["last_update_date"] == {"__type__": "datetime", "__value__": taken.isoformat()}
    assert parameter_rows(found)["measured_at"].to_pylist() == [taken]


# --- dates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-08-14T12:44:02Z", "2026-08-14T12:44:02+00:00"),
        ("2026-08-14t12:44:02z", "2026-08-14T12:44:02+00:00"),
        ("2026-08-14T12:44:02", "2026-08-14T12:44:02+00:00"),
        ("2026-08-14 12:44:02.5+02", "2026-08-14T10:44:02.500000+00:00"),
        ("20260814T124402-0530", "2026-08-14T18:14:02+00:00"),
        ("2026-08-14T12:44:02,123456789Z", "2026-08-14T12:44:02.123456+00:00"),
        ("2026-226T12:44:02.251777Z", "2026-08-14T12:44:02.251777+00:00"),
        ("2026-226T12:44:02.1234569999Z", "2026-08-14T12:44:02.123456+00:00"),
        ("2026-08-14T12:44:02\N{MINUS SIGN}02:00", "2026-08-14T14:44:02+00:00"),
        ("2026-08-14", "2026-08-14T00:00:00+00:00"),
        ("2026-226T12:00:00Z", "2026-08-14T12:00:00+00:00"),
        ("2026-W33-5T12:00Z", "2026-08-14T12:00:00+00:00"),
        ("2026-08-14T24:00:00Z", "2026-08-15T00:00:00+00:00"),
        ("2026-06-30T23:59:60Z", "2026-07-01T00:00:00+00:00"),
        (" 2026-08-14T12:44:02 Z ", "2026-08-14T12:44:02+00:00"),
        ({"__type__": "datetime", "__value__": "2021-03-15T01:02:03-04:00"}, "2021-03-15T05:02:03+00:00"),
        ("2026-366", None),
        ("2026-13-01", None),
        ("2026-08-14T25:00:00Z", None),
        ("2026-08-14T24:00:01Z", None),
        ("0001-01-01T00:00:00+05:00", None),
        ("", None),
        (17, None),
        ({"__type__": "datetime"}, None),
    ],
)
def test_dates_of_any_form(text: Any, expected: str | None) -> None:
    found = parse_date(text)
    assert (found.isoformat() if found else None) == expected
    (row,) = _rows(_payload([[_entry("T1", 1.0, "us", text)]]))
    assert row["measured_at"] == found
    assert (UNREADABLE in row["flags"]) == (found is None)


MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(lambda date: date.replace(tzinfo=UTC))
OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda each: timedelta(minutes=each.seconds // 60)
)


@given(st.lists(st.tuples(MOMENTS, OFFSETS, st.sampled_from(["T", " "])), min_size=1, max_size=8))
@settings(deadline=None)
def test_every_offset_is_the_same_moment_alone_and_among_others(dates: list[tuple[datetime, timedelta, str]]) -> None:
    texts = [date.astimezone(timezone(offset)).isoformat(sep) for date, offset, sep in dates]
    moments = [date for date, _, _ in dates]
    assert [parse_date(text) for text in texts] == moments
    rows = _rows(_payload([[_entry("T1", 1.0, "us", text) for text in texts]]))
    assert [row["measured_at"] for row in rows] == moments


@given(
    st.lists(
        st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?")
    )
)
@example(["0000-01-01T00:00:00Z"])
@example(["9999-12-31T23:59:59-05:00", DATE])
@settings(deadline=None)
def test_any_text_is_a_date_among_others_as_it_is_alone(texts: list[str]) -> None:
    rows = _rows(_payload([[_entry("T1", 1.0, "us", text) for text in texts]]))
    assert [row["measured_at"] for row in rows] == [parse_date(text) for text in texts]


@given(MOMENTS, MOMENTS)
@settings(deadline=None)
def test_sortable_moments_sort_as_moments_do(one: datetime, other: datetime) -> None:
    assert of_sortable(sortable(one)) == one
    assert (sortable(one) < sortable(other)) == (one < other)
    assert (microseconds(one) < microseconds(other)) == (one < other)


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        (["us", "µs", "\u03bcs", "usec", "µsec", "microseconds", " us "], ("s", 1e-6)),
        (["ns", "nanosecond"], ("s", 1e-9)),
        (["ms"], ("s", 1e-3)),
        (["s", "sec", "seconds"], ("s", 1.0)),
        (["GHz", "Ghz", "gigahertz"], ("Hz", 1e9)),
        (["mHz", "millihertz"], ("Hz", 1e-3)),
        (["MHz"], ("Hz", 1e6)),
        (["", "1"], ("", 1.0)),
        (["%"], ("", 0.01)),
        (["mK"], ("K", 1e-3)),
        (["parsec", "US", "dB", "min", "u", "ss"], None),
    ],
)
def test_units_are_unified_and_none_is_guessed(units: list[str], expected: tuple[str, float] | None) -> None:
    assert {si_unit(unit) for unit in units} == {expected}


def test_the_original_unit_and_value_stand_beside_the_unified_ones() -> None:
    entries = [_entry("T1", 251.3, unit) for unit in ("us", "µs", "\u03bcs", "parsec")]
    (odd,) = _rows(_payload([[_entry("T1", 251.3, ["us"])]]))  # type: ignore[arg-type]
    assert (odd["value"], odd["unit"], odd["value_si"], odd["unit_si"]) == (251.3, None, None, None)
    rows = _rows(_payload([entries]))
    assert [(row["value"], row["unit"]) for row in rows] == [(251.3, entry["unit"]) for entry in entries]
    assert [(row["value_si"], row["unit_si"]) for row in rows] == [(251.3 * 1e-6, "s")] * 3 + [(None, None)]
    assert [row["flags"] for row in rows] == ["", "", "", UNKNOWN_UNIT]


# --- rows and flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "flag"),
    [
        (_entry("gate_error", 1.0), SENTINEL),
        (_entry("gate_error", 1), SENTINEL),
        (_entry("gate_error", 0.999), ""),
        (_entry("readout_error", 0.5), OUT_OF_RANGE),
        (_entry("readout_error", 0.499), ""),
        (_entry("T1", -1.0, "us"), OUT_OF_RANGE),
        ({**_entry("T1", 0), "value": None}, MISSING),
        ({"date": DATE, "name": "T1", "unit": "us"}, MISSING),
        (_entry("T1", 10.0, "us", "2026-08-07T12:44:02Z"), ""),
        (_entry("T1", 10.0, "us", "2026-08-07T12:44:01Z"), STALE),
        (_entry("T1", 10.0, "us", "2026-08-14T12:44:03Z"), AFTER_SNAPSHOT),
        (_entry("T1", 10.0, "us", None), ""),
        (_entry("T1", 10.0, "us", "soon"), UNREADABLE),
        (_entry("T1", "10.0", "us"), UNREADABLE),
        (_entry("T1", True, "us"), UNREADABLE),
        (_entry("T1", math.nan, "us"), UNREADABLE),
        (_entry("T1", math.inf, "us"), OUT_OF_RANGE),
        (_entry("T1", 10**400, "us"), OUT_OF_RANGE),
        (_entry("T1", 10**30, "us"), ""),
        (_entry("frequency", 1e308, "GHz"), OUT_OF_RANGE),
        (_entry(7, 1.0), UNREADABLE),  # type: ignore[arg-type]
        (_entry("T1", 1.0, ["us"]), UNREADABLE),  # type: ignore[arg-type]
        ("T1", UNREADABLE),
        (None, MISSING),
    ],
    ids=str,
)
def test_each_flag(entry: Any, flag: str) -> None:
    raw = json.dumps(_payload([[entry, _entry("T1", 3.0, "us")]])).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd, good = _rows(raw)
    assert odd["flags"] == flag
    assert (good["value"], good["flags"]) == (3.0, "")


def test_t2_is_compared_with_the_t1_of_its_own_qubit_whatever_the_units() -> None:
    def qubit(t1: dict[str, Any] | None, t2: dict[str, Any]) -> list[dict[str, Any]]:
        return [t2, *([t1] if t1 else [])]

    qubits = [
        qubit(_entry("T1", 50.0, "us"), _entry("T2", 100.0, "µs")),
        qubit(_entry("T1", 50.0, "us"), _entry("T2", 100_001.0, "ns")),
        qubit(_entry("T1", 0.05, "ms"), _entry("T2", 101.0, "us")),
        qubit(None, _entry("T2", 1000.0, "us")),
        qubit(_entry("T1", None, "us"), _entry("T2", 1000.0, "us")),
        qubit(_entry("T1", 50.0, "parsec"), _entry("T2", 1000.0, "us")),
    ]
    flagged = [row["qubits"] for row in _rows(_payload(qubits)) if row["flags"] == OUT_OF_RANGE]
    assert flagged == ["1", "2"]


def test_rows_say_whose_they_are() -> None:
    gates = [
        {"qubits": [3], "gate": "sx", "name": "sx3", "parameters": [_entry("gate_error", 0.1)]},
        {"qubits": [12, 7], "gate": "cz", "parameters": [_entry("gate_length", 68, "ns"), _entry("gate_error", 0.2)]},
        {"qubits": [1], "gate": "reset"},
        {"qubits": ["a"], "gate": None, "parameters": [_entry("gate_error", 0.3)]},
        "no gate",
    ]
    general = [_entry("lf_4", 0.01)]
    rows = _rows(_payload([[_entry("T1", 1.0, "us")], [], [_entry("T1", 2.0, "us")]], gates=gates, general=general))
    told = [(row["row"], row["kind"], row["qubits"], row["gate"], row["parameter"]) for row in rows]
    assert told == [
        (0, "qubit", "0", None, "T1"),
        (1, "qubit", "2", None, "T1"),
        (2, "gate", "3", "sx", "gate_error"),
        (3, "gate", "12_7", "cz", "gate_length"),
        (4, "gate", "12_7", "cz", "gate_error"),
        (5, "gate", None, None, "gate_error"),
        (6, "gate", None, None, None),
        (7, "general", None, None, "lf_4"),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "value", "date", "unit"]), inner)
    ),
    max_leaves=6,
)
GATES = st.lists(
    JSON | st.fixed_dictionaries({}, optional={"qubits": JSON, "gate": JSON, "parameters": JSON}), max_size=3
)


@given(st.lists(JSON | st.lists(JSON, max_size=3), max_size=3), GATES, st.lists(JSON, max_size=3))
@settings(deadline=None, max_examples=200)
def test_no_payload_with_its_three_lists_is_lost_however_odd(qubits: Any, gates: Any, general: Any) -> None:
    raw = json.dumps(_payload(qubits, gates=gates, general=general)).encode()
    found = parse_payload(raw)
    alone = parameter_rows(found)
    both = ParameterRows()
    for each in (found, parse_payload(_payload([[_entry("T1", 1.0, "us")]])), found):
        both.add(each)
    rows = both.rows()
    assert rows.slice(0, alone.num_rows).to_pylist() == alone.to_pylist()
    assert rows.slice(alone.num_rows + 1).to_pylist() == alone.to_pylist()
