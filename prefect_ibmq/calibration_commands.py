"""The commands `prefect-ibmq calibrations …`. What they need is imported by the one that needs it."""

from __future__ import annotations

import json
import math
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefect_ibmq.command_options import AsJSON, Provider, provider_of_block
from prefect_ibmq.errors import InputError
from prefect_ibmq.terminal import complain, doing, show_listing, stdout
from prefect_ibmq.wording import counted

if TYPE_CHECKING:
    import pandas as pd

    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.backfill import Reached
    from prefect_ibmq.collected import Collected

__all__ = ["calibrations"]

calibrations = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep the devices' calibrations, for ever, and ask them back.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ArchiveAt = Annotated[str, typer.Option("--archive", metavar="PATH_OR_URL", help="Where calibrations are kept.")]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", metavar="NAME", help="This backend; given again, more. All by default.", show_default=False
    ),
]
Backend = Annotated[str, typer.Argument(metavar="BACKEND", help="The backend, also one that is gone.")]
At = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The calibration in force then (ISO 8601, UTC); the newest.", show_default=False),
]
KnownAt = Annotated[
    str | None, typer.Option(metavar="TIME", help="Among those that had been seen by then.", show_default=False)
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, as a PNG file.", show_default=False)
]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Calibrations since then.", show_default=False)]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Calibrations until then.", show_default=False)]


@calibrations.command()
def snapshot(archive: ArchiveAt = "archive", backend: Backends = None, provider: Provider = None) -> None:
    """Keep the calibration that each backend has now.

    Configuration, status and queue are kept too. The last line on stdout is one JSON object: `archive`, `snapshots`
    (new ones), `unchanged`, `quarantined`, `failed` (backend and reason). The exit status is 1 where nothing came.
    """
    from prefect_ibmq import loop
    from prefect_ibmq.snapshots import collect_snapshots

    with doing("asking for the calibrations"):
        collected = loop.run(collect_snapshots(provider_of_block(provider), backend, archive))
    _tell(collected)


@calibrations.command()
def backfill(
    since: Annotated[str, typer.Option(metavar="TIME", help="Back to the calibration in force then (ISO 8601, UTC).")],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin before then; with the newest.", show_default=False)
    ] = None,
    archive: ArchiveAt = "archive",
    backend: Backends = None,
    provider: Provider = None,
) -> None:
    """Fetch the calibrations of the past that the service still has.

    Broken off, it goes on where it was when it is run again, and asks for nothing twice. Progress is told on stderr;
    the last line on stdout is one JSON object, as that of `snapshot`. The exit status is 1 where nothing came.
    """
    from prefect_ibmq import loop
    from prefect_ibmq.backfill import collect_history

    with doing("fetching calibrations"):
        collected = loop.run(
            collect_history(provider_of_block(provider), backend, since, until, archive, _tell_progress)
        )
    _tell(collected)


def _tell_progress(reached: Reached) -> None:
    done = f" ({reached.part:.0%})" if reached.part is not None else ""
    told = f"{reached.backend}: {counted(reached.payloads, 'calibration')}, back to {reached.low:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{told}{done}", err=True)


def _tell(collected: Collected) -> None:
    for name, error in collected.failures.items():
        complain(f"{name}: {error}")
    for name, stored in collected.stored.items():
        for each in stored:
            if each.status == "quarantined":
                complain(f"{name}: a payload is in quarantine: {each.reason}")
    typer.echo(json.dumps(collected.told()))
    if collected.got_nothing:
        raise typer.Exit(1)


