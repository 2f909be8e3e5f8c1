"""Intervals and tests against values from the papers that define or compare them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.errors import UsageError
from agentdistill.evaluation.stats import mcnemar, newcombe_paired, paired_difference, proportion, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("pairs", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((36, 14, 0, 0), 0.1528, 0.4167),
        ((53, 0, 1, 0), -0.0977, 0.0496),
        ((29, 1, 0, 0), -0.0834, 0.1667),
        # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_newcombe_gives_the_published_intervals(
    pairs: tuple[int, int, int, int], low: float, high: float
) -> None:
    assert newcombe_paired(*pairs) == pytest.approx((low, high), abs=6e-4)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(7, 1) == pytest.approx(18 / 256)  # Fagerland et al. 2013: 0.070
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert 0 < mcnemar(5000, 4000) < 1e-20  # beyond what 2.0 ** flips could hold


def test_a_paired_difference_counts_the_flips() -> None:
    before = [True] * 10 + [True] * 2 + [False] * 12 + [False] * 16
    after = [True] * 10 + [False] * 2 + [True] * 12 + [False] * 16
    result = paired_difference(before, after)
    assert (result.n, result.gained, result.lost) == (40, 12, 2)
    assert result.before == 12 / 40
    assert result.after == 22 / 40
    assert result.difference == pytest.approx(0.25)
    assert 0 < result.low < 0.25 < result.high
    assert result.p == mcnemar(12, 2)


def test_nothing_measured_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert proportion([]).rate == 0.0
    empty = paired_difference([], [])
    assert (empty.low, empty.high, empty.p) == (-1.0, 1.0, 1.0)


def test_bad_arguments_are_usage_errors() -> None:
    for call in (
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: wilson(1, 2, confidence=1.0),
        lambda: paired_difference([True], []),
        lambda: mcnemar(-1, 2),
    ):
        with pytest.raises(UsageError):
            call()


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_and_mirrors(successes: int, failures: int, confidence: float) -> None:
    n = successes + failures
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= successes / n <= high + 1e-12
    assert wilson(failures, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_a_paired_difference_mirrors_when_the_systems_swap(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    forth, back = paired_difference(before, after), paired_difference(after, before)
    assert -1 <= forth.low <= forth.difference + 1e-12
    assert forth.difference - 1e-12 <= forth.high <= 1
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)
    assert (back.gained, back.lost, back.p) == (forth.lost, forth.gained, forth.p)
    assert forth.before == proportion(before).rate
