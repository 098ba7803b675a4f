"""Tables in which any one file that has rows of a key has all of them: files written once, merged later.

A file with one key is named by it: `<key>.v<version>.parquet`. A file with more is named by what they are,
`~<how many>.<digest>.v<version>.parquet`, and lists them in its metadata. So the keys of a table are known from names
and footers alone, and a key that is in several files, because they are just being merged or because somebody wrote it
again, is believed from one of them. Nothing is locked: a merged file appears before those that it replaces go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_ibmq.archive.schemas import Dataset
from prefect_ibmq.archive.storage import Storage, telling
from prefect_ibmq.errors import ArchiveError

__all__ = [
    "Believed",
    "Holding",
    "believed",
    "folder",
    "holdings",
    "keys",
    "partitions",
    "read_row",
    "reread",
    "safe_key",
    "write_keyed",
]

KEYS = b"prefect_ibmq.keys"
SCHEMA = b"prefect_ibmq.schema"
MERGED = "~"
KEY_LETTERS = 32
HURRIED, THOROUGH = 3, 9  # levels of zstd: a payload takes a third less space, and four times the time
PAGE_BYTES = 1 << 26  # one page holds all large values of a row group, so that what they share is written once
TRIES = 20  # as often a reader may find that a file was merged away under its eyes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Holding:
    """A file and the keys of which it has all rows, in the order of its rows."""

    name: str
    keys: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where it lies: keys of other folders are others."""
        return self.name.rpartition("/")[0]


Believed: TypeAlias = tuple[Holding, frozenset[str]]
"""A file, and those of its keys that another file is believed about."""


def folder(spec: Dataset, partition: Sequence[str] = ()) -> str:
    """Where the files of a partition are, or of the whole table."""
    named = zip(spec.partition, partition, strict=False)
    return "/".join([spec.name, *(f"{name}={quote(value, safe='')}" for name, value in named)])


def write_keyed(
    storage: Storage, spec: Dataset, partition: Sequence[str], rows: pa.Table, *, hurried: bool = False
) -> str:
    """Write rows into one file, unless it is there, and return its name.

    Args:
        storage: Where to.
        spec: Which table.
        partition: The values of its partition columns.
        rows: With all rows of each key that is among them.
        hurried: Take less time rather than less space.
    """
    keys = rows[spec.file_key].unique().to_pylist()
    name = f"{folder(spec, partition)}/{_file_name(spec, keys)}"
    with storage.draft() as draft:
        with telling(storage.address(spec.name), "write to"):
            _write_parquet(draft.file, spec, rows, keys, HURRIED if hurried else THOROUGH)
        draft.publish(name)
    return name


