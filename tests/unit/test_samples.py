"""Several attempts at each task: intervals that know which attempts belong together."""

from __future__ import annotations

import itertools
import random

import pytest

from agentdistill.errors import UsageError
from agentdistill.evaluation.samples import paired_rates, pass_at_k, rate
from agentdistill.evaluation.stats import proportion, wilson


def marks(*counts: tuple[int, int]) -> dict[str, list[bool]]:
    return {str(i): [True] * right + [False] * (n - right) for i, (right, n) in enumerate(counts)}


def test_one_attempt_a_task_is_wilson() -> None:
    assert rate(marks((1, 1), (0, 1), (1, 1))) == proportion([True, False, True])


def test_attempts_that_all_agree_count_as_one() -> None:
    """Eight copies of each verdict are no more evidence than one."""
    single = rate(marks(*[(1, 1)] * 20, *[(0, 1)] * 20))
    copied = rate(marks(*[(8, 8)] * 20, *[(0, 8)] * 20))
    assert (copied.successes, copied.n, copied.rate) == (160, 320, 0.5)
    assert copied.high - copied.low == pytest.approx(single.high - single.low, abs=0.02)
    assert copied.high - copied.low > 2 * (lambda p: p.high - p.low)(proportion([True, False] * 160))


def test_attempts_that_are_independent_count_as_many() -> None:
    found = rate(marks(*[(4, 8), (3, 8), (5, 8)] * 20))
    assert found.high - found.low < 0.06


def test_tasks_that_are_all_alike_keep_an_interval() -> None:
    found = rate(marks(*[(4, 4)] * 10))
    assert (found.low, found.high) == wilson(10, 10)
    assert rate(marks(*[(0, 4)] * 10)).high == wilson(0, 10)[1]
    half = rate(marks(*[(2, 4)] * 9))
    assert half.low < 0.5 < half.high


def test_the_interval_covers_what_it_should() -> None:
    """95 % of intervals over tasks with rates of their own hold the mean rate (here: at least 88 of 100)."""
    generator = random.Random(3)
    covered = 0
    for _ in range(100):
        tasks = [generator.choice((0.1, 0.5, 0.9)) for _ in range(60)]
        drawn = {str(i): [generator.random() < p for _ in range(4)] for i, p in enumerate(tasks)}
        found = rate(drawn)
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(("right", "n", "k"), [(1, 4, 2), (0, 3, 1), (3, 3, 2), (2, 5, 3), (2, 5, 5)])
def test_pass_at_k_is_the_share_of_subsets(right: int, n: int, k: int) -> None:
    attempts = [True] * right + [False] * (n - right)
    subsets = list(itertools.combinations(attempts, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(marks((right, n)), k) == pytest.approx(expected)


def test_pass_at_k_of_too_few_attempts_is_refused() -> None:
    with pytest.raises(UsageError, match="pass@3"):
        pass_at_k(marks((1, 4), (1, 2)), 3)


def test_paired_rates_by_task() -> None:
    before = marks(*[(1, 4)] * 15, *[(4, 4)] * 15)
    after = marks(*[(3, 4)] * 15, *[(4, 4)] * 14, (3, 4))
    found = paired_rates(before, after)
    assert (found.n, found.gained, found.lost) == (30, 15, 1)
    assert found.difference == pytest.approx((15 * 0.5 - 0.25) / 30)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    assert paired_rates(before, after) == found


def test_no_difference_is_no_difference() -> None:
    same = marks((1, 2), (2, 2), (0, 2))
    found = paired_rates(same, same)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high
    assert paired_rates(same, {}).n == 0


def test_only_tasks_of_both_are_paired() -> None:
    assert paired_rates(marks((1, 2), (2, 2)), {"0": [True], "9": [False]}).n == 1
