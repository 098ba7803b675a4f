"""The `prefect-ibmq` command. Prefect and qiskit are imported by the commands that need them, not here."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from prefect_ibmq._version import __version__
from prefect_ibmq.calibration_commands import calibrations
from prefect_ibmq.command_options import AsJSON, Provider, provider_of_block
from prefect_ibmq.errors import BackendNotFound, ConfigurationError, IBMQError, InputError
from prefect_ibmq.terminal import (
    complain,
    doing,
    quieten_retries,
    quieten_temporary_server,
    show,
    show_listing,
    stderr,
    stdout,
)
from prefect_ibmq.wording import counted

if TYPE_CHECKING:
    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.findings import Finding
    from prefect_ibmq.provider import IBMQProvider
    from prefect_ibmq.run_listing import StoredRun

__all__ = ["app", "main"]

_LEVEL_STYLES = {"ok": "green", "warn": "yellow", "error": "red"}


class _Commands(TyperGroup):
    """Our own errors are one line on stderr, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except IBMQError as error:
            complain(str(error))
        except ValidationError as error:
            if error.title != "IBMQSettings":
                raise
            complain("a setting PREFECT_INTEGRATIONS_IBMQ_* cannot be used; `prefect-ibmq doctor` says which")
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # A traceback with local variables would show keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(calibrations, name="calibrations")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"prefect-ibmq {__version__}")
        raise typer.Exit


@app.callback()
def prefect_ibmq(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """IBM Quantum for Prefect: backends, jobs, a service in a box, and what may be wrong.

    The account is the one that QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE name; with neither set, everything runs
    against the embedded service, and all counts are simulated.
    """


@app.command()
def demo(
    archive: Annotated[
        str, typer.Option(metavar="PATH", help="Where counts and the plot are kept.", show_default=True)
    ] = "archive",
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The device; the least busy one that fits by default.", show_default=False),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Shots of each circuit (4000).", show_default=False)
    ] = None,
) -> None:
    """Run the research pipeline locally and show its counts.

    It runs on the embedded service, needs no account and never uses one. The last line on stdout is the pipeline's
    JSON object.
    """
    from prefect_ibmq.archive.reading import read_counts
    from prefect_ibmq.demo import counts_picture, run_demo

    told = run_demo(archive, backend, shots, stderr())
    out = stdout(width=None)
    counts = read_counts(archive, run_key=told["run_key"])
    typer.echo()
    show(counts_picture(counts, out), out)
    typer.echo(f"Plot    {told['plot'] or 'none: it needs matplotlib (extra plot)'}")
    typer.echo(f"Counts  {told['archive']} (Parquet, {told['rows']} rows of this run)\n")
    typer.echo(json.dumps(told))


