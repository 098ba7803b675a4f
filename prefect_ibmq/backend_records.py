"""What is known of a backend at one moment: `BackendRecord`, and its calibration as `PropertiesRecord`."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq.archive.dates import parse_date
from prefect_ibmq.archive.units import si_unit
from prefect_ibmq.errors import InputError, NotOffered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qiskit.circuit import Instruction
    from qiskit.transpiler import InstructionDurations, Target

    from prefect_ibmq.provider import IBMQProvider
    from prefect_ibmq.wire.records import BackendStatus, BackendSummary

__all__ = ["BackendRecord", "PropertiesRecord", "no_reservations", "target_of"]


class PropertiesRecord:
    """A backend's calibration: what was measured, when, in SI units. An absent value is None.

    Args:
        payload: As the service sends it (`GET /backends/{id}/properties`).
    """

    def __init__(self, payload: dict[str, Any]) -> None:
        self.raw = payload

    def __repr__(self) -> str:
        return f"PropertiesRecord({self.backend_name!r}, last_update_date={self.last_update_date})"

    @property
    def backend_name(self) -> str:
        """The backend's name."""
        return str(self.raw.get("backend_name", ""))

    @property
    def last_update_date(self) -> datetime | None:
        """When the calibration was last changed, in UTC."""
        return parse_date(self.raw.get("last_update_date"))

    @functools.cached_property
    def _qubits(self) -> list[dict[str, dict[str, Any]]]:
        return [{each["name"]: each for each in qubit if "name" in each} for qubit in self.raw.get("qubits") or []]

    @functools.cached_property
    def _gates(self) -> dict[tuple[str, tuple[int, ...]], dict[str, dict[str, Any]]]:
        return {
            (gate["gate"], tuple(gate["qubits"])): {
                each["name"]: each for each in gate.get("parameters") or [] if "name" in each
            }
            for gate in self.raw.get("gates") or []
            if "gate" in gate and "qubits" in gate
        }

    def qubit_property(self, qubit: int, name: str) -> float | None:
        """One measured value of a qubit in SI units, such as `T1` in seconds; None where it is absent."""
        if not 0 <= qubit < len(self._qubits):
            raise InputError(f"{self.backend_name} has no qubit {qubit!r}.", hint=f"It has {len(self._qubits)}.")
        return _si(self._qubits[qubit].get(name))

    def t1(self, qubit: int) -> float | None:
        """Relaxation time of a qubit in seconds."""
        return self.qubit_property(qubit, "T1")

    def t2(self, qubit: int) -> float | None:
        """Dephasing time of a qubit in seconds."""
        return self.qubit_property(qubit, "T2")

    def frequency(self, qubit: int) -> float | None:
        """Frequency of a qubit in hertz; devices of today do not tell it."""
        return self.qubit_property(qubit, "frequency")

    def readout_error(self, qubit: int) -> float | None:
        """Probability of reading a qubit wrong."""
        return self.qubit_property(qubit, "readout_error")

    def readout_length(self, qubit: int) -> float | None:
        """Duration of reading a qubit in seconds."""
        return self.qubit_property(qubit, "readout_length")

    def gate_property(self, gate: str, qubits: int | Iterable[int], name: str) -> float | None:
        """One measured value of a gate on given qubits, in order, in SI units."""
        pair = (qubits,) if isinstance(qubits, int) else tuple(qubits)
        return _si(self._gates.get((gate, pair), {}).get(name))

    def gate_error(self, gate: str, qubits: int | Iterable[int]) -> float | None:
        """Error of a gate on given qubits. A value of 1 or more is the service's word for "not measured"."""
        return self.gate_property(gate, qubits, "gate_error")

    def gate_length(self, gate: str, qubits: int | Iterable[int]) -> float | None:
        """Duration of a gate on given qubits in seconds."""
        return self.gate_property(gate, qubits, "gate_length")


