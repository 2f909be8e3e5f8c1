"""Statistics of several attempts at each task: what `stats.py` must not be used for.

Attempts at one task are alike, so the tasks, not the attempts, are what is drawn at random: intervals come
from a bootstrap that draws whole tasks (clusters) with replacement, percentile method, 9,999 draws (Efron
and Tibshirani 1993, chapters 8 and 13), from a fixed seed. Where all tasks have one and the same rate the
bootstrap sees no spread, and Wilson's interval over tasks stands in for it. `pass_at_k` is the unbiased
estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1).

Guaranteed: the same verdicts give the same figures. Not guaranteed: exact coverage with few tasks; below
about twenty a bootstrap's interval is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agentdistill.errors import UsageError
from agentdistill.evaluation.stats import PairedDifference, Proportion, proportion, wilson

DRAWS = 9_999
_SEED = 0

Marks = Mapping[str, Sequence[bool]]
"""Verdicts by task, one for each attempt."""


def rate(marks: Marks, confidence: float = 0.95) -> Proportion:
    """The share of right attempts: by Wilson where each task has one attempt, else clustered by task."""
    verdicts = [mark for task in marks.values() for mark in task]
    if all(len(task) <= 1 for task in marks.values()):
        return proportion(verdicts, confidence)
    right = np.array([sum(task) for task in marks.values() if task], dtype=float)
    sizes = np.array([len(task) for task in marks.values() if task], dtype=float)
    shares = right / sizes
    share = float(right.sum() / sizes.sum())
    if np.all(shares == shares[0]):
        low, high = wilson(round(share * len(shares)), len(shares), confidence)
        low, high = min(low, share), max(high, share)
    else:
        low, high = _percentiles(right, sizes, confidence)
    return Proportion(int(right.sum()), int(sizes.sum()), share, low, high)


def pass_at_k(marks: Marks, k: int) -> float:
    """The chance that at least one of k attempts is right, averaged over tasks.

    Raises UsageError if a task has fewer than k attempts.
    """
    if k < 1 or any(len(task) < k for task in marks.values()):
        raise UsageError(f"pass@{k} needs {k} attempts at every task")
    if not marks:
        return 0.0
    chances = [1.0 - math.comb(len(task) - sum(task), k) / math.comb(len(task), k) for task in marks.values()]
    return sum(chances) / len(chances)


def paired_rates(before: Marks, after: Marks, confidence: float = 0.95) -> PairedDifference:
    """The difference in tasks' rates, with an interval by bootstrap over the tasks that both have.

    `gained` and `lost` count tasks whose rate rose and fell; `p` is that of a sign test by flipping the
    differences at random (Fisher's randomisation test, DRAWS flips).
    """
    shared = [task for task in before if task in after and before[task] and after[task]]
    if not shared:
        return PairedDifference(0, 0.0, 0.0, 0.0, -1.0, 1.0, 0, 0, 1.0)
    first = np.array([sum(before[task]) / len(before[task]) for task in shared])
    second = np.array([sum(after[task]) / len(after[task]) for task in shared])
    differences = second - first
    low, high = -1.0, 1.0
    if np.all(differences == differences[0]):
        # No spread to draw from: as much as a bound of one proportion over that many tasks can say.
        _, margin = wilson(0, len(shared), confidence)
        low = max(-1.0, float(differences[0]) - margin)
        high = min(1.0, float(differences[0]) + margin)
    else:
        low, high = _percentiles(differences, np.ones(len(shared)), confidence)
    return PairedDifference(
        n=len(shared),
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        gained=int((differences > 0).sum()),
        lost=int((differences < 0).sum()),
        p=_randomised(differences),
    )


def _percentiles(right: np.ndarray, sizes: np.ndarray, confidence: float) -> tuple[float, float]:
    """The interval of sum(right) / sum(sizes) over draws of tasks."""
    generator = np.random.default_rng(_SEED)
    rates = []
    for draws in _pieces(len(right)):
        tasks = generator.integers(0, len(right), (draws, len(right)))
        rates.append(right[tasks].sum(axis=1) / sizes[tasks].sum(axis=1))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(rates), [tail, 100 - tail])
    return float(low), float(high)


def _randomised(differences: np.ndarray) -> float:
    generator = np.random.default_rng(_SEED)
    found = abs(differences.mean())
    as_far = 0
    for draws in _pieces(len(differences)):
        signs = generator.choice((-1.0, 1.0), (draws, len(differences)))
        # A float's rounding must not part a draw from the very same figure.
        as_far += int((abs((signs * differences).mean(axis=1)) >= found - 1e-12).sum())
    return (as_far + 1) / (DRAWS + 1)


def _pieces(tasks: int) -> Iterator[int]:
    """DRAWS in pieces of a few MB."""
    piece = max(1, 500_000 // tasks)
    for done in range(0, DRAWS, piece):
        yield min(piece, DRAWS - done)
