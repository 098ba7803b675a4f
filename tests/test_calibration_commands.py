"""`prefect-ibmq calibrations …`: what each command prints, keeps, and exits with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from prefect_ibmq import ibm, read_calibration, store_calibration
from prefect_ibmq.cli import app

pytest_plugins = ["prefect_ibmq.testing"]

MADE = datetime(2026, 8, 14, 12, tzinfo=UTC)
COMMANDS = ("snapshot", "backfill", "show", "history", "compare", "compact", "export")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """An archive with three calibrations of a device, the last of which has a sentinel and a missing T1."""
    for days in range(3):
        payload = ibm.device_properties("fake_manila")
        payload["last_update_date"] = (MADE + timedelta(days=days)).isoformat()
        payload["qubits"][0][0]["value"] = 100.0 + days
        if days == 2:
            payload["qubits"][4] = payload["qubits"][4][1:]
            next(g for g in payload["gates"] if g["gate"] == "cx")["parameters"][0]["value"] = 1
        store_calibration(tmp_path / "kept", "ibm_x", payload, MADE + timedelta(days=days))
    return tmp_path / "kept"


@pytest.fixture
def service(ibmq_service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The account that the environment names."""
    for name, value in ibmq_service.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "2")
    return ibmq_service


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["calibrations", *map(str, arguments)])


