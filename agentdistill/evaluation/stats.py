"""Proportions and their differences, with intervals that hold for the small samples evaluations have.

- `wilson`: the score interval of one proportion (Wilson 1927), without continuity correction.
- `paired_difference`: two systems on the same tasks. The interval is Newcombe's square-and-add method for
  paired proportions (Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10), the p-value the exact
  two-sided McNemar test (binomial on the tasks that flipped).

Guaranteed: closed forms, no randomness, intervals inside [0, 1] and [-1, 1]. Not guaranteed: anything about
tasks that are not independent of each other, such as several samples of one task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from agentdistill.errors import UsageError


@dataclass(frozen=True, slots=True)
class Proportion:
    """`successes` of `n`, with the Wilson interval `low` to `high`."""

    successes: int
    n: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """What changed from before to after on the same tasks.

    `difference` is the rate after minus the rate before, `gained` counts wrong to right, `lost` right to
    wrong, `p` is the chance of a split at least as uneven if gains and losses were equally likely.
    """

    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval for a proportion; (0, 1) when nothing was seen."""
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} of {n} is no proportion")
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    middle = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the exact bounds are 0 and 1; floats would miss them by an ulp.
    low = 0.0 if successes == 0 else max(0.0, (middle - spread) / scale)
    high = 1.0 if successes == n else min(1.0, (middle + spread) / scale)
    return low, high


def proportion(verdicts: Sequence[bool], confidence: float = 0.95) -> Proportion:
    n, successes = len(verdicts), sum(map(bool, verdicts))
    low, high = wilson(successes, n, confidence)
    return Proportion(successes, n, successes / n if n else 0.0, low, high)


def paired_difference(
    before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95
) -> PairedDifference:
    """Verdicts on the same tasks in the same order."""
    if len(before) != len(after):
        raise UsageError(f"{len(before)} verdicts cannot be paired with {len(after)}")
    n = len(before)
    if n == 0:
        return PairedDifference(0, 0.0, 0.0, 0.0, -1.0, 1.0, 0, 0, 1.0)
    both = sum(1 for b, a in zip(before, after, strict=True) if b and a)
    lost = sum(1 for b, a in zip(before, after, strict=True) if b and not a)
    gained = sum(1 for b, a in zip(before, after, strict=True) if a and not b)
    low, high = newcombe_paired(both, gained, lost, n - both - gained - lost, confidence)
    return PairedDifference(
        n=n,
        before=(both + lost) / n,
        after=(both + gained) / n,
        difference=(gained - lost) / n,
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        p=mcnemar(gained, lost),
    )


def newcombe_paired(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The interval for (rate of the first) - (rate of the second), from the four counts of pairs."""
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    p1, p2 = first / n, second / n
    l1, u1 = wilson(first, n, confidence)
    l2, u2 = wilson(second, n, confidence)
    phi = _phi(both, only_first, only_second, neither)
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    difference = (only_first - only_second) / n
    # The squares cannot be negative on paper; rounding can make them so.
    return (
        max(-1.0, difference - math.sqrt(max(0.0, below))),
        min(1.0, difference + math.sqrt(max(0.0, above))),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of the split of `gained + lost` flips, under equal chances."""
    flips, least = gained + lost, min(gained, lost)
    if least < 0:
        raise UsageError("flips cannot be counted below zero")
    tail = sum(math.comb(flips, k) for k in range(least + 1))
    # Whole-number division first: 2.0 ** flips overflows from 1024 flips on.
    return min(1.0, 2 * tail / (1 << flips))


def _phi(a: int, b: int, c: int, d: int) -> float:
    """The correlation of the pairs, with the continuity correction of Newcombe's method 10."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    n = a + b + c + d
    cross = a * d - b * c
    return max(cross - n / 2, 0.0) / math.sqrt(margins) if cross > 0 else cross / math.sqrt(margins)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
