"""Calibrations from Python: stored however they were come by, read back as of any moment, in every form."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prefect_ibmq import (
    ArchiveError,
    CalibrationNotFound,
    InputError,
    aread_calibration,
    astore_calibration,
    calibration_history,
    compact_calibrations,
    ibm,
    read_calibration,
    store_calibration,
)
from prefect_ibmq.archive.datasets import Archive, open_archive

MADE = datetime(2026, 8, 14, 12, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "kept")


def calibration(name: str = "fake_manila", *, days: float = 0, t1: float | None = None) -> dict[str, Any]:
    """A shipped device's calibration, dated some days after `MADE`."""
    payload = ibm.device_properties(name)
    payload["last_update_date"] = (MADE + timedelta(days=days)).isoformat().replace("+00:00", "Z")
    if t1 is not None:
        payload["qubits"][0][0]["value"] = t1
    return payload


def told(target: Any) -> dict[str, Any]:
    """What a target says of each operation and place: duration and error."""
    return {
        name: {place: (known.duration, known.error) if known else None for place, known in (target[name] or {}).items()}
        for name in target.operation_names
    }


def test_bytes_and_dict_of_one_calibration_are_one(archive: Archive) -> None:
    payload = calibration()
    first = store_calibration(archive.url, "ibm_x", json.dumps(payload, indent=2).encode())
    again = store_calibration(archive.url, "ibm_x", payload)
    assert (first.status, again.status, first.snapshot) == ("stored", "unchanged", again.snapshot)
    assert first.last_update_date == MADE
    assert read_calibration(archive.url, "ibm_x") == payload


@pytest.mark.parametrize(
    "payload", [b"", b'{"qubits": [[', b"[]", {}, {"qubits": []}, {"last_update_date": object()}, None, [], 7, "text"]
)
def test_a_bad_payload_is_quarantined_with_its_reason(archive: Archive, payload: Any) -> None:
    stored = store_calibration(archive, "ibm_x", payload)
    assert (stored.status, stored.snapshot) == ("quarantined", None)
    assert stored.reason
    with pytest.raises(CalibrationNotFound, match="ibm_x"):
        read_calibration(archive, "ibm_x")


@pytest.mark.parametrize(
    "at", ["2026-08-15T12:00:00Z", "2026-08-15T12:00:00", "2026-08-15T14:00:00+02:00", "2026-08-16"]
)
def test_as_of_is_inclusive_and_utc(archive: Archive, at: str) -> None:
    for days in (0, 1, 3):
        store_calibration(archive, "ibm_x", calibration(days=days))
    for moment in (at, datetime.fromisoformat(at)):
        assert read_calibration(archive, "ibm_x", moment)["last_update_date"] == "2026-08-15T12:00:00Z"
    assert read_calibration(archive, "ibm_x")["last_update_date"] == "2026-08-17T12:00:00Z"
    with pytest.raises(CalibrationNotFound):
        read_calibration(archive, "ibm_x", MADE - timedelta(microseconds=1))


def test_what_was_known_then_is_told_apart_from_what_was_in_force(archive: Archive) -> None:
    store_calibration(archive, "ibm_x", calibration(days=0), "2026-09-01")
    store_calibration(archive, "ibm_x", calibration(days=5), "2026-09-02")
    store_calibration(archive, "ibm_x", calibration(days=2), "2026-09-03")  # fetched later, made earlier
    store_calibration(archive, "ibm_x", calibration(days=5, t1=1.5), "2026-09-04")  # of the same date, seen later

    def read(at: str | None, known_at: str | None) -> dict[str, Any]:
        found: dict[str, Any] = read_calibration(archive, "ibm_x", at, known_at)
        return found

    assert read("2026-08-18", None) == calibration(days=2)
    assert read("2026-08-18", "2026-09-02") == calibration(days=0)
    assert read(None, "2026-09-03") == calibration(days=5)
    assert read(None, None) == calibration(days=5, t1=1.5)
    with pytest.raises(CalibrationNotFound):
        read(None, "2026-08-31")


