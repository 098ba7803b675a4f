"""`provider.backends`: listed by a call, one by name, completed, and asking nothing by itself."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from small_jobs import FLIP

from prefect_ibmq import BackendRecord, IBMQProvider, NotOffered, submit_job

pytestmark = pytest.mark.usefixtures("prefect_server")
pytest_plugins = ["prefect_ibmq.testing"]


def test_backends_are_listed_filtered_and_found_by_name(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    assert [backend.name for backend in provider.backends()] == ["fake_manila", "fake_torino"]
    assert [backend.name for backend in provider.backends(n_qubits=5, operational=True)] == ["fake_manila"]
    assert [backend.name for backend in provider.backends("fake_torino")] == ["fake_torino"]
    assert [backend.name for backend in provider.backends(filters=lambda b: b.configuration().n_qubits > 99)] == [
        "fake_torino"
    ]
    manila = provider.backend.fake_manila
    assert isinstance(manila, BackendRecord)
    assert manila.provider() is provider
    assert manila.status().operational
    assert manila.configuration().n_qubits == 5
    assert provider.get_backend("fake_torino").num_qubits == 133
    with pytest.raises(AttributeError, match="Did you mean fake_manila"):
        _ = provider.backends.fake_manilla


def test_names_are_completed(ibmq_service: Any) -> None:
    assert {"fake_manila", "fake_torino", "jobs", "retrieve_job"} <= set(dir(ibmq_service.provider.backends))
    ibmq_service.faults.on("GET /backends", answer="error", status=400)
    assert "jobs" in dir(ibmq_service.provider.backends)


def test_nothing_is_asked_by_itself(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    service = provider.backends
    assert not hasattr(service, "__wrapped__")
    assert not hasattr(service, "_repr_html_")
    assert repr(service).startswith("BackendService(")
    assert "IBMQProvider(" in repr(provider)
    assert IBMQProvider.model_validate(provider) is provider
    assert "backends" not in provider.model_dump()
    pickle.loads(pickle.dumps(provider.model_copy()))
    pickle.loads(pickle.dumps(service))
    assert ibmq_service.requests == []


def test_jobs_and_their_retrieval_as_the_ibmq_api_had_them(ibmq_service: Any) -> None:
    provider = ibmq_service.provider
    handle = submit_job(FLIP, "fake_manila", provider=provider, shots=10, run_key="k")
    assert [job.id for job in provider.backends.jobs(limit=5, backend_name="fake_manila")] == [handle.job_id]
    assert provider.backends.retrieve_job(handle.job_id).job_id == handle.job_id
    with pytest.raises(NotOffered, match="open_session"):
        provider.backends.my_reservations()
