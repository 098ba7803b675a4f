"""Expectation values to a table: one row for each element of each PUB of program `estimator`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from prefect_ibmq.archive.schemas import ESTIMATES
from prefect_ibmq.archive.stamps import JobStamp, ParameterTexts, PubStamp, header_text, job_columns, spread
from prefect_ibmq.errors import ResultUnreadable

if TYPE_CHECKING:
    from qiskit.primitives import PrimitiveResult

__all__ = ["estimates_batches"]

Observables = tuple[Sequence[str], tuple[int, ...]]


def estimates_batches(
    result: PrimitiveResult[Any], job: JobStamp, pubs: Sequence[PubStamp], observables: Sequence[Observables | None]
) -> Iterator[pa.RecordBatch]:
    """The rows of a job in the schema `schemas.ESTIMATES`, a batch for each PUB.

    Args:
        result: What the job gave.
        job: Where it is from.
        pubs: What each PUB is.
        observables: Texts of each PUB's observables in C order, and their shape; None where nobody tells.

    Raises:
        ResultUnreadable: A PUB has no expectation values, or they do not fit its observables.
    """
    for pub_result, pub, observed in zip(result, pubs, observables, strict=True):
        yield _batch(pub_result, job, pub, observed)


def _batch(result: Any, job: JobStamp, pub: PubStamp, observed: Observables | None) -> pa.RecordBatch:
    fields = dict(result.data.items())
    if "evs" not in fields:
        raise ResultUnreadable(
            f"The result of circuit {pub.circuit!r} (position {pub.position}) has no expectation values.",
            hint="Results of samplers go to export_counts.",
        )
    evs = np.asarray(fields["evs"], dtype=np.float64)
    stds = np.asarray(fields.get("stds", np.full(evs.shape, np.nan)), dtype=np.float64)
    sweep = _sweep_of(pub)
    try:
        rows = _spread_over(sweep, evs.shape)
        texts, shape = observed if observed is not None else ((), evs.shape)
        which = _spread_over(shape, evs.shape)
    except ValueError as error:
        raise ResultUnreadable(
            f"The expectation values of circuit {pub.circuit!r} (position {pub.position}) have the shape {evs.shape}, "
            "which fits neither its observables nor its parameter values."
        ) from error
    parameters = ParameterTexts(pub, sweep).between(0, math.prod(sweep))
    count = evs.size
    zeros = np.zeros(count, dtype=np.int32)
    columns: dict[str, pa.Array] = {
        "position": pa.repeat(pa.scalar(pub.position, pa.int32()), count),
        "circuit": spread([pub.circuit], zeros),
        "parameters": spread(parameters, rows),
        "parameter_index": pa.array(rows),
        "observable": spread(list(texts), which) if texts else pa.nulls(count, pa.string()),
        "observable_index": pa.array(which),
        "ev": _numbers(evs),
        "std": _numbers(stds),
        "precision": pa.repeat(pa.scalar(_precision(result), pa.float64()), count),
        "shots": pa.repeat(pa.scalar(_shots(result, pub), pa.int64()), count),
        "header": spread([header_text(job, pub)], zeros),
        **job_columns(job, count),
    }
    return pa.RecordBatch.from_pydict({name: columns[name] for name in ESTIMATES.schema.names})


def _sweep_of(pub: PubStamp) -> tuple[int, ...]:
    shape = getattr(pub.parameters, "shape", ())
    return tuple(shape) if hasattr(pub.parameters, "as_array") else ()


def _spread_over(shape: tuple[int, ...], whole: tuple[int, ...]) -> Any:
    """For each element of the result, in C order, the flat index of what it is of."""
    flat = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    return np.ascontiguousarray(np.broadcast_to(flat, whole)).reshape(-1)


def _numbers(values: Any) -> pa.Array:
    flat = values.reshape(-1)
    return pa.array(flat, mask=~np.isfinite(flat))


def _precision(result: Any) -> float | None:
    told = result.metadata.get("target_precision")
    return float(told) if told is not None else None


def _shots(result: Any, pub: PubStamp) -> int | None:
    told = result.metadata.get("shots", pub.shots)
    return int(told) if told is not None else None
