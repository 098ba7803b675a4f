"""Tasks on backends, against the embedded service through the one client: filters, reasons, queues, past moments."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow
from pydantic import SecretStr

from prefect_ibmq import (
    BackendRecord,
    CalibrationNotFound,
    IBMQCredentials,
    IBMQProvider,
    PropertiesRecord,
    abackend_configuration,
    abackend_properties,
    abackend_status,
    abackend_target,
    aget_backend,
    aleast_busy,
    alist_backends,
    backend_configuration,
    backend_properties,
    backend_status,
    backend_target,
    get_backend,
    ibm,
    least_busy,
    list_backends,
    store_calibration,
    target_history,
)
from prefect_ibmq.backends import choose_least_busy
from prefect_ibmq.errors import BackendNotFound, DeadlineExceeded, InputError, NoBackendLeft, NothingSent, NotOffered
from prefect_ibmq.wire.records import BackendStatus, BackendSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("prefect_server", "local_devices")
pytest_plugins = ["prefect_ibmq.testing"]
ALL = ["fake_fez", "fake_manila", "fake_nighthawk", "fake_torino"]


@pytest.fixture
def provider(local_devices: tuple[str, ...]) -> Iterator[IBMQProvider]:
    assert list(local_devices) == ALL
    return IBMQProvider.local()


def _names(records: list[BackendRecord]) -> list[str]:
    return [record.name for record in records]


def _listed(provider: IBMQProvider, **filters: Any) -> list[str]:
    return _names(list_backends.fn(provider, **filters))


# --- listing and filtering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ALL),
        ({"name": "fake_manila"}, ["fake_manila"]),
        ({"name": "fake_nowhere"}, []),
        ({"min_num_qubits": 120}, ["fake_fez", "fake_nighthawk", "fake_torino"]),
        ({"min_num_qubits": 157}, []),
        ({"n_qubits": 5}, ["fake_manila"]),
        ({"num_qubits": 156, "simulator": False}, ["fake_fez"]),
        ({"simulator": True}, []),
        ({"input_allowed": "job"}, ALL),
        ({"input_allowed": ["runtime", "job"]}, ALL),
        ({"dt": 4e-9, "n_qubits": 133}, ["fake_torino"]),
        ({"dt": 4.0}, []),
        ({"max_shots": 100000, "n_qubits": 133}, ["fake_torino"]),
        ({"quantum_magic": True}, []),
        ({"filters": lambda b: b.num_qubits > 100}, ["fake_fez", "fake_nighthawk", "fake_torino"]),
        (
            {"filters": lambda b: "cz" in b.configuration().basis_gates, "min_num_qubits": 130},
            ["fake_fez", "fake_torino"],
        ),
        ({"filters": lambda b: b.properties().t1(0) and b.status().pending_jobs >= 0, "n_qubits": 5}, ["fake_manila"]),
        ({"filters": lambda b: b.target.num_qubits == 5}, ["fake_manila"]),
    ],
)
def test_backends_are_listed_in_the_services_order_with_filters(
    provider: IBMQProvider, filters: dict[str, Any], names: list[str]
) -> None:
    assert _listed(provider, **filters) == names


def test_a_listed_record_tells_queue_and_channel(provider: IBMQProvider) -> None:
    [record] = list_backends.fn(provider, name="fake_torino")
    assert (record.channel, record.simulated, record.num_qubits) == ("local", True, 133)
    assert isinstance(record.pending_jobs, int)
    assert record.instance.startswith("crn:v1:")
    assert not record.loaded


def test_each_rejected_backend_keeps_its_reason(provider: IBMQProvider) -> None:
    records, rejected = list_backends.fn(
        provider,
        min_num_qubits=100,
        n_qubits=133,
        quantum_magic=1,
        explain=True,
    )
    assert records == []
    assert rejected == {
        "fake_manila": "it has 5 qubits, not 100 or more",
        "fake_fez": "its n_qubits is 156, not 133",
        "fake_nighthawk": "its n_qubits is 120, not 133",
        "fake_torino": "it has no attribute 'quantum_magic'",
    }


def test_a_filters_no_and_its_missing_attribute_are_reasons_too(provider: IBMQProvider) -> None:
    def choosy(backend: BackendRecord) -> bool:
        return backend.num_qubits < 150 and backend.quantum_magic > 5

    records, rejected = list_backends.fn(provider, filters=choosy, explain=True, min_num_qubits=130)
    assert records == []
    assert rejected["fake_fez"] == "the filter said no"
    assert rejected["fake_torino"] == "it has no attribute 'quantum_magic'"


@pytest.mark.parametrize("filters", [lambda b: b.configuration().quantum_magic, lambda b: b.properties().quantum_magic])
def test_an_attribute_missing_in_a_loaded_part_is_a_reason(provider: IBMQProvider, filters: Any) -> None:
    records, rejected = list_backends.fn(provider, filters=filters, explain=True, n_qubits=5)
    assert (records, rejected["fake_manila"]) == ([], "it has no attribute 'quantum_magic'")


def test_a_filters_own_mistake_is_not_hidden(provider: IBMQProvider) -> None:
    with pytest.raises(AttributeError, match="upperr"):
        _listed(provider, filters=lambda b: b.name.upperr())
    with pytest.raises(ZeroDivisionError):
        _listed(provider, filters=lambda b: 1 / 0)


def test_a_filter_may_use_the_sync_tasks(provider: IBMQProvider) -> None:
    threads = set()

    def asking(backend: BackendRecord) -> bool:
        threads.add(threading.current_thread().name)
        return backend_status.fn(backend, provider).operational

    assert _listed(provider, filters=asking, n_qubits=5) in (["fake_manila"], [])
    assert "prefect-ibmq-wire" not in threads


@pytest.mark.parametrize("allowed", ["qobj", ["job", "pulse"]])
def test_an_unknown_input_is_an_error(provider: IBMQProvider, allowed: Any) -> None:
    with pytest.raises(InputError, match="Use 'job', 'runtime' or both"):
        _listed(provider, input_allowed=allowed)


def test_a_timeout_ends_a_listing_and_says_so(provider: IBMQProvider) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"not listed within 0\.05 s"):
        _listed(provider, timeout=0.05, filters=lambda b: time.sleep(0.3) or True)
    assert time.monotonic() - started < 5


def test_a_timeout_of_the_filter_itself_stays_what_it_is(provider: IBMQProvider) -> None:
    def failing(backend: BackendRecord) -> bool:
        raise TimeoutError(f"of {backend.name}")

    with pytest.raises(TimeoutError, match="of fake_manila"):
        _listed(provider, filters=failing, n_qubits=5)


def test_a_timeout_that_is_long_enough_changes_nothing(provider: IBMQProvider) -> None:
    assert _listed(provider, timeout=30) == ALL


# --- one backend ---------------------------------------------------------------------------------------------------


def test_a_backend_comes_loaded(provider: IBMQProvider) -> None:
    record = get_backend.fn("fake_manila", provider)
    assert record.loaded
    assert record.configuration().n_qubits == 5
    assert record.status().name == "fake_manila"
    assert record.properties().t1(0) > 0  # type: ignore[operator]
    assert record.calibration.endswith("+00:00")
    assert get_backend.fn(record, provider).name == "fake_manila"


@pytest.mark.parametrize(
    ("door", "more"),
    [
        (get_backend, {}),
        (backend_status, {}),
        (backend_configuration, {}),
        (backend_properties, {}),
        (backend_target, {}),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_ones(provider: IBMQProvider, door: Any, more: dict[str, Any]) -> None:
    with pytest.raises(BackendNotFound, match="Did you mean fake_torino") as told:
        door.fn("fake_torrino", provider, **more)
    assert told.value.nearest[0] == "fake_torino"
    assert told.value.name == "fake_torrino"


def test_a_name_that_is_near_to_none_lists_some(provider: IBMQProvider) -> None:
    with pytest.raises(BackendNotFound) as told:
        get_backend.fn("xyz", provider)
    assert set(told.value.nearest) <= set(ALL)
    assert told.value.nearest


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_an_error(provider: IBMQProvider, name: str) -> None:
    with pytest.raises(InputError, match="is no backend"):
        get_backend.fn(name, provider)


def test_status_configuration_and_target(provider: IBMQProvider) -> None:
    status = backend_status.fn("fake_torino", provider)
    assert isinstance(status, BackendStatus)
    assert status.pending_jobs >= 0
    configuration = backend_configuration.fn("fake_torino", provider)
    assert configuration == ibm.device_configuration("fake_torino")
    target = backend_target.fn("fake_torino", provider)
    assert target.num_qubits == 133
    assert "cz" in target.operation_names
    record = get_backend.fn("fake_torino", provider)
    assert backend_target.fn(record).num_qubits == 133


# --- past moments ----------------------------------------------------------------------------------------------------


def test_properties_now_and_at_a_past_moment(provider: IBMQProvider) -> None:
    now = backend_properties.fn("fake_manila", provider)
    before = backend_properties.fn("fake_manila", provider, datetime=datetime.now(UTC) - timedelta(days=3))
    assert isinstance(now, PropertiesRecord)
    assert before.last_update_date < datetime.now(UTC) - timedelta(days=3) < now.last_update_date
    assert before.t1(0) != now.t1(0)


def test_a_naive_moment_is_local_time(provider: IBMQProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = backend_properties.fn("fake_manila", provider).last_update_date
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        naive = moment.astimezone().replace(tzinfo=None)
        after = backend_properties.fn("fake_manila", provider, datetime=naive + timedelta(seconds=2))
        at = backend_properties.fn("fake_manila", provider, datetime=naive)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert after.last_update_date == moment
    assert at.last_update_date < moment


def test_there_is_no_calibration_before_the_history_begins(provider: IBMQProvider) -> None:
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    assert backend_properties.fn("fake_manila", provider, datetime=long_ago) is None
    target = backend_target.fn("fake_manila", provider, datetime=long_ago)
    assert {told.error for told in target["cx"].values() if told} <= {None}


def test_a_loaded_calibration_is_used_unless_refreshed(provider: IBMQProvider) -> None:
    loaded = get_backend.fn("fake_manila", provider)
    record = BackendRecord(
        loaded.summary,
        channel="local",
        instance=loaded.instance,
        configuration=loaded.raw_configuration,
        properties={**loaded.raw_properties, "last_update_date": "2020-01-01T00:00:00Z"},
        status=loaded.status(),
        loaded=True,
    )
    assert backend_properties.fn(record, provider).last_update_date.year == 2020
    assert backend_properties.fn(record, provider, refresh=True).last_update_date.year > 2020


# --- the least busy --------------------------------------------------------------------------------------------------


def _record(name: str, queue: int | None = 0, *, status: str = "online", qubits: int = 5, **more: Any) -> BackendRecord:
    payload = {"name": name, "status": {"name": status, "reason": "?"}, "qubits": qubits, "queue_length": queue, **more}
    return BackendRecord(BackendSummary.from_payload(payload), channel="ibm_quantum_platform", instance="crn")


@pytest.mark.parametrize(
    ("queues", "chosen"),
    [([3, 1, 2], "b1"), ([2, 2, 2], "b0"), ([5, 0, 0], "b1"), ([None, 7, None], "b1"), ([0], "b0")],
)
def test_the_shortest_queue_wins_and_ties_are_stable(queues: list[int | None], chosen: str) -> None:
    records = [_record(f"b{n}", queue) for n, queue in enumerate(queues)]
    assert choose_least_busy(records).name == chosen
    assert least_busy.fn(records).name == chosen


def test_only_operational_backends_are_chosen() -> None:
    internal = BackendStatus.from_payload({"state": True, "status": "internal", "length_queue": 0}, name="c")
    stuck = BackendRecord(_record("c").summary, channel="x", instance="crn", status=internal)
    records = [_record("a", 0, status="paused"), _record("b", 900), stuck]
    assert choose_least_busy(records).name == "b"


def test_the_shortest_wait_wins_where_it_is_told() -> None:
    records = [
        _record("a", 1, wait_time_seconds={"p50": 900}),
        _record("b", 500, wait_time_seconds={"p50": 3}),
        _record("c", 0),
    ]
    assert least_busy.fn(records, by="wait_time").name == "b"
    assert least_busy.fn(records).name == "c"


def test_none_left_tells_each_ones_reason() -> None:
    records = [_record("a", 0, status="paused"), _record("b", None)]
    with pytest.raises(NoBackendLeft) as told:
        least_busy.fn(records, rejected={"c": "it has 5 qubits, not 100 or more"})
    assert told.value.reasons == {
        "c": "it has 5 qubits, not 100 or more",
        "a": "it is not operational (paused: ?)",
        "b": "the service does not tell its pending_jobs",
    }
    with pytest.raises(NoBackendLeft):
        least_busy.fn([])


def test_none_left_by_the_filters_tells_each_ones_reason(provider: IBMQProvider) -> None:
    with pytest.raises(NoBackendLeft, match="fake_manila: it has 5 qubits, not 1000 or more") as told:
        least_busy.fn(provider=provider, min_num_qubits=1000)
    assert set(told.value.reasons) == set(ALL)


def test_the_least_busy_of_the_provider(provider: IBMQProvider) -> None:
    records = [each for each in list_backends.fn(provider, min_num_qubits=100) if each.operational]
    chosen = least_busy.fn(provider=provider, min_num_qubits=100)
    assert chosen.pending_jobs == min(each.pending_jobs for each in records)
    assert least_busy.fn(provider=provider, by="wait_time").wait_time_seconds is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"by": "beauty"}, "by='beauty' is unknown"),
        ({"backends": [], "min_num_qubits": 5}, "need the provider's list"),
        ({"backends": ["fake_manila"]}, "'fake_manila' is no backend record"),
    ],
)
def test_what_least_busy_does_not_understand_is_an_error(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        least_busy.fn(**arguments)


# --- both doors ------------------------------------------------------------------------------------------------------


def test_the_tasks_work_in_a_sync_flow(provider: IBMQProvider) -> None:
    @flow
    def looking() -> tuple[list[str], str, int]:
        records = list_backends(provider, min_num_qubits=100)
        chosen = least_busy(records)
        submitted = backend_configuration.submit("fake_manila", provider).result()
        return _names(records), chosen.name, submitted["n_qubits"]

    names, chosen, qubits = looking()
    assert (len(names), chosen in names, qubits) == (3, True, 5)


async def test_the_tasks_work_in_an_async_flow_and_in_plain_code_called_by_it(provider: IBMQProvider) -> None:
    def plain() -> list[str]:
        return _names(list_backends(provider, name="fake_fez"))

    @flow
    async def looking() -> list[object]:
        awaited = await asyncio.gather(
            alist_backends(provider, name="fake_manila"),
            aget_backend("fake_manila", provider),
            aleast_busy(provider=provider),
            abackend_status("fake_manila", provider),
            abackend_configuration("fake_manila", provider),
            abackend_properties("fake_manila", provider),
            abackend_target("fake_manila", provider),
        )
        return [*awaited, plain(), await asyncio.to_thread(plain)]

    told = await looking()
    assert _names(told[0]) == ["fake_manila"]  # type: ignore[arg-type]
    assert told[-2:] == [["fake_fez"], ["fake_fez"]]


async def test_the_sync_tasks_work_where_a_loop_runs_as_in_a_notebook(provider: IBMQProvider) -> None:
    assert _names(list_backends(provider, name="fake_manila")) == ["fake_manila"]
    assert (await aget_backend("fake_manila", provider)).name == "fake_manila"


def test_the_sync_tasks_work_in_threads(provider: IBMQProvider) -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(_names(list_backends(provider)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ALL] * 4


def test_without_a_provider_the_environments_is_used() -> None:
    assert _names(list_backends.fn()) == ALL


async def test_a_provider_can_be_named_by_its_block(provider: IBMQProvider) -> None:
    await provider.asave("a-local-provider", overwrite=True)
    assert _names(await alist_backends("a-local-provider")) == ALL


@pytest.mark.parametrize("door", [list_backends, get_backend, least_busy, backend_status, backend_target])
def test_no_task_caches_or_keeps_its_result_by_itself(door: Any) -> None:
    from prefect.cache_policies import NO_CACHE

    assert door.cache_policy == NO_CACHE
    assert not door.persist_result


def test_an_unreachable_service_is_a_retryable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("PREFECT_INTEGRATIONS_IBMQ_RETRY_ATTEMPTS", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
        credentials = IBMQCredentials(token=SecretStr("key-for-nobody"), url=f"{nobody}/api/v1", iam_url=nobody)
        crn = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"
        with pytest.raises(NothingSent) as told:
            list_backends.fn(IBMQProvider(credentials=credentials, instance=crn))
    assert told.value.retryable


def test_a_value_that_a_backend_does_not_tell_is_a_reason(provider: IBMQProvider) -> None:
    accepted, rejected = list_backends(provider, filters=lambda b: b.configuration().quantum_volume > 16, explain=True)
    assert "fake_torino" in rejected
    assert "does not tell a value" in rejected["fake_torino"]
    assert "fake_torino" not in _names(accepted)


@pytest.mark.parametrize("named", [{"hub": "ibm-q"}, {"group": "open", "project": "main"}])
def test_backends_are_not_asked_for_by_hubs(provider: IBMQProvider, named: dict[str, str]) -> None:
    with pytest.raises(NotOffered, match="instance='hub/group/project'"):
        list_backends(provider, **named)


def test_pulses_are_refused_as_filters_too(provider: IBMQProvider) -> None:
    with pytest.raises(NotOffered, match="no pulses"):
        list_backends(provider, instruction_schedule_map=None)


def test_the_target_of_a_past_moment(provider: IBMQProvider) -> None:
    before = datetime.now(UTC) - timedelta(days=3)
    then = target_history("fake_manila", before, provider)
    payload = backend_properties("fake_manila", provider, datetime=before)
    assert then.qubit_properties is not None
    assert then.qubit_properties[0].t1 == pytest.approx(payload.t1(0))
    assert then.qubit_properties[0].t1 != backend_target("fake_manila", provider).qubit_properties[0].t1


def test_the_target_of_a_past_moment_from_the_archive(provider: IBMQProvider, tmp_path: Path) -> None:
    archive, payload = str(tmp_path), ibm.device_properties("fake_manila")
    for days, t1 in ((0, 111.0), (2, 222.0)):
        payload["last_update_date"] = (datetime(2026, 8, 14, tzinfo=UTC) + timedelta(days=days)).isoformat()
        payload["qubits"][0][0] |= {"name": "T1", "unit": "us", "value": t1}
        store_calibration(archive, "ibm_retired", payload)
    then = target_history("ibm_retired", datetime(2026, 8, 15, tzinfo=UTC), provider, archive=archive)
    assert then.qubit_properties[0].t1 == pytest.approx(111e-6)
    later = target_history("ibm_retired", datetime(2026, 9, 15, tzinfo=UTC), provider, archive=archive)
    assert later.qubit_properties[0].t1 == pytest.approx(222e-6)
    with pytest.raises(CalibrationNotFound):
        target_history("ibm_retired", datetime(2020, 1, 1, tzinfo=UTC), provider, archive=archive)


def test_paused_and_retired_backends_are_told_apart(ibmq_service: Any) -> None:
    import json

    from prefect_ibmq.embedded.store import Job

    told = {"devices": [{"name": "ibm_paused", "status": {"name": "paused", "reason": "maintenance"}, "qubits": 5}]}
    fields: Any = {"instance": ibmq_service.service.crn, "user_id": "me", "program": "executor", "cost": 600}
    ibmq_service.service.store.add_job(
        Job(id="old", backend="ibm_retired", created=1.7e9, ready_at=4e9, status="Completed", **fields), b"{}"
    )
    with pytest.raises(BackendNotFound, match="it is retired, and list_jobs") as caught:
        get_backend("ibm_retired", ibmq_service.provider)
    assert caught.value.nearest == ()
    with pytest.raises(BackendNotFound, match="it is retired"):
        backend_status("ibm_retired", ibmq_service.provider)
    with pytest.raises(BackendNotFound, match="Did you mean"):
        get_backend("fake_manilla", ibmq_service.provider)
    with pytest.raises(BackendNotFound, match=r"IBMQProvider.local\(\) simulates"):
        get_backend("ibmq_qasm_simulator", ibmq_service.provider)
    ibmq_service.faults.on("GET /backends", answer="raw", body=json.dumps(told))
    with pytest.raises(NoBackendLeft, match="paused: maintenance"):
        least_busy(provider=ibmq_service.provider)
    _, rejected = list_backends(ibmq_service.provider, operational=True, explain=True)
    assert rejected == {"ibm_paused": "its operational is False (paused: maintenance), not True"}
