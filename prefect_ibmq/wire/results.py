"""Result texts -> `PrimitiveResult`.

Program `executor` is decoded here, straight into packed bits; everything else by IBM's own decoders, after a look at
what it would unpack to: they set no limit.
"""

from __future__ import annotations

import binascii
import json
import struct
import zlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray
from qiskit.exceptions import QiskitError
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult

from prefect_ibmq import ibm
from prefect_ibmq.errors import ResultUnreadable
from prefect_ibmq.wire.tensors import Budget, number_tensor, packed_bits

__all__ = ["decode_result"]

MAX_RESULT_BYTES = 512 * 2**20
_FLIPS = "measurement_flips."
_UNCOMPRESSED = ("v0.1", "v0.2", "v1.0", "v1.1")
_COMPILATION = ("scheduler_timing", "stretch_values")
_SAMPLER_ROLES = (None, "sampler_v2", "sampler-v2")
_BROKEN = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RecursionError, OverflowError),
    *(zlib.error, struct.error, QiskitError),
)

Arrays = dict[str, NDArray[Any]]
Widths = dict[str, int]


def decode_result(
    program: str, text: str | bytes, *, max_bytes: int = MAX_RESULT_BYTES
) -> PrimitiveResult[SamplerPubResult]:
    """Decode the body of `GET /jobs/{id}/results`.

    Args:
        program: The job's program: `executor`, `sampler` or `estimator`.
        text: The body as sent.
        max_bytes: Largest size that the text may have, and that it may unpack to.

    Returns:
        One PUB result a PUB: a `BitArray` for each classical register, complex arrays where the measurement was
        kerneled; of the estimator the arrays `evs` and `stds`. `.metadata["execution"]` is a list of spans, each with
        `start` and `stop` (aware, UTC) and `pubs`, the indices of the PUBs that ran in it.

    Raises:
        ResultUnreadable: The text is not a result of that program, or is larger than allowed.
    """
    if len(text) > max_bytes:
        raise ResultUnreadable(f"The result text has {len(text)} bytes; {max_bytes} are allowed.")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = text[-300:] if isinstance(text, str) else text[-300:].decode("utf-8", "replace")
        raise ResultUnreadable(f"The result of program {program!r} is not JSON; it ends {said!r}.") from error
    try:
        if program == "executor" and isinstance(payload, dict) and payload.get("semantic_role") in _SAMPLER_ROLES:
            return _executor_result(payload, Budget(max_bytes))
        return _decoded_by_ibm(program, text, payload, Budget(max_bytes))
    except _BROKEN as error:
        told = f"{type(error).__name__}: {error}"
        raise ResultUnreadable(f"The result of program {program!r} cannot be decoded ({told}).") from error


# --- executor ----------------------------------------------------------------------------------------------------


def _executor_result(payload: dict[str, Any], budget: Budget) -> PrimitiveResult[SamplerPubResult]:
    version = payload.get("schema_version")
    if version not in _UNCOMPRESSED and not str(version).startswith("v2."):
        raise ResultUnreadable(f"Schema {version!r} of program 'executor' is not known.")
    passed = payload.get("passthrough_data")
    facts = passed.get("post_processor") if isinstance(passed, dict) else None
    facts = facts if isinstance(facts, dict) else {}
    items = payload["data"]
    circuits = facts.get("circuits_metadata") or [None] * len(items)
    if len(circuits) != len(items):
        raise ResultUnreadable(f"The result has {len(items)} items; {len(circuits)} were posted.")
    compressed = version not in _UNCOMPRESSED
    pubs = [
        _pub_result(item, circuit, facts, budget, compressed) for item, circuit in zip(items, circuits, strict=True)
    ]
    metadata: dict[str, Any] = {name: facts[name] for name in ("shots", "options") if name in facts}
    metadata["execution"] = _chunk_spans(payload.get("metadata"))
    return PrimitiveResult(pubs, metadata=metadata)


def _pub_result(
    item: dict[str, Any], circuit: Any, facts: dict[str, Any], budget: Budget, compressed: bool
) -> SamplerPubResult:
    arrays, widths = _arrays(item["results"], budget, compressed)
    _undo_flips(arrays, widths)
    averaged = facts.get("meas_type") == "avg_kerneled"
    metadata: dict[str, Any] = {"circuit_metadata": circuit or {}}
    if facts.get("twirling"):
        metadata["num_randomizations"] = len(next(iter(arrays.values()))) if arrays else 0
        arrays = {name: _untwirled(array, averaged) for name, array in arrays.items()}
    told = item.get("metadata") or {}
    if compilation := {name: told[name] for name in _COMPILATION if told.get(name)}:
        metadata["compilation"] = compilation
    first = next(iter(arrays.values()), None)
    shape = () if first is None else first.shape[: -1 if averaged else -2]
    fields: dict[str, Any] = {
        _register(name, arrays): BitArray(array, widths[name]) if name in widths else array
        for name, array in arrays.items()
    }
    return SamplerPubResult(DataBin(shape=shape, **fields), metadata=metadata)