def _si(entry: dict[str, Any] | None) -> float | None:
    if entry is None or entry.get("value") is None:
        return None
    unit = str(entry.get("unit") or "")
    known = si_unit(unit)
    if known is None:
        raise InputError(f"The service sent {entry.get('name')!r} in the unknown unit {unit!r}.")
    return float(entry["value"]) * known[1]


# What the IBMQ API told of backends and the configurations of today tell of some only, or of none.
_OPTIONAL = frozenset(
    {
        *("channel_bandwidth", "channels", "configurable", "credits_required", "display_name", "dt", "dtm"),
        *("max_circuits", "meas_kernels", "meas_levels", "meas_lo_range", "measure_esp_enabled", "n_registers"),
        *("n_uchannels", "parametric_pulses", "processor_type", "quantum_volume", "qubit_lo_range", "register_map"),
        *(
            "hamiltonian",
            "rep_times",
            "sample_name",
            "tags",
            "u_channel_lo",
            "acquisition_latency",
            "conditional_latency",
        ),
        *("default_rep_delay", "description", "discriminators", "rep_delay_range", "dynamic_reprate_enabled"),
    }
)
# What backends of the IBMQ API did themselves, and records, which open no connection, leave to tasks.
_TASKS = {
    "run": "run_circuits(circuits, {name!r})",
    "jobs": "list_jobs(provider, backend_name={name!r})",
    "retrieve_job": "retrieve_job(provider, job_id, {name!r})",
    "active_jobs": "active_jobs(provider, {name!r})",
    "job_limit": "job_limit(provider, {name!r})",
    "remaining_jobs_count": "remaining_jobs_count(provider, {name!r})",
    "target_history": "target_history({name!r}, datetime)",
    "open_session": "open_session(provider, {name!r})",
    "cancel_session": "cancel_session(session)",
    "close_session": "the `with` block of open_session, which closes it",
    "session": "open_session(provider, {name!r})",
    "options": "the arguments of run_circuits",
    "set_options": "the arguments of run_circuits",
}


