"""The backend that is worth waiting for: estimated success under the calibration of now, weighed against the queue.

The score of a backend is `success * 2 ** (-wait / patience)`: a wait of `patience_seconds` halves its worth. `success`
is the geometric mean of the circuits' estimated success probabilities (`success.py` says what they ignore), each
circuit transpiled for that backend. A gate in use whose error the calibration does not tell counts as the worst of its
kind on the same device, or else on any candidate: a device of which nothing is known should not win.

The wait is the service's median of recent waits. Where it tells none: no jobs pending is no wait; else it counts as the
longest wait that any candidate tells, since a queue of unknown length should not win; and where no candidate tells one,
waits are not counted at all, and of equal scores the one with fewer pending jobs is taken.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from prefect_ibmq.archive.mending import in_order
from prefect_ibmq.backend_records import BackendRecord
from prefect_ibmq.backends import alist_backends, load_all
from prefect_ibmq.errors import CircuitError, InputError, NoBackendLeft
from prefect_ibmq.loop import doors
from prefect_ibmq.provider import IBMQProvider, provider_of
from prefect_ibmq.run_logs import run_logger

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from qiskit import QuantumCircuit

    from prefect_ibmq.circuits import CircuitInput
    from prefect_ibmq.success import ErrorRates

__all__ = ["BackendChoice", "Candidate", "abest_backend", "best_backend"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that was looked at.

    Attributes:
        backend: Its name.
        verdict: `chosen`, `fits`, or why it was rejected.
        score: What it is worth, 0 to 1; None where it was rejected.
        success: Geometric mean of the circuits' estimated success.
        worst: That of the circuit with the worst one.
        wait_seconds: The service's median of recent waits; None where it tells none.
        counted_wait: The wait that the score counts; None where waits were not counted.
        pending_jobs: Jobs of all users in its queue.
        calibration: `last_update_date` of its calibration, ISO 8601.
        note: How errors and a wait that are not told were counted.
    """

    backend: str
    verdict: str
    score: float | None = None
    success: float | None = None
    worst: float | None = None
    wait_seconds: float | None = None
    counted_wait: float | None = None
    pending_jobs: int | None = None
    calibration: str | None = None
    note: str = ""


