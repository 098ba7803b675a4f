"""Which circuits of a set share a job: as few jobs as the limits allow.

The order given is kept wherever it costs no job: parts are then stretches of it. Where it would cost one (an `executor`
job has one number of shots, and sweeps are of different size), circuits are gathered across it. The plan then tells
which positions a part runs, and results come back in the order given all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import InputError

if TYPE_CHECKING:
    from prefect_ibmq.circuits import CircuitInput

__all__ = ["MAX_EXECUTIONS", "MAX_PAYLOAD_BYTES", "Limits", "Measure", "costs_of", "fewest_groups", "packed"]

MAX_EXECUTIONS = 10_000_000  # circuits x shots of one job (https://quantum.cloud.ibm.com/docs/guides/job-limits)
MAX_PAYLOAD_BYTES = 50_000_000  # of a job's body; IBM's guides told 50 MB, and newer ones tell no number
_SEARCHED = 40  # items up to which packings are searched for one that needs fewer jobs than first-fit's
_MOST_STEPS = 20_000

Weights = Sequence[tuple[float, ...]]
Measure = Callable[[Sequence[int]], int]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may hold.

    Attributes:
        circuits: The author's limit, or None.
        one_shots_value: Whether a job has one shots value for all its circuits, as `executor` has.
        executions: Circuits x parameter sets x shots; None where the program has no such limit.
        payload: Bytes of the job's body as sent.

    Raises:
        InputError: The author's limit is not a positive number.
    """

    circuits: int | None = None
    one_shots_value: bool = True
    executions: int | None = MAX_EXECUTIONS
    payload: int = MAX_PAYLOAD_BYTES

    def __post_init__(self) -> None:
        if self.circuits is not None and self.circuits < 1:
            raise InputError(f"max_circuits_per_job={self.circuits} cannot be.", hint="Use 1 or more.")


def costs_of(inputs: Sequence[CircuitInput], shots: Sequence[int], limits: Limits) -> list[int]:
    """Executions of each circuit: parameter sets x shots.

    Raises:
        InputError: One circuit alone is over the service's limit.
    """
    from prefect_ibmq.circuits import executions

    costs = [executions(item, count) for item, count in zip(inputs, shots, strict=True)]
    for item, cost in zip(inputs, costs, strict=True):
        if limits.executions is not None and cost > limits.executions:
            raise InputError(
                f"Circuit {item.name!r} alone asks for {cost:,} executions (parameter sets x shots); a job may have "
                f"{limits.executions:,}.",
                hint="Use fewer shots, or split its parameter sweep.",
            )
    return costs


def packed(
    inputs: Sequence[CircuitInput], shots: Sequence[int], limits: Limits, *, measure: Measure | None = None
) -> list[list[int]]:
    """Groups of indices into `inputs`, one a job, each in ascending order: as few as the limits allow.

    Where the bytes decide, every group returned has been measured and fits. How well circuits compress together is
    known only of those that were measured, so there the fewest jobs are likely, and certain where bytes add up.

    Args:
        inputs: The circuits, in order.
        shots: Shots of each.
        limits: Of one job.
        measure: Bytes of the body of the job that runs these indices; None where they are known to fit.

    Raises:
        InputError: One circuit alone is over a limit.
    """
    costs = costs_of(inputs, shots, limits)
    groups = _by_shots(costs, shots, limits, [()] * len(costs), ())
    if measure is None:
        return groups
    sizes = [measure(group) for group in groups]
    if all(size <= limits.payload for size in sizes):
        return groups
    alone = [measure([index]) for index in range(len(costs))]
    _check_alone(inputs, alone, limits)
    filled = [piece for group in groups for piece in _fitting(group, measure, limits.payload)]
    # Compressed together they are smaller than one by one.
    shrink = sum(sizes) / sum(alone)
    weights = [(size * shrink,) for size in alone]
    groups = _by_shots(costs, shots, limits, weights, (float(limits.payload),))
    weighed = [piece for group in groups for piece in _fitting(group, measure, limits.payload)]
    return min(filled, weighed, key=len)


def _check_alone(inputs: Sequence[CircuitInput], alone: Sequence[int], limits: Limits) -> None:
    for item, size in zip(inputs, alone, strict=True):
        if size > limits.payload:
            raise InputError(
                f"{item.label} alone makes a job of {size:,} bytes as sent; {limits.payload:,} are accepted.",
                hint="Use fewer operations, or split its parameter sweep.",
            )


def _fitting(group: list[int], measure: Measure, payload: int) -> list[list[int]]:
    """A group, cut where it turns out to be too large after all: each time the longest start that fits."""
    pieces: list[list[int]] = []
    rest = group
    while rest:
        fits, over = 1, len(rest) + 1
        if measure(rest) <= payload:
            fits = len(rest)
        while fits != len(rest) and over - fits > 1:
            middle = (fits + over) // 2
            if middle <= len(rest) and measure(rest[:middle]) <= payload:
                fits = middle
            else:
                over = middle
        pieces.append(rest[:fits])
        rest = rest[fits:]
    return pieces


