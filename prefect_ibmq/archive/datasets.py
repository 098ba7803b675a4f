"""The archive: Parquet datasets that many processes write and anybody can read.

Layout: `<root>/<table>/backend=<name>/<job id>.<digest>.parquet`. A file's name follows from what its rows say, so
writing them twice is a no-op. No reader needs this package: each dataset is plain Parquet, partitioned in Hive's way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prefect_ibmq.archive.digest import ContentDigest
from prefect_ibmq.archive.keyed import Believed, believed, folder, holdings, reread, safe_key, write_keyed
from prefect_ibmq.archive.schemas import Dataset, dataset_named
from prefect_ibmq.archive.storage import Entry, Storage, open_storage, telling
from prefect_ibmq.errors import ArchiveError

__all__ = ["BATCH_BYTES", "BATCH_ROWS", "Archive", "Filters", "open_archive"]

BATCH_ROWS = 1 << 14  # rows in a Parquet row group, and so in memory at once while writing
BATCH_BYTES = 5 << 19  # the same in bytes
PAGE_BYTES = 1 << 17  # Parquet's writer holds several copies of the page that it makes (1 MB by default)
AHEAD = 2  # batches that wait or are being written: some take longer to be made than others
SOUGHT = frozenset({"run_key", "set_key", "position", "circuit", "job_id", "created", "executed"})
"""What rows are mostly looked for by: of these columns a row group tells its least and greatest value."""
LONG_TEXT = 32  # bytes a row from which a text column is not dictionary-encoded
DIGEST_LETTERS = 32
# A bit that has flipped on a disk in the course of years shall not become another value.
_CHECKED = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)

Filters: TypeAlias = Mapping[str, object] | ds.Expression | None
"""Which rows: column to value, to several values, or to None (is null); or an expression of `pyarrow.compute`."""


@dataclass(frozen=True)
class Archive:
    """An opened archive.

    Example:
        archive = open_archive("~/ibmq")
        archive.write("counts", table)
        archive.read("counts", columns=["bitstring", "count"], filters={"run_key": "night-1"})

    Attributes:
        storage: Where its files are; other parts keep whole files beside the datasets there.
    """

    storage: Storage

    @property
    def url(self) -> str:
        """The archive's root: an absolute path, or a URL."""
        return self.storage.url

    def dataset_url(self, dataset: str) -> str:
        """The root of one table, to be given to any reader of partitioned Parquet."""
        return self.storage.address(dataset_named(dataset).name)

    def write(self, dataset: str, rows: pa.Table | Iterable[pa.RecordBatch]) -> tuple[str, ...]:
        """Write rows, one file for each backend and job, and return the files' paths or URLs.

        Rows that are in the archive already, as the same table, are not written again. A table's columns may be in
        any order, and those that it lacks are null. Batches are written as they come, so they may be more than the
        memory holds; they should not go to and fro between jobs.

        Raises:
            ArchiveError: A file cannot be written, or the rows do not fit the schema. Files named here or written
                before are whole; nothing else is visible.
        """
        spec = dataset_named(dataset)
        if spec.whole:
            return self._write_whole(spec, rows)
        batches = _table_batches(spec, rows) if isinstance(rows, pa.Table) else rows
        slices = (piece for batch in batches for piece in _slices(spec, conform(batch, spec)))
        return tuple(
            self._write_file(spec, owner, map(itemgetter(1), group))
            for owner, group in groupby(slices, key=itemgetter(0))
        )

    def _write_whole(self, spec: Dataset, rows: pa.Table | Iterable[pa.RecordBatch]) -> tuple[str, ...]:
        batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
        conformed = [conform(batch, spec) for batch in batches if batch.num_rows]
        if not conformed:
            return ()
        table = pa.Table.from_batches(conformed).unify_dictionaries()
        owners = table.select(list(spec.partition)).group_by(list(spec.partition)).aggregate([]).to_pylist()
        names = [
            write_keyed(self.storage, spec, tuple(owner.values()), table.filter(_expression(spec, owner)))
            for owner in owners
        ]
        return tuple(map(self.storage.address, names))

    def _write_file(self, spec: Dataset, owner: tuple[str, ...], batches: Iterable[pa.RecordBatch]) -> str:
        digest = ContentDigest()
        with self.storage.draft() as draft:
            with closing(_FileWriter(draft.file, spec, self.storage.address(spec.name))) as writer:
                for gathered in _gathered(batches):
                    writer.write(gathered)
                    digest.update(gathered)
            return draft.publish(_file_name(spec, owner, digest.hexdigest()))

    def read(self, dataset: str, columns: Sequence[str] | None = None, filters: Filters = None) -> pa.Table:
        """Read rows in today's schema, whatever version wrote them, each row once.

        Where files disagree about a row, the file written last is believed.

        Args:
            dataset: Name of the table.
            columns: Which columns, in this order; all by default.
            filters: Which rows; see `Filters`.

        Raises:
            ArchiveError: There is no such table or column, or a file cannot be read.
        """
        spec = dataset_named(dataset)
        names = _known_columns(spec, columns)
        wanted = _expression(spec, filters)
        if spec.whole:
            return reread(lambda: self._read_whole(spec, names, wanted, _partition(spec, filters)))
        alone, shared = _by_owner(self._files(spec))
        table = self._scan(spec, [entry.name for entry in alone], names, wanted)
        if shared:
            newest_first = sorted(shared, key=lambda entry: (entry.modified, entry.name), reverse=True)
            doubled = _without_doubles(
                self._scan(spec, [entry.name for entry in newest_first], spec.schema.names, None), spec.identity
            )
            kept = doubled if wanted is None else doubled.filter(wanted)
            table = pa.concat_tables([table, kept.select(names)])
        return table

    def _read_whole(
        self, spec: Dataset, names: list[str], wanted: ds.Expression | None, partition: Sequence[str]
    ) -> pa.Table:
        return self.read_believed(spec, believed(holdings(self.storage, spec, partition)), names, wanted)

    def read_believed(
        self, spec: Dataset, chosen: Sequence[Believed], names: list[str], wanted: ds.Expression | None = None
    ) -> pa.Table:
        """Rows of some files of a keyed table, without those that another file is believed about."""
        tables = [self._scan(spec, [each.name for each, others in chosen if not others], names, wanted)]
        for each, others in chosen:
            if others:
                mine = ~pc.field(spec.file_key).isin(pa.array(sorted(others)))
                kept = mine if wanted is None else mine & wanted
                tables.append(self._scan(spec, [each.name], names, kept))
        return pa.concat_tables(tables)

    def _files(self, spec: Dataset) -> list[Entry]:
        entries = self.storage.entries(spec.name)
        parts = ((entry, entry.name.split("/")) for entry in entries)
        return [
            entry
            for entry, names in parts
            if names[-1].endswith(".parquet") and not any(name.startswith((".", "_")) for name in names)
        ]

    def _scan(self, spec: Dataset, files: Sequence[str], names: list[str], wanted: ds.Expression | None) -> pa.Table:
        if not files:
            return pa.schema([spec.schema.field(name) for name in names]).empty_table()
        hive = ds.partitioning(pa.schema([spec.schema.field(name) for name in spec.partition]), flavor="hive")
        with telling(self.storage.address(spec.name), "read"):
            found = ds.dataset(
                list(files),
                schema=spec.schema,
                format=_CHECKED,
                filesystem=self.storage.arrow(),
                partitioning=hive,
                partition_base_dir=spec.name,
            )
            return found.to_table(columns=names, filter=wanted)


