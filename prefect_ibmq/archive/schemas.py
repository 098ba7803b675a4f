"""Every table that the archive keeps: its columns, what identifies a row, and how it is cut into files.

A schema only ever grows: a new version adds columns at the end or in between, and what older versions wrote reads
as null there. Columns are neither renamed nor given another type or unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from prefect_ibmq.errors import ArchiveError

__all__ = [
    "BACKEND_STATUSES",
    "CALIBRATIONS",
    "CALIBRATION_OBSERVATIONS",
    "CALIBRATION_PARAMETERS",
    "CONFIGURATIONS",
    "COUNTS",
    "DATASETS",
    "ESTIMATES",
    "KERNELED",
    "MEMORY",
    "QUARANTINED_CALIBRATIONS",
    "REPEATED_OBSERVATIONS",
    "Dataset",
    "dataset_named",
    "rows_of",
]


@dataclass(frozen=True, slots=True)
class Dataset:
    """One table of the archive.

    Attributes:
        name: Its directory below the archive's root.
        version: Counts up with each change of the schema; stands in every file's metadata.
        schema: All columns in their order, partition columns included.
        identity: The columns that tell a row from every other; doubles are removed by them.
        partition: Columns that live in the path only, as `name=value` directories.
        file_key: The column whose values never share a file, and whose value opens the file's name.
        dense: Text columns whose values mostly differ from row to row.
        whole: Whether a file that has rows of a key has all of them, so that any one file can be believed about it.
        plain: Columns of values that mostly differ: neither dictionaries nor statistics are kept of them.
        counting: Columns of whole numbers that mostly count up.
        order: How the rows of merged files are ordered.
        merge_keys: How many keys a merged file may have.
        group_rows: Rows in a Parquet row group of a whole table.
    """

    name: str
    version: int
    schema: pa.Schema
    identity: tuple[str, ...]
    partition: tuple[str, ...] = ("backend",)
    file_key: str = "job_id"
    dense: tuple[str, ...] = ()
    whole: bool = False
    plain: tuple[str, ...] = ()
    counting: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    merge_keys: int = 256
    group_rows: int = 1 << 17

    @property
    def split_by(self) -> tuple[str, ...]:
        """The columns that have one value a file."""
        return (*self.partition, self.file_key)

    @property
    def names_in_files(self) -> list[str]:
        """The columns that stand in files."""
        return [name for name in self.schema.names if name not in self.partition]


_TIME = pa.timestamp("us", "UTC")
_WHOSE = [
    ("run_key", pa.string()),
    ("set_key", pa.string()),
    ("position", pa.int32()),
    ("circuit", pa.string()),
    ("parameters", pa.string()),
    ("parameter_index", pa.int32()),
    ("register", pa.string()),
]
_WHENCE = [
    ("shots", pa.int64()),
    ("job_id", pa.string()),
    ("attempt", pa.int32()),
    ("backend", pa.string()),
    ("instance", pa.string()),
    ("channel", pa.string()),
    ("simulated", pa.bool_()),
    ("created", _TIME),
    ("executed", _TIME),
    ("calibration", pa.string()),
    ("snapshot_transpiled", pa.string()),
    ("snapshot_submitted", pa.string()),
    ("snapshot_executed", pa.string()),
    ("calibration_id", pa.string()),
    ("header", pa.string()),
]

COUNTS = Dataset(
    name="counts",
    version=2,  # the snapshots of calibrations
    schema=pa.schema([*_WHOSE, ("bitstring", pa.string()), ("count", pa.int64()), *_WHENCE]),
    identity=("job_id", "position", "parameter_index", "register", "bitstring"),
    dense=("bitstring",),
)
"""How often each bitstring was measured: a row for each register, sweep element and distinct outcome."""

MEMORY = Dataset(
    name="memory",
    version=2,
    schema=pa.schema([*_WHOSE, ("shot", pa.int64()), ("bitstring", pa.string()), *_WHENCE]),
    identity=("job_id", "position", "parameter_index", "register", "shot"),
    dense=("bitstring",),
)
"""What each single shot gave, in the order in which it was measured."""

KERNELED = Dataset(
    name="kerneled",
    version=1,
    schema=pa.schema(
        [*_WHOSE, ("bit", pa.int32()), ("shot", pa.int64()), ("real", pa.float64()), ("imag", pa.float64()), *_WHENCE]
    ),
    identity=("job_id", "position", "parameter_index", "register", "bit", "shot"),
)
"""Where in the plane a measurement lay before it was taken for 0 or 1, in arbitrary units: a row for each register,
sweep element, bit (0 is the register's lowest) and shot; `shot` is null where the service averaged over them."""

ESTIMATES = Dataset(
    name="estimates",
    version=1,
    schema=pa.schema(
        [
            *(field for field in _WHOSE if field[0] != "register"),
            ("observable", pa.string()),
            ("observable_index", pa.int32()),
            ("ev", pa.float64()),
            ("std", pa.float64()),
            ("precision", pa.float64()),
            *_WHENCE,
        ]
    ),
    identity=("job_id", "position", "parameter_index", "observable_index"),
)
"""Expectation values: a row for each observable and each element of the sweep that it was estimated for."""

CALIBRATIONS = Dataset(
    name="calibrations",
    version=1,
    schema=pa.schema(
        [("snapshot", pa.string()), ("last_update_date", _TIME), ("payload", pa.binary()), ("backend", pa.string())]
    ),
    identity=("backend", "snapshot"),
    file_key="snapshot",
    whole=True,
    plain=("payload",),
    order=("last_update_date", "snapshot"),
    group_rows=8,
)
"""Each calibration's payload as it came, once: what all other tables of calibrations derive from."""

CALIBRATION_PARAMETERS = Dataset(
    name="calibration_parameters",
    version=1,
    schema=pa.schema(
        [
            ("snapshot", pa.string()),
            ("last_update_date", _TIME),
            ("row", pa.int32()),
            ("kind", pa.string()),
            ("qubits", pa.string()),
            ("gate", pa.string()),
            ("parameter", pa.string()),
            ("value", pa.float64()),
            ("unit", pa.string()),
            ("value_si", pa.float64()),
            ("unit_si", pa.string()),
            ("measured_at", _TIME),
            ("flags", pa.string()),
            ("backend", pa.string()),
        ]
    ),
    identity=("backend", "snapshot", "row"),
    file_key="snapshot",
    whole=True,
    plain=("value", "value_si"),
    counting=("row",),
    order=("parameter", "gate", "qubits", "last_update_date", "snapshot", "row"),
)
"""Every dated value of every calibration: a row each, in the payload's order.

`kind` is `qubit`, `gate` or `general`; `qubits` are joined by `_` (`12_13`), null for what belongs to the device;
`value` and `unit` are as sent, `value_si` and `unit_si` the same in SI units; `flags` are joined by commas,
an empty text where there are none.
"""

CALIBRATION_OBSERVATIONS = Dataset(
    name="calibration_observations",
    version=1,
    schema=pa.schema(
        [
            ("observation", pa.string()),
            ("snapshot", pa.string()),
            ("last_update_date", _TIME),
            ("collected_at", _TIME),
            ("backend", pa.string()),
        ]
    ),
    identity=("backend", "observation"),
    file_key="observation",
    whole=True,
    order=("observation",),
    merge_keys=1 << 16,
)
"""When each calibration was seen: a row whenever it was another one than before. The id tells the whole row."""

REPEATED_OBSERVATIONS = replace(CALIBRATION_OBSERVATIONS, name="repeated_observations")
"""When a calibration was seen that was no other one than before.

They tell until when a calibration was seen, and which of several of one date was seen latest, should what lies between
two sightings become known later, or be written at the same time by somebody else.
"""

QUARANTINED_CALIBRATIONS = Dataset(
    name="quarantined_calibrations",
    version=1,
    schema=pa.schema(
        [
            ("payload_sha256", pa.string()),
            ("collected_at", _TIME),
            ("reason", pa.string()),
            ("payload", pa.binary()),
            ("backend", pa.string()),
        ]
    ),
    identity=("backend", "payload_sha256"),
    file_key="payload_sha256",
    whole=True,
    plain=("payload",),
    order=("collected_at", "payload_sha256"),
)
"""Payloads that cannot be read: their bytes, and why."""

CONFIGURATIONS = Dataset(
    name="configurations",
    version=1,
    schema=pa.schema(
        [
            ("configuration", pa.string()),
            ("collected_at", _TIME),
            ("payload", pa.binary()),
            ("backend", pa.string()),
        ]
    ),
    identity=("backend", "configuration"),
    file_key="configuration",
    whole=True,
    plain=("payload",),
    order=("configuration",),
    group_rows=8,
)
"""Each configuration as it came, a row whenever it was another one than before."""

BACKEND_STATUSES = Dataset(
    name="backend_statuses",
    version=1,
    schema=pa.schema(
        [
            ("observation", pa.string()),
            ("collected_at", _TIME),
            ("operational", pa.bool_()),
            ("status", pa.string()),
            ("pending_jobs", pa.int64()),
            ("message", pa.string()),
            ("payload", pa.string()),
            ("backend", pa.string()),
        ]
    ),
    identity=("backend", "observation"),
    file_key="observation",
    whole=True,
    order=("observation",),
    merge_keys=1 << 16,
)
"""What a backend said of itself when it was asked: a row each time. `payload` is the whole answer as JSON."""

DATASETS = {
    dataset.name: dataset
    for dataset in (
        COUNTS,
        MEMORY,
        KERNELED,
        ESTIMATES,
        CALIBRATIONS,
        CALIBRATION_PARAMETERS,
        CALIBRATION_OBSERVATIONS,
        REPEATED_OBSERVATIONS,
        QUARANTINED_CALIBRATIONS,
        CONFIGURATIONS,
        BACKEND_STATUSES,
    )
}


def rows_of(dataset: Dataset, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table with the columns that stand in files."""
    fields = [dataset.schema.field(name) for name in dataset.names_in_files]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def dataset_named(name: str) -> Dataset:
    """The table of that name.

    Raises:
        ArchiveError: The archive keeps no such table.
    """
    if name not in DATASETS:
        raise ArchiveError(f"The archive keeps no table {name!r}.", hint=f"It keeps {', '.join(sorted(DATASETS))}.")
    return DATASETS[name]