def _arrays(tensors: dict[str, Any], budget: Budget, compressed: bool) -> tuple[Arrays, Widths]:
    """The arrays of an item; those of bits are packed, and their widths told apart."""
    arrays: Arrays = {}
    widths: Widths = {}
    for name, tensor in tensors.items():
        if tensor["dtype"] == "bool":
            arrays[name] = packed_bits(tensor, budget, compressed=compressed)
            widths[name] = tensor["shape"][-1]
        else:
            arrays[name] = number_tensor(tensor, budget, compressed=compressed)
    return arrays, widths


def _undo_flips(arrays: Arrays, widths: Widths) -> None:
    """Undo the bit flips of measurement twirling, in place; packed bits are flipped as bytes."""
    for flips in [name for name in arrays if name.startswith(_FLIPS)]:
        register = flips.removeprefix(_FLIPS)
        if register not in widths or widths.get(flips) != widths[register]:
            raise ResultUnreadable(f"{flips!r} belongs to no register of the result.")
        arrays[register] ^= arrays.pop(flips)
        del widths[flips]


def _untwirled(array: NDArray[Any], averaged: bool) -> NDArray[Any]:
    """The randomizations (first axis) put into the shots, or averaged where there is no axis of shots."""
    if averaged:
        mean: NDArray[Any] = array.mean(axis=0)
        return mean
    beside_shots = np.moveaxis(array, 0, -3)
    *sweep, randomizations, shots, last = beside_shots.shape
    return np.ascontiguousarray(beside_shots.reshape(*sweep, randomizations * shots, last))


def _register(name: str, arrays: Arrays) -> str:
    """The register's name: kerneled data carry a suffix, which goes where the name is free."""
    plain = name.removesuffix("_avg_iq") if name.endswith("_avg_iq") else name.removesuffix("_iq")
    return name if plain in arrays or np.iscomplexobj(arrays[name]) is False else plain


def _moment(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _chunk_spans(metadata: Any) -> list[dict[str, Any]]:
    chunks = metadata.get("chunk_timing") if isinstance(metadata, dict) else None
    return [
        {
            "start": _moment(chunk["start"]),
            "stop": _moment(chunk["stop"]),
            "pubs": sorted({int(part["idx_item"]) for part in chunk["parts"]}),
        }
        for chunk in chunks or []
    ]


# --- everything else ---------------------------------------------------------------------------------------------


def _decoded_by_ibm(program: str, text: str | bytes, payload: Any, budget: Budget) -> PrimitiveResult[SamplerPubResult]:
    _measure(payload, budget)
    if isinstance(payload, dict) and "results" in payload and "__type__" not in payload:
        return _plain_result(payload)
    result = ibm.decode_result(program, text if isinstance(text, str) else text.decode("utf-8"))
    if not isinstance(result, PrimitiveResult):
        raise ResultUnreadable(f"The result of program {program!r} is no PrimitiveResult but {type(result).__name__}.")
    execution = result.metadata.get("execution")
    spans = execution.get("execution_spans") if isinstance(execution, dict) else None
    told = [
        {"start": _moment(span.start), "stop": _moment(span.stop), "pubs": sorted(span.pub_idxs)}
        for span in spans or []
    ]
    return PrimitiveResult(list(result), metadata={**result.metadata, "execution": told})


def _measure(value: Any, budget: Budget) -> None:
    """Count what the packed values of a result unpack to, without keeping it."""
    if isinstance(value, dict):
        packed = value.get("__value__")
        if isinstance(packed, str) and "__type__" in value:
            _measure_packed(packed, budget)
        for inner in value.values():
            _measure(inner, budget)
    elif isinstance(value, list):
        for inner in value:
            _measure(inner, budget)


def _measure_packed(text: str, budget: Budget) -> None:
    try:
        rest = pybase64.b64decode(text)
    except binascii.Error:
        return  # plain text, such as a date
    stream = zlib.decompressobj()
    for start in range(0, len(rest), 65_536):
        block = rest[start : start + 65_536]
        while block and not stream.eof:
            try:
                budget.spend(len(stream.decompress(block, 2**20)))
            except zlib.error:
                return  # not packed
            block = stream.unconsumed_tail


def _plain_result(payload: dict[str, Any]) -> PrimitiveResult[SamplerPubResult]:
    """The shape that the service writes with `support_qiskit: false`."""
    pubs = []
    for pub in payload["results"]:
        registers = {
            name: BitArray.from_samples([int(sample, 16) for sample in field["samples"]], int(field["num_bits"]))
            for name, field in pub["data"].items()
        }
        pubs.append(SamplerPubResult(DataBin(shape=(), **registers), metadata=pub.get("metadata") or {}))
    return PrimitiveResult(pubs, metadata={**(payload.get("metadata") or {}), "execution": []})
