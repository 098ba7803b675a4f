"""How many requests an undisturbed run sends and how long it takes; and what waiting for a thousand jobs costs.

`python tests/benchmarks/bench_requests.py` prints both. The first is measured over a socket, beside the barest way
through the same service: POST each job, list until all have ended, GET each result. The second is in virtual time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "wire"), str(TESTS / "faults")]
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")

import httpx  # noqa: E402 - Prefect reads the environment when it is imported
from fault_harness import circuits, counts_of  # noqa: E402
from test_watcher import Service, ended  # noqa: E402
from virtual_time import in_virtual_time  # noqa: E402

from prefect_ibmq import IBMQCredentials, IBMQProvider, run_circuits  # noqa: E402
from prefect_ibmq.wire.watcher import Watcher  # noqa: E402

JOBS, PER_JOB, SHOTS = 12, 5, 500
SERVE = """
import sys
from prefect_ibmq.embedded.options import ServiceOptions
from prefect_ibmq.embedded.server import serve_forever
serve_forever(ServiceOptions(backends=("fake_manila",), queue_seconds=float(sys.argv[1])))
"""


@dataclass(frozen=True)
class Night:
    """An undisturbed run of 12 jobs of 5 circuits.

    Attributes:
        bare: Seconds of the barest way.
        ours: Seconds of `run_circuits`.
    """

    requests: int
    connections: int
    bare: float
    ours: float


class Meter:
    """Counts requests and connections of this process's async clients while it is on."""

    def __init__(self) -> None:
        self.requests = self.connections = 0
        self.bodies: list[bytes] = []
        self._own = httpx.AsyncHTTPTransport.handle_async_request

    def __enter__(self) -> Meter:
        own = self._own

        async def handle(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
            self.requests += 1
            if request.method == "POST" and request.url.path.endswith("/jobs"):
                self.bodies.append(request.content)
            further = request.extensions.get("trace")

            async def trace(event: str, info: dict[str, Any]) -> None:
                self.connections += event == "connection.connect_tcp.complete"
                if further is not None:
                    await further(event, info)

            request.extensions = {**request.extensions, "trace": trace}
            return await own(transport, request)

        httpx.AsyncHTTPTransport.handle_async_request = handle  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        httpx.AsyncHTTPTransport.handle_async_request = self._own  # type: ignore[method-assign]


def bare_seconds(ready: dict[str, Any], bodies: list[bytes], pause: float) -> float:
    """The same jobs, one request each, and a list every so often."""
    headers = {"Authorization": f"apikey {ready['token']}", "Service-CRN": ready["crn"]}
    headers |= {"IBM-API-Version": "2026-04-15", "Content-Type": "application/json"}
    began = time.perf_counter()
    with httpx.Client(base_url=ready["url"], headers=headers, timeout=60) as client:
        made = {client.post("/jobs", content=body).raise_for_status().json()["id"] for body in bodies}
        while True:
            rows = client.get("/jobs", params={"limit": 200, "exclude_params": "true"}).json()["jobs"]
            if made <= {row["id"] for row in rows if row["status"] == "Completed"}:
                break
            time.sleep(pause)
        for job_id in made:
            client.get(f"/jobs/{job_id}/results").raise_for_status()
    return time.perf_counter() - began


def a_night(queue_seconds: float) -> Night:
    """Measure both ways through a service whose jobs are queued for so long."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(queue_seconds)], stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        ready = json.loads(served.stdout.readline())
        root = ready["url"].removesuffix("/api/v1")
        credentials = IBMQCredentials(token=ready["token"], url=ready["url"], iam_url=root)

        def run(archive: str, number: int = JOBS * PER_JOB) -> Any:
            provider = IBMQProvider(credentials=credentials, instance=ready["crn"])
            return run_circuits.fn(
                circuits(number),
                "fake_manila",
                provider,
                SHOTS,
                run_key="night",
                isa=True,
                max_circuits_per_job=PER_JOB,
                archive=archive,
            )

        try:
            with tempfile.TemporaryDirectory() as folder:
                with Meter() as warming:  # imports, and the simulating process
                    run(f"{folder}/warm", PER_JOB)
                IBMQProvider(credentials=credentials, instance=ready["crn"]).close()
                with Meter() as meter:
                    began = time.perf_counter()
                    assert len(counts_of(run(f"{folder}/night"))) == JOBS * PER_JOB
                    ours = time.perf_counter() - began
            assert len(warming.bodies) == 1
            bare = bare_seconds(ready, meter.bodies, pause=0.05)
        finally:
            served.terminate()
    return Night(meter.requests, meter.connections, bare, ours)


def an_hour(jobs: int = 1000) -> tuple[int, float]:
    """Requests that waiting for so many jobs takes, and the delay within which 95 % of their ends are seen."""

    async def main() -> tuple[int, float]:
        rng = random.Random(5)
        service = Service(jobs, lambda number: rng.uniform(30, 3600))
        watcher = Watcher(service)
        told = await asyncio.gather(*(ended(watcher, job_id, tag="set") for job_id in service.ends))
        delays = sorted(at - service.ends[record.id] for record, at, _ in told)
        return service.requests, delays[int(len(delays) * 0.95)]

    waited: tuple[int, float] = in_virtual_time(main())
    return waited


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFECT_INTEGRATIONS_IBMQ_HOME"] = home
        night = a_night(queue_seconds=20)
    print(
        f"{JOBS} jobs x {PER_JOB} circuits: {night.requests} requests (45 at most), {night.connections} connections "
        f"(2 at most), {night.ours:.2f} s against {night.bare:.2f} s of the barest way: "
        f"{night.ours / night.bare:.2f} times (1.15 at most)"
    )
    requests, delay = an_hour()
    print(
        f"1000 jobs queued for an hour: {requests} requests (1500 at most), "
        f"95 % of completions seen within {delay:.1f} s (30 at most)"
    )


if __name__ == "__main__":
    main()
