"""The archive's files: names, atomicity, schema over versions, doubles, many writers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from prefect_ibmq.archive.datasets import Archive, open_archive
from prefect_ibmq.archive.reading import read_counts
from prefect_ibmq.archive.schemas import COUNTS
from prefect_ibmq.errors import ArchiveError


def _rows(job: str = "d1", *, backend: str = "fake_torino", outcomes: int = 3, **more: object) -> pa.Table:
    columns = {
        "job_id": [job] * outcomes,
        "backend": [backend] * outcomes,
        "position": [0] * outcomes,
        "parameter_index": [0] * outcomes,
        "register": ["meas"] * outcomes,
        "bitstring": [format(index, "08b") for index in range(outcomes)],
        "count": list(range(1, outcomes + 1)),
        **{name: [value] * outcomes for name, value in more.items()},
    }
    return pa.table({name: pa.array(values, COUNTS.schema.field(name).type) for name, values in columns.items()})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "lab")


def _parquet(archive: Archive) -> list[Path]:
    return sorted(Path(archive.url).rglob("*.parquet"))


def test_write_twice_leaves_one_file_untouched(archive: Archive) -> None:
    (path,) = archive.write("counts", _rows())
    before = os.stat(path)
    assert archive.write("counts", _rows()) == (path,)
    assert os.stat(path) == before
    assert [str(found) for found in _parquet(archive)] == [path]
    assert Path(path).parent == Path(archive.dataset_url("counts")) / "backend=fake_torino"
    assert not list((Path(archive.url) / ".unfinished").iterdir())


def test_write_many_jobs_one_file_each(archive: Archive) -> None:
    tables = [_rows("a"), _rows("b", backend="fake_fez"), _rows("c")]
    mixed = pa.concat_tables(tables).take([0, 3, 6, 1, 4, 7, 2, 5, 8])
    paths = archive.write("counts", mixed)
    assert len(paths) == 3
    assert sorted(paths) == sorted(path for table in tables for path in archive.write("counts", table))
    assert archive.read("counts").num_rows == 9


def test_write_no_rows_no_file(archive: Archive) -> None:
    assert archive.write("counts", COUNTS.schema.empty_table()) == ()
    assert archive.read("counts").equals(COUNTS.schema.empty_table())


def test_write_doubled_rows_once(archive: Archive) -> None:
    assert archive.write("counts", pa.concat_tables([_rows(), _rows()])) == archive.write("counts", _rows())
    assert archive.read("counts").num_rows == 3


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (_rows().append_column("colour", pa.array(["red"] * 3)), "no column 'colour'"),
        (_rows().drop_columns(["backend"]), "no backend"),
        (_rows().append_column("created", pa.array([datetime(2026, 1, 1)] * 3)), "without a time zone"),
        (_rows().set_column(6, "count", pa.array(["many"] * 3)), "'count' of table 'counts' is int64, not string"),
    ],
)
def test_write_rows_that_do_not_fit_refused(archive: Archive, table: pa.Table, told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        archive.write("counts", table)
    assert not _parquet(archive)


def test_unknown_table_or_column_refused(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match=r"no table 'count'.* counts"):
        archive.read("count")
    with pytest.raises(ArchiveError, match="no column 'shot'"):
        archive.read("counts", columns=["shot"])
    with pytest.raises(ArchiveError, match="no column 'shot'"):
        archive.read("counts", filters={"shot": 1})


def test_read_columns_and_filters(archive: Archive) -> None:
    archive.write("counts", _rows("a", run_key="one"))
    archive.write("counts", _rows("b", backend="fake_fez"))
    assert archive.read("counts", ["count", "backend"], {"run_key": "one"}).column_names == ["count", "backend"]
    assert archive.read("counts", filters={"run_key": None})["job_id"].to_pylist() == ["b"] * 3
    assert archive.read("counts", filters={"count": [1, 3], "backend": "fake_fez"}).num_rows == 2
    assert archive.read("counts", filters=ds.field("count") > 2).num_rows == 2


def test_read_doubles_the_newest_file_is_believed(archive: Archive) -> None:
    (old,) = archive.write("counts", _rows(calibration="old"))
    os.utime(old, (1, 1))
    archive.write("counts", _rows(calibration="new", outcomes=4))
    archive.write("counts", _rows("other"))
    found = archive.read("counts", filters={"job_id": "d1"})
    assert sorted(found["bitstring"].to_pylist()) == [format(index, "08b") for index in range(4)]
    assert set(found["calibration"].to_pylist()) == {"new"}
    assert archive.read("counts", filters={"calibration": "old"}).num_rows == 0
    assert archive.read("counts", ["count"]).num_rows == 7


def test_read_older_and_newer_versions_in_one_schema(archive: Archive) -> None:
    archive.write("counts", _rows("now", header='{"a":1}'))
    directory = Path(archive.dataset_url("counts")) / "backend=fake_fez"
    directory.mkdir(parents=True)
    older = _rows("older").drop_columns(["backend", "parameter_index"])
    pq.write_table(older.set_column(2, "count", older["count"].cast(pa.int32())), directory / "older.0.parquet")
    newer = _rows("newer").drop_columns(["backend"]).append_column("mood", pa.array([1.5] * 3))
    pq.write_table(newer, directory / "newer.0.parquet")
    found = archive.read("counts")
    assert found.schema == COUNTS.schema
    assert found.num_rows == 9
    frame = read_counts(archive)
    assert list(frame.columns) == COUNTS.schema.names
    assert frame.loc[frame.job_id == "older", "parameter_index"].isna().all()
    assert str(frame["parameter_index"].dtype) == "Int32"


def test_plain_readers_see_plain_columns(archive: Archive) -> None:
    archive.write("counts", _rows("a", run_key="one", created=pd.Timestamp("2026-01-01", tz="UTC")))
    archive.write("counts", _rows("b", backend="fake_fez"))
    url = archive.dataset_url("counts")
    plain = ds.dataset(url, partitioning="hive")
    kinds = {field.name: field.type for field in plain.schema}
    assert kinds == {field.name: field.type for field in COUNTS.schema}
    assert len(pd.read_parquet(url)) == 6
    for path in _parquet(archive):
        assert pq.ParquetFile(path).metadata.metadata[b"prefect_ibmq.schema"] == b"counts/2"
        assert "backend" not in pq.read_schema(path).names


def test_odd_names_stay_inside_the_dataset(archive: Archive) -> None:
    odd = _rows("../../../a.b/c", backend="../x=y z")
    (path,) = archive.write("counts", odd)
    assert Path(path).resolve().parent.parent == Path(archive.dataset_url("counts")).resolve()
    assert archive.read("counts")["backend"].to_pylist() == ["../x=y z"] * 3
    assert archive.read("counts")["job_id"].to_pylist() == ["../../../a.b/c"] * 3


def test_read_broken_file_named(archive: Archive) -> None:
    (path,) = archive.write("counts", _rows())
    Path(path).write_bytes(b"not parquet at all")
    with pytest.raises(ArchiveError, match="cannot read"):
        archive.read("counts")


WRITER = """
import sys, time
from itertools import count
import pyarrow as pa
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.archive.schemas import COUNTS
root, me, jobs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
archive = open_archive(root)
def rows(job):
    n = 20000
    texts = {"job_id": job, "backend": "fake_torino", "register": "meas"}
    columns = {name: pa.repeat(pa.scalar(text), n) for name, text in texts.items()}
    columns["bitstring"] = pa.array([format(index, "020b") for index in range(n)])
    columns["position"] = columns["parameter_index"] = pa.repeat(pa.scalar(0, pa.int32()), n)
    columns["count"] = pa.array(range(n), pa.int64())
    return pa.table(columns)
