"""The way back through the calibrations of the past: once, to its end, and on from where it was broken off."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prefect_ibmq import (
    BackendNotFound,
    IBMQError,
    InputError,
    backfill_calibrations,
    read_calibration,
    snapshot_calibrations,
)
from prefect_ibmq.archive.calibrations import observations, read_configuration, snapshots
from prefect_ibmq.archive.datasets import Archive, open_archive

pytest_plugins = ["prefect_ibmq.testing"]

PROPERTIES = "GET /backends/{name}/properties"
ONE = "/backends/fake_manila/properties"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are tried twice: what goes wrong here goes wrong for good."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "2")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "kept")


@pytest.fixture
def service(ibmq_services: Any) -> Any:
    """One small device, calibrated every day, whose history is ten days long."""
    return ibmq_services(backends=("fake_manila",), history_days=10)


def fetch(service: Any, archive: Any, since: Any = None, until: Any = None, backends: Any = None) -> dict[str, Any]:
    told: dict[str, Any] = backfill_calibrations.fn(service.provider, backends, since, until, archive)
    return told


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def asked(service: Any, path: str = ONE) -> list[str]:
    """The queries for a backend's calibrations, in order."""
    return [record.query for record in service.requests if record.path == path]


def dates(archive: Archive) -> list[datetime]:
    found: list[datetime] = snapshots(archive)["last_update_date"].to_pylist()
    return found


def test_it_goes_back_to_what_was_in_force_then(service: Any, archive: Archive) -> None:
    since = days_ago(5)
    told = fetch(service, archive, since.isoformat())
    assert json.loads(json.dumps(told)) == told
    assert (told["snapshots"], told["quarantined"], told["failed"]) == (6, 0, {})
    oldest, *_ = kept = dates(archive)
    assert oldest <= since < kept[1]
    assert {later - earlier for earlier, later in pairwise(kept)} == {timedelta(days=1)}
    row = told["backends"]["fake_manila"]
    assert (row["requests"], row["reached"], row["history_ends"]) == (6, oldest.isoformat(), False)
    assert datetime.fromisoformat(read_calibration(archive, "fake_manila", since)["last_update_date"]) == oldest
    assert read_configuration(archive, "fake_manila") is not None


def test_what_is_fetched_today_is_known_since_today(service: Any, archive: Archive) -> None:
    began = datetime.now(UTC)
    fetch(service, archive, days_ago(3))
    assert min(observations(archive)["collected_at"].to_pylist()) >= began
    with pytest.raises(IBMQError, match="fake_manila"):
        read_calibration(archive, "fake_manila", days_ago(2), known_at=began - timedelta(seconds=1))


@pytest.mark.parametrize("told_as", ["null", "empty", "404"])
def test_it_stops_where_history_ends(ibmq_services: Any, archive: Archive, told_as: str) -> None:
    service = ibmq_services(backends=("fake_manila",), history_days=4, before_first_calibration=told_as)
    told = fetch(service, archive)
    row = told["backends"]["fake_manila"]
    assert (told["snapshots"], told["failed"], row["history_ends"]) == (len(dates(archive)), {}, True)
    assert row["requests"] == len(dates(archive)) + 1
    again = fetch(service, archive, until=dates(archive)[-1])
    assert (again["snapshots"], again["backends"]["fake_manila"]["requests"]) == (0, 0)


def test_it_stops_where_the_oldest_comes_again(service: Any, archive: Archive) -> None:
    fetch(service, archive, days_ago(3))
    oldest = read_calibration(archive, "fake_manila", dates(archive)[0])
    service.faults.on(f"GET {ONE}", answer="raw", body=json.dumps(oldest))
    told = fetch(service, archive, until=dates(archive)[0])
    assert (told["snapshots"], told["failed"]) == (0, {})
    assert told["backends"]["fake_manila"]["history_ends"]
    assert told["backends"]["fake_manila"]["requests"] <= 2


