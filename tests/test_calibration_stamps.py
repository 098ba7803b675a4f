"""Which calibration held when: the stamps of rows, and the gate before a submission."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qiskit import QuantumCircuit

from prefect_ibmq import (
    CalibrationDrifted,
    CalibrationLimits,
    InputError,
    backend_properties,
    export_counts,
    fetch_result,
    get_backend,
    loop,
    open_run,
    plan_run,
    read_counts,
    run_circuits,
    submit_part,
    transpile_circuits,
    wait_for_job,
)
from prefect_ibmq.archive.calibrations import read_snapshot
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.calibration_stamps import history_of
from prefect_ibmq.snapshot_ids import snapshot_id

if TYPE_CHECKING:
    from prefect_ibmq.testing import IBMQService

pytest_plugins = ["prefect_ibmq.testing"]
pytestmark = pytest.mark.usefixtures("prefect_server")

PROPERTIES = "GET /backends/{name}/properties"
DAY = 86_400.0
STAMPS = ["snapshot_transpiled", "snapshot_submitted", "snapshot_executed"]
Services = Callable[..., Any]


def bell(name: str = "bell", angle: float = 0.0) -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2, name=name)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.rz(angle, 0)
    circuit.measure([0, 1], [0, 1])
    return circuit


def planned(service: IBMQService, archive: Path, circuits: int = 1, **planning: Any) -> tuple[Any, Any]:
    """A run and its plan, transpiled for the calibration of now."""
    given = [bell(f"c{index}", 0.1 * index) for index in range(circuits)]
    run = open_run(given, service.provider, shots=20, run_key="stamped", archive=archive)
    record = get_backend("fake_manila", service.provider)
    isa = transpile_circuits(run.inputs, record, service.provider, seed=1)
    return run, plan_run(run, record, isa, service.provider, **planning)


def held(service: IBMQService, moment: datetime | None = None) -> str:
    """The snapshot that held at a moment, or now."""
    found = backend_properties("fake_manila", service.provider, refresh=True, datetime=moment)
    assert found is not None
    return snapshot_id(found.raw)


# --- stamps ------------------------------------------------------------------------------------------------------


def test_a_row_tells_all_three_calibrations_and_the_archive_has_them(ibmq_services: Services, tmp_path: Path) -> None:
    service = ibmq_services(queue_seconds=1.5 * DAY)
    run, plan = planned(service, tmp_path)
    transpiled = held(service)
    service.clock.advance(2 * DAY)
    submitted = held(service)
    handle = submit_part(run, plan.parts[0], service.provider)
    service.clock.advance(1.5 * DAY)
    done = wait_for_job(handle, service.provider, archive=tmp_path)
    service.clock.advance(9 * DAY)  # it is fetched long after
    export_counts(fetch_result(done, service.provider, archive=tmp_path), tmp_path)
    rows = read_counts(tmp_path)
    executed = held(service, rows["executed"].iloc[0].to_pydatetime())
    assert len({transpiled, submitted, executed}) == 3
    for column, snapshot in zip(STAMPS, (transpiled, submitted, executed), strict=True):
        assert (rows[column] == snapshot).all(), column
        assert snapshot_id(read_snapshot(open_archive(tmp_path), "fake_manila", snapshot)) == snapshot


def test_one_question_stamps_a_whole_set(ibmq_service: IBMQService, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"run_key": "set", "archive": tmp_path, "max_circuits_per_job": 1}
    circuits = [bell(f"c{index}", 0.1 * index) for index in range(5)]
    result = run_circuits(circuits, "fake_manila", ibmq_service.provider, 20, **arguments)
    assert ibmq_service.counts[PROPERTIES] == 2  # one to transpile for, one to know what the jobs ran under
    export_counts(result, tmp_path)
    rows = read_counts(tmp_path)
    assert rows["job_id"].nunique() == 5
    assert (rows[STAMPS] == held(ibmq_service)).all(axis=None)
    asked = ibmq_service.counts[PROPERTIES]
    again = run_circuits(circuits, "fake_manila", ibmq_service.provider, 20, **arguments)
    assert ibmq_service.counts[PROPERTIES] == asked  # what was found is noted
    assert export_counts(again, tmp_path)["rows"] == len(rows)
    assert len(list(tmp_path.glob("counts/**/*.parquet"))) == 5


def test_a_stamp_that_cannot_be_had_stays_empty_and_costs_no_result(ibmq_service: IBMQService, tmp_path: Path) -> None:
    run, plan = planned(ibmq_service, tmp_path, 2, max_circuits_per_job=1)
    ibmq_service.faults.on(PROPERTIES, answer="error", status=403)
    handles = [submit_part(run, part, ibmq_service.provider) for part in plan.parts]
    for handle in handles:
        done = wait_for_job(handle, ibmq_service.provider, archive=tmp_path)
        export_counts(fetch_result(done, ibmq_service.provider, archive=tmp_path), tmp_path)
    rows = read_counts(tmp_path)
    assert rows["circuit"].unique().tolist() == ["c0", "c1"]
    assert rows["snapshot_transpiled"].notna().all()
    assert rows[["snapshot_submitted", "snapshot_executed"]].isna().all(axis=None)


@pytest.mark.parametrize("broken", [b"", b"null", b"<html>", b"[1]", b'{"qubits": []}'])
def test_a_calibration_that_says_nothing_stamps_nothing(
    ibmq_service: IBMQService, tmp_path: Path, broken: bytes
) -> None:
    run, plan = planned(ibmq_service, tmp_path)
    handle = wait_for_job(submit_part(run, plan.parts[0], ibmq_service.provider), ibmq_service.provider)
    ibmq_service.faults.on(PROPERTIES, answer="raw", body=broken.decode())
    told = fetch_result(handle, ibmq_service.provider, archive=tmp_path)[0].metadata["prefect_ibmq"]["job"]
    asked = ibmq_service.counts[PROPERTIES]
    fetch_result(handle, ibmq_service.provider, archive=tmp_path)
    assert ibmq_service.counts[PROPERTIES] == asked  # it has said once that it has none
    assert told["snapshot_transpiled"] is not None
    assert told["snapshot_executed"] is None


def test_the_history_tells_what_the_service_would_with_few_questions(ibmq_services: Services) -> None:
    service = ibmq_services(clock_speed=0)
    now = datetime.fromtimestamp(service.clock(), UTC)
    moments = [now - timedelta(hours=hours) for hours in (0, 1, 2, 20, 30, 47, 49, 50, 71, 400, 1)]
    expected = [held(service, moment) for moment in moments]

    async def asked() -> list[Any]:
        history = history_of(await service.provider.aget_client(), "fake_manila")
        return [await history.at(moment) for moment in moments]

    before = service.counts[PROPERTIES]
    found = loop.run(asked())
    assert [seen.snapshot for seen in found] == expected
    assert service.counts[PROPERTIES] - before <= len(set(expected)) + 2


def test_the_history_asks_again_for_what_came_later(ibmq_services: Services) -> None:
    service = ibmq_services(clock_speed=0)

    async def at(moment: datetime) -> Any:
        return await history_of(await service.provider.aget_client(), "fake_manila").at(moment)

    for _ in range(3):
        now = datetime.fromtimestamp(service.clock(), UTC)
        assert loop.run(at(now)).snapshot == held(service)
        service.clock.advance(DAY)


# --- the gate ----------------------------------------------------------------------------------------------------


def spoilt(service: IBMQService, edge: tuple[int, int], **changes: Any) -> None:
    """From now on the service tells another calibration of the edge; without changes the edge is gone."""
    import copy
    import json

    found = backend_properties("fake_manila", service.provider, refresh=True)
    assert found is not None
    payload = copy.deepcopy(found.raw)
    there = [gate for gate in payload["gates"] if set(gate["qubits"]) == set(edge)]
    for gate in there:
        if not changes:
            payload["gates"].remove(gate)
        for parameter in gate["parameters"]:
            parameter["value"] = changes.get(parameter["name"], parameter["value"])
    service.faults.on(PROPERTIES, answer="raw", body=json.dumps(payload))


def used_edge(run: Any) -> tuple[int, int]:
    circuit = run.isa_circuits()[0]
    step = next(step for step in circuit.data if step.name == "cx")
    a, b = (circuit.find_bit(bit).index for bit in step.qubits)
    return a, b


@pytest.mark.parametrize(
    ("changes", "said"),
    [({}, "is gone from the calibration"), ({"gate_error": 1}, "is not calibrated"), ({"gate_error": 0.3}, "0.3")],
    ids=["gone", "sentinel", "drifted"],
)
def test_the_gate_refuses_before_anything_is_posted(
    ibmq_service: IBMQService, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    run, plan = planned(ibmq_service, tmp_path, 3, max_circuits_per_job=1)
    spoilt(ibmq_service, used_edge(run), **changes)
    before = ibmq_service.counts[PROPERTIES]
    for part in plan.parts:
        with pytest.raises(CalibrationDrifted, match=r"another run_key than 'stamped'") as caught:
            submit_part(run, part, ibmq_service.provider, gate=True)
        assert said in str(caught.value)
    assert ibmq_service.counts.get("POST /jobs", 0) == 0
    assert not list(tmp_path.glob("runs/*/intent.*"))
    assert ibmq_service.counts[PROPERTIES] == before + 1  # once for all parts
    handle = submit_part(run, plan.parts[0], ibmq_service.provider)  # nobody asked the gate
    assert handle.job_id


def test_the_gate_lets_a_calm_day_pass_with_one_question(ibmq_services: Services, tmp_path: Path) -> None:
    service = ibmq_services()
    run, plan = planned(service, tmp_path, 3, max_circuits_per_job=1)
    service.clock.advance(DAY)
    before = len(service.requests)
    handles = [submit_part(run, part, service.provider, gate={"success_fall": 0.9}) for part in plan.parts]
    assert len({handle.job_id for handle in handles}) == 3
    # The token of yesterday is refused once.
    asked = [each for each in service.requests[before:] if each.path.endswith("/properties") and each.status == 200]
    assert len(asked) == 1


def test_run_circuits_with_a_gate_goes_on_and_a_part_with_a_job_is_not_looked_at(
    ibmq_service: IBMQService, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"run_key": "gated", "archive": tmp_path, "gate": CalibrationLimits()}
    first = run_circuits(bell(), "fake_manila", ibmq_service.provider, 20, **arguments)
    spoilt(ibmq_service, (0, 1))
    again = run_circuits(bell(), "fake_manila", ibmq_service.provider, 20, **arguments)
    assert first[0].data.c == again[0].data.c
    assert ibmq_service.counts["POST /jobs"] == 1


def test_without_the_archive_the_service_tells_what_the_circuits_were_made_for(
    ibmq_services: Services, tmp_path: Path
) -> None:
    import shutil

    service = ibmq_services()
    run, plan = planned(service, tmp_path)
    shutil.rmtree(tmp_path / "calibrations")
    service.clock.advance(2 * DAY)
    handle = submit_part(run, plan.parts[0], service.provider, gate=True)
    assert handle.job_id


def test_a_gate_that_cannot_see_says_so_and_posts_nothing(ibmq_service: IBMQService, tmp_path: Path) -> None:
    run, plan = planned(ibmq_service, tmp_path)
    ibmq_service.faults.on(PROPERTIES, answer="raw", body="null")
    with pytest.raises(CalibrationDrifted, match="no calibration of fake_manila any more"):
        submit_part(run, plan.parts[0], ibmq_service.provider, gate=True)
    assert ibmq_service.counts.get("POST /jobs", 0) == 0


@pytest.mark.parametrize("gate", [{"readout": 3}, {"gate_error_factor": 0.1}])
def test_limits_that_cannot_be_are_refused_before_anything_is_sent(
    ibmq_service: IBMQService, tmp_path: Path, gate: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="These limits cannot be used"):
        run_circuits(bell(), "fake_manila", ibmq_service.provider, 20, run_key="x", archive=tmp_path, gate=gate)
    assert ibmq_service.requests == []