@calibrations.command(name="show")
def show_calibration(
    backend: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKEND]", help="The backend; without it, what the archive holds.", show_default=False
        ),
    ] = None,
    at: At = None,
    known_at: KnownAt = None,
    archive: ArchiveAt = "archive",
    plot: Plot = None,
    as_json: AsJSON = False,
) -> None:
    """Show the calibration of a moment, and its flags.

    It is the newest that was in force then. With --json it is the payload as the service sent it, with --plot also a
    map of the device: qubits by readout error, edges by the error of their gate.
    """
    with doing("reading the archive"):
        opened = _opened(archive)
        if backend is None:
            if plot is not None:
                raise InputError("Which backend is to be drawn?", hint="Name it before --plot.")
            _show_holdings(opened, as_json)
            return
        from prefect_ibmq.archive.calibrations import parameters_table, read_configuration
        from prefect_ibmq.calibration_listings import qubits_table
        from prefect_ibmq.calibrations import known_calibration

        known = known_calibration(opened, backend, at, known_at)
        if plot is not None:
            from prefect_ibmq.calibration_plots import plot_device

            configuration = read_configuration(opened, known.backend, known.last_update_date)
            _write_picture(plot, plot_device(known, configuration))
        if as_json:
            typer.echo(known.payload.decode("utf-8", "replace"))
            return
        parameters = parameters_table(opened, known.backend, known.snapshot).to_pandas()
    show_listing(qubits_table(parameters), stdout(), spare=("1-qubit error", "worst pair", "flags"))
    flagged = int((parameters["flags"].fillna("") != "").sum())
    typer.echo(
        f"{known.backend}, calibrated {known.last_update_date.isoformat()}, seen {known.collected_at.isoformat()}, "
        f"snapshot {known.snapshot}: {counted(len(parameters), 'value')}, {flagged} flagged"
    )


def _show_holdings(archive: Archive, as_json: bool) -> None:
    from prefect_ibmq.archive.calibrations import snapshots
    from prefect_ibmq.calibration_listings import holdings_table

    found = snapshots(archive).to_pandas()
    rows = [
        {
            "backend": name,
            "calibrations": len(of_one),
            "oldest": of_one["last_update_date"].min(),
            "newest": of_one["last_update_date"].max(),
            "last_seen": of_one["last_seen"].max(),
        }
        for name, of_one in found.groupby("backend", sort=True)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=lambda moment: moment.isoformat()))
        return
    if rows:
        show_listing(holdings_table(rows), stdout(), spare=("oldest", "last seen"))
    typer.echo(f"{counted(len(found), 'calibration')} of {counted(len(rows), 'backend')} in {archive.url}")


@calibrations.command()
def history(
    backend: Backend,
    parameter: Annotated[
        str, typer.Argument(metavar="PARAMETER", help="T1, T2, readout_error, gate_error, gate_length, …")
    ],
    qubit: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=0, help="Of this qubit; given twice, of the gate on this pair.", show_default=False
        ),
    ] = None,
    gate: Annotated[str | None, typer.Option(metavar="NAME", help="Of this gate.", show_default=False)] = None,
    since: Since = None,
    until: Until = None,
    archive: ArchiveAt = "archive",
    as_json: AsJSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    plot: Plot = None,
) -> None:
    """Show one parameter over time, a row for each calibration.

    Of several qubits or gates the table shows the spread; JSON and CSV have every value.
    """
    if as_json and as_csv:
        raise InputError("--json and --csv were both given.", hint="Give one.")
    with doing("reading the archive"):
        from prefect_ibmq.calibration_listings import history_table
        from prefect_ibmq.calibrations import calibration_history

        found = calibration_history(archive, backend, parameter, qubit or None, gate, since, until)
        if not len(found):
            _check_parameter(archive, backend, parameter)
    if plot is not None:
        from prefect_ibmq.calibration_plots import plot_history

        _write_picture(plot, plot_history({parameter: found}, f"{backend} over time"))
    if as_csv:
        typer.echo(found.to_csv(index=False).rstrip())
    elif as_json:
        typer.echo(json.dumps(_records(found), indent=2))
    else:
        if len(found):
            show_listing(history_table(found), stdout(), spare=("measured", "flags", "flagged"))
        typer.echo(f"{counted(len(found), 'value')} of {counted(found['snapshot'].nunique(), 'calibration')}")