def open_archive(
    path_or_url: str | os.PathLike[str], *, writable: bool = True, options: Mapping[str, Any] | None = None
) -> Archive:
    """Open an archive and prove at once that it can be used.

    Args:
        path_or_url: A directory (`~` is expanded), `file://…`, or any URL that fsspec knows, such as `s3://bucket/path`.
        writable: Whether it will be written to; a local directory is then made.
        options: For fsspec's file system. Credentials belong here or into the environment, never into the URL.

    Raises:
        ArchiveError: It cannot be used; path, rule and way out are told.
    """
    return Archive(open_storage(path_or_url, writable=writable, options=options))


class _FileWriter:
    """One Parquet file. Text goes in dictionary-encoded, yet is declared as plain text, the same for all readers.

    Batches are compressed in a thread of its own while the next ones are made; at most `AHEAD` are not written yet.
    """

    def __init__(self, file: Any, spec: Dataset, address: str) -> None:
        self._file, self._spec, self._address = file, spec, address
        self._writer: pq.ParquetWriter | None = None
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._writing: deque[Future[None]] = deque()

    def write(self, rows: pa.RecordBatch) -> None:
        self._settle(AHEAD - 1)
        self._writing.append(self._thread.submit(self._write, rows.drop_columns(list(self._spec.partition))))

    def _settle(self, left: int) -> None:
        while len(self._writing) > left:
            with telling(self._address, "write to"):
                self._writing.popleft().result()

    def _write(self, rows: pa.RecordBatch) -> None:
        if self._writer is None:
            long = [name for name in rows.schema.names if self._is_long(rows, name)]
            self._writer = pq.ParquetWriter(
                self._file,
                rows.schema,
                compression={name: "none" if self._is_constant(rows, name) else "zstd" for name in rows.schema.names},
                data_page_size=PAGE_BYTES,
                store_schema=False,
                use_dictionary=[name for name in rows.schema.names if name not in long],
                write_statistics=[name for name in rows.schema.names if name in SOUGHT],
                write_page_checksum=True,
            )
            self._writer.add_key_value_metadata({"prefect_ibmq.schema": f"{self._spec.name}/{self._spec.version}"})
        self._writer.write_batch(rows)

    @staticmethod
    def _is_constant(rows: pa.RecordBatch, name: str) -> bool:
        """Whether a column has one value: as a dictionary that is a few bytes, and making a compressor takes longer."""
        column = rows.column(name)
        return column.null_count == len(column) or (pa.types.is_dictionary(column.type) and len(column.dictionary) == 1)

    def _is_long(self, rows: pa.RecordBatch, name: str) -> bool:
        """Whether a column holds long texts that differ: looking for repeated ones would only cost time."""
        return name in self._spec.dense and rows.column(name).nbytes > LONG_TEXT * max(1, rows.num_rows)

    def close(self) -> None:
        try:
            self._settle(0)
        finally:
            self._thread.shutdown()
            if self._writer is not None:
                with telling(self._address, "write to"):
                    self._writer.close()


