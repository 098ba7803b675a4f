"""Arguments of the IBMQ API that are no more: refused by name, with what to use instead."""

from __future__ import annotations

from typing import Any

import pytest
from option_runs import bell

from prefect_ibmq import NotOffered, run_circuits, submit_job

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ({"qubit_lo_freq": [5e9]}, "fractional gates"),
        ({"meas_lo_freq": [7e9]}, "gates and delays"),
        ({"schedule_los": [{}]}, "gates and delays"),
        ({"qubit_lo_range": [[5, 6]]}, "gates and delays"),
        ({"meas_lo_range": [[5, 6]]}, "gates and delays"),
        ({"meas_map": [[0, 1]]}, "gates and delays"),
        ({"instruction_schedule_map": object()}, "gates and delays"),
        ({"memory_slots": 2}, "classical registers"),
        ({"memory_slot_size": 100}, "meas_level=1"),
        ({"rep_time": 1e-3}, "rep_delay"),
        ({"job_share_level": "hub"}, "IBM Cloud"),
        ({"use_measure_esp": True}, "twirling"),
        ({"live_data_enabled": True}, "wait_for_job"),
        ({"dynamic": True}, "Leave it out"),
        ({"job_name": "a"}, "name="),
        ({"job_tags": ["a"]}, "tags="),
        ({"meas_type": "kerneled"}, "meas_level=1"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_arguments_of_the_ibmq_api_are_refused_with_their_substitute(
    ibmq_service: Any, argument: dict[str, Any], instead: str
) -> None:
    provider, [name] = ibmq_service.provider, argument
    for refused in (
        lambda: run_circuits(bell(), "fake_manila", provider, 10, run_key="old", **argument),
        lambda: run_circuits(bell(), "fake_manila", provider, 10, run_key="old", options=argument),
        lambda: submit_job(bell(), "fake_manila", provider, shots=10, run_key="old", **argument),
        lambda: provider.set_options(**argument),
    ):
        with pytest.raises(NotOffered, match=rf"^{name}=.*{instead}"):
            refused()
    assert ibmq_service.counts.get("POST /jobs", 0) == 0


def test_arguments_of_the_ibmq_api_that_are_none_ask_for_nothing(ibmq_service: Any) -> None:
    result = run_circuits(bell(), "fake_manila", ibmq_service.provider, 10, run_key="n", job_share_level=None)
    assert result[0].data.meas.num_shots == 10


class Schedule:
    """Stands for qiskit's class of that name, which went with qiskit 2."""


class PulseQobj(dict[str, Any]):
    """Likewise."""


@pytest.mark.parametrize(
    "program",
    [Schedule(), PulseQobj(), {"qobj_id": "1", "type": "QASM", "experiments": []}, [bell(), Schedule()]],
    ids=["schedule", "qobj", "json", "in a list"],
)
def test_qobjs_and_schedules_are_refused(ibmq_service: Any, program: Any) -> None:
    with pytest.raises(NotOffered, match=r"A (Qobj|PulseQobj|Schedule) cannot be run.*QuantumCircuit"):
        run_circuits(program, "fake_manila", ibmq_service.provider, 10, run_key="qobj")
    assert ibmq_service.jobs() == []