class BackendRecord:
    """What is known of a backend: its line in the service's list, and whatever else was loaded.

    A record is plain content: it opens no connection, can be pickled, and does not change. Attributes of the
    configuration are read from the loaded configuration, those of time and frequency in SI units: `dt`, `dtm`,
    `rep_delay_range`, `default_rep_delay` and `rep_times` in seconds, `qubit_lo_range` and `meas_lo_range` in hertz;
    further `backend_version`, `basis_gates`, `gates`, `coupling_map` (pairs of qubits), `max_shots`, `meas_levels`,
    `meas_map`, `processor_type`, `online_date` (aware), `quantum_volume`, `supported_instructions`,
    `timing_constraints`, `conditional`, `local`, `memory`, `open_pulse` and whatever else the service sends. What the
    IBMQ API told and this backend's configuration does not is None.

    Args:
        summary: The backend's entry in `GET /backends`.
        channel: The channel that it was asked over.
        instance: CRN of the instance that it was asked through.
    """

    def __init__(
        self,
        summary: BackendSummary,
        *,
        channel: str,
        instance: str,
        configuration: dict[str, Any] | None = None,
        status: BackendStatus | None = None,
        properties: dict[str, Any] | None = None,
        loaded: bool = False,
        provider: IBMQProvider | None = None,
    ) -> None:
        self.summary, self.channel, self.instance = summary, channel, instance
        self._provider = provider
        self.raw_configuration, self.raw_properties = configuration, properties
        self._status, self.loaded = status, loaded

    def __repr__(self) -> str:
        state = "operational" if self.operational else self.state
        return f"BackendRecord({self.name!r}, {self.num_qubits} qubits, {state}, {self.pending_jobs} pending)"

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.summary.name

    @property
    def num_qubits(self) -> int:
        """Number of qubits."""
        return self.summary.num_qubits

    n_qubits = num_qubits

    @property
    def operational(self) -> bool:
        """Whether it takes and processes jobs: online, and not `internal` (which takes jobs and does not run them)."""
        if self._status is not None:
            return self._status.operational and self._status.status.lower() != "internal"
        return self.summary.operational

    @property
    def state(self) -> str:
        """`online`, `paused`, `offline`, or a word that IBM adds later, with the reason where it is not online.

        A retired backend is in no list, and so has no record; `get_backend` says that it is retired where it is known.
        """
        word, reason = self.summary.status, self.summary.status_reason
        return f"{word}: {reason}" if reason and not self.summary.operational and reason != word else word

    @property
    def status_msg(self) -> str:
        """The service's word for its status."""
        return self._status.status if self._status is not None else self.summary.status

    @property
    def simulator(self) -> bool:
        """Whether the service calls it a simulator."""
        return self.summary.simulator

    @property
    def simulated(self) -> bool:
        """Whether its counts are simulated: of a simulator, and of every backend of the embedded service."""
        return self.simulator or self.channel == "local" or self.summary.raw.get("simulated") is True

    @property
    def pending_jobs(self) -> int | None:
        """Jobs of all users in its queue; None where the service does not tell."""
        return self._status.pending_jobs if self._status is not None else self.summary.queue_length

    @property
    def wait_time_seconds(self) -> float | None:
        """The service's median of recent waits in seconds; None where it does not tell."""
        waits = self.summary.wait_time_seconds or {}
        return next((float(waits[key]) for key in ("p50", "average", "p95") if waits.get(key) is not None), None)

    def configuration(self) -> Any:
        """IBM's `BackendConfiguration`, in SI units."""
        return self._configuration

    @functools.cached_property
    def _configuration(self) -> Any:
        from prefect_ibmq.ibm import configuration_model

        return configuration_model(self._need(self.raw_configuration, "configuration"))

    def status(self) -> BackendStatus:
        """Status and queue at the moment of loading."""
        loaded: BackendStatus = self._need(self._status, "status")
        return loaded

    def properties(self, refresh: bool = False, datetime: datetime | None = None) -> PropertiesRecord | None:
        """The calibration at the moment of loading; None where the service has none.

        Raises:
            InputError: Another calibration is asked for, which `backend_properties` fetches.
        """
        if refresh or datetime is not None:
            raise InputError(
                "A record opens no connection, so it has no other calibration than the one it was loaded with.",
                hint=f"Use backend_properties({self.name!r}, provider, refresh=True, datetime=…).",
            )
        if self.raw_properties is None and self.loaded:
            return None
        return self._properties

    @functools.cached_property
    def _properties(self) -> PropertiesRecord:
        return PropertiesRecord(self._need(self.raw_properties, "properties"))

    @functools.cached_property
    def target(self) -> Target:
        """The qiskit `Target`, without fractional gates; `backend_target` builds others."""
        return target_of(self._need(self.raw_configuration, "configuration"), self.raw_properties)

    def provider(self) -> IBMQProvider:
        """The provider that it was asked through.

        Raises:
            InputError: The record came through a pickle, which never carries one.
        """
        if self._provider is None:
            raise InputError(
                f"This record of {self.name} knows no provider.", hint=f"It was of instance {self.instance}."
            )
        return self._provider

    @property
    def version(self) -> str:
        """The backend's version, in the form X.Y.Z."""
        return str(self.configuration().backend_version)

    @property
    def operation_names(self) -> list[str]:
        """Names of what the backend can do: gates, measurement, control flow."""
        return list(self.target.operation_names)

    @property
    def operations(self) -> list[Instruction]:
        """What the backend can do, as qiskit's instructions."""
        return list(self.target.operations)

    @property
    def instructions(self) -> list[tuple[Instruction, tuple[int, ...] | None]]:
        """Each operation with the qubits that it can be done on; None is on all."""
        return list(self.target.instructions)

    @property
    def instruction_durations(self) -> InstructionDurations:
        """qiskit's table of how long operations take, in seconds and in units of `dt`."""
        return self.target.durations()

    def qubit_properties(self, qubit: int | Sequence[int]) -> Any:
        """qiskit's `QubitProperties` of a qubit (T1 and T2 in seconds, frequency in hertz), or a list for several."""
        told = self.target.qubit_properties or [None] * self.num_qubits
        for each in [qubit] if isinstance(qubit, int) else qubit:
            if not 0 <= each < len(told):
                raise InputError(f"{self.name} has no qubit {each!r}.", hint=f"It has {len(told)}.")
        return told[qubit] if isinstance(qubit, int) else [told[each] for each in qubit]

    def get_translation_stage_plugin(self) -> str:
        """The plugin that qiskit's `transpile` is to translate with for this backend; it comes with IBM's package."""
        return "ibm_dynamic_circuits"

    def defaults(self, refresh: bool = False) -> None:
        """Pulse defaults: None, as of every backend without pulses. The service answers null for all of them."""

    def acquire_channel(self, qubit: int) -> Any:
        """Refused: pulses are gone."""
        raise self._no_pulses("acquire_channel")

    def control_channel(self, qubits: Iterable[int]) -> Any:
        """Refused: pulses are gone."""
        raise self._no_pulses("control_channel")

    def drive_channel(self, qubit: int) -> Any:
        """Refused: pulses are gone."""
        raise self._no_pulses("drive_channel")

    def measure_channel(self, qubit: int) -> Any:
        """Refused: pulses are gone."""
        raise self._no_pulses("measure_channel")

    @property
    def instruction_schedule_map(self) -> Any:
        """Refused: pulses are gone."""
        raise self._no_pulses("instruction_schedule_map")

    def _no_pulses(self, what: str) -> NotOffered:
        return NotOffered(
            f"{what} of {self.name} cannot be told: the service has no pulses any more.",
            hint="Durations and errors of gates are in `target`; say what a pulse did with gates and delays.",
        )

    def reservations(self, start_datetime: datetime | None = None, end_datetime: datetime | None = None) -> Any:
        """Refused: reservations are gone."""
        raise no_reservations()

    @property
    def calibration(self) -> str | None:
        """The stamp of the loaded calibration: its `last_update_date` in UTC, ISO 8601."""
        if self.raw_properties is None:
            return None
        date = parse_date(self.raw_properties.get("last_update_date"))
        return date.isoformat() if date else None

    def _need(self, part: Any, name: str) -> Any:
        if part is None:
            raise InputError(
                f"The {name} of {self.name} is not loaded.",
                hint=f"Use get_backend({self.name!r}), or backend_{name}({self.name!r}).",
            )
        return part

    def parts(self) -> tuple[Any, ...]:
        """The record and what is loaded in it: whatever a filter may look at."""
        return (self, self._status, self.__dict__.get("_configuration"), self.__dict__.get("_properties"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "raw_configuration":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
        if name in _TASKS:
            instead = _TASKS[name].format(name=self.name)
            raise AttributeError(
                f"A record opens no connection, so it has no {name!r}; use {instead}.", name=name, obj=self
            )
        if self.__dict__.get("raw_configuration") is None:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}; the configuration is not loaded, get_backend does.",
                name=name,
                obj=self,
            )
        try:
            return getattr(self.configuration(), name)
        except AttributeError:
            if name in _OPTIONAL:
                return None
            raise

    def __getstate__(self) -> dict[str, Any]:
        left = ("target", "_configuration", "_properties", "_provider")
        return {key: value for key, value in self.__dict__.items() if key not in left} | {"_provider": None}


def target_of(
    configuration: dict[str, Any], properties: dict[str, Any] | None, *, fractional_gates: bool = False
) -> Target:
    """The qiskit `Target` of what the service has sent; odd entries of the calibration are left out of it."""
    from prefect_ibmq.archive.mending import mended
    from prefect_ibmq.ibm import target_from

    num_qubits = configuration.get("n_qubits")
    known = mended(properties, num_qubits if isinstance(num_qubits, int) else None) if properties else None
    return target_from(configuration, known, fractional_gates=fractional_gates)


def no_reservations() -> NotOffered:
    """The refusal of everything about reservations."""
    return NotOffered(
        "The service has no reservations any more.",
        hint="Use open_session(provider, backend, mode='dedicated'), during which a backend runs nothing else.",
    )