def conform(batch: pa.RecordBatch, spec: Dataset) -> pa.RecordBatch:
    """The batch with the columns of the schema in their order, text as dictionaries except where it is dense.

    Raises:
        ArchiveError: A column is unknown, of another kind, or lacks the values that name the file.
    """
    if unknown := sorted(set(batch.schema.names) - set(spec.schema.names)):
        raise ArchiveError(
            f"Table {spec.name!r} has no column {', '.join(map(repr, unknown))}.",
            hint=f"Its columns are {', '.join(spec.schema.names)}.",
        )
    columns = {field.name: _column(batch, field, spec) for field in spec.schema}
    for name in spec.split_by:
        if columns[name].null_count:
            raise ArchiveError(f"A row of table {spec.name!r} has no {name}; every row must say where it is from.")
    return pa.RecordBatch.from_pydict(columns)


def _column(batch: pa.RecordBatch, field: pa.Field, spec: Dataset) -> pa.Array:
    is_text = pa.types.is_string(field.type) and field.name not in spec.dense
    target = pa.dictionary(pa.int32(), pa.string()) if is_text else field.type
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, target)
    column = batch.column(field.name)
    if column.type == target:
        return column
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        raise ArchiveError(f"Column {field.name!r} of table {spec.name!r} has times without a time zone.")
    try:
        plain = column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ArchiveError(
            f"Column {field.name!r} of table {spec.name!r} is {field.type}, not {column.type}: {error}"
        ) from error
    return plain.dictionary_encode() if is_text else plain