def last(done: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def odd_payloads() -> dict[str, dict[str, Any]]:
    """Payloads that the archive takes and that no service should send."""
    whole = ibm.device_properties("fake_manila")
    error = {"name": "gate_error", "unit": "", "value": 0.1, "date": "2026-08-14T12:00:00Z"}
    halves = [{**error, "name": "T1", "unit": "[/s]"}, {**error, "name": "\ud800"}, {**error, "unit": "\udfff"}]
    places = ([0, 1], None, ["0", 1], [10**30], [10**12], [-1], [True])
    return {
        "nothing": {"qubits": [], "gates": [], "general": []},
        "fewer qubits": {"qubits": whole["qubits"][:2], "gates": []},
        "no lists": {"qubits": [None, 5, [None, 1, "x", [], {}, {"name": 7}], {}], "gates": None, "general": None},
        "odd gates": {
            "qubits": whole["qubits"],
            "gates": [None, 1, {}, {"gate": 5, "qubits": [0]}]
            + [
                {"gate": "[/c x]", "qubits": each, "parameters": [error, None, {**error, "value": 10**400}]}
                for each in places
            ],
        },
        "odd entries": {"qubits": [halves, [{"name": "T1"}, {**error, "value": "0.1", "unit": ["us"]}]]},
    }


@pytest.mark.parametrize("which", odd_payloads())
def test_every_command_bears_what_the_archive_holds(which: str, tmp_path: Path) -> None:
    for day, payload in (("14", ibm.device_properties("fake_manila")), ("15", odd_payloads()[which])):
        payload = {**payload, "last_update_date": f"2026-08-{day}T12:00:00Z"}
        assert store_calibration(tmp_path / "kept", "ibm [/x]", payload).status == "stored"
    since = ("--from", "2026-08-14T12:00:00Z")
    for command, *more in (
        ("show", "ibm [/x]"),
        ("show",),
        ("history", "ibm [/x]", "T1"),
        ("history", "ibm [/x]", "gate_error"),
        ("compare", "ibm [/x]", *since, "--json"),
        ("compare", "ibm [/x]", *since, "--plot", tmp_path / "map.png"),
        ("export", "ibm [/x]", tmp_path / "web.csv", "--form", "ibm-csv"),
        ("export", "ibm [/x]", tmp_path / "tidy.csv"),
    ):
        done = run(command, *more, "--archive", tmp_path / "kept")
        assert (done.exit_code, done.exception) == (0, None), (command, done.stdout)


def test_help_tells_every_command() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert all(run(name, "--help").exit_code == 0 for name in COMMANDS)


def test_snapshot_tells_what_it_did_in_its_last_line(service: Any, tmp_path: Path) -> None:
    done = run("snapshot", "--archive", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    told = last(done)
    assert set(told) >= {"archive", "snapshots", "unchanged", "quarantined", "failed"}
    assert (told["archive"], told["snapshots"], told["failed"]) == (str(tmp_path / "kept"), 2, {})
    again = last(run("snapshot", "--backend", "fake_manila", "--archive", tmp_path / "kept"))
    assert (again["snapshots"], again["unchanged"]) == (0, 1)


def test_snapshot_tells_failures_and_fails_only_where_nothing_came(service: Any, tmp_path: Path) -> None:
    service.faults.on("GET /backends/fake_torino/*", answer="error", status=503)
    done = run("snapshot", "--archive", tmp_path / "kept")
    assert (done.exit_code, last(done)["snapshots"]) == (0, 1)
    assert done.stderr.startswith("error: fake_torino: ")
    done = run("snapshot", "--backend", "fake_torino", "--archive", tmp_path / "kept")
    assert (done.exit_code, last(done)["snapshots"], list(last(done)["failed"])) == (1, 0, ["fake_torino"])


def test_without_an_account_the_embedded_service_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_HOME", str(tmp_path / "ibmq"))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_LOCAL_BACKENDS", "fake_manila")
    assert last(run("snapshot", "--archive", tmp_path / "kept"))["snapshots"] == 1


def test_backfill_shows_progress_on_stderr(service: Any, tmp_path: Path) -> None:
    since = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    done = run("backfill", "--since", since, "--backend", "fake_manila", "--archive", tmp_path / "kept")
    assert done.exit_code == 0, done.output
    assert (last(done)["snapshots"], len(done.stdout.splitlines())) == (4, 1)
    assert "fake_manila: 4 calibrations, back to" in done.stderr
    assert "(100%)" in done.stderr


def test_backfill_needs_a_beginning_that_is_a_date(service: Any, tmp_path: Path) -> None:
    assert run("backfill").exit_code == 2
    done = run("backfill", "--since", "monday", "--archive", tmp_path / "kept")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "error: since is 'monday', which is no date" in done.stderr


def test_show_lists_qubits_and_what_is_flagged(kept: Path) -> None:
    done = run("show", "ibm_x", "--archive", kept)
    assert done.exit_code == 0, done.output
    assert "102 us" in done.stdout
    assert "gate_error: sentinel" in done.stdout
    assert "calibrated 2026-08-16T12:00:00+00:00" in done.stdout
    earlier = run("show", "ibm_x", "--at", "2026-08-15T12:00:00Z", "--archive", kept)
    assert "101 us" in earlier.stdout
    known = run("show", "ibm_x", "--known-at", "2026-08-14T12:00:00Z", "--archive", kept)
    assert "100 us" in known.stdout


def test_show_draws_the_device(kept: Path) -> None:
    picture = kept / "map.png"
    done = run("show", "ibm_x", "--archive", kept, "--plot", picture)
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "102 us" in done.stdout
    nobody = run("show", "--archive", kept, "--plot", kept / "all.png")
    assert (nobody.exit_code, (kept / "all.png").exists()) == (1, False)
    assert "Which backend" in nobody.stderr


def test_show_json_is_the_payload(kept: Path) -> None:
    done = run("show", "ibm_x", "--at", "2026-08-14T12:00:00Z", "--json", "--archive", kept)
    assert json.loads(done.stdout) == read_calibration(kept, "ibm_x", MADE)


def test_show_without_a_backend_lists_what_there_is(kept: Path) -> None:
    store_calibration(kept, "ibm_y", ibm.device_properties("fake_manila"))
    done = run("show", "--archive", kept)
    assert "ibm_x" in done.stdout
    assert f"4 calibrations of 2 backends in {kept}" in done.stdout
    rows = json.loads(run("show", "--json", "--archive", kept).stdout)
    assert [(row["backend"], row["calibrations"]) for row in rows] == [("ibm_x", 3), ("ibm_y", 1)]
    assert datetime.fromisoformat(rows[0]["oldest"]) == MADE


def test_what_is_not_there_is_one_line(kept: Path) -> None:
    done = run("show", "ibm_z", "--archive", kept)
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "ibm_z" in done.stderr
    assert run("show", "ibm_x", "--archive", kept.parent / "nowhere").exit_code == 1
    assert not (kept.parent / "nowhere").exists()


def test_history_of_one_qubit_and_of_all(kept: Path) -> None:
    one = run("history", "ibm_x", "T1", "--qubit", 0, "--archive", kept)
    assert [value in one.stdout for value in ("100", "101", "102")] == [True] * 3
    assert "3 values of 3 calibrations" in one.stdout
    every = run("history", "ibm_x", "T1", "--archive", kept)
    assert "median" in every.stdout
    assert "14 values of 3 calibrations" in every.stdout
    edge = run("history", "ibm_x", "gate_error", "--gate", "cx", "--qubit", 0, "--qubit", 1, "--archive", kept)
    assert "3 values" in edge.stdout


def test_a_parameter_that_does_not_exist_is_told_from_one_without_values(kept: Path) -> None:
    wrong = run("history", "ibm_x", "T9", "--archive", kept)
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "'T9'" in wrong.stderr
    assert "T1" in wrong.stderr
    payload = {"last_update_date": MADE.isoformat(), "qubits": [[{"name": "T1", "value": 1.0, "unit": "us"}]]}
    pairs = [{"name": f"jq_{index}", "value": 1.0, "unit": "GHz"} for index in range(200)]
    store_calibration(kept, "ibm_large", {**payload, "general": pairs})
    long = run("history", "ibm_large", "jq_7x", "--archive", kept)
    assert "T1, jq_7" in long.stderr
    assert len(long.stderr) < 300
    store_calibration(kept, "ibm_none", {**payload, "qubits": []})
    assert "tells no values" in run("history", "ibm_none", "T1", "--archive", kept).stderr
    gone = run("history", "ibm_y", "T1", "--archive", kept)
    assert gone.exit_code == 1
    assert "calibrations show" in gone.stderr
    early = run("history", "ibm_x", "T1", "--until", "2001-01-01", "--archive", kept)
    assert (early.exit_code, early.stdout) == (0, "0 values of 0 calibrations\n")


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_dates_at_the_ends_of_the_calendar_are_shown(tmp_path: Path, date: str) -> None:
    kept = tmp_path / "kept"
    for made, measured in ((date, date), (MADE.isoformat(), date), (MADE.isoformat(), MADE.isoformat())):
        entry = {"name": "T1", "unit": "us", "value": 5.0, "date": measured}
        store_calibration(kept, "ibm_x", {"last_update_date": made, "qubits": [[entry]] * 2})
    for command in (("show",), ("history", "ibm_x", "T1"), ("history", "ibm_x", "T1", "--qubit", 0)):
        done = run(*command, "--archive", kept)
        assert done.exit_code == 0
    assert date[:4] in done.stdout
    for place in ((), ("--qubit", 0)):
        plotted = run("history", "ibm_x", "T1", *place, "--plot", tmp_path / "t1.png", "--archive", kept)
        assert plotted.exit_code == 0


def test_history_as_json_and_csv(kept: Path, tmp_path: Path) -> None:
    rows = json.loads(run("history", "ibm_x", "T1", "--qubit", 0, "--json", "--archive", kept).stdout)
    assert [row["value"] for row in rows] == [100.0, 101.0, 102.0]
    assert datetime.fromisoformat(rows[0]["last_update_date"]) == MADE
    odd = {"name": "T1", "unit": "us", "value": 0.00012345678901234567, "date": "2026-08-14T12:00:00.123456Z"}
    store_calibration(kept, "ibm_y", {"last_update_date": MADE.isoformat(), "qubits": [[odd], [{"name": "T1"}]]})
    exact, missing = json.loads(run("history", "ibm_y", "T1", "--json", "--archive", kept).stdout)
    assert (exact["value"], exact["measured_at"]) == (odd["value"], "2026-08-14T12:00:00.123456+00:00")
    assert (missing["value"], missing["measured_at"], missing["unit"]) == (None, None, None)
    (tmp_path / "t1.csv").write_text(
        run("history", "ibm_x", "T1", "--since", "2026-08-15", "--csv", "--archive", kept).stdout
    )
    assert len(pd.read_csv(tmp_path / "t1.csv")) == 9
    done = run("history", "ibm_x", "T1", "--csv", "--json", "--archive", kept)
    assert (done.exit_code, "both" in done.stderr) == (1, True)


def test_compare_tells_what_moved_and_what_is_beyond_its_limit(kept: Path, tmp_path: Path) -> None:
    picture = tmp_path / "moved.png"
    done = run("compare", "ibm_x", "--from", MADE.isoformat(), "--archive", kept, "--plot", picture)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("ibm_x from 2026-08-14 12:00 UTC to 2026-08-16 12:00 UTC")
    assert "qubit 0: T1 100 µs → 102 µs" in done.stdout
    assert "No longer told: qubit 4 T1" in done.stdout
    assert "Beyond its limit: cx on" in done.stdout
    assert "is not calibrated" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in done.stderr
    calm = run("compare", "ibm_x", "--from", MADE.isoformat(), "--to", "2026-08-15T13:00", "--archive", kept)
    assert "Beyond" not in calm.stdout


def test_compare_as_json_has_every_change(kept: Path) -> None:
    done = run("compare", "ibm_x", "--from", MADE.isoformat(), "--archive", kept, "--json")
    told = json.loads(done.stdout)
    assert len(set(told["snapshots"])) == 2
    states = {(each["parameter"], tuple(each["qubits"])): each["state"] for each in told["changes"]}
    assert states[("T1", (0,))] == "changed"
    assert states[("T1", (4,))] == "vanished"
    assert "failed" in states.values()
    assert len(told["crossed"]) == 1


def test_compare_needs_calibrations_of_both_times_and_a_place_for_the_picture(kept: Path) -> None:
    done = run("compare", "ibm_x", "--from", "2020-01-01", "--archive", kept)
    assert done.exit_code != 0
    done = run("compare", "ibm_x", "--from", MADE.isoformat(), "--archive", kept, "--plot", kept / "no" / "x.png")
    assert done.exit_code != 0


def test_a_history_is_drawn(kept: Path, tmp_path: Path) -> None:
    picture = tmp_path / "t1.png"
    assert run("history", "ibm_x", "T1", "--archive", kept, "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_compact_tells_how_many_files_there_are_now(kept: Path) -> None:
    told = last(run("compact", "--archive", kept))
    assert told["files_after"] < told["files_before"]


def test_export_writes_ibms_columns(kept: Path, tmp_path: Path) -> None:
    done = run("export", "ibm_x", tmp_path / "x.csv", "--form", "ibm-csv", "--archive", kept)
    assert last(done) == {"path": str(tmp_path / "x.csv"), "form": "ibm-csv", "rows": 5}
    frame = pd.read_csv(tmp_path / "x.csv")
    assert list(frame.columns)[:3] == ["Qubit", "T1 (us)", "T2 (us)"]
    assert pd.isna(frame["T1 (us)"][4])
    wrong = run("export", "ibm_x", tmp_path / "x.xlsx", "--archive", kept)
    assert (wrong.exit_code, "x.xlsx" in wrong.stderr) == (1, True)
