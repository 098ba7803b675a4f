"""Many processes at one calibration archive: writers, a compactor and a reader, none of which waits for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from prefect_ibmq.archive.calibrations import (
    compact,
    history,
    observations,
    read_configuration,
    read_payload,
    snapshots,
    store_configuration,
    store_payload,
    store_payloads,
)
from prefect_ibmq.archive.datasets import Archive, open_archive

NOON = datetime(2026, 8, 14, 12, tzinfo=UTC)
WRITERS, SHARED, OWN, QUBITS = 8, 6, 3, 40

COMMON = """
import json, sys
from datetime import UTC, datetime, timedelta
from prefect_ibmq.archive import calibrations
from prefect_ibmq.archive.datasets import open_archive
root, me, shared, own, qubits = sys.argv[1], *map(int, sys.argv[2:])
noon = datetime(2026, 8, 14, 12, tzinfo=UTC)
archive = open_archive(root)

def payload(owner, index):
    updated = noon + timedelta(hours=index)
    entry = {"name": "T1", "unit": "us", "value": 100.0 + index, "date": updated.isoformat()}
    return {"owner": owner, "last_update_date": updated.isoformat(), "qubits": [[entry]] * qubits}
"""
WRITE = (
    COMMON
    + """
for index in range(shared):
    calibrations.store_payload(archive, "ibm_x", payload("all", index), noon + timedelta(days=index))
    if index < own:
        owner, seen = f"writer {me}", noon + timedelta(days=index, minutes=1 + me)
        calibrations.store_payloads(archive, [("ibm_x", payload(owner, index + step), seen) for step in (0, 50)])
"""
)
COMPACT = (
    COMMON
    + """
rounds = rows = 0
while sys.stdin.read(1) == "go"[0]:
    rows += calibrations.compact(archive).rows
    rounds += 1
    print(rounds, rows, flush=True)
"""
)
READ = (
    COMMON
    + """
from collections import Counter
known, rounds = set(), 0
while sys.stdin.read(1) == "go"[0]:
    seen = {row["snapshot"] for row in calibrations.observations(archive).to_pylist()}
    rows = Counter(archive.read("calibration_parameters", ["snapshot"])["snapshot"].to_pylist())
    past = Counter(calibrations.history(archive, "ibm_x", "T1", qubits=3)["snapshot"].to_pylist())
    newest = calibrations.read_payload(archive, "ibm_x").snapshot if seen else None
    kept = Counter(archive.read("calibrations", ["snapshot"])["snapshot"].to_pylist())
    assert known <= seen, "what had been seen is missing"
    assert set(rows.values()) <= {qubits}, "rows twice, or some of them"
    assert set(past.values()) | set(kept.values()) <= {1}, "a row twice"
    assert seen <= set(rows) and seen <= set(past) and seen <= set(kept), "observed, and not there"
    assert newest is None or newest in kept, "read, and not there"
    known, rounds = seen, rounds + 1
    print(rounds, len(known), flush=True)
"""
)


def _start(code: str, root: Path, me: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(root), *map(str, (me, SHARED, OWN, QUBITS))]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def _again(process: subprocess.Popen[str]) -> str:
    """Let the compactor or the reader do another round; what it says of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("g")
    process.stdin.flush()
    told = process.stdout.readline()
    assert told, process.communicate()[1]
    return told


@pytest.mark.slow
def test_eight_writers_a_compactor_and_a_reader_at_once(tmp_path: Path) -> None:
    open_archive(tmp_path)
    others = [_start(COMPACT, tmp_path, 0), _start(READ, tmp_path, 1)]
    for other in others:
        _again(other)
    writers = [_start(WRITE, tmp_path, me) for me in range(WRITERS)]
    while any(writer.poll() is None for writer in writers):
        for other in others:
            _again(other)
    for writer in writers:
        assert writer.wait() == 0, writer.communicate()[1]
    told = [_again(other) for other in others]
    for other in others:
        other.communicate(timeout=60)
    assert all(int(each.split()[0]) > 2 for each in told), told
    assert int(told[0].split()[1]) > 0, "nothing was ever merged"

    archive = open_archive(tmp_path)
    expected = {("all", NOON + timedelta(hours=index)) for index in range(SHARED)}
    for me in range(WRITERS):
        expected |= {(f"writer {me}", NOON + timedelta(hours=i + step)) for i in range(OWN) for step in (0, 50)}
    payloads = [json.loads(row["payload"]) for row in archive.read("calibrations").to_pylist()]
    found = [(each["owner"], datetime.fromisoformat(each["last_update_date"])) for each in payloads]
    assert Counter(found) == Counter(expected)
    assert snapshots(archive).num_rows == len(expected)
    assert archive.read("calibration_parameters").num_rows == len(expected) * QUBITS
    compact(archive)
    files = Counter(path.parts[-3] for path in tmp_path.rglob("*.parquet"))
    assert set(files.values()) == {1}
    assert ds.dataset(tmp_path / "calibration_parameters", partitioning="hive").count_rows() == len(expected) * QUBITS
    assert not list((tmp_path / ".unfinished").iterdir())


def _payload(index: int) -> dict[str, Any]:
    updated = (NOON + timedelta(hours=index)).isoformat()
    entry = {"name": "T1", "unit": "us", "value": 1.0 + index, "date": updated}
    return {"last_update_date": updated, "qubits": [[entry]]}


@pytest.mark.slow
def test_an_archive_in_a_bucket(bucket: str) -> None:
    archive = open_archive(f"{bucket}/quantum")
    for index in range(3):
        assert store_payload(archive, "ibm_x", _payload(index), NOON).status == "stored"
    store_payloads(archive, [("ibm_x", _payload(index), NOON) for index in range(2, 6)])
    assert store_payload(archive, "ibm_x", b"{", NOON).status == "quarantined"
    store_configuration(archive, "ibm_x", {"n_qubits": 1}, NOON)
    before = _told(archive)
    again = open_archive(f"{bucket}/quantum")
    assert compact(again).rows > 0
    assert compact(again).rows == 0
    assert _told(archive) == _told(again) == before
    assert read_payload(again, "ibm_x", at=NOON + timedelta(hours=4)).properties() == _payload(4)
    assert read_configuration(again, "ibm_x") == {"n_qubits": 1}
    assert store_payload(again, "ibm_x", _payload(1), NOON).status == "unchanged"
    assert [name for name in again.storage.names("") if not name.endswith(".parquet")] == []


def _told(archive: Archive) -> list[list[Any]]:
    told = (observations(archive), history(archive, "ibm_x", "T1"), archive.read("quarantined_calibrations"))
    return [table.to_pylist() for table in told]
