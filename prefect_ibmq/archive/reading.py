"""What jobs gave, out of the archive: all of it or one run's, set's, backend's, job's or circuit's, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, overload

import pyarrow as pa
import pyarrow.compute as pc

from prefect_ibmq.archive.datasets import Archive, open_archive
from prefect_ibmq.archive.schemas import ESTIMATES, Dataset, dataset_named

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = ["read_counts", "read_estimates"]

_ORDER = ("run_key", "position", "parameter_index", "register", "shot", "bit", "observable_index")


@overload
def read_counts(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = ...,
    set_key: str | None = ...,
    backend: str | None = ...,
    job_id: str | None = ...,
    circuit: str | None = ...,
    columns: Sequence[str] | None = ...,
    table: Literal["counts", "memory", "kerneled"] = ...,
    format: Literal["pandas"] = ...,
) -> pd.DataFrame: ...
@overload
def read_counts(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = ...,
    set_key: str | None = ...,
    backend: str | None = ...,
    job_id: str | None = ...,
    circuit: str | None = ...,
    columns: Sequence[str] | None = ...,
    table: Literal["counts", "memory", "kerneled"] = ...,
    format: Literal["arrow"],
) -> pa.Table: ...
def read_counts(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = None,
    set_key: str | None = None,
    backend: str | None = None,
    job_id: str | None = None,
    circuit: str | None = None,
    columns: Sequence[str] | None = None,
    table: Literal["counts", "memory", "kerneled"] = "counts",
    format: Literal["pandas", "arrow"] = "pandas",
) -> pd.DataFrame | pa.Table:
    """All counts of an archive, or those of one run, set, backend, job or circuit, ordered by run and position.

    Args:
        archive: Path or URL of the archive.
        run_key: Only of this run.
        set_key: Only of this set; a run key may have been used with several.
        backend: Only of this backend.
        job_id: Only of this job.
        circuit: Only of circuits of this name.
        columns: Only these columns, in this order; all if None.
        table: `counts`, or what stands beside them: `memory` has each single shot, `kerneled` the points of
            `meas_level=1`; both come in the order of the shots.
        format: `pandas`, or `arrow` for a `pyarrow.Table`.

    Returns:
        A row for each register, sweep element and outcome. Times are UTC; what is not known is missing.

    Raises:
        ArchiveError: There is no archive, or it cannot be read.
    """
    wanted = {"run_key": run_key, "set_key": set_key, "backend": backend, "job_id": job_id, "circuit": circuit}
    rows = _in_order(archive, dataset_named(table), columns, wanted)
    return rows if format == "arrow" else _frame(rows)


@overload
def read_estimates(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = ...,
    set_key: str | None = ...,
    backend: str | None = ...,
    job_id: str | None = ...,
    circuit: str | None = ...,
    format: Literal["pandas"] = ...,
) -> pd.DataFrame: ...
@overload
def read_estimates(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = ...,
    set_key: str | None = ...,
    backend: str | None = ...,
    job_id: str | None = ...,
    circuit: str | None = ...,
    format: Literal["arrow"],
) -> pa.Table: ...
def read_estimates(
    archive: Archive | str | os.PathLike[str],
    *,
    run_key: str | None = None,
    set_key: str | None = None,
    backend: str | None = None,
    job_id: str | None = None,
    circuit: str | None = None,
    format: Literal["pandas", "arrow"] = "pandas",
) -> pd.DataFrame | pa.Table:
    """All expectation values of an archive, or those of one run, set, backend, job or circuit, in order.

    Args:
        archive: Path or URL of the archive.
        run_key: Only of this run.
        set_key: Only of this set; a run key may have been used with several.
        backend: Only of this backend.
        job_id: Only of this job.
        circuit: Only of circuits of this name.
        format: `pandas`, or `arrow` for a `pyarrow.Table`.

    Returns:
        A row for each observable and sweep element. Columns beside those of the counts: `observable` (as given,
        `0.5*XX + 1.0*ZZ` of a sum), `observable_index`, `ev`, `std` (the standard error), `precision` (what was asked
        for).

    Raises:
        ArchiveError: There is no archive, or it cannot be read.
    """
    wanted = {"run_key": run_key, "set_key": set_key, "backend": backend, "job_id": job_id, "circuit": circuit}
    rows = _in_order(archive, ESTIMATES, None, wanted)
    return rows if format == "arrow" else _frame(rows)


def _in_order(
    archive: Archive | str | os.PathLike[str],
    spec: Dataset,
    columns: Sequence[str] | None,
    wanted: Mapping[str, str | None],
) -> pa.Table:
    """The rows run by run and position by position, however the jobs and files lie."""
    opened = archive if isinstance(archive, Archive) else open_archive(archive, writable=False)
    filters = {name: value for name, value in wanted.items() if value is not None}
    names = list(spec.schema.names if columns is None else columns)
    keys = [name for name in _ORDER if name in spec.schema.names]
    table = opened.read(spec.name, [*names, *(name for name in keys if name not in names)], filters)
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys])
    return table.take(order).select(names)


def _frame(table: pa.Table) -> pd.DataFrame:
    """As pandas; whole numbers stay whole numbers where some are missing."""
    import pandas as pd

    nullable = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    gaps = {kind for kind in nullable if any(col.null_count and col.type == kind for col in table.columns)}
    frame: pd.DataFrame = table.to_pandas(types_mapper=lambda kind: nullable[kind] if kind in gaps else None)
    return frame
