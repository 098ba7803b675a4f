"""Turns: parts are posted in their order, whatever each has to look up before, and few are encoded at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_ibmq.wire.turns import Turns


@dataclass
class Story:
    """What parts do on their way, and what came of it."""

    turns: Turns = field(default_factory=Turns)
    posted: list[int] = field(default_factory=list)
    encoded: int = 0
    most_encoded: int = 0

    async def part(self, first: int, looks: int, encodes: int, posts: int, ends: str) -> None:
        with self.turns.of(first) as turn:
            await steps(looks)
            if ends == "has its job":
                return
            if ends == "settles":
                turn.leave()
                await steps(10 * looks)
                return
            async with turn.next_to_post() as posting:
                await steps(encodes)
                if ends == "cannot be encoded":
                    raise ValueError(first)
                self.encoded += 1
                self.most_encoded = max(self.most_encoded, self.encoded)
                try:
                    await posting.acquire()
                except BaseException:
                    self.encoded -= 1
                    raise
            try:
                await steps(posts)
                self.posted.append(first)
            finally:
                self.encoded -= 1
                posting.release()


async def steps(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


ENDS = st.sampled_from(["is posted", "is posted", "is posted", "has its job", "settles", "cannot be encoded"])
STEPS = st.integers(0, 8)


@given(st.lists(st.tuples(STEPS, STEPS, STEPS, ENDS), max_size=12), st.dictionaries(st.integers(0, 11), STEPS))
def test_whatever_parts_do_they_are_posted_in_order_and_two_are_encoded(
    parts: list[tuple[int, int, int, str]], cancelled: dict[int, int]
) -> None:
    story = Story()

    async def all_of_them() -> list[object]:
        going = [asyncio.create_task(story.part(first, *part)) for first, part in enumerate(parts)]
        for step in range(9):
            for first in (first for first, when in cancelled.items() if when == step and first < len(going)):
                going[first].cancel()
            await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*going, return_exceptions=True), 20)

    ended = asyncio.run(all_of_them())
    meant = [first for first, part in enumerate(parts) if part[3] == "is posted" and ended[first] is None]
    assert story.posted == meant
    assert story.most_encoded <= 2
    assert story.encoded == 0
    assert not story.turns.posting.locked()


async def test_a_part_that_comes_later_goes_before_those_behind_it() -> None:
    story = Story()
    going = [asyncio.create_task(story.part(first, 0, 0, 20, "is posted")) for first in (3, 5, 7)]
    await steps(3)  # 3 is being posted, 5 is encoded
    going.append(asyncio.create_task(story.part(4, 0, 0, 0, "is posted")))
    await asyncio.wait_for(asyncio.gather(*going), 10)
    assert story.posted == [3, 5, 4, 7]


async def test_the_same_part_twice_waits_for_nobody_but_its_turn() -> None:
    story = Story()
    await asyncio.wait_for(asyncio.gather(*(story.part(0, 0, 1, 1, "is posted") for _ in range(3))), 10)
    assert story.posted == [0, 0, 0]


async def test_who_is_cancelled_when_called_passes_the_turn_on() -> None:
    turns = Turns()

    async def waits(first: int) -> str:
        with turns.of(first) as turn:
            async with turn.next_to_post():
                return "had its turn"

    with turns.of(0) as before:
        one, other = asyncio.create_task(waits(1)), asyncio.create_task(waits(2))
        await steps(3)
        before.leave()  # calls the first of them
        one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert await asyncio.wait_for(other, 10) == "had its turn"
