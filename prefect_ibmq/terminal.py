"""Where the command prints: tables on stdout, progress on stderr and only where a person looks on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

__all__ = [
    "complain",
    "doing",
    "listing",
    "quieten_retries",
    "quieten_temporary_server",
    "show",
    "show_listing",
    "stderr",
    "stdout",
]

WIDE = 200  # what is not a terminal cuts nothing off


def stdout(width: int | None = WIDE) -> Console:
    """Standard output; `width` counts where it is no terminal, None takes rich's own."""
    console = Console(highlight=False)
    return console if console.is_terminal or width is None else Console(highlight=False, width=width)


def show(what: RenderableType, out: Console) -> None:
    """Print without the blanks that fill up cells."""
    with out.capture() as captured:
        out.print(what)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def listing() -> Table:
    """An empty table in the command's style."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def show_listing(table: Table, out: Console, *, spare: tuple[str, ...] = ()) -> None:
    """Print a table of `listing`; where the terminal is too narrow, whole columns go before a value is cut.

    Args:
        table: The table.
        out: Where to.
        spare: Titles of the columns that may go, the first one first. Those that went are named below the table.
    """
    left_out: list[str] = []
    for title in (title for title in spare if any(column.header == title for column in table.columns)):
        if out.measure(table, options=out.options.update_width(10 * WIDE)).maximum <= out.width:
            break
        kept = Table(
            *(column for column in table.columns if column.header != title),
            box=table.box,
            pad_edge=table.pad_edge,
            padding=table.padding,
        )
        kept.rows, table = table.rows, kept
        left_out.append(title)
    show(table, out)
    if left_out:
        typer.echo(f"(no room for: {', '.join(left_out)}; --json and wider terminals show all)\n")


def quieten_retries() -> None:
    """Keep stamina from telling that it retries, but not what: the wire tells both, where it takes longer."""
    logging.getLogger("stamina").setLevel(logging.ERROR)


def quieten_temporary_server() -> None:
    """Keep what Prefect's temporary server logs from standing between our lines, such as that its telemetry failed."""
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


def stderr() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def complain(message: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """A spinner for what may take over a second, where a person looks on."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