@dataclass(frozen=True)
class BackendChoice:
    """The backend that was chosen, and why.

    Attributes:
        backend: Its record, loaded.
        candidates: All that were looked at, the best first and those rejected last.
    """

    backend: BackendRecord
    candidates: tuple[Candidate, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The chosen backend's name."""
        return self.backend.name

    @overload
    def table(self, format: Literal["arrow"] = ...) -> pa.Table: ...
    @overload
    def table(self, format: Literal["pandas"]) -> pd.DataFrame: ...
    def table(self, format: Literal["arrow", "pandas"] = "arrow") -> pa.Table | pd.DataFrame:
        """One row for each backend that was looked at, with the columns of `Candidate`."""
        import pyarrow as pa

        kinds = {name: pa.float64() for name in ("score", "success", "worst", "wait_seconds", "counted_wait")}
        kinds |= {"pending_jobs": pa.int64()}
        names = Candidate.__slots__
        made = pa.table(
            {
                name: pa.array([getattr(each, name) for each in self.candidates], kinds.get(name, pa.string()))
                for name in names
            }
        )
        return made if format == "arrow" else made.to_pandas()

    def text(self) -> str:
        """The reasons, a line each."""
        return "\n".join(_line(each) for each in self.candidates)


def _line(each: Candidate) -> str:
    if each.score is None:
        return f"{each.backend}: {each.verdict}"
    wait = "waits not counted" if each.counted_wait is None else f"wait {each.counted_wait:.0f} s"
    note = f" ({each.note})" if each.note else ""
    return f"{each.backend}: {each.verdict}, score {each.score:.4g} = success {each.success:.4g}, {wait}{note}"


async def _best_backend(
    provider: IBMQProvider | str | None = None,
    circuits: Any = None,
    *,
    backends: Sequence[BackendRecord] | None = None,
    patience_seconds: float | None = 3600.0,
    optimization_level: int = 2,
    seed: int | None = None,
    sample: int | None = 8,
    artifact: str | None = None,
    **filters: Any,
) -> BackendChoice:
    """The backend with the best estimated success of circuits, weighed against its queue.

    Each candidate's score is `success * 2 ** (-wait / patience_seconds)`. `success` is the geometric mean of the
    circuits' estimated success probabilities (see `estimate_success`), each transpiled for the candidate under its
    calibration of now; the same again for the chosen backend is not transpiled twice. An error that a calibration does
    not tell counts as the worst of its kind. `wait` is the service's median of recent waits. Where it tells none: none
    if no jobs are pending, else the longest that a candidate tells; where nobody tells one, waits are not counted, and
    of equal scores the one with fewer pending jobs is taken.

    Args:
        provider: The provider, its block's name, or None for the environment's.
        circuits: Whatever `load_circuits` reads, or the inputs of a run.
        backends: Records to choose from; None means those of the provider that pass the filters.
        patience_seconds: The wait that halves a backend's worth; None leaves queues out of account.
        optimization_level: The transpiler's, 0 to 3.
        seed: The transpiler's seed.
        sample: Most circuits that are transpiled for each candidate, taken evenly from the set; None takes all.
        artifact: Key of a table artifact with the reasons; None makes none.
        filters: As `list_backends` takes them; used where `backends` is None.

    Raises:
        CircuitError: A circuit cannot be read.
        InputError: There are no circuits, or `patience_seconds` or `sample` cannot be.
        NoBackendLeft: Every backend was rejected; each one's reason is told.
    """
    if (patience_seconds is not None and patience_seconds <= 0) or (sample is not None and sample < 1):
        raise InputError(
            f"patience_seconds={patience_seconds} and sample={sample} must be positive, or None.",
            hint="None leaves queues out of account, or takes all circuits.",
        )
    chosen = await provider_of(provider)
    inputs = _sampled(await asyncio.to_thread(_read, circuits), sample)
    width = max(item.circuit.num_qubits for item in inputs)
    records, rejected = await _candidates(chosen, backends, width, filters)
    rates = await asyncio.to_thread(_rates, records)
    looked_at = [
        await _estimated(record, each, unknown, inputs, optimization_level, seed)
        for record, (each, unknown) in zip(records, rates, strict=True)
    ]
    ranked = _ranked(looked_at, patience_seconds)
    rejected |= {each.backend: each.verdict for each in looked_at if each.success is None}
    if not ranked:
        raise NoBackendLeft(rejected)
    table = (
        replace(ranked[0], verdict="chosen"),
        *ranked[1:],
        *(Candidate(name, reason) for name, reason in sorted(rejected.items())),
    )
    choice = BackendChoice(next(each for each in records if each.name == ranked[0].backend), table)
    run_logger().info("Chose %s:\n%s", choice.name, choice.text())
    if artifact is not None:
        await _publish(choice, artifact)
    return choice


def _read(circuits: Any) -> list[CircuitInput]:
    from prefect_ibmq.transpilation import inputs_of

    inputs = inputs_of(circuits)
    if not inputs:
        raise InputError("There are no circuits to choose a backend for.")
    return inputs


def _sampled(inputs: list[CircuitInput], most: int | None) -> list[CircuitInput]:
    if most is None or len(inputs) <= most:
        return inputs
    return [inputs[index * len(inputs) // most] for index in range(most)]


async def _candidates(
    provider: IBMQProvider, backends: Sequence[BackendRecord] | None, width: int, filters: dict[str, Any]
) -> tuple[list[BackendRecord], dict[str, str]]:
    """Loaded records that can run the circuits, and why others cannot."""
    rejected: dict[str, str] = {}
    if backends is None:
        filters["min_num_qubits"] = max(width, filters.get("min_num_qubits") or 0)
        backends, rejected = await alist_backends.fn(provider, explain=True, **filters)
    elif filters:
        raise InputError(f"The filters {sorted(filters)} need the provider's list.", hint="Leave `backends` out.")
    fitting = []
    for record in backends or []:
        if record.num_qubits < width:
            rejected[record.name] = f"it has {record.num_qubits} qubits, not {width} or more"
        elif not record.operational:
            rejected[record.name] = f"it is not operational ({record.status_msg})"
        else:
            fitting.append(record)
    client = await provider.aget_client()
    bare = iter(await load_all(client, [each for each in fitting if not each.loaded], everything=True))
    loaded = [each if each.loaded else next(bare) for each in fitting]
    rejected |= {each.name: "the service has no calibration of it" for each in loaded if not each.raw_properties}
    return [each for each in loaded if each.raw_properties], rejected


def _rates(records: Sequence[BackendRecord]) -> list[tuple[ErrorRates, dict[str, float]]]:
    """The errors of each candidate, and what counts for gates of which it tells none."""
    from prefect_ibmq.success import ErrorRates

    rates = [ErrorRates(in_order(record.raw_properties or {})) for record in records]
    anywhere: dict[str, float] = {}
    for each in rates:
        anywhere |= {gate: max(error, anywhere.get(gate, 0.0)) for gate, error in each.worst().items()}
    return [(each, anywhere | each.worst()) for each in rates]


async def _estimated(
    record: BackendRecord,
    rates: ErrorRates,
    unknown: dict[str, float],
    inputs: Sequence[CircuitInput],
    optimization_level: int,
    seed: int | None,
) -> Candidate:
    from prefect_ibmq.transpilation import transpile_for

    try:
        isa = await transpile_for(inputs, record, seed=seed, optimization_level=optimization_level)
    except CircuitError as error:
        return Candidate(record.name, str(error))
    success, worst, note = await asyncio.to_thread(_success, rates, unknown, isa)
    return Candidate(
        backend=record.name,
        verdict="fits",
        success=success,
        worst=worst,
        wait_seconds=record.wait_time_seconds,
        pending_jobs=record.pending_jobs,
        calibration=record.calibration,
        note=note,
    )


def _success(rates: ErrorRates, unknown: dict[str, float], isa: Sequence[QuantumCircuit]) -> tuple[float, float, str]:
    """Geometric mean and worst of the estimates, and how they count what is not told."""
    from prefect_ibmq.success import usage_of_circuit

    found = [rates.estimate(usage_of_circuit(circuit), unknown=unknown) for circuit in isa]
    worst = min(each.probability for each in found)
    logs = [math.log(each.probability) for each in found if each.probability > 0]
    mean = math.exp(math.fsum(logs) / len(found)) if len(logs) == len(found) else 0.0
    missing = {place for each in found for place in each.missing}
    counted = sum(gate in unknown for gate, _ in missing)
    notes = [f"{counted} gates in use have no error in the calibration: counted as the worst of their kind"]
    notes += [f"{len(missing) - counted} have none in any calibration, and are left out"]
    return mean, worst, "; ".join(note for note in notes if not note.startswith("0 "))


def _ranked(candidates: Sequence[Candidate], patience: float | None) -> list[Candidate]:
    """Those that can be used with their scores, the best first."""
    usable = [each for each in candidates if each.success is not None]
    told = [each.wait_seconds for each in usable if each.wait_seconds is not None]
    scored = [_scored(each, max(told, default=None), patience) for each in usable]
    return sorted(scored, key=lambda each: (-(each.score or 0.0), _or_last(each.pending_jobs), each.backend))


def _scored(each: Candidate, longest: float | None, patience: float | None) -> Candidate:
    wait, note = each.wait_seconds, each.note
    if wait is None and each.pending_jobs == 0:
        wait = 0.0
    elif wait is None and longest is not None:
        wait = longest
        note = "; ".join([*([note] if note else []), "its wait is not told: counted as the longest"])
    if patience is None or longest is None:
        wait = None
    success = each.success or 0.0
    score = success if wait is None or patience is None else success * 2.0 ** (-wait / patience)
    return replace(each, score=score, counted_wait=wait, note=note)


def _or_last(pending: int | None) -> float:
    return math.inf if pending is None else float(pending)


async def _publish(choice: BackendChoice, key: str) -> None:
    from prefect.artifacts import acreate_table_artifact

    from prefect_ibmq.artifacts import slug

    rows = [{name: getattr(each, name) for name in Candidate.__slots__} for each in choice.candidates]
    await acreate_table_artifact(rows, key=slug(key), description=f"{choice.name} was chosen by quality and queue.")


best_backend, abest_backend = doors(_best_backend, "best_backend")
