"""Calibrations as files of other programs: tidy CSV and Parquet, and the columns of IBM's web page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prefect_ibmq import (
    ArchiveError,
    CalibrationNotFound,
    InputError,
    export_calibrations,
    ibm,
    read_calibration,
    store_calibration,
)
from prefect_ibmq.archive.datasets import Archive, open_archive

MADE = datetime(2026, 8, 14, 12, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "kept")


def store(archive: Archive, name: str, days: float = 0, **changes: Any) -> dict[str, Any]:
    payload = ibm.device_properties(name) | changes
    payload["last_update_date"] = (MADE + timedelta(days=days)).isoformat()
    assert store_calibration(archive, name, payload).status == "stored"
    return payload


def web(archive: Archive, name: str, folder: Path) -> pd.DataFrame:
    told = export_calibrations.fn(archive, folder / "web.csv", name, form="ibm-csv")
    frame = pd.read_csv(folder / "web.csv")
    assert (told["rows"], told["form"]) == (len(frame), "ibm-csv")
    return frame


def value(payload: dict[str, Any], gate: str, qubits: list[int], parameter: str) -> float:
    [entry] = [each for each in payload["gates"] if each["gate"] == gate and each["qubits"] == qubits]
    return next(float(each["value"]) for each in entry["parameters"] if each["name"] == parameter)


def test_a_device_with_frequencies_has_the_older_columns(archive: Archive, tmp_path: Path) -> None:
    payload = store(archive, "fake_sherbrooke")
    frame = web(archive, "fake_sherbrooke", tmp_path)
    assert list(frame.columns) == [
        "Qubit", "T1 (us)", "T2 (us)", "Frequency (GHz)", "Anharmonicity (GHz)", "Readout assignment error",
        "Prob meas0 prep1", "Prob meas1 prep0", "Readout length (ns)", "ID error", "Z-axis rotation (rz) error",
        "√x (sx) error", "Pauli-X error", "ECR error", "Gate time (ns)", "Operational",
    ]  # fmt: skip
    assert list(frame["Qubit"]) == list(range(127))
    told = {each["name"]: each["value"] for each in payload["qubits"][7]}
    row = frame.iloc[7]
    assert (row["T1 (us)"], row["T2 (us)"], row["Frequency (GHz)"]) == (told["T1"], told["T2"], told["frequency"])
    assert row["Readout length (ns)"] == told["readout_length"]
    assert row["√x (sx) error"] == value(payload, "sx", [7], "gate_error")
    [pair] = [each["qubits"] for each in payload["gates"] if each["gate"] == "ecr" and each["qubits"][0] == 7][:1]
    cells = dict(cell.split(":") for cell in row["ECR error"].split(";"))
    assert float(cells[f"7_{pair[1]}"]) == value(payload, "ecr", pair, "gate_error")
    assert set(frame["Operational"]) == {"Yes"}


def test_a_device_of_today_has_todays_columns(archive: Archive, tmp_path: Path) -> None:
    payload = store(archive, "fake_kingston")
    frame = web(archive, "fake_kingston", tmp_path)
    assert list(frame.columns) == [
        "Qubit", "T1 (us)", "T2 (us)", "Readout assignment error", "Prob meas0 prep1", "Prob meas1 prep0",
        "Readout length (ns)", "ID error", "Single-qubit gate length (ns)", "RX error", "Z-axis rotation (rz) error",
        "√x (sx) error", "Pauli-X error", "CZ error", "Gate length (ns)", "RZZ error", "MEASURE error",
        "MEASURE_2 error", "Operational",
    ]  # fmt: skip
    cells = dict(cell.split(":") for cell in frame["CZ error"][4].split(";"))
    pairs = [each["qubits"] for each in payload["gates"] if each["gate"] == "cz" and each["qubits"][0] == 4]
    assert {int(cell): float(error) for cell, error in cells.items()} == {
        pair[1]: value(payload, "cz", pair, "gate_error") for pair in pairs
    }
    without = [number for number, qubit in enumerate(payload["qubits"]) if "T1" not in {each["name"] for each in qubit}]
    assert without  # never a 0 for what was not measured
    assert list(frame.index[frame["T1 (us)"].isna()]) == without


def test_units_are_those_of_the_heading_and_faulty_qubits_are_told(archive: Archive, tmp_path: Path) -> None:
    payload = ibm.device_properties("fake_manila")
    payload["qubits"][1][0] |= {"unit": "ms", "value": 0.125}
    payload["qubits"][2][0]["unit"] = "µs"
    payload["qubits"][3].append({"name": "operational", "value": 0, "unit": "", "date": MADE.isoformat()})
    store(archive, "fake_manila", qubits=payload["qubits"])
    frame = web(archive, "fake_manila", tmp_path)
    assert frame["T1 (us)"][1] == pytest.approx(125.0, rel=1e-12)
    assert frame["T1 (us)"][2] == payload["qubits"][2][0]["value"]
    assert list(frame["Operational"]) == ["Yes", "Yes", "Yes", "No", "Yes"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_one_calibration_as_tidy_rows(archive: Archive, tmp_path: Path, ending: str) -> None:
    store(archive, "fake_manila")
    store(archive, "fake_manila", days=1)
    told = export_calibrations.fn(archive, tmp_path / f"one.{ending}", "fake_manila", at="2026-08-14T12:00:00Z")
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    frame = read(told["path"])
    expected = read_calibration(archive, "fake_manila", "2026-08-14T12:00:00Z", form="table")
    assert (told["form"], told["rows"], len(frame)) == (ending, len(expected), len(expected))
    assert list(frame.columns) == list(expected.columns)
    assert list(frame["value"].fillna(-1)) == list(expected["value"].fillna(-1))
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_all_calibrations_of_a_time(archive: Archive, tmp_path: Path) -> None:
    for days in range(4):
        store(archive, "fake_manila", days=days)
    first, last = (MADE + timedelta(days=days) for days in (1, 2))
    told = export_calibrations.fn(archive, tmp_path / "some.parquet", "fake_manila", since=first, until=last)
    frame = pd.read_parquet(tmp_path / "some.parquet")
    assert told["rows"] == len(frame)
    assert sorted(set(frame["last_update_date"])) == [pd.Timestamp(first), pd.Timestamp(last)]


def test_what_does_not_go_together_is_told(archive: Archive, tmp_path: Path) -> None:
    store(archive, "fake_manila")
    export = export_calibrations.fn
    with pytest.raises(InputError, match=r"table\.xlsx.*ending"):
        export(archive, tmp_path / "table.xlsx", "fake_manila")
    with pytest.raises(InputError, match="form='feather' is unknown"):
        export(archive, tmp_path / "table.csv", "fake_manila", form="feather")
    with pytest.raises(InputError, match="not both"):
        export(archive, tmp_path / "table.csv", "fake_manila", at=MADE, since=MADE)
    with pytest.raises(InputError, match="no place for a date"):
        export(archive, tmp_path / "table.csv", "fake_manila", form="ibm-csv", since=MADE)
    with pytest.raises(ArchiveError, match="nowhere"):
        export(archive, tmp_path / "nowhere" / "table.csv", "fake_manila")


def test_a_time_without_calibrations_leaves_the_file_alone(archive: Archive, tmp_path: Path) -> None:
    store(archive, "fake_manila")
    store_calibration(archive, "ibm_none", {"last_update_date": MADE.isoformat(), "qubits": []})
    (tmp_path / "kept.csv").write_text("kept")
    export = export_calibrations.fn
    with pytest.raises(CalibrationNotFound, match=f"no calibration of 'fake_manila' dated since {MADE.year + 1}"):
        export(archive, tmp_path / "kept.csv", "fake_manila", since=f"{MADE.year + 1}-01-01")
    with pytest.raises(CalibrationNotFound, match=r"'fake_manilla'.*calibrations show"):
        export(archive, tmp_path / "kept.csv", "fake_manilla", until=MADE)
    with pytest.raises(InputError, match="is after until"):
        export(archive, tmp_path / "kept.csv", "fake_manila", since=MADE, until=MADE - timedelta(days=1))
    assert (tmp_path / "kept.csv").read_text() == "kept"
    assert export(archive, tmp_path / "none.csv", "ibm_none", since=MADE)["rows"] == 0
