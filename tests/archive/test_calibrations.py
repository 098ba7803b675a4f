"""The calibration archive: what goes in comes back, what was seen when, and who reads it without us."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_ibmq import ibm
from prefect_ibmq.archive.calibrations import (
    compact,
    history,
    observations,
    parameters_table,
    read_configuration,
    read_payload,
    snapshots,
    store_configuration,
    store_payload,
    store_payloads,
    store_status,
)
from prefect_ibmq.archive.datasets import Archive, open_archive
from prefect_ibmq.archive.observations import Observation, latest, preceding
from prefect_ibmq.errors import ArchiveError, CalibrationNotFound, InputError
from prefect_ibmq.fingerprint import target_fingerprint

NOON = datetime(2026, 8, 14, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TABLES = ("calibrations", "calibration_parameters", "calibration_observations")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "lab")


def _payload(name: str, updated: datetime = NOON, t1: float = 100.0) -> dict[str, Any]:
    """A payload that a name tells from others of the same date."""
    entries = [{"name": "T1", "unit": "us", "value": t1, "date": updated.isoformat()}]
    return {"backend_name": "ibm_x", "name": name, "last_update_date": updated.isoformat(), "qubits": [entries]}


def _seen(archive: Archive) -> list[str]:
    """The names of the payloads that were observed, in the order of the observations."""
    names = {row["snapshot"]: json.loads(row["payload"])["name"] for row in archive.read("calibrations").to_pylist()}
    return [names[snapshot] for snapshot in observations(archive)["snapshot"].to_pylist()]


def _size(root: str) -> int:
    return sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file())


# --- what goes in comes back ---------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_were(archive: Archive) -> None:
    payload = json.dumps(ibm.device_properties("fake_manila"), indent=3).encode()
    stored = store_payload(archive, "fake_manila", payload, NOON)
    assert stored.status == "stored"
    assert store_payload(archive, "fake_manila", json.loads(payload), NOON + HOUR).status == "unchanged"
    found = read_payload(archive, "fake_manila")
    assert (found.payload, found.snapshot) == (payload, stored.snapshot)
    assert (found.last_update_date, found.collected_at) == (stored.last_update_date, NOON)
    assert found.properties() == json.loads(payload)
    assert observations(archive).num_rows == snapshots(archive).num_rows == 1
    rows = parameters_table(archive, "fake_manila", found.snapshot)
    assert rows.equals(archive.read("calibration_parameters"))
    assert Counter(rows["kind"].to_pylist()).keys() == {"qubit", "gate", "general"}


def _shipped() -> list[tuple[str, bytes, datetime]]:
    import qiskit_ibm_runtime

    folder = Path(qiskit_ibm_runtime.__file__).parent / "fake_provider" / "backends"
    found = [path.read_bytes() for path in sorted(folder.glob("*/props_*.json"))]
    return [(json.loads(raw)["backend_name"], raw, NOON + index * HOUR) for index, raw in enumerate(found)]


@pytest.mark.slow
@pytest.mark.parametrize("road", ["one by one", "at once"])
def test_everything_shipped_comes_back_and_is_small(archive: Archive, road: str) -> None:
    shipped = _shipped()
    done = (
        [store_payload(archive, *each) for each in shipped]
        if road == "one by one"
        else store_payloads(archive, shipped)
    )
    assert {each.status for each in done} == {"stored"}
    limit = 0.15 * sum(len(raw) for _, raw, _ in shipped)
    assert _size(archive.url) <= limit
    for _ in range(2):
        for (backend, raw, seen), stored in zip(shipped, done, strict=True):
            found = read_payload(archive, backend, at=stored.last_update_date, known_at=seen)
            assert found.payload == raw
            assert found.properties() == json.loads(raw)
            assert found.snapshot == stored.snapshot
        assert {each.status for each in store_payloads(archive, shipped)} == {"unchanged"}
        compact(archive)
        assert _size(archive.url) <= limit


@pytest.mark.slow
def test_a_target_of_the_archive_is_the_target_of_the_payload(archive: Archive) -> None:
    for name in ibm.device_names():
        properties, configuration = ibm.device_properties(name), ibm.device_configuration(name)
        store_payload(archive, name, json.dumps(properties).encode())
        assert store_configuration(archive, name, configuration)
        kept = read_configuration(archive, name)
        assert kept is not None
        here = ibm.target_from(kept, read_payload(archive, name).properties())
        assert target_fingerprint(here) == target_fingerprint(ibm.target_from(configuration, properties))


def test_what_cannot_be_read_is_kept_with_the_reason(archive: Archive) -> None:
    whole = json.dumps(_payload("A")).encode()
    bad = [whole[:-7], b"", b"[]", b"\xff\x00", gzip.compress(whole)]
    done = store_payloads(archive, [("ibm_x", raw, NOON) for raw in [bad[0], whole, *bad[1:]]])
    assert [each.status for each in done] == ["quarantined", "stored", *["quarantined"] * 4]
    assert done[0].snapshot is done[0].last_update_date is None
    again = store_payload(archive, "ibm_x", bad[0], NOON + HOUR)
    assert again.reason == done[0].reason
    assert "not JSON" in (again.reason or "")
    kept = {row["payload"]: row for row in archive.read("quarantined_calibrations").to_pylist()}
    assert set(kept) == set(bad)
    assert (kept[bad[0]]["reason"], kept[bad[0]]["collected_at"]) == (done[0].reason, NOON)
    assert read_payload(archive, "ibm_x").payload == whole


def test_a_payload_must_say_whose_it_is(archive: Archive) -> None:
    for store in (store_payload, store_configuration, store_status):
        with pytest.raises(InputError, match="the name of the backend is empty"):
            store(archive, "", _payload("A"))


def test_a_payload_without_a_single_value_is_kept(archive: Archive) -> None:
    stored = store_payload(archive, "ibm_x", {"last_update_date": "2026-08-14", "qubits": [[], []]})
    assert stored.status == "stored"
    assert read_payload(archive, "ibm_x").snapshot == stored.snapshot
    assert parameters_table(archive, "ibm_x", str(stored.snapshot)).num_rows == 0


# --- what was seen when --------------------------------------------------------------------------------------------


def test_a_b_a_is_told_apart_from_a_b(archive: Archive) -> None:
    for minute, name in enumerate("AABBA"):
        store_payload(archive, "ibm_x", _payload(name), NOON + timedelta(minutes=minute))
    assert _seen(archive) == ["A", "B", "A"]
    assert archive.read("calibrations").num_rows == 2
    told = {row["snapshot"]: row for row in snapshots(archive, "ibm_x").to_pylist()}
    assert sorted((row["first_seen"].minute, row["last_seen"].minute) for row in told.values()) == [(0, 4), (2, 3)]
    # Of equal dates the one seen last counts.
    assert read_payload(archive, "ibm_x").properties()["name"] == "A"
    assert read_payload(archive, "ibm_x", known_at=NOON + timedelta(minutes=3)).properties()["name"] == "B"


def test_a_moment_is_asked_for_inclusively(archive: Archive) -> None:
    for hours, name in enumerate("ABC"):
        store_payload(archive, "ibm_x", _payload(name, NOON + hours * HOUR), NOON + 10 * HOUR)

    def name_at(at: datetime | None = None, known_at: datetime | None = None) -> str:
        return str(read_payload(archive, "ibm_x", at, known_at).properties()["name"])

    assert name_at() == name_at(NOON + 2 * HOUR) == name_at(known_at=NOON + 10 * HOUR) == "C"
    assert name_at(NOON + HOUR) == name_at(NOON + 1.9 * HOUR) == "B"
    assert name_at(NOON.astimezone().replace(tzinfo=None)) == "A"
    with pytest.raises(CalibrationNotFound, match=r"not dated after 2026-08-14T11.*the oldest is dated 2026-08-14T12"):
        name_at(NOON - HOUR)
    with pytest.raises(CalibrationNotFound, match="seen by 2026-08-14T21"):
        name_at(known_at=NOON + 9 * HOUR)
    with pytest.raises(CalibrationNotFound, match="no calibration of 'ibm_y'"):
        read_payload(archive, "ibm_y")
    with pytest.raises(CalibrationNotFound, match="no calibration 'none' of 'ibm_x'"):
        parameters_table(archive, "ibm_x", "none")


@pytest.mark.parametrize("is_compacted", [False, True])
def test_of_equal_dates_the_one_seen_latest_counts_in_whatever_order_it_was_stored(
    archive: Archive, is_compacted: bool
) -> None:
    for minute, name in ((1, "A"), (5, "A"), (9, "A"), (3, "B"), (7, "B")):
        store_payload(archive, "ibm_x", _payload(name), NOON + timedelta(minutes=minute))
    if is_compacted:
        compact(archive)
    known = [read_payload(archive, "ibm_x", known_at=NOON + timedelta(minutes=minute)) for minute in range(1, 10)]
    assert [each.properties()["name"] for each in known] == list("AABBAABBA")
    assert [each.collected_at.minute for each in known] == [1, 1, 3, 3, 5, 5, 7, 7, 9]


_HOURS = st.integers(0, 6).map(lambda hours: NOON + hours * HOUR)


@given(st.lists(st.tuples(st.sampled_from("abcd"), _HOURS, _HOURS), max_size=12), _HOURS, _HOURS)
@settings(deadline=None)
def test_as_of_is_the_newest_date_among_those_seen(
    seen: list[tuple[str, datetime, datetime]], at: datetime, known_at: datetime
) -> None:
    ids = [Observation.of(snapshot, updated, collected).id for snapshot, updated, collected in seen]
    asked = [(updated, collected, snapshot) for snapshot, updated, collected in seen]
    dated = [each for each in asked if each[0] <= at and each[1] <= known_at]
    expected = max(dated)[2] if dated else None
    found = latest(ids, at, known_at)
    assert (found and found.snapshot) == expected
    everything = latest(ids)
    assert (everything and everything.snapshot) == (max(asked)[2] if asked else None)
    before = preceding(ids, known_at)
    assert (before and before.collected_at) == max((each[1] for each in asked if each[1] <= known_at), default=None)


@given(st.dictionaries(st.integers(0, 30), st.sampled_from("ABC"), min_size=1, max_size=10))
@settings(deadline=None, max_examples=25)
def test_observations_in_order_of_time_tell_every_change(
    tmp_path_factory: pytest.TempPathFactory, seen: dict[int, str]
) -> None:
    archive = open_archive(tmp_path_factory.mktemp("lab"))
    store_payloads(archive, [("ibm_x", _payload(seen[hour]), NOON + hour * HOUR) for hour in sorted(seen)])
    names = [seen[hour] for hour in sorted(seen)]
    assert _seen(archive) == [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]
    before = observations(archive)
    store_payloads(archive, [("ibm_x", _payload(name), NOON + hour * HOUR) for hour, name in seen.items()])
    assert observations(archive).equals(before)


def test_backends_are_kept_apart(archive: Archive) -> None:
    for name in ("ibm_x", "ibm_y", "../odd name=1"):
        assert store_payload(archive, name, _payload("A"), NOON).status == "stored"
    assert snapshots(archive).num_rows == archive.read("calibration_parameters").num_rows == 3
    assert snapshots(archive, "../odd name=1")["backend"].to_pylist() == ["../odd name=1"]
    compact(archive)
    assert read_payload(archive, "../odd name=1").properties()["name"] == "A"
    assert {path.name for path in Path(archive.url).iterdir()} <= {*TABLES, ".unfinished"}


# --- history -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_compacted", [False, True])
def test_history_of_one_parameter(archive: Archive, is_compacted: bool) -> None:
    days = [NOON + timedelta(days=day) for day in range(5)]
    store_payloads(archive, [("ibm_x", _payload("A", day, 100.0 + day.day), day) for day in days[3:]])
    for day in reversed(days[:3]):
        store_payload(archive, "ibm_x", _payload("A", day, 100.0 + day.day), day)
    store_payload(archive, "ibm_y", _payload("A", days[0]), days[0])
    if is_compacted:
        compact(archive)
    found = history(archive, "ibm_x", "T1", qubits=0)
    assert found["value"].to_pylist() == [100.0 + day.day for day in days]
    assert found["last_update_date"].to_pylist() == days
    assert found.schema == archive.read("calibration_parameters").schema
    between = history(archive, "ibm_x", "T1", since=days[1], until=days[3])
    assert between["last_update_date"].to_pylist() == days[1:4]
    assert history(archive, "ibm_x", "T1", qubits=[1]).num_rows == 0
    assert history(archive, "ibm_x", "T1", gate="cx").num_rows == 0


def test_history_of_a_gate(archive: Archive) -> None:
    store_payload(archive, "fake_manila", ibm.device_properties("fake_manila"))
    (row,) = history(archive, "fake_manila", "gate_error", qubits=(0, 1), gate="cx").to_pylist()
    gates = ibm.device_properties("fake_manila")["gates"]
    (cx,) = [gate for gate in gates if gate["gate"] == "cx" and gate["qubits"] == [0, 1]]
    assert row["value"] == next(entry["value"] for entry in cx["parameters"] if entry["name"] == "gate_error")


# --- configurations and statuses -----------------------------------------------------------------------------------


def test_a_configuration_is_stored_when_it_changes(archive: Archive) -> None:
    versions = ["1.0", "1.0", "1.1", "1.0"]
    told = [store_configuration(archive, "x", {"v": v}, NOON + i * HOUR) for i, v in enumerate(versions)]
    assert told == [True, False, True, True]

    def version_at(at: datetime | None = None) -> str:
        found = read_configuration(archive, "x", at)
        assert found is not None
        return str(found["v"])

    for _ in range(2):
        assert [version_at(NOON + i * HOUR) for i in range(4)] == versions
        assert version_at() == version_at(NOON - HOUR) == "1.0"
        assert read_configuration(archive, "y") is None
        compact(archive)
    with pytest.raises(InputError, match="configuration of x cannot be stored: it is not JSON"):
        store_configuration(archive, "x", b"{")


def test_each_status_is_a_row(archive: Archive) -> None:
    status = {"state": True, "status": "active", "message": "", "length_queue": 15, "backend_version": "1.0"}
    store_status(archive, "x", status, NOON)
    store_status(archive, "x", status, NOON)
    store_status(archive, "x", {"state": "odd", "length_queue": None}, NOON + HOUR)
    compact(archive)
    rows = archive.read("backend_statuses").sort_by("collected_at").to_pylist()
    fields = ("operational", "status", "pending_jobs", "message")
    assert [tuple(row[name] for name in fields) for row in rows] == [(True, "active", 15, ""), (None, None, None, None)]
    assert json.loads(rows[0]["payload"]) == status


# --- without us ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_compacted", [False, True])
def test_duckdb_and_plain_pyarrow_read_each_table_as_one_dataset(archive: Archive, is_compacted: bool) -> None:
    for index in range(3):
        store_payload(archive, "fake_manila", _with_date("fake_manila", NOON + index * HOUR), NOON + index * HOUR)
    store_payload(archive, "ibm_x", b"{")
    store_payloads(archive, [("fake_lima", _with_date("fake_lima", NOON + i * HOUR), NOON) for i in range(3)])
    store_payload(archive, "fake_manila", _with_date("fake_manila", NOON + 2 * HOUR), NOON + 3 * HOUR)
    store_status(archive, "ibm_x", {"state": True})
    store_configuration(archive, "fake_lima", ibm.device_configuration("fake_lima"))
    import duckdb

    if is_compacted:
        assert compact(archive).rows > 0
    for path in Path(archive.url).iterdir():
        if path.name == ".unfinished":
            continue
        ours = archive.read(path.name)
        plain = ds.dataset(path, partitioning="hive")
        assert {field.name: field.type for field in plain.schema} == {f.name: f.type for f in ours.schema}
        assert plain.count_rows() == ours.num_rows > 0
        files = f"read_parquet('{path}/**/*.parquet', hive_partitioning = true)"
        query = f"SELECT count(*), count(DISTINCT backend) FROM {files}"
        (told,) = duckdb.sql(query).fetchall()
        assert told == (ours.num_rows, len(set(ours["backend"].to_pylist())))
    query = f"SELECT decode(payload) FROM read_parquet('{archive.url}/calibrations/*/*.parquet')"
    kept = [json.loads(text) for (text,) in duckdb.sql(query).fetchall()]
    assert Counter(each["backend_name"] for each in kept) == {"fake_manila": 3, "fake_lima": 3}
    files = f"read_parquet('{archive.url}/calibration_parameters/*/*.parquet')"
    hot = f"SELECT max(value_si) FROM {files} WHERE parameter = 'T1'"
    expected = pc.max(archive.read("calibration_parameters", filters={"parameter": "T1"})["value_si"]).as_py()
    assert duckdb.sql(hot).fetchall() == [(expected,)]


def _with_date(name: str, updated: datetime) -> dict[str, Any]:
    return {**ibm.device_properties(name), "last_update_date": updated.isoformat()}


# --- compaction ----------------------------------------------------------------------------------------------------


def _everything(archive: Archive) -> list[list[dict[str, Any]]]:
    return [sorted(archive.read(table).to_pylist(), key=lambda row: json.dumps(row, default=str)) for table in TABLES]


def test_compaction_changes_files_and_no_row(archive: Archive) -> None:
    for index in range(6):
        store_payload(archive, "ibm_x", _payload("A", NOON + index * HOUR), NOON + index * HOUR)
    store_payload(archive, "ibm_y", _payload("A"), NOON)
    before = _everything(archive)
    done = compact(archive, "ibm_x")
    assert (done.files_before, done.files_after, done.rows) == (18, 3, 18)
    assert _everything(archive) == before
    assert compact(archive).rows == 0
    for index in range(4, 8):
        store_payload(archive, "ibm_x", _payload("A", NOON + index * HOUR), NOON + index * HOUR)
    before = _everything(archive)
    assert [len(rows) for rows in before] == [9, 9, 9]
    compact(archive)
    assert _everything(archive) == before
    assert len(list(Path(archive.url).rglob("*.parquet"))) == 6


def test_a_merged_file_grows_to_its_limit_only(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_ibmq.archive import calibrations

    few = [_few(spec, 4) for spec in calibrations.COMPACTED]
    monkeypatch.setattr(calibrations, "COMPACTED", tuple(few))
    names: set[str] = set()
    for index in range(11):
        store_payload(archive, "ibm_x", _payload("A", NOON + index * HOUR), NOON + index * HOUR)
        compact(archive)
        names |= {path.name for path in (Path(archive.url) / "calibrations").rglob("*.parquet")}
    files = {path.name for path in (Path(archive.url) / "calibrations").rglob("*.parquet")}
    assert sorted(name.partition(".")[0] for name in files) == ["~3", "~4", "~4"]
    assert all(int(name.partition(".")[0][1:]) <= 4 for name in names if name.startswith("~"))
    # Neighbours in time share a file.
    dates = [
        ds.dataset(path).to_table()["last_update_date"]
        for path in sorted(Path(archive.url, "calibrations").rglob("*"))
        if path.is_file()
    ]
    spans = sorted((pc.min(each).as_py(), pc.max(each).as_py()) for each in dates)
    assert all(one[1] < other[0] for one, other in pairwise(spans))


def _few(spec: Any, most: int) -> Any:
    from dataclasses import replace

    return replace(spec, merge_keys=most)


def test_rows_that_are_in_two_files_are_read_once(archive: Archive, tmp_path: Path) -> None:
    for index in range(3):
        store_payload(archive, "ibm_x", _payload("A", NOON + index * HOUR), NOON + index * HOUR)
    before = _everything(archive)
    kept = {path: path.read_bytes() for path in Path(archive.url).rglob("*.parquet")}
    compact(archive)
    for path, content in list(kept.items())[::2]:  # as if the compaction had been killed while it deleted
        path.write_bytes(content)
    assert _everything(archive) == before
    assert history(archive, "ibm_x", "T1").num_rows == 3
    assert compact(archive).files_after == 3
    assert _everything(archive) == before


def test_files_of_another_version_of_the_schema_are_read(archive: Archive) -> None:
    store_payload(archive, "ibm_x", _payload("A"))
    for path in Path(archive.url).rglob("*.parquet"):
        path.rename(path.with_name(path.name.replace(".v1.", ".v0.")))
    assert read_payload(archive, "ibm_x").properties()["name"] == "A"
    assert history(archive, "ibm_x", "T1").num_rows == 1
    assert store_payload(archive, "ibm_x", _payload("A")).status == "unchanged"


def test_a_lost_payload_is_named(archive: Archive) -> None:
    stored = store_payload(archive, "ibm_x", _payload("A"))
    (path,) = (Path(archive.url) / "calibrations").rglob("*.parquet")
    path.unlink()
    with pytest.raises(ArchiveError, match=f"has seen calibration {stored.snapshot} of ibm_x and has lost"):
        read_payload(archive, "ibm_x")


@pytest.mark.parametrize("part", ["empty", "head", "most", "overwritten", "a bit"])
def test_a_damaged_file_is_named_as_what_it_is(archive: Archive, part: str) -> None:
    store_payload(archive, "ibm_x", _payload("A"))
    (path,) = Path(archive.url, "calibrations", "backend=ibm_x").iterdir()
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "head": whole[:10],
        "most": whole[:-20],
        "overwritten": whole[:30] + bytes(len(whole) // 2) + whole[30 + len(whole) // 2 :],
        "a bit": _with_bit_flipped(whole, len(whole) // 3),
    }
    path.write_bytes(damaged[part])
    with pytest.raises(ArchiveError, match=f"{path.name}: the file is damaged") as raised:
        read_payload(archive, "ibm_x")
    assert "copy" in str(raised.value.hint)


def _with_bit_flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :]


@pytest.mark.parametrize("table", ["calibrations", "calibration_parameters"])
def test_a_bit_that_flips_on_the_disk_becomes_no_other_value(archive: Archive, table: str) -> None:
    store_payload(archive, "ibm_x", ibm.device_properties("fake_manila"), NOON)

    def told() -> tuple[bytes, pa.Table]:
        return read_payload(archive, "ibm_x").payload, archive.read(table)

    (path,) = Path(archive.url, table, "backend=ibm_x").iterdir()
    whole, good, noticed = path.read_bytes(), told(), 0
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, footer, footer // 60):
        path.write_bytes(_with_bit_flipped(whole, place))
        try:
            assert told() == good
        except ArchiveError:
            noticed += 1
    assert noticed > 40


def test_a_file_that_is_not_ours_is_named(archive: Archive) -> None:
    store_payload(archive, "ibm_x", _payload("A"))
    folder = Path(archive.url) / "calibration_observations" / "backend=ibm_x"
    pa.parquet.write_table(pa.table({"a": [1]}), folder / "~2.parquet")
    with pytest.raises(ArchiveError, match="does not say which keys it has"):
        read_payload(archive, "ibm_x")
    os.remove(folder / "~2.parquet")
    (folder / "_notes.parquet").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    assert read_payload(archive, "ibm_x").properties()["name"] == "A"
