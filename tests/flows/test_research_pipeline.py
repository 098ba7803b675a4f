"""The research pipeline as a user runs it: from the command line, and as a function."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_ibmq.flows.research_pipeline import research_pipeline
from qiskit import QuantumCircuit, qasm2, qasm3, qpy

from prefect_ibmq import (
    ArchiveError,
    CircuitError,
    IBMQCredentials,
    IBMQProvider,
    InputError,
    JobFailed,
    NoBackendLeft,
    read_counts,
    transpile_circuits,
)
from prefect_ibmq.embedded.tokens import make_token

PIPELINE = Path(__file__).parents[2] / "flows" / "research_pipeline.py"
KEYS = {"archive", "backend", "channel", "job_ids", "rows", "run_key", "seconds"}

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the processes: the tests' Prefect server, and a home of their own."""
    from prefect.settings import PREFECT_API_URL

    home = tmp_path_factory.mktemp("pipeline-home")
    return {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_INTEGRATIONS_IBMQ_POLL_FLOOR_SECONDS": "0.05",
        "PREFECT_INTEGRATIONS_IBMQ_SETTLE_SECONDS": "1",
        "PREFECT_INTEGRATIONS_IBMQ_LOCAL_BACKENDS": "fake_manila,fake_torino",
    }


@pytest.fixture
def command(environment: dict[str, str], tmp_path: Path) -> Command:
    def run(*options: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PIPELINE), *map(str, options)],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env=environment | variables,
        )

    return run


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def ghz(width: int = 2, name: str = "ghz") -> QuantumCircuit:
    circuit = QuantumCircuit(width, name=name)
    circuit.h(0)
    for qubit in range(1, width):
        circuit.cx(0, qubit)
    circuit.measure_all()
    return circuit


