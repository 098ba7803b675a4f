"""Results to tables: the counts and the memory of a job, stamped with where they are from.

Straight from packed bits to Arrow, a batch of rows at a time. Registers stay apart, and so do the elements of a
parameter sweep (`parameter_index` is the element's flat index in C order). What measured nothing (no shots, an empty
sweep) still has a row: its `bitstring` is null and its `count` 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prefect_ibmq.archive.bits import bitstrings, count_bits
from prefect_ibmq.archive.datasets import BATCH_BYTES, BATCH_ROWS
from prefect_ibmq.archive.schemas import COUNTS, MEMORY, Dataset
from prefect_ibmq.archive.stamps import JobStamp, ParameterTexts, PubStamp, header_text, job_columns, spread
from prefect_ibmq.errors import ResultUnreadable

if TYPE_CHECKING:
    from qiskit.primitives import BitArray, PrimitiveResult

__all__ = ["counts_batches", "memory_batches"]


def counts_batches(result: PrimitiveResult[Any], job: JobStamp, pubs: Sequence[PubStamp]) -> Iterator[pa.RecordBatch]:
    """The counts of one job in the schema `schemas.COUNTS`, in batches of bounded size for `Archive.write`.

    Args:
        result: What the job gave; one `PubResult` for each stamp.
        job: Where it is from.
        pubs: What each PUB is, in order.

    Raises:
        ResultUnreadable: The result has another number of PUBs, or a register that holds no classified bits.
    """
    return _batches(_pieces(result, pubs, _counted), job, COUNTS)


def memory_batches(result: PrimitiveResult[Any], job: JobStamp, pubs: Sequence[PubStamp]) -> Iterator[pa.RecordBatch]:
    """What each single shot of a job gave, in the schema `schemas.MEMORY`; the rest is as with `counts_batches`."""
    return _batches(_pieces(result, pubs, _remembered), job, MEMORY)


@dataclass(slots=True)
class _Piece:
    """Rows of one register of one PUB.

    `elements` and `numbers` (count or shot) hold one value a row; without bits the one row that says so has neither.
    """

    pub: PubStamp
    texts: ParameterTexts
    register: str | None
    shots: int
    num_bits: int = 0
    packed: NDArray[np.uint8] | None = None
    elements: NDArray[np.int32] | None = None
    numbers: NDArray[Any] | None = None

    def __len__(self) -> int:
        return 1 if self.packed is None else len(self.packed)


def _pieces(result: PrimitiveResult[Any], pubs: Sequence[PubStamp], split: Any) -> Iterator[_Piece]:
    if len(result) != len(pubs):
        raise ResultUnreadable(f"The result holds {len(result)} PUBs, but {len(pubs)} were submitted.")
    for pub_result, pub in zip(result, pubs, strict=True):
        data = pub_result.data
        texts = ParameterTexts(pub, tuple(data.shape))
        registers = list(data.items())
        if not registers:
            yield _Piece(pub, texts, None, pub.shots or 0)
        for register, bits in registers:
            _require_bits(pub, register, bits)
            if math.prod(bits.shape) == 0 or bits.num_shots == 0:
                yield _Piece(pub, texts, register, bits.num_shots)
            else:
                yield from split(pub, texts, register, bits)


def _require_bits(pub: PubStamp, register: str, bits: object) -> None:
    from qiskit.primitives import BitArray

    if not isinstance(bits, BitArray):
        raise ResultUnreadable(
            f"Register {register!r} of circuit {pub.circuit!r} (position {pub.position}) holds "
            f"{getattr(bits, 'dtype', type(bits).__name__)} values, not classified bits, so it has no counts.",
            hint="Measure with meas_type 'classified'; these values are in the raw result, which is kept.",
        )


def _room(num_bits: int) -> int:
    """Rows of a register that fit into one batch."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, num_bits)))