def test_wrong_arguments_are_told(archive: Archive) -> None:
    store_calibration(archive, "ibm_x", calibration())
    with pytest.raises(InputError, match=r"form='json' is unknown.*properties, table"):
        read_calibration(archive, "ibm_x", form="json")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at is 'now', which is no date"):
        read_calibration(archive, "ibm_x", "now")
    with pytest.raises(InputError, match="collected_at"):
        store_calibration(archive, "ibm_x", calibration(), "today")
    for name in ("", "  ", None, 5):
        for asked in (read_calibration, calibration_history, lambda *given: store_calibration(*given, calibration())):
            with pytest.raises(InputError, match="is no backend"):
                asked(archive, name)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no backend"):
        compact_calibrations.fn(archive, "")
    assert not (Path(archive.url).parent / "nowhere").exists()


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        read_calibration(tmp_path / "nowhere", "ibm_x")
    assert not (tmp_path / "nowhere").exists()


def test_a_table_has_a_row_for_each_value_with_its_flags(archive: Archive) -> None:
    payload = calibration("fake_torino")
    payload["qubits"][3] = [each for each in payload["qubits"][3] if each["name"] != "T1"]
    store_calibration(archive, "ibm_x", payload)
    table = read_calibration(archive, "ibm_x", form="table")
    values = sum(map(len, payload["qubits"])) + sum(len(gate["parameters"]) for gate in payload["gates"])
    assert len(table) == values + len(payload["general"])
    assert set(table["backend"]) == {"ibm_x"}
    t1 = table[(table["parameter"] == "T1") & (table["kind"] == "qubit")].set_index("qubits")
    assert "3" not in t1.index
    assert t1.loc["4", "value"] == payload["qubits"][4][0]["value"]
    sentinels = sum(p["value"] >= 1 for g in payload["gates"] for p in g["parameters"] if p["name"] == "gate_error")
    assert table["flags"].str.contains("sentinel").sum() == sentinels > 0


@pytest.mark.parametrize("name", ["fake_manila", "fake_kingston", "fake_sherbrooke"])
def test_a_target_of_the_archive_is_that_of_the_payload(archive: Archive, name: str) -> None:
    payload, configuration = calibration(name), ibm.device_configuration(name)
    store_calibration(archive, "ibm_x", payload, "2026-08-15", configuration=configuration)
    for fractional in (False, True):
        made = read_calibration(archive, "ibm_x", form="target", fractional_gates=fractional)
        expected = ibm.target_from(configuration, payload, fractional_gates=fractional)
        assert (made.dt, made.num_qubits) == (expected.dt, expected.num_qubits)
        assert told(made) == told(expected)
        assert list(map(str, made.qubit_properties)) == list(map(str, expected.qubit_properties))


def test_a_target_without_a_configuration_is_what_the_calibration_tells(archive: Archive) -> None:
    payload = calibration()
    store_calibration(archive, "ibm_x", payload)
    target = read_calibration(archive, "ibm_x", form="target")
    whole = ibm.target_from(ibm.device_configuration("fake_manila"), payload)
    assert (target.num_qubits, target.dt) == (5, None)
    assert {"cx", "sx", "x", "rz", "id", "measure"} <= set(target.operation_names)
    assert all(told(target)[gate] == told(whole)[gate] for gate in ("cx", "sx", "x", "measure"))


def test_a_configuration_of_another_size_is_not_used(archive: Archive) -> None:
    store_calibration(archive, "ibm_x", calibration(), configuration=ibm.device_configuration("fake_torino"))
    assert read_calibration(archive, "ibm_x", form="target").num_qubits == 5


def test_a_target_has_the_configuration_that_was_known_then(archive: Archive) -> None:
    early = {**ibm.device_configuration("fake_manila"), "dt": 4.0}
    store_calibration(archive, "ibm_x", calibration(), "2026-08-15", configuration=early)
    store_calibration(archive, "ibm_x", calibration(), "2026-08-20", configuration={**early, "dt": 2.0})

    def dt(**asked: Any) -> float:
        found: float = read_calibration(archive, "ibm_x", form="target", **asked).dt
        return found

    assert dt() == dt(at="2026-08-20") == dt(known_at="2026-08-20") == 2e-9
    assert dt(at="2026-08-19") == dt(known_at="2026-08-19") == dt(at="2026-08-21", known_at="2026-08-16") == 4e-9


def test_a_noise_model_of_the_archive_is_aers_of_the_device(archive: Archive) -> None:
    from qiskit_aer.noise import NoiseModel
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    payload, configuration = ibm.device_properties("fake_manila"), ibm.device_configuration("fake_manila")
    store_calibration(archive, "ibm_gone", payload, configuration=configuration)
    assert read_calibration(archive, "ibm_gone", form="noise_model") == NoiseModel.from_backend(FakeManilaV2())


