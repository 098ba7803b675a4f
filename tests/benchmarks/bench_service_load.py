"""Many clients at once: two thousand jobs by fifty clients over a socket, and a server that is killed meanwhile.

`python tests/benchmarks/bench_service_load.py [JOBS [CLIENTS [KILLS]]]` prints how long it took, requests that failed,
results that were wrong, and the memory of server and simulator before and after. Each job measures a bit pattern of
its own, so that a result of another job would be noticed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qiskit import QuantumCircuit
from qiskit.primitives.containers.sampler_pub import SamplerPub

from prefect_ibmq.errors import IBMQError, ServiceError
from prefect_ibmq.wire.auth import IAMAuth
from prefect_ibmq.wire.client import RuntimeClient
from prefect_ibmq.wire.job_requests import JobRequest
from prefect_ibmq.wire.programs import build_params
from prefect_ibmq.wire.records import JobRecord
from prefect_ibmq.wire.results import decode_result

BACKEND, QUBITS, SHOTS = "fake_manila", 5, 100
SERVE = """
import sys
from pathlib import Path
from prefect_ibmq.embedded.options import ServiceOptions
from prefect_ibmq.embedded.server import serve_forever
serve_forever(ServiceOptions(store=Path(sys.argv[1]), backends=("fake_manila",), lease_seconds=2.0),
              port=int(sys.argv[2]))