def _counted(pub: PubStamp, texts: ParameterTexts, register: str, bits: BitArray) -> Iterator[_Piece]:
    step = _room(bits.num_bits)
    for tally in count_bits(bits.array, bits.num_bits):
        parts = -(-len(tally) // step)
        for part in range(parts):
            start, stop = len(tally) * part // parts, len(tally) * (part + 1) // parts
            packed, elements, counts = tally.packed(start, stop), tally.elements[start:stop], tally.counts[start:stop]
            yield _Piece(pub, texts, register, bits.num_shots, bits.num_bits, packed, elements, counts)


def _remembered(pub: PubStamp, texts: ParameterTexts, register: str, bits: BitArray) -> Iterator[_Piece]:
    step, shots = _room(bits.num_bits), bits.num_shots
    rows = bits.array.reshape(math.prod(bits.shape) * shots, bits.array.shape[-1])
    for start in range(0, len(rows), step):
        packed = rows[start : start + step]
        elements, numbers = np.divmod(np.arange(start, start + len(packed)), shots)
        yield _Piece(pub, texts, register, shots, bits.num_bits, packed, elements.astype(np.int32), numbers)


def _batches(pieces: Iterable[_Piece], job: JobStamp, spec: Dataset) -> Iterator[pa.RecordBatch]:
    stamped = pa.RecordBatch.from_pydict(job_columns(job, BATCH_ROWS))
    gathered: list[_Piece] = []
    rows = letters = 0
    for piece in pieces:
        more = len(piece) * max(1, piece.num_bits)
        if gathered and (rows + len(piece) > BATCH_ROWS or letters + more > BATCH_BYTES):
            yield _batch(gathered, job, stamped, spec)
            gathered, rows, letters = [], 0, 0
        gathered.append(piece)
        rows, letters = rows + len(piece), letters + more
    if gathered:
        yield _batch(gathered, job, stamped, spec)


def _batch(pieces: list[_Piece], job: JobStamp, stamped: pa.RecordBatch, spec: Dataset) -> pa.RecordBatch:
    sizes = np.array([len(piece) for piece in pieces])
    owner = np.repeat(np.arange(len(pieces), dtype=np.int32), sizes)
    elements, missing = _elements(pieces), np.repeat([piece.elements is None for piece in pieces], sizes)
    as_positions = np.array([piece.pub.elements_are_positions for piece in pieces])[owner]
    positions = np.array([piece.pub.position for piece in pieces], dtype=np.int32)[owner]
    firsts = np.array([piece.pub.parameter_index for piece in pieces], dtype=np.int32)[owner]
    columns: dict[str, pa.Array] = {
        "position": pa.array(positions + np.where(as_positions, elements, 0).astype(np.int32)),
        "circuit": spread([piece.pub.circuit for piece in pieces], owner),
        "parameters": _parameters(pieces, elements, owner),
        "parameter_index": pa.array(np.where(as_positions, 0, firsts + elements).astype(np.int32), mask=missing),
        "register": spread([piece.register for piece in pieces], owner),
        "bitstring": _bitstrings(pieces),
        "shots": pa.array(np.array([piece.shots for piece in pieces], dtype=np.int64)[owner]),
        "header": spread([header_text(job, piece.pub) for piece in pieces], owner),
        **_numbers(pieces, missing, spec),
    }
    columns |= zip(stamped.schema.names, stamped.slice(0, len(owner)).columns, strict=True)
    return pa.RecordBatch.from_pydict({name: columns[name] for name in spec.schema.names})


def _elements(pieces: list[_Piece]) -> NDArray[np.int32]:
    return np.concatenate([_or_zero(piece.elements, np.int32) for piece in pieces])


def _or_zero(values: NDArray[Any] | None, kind: type[np.generic]) -> NDArray[Any]:
    return np.zeros(1, dtype=kind) if values is None else values


def _numbers(pieces: list[_Piece], missing: NDArray[np.bool_], spec: Dataset) -> dict[str, pa.Array]:
    numbers = np.concatenate([_or_zero(piece.numbers, np.int64) for piece in pieces]).astype(np.int64)
    if spec is COUNTS:
        return {"count": pa.array(numbers)}
    return {"shot": pa.array(numbers, mask=missing)}


def _bitstrings(pieces: list[_Piece]) -> pa.Array:
    parts: list[pa.Array] = []
    start = 0
    while start < len(pieces):
        first, stop = pieces[start], start + 1
        while stop < len(pieces) and _alike(first, pieces[stop]):
            stop += 1
        if first.packed is None:
            parts.append(pa.nulls(stop - start, pa.string()))
        else:
            packed = [piece.packed for piece in pieces[start:stop] if piece.packed is not None]
            parts.append(bitstrings(np.concatenate(packed) if len(packed) > 1 else packed[0], first.num_bits))
        start = stop
    return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)


def _alike(one: _Piece, other: _Piece) -> bool:
    return one.num_bits == other.num_bits and (one.packed is None) == (other.packed is None)


def _parameters(pieces: list[_Piece], elements: NDArray[np.int32], owner: NDArray[np.int32]) -> pa.DictionaryArray:
    """The parameters of each row; each element's JSON is made once a piece."""
    firsts: list[int] = []
    texts: list[str | None] = []
    start = 0
    for piece in pieces:
        mine = elements[start : start + len(piece)]
        first, last = (int(mine[0]), int(mine[-1])) if piece.elements is not None and piece.texts.any else (0, 0)
        firsts.append(len(texts) - first if piece.texts.any else len(texts))
        texts += piece.texts.between(first, last + 1) if piece.elements is not None else [None]
        start += len(piece)
    named = np.array([piece.texts.any for piece in pieces])[owner]
    codes = np.array(firsts, dtype=np.int32)[owner] + np.where(named, elements, 0).astype(np.int32)
    return spread(texts, codes)