@pytest.mark.parametrize(
    ("name", "value"),
    [("readout_error", None), ("readout_error", 1.5), ("T1", 0.0), ("T1", -3.0), ("T2", -1.0), ("T2", None)],
)
def test_a_noise_model_leaves_out_what_is_missing_or_cannot_be(archive: Archive, name: str, value: Any) -> None:
    payload = calibration()
    next(entry for entry in payload["qubits"][1] if entry["name"] == name)["value"] = value
    store_calibration(archive, "ibm_x", payload)
    model = read_calibration(archive, "ibm_x", form="noise_model")
    read = {
        qubit for error in model.to_dict()["errors"] if error["type"] == "roerror" for (qubit,) in error["gate_qubits"]
    }
    assert read == {0, 2, 3, 4} | ({1} if name != "readout_error" else set())


def test_a_calibration_that_gives_no_target_says_why(archive: Archive) -> None:
    payload = calibration()
    payload["gates"].append({"gate": "cx", "qubits": [0, 1, 2], "parameters": []})
    store_calibration(archive, "ibm_x", payload)
    with pytest.raises(ArchiveError, match=r"of ibm_x gives no target: .*form='properties'"):
        read_calibration(archive, "ibm_x", form="target")


def test_whatever_is_no_payload_goes_to_quarantine(archive: Archive) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for odd in (
        None,
        5,
        {1, 2},
        object(),
        [{(1, 2): 3}],
        endless,
        "{}",
        bytearray(b"{"),
        {(1, 2): 3},
        {"self": object()},
    ):
        assert store_calibration(archive, "ibm_x", odd).status == "quarantined"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no valid Unicode"):
        store_calibration(archive, "ibm_\ud800", calibration())


def test_one_parameter_over_time(archive: Archive) -> None:
    for days, t1 in enumerate((100.0, 101.5, 99.0)):
        store_calibration(archive, "ibm_x", calibration(days=days, t1=t1))
    history = calibration_history(archive, "ibm_x", "T1", 0)
    assert list(history["value"]) == [100.0, 101.5, 99.0]
    assert history["value_si"].iloc[0] == pytest.approx(1e-4, rel=1e-12)
    assert set(history["unit"]) == {"us"}
    assert list(history["last_update_date"]) == [pd.Timestamp(MADE + timedelta(days=days)) for days in range(3)]
    later = calibration_history(archive, "ibm_x", "T1", 0, since="2026-08-15T12:00:00Z")
    assert list(later["value"]) == [101.5, 99.0]
    edges = calibration_history(archive, "ibm_x", "gate_error", (0, 1), "cx", until="2026-08-14T12:00:00Z")
    assert (len(edges), edges["qubits"].iloc[0]) == (1, "0_1")
    assert len(calibration_history(archive, "ibm_x", "T1")) == 15


def test_compacting_changes_nothing_that_is_read(archive: Archive) -> None:
    for days in range(6):
        store_calibration(archive, "ibm_x", calibration(days=days, t1=100.0 + days))
    before = [read_calibration(archive, "ibm_x", MADE + timedelta(days=days)) for days in range(6)]
    history = calibration_history(archive, "ibm_x", "T1", 0)
    done = compact_calibrations.fn(archive)
    assert done["files_after"] < done["files_before"]
    assert [read_calibration(archive, "ibm_x", MADE + timedelta(days=days)) for days in range(6)] == before
    pd.testing.assert_frame_equal(calibration_history(archive, "ibm_x", "T1", 0), history)
    assert compact_calibrations.fn(archive)["files_after"] == done["files_after"]


async def test_coroutines_have_doors_of_their_own(archive: Archive) -> None:
    stored = await astore_calibration(archive, "ibm_x", calibration())
    assert stored.status == "stored"
    assert await aread_calibration(archive, "ibm_x", "2026-08-15") == calibration()


def test_a_script_needs_no_prefect_server(tmp_path: Path) -> None:
    code = """
import json, sys
from prefect_ibmq import read_calibration, store_calibration
payload = {"last_update_date": "2026-08-14T12:00:00Z", "backend_name": "ibm_x", "qubits": [], "gates": []}
assert store_calibration(sys.argv[1], "ibm_x", payload).status == "stored"
assert read_calibration(sys.argv[1], "ibm_x") == payload
print([name for name in sys.modules if name.startswith(("prefect.server", "qiskit"))])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