def _check_parameter(archive: str, backend: str, parameter: str) -> None:
    """Tell a wrong name from a time or a place without values."""
    from prefect_ibmq.archive.calibrations import parameters_table, read_payload
    from prefect_ibmq.archives import archive_of

    opened = archive_of(archive, writable=False)
    newest = read_payload(opened, backend)
    rows = parameters_table(opened, backend, newest.snapshot).select(["kind", "parameter"]).to_pylist()
    names = {each["parameter"] for each in rows if each["parameter"]}
    if parameter in names:
        return
    usual = sorted({each["parameter"] for each in rows if each["parameter"] and each["kind"] != "general"})
    # The device as a whole has hundreds: a coupling for each pair.
    near = [name for name in get_close_matches(parameter, names, n=5) if name not in usual]
    more = len(names) - len(usual) - len(near)
    told = [*usual, *near, *([f"and {more} of the device as a whole"] if more else [])]
    hint = f"{', '.join(told)}." if told else "The newest tells no values at all."
    raise InputError(f"The calibrations of {backend} have no parameter {parameter!r}.", hint=hint)


@calibrations.command()
def compare(
    backend: Backend,
    earlier: Annotated[str, typer.Option("--from", metavar="TIME", help="The calibration in force then (ISO 8601).")],
    later: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="And the one in force then; the newest.")
    ] = None,
    archive: ArchiveAt = "archive",
    plot: Plot = None,
    as_json: AsJSON = False,
) -> None:
    """Show what moved between two calibrations of a backend, and what crossed a limit.

    Limits are those of `CalibrationLimits`; with --json every value that changed is told.
    """
    with doing("reading the archive"):
        from prefect_ibmq.archive.calibrations import read_configuration
        from prefect_ibmq.calibrations import known_calibration
        from prefect_ibmq.drift import compare_calibrations

        opened = _opened(archive)
        before, after = (known_calibration(opened, backend, at) for at in (earlier, later))
        drift = compare_calibrations(before, after)
        crossed = [each.text for each in drift.crossings()]
    if plot is not None:
        from prefect_ibmq.calibration_plots import plot_comparison

        configuration = read_configuration(opened, backend, after.last_update_date)
        _write_picture(plot, plot_comparison(drift, before, after, configuration))
    if as_json:
        moved = drift.table("pandas").query("state != 'unchanged'")
        told = {"backend": backend, "snapshots": drift.snapshots, "crossed": crossed, "changes": _records(moved)}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(drift.text())
    for text in crossed:
        typer.echo(f"Beyond its limit: {text}")


def _write_picture(path: Path, png: bytes) -> None:
    try:
        path.write_bytes(png)
    except OSError as error:
        raise InputError(f"The picture cannot be written to {path}: {error.strerror}.") from error
    typer.echo(f"The picture is in {path}", err=True)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON, each number with all its digits: what is missing or infinite is null, times are ISO 8601."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat() if value == value else None
    return value


@calibrations.command()
def compact(
    backend: Annotated[
        str | None, typer.Argument(metavar="[BACKEND]", help="Only of this one; of all.", show_default=False)
    ] = None,
    archive: ArchiveAt = "archive",
) -> None:
    """Merge the archive's small files of calibrations. Readers and writers go on meanwhile."""
    from prefect_ibmq.calibrations import compact_calibrations

    with doing("merging files"):
        told = compact_calibrations.fn(archive, backend)
    typer.echo(json.dumps(told))


@calibrations.command()
def export(
    backend: Backend,
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file; its ending says the form.")],
    form: Annotated[
        str | None,
        typer.Option(metavar="csv|parquet|ibm-csv", help="ibm-csv: the columns of IBM's page.", show_default=False),
    ] = None,
    at: At = None,
    known_at: KnownAt = None,
    since: Since = None,
    until: Until = None,
    archive: ArchiveAt = "archive",
) -> None:
    """Write calibrations into a file for other programs.

    It is one calibration, or all of a time (--since, --until). csv and parquet have a row for each value, with units,
    dates and flags; ibm-csv has a row for each qubit.
    """
    from prefect_ibmq.calibration_exports import export_calibrations

    with doing("writing"):
        told = export_calibrations.fn(
            archive, path, backend, form=form, at=at, known_at=known_at, since=since, until=until
        )
    typer.echo(json.dumps(told))


def _opened(archive: str) -> Archive:
    from prefect_ibmq.archives import archive_of

    return archive_of(archive, writable=False)