print("ready", flush=True)
for index in range(jobs) if jobs else count():
    for job in (f"shared-{index}", f"own-{me}-{index}"):
        archive.write("counts", rows(job))
"""


def _writer(root: Path, me: int, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(root), str(me), str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()})


def _assert_whole(root: Path) -> pa.Table:
    for path in root.rglob("*.parquet"):
        assert pq.read_metadata(path).num_rows == 20_000
    found = open_archive(root).read("counts", ["job_id", "count"])
    told = found.group_by("job_id").aggregate([("count", "count_distinct"), ("count", "count")]).to_pylist()
    assert all(row["count_count_distinct"] == row["count_count"] == 20_000 for row in told)
    return found


@pytest.mark.slow
def test_eight_writers_no_row_twice_none_lost(tmp_path: Path) -> None:
    writers = [_writer(tmp_path, me, 4) for me in range(8)]
    assert [writer.wait(120) for writer in writers] == [0] * 8
    found = _assert_whole(tmp_path)
    expected = {f"shared-{index}" for index in range(4)} | {
        f"own-{me}-{index}" for me in range(8) for index in range(4)
    }
    assert set(found["job_id"].to_pylist()) == expected
    assert len(list(tmp_path.rglob("*.parquet"))) == len(expected)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_writers_leave_no_half_file(tmp_path: Path) -> None:
    chance = random.Random(5)
    writers = [_writer(tmp_path, me, 0) for me in range(4)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        time.sleep(chance.uniform(0.02, 0.4))
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        _assert_whole(tmp_path)
    assert _writer(tmp_path, 0, 2).wait(60) == 0
    assert {"shared-0", "shared-1", "own-0-0", "own-0-1"} <= set(_assert_whole(tmp_path)["job_id"].to_pylist())
