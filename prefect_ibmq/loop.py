"""The one event loop of the process for the wire, and the two doors to it.

Clients, tokens and the poller live on this loop, in a thread of its own, so that sync flows, async flows, threads and
notebooks share one connection pool. `run` is the sync door, `arun` the async one, and `doors` makes both tasks of one
coroutine.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE

__all__ = ["arun", "at_exit", "both", "doors", "run", "twin"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_closers: list[Callable[[], Awaitable[None]]] = []
_CLOSING_SECONDS = 5.0


def _wire_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="prefect-ibmq-wire", daemon=True).start()
        return _loop


def _forget_after_fork() -> None:
    # A forked child has the loop object but not its thread: waiting on it would hang for ever.
    global _loop, _lock
    _loop, _lock = None, threading.Lock()
    _closers.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


def at_exit(closer: Callable[[], Awaitable[None]]) -> None:
    """Have a coroutine function run on the wire's loop when the process ends; naming it again does nothing."""
    if closer not in _closers:
        _closers.append(closer)


@atexit.register
def _close() -> None:
    if _loop is None:
        return
    closers, _closers[:] = list(_closers), []

    async def close_all() -> None:
        # What Ctrl-C has cancelled is still tidying up behind itself.
        if ending := [task for task in asyncio.all_tasks() if task.cancelling()]:
            await asyncio.wait(ending, timeout=_CLOSING_SECONDS / 2)
        for closer in reversed(closers):  # what was made last needs what was made before it
            await asyncio.gather(closer(), return_exceptions=True)

    try:
        asyncio.run_coroutine_threadsafe(close_all(), _loop).result(_CLOSING_SECONDS)
    except (TimeoutError, RuntimeError):
        return  # the process is going; its sockets go with it


def _start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(coroutine, _wire_loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the wire's loop and wait for it: the sync door.

    Raises:
        RuntimeError: It was called on the wire's loop itself, which would wait for itself for ever.
    """
    if threading.current_thread().name == "prefect-ibmq-wire":
        coroutine.close()
        raise RuntimeError("The sync door was used on the wire's own loop; await the coroutine instead.")
    try:
        return _start(coroutine).result()
    except BaseException:
        # Ctrl-C or SIGTERM arrives here, not in the coroutine; it may do so before its future is known.
        _wire_loop().call_soon_threadsafe(_cancel, coroutine)
        raise


def _cancel(coroutine: Coroutine[Any, Any, Any]) -> None:
    for task in asyncio.all_tasks():
        if task.get_coro() is coroutine:
            task.cancel()


async def arun(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the wire's loop and await it: the async door. Cancelling the caller cancels it."""
    if asyncio.get_running_loop() is _loop:
        return await coroutine
    return await asyncio.wrap_future(_start(coroutine))


def both(
    operation: Callable[Concatenate[S, P], Coroutine[Any, Any, T]], name: str
) -> tuple[Callable[Concatenate[S, P], T], Callable[Concatenate[S, P], Coroutine[Any, Any, T]]]:
    """The sync and the async method of one operation of a class, named `name` and `a<name>`. They are no tasks."""

    def sync_door(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(operation(self, *args, **kwargs))

    async def async_door(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(operation(self, *args, **kwargs))

    for door, public in ((sync_door, name), (async_door, f"a{name}")):
        _dress(door, operation, public)
    return sync_door, async_door


def twin(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The async form of a plain function that reads and writes files, named `a<name>`: it runs in a thread."""

    async def async_twin(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    _dress(async_twin, function, f"a{function.__name__}")
    return async_twin


def _dress(door: Callable[..., Any], operation: Callable[..., Any], public: str) -> None:
    """Give a door the name, the words and the signature by which Prefect, `help` and editors know it."""
    functools.update_wrapper(door, operation)
    door.__name__ = door.__qualname__ = public
    vars(door)["__signature__"] = inspect.signature(operation)
    del vars(door)["__wrapped__"]


def can_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Prefect's retry condition: only errors that say that waiting or retrying can help."""
    return bool(getattr(state.data, "retryable", False))


def doors(
    operation: Callable[P, Coroutine[Any, Any, T]], name: str, **options: Any
) -> tuple[Task[P, T], Task[P, Coroutine[Any, Any, T]]]:
    """The sync and the async task of one operation, named `name` and `a<name>`.

    Both are plain functions: neither looks at where it is called from. Neither caches, unless `options` say so, since
    Prefect's default policy hides credentials' differences.
    """

    def sync_door(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(operation(*args, **kwargs))

    async def async_door(*args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(operation(*args, **kwargs))

    for door, public in ((sync_door, name), (async_door, f"a{name}")):
        _dress(door, operation, public)
    options.setdefault("cache_policy", NO_CACHE)
    options.setdefault("retry_condition_fn", can_retry)
    title = name.replace("_", " ")
    return Task(sync_door, name=title, **options), Task(async_door, name=title, **options)