def _table_batches(spec: Dataset, table: pa.Table) -> list[pa.RecordBatch]:
    """A table's batches with each row once and those of one file together."""
    named = [name for name in spec.identity if name in table.column_names]
    if len(named) == len(spec.identity):
        table = _without_doubles(table, spec.identity)
    owners = [name for name in spec.split_by if name in table.column_names]
    if owners and table.select(owners).group_by(owners).aggregate([]).num_rows > 1:
        table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in owners]))
    batches: list[pa.RecordBatch] = table.to_batches(max_chunksize=BATCH_ROWS)
    return batches


def _slices(spec: Dataset, batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, ...], pa.RecordBatch]]:
    """Cut a conformed batch where its file changes; each piece with the values that name the file."""
    if batch.num_rows == 0:
        return
    columns = [batch.column(name) for name in spec.split_by]
    changed: NDArray[np.bool_] = np.zeros(batch.num_rows - 1, dtype=bool)
    for column in columns:
        codes = column.indices.to_numpy()
        changed |= codes[1:] != codes[:-1]
    starts = [0, *(np.flatnonzero(changed) + 1).tolist(), batch.num_rows]
    for start, stop in pairwise(starts):
        yield tuple(column[start].as_py() for column in columns), batch.slice(start, stop - start)


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Small batches gathered to larger ones, each column with one dictionary."""
    pending: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if pending and (rows + batch.num_rows > BATCH_ROWS or size + batch.nbytes > BATCH_BYTES):
            yield _one_batch(pending)
            pending, rows, size = [], 0, 0
        pending.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > BATCH_ROWS // 2 or size > BATCH_BYTES // 2:  # it seldom pays to hold it until the next one is made
            yield _one_batch(pending)
            pending, rows, size = [], 0, 0
    if pending:
        yield _one_batch(pending)


def _one_batch(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]


def _file_name(spec: Dataset, owner: tuple[str, ...], digest: str) -> str:
    *partition, key = owner
    return f"{folder(spec, partition)}/{safe_key(key)}.{digest[:DIGEST_LETTERS]}.parquet"


def _by_owner(files: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Files whose job no other file speaks of, and the rest."""
    owners: dict[str, list[Entry]] = {}
    for entry in files:
        owners.setdefault(entry.name.rsplit("/", 1)[-1].partition(".")[0], []).append(entry)
    alone = [entries[0] for entries in owners.values() if len(entries) == 1]
    return alone, [entry for entries in owners.values() if len(entries) > 1 for entry in entries]


def _without_doubles(table: pa.Table, identity: Sequence[str]) -> pa.Table:
    """The first of the rows that share an identity, in the given order."""
    keyed = table.select(list(identity)).append_column("row", pa.array(np.arange(table.num_rows)))
    firsts = keyed.group_by(list(identity), use_threads=False).aggregate([("row", "min")])["row_min"]
    return table if len(firsts) == table.num_rows else table.take(firsts.combine_chunks().sort())


def _known_columns(spec: Dataset, columns: Sequence[str] | None) -> list[str]:
    names = list(spec.schema.names if columns is None else columns)
    if unknown := [name for name in names if name not in spec.schema.names]:
        raise ArchiveError(
            f"Table {spec.name!r} has no column {', '.join(map(repr, unknown))}.",
            hint=f"Its columns are {', '.join(spec.schema.names)}.",
        )
    return names


def _partition(spec: Dataset, filters: Filters) -> tuple[str, ...]:
    """The one partition that the filters ask for; empty where they do not."""
    told = [filters.get(name) for name in spec.partition] if isinstance(filters, Mapping) else []
    return tuple(str(value) for value in told) if told and all(isinstance(value, str) for value in told) else ()


def _expression(spec: Dataset, filters: Filters) -> ds.Expression | None:
    if not isinstance(filters, Mapping):
        return filters
    _known_columns(spec, list(filters))
    wanted: ds.Expression | None = None
    for name, value in filters.items():
        one = _equals(spec, name, value)
        wanted = one if wanted is None else wanted & one
    return wanted


def _equals(spec: Dataset, name: str, value: object) -> ds.Expression:
    if value is None:
        return pc.field(name).is_null()
    if isinstance(value, list | tuple | set | frozenset):
        return pc.field(name).isin(pa.array(list(value), spec.schema.field(name).type))
    return pc.field(name) == pa.scalar(value, spec.schema.field(name).type)
