"""The folder of a run: its plan, intents, handles and raw results. It survives everything that a process does not.

`<archive>/runs/<set key>/`, or under `$PREFECT_HOME/ibmq` where there is no archive. In it: `plan.json` with
`isa.qpy` (written before the first POST and read back by every later attempt), an intent a part and attempt written
before its POST, its handle after it, and the raw result before anything decodes it. Each file is
written whole or not at all. `<archive>/run_keys/` tells which sets a run key has.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from prefect_ibmq.errors import ArchiveError
from prefect_ibmq.handles import JobHandle, id_of
from prefect_ibmq.settings import get_settings
from prefect_ibmq.tags import set_tag

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.bindings_array import BindingsArray
    from qiskit.transpiler import Target

    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.budget import Ledger
    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.submission_gate import SubmissionGate
    from prefect_ibmq.wire.client import RuntimeClient
    from prefect_ibmq.wire.submission import SetListing
    from prefect_ibmq.wire.turns import Turns

__all__ = [
    "Intent",
    "Part",
    "Plan",
    "Run",
    "handle_path",
    "raw_path",
    "read_or_none",
    "stored_handle",
    "stored_values",
]

_reading = threading.Lock()


class Part(BaseModel):
    """The circuits of one job: places `first` to `last` of the plan, inclusive.

    Attributes:
        backend: Where its job runs already, if that is not the plan's backend.
        seconds: Estimated QPU seconds of the job, or None where nobody has estimated them.
        merged: Places that run together as one parametric PUB (`merging.py`); the others are PUBs of their own.
    """

    model_config = ConfigDict(frozen=True)

    first: int
    last: int
    shots: int
    backend: str | None = None
    seconds: float | None = None
    merged: tuple[tuple[int, ...], ...] = ()

    def pubs(self, places: Iterable[int] | None = None) -> list[tuple[int, ...]]:
        """The places of each PUB of its job, in the order of the PUBs; of other places where they are given."""
        inside = range(self.first, self.last + 1) if places is None else places
        rest = set(inside) - {place for group in self.merged for place in group}
        return sorted([*self.merged, *((place,) for place in rest)])

    @property
    def label(self) -> str:
        """`<first>-<last>`."""
        return f"{self.first}-{self.last}"


class Plan(BaseModel):
    """What a run is going to do; written once, before anything is sent.

    Attributes:
        options: The options in their one form (`options.py`).
        notes: What travels with the jobs and changes nothing of them: `header`, `memory`.
        circuits: Name of each circuit, by place; plans of older versions have none.
        shots: Shots of each, as they are run.
        calibration: `last_update_date` of the calibration that they were transpiled for, ISO 8601, or None.
        snapshot: Id of that calibration, whose payload is in the archive.
        positions: Position of each in the set as given, where they do not run in that order; else empty.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    run_key: str
    set_key: str
    channel: str
    host: str
    instance: str
    backend: str
    program: str
    simulated: bool
    parts: tuple[Part, ...]
    calibration: str | None = None
    snapshot: str | None = None
    options: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    seed: int | None = None
    made: datetime
    circuits: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()

    def position(self, place: int) -> int:
        """The position in the set as given of what runs at a place."""
        return self.positions[place] if self.positions else place

    def reorders(self, part: Part) -> bool:
        """Whether a part runs other positions than its places say."""
        return any(self.position(place) != place for place in range(part.first, part.last + 1))


