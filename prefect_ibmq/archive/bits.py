"""Measured bits to counts, vectorised: from the packed rows of a `BitArray` to distinct outcomes, without Python dicts.

The packing is that of `qiskit.primitives.BitArray`: one row of bytes a shot, big-endian, clbit 0 in the lowest bit of
the last byte, straggling high bits of the first byte meaningless. What comes out equals `BitArray.get_counts()` and
`BitArray.get_bitstrings()` bit for bit; that a register of no bits reads `"0"` is theirs, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Tally", "bitstrings", "count_bits"]

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint64]
Index = NDArray[np.intp]

BLOCK = 1 << 18  # shots worked on at once where a wider copy of them is needed
SPELL_BLOCK = 1 << 11  # rows spelled at once
WIDE_BLOCK = 1 << 14  # the same for registers of over 64 bits, where elements are told apart by sorting
_SPELLED = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) + np.uint8(ord("0"))
_SPELLED_WORDS: Codes = _SPELLED.view(np.uint64)[:, 0]
# The steps of MurmurHash3's 64-bit finaliser: outcomes differ in few bits, and all bits of the hash must feel each.
_SHIFT, _FACTORS = np.uint64(33), (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))


@dataclass(frozen=True, slots=True)
class Tally:
    """Distinct outcomes of one or more sweep elements, ordered by element, then by bitstring.

    Attributes:
        num_bits: Width of the register.
        elements: For each outcome the flat (C order) index of its sweep element.
        counts: For each outcome how often it was measured in that element.
    """

    num_bits: int
    elements: NDArray[np.int32]
    counts: NDArray[np.int64] | NDArray[np.uint32]
    _outcomes: NDArray[np.unsignedinteger] | Index = field(repr=False)
    _shots: Bytes | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.counts)

    def packed(self, start: int, stop: int) -> Bytes:
        """The outcomes `start:stop` as packed rows, shape `(stop - start, bytes a row)`."""
        width = _bytes_per_row(self.num_bits)
        part = self._outcomes[start:stop]
        if self._shots is not None:
            return self._shots[part]
        bytes_of = part.astype(part.dtype.newbyteorder(">")).view(np.uint8).reshape(len(part), part.itemsize)
        return bytes_of[:, part.itemsize - width :]


def _bytes_per_row(num_bits: int) -> int:
    return (num_bits + 7) // 8


def _top_mask(num_bits: int) -> np.uint8:
    return np.uint8(255 >> (-num_bits % 8))


def bitstrings(packed: Bytes, num_bits: int) -> pa.StringArray:
    """Spell packed rows as an Arrow string array, highest clbit first.

    Args:
        packed: Shape `(rows, bytes a row)`.
        num_bits: Width of the register, 0 included.
    """
    rows = len(packed)
    if num_bits == 0 or rows == 0:
        return pa.repeat(pa.scalar("0"), rows)
    if rows * num_bits > np.iinfo(np.int32).max:
        raise ValueError(f"{rows} bitstrings of {num_bits} bits do not fit one Arrow string array; pass fewer rows")
    letters = np.empty((rows, num_bits), dtype=np.uint8)
    for start in range(0, rows, SPELL_BLOCK):
        spelled = np.take(_SPELLED_WORDS, packed[start : start + SPELL_BLOCK]).view(np.uint8)
        letters[start : start + SPELL_BLOCK] = spelled[:, spelled.shape[1] - num_bits :]
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(num_bits)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(letters))


def count_bits(array: Bytes, num_bits: int) -> Iterator[Tally]:
    """Count the outcomes of a packed array, a block of sweep elements at a time.

    Args:
        array: `BitArray.array`: shape `(*sweep, shots, bytes a row)`.
        num_bits: Width of the register.

    Yields:
        Tallies that together hold every element once, in order. Without shots or elements they are empty.
    """
    width = _bytes_per_row(num_bits)
    elements, shots = int(np.prod(array.shape[:-2], dtype=np.int64)), array.shape[-2]
    if elements == 0 or shots == 0:
        return
    rows = array.reshape(elements, shots, width)
    block = WIDE_BLOCK if num_bits > 64 else BLOCK
    step = max(1, block // shots)
    for first in range(0, elements, step):
        part = rows[first : first + step]
        if num_bits > 64 and shots > BLOCK:
            yield from (_tally_wide(rows_of, len(rows_of), num_bits, first) for rows_of in _ranges(part[0], num_bits))
        elif num_bits > 64:
            yield _tally_wide(part.reshape(-1, width), shots, num_bits, first)
        elif num_bits <= 16 and 1 << num_bits <= shots:
            yield _tally_by_table(part, num_bits, first)
        else:
            yield _tally_by_sorting(part, num_bits, first)


def _unsigned(rows: Bytes, num_bits: int) -> NDArray[np.unsignedinteger]:
    """Rows of at most 64 bits, shape `(…, bytes)`, as native integers of the narrowest type, shape `(…)`."""
    width = rows.shape[-1]
    size = next(size for size in (1, 2, 4, 8) if size >= width)
    padded = np.zeros((*rows.shape[:-1], size), dtype=np.uint8)
    padded[..., size - width :] = rows
    if width:
        padded[..., size - width] &= _top_mask(num_bits)
    big_endian = padded.view(f">u{size}")[..., 0]
    return big_endian.astype(f"=u{size}", copy=False)


def _tally_by_table(rows: Bytes, num_bits: int, first: int) -> Tally:
    size = 1 << num_bits
    table = np.zeros(len(rows) * size, dtype=np.int64)
    offsets = np.arange(len(rows), dtype=np.int64)[:, None] * size
    for start in range(0, rows.shape[1], BLOCK):
        codes = _unsigned(rows[:, start : start + BLOCK], num_bits) + offsets
        table += np.bincount(codes.ravel(), minlength=len(table))
    seen = np.flatnonzero(table)
    outcomes = (seen & (size - 1)).astype(np.uint16)
    width = _bytes_per_row(num_bits)
    return Tally(
        num_bits,
        (seen >> num_bits).astype(np.int32) + np.int32(first),
        table[seen],
        outcomes if width == 2 else outcomes.astype(np.uint8),
    )


def _tally_by_sorting(rows: Bytes, num_bits: int, first: int) -> Tally:
    values = _unsigned(rows, num_bits)
    values.sort(axis=1)
    starts = np.flatnonzero(_new_in_row(values))
    outcomes = values.ravel()[starts]
    shots = values.shape[1]
    del values
    counts = _lengths(starts, len(rows) * shots)
    return Tally(num_bits, (starts // shots).astype(np.int32) + np.int32(first), counts, outcomes)


def _new_in_row(ordered: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    new = np.empty(ordered.shape, dtype=bool)
    new[:, :1] = True
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    return new


def _tally_wide(rows: Bytes, shots: int, num_bits: int, first: int) -> Tally:
    rows = _masked(rows, num_bits)
    codes = _codes(rows, shots)
    order = np.argsort(codes)
    agree = _neighbours_agree(codes, order)
    del codes  # a million shots are worked on within three times their raw size
    firsts, counts = _distinct(rows, shots, order, agree)
    del order, agree
    order = _order(rows, shots, firsts)
    firsts, counts = firsts[order], counts[order]
    del order
    elements = np.full(len(firsts), first, dtype=np.int32)
    if len(rows) > shots:
        elements += (firsts // shots).astype(np.int32)
    return Tally(num_bits, elements, counts, firsts, rows)


def _ranges(rows: Bytes, num_bits: int) -> Iterator[Bytes]:
    """The shots of one element in ranges of their leading word, lowest first: each is counted apart from the others."""
    slices = [slice(start, start + BLOCK // 8) for start in range(0, len(rows), BLOCK // 8)]
    sample = np.sort(_word(_masked(rows[:: max(1, len(rows) // 4096)], num_bits), 0))
    parts = -(-len(rows) // (BLOCK // 4))
    bounds = np.unique(sample[np.linspace(0, len(sample) - 1, parts + 1).astype(int)[1:-1]])
    part_of = np.empty(len(rows), dtype=np.uint16)
    for some in slices:
        part_of[some] = np.searchsorted(bounds, _word(_masked(rows[some], num_bits), 0), side="right")
    for part in range(len(bounds) + 1):
        if len(which := np.flatnonzero(part_of == part)):
            yield rows if len(which) == len(rows) else rows[which]


def _masked(rows: Bytes, num_bits: int) -> Bytes:
    """The rows with the meaningless high bits cleared; a copy only where some are set."""
    mask = _top_mask(num_bits)
    if not np.any(rows[:, 0] & ~mask):
        return rows
    rows = rows.copy()
    rows[:, 0] &= mask
    return rows


def _word(rows: Bytes, index: int) -> Codes:
    """The 64-bit word `index` of each row, most significant first; the last one is filled up with zeros."""
    taken = rows[:, 8 * index : 8 * index + 8]
    if taken.shape[1] < 8:
        taken = np.pad(taken, ((0, 0), (0, 8 - taken.shape[1])))
    return np.ascontiguousarray(taken).view(">u8")[:, 0].astype(np.uint64)


def _codes(rows: Bytes, shots: int) -> Codes:
    """A 64-bit hash of each row and its element, made in slices so that no second copy of the bits is held."""
    codes = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), BLOCK // 8):
        part = rows[start : start + BLOCK // 8]
        mixed = np.arange(start, start + len(part), dtype=np.uint64) // np.uint64(shots)
        for index in range(-(-rows.shape[1] // 8)):
            mixed ^= _word(part, index)
            for factor in _FACTORS:
                mixed ^= mixed >> _SHIFT
                mixed *= factor
        codes[start : start + len(part)] = mixed
    return codes


def _distinct(rows: Bytes, shots: int, order: Index, agree: NDArray[np.bool_]) -> tuple[Index, NDArray[np.uint32]]:
    """One index for each distinct (element, row), and how often it occurs.

    `order` sorts the rows by a hash, and `agree` says which neighbours in it have equal hashes. That these rows are
    equal themselves is checked, not assumed: after a collision the rows are sorted.
    """
    if not _rows_agree(rows, shots, order, np.flatnonzero(agree)):
        order = order[_order(rows, shots, order)]
        agree = _equal_neighbours(rows, shots, order, np.arange(len(order) - 1))
    starts = np.concatenate([[0], np.flatnonzero(~agree) + 1])
    return order[starts], _lengths(starts, len(order))


def _lengths(starts: Index, stop: int) -> NDArray[np.uint32]:
    lengths = np.empty(len(starts), dtype=np.uint32)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1], casting="unsafe")
    lengths[-1] = stop - starts[-1]
    return lengths


def _neighbours_agree(keys: Codes | Index, order: Index) -> NDArray[np.bool_]:
    ordered = keys[order]
    return np.equal(ordered[1:], ordered[:-1])


def _rows_agree(rows: Bytes, shots: int, order: Index, where: Index) -> bool:
    slices = (where[start : start + BLOCK // 8] for start in range(0, len(where), BLOCK // 8))
    return all(bool(_equal_neighbours(rows, shots, order, part).all()) for part in slices)


def _equal_neighbours(rows: Bytes, shots: int, order: Index, where: Index) -> NDArray[np.bool_]:
    left, right = order[where], order[where + 1]
    equal: NDArray[np.bool_] = (rows[left] == rows[right]).all(axis=1)
    equal &= left // shots == right // shots
    return equal


def _order(rows: Bytes, shots: int, which: Index) -> Index:
    """The permutation that sorts `rows[which]` by element, then as bitstrings.

    One key at a time, each only for the rows that the keys before it leave tied: the first word mostly settles it.
    """
    one_element = len(rows) == shots
    key = _gathered(rows, which, 0) if one_element else which // shots
    order = np.argsort(key)
    new = np.concatenate([[True], ~_neighbours_agree(key, order)])
    for index in range(int(one_element), -(-rows.shape[1] // 8)):
        tied = np.flatnonzero(~new | np.append(~new[1:], False))
        if len(tied) == 0:
            break
        for run in _whole_runs(tied, new[tied]):
            word = _gathered(rows, which[order[run]], index)
            within = np.lexsort((word, np.cumsum(new[run])))
            order[run] = order[run][within]
            new[run[1:]] |= word[within[1:]] != word[within[:-1]]
    return order


def _whole_runs(tied: Index, starts: NDArray[np.bool_]) -> Iterator[Index]:
    """Tied positions a slice at a time, each ending where a run ends."""
    begin = 0
    while begin < len(tied):
        stop = begin + BLOCK // 8
        later = starts[stop:]
        stop = stop + int(later.argmax()) if later.any() else len(tied)
        yield tied[begin:stop]
        begin = stop


def _gathered(rows: Bytes, which: Index, index: int) -> Codes:
    gathered = np.empty(len(which), dtype=np.uint64)
    for start in range(0, len(which), BLOCK // 8):
        part = which[start : start + BLOCK // 8]
        gathered[start : start + len(part)] = _word(rows[part], index)
    return gathered