def write_circuits(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a_second.qasm").write_text(qasm2.dumps(ghz(2)))
    (folder / "b_third.qasm3").write_text(qasm3.dumps(ghz(3)))
    with (folder / "c_many.qpy").open("wb") as file:
        qpy.dump([ghz(2, "first of many"), ghz(3, "second of many")], file)
    (folder / "notes.txt").write_text("not a circuit")
    return folder


# --- from the command line ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_options_it_runs_textbook_circuits_on_the_embedded_service(command: Command, tmp_path: Path) -> None:
    done = command()
    last = told(done)
    assert set(last) >= KEYS
    assert (last["channel"], last["archive"]) == ("local", str(tmp_path / "archive" / "counts"))
    assert "simulated" in done.stderr
    counts = read_counts(tmp_path / "archive", run_key=last["run_key"])
    assert (len(counts), counts["simulated"].all()) == (last["rows"], True)
    assert {"ghz_2", "ghz_8", "grover_11", "w_state_3"} <= set(counts["circuit"])
    assert set(counts["job_id"]) == set(last["job_ids"])
    assert (counts.drop_duplicates(["position"])["shots"] == 4000).all()
    assert Path(last["plot"]).read_bytes().startswith(b"\x89PNG")
    assert 0 < last["seconds"] < 60
    top = counts.sort_values("count").groupby("circuit").tail(1).set_index("circuit")["bitstring"]
    assert (top["bernstein_vazirani_1011"], top["grover_11"]) == ("1011", "11")


@pytest.mark.slow
def test_served_through_the_environment_with_all_options(command: Command, served: Any, tmp_path: Path) -> None:
    circuits, before = write_circuits(tmp_path / "circuits"), served.jobs()
    options = ("--backend", "fake_manila", "--circuits", circuits, "--shots", 50, "--max-circuits-per-job", 3)
    options += ("--run-key", "Night 1", "--archive", tmp_path / "kept", "--seed", 7)
    dry = told(command(*options, "--dry-run", **served.env))
    assert (dry["jobs"], dry["job_ids"], dry["rows"], served.posts()) == (2, [], 0, 0)
    assert dry["estimated_qpu_seconds"] > 4
    done = command(*options, **served.env)
    last = told(done)
    assert (last["backend"], last["channel"], last["run_key"]) == ("fake_manila", "ibm_quantum_platform", "Night 1")
    assert (len(last["job_ids"]), served.posts(), served.jobs() - before) == (2, 2, 2)
    counts = read_counts(tmp_path / "kept", run_key="Night 1")
    names = counts.drop_duplicates("position").sort_values("position")["circuit"].tolist()
    assert names == ["a_second", "b_third", "first of many", "second of many"]
    assert (len(counts), set(counts["shots"]), counts["simulated"].all()) == (last["rows"], {50}, True)
    # once more, with the command that was logged first: nothing is posted, and nothing changes
    logged = next(line for line in done.stderr.splitlines() if "To go on with it: " in line)
    interpreter, _, *words = shlex.split(logged.partition("To go on with it: ")[2])
    assert interpreter == sys.executable
    options = tuple(words)
    assert "Night 1" in options
    again = told(command(*options, **served.env))
    assert {name: again[name] for name in KEYS - {"seconds"}} == {name: last[name] for name in KEYS - {"seconds"}}
    assert (served.posts(), len(read_counts(tmp_path / "kept"))) == (2, last["rows"])
    dry = told(command(*options, "--dry-run", **served.env))
    assert (dry["jobs"], dry["job_ids"], dry["rows"]) == (0, last["job_ids"], last["rows"])
    assert dry["estimated_qpu_seconds"] == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_jobs_it_had(
    environment: dict[str, str], command: Command, served: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    options = served.service.options
    served.service.options = replace(options, queue_seconds=6.0)
    before = served.jobs()
    arguments = ("--circuits", write_circuits(tmp_path / "circuits"), "--max-circuits-per-job", "1")
    arguments += ("--run-key", "killed", "--archive", str(tmp_path / "kept"), "--shots", "50")
    try:
        process = subprocess.Popen(
            [sys.executable, PIPELINE, *arguments],
            env=environment | served.env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("kept/runs/*/handle.*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    finally:
        served.service.options = options
    handles = {json.loads(file.read_text())["job_id"] for file in tmp_path.glob("kept/runs/*/handle.*")}
    assert len(handles) >= 2
    last = told(command(*arguments, **served.env))
    assert handles <= set(last["job_ids"])
    assert (len(last["job_ids"]), served.jobs() - before) == (4, 4)
    assert len(read_counts(tmp_path / "kept", run_key="killed")) == last["rows"]


@pytest.mark.slow
def test_failures_are_told_on_stderr_with_another_exit_status(command: Command, served: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.qasm"
    broken.write_text("OPENQASM 2.0;\nqreg q[2]\nh q[0];")
    done = command("--circuits", broken, **served.env)
    assert done.returncode == 1
    assert "line 3" in done.stderr.splitlines()[-1]
    assert "broken.qasm" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert served.posts() == 0
    assert command("--shots", "many").returncode == 2


@pytest.mark.slow
def test_a_service_that_does_not_answer_is_told_soon(command: Command, served: Any, tmp_path: Path) -> None:
    circuit = tmp_path / "one.qasm"
    circuit.write_text(qasm2.dumps(ghz()))
    began = time.monotonic()
    done = command("--circuits", circuit, **served.env | {"QISKIT_IBM_URL": "http://127.0.0.1:9/api/v1"})
    assert done.returncode == 1
    assert "No connection to 127.0.0.1" in done.stderr
    assert time.monotonic() - began < 90  # with minutes of patience: 200


# --- as a function -----------------------------------------------------------------------------------------------


async def run(served: Any, tmp_path: Path, **options: Any) -> dict[str, Any]:
    credentials: Any = IBMQCredentials(token="local", url=f"{served.base}/api/v1", iam_url=served.base)
    block: Any = IBMQProvider(credentials=credentials, instance=served.service.crn)
    await block.asave("pipeline-provider", overwrite=True)
    arguments: dict[str, Any] = {"provider": "pipeline-provider", "shots": 30, "archive": str(tmp_path / "kept")}
    return await research_pipeline(**(arguments | options))


async def test_it_takes_a_saved_provider_blocks_name(served: Any, prefect_server: None, tmp_path: Path) -> None:
    file = tmp_path / "one.qasm"
    file.write_text(qasm2.dumps(ghz(3)))
    last = await run(served, tmp_path, circuits=str(file))
    assert last["channel"] == "ibm_quantum_platform"
    counts = read_counts(tmp_path / "kept", run_key=last["run_key"])
    assert set(counts["circuit"]) == {"one"}
    assert set(counts["backend"]) == {last["backend"]}


async def test_isa_circuits_are_checked_and_not_transpiled(served: Any, prefect_server: None, tmp_path: Path) -> None:
    isa = await asyncio.to_thread(transpile_circuits, [ghz(3)], "fake_manila", served.provider())
    good, bad = tmp_path / "good.qpy", tmp_path / "bad.qpy"
    for file, circuit in ((good, isa[0]), (bad, ghz(3))):
        with file.open("wb") as stream:
            qpy.dump(circuit, stream)
    last = await run(served, tmp_path, circuits=str(good), isa=True, backend="fake_manila", run_key="isa")
    assert last["rows"] > 0
    assert served.posts() == 1
    with pytest.raises(CircuitError, match=r"ghz.*no ISA circuit"):
        await run(served, tmp_path, circuits=str(bad), isa=True, backend="fake_manila", run_key="no isa")
    with pytest.raises(CircuitError, match="no ISA circuit"):
        await run(served, tmp_path, circuits=str(bad), isa=True, backend="fake_manila", run_key="dry", dry_run=True)
    assert served.posts() == 1


async def test_a_dry_run_tells_the_rows_of_its_own_circuits(served: Any, prefect_server: None, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / f"{name}.qasm").write_text(qasm2.dumps(ghz(2 if name == "one" else 3)))
    first = await run(served, tmp_path, circuits=str(tmp_path / "one.qasm"), run_key="shared")
    assert first["rows"] > 0
    dry = await run(served, tmp_path, circuits=str(tmp_path / "other.qasm"), run_key="shared", dry_run=True)
    assert (dry["jobs"], dry["rows"]) == (1, 0)
    dry = await run(served, tmp_path, circuits=str(tmp_path / "one.qasm"), run_key="shared", dry_run=True)
    assert (dry["jobs"], dry["rows"]) == (0, first["rows"])


async def test_an_archive_that_cannot_be_written_is_told_before_anything_is_posted(
    served: Any, prefect_server: None, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArchiveError, match="taken"):
        await run(served, tmp_path, archive=str(tmp_path / "taken" / "archive"))
    assert served.posts() == 0


async def test_bad_options_submit_nothing(served: Any, prefect_server: None, tmp_path: Path) -> None:
    for options in (
        {"shots": 0},
        {"backend": "fake_nowhere"},
        {"max_circuits_per_job": 0},
        {"circuits": "/no/file.qasm"},
    ):
        with pytest.raises(InputError):
            await run(served, tmp_path, **options)
    wide = tmp_path / "wide.qasm"
    wide.write_text("OPENQASM 2.0;\nqreg q[200]; creg c[1];\nmeasure q[199] -> c[0];\n")
    with pytest.raises(NoBackendLeft, match=r"widest circuit has 200 qubits"):
        await run(served, tmp_path, circuits=str(wide))
    assert served.posts() == 0


async def test_what_worked_is_in_the_archive_before_a_failure_is_told(
    served: Any, prefect_server: None, tmp_path: Path
) -> None:
    circuits = write_circuits(tmp_path / "circuits")
    arguments: dict[str, Any] = {"circuits": str(circuits), "max_circuits_per_job": 1, "run_key": "partly"}
    switch = served.service.faults.on_job(position=2, ends="Failed", code=1517, reason="broke")
    for _ in range(2):  # what failed for good is told again, and not run again
        with pytest.raises(JobFailed, match="broke"):
            await run(served, tmp_path, **arguments)
        assert read_counts(tmp_path / "kept", run_key="partly")["position"].nunique() == 3
        assert served.posts() == 4
    served.service.faults.assert_all_fired()
    served.service.faults.remove(switch)


async def test_a_transient_failure_is_run_again_and_costs_one_job(
    served: Any, prefect_server: None, tmp_path: Path
) -> None:
    circuits = write_circuits(tmp_path / "circuits")
    switch = served.service.faults.on_job(position=1, ends="Failed", code=5203, reason="Failed to run job.")
    last = await run(served, tmp_path, circuits=str(circuits), max_circuits_per_job=1, run_key="transient")
    served.service.faults.remove(switch)
    counts = read_counts(tmp_path / "kept", run_key="transient")
    assert (len(last["job_ids"]), served.posts(), counts["position"].nunique()) == (4, 5, 4)
    assert sorted(counts["attempt"].unique()) == [1, 2]


# --- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_key_is_left_anywhere(command: Command, environment: dict[str, str], served: Any, tmp_path: Path) -> None:
    canary = "canary-0f3e-key-that-must-not-be-seen"
    home = tmp_path / "home"
    own = {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "QISKIT_IBM_TOKEN": canary,
    }
    circuits = write_circuits(tmp_path / "circuits")
    options = ("--circuits", circuits, "--shots", "20", "--archive", tmp_path / "kept")
    good = command(*options, "--run-key", "canary", **(served.env | own))
    told(good)
    bad = command(*options, "--backend", "nowhere", "--run-key", "wrong", **(served.env | own))
    assert bad.returncode == 1
    # every access token of the service begins like this
    header = make_token(b"", "", issued=0, lifetime=0).partition(".")[0]
    secrets = spellings(canary) | spellings(header)
    places = [file for folder in (home, tmp_path / "kept") for file in folder.rglob("*") if file.is_file()]
    assert any(file.name.startswith("prefect.db") for file in places)
    assert any(file.suffix == ".parquet" for file in places)
    leaks = [(file, secret) for file in places for secret in secrets if secret in file.read_bytes()]
    assert leaks == []
    for text in (good.stdout, good.stderr, bad.stdout, bad.stderr):
        assert not any(secret in text.encode() for secret in secrets)
    with sqlite3.connect(home / "prefect.db") as database:
        assert database.execute("select count(*) from log").fetchone()[0] > 0


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, and the middle of what base64 makes of it at any place in a pickle."""
    coded = {base64.b64encode(b"x" * shift + secret.encode())[4:-4] for shift in range(3)}
    return {secret.encode(), *coded}