def test_a_later_one_than_was_asked_for_is_told_and_kept(service: Any, archive: Archive) -> None:
    fetch(service, archive, days_ago(1))
    newest = read_calibration(archive, "fake_manila")
    newest["last_update_date"] = datetime.now(UTC).isoformat()
    service.faults.on(f"GET {ONE}", answer="raw", body=json.dumps(newest), after=1)
    told = fetch(service, archive, days_ago(8))
    assert "a later one came" in told["failed"]["fake_manila"]
    assert told["snapshots"] == 1


def test_nothing_is_asked_for_twice(service: Any, archive: Archive) -> None:
    since, until = days_ago(4), days_ago(1.5)
    fetch(service, archive, since, until)
    first = asked(service)
    again = fetch(service, archive, since, until)
    assert (again["snapshots"], again["backends"]["fake_manila"]["requests"]) == (0, 0)
    further = fetch(service, archive, days_ago(7), dates(archive)[-1])
    assert (further["snapshots"], further["backends"]["fake_manila"]["requests"]) == (3, 3)
    assert max(Counter(asked(service)).values()) == 1
    assert len(asked(service)) == len(first) + 3


def test_a_gap_between_two_walks_is_closed_and_no_more(service: Any, archive: Archive) -> None:
    fetch(service, archive, days_ago(8), days_ago(6))
    known = len(dates(archive))
    fetch(service, archive, days_ago(2))
    told = fetch(service, archive, days_ago(8), days_ago(1.5))
    kept = dates(archive)
    assert {later - earlier for earlier, later in pairwise(kept)} == {timedelta(days=1)}
    assert told["snapshots"] < len(kept) - known
    assert len(asked(service)) <= len(kept) + 3


def test_trouble_in_the_middle_loses_nothing_and_the_next_run_goes_on(service: Any, archive: Archive) -> None:
    switch = service.faults.on(f"GET {ONE}", answer="error", status=503, after=3)
    told = fetch(service, archive, days_ago(6))
    assert (told["snapshots"], list(told["failed"])) == (3, ["fake_manila"])
    service.faults.remove(switch)
    told = fetch(service, archive, days_ago(6))
    assert (told["snapshots"], told["failed"]) == (4, {})
    good = [record.query for record in service.requests if record.path == ONE and record.status == 200]
    assert max(Counter(good).values()) == 1


def test_one_failing_backend_does_not_cost_the_others(ibmq_services: Any, archive: Archive) -> None:
    service = ibmq_services(backends=("fake_manila", "fake_quito"), history_days=10)
    service.faults.on("GET /backends/fake_quito/properties", answer="error", status=503)
    told = fetch(service, archive, days_ago(2))
    assert (told["snapshots"], list(told["failed"])) == (3, ["fake_quito"])


def test_a_payload_nobody_can_read_is_quarantined_and_walked_past(service: Any, archive: Archive) -> None:
    # The body ends in its middle, but says its date.
    service.faults.on(f"GET {ONE}", answer="cut_json", keep=0.2, after=2, times=2)
    told = fetch(service, archive, days_ago(5))
    assert (told["snapshots"], told["quarantined"], told["failed"]) == (5, 1, {})
    assert told["backends"]["fake_manila"]["requests"] == 6


@pytest.mark.parametrize("date", ["", ', "last_update_date": "1970-01-01T00:00:00Z"'])
def test_a_payload_without_a_likely_date_is_walked_past_in_steps(service: Any, archive: Archive, date: str) -> None:
    service.faults.on(f"GET {ONE}", answer="raw", body=f'{{"qubits": []{date}}}', after=2, times=1)
    told = fetch(service, archive, days_ago(5))
    assert (told["quarantined"], told["failed"]) == (0 if date else 1, {})
    # The one that it stood for was still the newest a quarter of an hour earlier.
    assert told["snapshots"] == (7 if date else 6)