"""


class Server:
    """A served process that can be killed and started again on its port and its store."""

    def __init__(self, folder: Path) -> None:
        self.store, self._port = folder / "service.sqlite", 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self.store), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self._process.stdout.readline())
        self._port = int(self.ready["env"]["IAM_URL"].rpartition(":")[2])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def memory(self) -> tuple[int, int]:
        """Resident memory of the server and of its simulator, in MB."""
        children = Path(f"/proc/{self._process.pid}/task")
        found = [int(word) for task in children.iterdir() for word in (task / "children").read_text().split()]
        return _resident(self._process.pid), sum(_resident(child) for child in found)

    def client(self) -> RuntimeClient:
        auth = IAMAuth(self.ready["token"], self.ready["env"]["IAM_URL"])
        return RuntimeClient(self.ready["url"], self.ready["crn"], auth)


def _resident(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


@dataclass
class Report:
    """What a run found.

    Attributes:
        right: Jobs whose result is their own.
        wrong: Jobs whose result is not.
        errors: What went wrong with requests, by kind.
        ids: The jobs that each tag has.
        starts: How often jobs were begun, from the store.
    """

    right: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    ids: dict[str, list[str]] = field(default_factory=dict)
    starts: Counter[int] = field(default_factory=Counter)


def request(number: int, tags: tuple[str, ...]) -> JobRequest:
    """A job whose most frequent outcome is its number, modulo the number of outcomes."""
    circuit = QuantumCircuit(QUBITS)
    for qubit in range(QUBITS):
        if number >> qubit & 1:
            circuit.x(qubit)
    circuit.measure_all()
    program = "executor" if number % 2 else "sampler"
    params = build_params(program, [SamplerPub.coerce((circuit, None, SHOTS))], shots=SHOTS, options=None)
    return JobRequest(program, BACKEND, params, tags)


def is_right(number: int, program: str, text: bytes) -> bool:
    counts = decode_result(program, text, max_bytes=2**24)[0].data.meas.get_counts()
    likeliest = max(counts, key=lambda key: counts[key])
    return sum(counts.values()) == SHOTS and int(likeliest, 2) == number % 2**QUBITS


async def one_client(server: Server, name: str, numbers: range, report: Report) -> None:
    """Submit, list until all have ended, look at each, read each."""
    async with server.client() as client:
        made: dict[str, int] = {}
        for number in numbers:
            made[await client.create_job(request(number, (name,)))] = number
        while True:
            rows = [row async for row in client.list_jobs(tags=[name])]
            if {row.id for row in rows} == set(made) and all(row.status.is_final for row in rows):
                break
            await asyncio.sleep(0.5)
        for job_id, number in made.items():
            record = await client.job(job_id)
            text = await client.job_results(job_id)
            good = record.status_word == "Completed" and text is not None and is_right(number, record.program, text)
            report.right, report.wrong = report.right + good, report.wrong + (not good)


async def load(server: Server, jobs: int, clients: int) -> Report:
    """Many clients at once; every error is counted."""
    report, each = Report(), jobs // clients

    async def counted(index: int) -> None:
        try:
            await one_client(server, f"client-{jobs}-{index}", range(index * each, (index + 1) * each), report)
        except IBMQError as error:
            report.errors[f"{type(error).__name__}: {error}"] += 1

    await asyncio.gather(*(counted(index) for index in range(clients)))
    return report


async def one_submission(client: RuntimeClient, number: int, report: Report) -> None:
    """Submit once, whatever becomes of the answer: what is not listed under the tag later does not exist."""
    tag = f"killed-{number}"
    while True:
        try:
            rows = [row.id async for row in client.list_jobs(tags=[tag])]
            if rows:
                report.ids[tag] = rows
                return
            await client.create_job(request(number, (tag,)))
        except ServiceError as error:
            report.errors[str(error)] += 1
            return
        except IBMQError:
            await asyncio.sleep(0.2)  # nobody is there, or hung up


async def survive(server: Server, jobs: int, kills: int, seed: int = 1) -> Report:
    """Kill the server at random moments while jobs are submitted and run; read all results in the end."""
    report, draw = Report(), random.Random(seed)

    async def murder() -> None:
        for _ in range(kills):
            await asyncio.sleep(draw.uniform(0.2, 2.5))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    async def submit_all(client: RuntimeClient) -> None:
        for number in range(jobs):
            await one_submission(client, number, report)
            await asyncio.sleep(0.01)

    async with server.client() as client:
        await asyncio.gather(murder(), submit_all(client))
    async with server.client() as client:
        await _read_all(client, report)
    with sqlite3.connect(server.store) as db:
        report.starts = Counter(
            starts for (starts,) in db.execute("SELECT starts FROM jobs WHERE tags LIKE '%killed%'")
        )
    return report


async def _read_all(client: RuntimeClient, report: Report) -> None:
    for tag, ids in report.ids.items():
        number = int(tag.rpartition("-")[2])
        for job_id in ids:
            record = await _ended(client, job_id)
            text = await client.job_results(job_id)
            good = text is not None and is_right(number, record.program, text)
            report.right, report.wrong = report.right + good, report.wrong + (not good)


async def _ended(client: RuntimeClient, job_id: str) -> JobRecord:
    while True:
        record = await client.job(job_id)
        if record.status.is_final:
            return record
        await asyncio.sleep(0.1)


def main() -> None:
    logging.getLogger("stamina").setLevel(logging.ERROR)
    jobs, clients, kills = [*(int(word) for word in sys.argv[1:]), *(2000, 50, 8)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        asyncio.run(load(server, 100, 10))
        before, began = server.memory(), time.monotonic()
        report = asyncio.run(load(server, jobs, clients))
        took, after = time.monotonic() - began, server.memory()
        print(f"{jobs} jobs, {clients} clients: {took:.1f} s, {jobs / took:.0f} jobs/s on {os.cpu_count()} cores")
        print(f"right {report.right}, wrong {report.wrong}, errors {dict(report.errors)}")
        print(f"memory of server and simulator: {before} MB before, {after} MB after")
        report = asyncio.run(survive(server, 300, kills))
        copies = Counter(len(ids) for ids in report.ids.values())
        print(f"{kills} kills: right {report.right}, wrong {report.wrong}, jobs by tag {dict(copies)}")
        print(f"errors {dict(report.errors)}, starts {dict(report.starts)}")
        with suppress(subprocess.TimeoutExpired):
            server.stop()


if __name__ == "__main__":
    main()
