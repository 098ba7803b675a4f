"""Many small files of a keyed table become few: a merged file appears whole, then those that it replaces go.

Killed anywhere it leaves every row readable, and the next compaction goes on. Two at once may do the same work; a file
goes only when all its keys are in another one that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prefect_ibmq.archive.datasets import Archive
from prefect_ibmq.archive.keyed import Believed, believed, holdings, reread, write_keyed
from prefect_ibmq.archive.schemas import Dataset

__all__ = ["Compacted", "compact_partition"]


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Attributes:
        files_before: How many files there were.
        files_after: How many there are.
        rows: How many rows were written into merged files.
    """

    files_before: int = 0
    files_after: int = 0
    rows: int = 0

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(
            self.files_before + other.files_before, self.files_after + other.files_after, self.rows + other.rows
        )


def compact_partition(
    archive: Archive, spec: Dataset, partition: Sequence[str], ages: Mapping[str, str] | None = None
) -> Compacted:
    """Merge the small files of a partition.

    Args:
        archive: Where.
        spec: Which table.
        partition: The values of its partition columns.
        ages: For each key what sorts it in time; neighbours in time share a file. The keys themselves by default.

    Raises:
        ArchiveError: A file cannot be read or written. Nothing is lost.
    """
    return reread(lambda: _compact(archive, spec, partition, ages or {}))


def _compact(archive: Archive, spec: Dataset, partition: Sequence[str], ages: Mapping[str, str]) -> Compacted:
    found = holdings(archive.storage, spec, partition)
    chosen = believed(found)
    kept = {each.name for each, _ in chosen}
    rows = 0
    for group in _groups(chosen, spec.merge_keys, ages):
        table = archive.read_believed(spec, group, spec.names_in_files)
        merged = table.take(_order(table, spec.order))
        kept -= {each.name for each, _ in group}
        kept.add(write_keyed(archive.storage, spec, partition, merged))
        rows += merged.num_rows
    for each in found:
        if each.name not in kept:
            archive.storage.remove(each.name)
    return Compacted(len(found), len(kept), rows)


def _groups(chosen: Sequence[Believed], most: int, ages: Mapping[str, str]) -> Iterator[list[Believed]]:
    """Files that are merged into one: neighbours in time that have fewer keys together than a file may have."""
    small = [one for one in chosen if len(one[0].keys) < most]
    small.sort(key=lambda one: min(ages.get(key, key) for key in one[0].keys))
    group: list[Believed] = []
    size = 0
    for one in small:
        count = len(one[0].keys) - len(one[1])
        if group and size + count > most:
            if len(group) > 1:
                yield group
            group, size = [], 0
        group.append(one)
        size += count
    if len(group) > 1:
        yield group


def _order(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """Which rows follow each other when they are ordered by these columns."""
    return pa.array(np.lexsort([_ranks(table[name]) for name in reversed(names)]))


def _ranks(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers that compare as a column's values do, missing ones last: far faster than to compare texts."""
    coded = column.combine_chunks().dictionary_encode()
    by_value = pc.sort_indices(coded.dictionary).to_numpy()
    ranks = np.empty(len(by_value) + 1, np.int64)
    ranks[by_value] = np.arange(len(by_value))
    ranks[-1] = len(by_value)
    which: NDArray[np.int64] = coded.indices.fill_null(len(by_value)).to_numpy()
    return ranks[which]