def test_a_payload_that_comes_several_times_on_the_way_counts_once(
    ibmq_services: Any, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "6")
    service = ibmq_services(backends=("fake_manila",), history_days=10)
    service.faults.on(f"GET {ONE}", answer="raw", body='{"qubits": [[{"name": "T1", "val', after=2, times=6)
    told = fetch(service, archive, days_ago(5))
    assert (told["quarantined"], told["unchanged"], told["failed"]) == (1, 0, {})
    assert told["backends"]["fake_manila"]["quarantined"] == [
        "it is not JSON: Unterminated string starting at: line 1 column 29 (char 28)"
    ]
    # Each step asks twice: bytes that come again are what the service has.
    assert max(Counter(asked(service)).values()) == 2
    fetch(service, archive, days_ago(3))
    oldest = read_calibration(archive, "fake_manila", dates(archive)[0])
    service.faults.on(f"GET {ONE}", answer="raw", body=json.dumps(oldest))
    told = fetch(service, archive, until=dates(archive)[0])
    assert (told["snapshots"], told["unchanged"]) == (0, 1)


def test_a_retired_device_is_fetched_to_the_end_of_its_history(ibmq_services: Any, archive: Archive) -> None:
    service = ibmq_services(backends=("fake_manila",), history_days=4, before_first_calibration="404")
    service.faults.on("GET /backends", answer="raw", body='{"devices": []}')
    service.faults.on("GET /backends/fake_manila/configuration", answer="error", status=404)
    told = fetch(service, archive, backends="fake_manila")
    assert (told["snapshots"], told["failed"]) == (len(dates(archive)), {})
    assert told["backends"]["fake_manila"]["history_ends"]
    assert read_calibration(archive, "fake_manila", form="target").num_qubits == 5


def test_where_nothing_can_be_read_it_gives_up(service: Any, archive: Archive) -> None:
    service.faults.on(f"GET {ONE}", answer="raw", body='{"qubits": []}', after=1)
    told = fetch(service, archive)
    assert "cannot be read" in told["failed"]["fake_manila"]
    assert told["backends"]["fake_manila"]["requests"] < 30


def test_it_begins_before_until(service: Any, archive: Archive) -> None:
    until = days_ago(4)
    fetch(service, archive, days_ago(6), until.isoformat())
    assert max(dates(archive)) < until


def test_snapshots_and_backfill_fill_one_archive(service: Any, archive: Archive) -> None:
    snapshot_calibrations.fn(service.provider, None, archive)
    told = fetch(service, archive, days_ago(2))
    assert (told["snapshots"], told["unchanged"]) == (2, 1)


def test_the_archive_may_be_anywhere(service: Any, tmp_path: Path) -> None:
    address = f"memory://lab-{tmp_path.name}"
    switch = service.faults.on(f"GET {ONE}", answer="error", status=503, after=2)
    assert fetch(service, address, days_ago(4))["snapshots"] == 2
    service.faults.remove(switch)
    assert fetch(service, address, days_ago(4))["snapshots"] == 3
    assert fetch(service, address, days_ago(4), days_ago(1.5))["backends"]["fake_manila"]["requests"] <= 1
    assert read_calibration(address, "fake_manila", days_ago(3))["backend_name"] == "fake_manila"


def test_wrong_names_and_times_are_refused(service: Any, archive: Archive) -> None:
    with pytest.raises(BackendNotFound, match="fake_manila"):
        fetch(service, archive, days_ago(2), backends="fake_manilla")
    with pytest.raises(InputError, match="not before"):
        fetch(service, archive, days_ago(2), days_ago(3))
    with pytest.raises(InputError, match=r"since is 'yesterday'.*Write it like"):
        fetch(service, archive, "yesterday")
    assert dates(archive) == []


def test_a_service_without_calibrations_is_told(service: Any, archive: Archive) -> None:
    service.faults.on(f"GET {ONE}", answer="raw", body="null")
    with pytest.raises(IBMQError, match="no calibration"):
        fetch(service, archive)
