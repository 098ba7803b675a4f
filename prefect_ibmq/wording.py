"""Numbers and names in the words of messages."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["counted", "some"]


def counted(number: int, word: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of some names; where there are more, how many there are."""
    told = ", ".join(names[:most])
    return f"{told}, … {len(names)} in all" if len(names) > most else told