class Intent(BaseModel):
    """Says that a part is about to be posted, or was and nobody knows what became of it.

    Attributes:
        at: When it was written, just before the POST.
        withdrawn: Whether it is proved that nothing was accepted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    part: str
    attempt: int
    at: AwareDatetime
    withdrawn: bool = False


class Run:
    """The folder of one run, and what it is going to run.

    Not a dataclass: Prefect walks through those, with all circuits in them, each time that a task is given one.

    Attributes:
        archive: Where the folder lies.
        run_key: What the author calls the run.
        set_key: Content key of the set.
        inputs: The circuits as given; by place of the plan, once there is one.
        shots: Shots of each: what was asked for, and once there is a plan what is run.
        options: The options in their one form (`options.py`).
        notes: What travels with the jobs and changes nothing of them: `header`, `memory`.
        shots_are_default: Whether nobody asked for a number of shots.
        target: The target of the plan's backend, for preparing circuits; None where it was not needed yet.
        order: Tells this opening of the run from others in the process.
        halted: Whether nothing more is to be posted for it.
    """

    def __init__(
        self,
        *,
        archive: Archive,
        run_key: str,
        set_key: str,
        inputs: Sequence[CircuitInput],
        shots: Sequence[int],
        options: dict[str, Any] | None = None,
        notes: dict[str, Any] | None = None,
        shots_are_default: bool = False,
    ) -> None:
        self.archive, self.run_key, self.set_key = archive, run_key, set_key
        self.inputs, self.shots, self.options = tuple(inputs), tuple(shots), dict(options or {})
        self.notes, self.shots_are_default = dict(notes or {}), shots_are_default
        self.target: Target | None = None
        self.order, self.halted = uuid4().hex, False
        self._isa: list[QuantumCircuit] = []
        self._listing: SetListing | None = None
        self._turns: Turns | None = None
        self._ledger: Ledger | None = None
        self._gate: SubmissionGate | None = None

    def ledger(self, client: RuntimeClient, budget: float | None) -> Ledger:
        """What the run may still use of a budget."""
        from prefect_ibmq.budget import Ledger

        with _reading:
            if self._ledger is None:
                self._ledger = Ledger(client, budget)
            return self._ledger

    def gate(self, client: RuntimeClient, plan: Plan) -> SubmissionGate:
        """What looks at the device's calibration before a part is posted; one for all parts."""
        from prefect_ibmq.submission_gate import SubmissionGate

        with _reading:
            if self._gate is None:
                self._gate = SubmissionGate(client, self, plan)
            return self._gate

    def listing(self, client: RuntimeClient) -> SetListing:
        """The set's jobs on the service, asked once for all parts."""
        from prefect_ibmq.wire.submission import SetListing

        with _reading:
            if self._listing is None:
                self._listing = SetListing(client, set_tag(self.set_key), get_settings().settle_seconds)
            return self._listing

    @property
    def turns(self) -> Turns:
        """Whose turn it is among the parts that are being submitted."""
        from prefect_ibmq.wire.turns import Turns

        with _reading:
            if self._turns is None:
                self._turns = Turns()
            return self._turns

    @property
    def width(self) -> int:
        """Qubits of the widest circuit as given."""
        return max(int(item.circuit.num_qubits) for item in self.inputs)

    @property
    def folder(self) -> str:
        """The folder's path within the archive."""
        return f"runs/{self.set_key}"

    def __repr__(self) -> str:
        return f"Run({self.run_key!r}, {len(self.inputs)} circuits, set {self.set_key[:12]})"

    def plan(self) -> Plan | None:
        """The plan of an earlier attempt, or None."""
        text = read_or_none(self.archive, f"{self.folder}/plan.json")
        if text is None:
            return None
        try:
            plan = Plan.model_validate_json(text)
        except ValidationError as error:
            raise ArchiveError(
                f"The plan in {self.archive.url}/{self.folder} cannot be read: {error.error_count()} fields are wrong."
            ) from error
        self.arrange(plan.positions)
        if plan.program == "estimator" and self.inputs:
            self._know_observables()
        if len(plan.shots) == len(self.inputs):
            self.settle_shots(plan.shots)
        return plan

    def _know_observables(self) -> None:
        """Take over the observables as the plan laid them out on the qubits of its ISA circuits."""
        from prefect_ibmq.observables import loaded_observables

        content = read_or_none(self.archive, f"{self.folder}/observables.json")
        if content is not None:
            told = loaded_observables(content)
            with _reading:
                pairs = zip(self.inputs, told, strict=True)
                self.inputs = tuple(replace(item, observed=observed) for item, observed in pairs)

    def settle_shots(self, shots: Sequence[int]) -> None:
        """Take over the shots that are run, by place, where backend and options decide them."""
        with _reading:
            self.shots = tuple(shots)
            pairs = zip(self.inputs, self.shots, strict=True)
            self.inputs = tuple(item if item.shots == count else replace(item, shots=count) for item, count in pairs)

    def arrange(self, positions: Sequence[int]) -> None:
        """Put the circuits in the order in which a plan runs them; an empty order is that of the set as given."""
        with _reading:
            order = positions or sorted(item.position for item in self.inputs)
            given = {item.position: (item, count) for item, count in zip(self.inputs, self.shots, strict=True)}
            if set(order) == set(given):
                self.inputs = tuple(given[position][0] for position in order)
                self.shots = tuple(given[position][1] for position in order)

    def write_plan(self, plan: Plan, isa: Sequence[QuantumCircuit]) -> Plan:
        """Keep a plan and its ISA circuits. An earlier plan wins: two attempts must not run two plans."""
        from prefect_ibmq.observables import dumped_observables
        from prefect_ibmq.transpilation import dumps_circuits

        earlier = self.plan()
        if earlier is not None:
            return earlier
        self.archive.storage.put(f"{self.folder}/isa.qpy", dumps_circuits(isa))
        if (swept := _dumped_values(self.inputs)) is not None:
            self.archive.storage.put(f"{self.folder}/parameters.json", swept)
        if (observed := dumped_observables(self.inputs)) is not None:
            self.archive.storage.put(f"{self.folder}/observables.json", observed)
        # Before the plan: who finds a plan writes nothing more.
        self.archive.storage.put(f"{self._called}/{self.set_key}", self.run_key.encode())
        self.archive.storage.put(f"{self.folder}/plan.json", plan.model_dump_json(indent=1).encode())
        return plan

    def namesakes(self) -> list[str]:
        """Set keys of the other sets that were planned, or nearly so, with this run key in this archive."""
        names = (name.rsplit("/", 1)[-1] for name in self.archive.storage.names(self._called))
        return [name for name in names if name != self.set_key]

    @property
    def _called(self) -> str:
        return f"run_keys/{hashlib.sha256(self.run_key.encode()).hexdigest()[:32]}"

    def isa_circuits(self) -> list[QuantumCircuit]:
        """The plan's ISA circuits, one a position; read once, and not to be changed."""
        from prefect_ibmq.transpilation import loads_circuits

        with _reading:
            if not self._isa:
                content = read_or_none(self.archive, f"{self.folder}/isa.qpy")
                if content is None:
                    raise ArchiveError(f"The run's ISA circuits are missing from {self.archive.url}/{self.folder}.")
                self._isa.extend(loads_circuits(content))
            return self._isa

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_isa": [],
            "_listing": None,
            "_turns": None,
            "_ledger": None,
            "_gate": None,
            "target": None,
        }  # they can be read again

    def claim_of(self, part: Part | JobHandle) -> str:
        """The name of a part within a flow run."""
        return f"{self.set_key}/{part.first}-{part.last}"

    def write_intent(self, part: Part, attempt: int) -> None:
        """Say that this part is about to be posted."""
        self._put_intent(Intent(part=part.label, attempt=attempt, at=datetime.now(UTC)))

    def withdraw_intent(self, part: Part, attempt: int) -> None:
        """Take an intent back: it is proved that nothing was accepted."""
        self._put_intent(Intent(part=part.label, attempt=attempt, at=datetime.now(UTC), withdrawn=True))

    def _put_intent(self, intent: Intent) -> None:
        path = self._intent_path(intent.part, intent.attempt)
        self.archive.storage.put(path, intent.model_dump_json(exclude_none=True).encode())

    def _intent_path(self, label: str, attempt: int) -> str:
        return f"{self.folder}/intent.{label}.{attempt}.json"

    def intent(self, part: Part, attempt: int) -> Intent | None:
        """What an earlier attempt said before it posted this part; None where it said nothing, or took it back."""
        text = read_or_none(self.archive, self._intent_path(part.label, attempt))
        if text is None:
            return None
        try:
            intent = Intent.model_validate_json(text)
        except ValidationError:
            # Cut by a dying disk: something was about to be posted, at a time that nobody knows.
            return Intent(part=part.label, attempt=attempt, at=datetime.now(UTC))
        return None if intent.withdrawn else intent

    def write_handle(self, part: Part, handle: JobHandle) -> None:
        """Keep the handle of a part's job."""
        self.archive.storage.put(handle_path(handle), handle.to_json().encode())

    def handle(self, part: Part, attempt: int = 1) -> JobHandle | None:
        """The handle of a part's job, or None."""
        return _read_handle(self.archive, f"{self.folder}/handle.{part.label}.{attempt}.json")


