"""The tree of errors: as drawn, across process borders, and without a secret or a riddle in it."""

from __future__ import annotations

import copy
import pickle
import re

import cloudpickle
import pytest

import prefect_ibmq
from prefect_ibmq import errors
from prefect_ibmq.errors import IBMQError


def _drawn() -> dict[str, str | None]:
    """Name -> parent, read from the drawing in the module's docstring."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^((?:[│ ] {3})*)([├└]── )?([A-Z]\w+)\s{2,}\S", line):
            depth = len(match[1]) // 4 + bool(match[2])
            path = [*path[:depth], match[3]]
            parents[match[3]] = path[-2] if depth else None
    return parents


def _classes() -> dict[str, type[IBMQError]]:
    return {name: getattr(errors, name) for name in errors.__all__}


def test_the_drawn_tree_is_the_tree() -> None:
    real = {name: kind.__bases__[0].__name__ for name, kind in _classes().items()}
    assert _drawn() == {name: None if parent == "Exception" else parent for name, parent in real.items()}


def test_every_error_is_in_the_list_and_public() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, IBMQError)}
    assert set(errors.__all__) == defined
    assert defined <= set(prefect_ibmq.__all__)


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [("InputError", ValueError), ("DeadlineExceeded", TimeoutError), ("NotOffered", NotImplementedError)],
)
def test_what_the_drawing_says_of_builtin_classes(ours: str, builtin: type[Exception]) -> None:
    assert issubclass(_classes()[ours], builtin)


EXAMPLES = [
    errors.IBMQError("Something is wrong.", hint="Mend it."),
    errors.InputError("No.", hint=""),
    errors.CircuitError("bell.qasm, line 3: no such gate."),
    errors.ConfigurationError("Half an environment.", hint="Set both."),
    errors.BackendNotFound("ibm_tornio", ["ibm_torino"], where="in this instance"),
    errors.NoBackendLeft({"ibm_fez": "it is not operational (paused)", "ibm_x": "it has 5 qubits"}),
    errors.ServiceError(
        "Bad request", status=400, code=1208, solution="Mend it.", trace="abc", request="POST /jobs", retry_after=3.5
    ),
    errors.AuthenticationError("Refused", status=401, code=1219),
    errors.PermissionDenied("No", status=403),
    errors.NotFound("Gone", status=404, code=1291),
    errors.Conflict("Final", status=409),
    errors.RateLimited("Slow down", status=429, retry_after=7.0),
    errors.PendingLimit("Enough", status=400, code=3458),
    errors.ServiceUnavailable("Trouble", status=503),
    errors.TransportError("Cut.", request="GET /jobs"),
    errors.NothingSent("No route."),
    errors.AnswerLost("Cut.", request="POST /jobs", hint="Wait."),
    errors.UnusableAnswer("HTML.", request="GET /backends"),
    errors.DeadlineExceeded("Over."),
    errors.BudgetExceeded(600, 590.5, 12.25),
    errors.CalibrationDrifted("ibm_x", ["cz on 3-4 is gone", "qubit 5 is faulty"], hint="Transpile again."),
    errors.SubmissionUnclear("Nobody knows.", key="k" * 64, hint="Run it again."),
    errors.SessionClosed("session-1", "it is closed"),
    errors.JobNotFinished("job-1", "Queued"),
    errors.JobEnded("job-1"),
    errors.JobFailed("job-1", reason="Instruction not supported", code=1517, hint="Transpile."),
    errors.JobCancelled("job-1", reason="by somebody"),
    errors.JobRanTooLong("job-1", code=1305),
    errors.JobVanished("job-1", "Running"),
    errors.ResultUnreadable("Not JSON."),
    errors.ArchiveError("Read-only."),
    errors.CalibrationNotFound("None of ibm_fez."),
    errors.NotOffered("Reservations are gone.", hint="Use a session."),
]


def test_the_examples_below_are_all_kinds() -> None:
    assert {type(each) for each in EXAMPLES} >= set(_classes().values())


def _pickled(error: IBMQError) -> IBMQError:
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]


def _cloudpickled(error: IBMQError) -> IBMQError:
    return cloudpickle.loads(cloudpickle.dumps(error))  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "through",
    [_pickled, _cloudpickled, copy.copy, copy.deepcopy],
    ids=["pickle", "cloudpickle", "copy", "deepcopy"],
)
def test_an_error_crosses_a_process_border_whole(error: IBMQError, through: object) -> None:
    there = through(error)  # type: ignore[operator]
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert there.args == error.args
    assert vars(there) == vars(error)
    assert there.retryable == error.retryable


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_tells_its_hint_and_holds_no_double_blank(error: IBMQError) -> None:
    assert error.hint in str(error)
    assert "  " not in str(error)
    assert str(error).strip() == str(error)


def test_notes_and_an_own_retryable_survive_a_pickle() -> None:
    error = errors.NothingSent("IAM gave no token.")
    error.retryable = False
    error.add_note("while listing backends")
    there = pickle.loads(pickle.dumps(error))
    assert there.retryable is False
    assert there.__notes__ == ["while listing backends"]


def test_only_errors_that_time_can_mend_are_retryable() -> None:
    retryable = {name for name, kind in _classes().items() if kind.retryable}
    assert retryable == {
        "RateLimited", "PendingLimit", "ServiceUnavailable", "TransportError", "NothingSent", "AnswerLost",
        "UnusableAnswer", "DeadlineExceeded", "JobNotFinished",
    }  # fmt: skip


def test_a_service_error_tells_its_facts() -> None:
    error = EXAMPLES[6]
    assert str(error) == "POST /jobs: Bad request (HTTP 400, code 1208, trace abc, asks to wait 3.5 s) Mend it."


def test_no_backend_left_tells_each_reason() -> None:
    error = errors.NoBackendLeft({"ibm_fez": "it is paused", "ibm_x": "it has 5 qubits"})
    assert "ibm_fez: it is paused; ibm_x: it has 5 qubits" in str(error)
    assert "the instance has none" in str(errors.NoBackendLeft({}))
