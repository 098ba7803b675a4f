"""A flow run as a script, by a person who watches: plain errors, a quick end when told, and the line that goes on."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from prefect.exceptions import TerminationSignal

from prefect_ibmq.credentials import LOCAL, VARIABLES
from prefect_ibmq.deadlines import leave
from prefect_ibmq.errors import ConfigurationError, IBMQError
from prefect_ibmq.terminal import quieten_retries, quieten_temporary_server

__all__ = ["for_a_person", "line_that_goes_on", "telling_that_prefect_is_away"]

INTERRUPTED, TERMINATED = 130, 143  # what shells say of a command that Ctrl-C or SIGTERM has ended
_GRACE_SECONDS = 5.0
_REMINDED_SECONDS, _KILLED_SECONDS = 7.0, 14.0  # after SIGTERM; containers are given 10 to 30 before SIGKILL
_STOPPED = "Jobs that were submitted go on; run the same again with the same run key."
_NO_PREFECT = ("Prefect API server", "Failed to reach API")
_PREFECT_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def line_that_goes_on(script: str, options: Mapping[str, Any]) -> str:
    """The shell line that goes on with a run.

    It names the interpreter, since an environment may not be active, and the embedded service where that is what is
    used: typed in another shell, it must not find an account and pay.

    Args:
        script: The script's path.
        options: Its options by name; None and False are left out.
    """
    words = [sys.executable, script]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    local = os.environ.get("QISKIT_IBM_CHANNEL") == LOCAL or not any(os.environ.get(name) for name in VARIABLES)
    prefix = ["env", f"QISKIT_IBM_CHANNEL={LOCAL}"] if local and not options.get("provider") else []
    return shlex.join([*prefix, *words])


class _Plain(logging.Filter):
    """Our own errors say what to do; where in our code they were raised helps nobody."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], IBMQError):
            record.exc_info = record.exc_text = None
        return True


@contextmanager
def for_a_person(stopped: str = _STOPPED) -> Iterator[None]:
    """Print our errors as one line and exit with status 1; end soon after Ctrl-C and SIGTERM, with status 130 and 143.

    Ctrl-C also ends Prefect's temporary server, and its client would go on asking that for a minute. Jobs go on, and
    the run's folder knows them.

    Args:
        stopped: What to say after either.
    """
    quieten_temporary_server()
    quieten_retries()
    plain = _Plain()
    for name in _PREFECT_LOGGERS:
        logging.getLogger(name).addFilter(plain)
    earlier = {signal.SIGINT: signal.signal(signal.SIGINT, _interrupt)}
    # Prefect restores this one when a flow run has ended, and then sends itself SIGTERM once more.
    earlier[signal.SIGTERM] = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _told_to_end(), telling_that_prefect_is_away():
            yield
    except IBMQError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write(f"Stopped. {stopped}\n")
        sys.exit(INTERRUPTED)
    except TerminationSignal:
        sys.stderr.write(f"Stopped. {stopped}\n")
        sys.exit(TERMINATED)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        for name in _PREFECT_LOGGERS:
            logging.getLogger(name).removeFilter(plain)


@contextmanager
def telling_that_prefect_is_away() -> Iterator[None]:
    """Make our error of what Prefect raises where its API, temporary or not, cannot be had.

    Raises:
        ConfigurationError: Prefect's API does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_PREFECT):
            raise
        raise ConfigurationError(
            f"Prefect's API does not answer: {error}",
            hint="Is the server of PREFECT_API_URL up? Where none is set, a temporary one is started, which takes long "
            "on a busy machine: PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=60 gives it time.",
        ) from error


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    ending = threading.Timer(_GRACE_SECONDS, leave, (INTERRUPTED,))
    ending.daemon = True
    ending.start()
    raise KeyboardInterrupt


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise TerminationSignal(signal=number)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """See to it that SIGTERM ends the process, whatever becomes of the exception that a handler raises.

    It is raised in whichever code the main thread is in. In a callback of the event loop it is logged and forgotten,
    and a thread that hangs is waited for. So a thread hears of the signal, too, by the descriptor that Python writes
    signals to.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_hear, args=(reading,), name="prefect-ibmq-sigterm", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(writing)


def _hear(reading: int) -> None:
    heard = b"-"
    while heard and signal.SIGTERM not in heard:
        heard = os.read(reading, 64)
    os.close(reading)
    if not heard:
        return
    threading.Event().wait(_REMINDED_SECONDS)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # it was forgotten, or somebody tidies up for very long
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_KILLED_SECONDS - _REMINDED_SECONDS)
    leave(TERMINATED)