@app.command()
def backends(
    provider: Provider = None,
    min_qubits: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only those with so many qubits or more.", show_default=False),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the backends, with queues and errors.

    The least busy one is marked.
    """
    with doing("asking for the backends"):
        from prefect_ibmq.backends import choose_least_busy, list_backends
        from prefect_ibmq.errors import NoBackendLeft
        from prefect_ibmq.listings import backend_rows, backends_table

        records = list_backends.fn(provider_of_block(provider), min_num_qubits=min_qubits)
        try:
            least_busy = choose_least_busy(records).name
        except NoBackendLeft:
            least_busy = None
        rows = backend_rows(records, least_busy)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    show_listing(backends_table(rows), stdout(), spare=("CLOPS", "processor", "status", "median wait"))
    simulated = "; all are simulated" if rows and all(row["simulated"] for row in rows) else ""
    marked = f"; * {least_busy} is the least busy" if least_busy else ""
    typer.echo(f"{counted(len(rows), 'backend')}{marked}{simulated}")


@app.command()
def jobs(
    provider: Provider = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most jobs to list.")] = 20,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only jobs on this backend.", show_default=False)
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Only jobs with this tag; given again, with all of them.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Only jobs whose name this is found in.", show_default=False),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Only jobs of this status; given again, of any of them.", show_default=False),
    ] = None,
    pending: Annotated[bool, typer.Option("--pending", help="Only jobs that have not ended.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List jobs, newest first, with links to their pages."""
    with doing("asking for the jobs"):
        from prefect_ibmq import loop
        from prefect_ibmq.job_listing import list_jobs
        from prefect_ibmq.listings import job_rows, jobs_table

        chosen = provider_of_block(provider)
        client = loop.run(chosen.aget_client())
        records = list_jobs.fn(
            chosen,
            limit,
            backend_name=backend,
            status=status,
            job_name=name,
            job_tags=tag,
            job_tags_operator="AND",
            pending=True if pending else None,
        )
        rows = job_rows(records, channel=chosen.channel, host=client.base_url, instance=client.crn)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    out = stdout()
    # Where the addresses do not fit, the ids are links and the line below says where they lead.
    paged = [row for row in rows if row["page"]]
    wide = bool(paged) and out.width >= 150
    if rows:
        show_listing(jobs_table(records, rows, pages=wide), out, spare=("page", "usage", "backend"))
    more = f", the newest {limit}; --limit N lists more" if len(rows) == limit else ""
    typer.echo(f"{counted(len(rows), 'job')}{more}")
    if paged and not wide:
        typer.echo(f"Pages: {paged[0]['page'].rpartition('/')[0]}/<job>")


class RunsAction(StrEnum):
    """What to do with runs."""

    LIST = "list"
    STATUS = "status"
    RESUME = "resume"
    CANCEL = "cancel"


@app.command()
def runs(
    action: Annotated[RunsAction, typer.Argument(help="What to do with them.")] = RunsAction.LIST,
    run_key: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_KEY]", help="A run key, or the beginning of a set key.", show_default=False),
    ] = None,
    archive: Annotated[str, typer.Option(metavar="PATH", help="Where the runs' folders are.")] = "archive",
    provider: Provider = None,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="resume: come back after so long.", show_default=False),
    ] = None,
    resubmit: Annotated[
        str | None,
        typer.Option(metavar="failed|cancelled", help="resume: run again what ended so for good.", show_default=False),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List runs, ask about them, finish them, or cancel them.

    `list` reads the archive alone; `status` asks the service once; `resume` finishes what is open, without the circuits
    and from any machine that reaches the archive; `cancel` cancels the jobs that have not ended. The exit status of
    `resume` is 0 where all is in the archive, 3 where some circuits failed for good, 4 where the deadline was reached.
    """
    with doing("reading the archive"):
        from prefect_ibmq.archive.datasets import open_archive
        from prefect_ibmq.run_commands import chosen_runs, part_rows, parts_table, run_rows, runs_table, told_now

        # A look must not make a folder.
        opened = open_archive(archive, writable=action in (RunsAction.RESUME, RunsAction.CANCEL))
        found = chosen_runs(opened, run_key, still_open=action is not RunsAction.LIST)
    if action is RunsAction.LIST:
        if as_json:
            typer.echo(json.dumps(run_rows(found), indent=2))
            return
        if found:
            show_listing(runs_table(found), stdout(), spare=("set", "parts", "backend", "started"))
        typer.echo(f"{counted(len(found), 'run')} in {opened.url}")
    elif action is RunsAction.STATUS:
        with doing("asking for the jobs"):
            jobs = told_now(found, provider_of_block(provider))
        told = [part_rows(run, jobs) for run in found]
        if as_json:
            typer.echo(json.dumps([row for rows in told for row in rows], indent=2))
            return
        for run, rows in zip(found, told, strict=True):
            typer.echo(f"{run.plan.run_key}: {run.state}")
            show_listing(parts_table(rows), stdout(), spare=("attempt", "seconds", "backend", "circuits"))
        typer.echo(counted(len(found), "run" if run_key else "open run"))
    elif action is RunsAction.RESUME:
        _resume(opened, found, provider_of_block(provider), deadline, resubmit, as_json)
    else:
        _cancel(opened, found, run_key, provider_of_block(provider), as_json)


def _resume(
    archive: Archive,
    found: list[StoredRun],
    provider: IBMQProvider,
    deadline: float | None,
    resubmit: str | None,
    as_json: bool,
) -> None:
    from prefect_ibmq.run_commands import again, part_rows, parts_table, resume_runs

    with doing("finishing what is open"):
        finished = resume_runs(archive, found, provider, deadline=deadline, resubmit=resubmit)
    rows = [row for run in found for row in part_rows(again(archive, run), [])]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        show_listing(parts_table(rows), stdout(), spare=("attempt", "seconds", "backend", "circuits"))
    states = [state for each in finished for state in each.states]
    for state in states:
        if state.status == "failed":
            complain(f"circuits {state.part.label} failed for good (job {state.job_id}): {state.reason}")
    if errors := [error for each in finished for error in each.errors]:
        raise errors[0]
    if still := sum(state.is_open for state in states):
        complain(f"the deadline was reached; {counted(still, 'part')} open")
        raise typer.Exit(4)
    if not as_json:
        typer.echo(f"{counted(len(found), 'run')}, {sum(state.rows for state in states)} rows of counts in the archive")
    if any(state.status == "failed" for state in states):
        raise typer.Exit(3)


def _cancel(
    archive: Archive, found: list[StoredRun], run_key: str | None, provider: IBMQProvider, as_json: bool
) -> None:
    from prefect_ibmq.run_commands import cancel_runs

    if run_key is None:
        raise InputError("Which run is to be cancelled?", hint="Give its run key; `prefect-ibmq runs` lists them.")
    cancelled = cancel_runs(archive, found, provider)
    if as_json:
        typer.echo(json.dumps(cancelled))
        return
    typer.echo(f"Cancelled {counted(len(cancelled), 'job')}{': ' if cancelled else ''}{', '.join(cancelled)}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    queue: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long a job is queued at least.")] = 1.0,
    run: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long a job runs at least.")] = 0.0,
    latency_ms: Annotated[float, typer.Option(metavar="N", min=0, help="Delay of every answer in ms.")] = 0.0,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Offer this device; give it again for more. All by default.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="SQLite file of the jobs; a temporary one by default.", show_default=False),
    ] = None,
    faults: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON of what is to go wrong; its clock can then be moved (POST /embedded/clock).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve IBM Quantum's REST API from this machine.

    It listens on 127.0.0.1 alone and ends on SIGTERM or Ctrl-C. One JSON line on stdout says when it is ready: `url`,
    `crn`, `token`, and `env`, the variables that lead this package and the official client here.
    Where no device is named, all are offered, and `test_eagle` besides, to which IBM's own integration tests submit.
    """
    # Whoever ends it while it still starts gets the same answer as later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _local_extra():
        from prefect_ibmq.embedded.clock import VirtualClock
        from prefect_ibmq.embedded.faults import FaultPlan
        from prefect_ibmq.embedded.options import ServiceOptions
        from prefect_ibmq.embedded.server import serve_forever
    _check_devices(backend or [])
    # IBM's own integration tests submit to a device of this name.
    aliases = {} if backend else {"test_eagle": "fake_sherbrooke"}
    plan = FaultPlan.from_file(faults) if faults is not None else FaultPlan()
    options = ServiceOptions(
        store=store,
        backends=tuple(dict.fromkeys(backend or [])),
        aliases=aliases,
        queue_seconds=queue,
        run_seconds=run,
        latency_ms=latency_ms,
        faults=plan,
        clock=VirtualClock() if faults is not None else time.time,
    )
    try:
        serve_forever(options, port=port)
    except OSError as error:
        raise ConfigurationError(
            f"127.0.0.1:{port} cannot be listened on: {error.strerror or error}.",
            hint="Take another port; --port 0 takes a free one.",
        ) from error


def _check_devices(names: list[str]) -> None:
    import difflib

    from prefect_ibmq.ibm import device_names

    known = device_names() if names else ()
    for name in names:
        if name not in known:
            raise BackendNotFound(name, difflib.get_close_matches(name, known, n=3, cutoff=0.4), where="to serve")


@app.command()
def doctor(provider: Provider = None, as_json: AsJSON = False) -> None:
    """Look for what does not work, and how to mend it.

    Versions that do not go together, missing extras, PREFECT_HOME, the environment, saved accounts; and the service
    is asked whether it accepts the key and the instance. The exit status is 1 where something is an error.
    """
    from prefect_ibmq.doctor import diagnose

    findings: list[Finding] = []
    out = stdout()
    load = (lambda: provider_of_block(provider)) if provider is not None else None
    checks = diagnose(load)
    while True:
        with doing("examining"):
            finding = next(checks, None)
        if finding is None:
            break
        findings.append(finding)
        if not as_json:
            show(_finding_lines(finding), out)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        typer.echo(f"\n{_verdict(findings)}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _finding_lines(finding: Finding) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=5)
    grid.add_column(width=14)
    grid.add_column(overflow="fold")
    level = Text(finding.level, _LEVEL_STYLES[finding.level])
    grid.add_row(level, Text(finding.name, "bold"), Text(finding.summary))
    if finding.detail:
        grid.add_row("", "", Text(finding.detail, "dim"))
    if finding.resolution and finding.level != "ok":
        grid.add_row("", "", Text(f"-> {finding.resolution}"))
    return grid


def _verdict(findings: list[Finding]) -> str:
    errors, warnings = (sum(finding.level == level for finding in findings) for level in ("error", "warn"))
    if not errors and not warnings:
        return "Everything is in order."
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}."


@contextmanager
def _local_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"The embedded service needs {error.name}, which is not installed.",
            hint="Install it: pip install 'prefect-ibmq[local]'.",
        ) from error


def _quieten() -> None:
    """Keep what others log from standing between our lines: Prefect tells when it starts and stops a server."""
    logger = logging.getLogger("prefect")
    logger.setLevel(max(logger.level, logging.WARNING))
    quieten_temporary_server()
    quieten_retries()


def main() -> None:
    """What the `prefect-ibmq` script calls; exits with the command's status."""
    _quieten()
    app(prog_name="prefect-ibmq")


if __name__ == "__main__":
    main()
