"""The vote: what counts as the same result, who wins, and when it is over."""

import itertools
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.agent import vote
from agentdistill.clients import protocol
from agentdistill.types import ErrorKind, Execution, Opaque

NAN = float("nan")


def same(a: Any, b: Any) -> bool:
    return vote.canonical(a) == vote.canonical(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, Fraction(1)),
        (1, Decimal("1.00")),
        (1, 1 + 0j),
        (0.0, -0.0),
        (10**30, Decimal("1E+30")),
        (2**80, 2.0**80),
        (0.1 + 0.2, 0.3),
        (0.1, Decimal("0.1")),
        (17.99999999999999, 18),
        (Fraction(1, 3), 1 / 3),
        (NAN, Decimal("nan")),
        (NAN, Decimal("sNaN")),
        (float("inf"), Decimal("Infinity")),
        (complex(NAN, 1), complex(NAN, 1.0)),
        ([1, 2], (1.0, 2)),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}),
        ({1, 2}, frozenset({2.0, 1})),
        ([NAN], [NAN]),
        ("a  b \n\n c", "a b\nc"),
        (Opaque("Thing", "<Thing at 0x7f01>"), Opaque("Thing", "<Thing at 0x7f02>")),
    ],
)
def test_the_same(a: Any, b: Any) -> None:
    assert same(a, b)
    assert hash(vote.canonical(a)) == hash(vote.canonical(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0, False),
        (0, None),
        (1, "1"),
        (1, 1 + 1e-9),
        (10**30, 10**30 + 1),
        (float("inf"), float("-inf")),
        (float("inf"), NAN),
        (1j, 1),
        ([1, 2], [2, 1]),
        ([1, 2], {1, 2}),
        ([], {}),
        ({"a": 1}, {"a": True}),
        ("ab", "a b"),
        ("a", "A"),
        ("a", b"a"),
        (Opaque("Thing", "x"), Opaque("Other", "x")),
        (Opaque("Thing", "x"), "x"),
        (("number", 1), 1),
    ],
)
def test_not_the_same(a: Any, b: Any) -> None:
    assert not same(a, b)


def test_numpy_counts_by_value() -> None:
    numpy = pytest.importorskip("numpy")
    assert same(numpy.int64(3), 3) and same(numpy.float32(0.5), Fraction(1, 2))


def test_prints_count_for_a_step_and_not_for_a_final_answer() -> None:
    assert vote.key(Execution(logs="a\n", value=1)) != vote.key(Execution(logs="b\n", value=1))
    assert vote.key(Execution(logs="a\n", value=1, is_final=True)) == vote.key(
        Execution(logs="b\n", value=1.0, is_final=True)
    )
    assert vote.key(Execution(value=1)) != vote.key(Execution(value=1, is_final=True))


def test_a_final_answer_in_digits_is_a_number() -> None:
    def final(value: Any) -> Any:
        return vote.key(Execution(value=value, is_final=True))

    assert final(" 42 ") == final(42) == final("42.0") != final("42 apples")
    assert vote.key(Execution(value="42")) != vote.key(Execution(value=42))


def test_what_failed_has_no_key() -> None:
    for kind in ErrorKind:
        assert vote.key(Execution(logs="42", error="no", error_kind=kind)) is None


# ---------------------------------------------------------------------- hostile values

numbers = st.one_of(
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5), st.binary(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=2), st.integers()), inner, max_size=3),
        st.sets(st.one_of(st.integers(), st.text(max_size=2)), max_size=3),
    ),
    max_leaves=8,
)


@given(values)
def test_a_value_is_the_same_as_itself_over_the_wire(value: Any) -> None:
    assert same(value, value)
    assert same(value, protocol.decode(protocol.encode(value)))


@given(numbers, numbers)
def test_equal_numbers_are_the_same(a: Any, b: Any) -> None:
    if not any(isinstance(x, Decimal) and x.is_snan() for x in (a, b)) and a == b:
        assert same(a, b)


@pytest.mark.parametrize(
    "make",
    [
        lambda: 10**100_000,
        lambda: Decimal("1E+999999999999999999"),
        lambda: Decimal("1E-999999999999999999"),
        lambda: Decimal("9" * 4000 + ".5"),
        lambda: Fraction(10**3999, 7),
        lambda: list(range(400_000)),
        lambda: deep(50_000),
        lambda: "\u0301\u0323" * 2_000_000,
        lambda: {i * (2**61 - 1) for i in range(1, 2_000)},
    ],
)
def test_hostile_values_cost_little(make: Any) -> None:
    value, twin = make(), make()
    started = time.process_time()
    keys = [vote.canonical(value), vote.canonical(value), vote.canonical(twin)]
    assert keys[0] == keys[1]
    hash(keys[2])
    assert time.process_time() - started < 3


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_too_large_agrees_with_nothing_but_itself() -> None:
    value = list(range(vote.MAX_ITEMS + 1))
    assert same(value, value)
    assert not same(value, list(value))


# ---------------------------------------------------------------------- who wins

A, B, C = (vote.Key(name, None, False) for name in "abc")
cast = st.lists(st.sampled_from([A, B, C, None]), min_size=1, max_size=7)


def keyed(keys: Any) -> dict[int, Any]:
    return dict(enumerate(keys))


@given(cast)
def test_the_winner_has_the_most_votes_and_is_the_earliest_of_those(keys: list[Any]) -> None:
    best = vote.winner(keyed(keys))
    counts = {key: keys.count(key) for key in keys if key is not None}
    if not counts:
        assert best is None
        return
    assert best is not None
    assert counts[keys[best]] == max(counts.values())
    assert best == min(keys.index(key) for key, count in counts.items() if count == max(counts.values()))
    assert vote.votes(keyed(keys)) == {i: counts.get(key, 0) for i, key in enumerate(keys)}


@given(cast, st.randoms(use_true_random=False))
def test_the_order_of_the_losers_does_not_matter(keys: list[Any], random: Any) -> None:
    best = vote.winner(keyed(keys))
    if best is None:
        return
    losers = [i for i, key in enumerate(keys) if key != keys[best]]
    shuffled = list(losers)
    random.shuffle(shuffled)
    moved = list(keys)
    for old, new in zip(losers, shuffled, strict=True):
        moved[new] = keys[old]
    if [keys.count(key) for key in {A, B, C} & set(keys)].count(keys.count(keys[best])) == 1:
        assert keys[vote.winner(keyed(moved))] == keys[best]  # type: ignore[index]
    else:  # a tie goes to the earliest, wherever the losers went
        assert keys.count(moved[vote.winner(keyed(moved))]) == keys.count(keys[best])  # type: ignore[index]


def test_ties_go_to_the_earliest() -> None:
    assert vote.winner(keyed([None, A, B, B, A])) == 1
    assert vote.winner(keyed([None, B, A, A, B])) == 1


@given(st.lists(st.sampled_from([A, B, None, "open"]), min_size=1, max_size=5))
def test_decided_means_that_nothing_can_change_the_winning_group(cells: list[Any]) -> None:
    keys = {i: cell for i, cell in enumerate(cells) if cell != "open"}
    missing = [i for i in range(len(cells)) if i not in keys]
    outcomes = set()
    for rest in itertools.product([A, B, C, None], repeat=len(missing)):
        full = keys | dict(zip(missing, rest, strict=True))
        best = vote.winner(full)
        outcomes.add(None if best is None else full[best])
    assert vote.decided(keys, len(cells)) == (len(outcomes) == 1)