def _by_shots(
    costs: Sequence[int], shots: Sequence[int], limits: Limits, more: Weights, capacities: tuple[float, ...]
) -> list[list[int]]:
    """The order given cut into stretches, or where that is more jobs, gathered by their shots."""
    weights: list[tuple[float, ...]] = [
        ((cost,) if limits.executions is not None else ()) + other for cost, other in zip(costs, more, strict=True)
    ]
    room = ((float(limits.executions),) if limits.executions is not None else ()) + capacities
    kinds = [count if limits.one_shots_value else 0 for count in shots]
    stretches = _stretches(weights, room, limits.circuits, kinds)
    by_kind: dict[int, list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    gathered = [
        [members[place] for place in group]
        for members in by_kind.values()
        for group in fewest_groups([weights[index] for index in members], room, limits.circuits)
    ]
    if len(stretches) <= len(gathered):
        return stretches
    return sorted(gathered, key=lambda group: group[0])


def _stretches(weights: Weights, room: tuple[float, ...], most: int | None, kinds: Sequence[Any]) -> list[list[int]]:
    """The order given cut wherever the next circuit does not fit: the fewest stretches that there are."""
    groups: list[list[int]] = []
    load: tuple[float, ...] = ()
    for index, weight in enumerate(weights):
        joined = tuple(map(sum, zip(load, weight, strict=False)))
        fits = (
            bool(groups)
            and kinds[groups[-1][0]] == kinds[index]
            and (most is None or len(groups[-1]) < most)
            and all(have <= limit for have, limit in zip(joined, room, strict=False))
        )
        if fits:
            groups[-1].append(index)
            load = joined
        else:
            groups.append([index])
            load = weight
    return groups


def fewest_groups(weights: Weights, room: tuple[float, ...], most: int | None = None) -> list[list[int]]:
    """Bin packing: groups of indices, ascending, the first beginning with index 0.

    First-fit by decreasing weight; of up to 40 items that this may not pack best, all packings are searched, as far as
    20,000 steps go. That the result is the fewest is certain there, and wherever a lower bound is reached.
    """
    stretches = _stretches(weights, room, most, [0] * len(weights))
    least = _least(weights, room, most)
    if len(stretches) == least:
        return stretches
    heavy = sorted(range(len(weights)), key=lambda index: (-_share(weights[index], room), index))
    best = min(stretches, _first_fit(weights, room, most, heavy), key=len)
    if len(best) > least and len(weights) <= _SEARCHED:
        best = _Search(weights, room, most, heavy, best, least).run()
    return sorted((sorted(group) for group in best), key=lambda group: group[0])


def _share(weight: tuple[float, ...], room: tuple[float, ...]) -> float:
    return max((have / limit for have, limit in zip(weight, room, strict=True)), default=0.0)


def _least(weights: Weights, room: tuple[float, ...], most: int | None) -> int:
    """No packing has fewer groups."""
    bounds = [1, math.ceil(len(weights) / most) if most else 1]
    for dimension, limit in enumerate(room):
        bounds.append(math.ceil(sum(weight[dimension] for weight in weights) / limit))
        bounds.append(sum(2 * weight[dimension] > limit for weight in weights))
    return max(bounds)


class _Bin:
    def __init__(self, dimensions: int) -> None:
        self.items: list[int] = []
        self.load = [0.0] * dimensions

    def takes(self, weight: tuple[float, ...], room: tuple[float, ...], most: int | None) -> bool:
        return (most is None or len(self.items) < most) and all(
            load + more <= limit for load, more, limit in zip(self.load, weight, room, strict=True)
        )

    def put(self, item: int, weight: tuple[float, ...]) -> None:
        self.items.append(item)
        self.load = [load + more for load, more in zip(self.load, weight, strict=True)]

    def take_back(self, weight: tuple[float, ...]) -> None:
        self.items.pop()
        self.load = [load - more for load, more in zip(self.load, weight, strict=True)]


def _first_fit(weights: Weights, room: tuple[float, ...], most: int | None, order: Sequence[int]) -> list[list[int]]:
    bins: list[_Bin] = []
    for item in order:
        weight = weights[item]
        chosen = next((each for each in bins if each.takes(weight, room, most)), None)
        if chosen is None:
            bins.append(chosen := _Bin(len(room)))
        chosen.put(item, weight)
    return [each.items for each in bins]


class _Search:
    """Depth-first over all packings with fewer groups than the best one known."""

    def __init__(
        self,
        weights: Weights,
        room: tuple[float, ...],
        most: int | None,
        order: Sequence[int],
        best: list[list[int]],
        least: int,
    ) -> None:
        self._weights, self._room, self._most, self._order = weights, room, most, order
        self._best, self._least, self._steps = best, least, 0
        self._bins: list[_Bin] = []

    def run(self) -> list[list[int]]:
        """The best packing found."""
        self._place(0)
        return self._best

    def _place(self, depth: int) -> None:
        self._steps += 1
        if self._is_over() or len(self._bins) >= len(self._best):
            return
        if depth == len(self._order):
            self._best = [list(each.items) for each in self._bins]
            return
        item = self._order[depth]
        weight = self._weights[item]
        tried: set[tuple[int, tuple[float, ...]]] = set()
        for each in list(self._bins):
            alike = (len(each.items), tuple(each.load))  # of groups filled alike one is enough
            if alike in tried or not each.takes(weight, self._room, self._most):
                continue
            tried.add(alike)
            each.put(item, weight)
            self._place(depth + 1)
            each.take_back(weight)
        if len(self._bins) + 1 < len(self._best):
            self._bins.append(opened := _Bin(len(self._room)))
            opened.put(item, weight)
            self._place(depth + 1)
            self._bins.pop()

    def _is_over(self) -> bool:
        return self._steps > _MOST_STEPS or len(self._best) <= self._least