def _dumped_values(inputs: Sequence[CircuitInput]) -> bytes | None:
    """The parameter values of a set as JSON, one entry a circuit; None where no circuit has any."""
    if all(item.parameter_values is None for item in inputs):
        return None
    told: list[dict[str, Any] | None] = []
    for item in inputs:
        values = item.parameter_values
        names = [name for keys in values.data for name in keys] if values is not None else []
        shape = list(values.shape) if values is not None else []
        array = values.as_array(names).tolist() if values is not None and names else []
        told.append(None if values is None else {"names": names, "shape": shape, "values": array})
    return json.dumps(told).encode()


def stored_values(archive: Archive, set_key: str, circuits: int) -> list[BindingsArray | None]:
    """The parameter values of a run's circuits, by place, as its folder tells them."""
    from qiskit.primitives.containers.bindings_array import BindingsArray

    content = read_or_none(archive, f"runs/{set_key}/parameters.json")
    told = json.loads(content) if content is not None else [None] * circuits
    return [
        None
        if each is None
        else BindingsArray({tuple(each["names"]): each["values"]} if each["names"] else {}, shape=tuple(each["shape"]))
        for each in told
    ]


def read_or_none(archive: Archive, name: str) -> bytes | None:
    """The bytes of a file of an archive, or None where there is none."""
    return archive.storage.read(name) if archive.storage.exists(name) else None


def raw_path(handle: JobHandle) -> str:
    """Where a job's raw result lies within an archive."""
    return _path_of(handle, "raw")


def handle_path(handle: JobHandle) -> str:
    """Where a job's handle lies within an archive."""
    return _path_of(handle, "handle")


def _path_of(handle: JobHandle, what: str) -> str:
    if handle.set_key:
        return f"runs/{handle.set_key}/{what}.{handle.first}-{handle.last}.{handle.attempt}.json"
    return f"runs/jobs/{what}.{quote(handle.job_id, safe='')}.json"


def stored_handle(archive: Archive, job: JobHandle | str) -> JobHandle | None:
    """The handle that an archive keeps of a job; None where it keeps none, or that of another job."""
    path = handle_path(job) if isinstance(job, JobHandle) else f"runs/jobs/handle.{quote(job, safe='')}.json"
    kept = _read_handle(archive, path)
    job_id = id_of(job)
    return kept if kept is not None and kept.job_id == job_id else None


def _read_handle(archive: Archive, path: str) -> JobHandle | None:
    text = read_or_none(archive, path)
    if text is None:
        return None
    try:
        return JobHandle.from_json(text)
    except ValidationError:
        # A file cut by a dying disk says no more than that a job may exist; the intent says that too.
        return None
