"""Coroutines side by side: what ends one of them, and what ends all."""

from __future__ import annotations

import asyncio

import pytest
from prefect.exceptions import TerminationSignal

from prefect_ibmq.together import all_of, each_of

LONG = 3600.0


async def fails() -> str:
    raise ValueError("one of them")


async def comes_late(said: list[str]) -> str:
    await asyncio.sleep(0.05)
    said.append("late")
    return "late"


async def never_ends(said: list[str]) -> str:
    try:
        await asyncio.sleep(LONG)
    finally:
        said.append("told to end")
    return "never"


async def is_terminated() -> str:
    await asyncio.sleep(0.01)
    raise TerminationSignal(signal=15)


async def test_a_failure_is_told_in_its_place_once_all_have_ended() -> None:
    said: list[str] = []
    first, second = await each_of([fails(), comes_late(said)])
    assert (str(first), second, said) == ("one of them", "late", ["late"])
    with pytest.raises(ValueError, match="one of them"):
        await all_of([fails(), comes_late(said)])
    assert said == ["late", "late"]


async def test_a_signal_that_lands_in_one_ends_all_at_once_however_deep() -> None:
    said: list[str] = []
    with pytest.raises(TerminationSignal):
        await asyncio.wait_for(all_of([never_ends(said), all_of([never_ends(said), is_terminated()])]), 10)
    assert said == ["told to end"] * 2


async def test_a_cancellation_reaches_all() -> None:
    said: list[str] = []
    going = asyncio.ensure_future(all_of([never_ends(said), never_ends(said)]))
    await asyncio.sleep(0.01)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert said == ["told to end"] * 2
