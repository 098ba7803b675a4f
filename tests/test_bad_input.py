"""Bad input and bad answers: an error that tells value, rule and way out; nothing submitted, nothing lost."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pybase64
import pytest
from option_runs import bell
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from prefect_ibmq import (
    ArchiveError,
    AuthenticationError,
    BackendNotFound,
    CircuitError,
    ConfigurationError,
    IBMQCredentials,
    IBMQError,
    IBMQProvider,
    InputError,
    NoBackendLeft,
    NotFound,
    ResultUnreadable,
    SubmissionUnclear,
    TransportError,
    UnusableAnswer,
    fetch_result,
    get_settings,
    least_busy,
    list_backends,
    run_circuits,
    submit_job,
    transpile_circuits,
    wait_for_job,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

GIGABYTE = 2**30


def wide() -> QuantumCircuit:
    circuit = QuantumCircuit(200, name="wide")
    circuit.h(range(200))
    circuit.measure_all()
    return circuit


def unmeasured() -> QuantumCircuit:
    circuit = QuantumCircuit(2, name="unmeasured")
    circuit.h(0)
    return circuit


def unread() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2, name="unread")
    circuit.h(0)
    return circuit


def unbound() -> QuantumCircuit:
    circuit = QuantumCircuit(1, name="unbound")
    circuit.rx(Parameter("theta"), 0)
    circuit.measure_all()
    return circuit


@pytest.fixture
def refused(served: Any, tmp_path: Path) -> Callable[..., IBMQError]:
    """Run something that must be refused, and prove that the service got no job."""

    def call(kind: type[IBMQError], told: str, circuits: Any, backend: Any = "fake_manila", **more: Any) -> IBMQError:
        before = served.jobs()
        arguments = {"provider": served.provider(), "run_key": "bad", "archive": tmp_path / "archive", **more}
        with pytest.raises(kind, match=told) as caught:
            run_circuits(circuits, backend, **arguments)
        assert (served.posts(), served.jobs()) == (0, before)
        assert caught.value.retryable is False
        return caught.value

    return call


# --- circuits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("circuits", "told"),
    [
        (wide(), r"wide.*200 qubits.*has 5.*wider backend"),
        (unmeasured(), r"unmeasured.*no classical bits.*measure_all"),
        (unread(), r"unread.*no measurement.*measure"),
        (unbound(), r"unbound.*unbound parameters \(theta\).*bind them"),
        ((unbound(), [math.nan]), r"not finite.*theta"),
        ((unbound(), {"phi": 1.0}), r"no values for theta and values for phi"),
        ([], r"list is empty.*at least one"),
        (7, r"7|int"),
        ("OPENQASM 2.0;\nqreg q[2]\nh q[0];", r"line [23].*OpenQASM 2"),
        ('OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit q\nh q;', r"line [34].*OpenQASM 3"),
        ("OPENQASM 4.0;\nqubit q;", r"OpenQASM 4.*these two are read"),
        ("/no/such/file.qasm", r"no file '/no/such/file.qasm'"),
    ],
    ids=[
        "wide",
        "unmeasured",
        "unread",
        "unbound",
        "nan",
        "misfit",
        "none",
        "number",
        "qasm2",
        "qasm3",
        "qasm4",
        "file",
    ],
)
def test_circuits_that_cannot_run_are_refused(refused: Any, circuits: Any, told: str) -> None:
    refused(CircuitError, f"(?s){told}", circuits)


def test_each_bad_circuit_is_named_and_the_good_ones_do_not_run(refused: Any) -> None:
    error = refused(CircuitError, "unmeasured", [bell(), unmeasured(), unbound(), bell()])
    assert "position 1" in str(error)
    assert "position 2" in str(error)
    assert "'bell'" not in str(error)


def test_circuits_that_are_not_isa_are_refused_when_nothing_is_transpiled(refused: Any, served: Any) -> None:
    refused(CircuitError, r"(?s)bell.*position 0.*no ISA circuit.*\bh\b.*transpile", bell(), isa=True)
    uncoupled = QuantumCircuit(5, 1)
    uncoupled.cx(0, 4)
    uncoupled.measure(0, 0)
    refused(CircuitError, r"(?s)no ISA circuit.*cx", uncoupled, isa=True)
    refused(CircuitError, r"(?s)no ISA circuit", wide(), isa=True)
    with pytest.raises(CircuitError, match=r"(?s)no ISA circuit.*transpile"):
        submit_job(bell(), "fake_manila", served.provider(), run_key="bad")
    assert served.posts() == 0


@pytest.mark.parametrize(
    ("shots", "told"),
    [
        (0, r"0 shots.*from 1 up"),
        (-5, r"-5 shots.*from 1 up"),
        (True, r"True shots.*whole number"),
        (10.0, r"10\.0 shots.*whole number"),
        ("10", r"'10' shots.*whole number"),
        (10_000_001, r"10,000,001.*10,000,000.*split"),
    ],
)
def test_shots_that_cannot_be_are_refused(refused: Any, shots: Any, told: str) -> None:
    refused(InputError, told, bell(), shots=shots)
    refused(InputError, told, [(bell(), None, shots)])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"tags": ["a", "b", "c"]}, r"3 tags.*2 are free"),
        ({"tags": ["x" * 87]}, r"87 characters.*86.*Shorten"),
        ({"tags": "night"}, r"tags=\['night'\]"),
        ({"tags": [3]}, r"3 is no tag.*text"),
        ({"tags": [""]}, r"'' is no tag"),
        ({"tags": 5}, r"tags=5.*list"),
        ({"tags": ["ibmq-set:abc"]}, r"ibmq-set:abc.*Do not begin"),
        ({"name": "n" * 80}, r"80 characters"),
        ({"name": ""}, r"'' is no name"),
        ({"program": "noise-learner"}, r"noise-learner.*executor, sampler"),
        ({"max_circuits_per_job": 0}, r"max_circuits_per_job=0.*1 or more"),
        ({"max_execution_time": 10_801}, r"10801.*10800"),
        ({"run_key": ""}, r"run_key"),
        ({"colour": "blue"}, r"colour.*Known"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.items()))[:40],
)
def test_arguments_over_the_limits_are_refused(refused: Any, more: dict[str, Any], told: str) -> None:
    refused(InputError, f"(?s){told}", bell(), **more)


# --- backends ----------------------------------------------------------------------------------------------------


def test_unknown_backends_are_refused_with_the_nearest_names(refused: Any) -> None:
    error = refused(BackendNotFound, r"'fake_torinoo'.*fake_torino", bell(), "fake_torinoo")
    assert error.nearest[0] == "fake_torino"
    refused(InputError, "backend", bell(), "  ")


def test_when_no_backend_is_left_each_ones_reason_is_told(refused: Any, served: Any) -> None:
    error = refused(NoBackendLeft, r"fake_manila: it has 5 qubits.*fake_torino: it has 133", wide(), None)
    assert set(error.reasons) == {"fake_manila", "fake_torino"}
    with pytest.raises(NoBackendLeft, match="the filter said no"):
        least_busy(None, served.provider(), filters=lambda backend: False)


# --- account -----------------------------------------------------------------------------------------------------


def test_a_refused_key_is_told_and_never_shown(served: Any, refused: Any) -> None:
    error = refused(AuthenticationError, "(?i)key", bell(), provider=served.provider(token="refused-key"))
    assert "refused-key" not in str(error)
    assert "refused-key" not in repr(served.provider(token="refused-key"))


@pytest.mark.parametrize(
    ("crn", "told"),
    [
        ("crn:v1:bluemix:public:quantum-computing", "CRN"),
        ("crn:v1:bluemix:public:cloud-object-storage:us-east:a/1:2::", "quantum-computing"),
        ("crn:v1:bluemix:public:quantum-computing:us-east:a/:2::", "CRN"),
    ],
)
def test_malformed_crns_are_refused_before_anything_is_asked(served: Any, crn: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        served.provider(crn=crn)
    assert served.seen == []


@pytest.mark.parametrize("change", [("us-east", "eu-de"), ("-000000000000::", "-000000000009::")])
def test_crns_of_another_region_or_that_are_not_ours_are_refused(
    served: Any, refused: Any, change: tuple[str, str]
) -> None:
    crn = served.service.crn.replace(*change)
    assert crn != served.service.crn
    refused(NotFound, "(?i)instance|crn", bell(), provider=served.provider(crn=crn))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"QISKIT_IBM_TOKEN": "k"}, r"QISKIT_IBM_TOKEN, but not QISKIT_IBM_INSTANCE.*none of them"),
        ({"QISKIT_IBM_INSTANCE": "crn:x"}, r"not QISKIT_IBM_TOKEN"),
        ({"QISKIT_IBM_URL": "http://127.0.0.1:9/api/v1"}, r"QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE"),
        ({"IAM_URL": "http://127.0.0.1:9"}, r"QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE"),
    ],
    ids=["no instance", "no key", "address only", "IAM only"],
)
def test_half_an_environment_is_an_error_and_never_local(
    refused: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    refused(ConfigurationError, told, bell(), provider=None)


def test_an_unreachable_service_is_told(served: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "1")
    credentials = IBMQCredentials(token="local", url="http://127.0.0.1:9/api/v1", iam_url="http://127.0.0.1:9")
    provider = IBMQProvider(credentials=credentials, instance=served.service.crn)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        run_circuits(bell(), "fake_manila", provider, run_key="bad")


# --- archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "in a file", "proc", "empty", "web", "password"])
def test_archives_that_cannot_be_written_are_told_before_anything_is_asked(
    served: Any, refused: Any, tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").write_text("taken")
    path = {
        "file": str(tmp_path / "file"),
        "in a file": str(tmp_path / "file" / "archive"),
        "proc": "/proc/archive",
        "empty": "",
        "web": "https://example.org/archive",
        "password": "s3://key:secret-part@bucket/path",
    }[where]
    error = refused(ArchiveError, "(?i)archive|address|secret|password", bell(), archive=path)
    assert where == "password" or path.rstrip("/") in str(error) or repr(path) in str(error)
    assert "secret-part" not in str(error)
    assert served.seen == []


# --- answers that are not the service's --------------------------------------------------------------------------


def sends(
    *chunks: bytes,
    status: int = 200,
    kind: str = "application/json",
    length: int | None = None,
    times: int = 1,
    **head: str,
) -> Any:
    """An answer in pieces, the last one repeated; `length` announces another size than comes."""

    async def act(app: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = {"content-type": kind, **{name.replace("_", "-"): value for name, value in head.items()}}
        headers |= {"content-length": str(length)} if length is not None else {}
        start = [(name.encode(), value.encode()) for name, value in headers.items()]
        gone = asyncio.create_task(_disconnected(receive))
        await send({"type": "http.response.start", "status": status, "headers": start})
        for chunk in (*chunks[:-1], *[chunks[-1]] * times):
            if gone.done():
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    return act


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@functools.cache
def packed_gigabyte() -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    blank = bytes(2**20)
    return b"".join([*(stream.compress(blank) for _ in range(1024)), stream.flush()])


ANSWERS = {
    "cut": lambda: sends(b'{"devices": [', length=500),
    "cut json": lambda: sends(b'{"devices": ['),
    "text": lambda: sends(b"all is well"),
    "page": lambda: sends(b"<!doctype html><html>Just a moment</html>", kind="text/html", cf_ray="8f3-FRA"),
    "list": lambda: sends(b"[1, 2]"),
    "gigabyte announced": lambda: sends(b"{}", length=GIGABYTE),
    "gigabyte": lambda: sends(b'{"x": "', b"x" * 2**20, times=1024),
    "unpacks to a gigabyte": lambda: sends(packed_gigabyte(), content_encoding="gzip"),
}


class Peak:
    """How far the memory of this process has grown since."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._status("VmRSS")

    @staticmethod
    def _status(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def grown(self) -> int:
        """Bytes."""
        return self._status("VmHWM") - self._before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, served: Any) -> Any:
    """A provider that asks once, with a client of its own."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "1")
    provider = served.provider(token="impatient")
    yield provider
    provider.close()


@pytest.mark.parametrize("answer", ANSWERS)
def test_foreign_answers_of_reads_are_refused_without_filling_the_memory(
    served: Any, impatient: Any, answer: str
) -> None:
    list_backends(impatient)
    served.fail("GET", "/backends", ANSWERS[answer]())
    peak = Peak()
    with pytest.raises(TransportError, match=r"GET /(api/v1/)?backends"):
        list_backends(impatient)
    assert peak.grown() < 200 * 2**20
    assert served.posts() == 0
    assert len(list_backends(impatient)) == 2


@pytest.mark.parametrize("answer", ["cut", "page"])
def test_reads_are_asked_again_where_that_can_help(served: Any, answer: str) -> None:
    served.fail("GET", "/backends", ANSWERS[answer]())
    if answer == "cut":
        assert len(list_backends(served.provider())) == 2
    else:
        with pytest.raises(UnusableAnswer, match="cf-ray 8f3-FRA"):
            list_backends(served.provider())


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
@pytest.mark.parametrize("answer", [*ANSWERS, "status 500", "status 408", "no id"])
def test_foreign_answers_of_the_post_are_looked_up_before_anything_is_posted_again(
    served: Any, impatient: Any, tmp_path: Path, answer: str, taken: bool
) -> None:
    errors = json.dumps({"errors": [{"code": 1000, "message": "trouble"}], "trace": "t"}).encode()
    more = {"status 500": sends(errors, status=500), "status 408": sends(errors, status=408), "no id": sends(b"{}")}
    says = more[answer] if answer in more else ANSWERS[answer]()

    async def after_the_service(app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, _nowhere)
        await says(app, scope, _silence, send)

    async def instead_of_it(app: Any, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await says(app, scope, receive, send)

    before = served.jobs()
    arguments: dict[str, Any] = {"shots": 10, "run_key": f"{answer} {taken}", "archive": tmp_path}
    served.fail("POST", "/jobs", after_the_service if taken else instead_of_it)
    peak = Peak()
    result = run_circuits(bell(), "fake_manila", impatient, **arguments)
    assert peak.grown() < 200 * 2**20
    assert result[0].data.meas.num_shots == 10
    asked = [request for request in served.seen if request[1] == "/jobs"]
    first = asked.index(("POST", "/jobs"))
    assert asked[first + 1] == ("GET", "/jobs")
    assert (served.posts(), served.jobs() - before) == (2 - int(taken), 1)


def test_foreign_answers_of_every_post_end_in_an_error_that_says_the_way_on(
    served: Any, impatient: Any, tmp_path: Path
) -> None:
    async def page(app: Any, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await ANSWERS["page"]()(app, scope, receive, send)

    before = served.jobs()
    served.fail("POST", "/jobs", page, times=10)
    with pytest.raises(SubmissionUnclear, match=r"(?s)unclear.*several times.*run key"):
        run_circuits(bell(), "fake_manila", impatient, shots=10, run_key="every post", archive=tmp_path)
    assert (served.posts(), served.jobs() - before) == (3, 0)


async def _nowhere(message: Any) -> None:
    del message


async def _silence() -> Any:
    await asyncio.sleep(3600)


@pytest.fixture
def completed(served: Any, impatient: Any, tmp_path: Path) -> Any:
    """Handle of a completed job whose result nobody has fetched."""

    def make(key: str) -> Any:
        isa = transpile_circuits(bell(), "fake_manila", impatient)
        handle = submit_job(isa, "fake_manila", impatient, shots=10, run_key=key, archive=tmp_path)
        return wait_for_job(handle, impatient, archive=tmp_path)

    return make


@pytest.mark.parametrize("answer", ANSWERS)
def test_foreign_answers_of_results_lose_nothing(
    served: Any, impatient: Any, completed: Any, tmp_path: Path, answer: str
) -> None:
    handle = completed(answer)
    served.fail("GET", f"/jobs/{handle.job_id}/results", ANSWERS[answer]())
    peak = Peak()
    if answer == "cut" or "gigabyte" in answer:  # what is too large is not asked for again, nor is it by the impatient
        with pytest.raises(TransportError):
            fetch_result(handle, impatient, archive=tmp_path)
        assert not list(tmp_path.glob("runs/*/raw.*"))
    result = fetch_result(handle, impatient, archive=tmp_path)
    assert result[0].data.meas.num_shots == 10
    assert peak.grown() < 250 * 2**20
    assert not list(get_settings().folder().glob("incoming/*"))


def test_a_result_that_unpacks_to_a_gigabyte_is_refused_and_kept(
    served: Any, impatient: Any, completed: Any, tmp_path: Path
) -> None:
    handle = completed("inner bomb")
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    tensor = {"data": pybase64.b64encode(bomb).decode(), "shape": [8 * GIGABYTE // 8, 8], "dtype": "bool"}
    payload = {
        "schema_version": "v2.0",
        "data": [{"results": {"meas": tensor}, "metadata": {}}],
        "metadata": {"chunk_timing": []},
        "passthrough_data": {"post_processor": {"version": "v0.1", "circuits_metadata": [{}]}},
        "semantic_role": "sampler_v2",
    }
    served.fail("GET", f"/jobs/{handle.job_id}/results", sends(json.dumps(payload).encode()), times=10)
    peak = Peak()
    with pytest.raises(ResultUnreadable, match="stored"):
        fetch_result(handle, impatient, archive=tmp_path)
    assert peak.grown() < 200 * 2**20
    served.faults.clear()
    assert fetch_result(handle, impatient, archive=tmp_path)[0].data.meas.num_shots == 10