def _file_name(spec: Dataset, keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return f"{safe_key(keys[0])}.v{spec.version}.parquet"
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
    return f"{MERGED}{len(keys)}.{digest[:KEY_LETTERS]}.v{spec.version}.parquet"


def safe_key(key: str) -> str:
    """A key as the first part of a file's name: no dot within, and no sign of a merged file at its start."""
    return quote(key, safe="").replace(".", "%2E").replace("~", "%7E")[:120] or "none"


def _write_parquet(file: Any, spec: Dataset, rows: pa.Table, keys: Sequence[str], level: int) -> None:
    names = [name for name in spec.names_in_files if name in rows.schema.names]
    table = rows.select(names)
    coded = [name for name in names if name not in spec.plain]
    with pq.ParquetWriter(
        file,
        table.schema,
        compression="zstd",
        compression_level=level,
        store_schema=False,
        use_dictionary=[name for name in coded if name not in spec.counting],
        # One key's file has all of it: there is nothing to skip.
        write_statistics=coded if len(keys) > 1 else False,
        column_encoding=dict.fromkeys(spec.counting, "DELTA_BINARY_PACKED") or None,
        data_page_size=PAGE_BYTES if spec.plain else None,
        write_page_checksum=True,
    ) as writer:
        metadata = {SCHEMA.decode(): f"{spec.name}/{spec.version}"}
        if len(keys) > 1:
            metadata[KEYS.decode()] = "\n".join(keys)
        writer.add_key_value_metadata(metadata)
        writer.write_table(table, row_group_size=spec.group_rows)


def partitions(storage: Storage, spec: Dataset) -> list[tuple[str, ...]]:
    """The partitions that a table has, each as the values of its columns."""
    found = {tuple(name.split("/")[1:-1]) for name in _listed(storage, spec.name)}
    return sorted(tuple(unquote(each.partition("=")[2]) for each in one) for one in found)


def holdings(storage: Storage, spec: Dataset, partition: Sequence[str] = ()) -> list[Holding]:
    """All files of a table or of a partition of it, with their keys."""
    below = folder(spec, partition)
    names = _listed(storage, below)
    # A listing is no moment: a merged file may have come, and those that it replaces gone, while it was made. Then
    # the next one has the merged file.
    while (again := _listed(storage, below)) != names and _merged(again) != _merged(names):
        names = again
    return [Holding(name, _keys_of(storage, name)) for name in names]


def _listed(storage: Storage, below: str) -> list[str]:
    return [
        name
        for name in storage.names(below)
        if name.endswith(".parquet") and "/." not in name and "/_" not in name and name[0] not in "._"
    ]


def _merged(names: Iterable[str]) -> set[str]:
    return {name for name in names if f"/{MERGED}" in name}


def _keys_of(storage: Storage, name: str) -> tuple[str, ...]:
    last = name.rpartition("/")[2]
    if not last.startswith(MERGED):
        key = last.partition(".")[0]
        return (unquote(key) if "%" in key else key,)
    with telling(storage.address(name), "read"):
        return _keys_in(storage, name, pq.read_metadata(storage.arrow().open_input_file(name)))


def _keys_in(storage: Storage, name: str, footer: pq.FileMetaData) -> tuple[str, ...]:
    told: Mapping[bytes, bytes] = footer.metadata or {}
    if KEYS not in told:
        raise ArchiveError(
            f"The archive cannot read {storage.address(name)}: it does not say which keys it has.",
            hint="It was not written by this package; move it elsewhere.",
        )
    return tuple(told[KEYS].decode().split("\n"))


def keys(storage: Storage, spec: Dataset, partition: Sequence[str]) -> set[str]:
    """The keys of a partition, without reading a row."""
    return reread(lambda: {key for found in holdings(storage, spec, partition) for key in found.keys})


def believed(found: Iterable[Holding]) -> list[Believed]:
    """The files to be read, each with those of its keys that another file is believed about.

    The file with most keys is believed: once it is there, the others may go.
    """
    claimed: set[tuple[str, str]] = set()
    chosen: list[Believed] = []
    for each in sorted(found, key=lambda one: (-len(one.keys), one.name)):
        mine = {(each.folder, key) for key in each.keys}
        others = mine & claimed
        if len(others) < len(mine):
            chosen.append((each, frozenset(key for _, key in others)))
            claimed |= mine
    return chosen


def read_row(storage: Storage, spec: Dataset, partition: Sequence[str], key: str) -> pa.Table | None:
    """The row of a key in a table that has one row a key; None where there is none."""
    return reread(lambda: _read_row(storage, spec, partition, key))


def _read_row(storage: Storage, spec: Dataset, partition: Sequence[str], key: str) -> pa.Table | None:
    alone = f"{folder(spec, partition)}/{_file_name(spec, [key])}"
    if storage.exists(alone):
        with _opened(storage, alone) as file:
            return file.read(use_threads=False)
    names = _listed(storage, folder(spec, partition))
    merged = _merged(names)
    for name in sorted(merged) + [name for name in names if _is_of(name, key)]:
        with _opened(storage, name) as file:
            keys = _keys_in(storage, name, file.metadata) if name in merged else (key,)
            if key in keys:
                return _row_at(file, keys.index(key))
    # A listing is no moment: see `holdings`.
    is_steady = _merged(_listed(storage, folder(spec, partition))) == merged
    return None if is_steady else _read_row(storage, spec, partition, key)


def _is_of(name: str, key: str) -> bool:
    """Whether a file has one key, this one, in whatever version of the schema."""
    return name.rpartition("/")[2].startswith(f"{safe_key(key)}.")


@contextmanager
def _opened(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    with (
        telling(storage.address(name), "read"),
        pq.ParquetFile(storage.arrow().open_input_file(name), page_checksum_verification=True) as file,
    ):
        yield file


def _row_at(file: pq.ParquetFile, index: int) -> pa.Table:
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if index < rows:
            # To start threads for a few columns takes longer than to read them.
            return file.read_row_group(group, use_threads=False).slice(index, 1)
        index -= rows
    raise IndexError(index)


def reread(read: Callable[[], T]) -> T:
    """Read; where a file that was listed has been merged away meanwhile, list and read again."""
    for _ in range(TRIES):
        try:
            return read()
        except ArchiveError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return read()
