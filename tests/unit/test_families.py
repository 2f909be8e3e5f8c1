"""Generated tasks: right answers by an independent route, held-out wordings, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill.errors import UsageError
from agentdistill.tasks.families import FAMILIES, make_tasks
from agentdistill.tasks.families.arithmetic_wordings import TEST, TEST_NAMES, TRAIN, TRAIN_NAMES
from agentdistill.tasks.families.lookup_wordings import DOMAINS, INTROS
from agentdistill.types import Task, TaskKind, to_json

F = Fraction

# What each wording asks, worked out by reading it: `n` are the numbers of its text, in order.
ARITHMETIC: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "boxes-total": lambda n: n[0] * n[1],
    "warehouse-left": lambda n: n[0] - n[1],
    "steps-sum": lambda n: n[0] + n[1],
    "class-share": lambda n: n[0] / n[1],
    "bags-over": lambda n: n[0] - n[1] * (n[0] // n[1]),
    "cinema-seats": lambda n: n[0] * n[1],
    "tickets-cost": lambda n: n[0] * n[1],
    "factory-days": lambda n: n[0] * n[1],
    "afford-most": lambda n: F(n[0] // n[1]),
    "towns-more": lambda n: n[0] - n[1],
    "rope-pieces": lambda n: n[0] / n[1],
    "saving-missing": lambda n: n[0] - n[1],
    "album-photos": lambda n: n[0] * n[1],
    "vote-sum": lambda n: n[0] + n[1],
    "boxes-give": lambda n: n[0] * n[1] - n[2],
    "crates-loose": lambda n: n[0] * n[1] + n[2],
    "cafe-days": lambda n: n[2] * n[0] + n[2] * n[1],
    "money-left": lambda n: n[0] - n[1] * n[2],
    "broken-shelves": lambda n: (n[0] - n[1]) / n[2],
    "hotel-lamps": lambda n: n[0] * n[1] * n[2],
    "zoo-tickets": lambda n: n[0] * n[1] + n[2] * n[3],
    "rain-average": lambda n: sum(n[:3]) / 3,
    "baskets-over": lambda n: (n[0] + n[1]) % n[2],
    "printer-books": lambda n: F(n[0] * n[2] // n[1]),  # pages a minute, pages a book, minutes
    "readers-rest": lambda n: n[0] - (n[1] + n[2]),
    "stamps-times": lambda n: n[0] + n[0] * n[1],
    "visitors-percent": lambda n: n[0] - n[0] * n[1] / 100,
    "craft-profit": lambda n: n[0] * n[2] - n[0] * n[1],
    "bus-trips": lambda n: n[0] - n[1] * n[2],
    "runner-weeks": lambda n: n[0] * 5 + n[1],
    "cafe-change": lambda n: n[4] - (n[0] * n[1] + n[2] * n[3]),
    "scores-average": lambda n: sum(n[:4]) / 4,
    "discount-delivery": lambda n: n[0] - n[0] * n[1] / 100 + n[2],
    "trip-speed": lambda n: (n[0] * n[1] + n[2] * n[3]) / (n[0] + n[2]),  # hours, speed, hours, speed
    "fence-cost": lambda n: (n[0] + n[1] + n[0] + n[1]) * n[2],
    "savings-interest": lambda n: n[0] + n[2] * (n[0] * n[1] / 100),
    "orchard-cartons": lambda n: (n[0] * n[1] - n[2]) % n[3],
    "overtime-pay": lambda n: n[0] * n[1] + n[0] * F(3, 2) * (n[2] - n[1]),  # rate, 40, hours
    "fuel-cost": lambda n: n[0] / n[1] * n[3] * n[2],  # litres, per 100 km, price, km
    "school-trip": lambda n: n[2] + (n[0] + n[1]) * n[3] + (n[0] + n[1]) * n[4],
    "growth-two-years": lambda n: n[0] + n[0] * n[1] / 100 - n[2],
    "library-shelves": lambda n: n[0] * n[1],
    "market-truck": lambda n: n[0] - n[1],
    "dance-groups": lambda n: n[0] % n[1],
    "wedding-tables": lambda n: n[0] / n[1],
    "cyclist-weeks": lambda n: n[0] * n[1],
    "bakery-sales": lambda n: n[0] + n[1],
    "flour-cakes": lambda n: F(n[1] // n[0]),
    "ship-unloads": lambda n: n[0] * n[1] - n[2],
    "choir-songs": lambda n: n[0] * n[1] + n[2],
    "tank-litres": lambda n: n[0] - n[1] * n[2],
    "ferry-crossings": lambda n: n[2] * n[0] + n[2] * n[1],
    "gardener-rows": lambda n: n[0] * n[1] + n[2] * n[3],
    "brick-walls": lambda n: F(n[0] * n[2] // n[1]),
    "fish-average": lambda n: sum(n[:3]) / 3,
    "marbles-times": lambda n: n[0] + n[0] * n[1],
    "plane-seats": lambda n: n[0] * n[1] - n[2],
    "paint-budget": lambda n: n[4] - (n[0] * n[1] + n[2] * n[3]),
    "harvest-mean": lambda n: sum(n[:4]) / 4,
    "sale-assembly": lambda n: n[0] - n[0] * n[1] / 100 + n[2],
    "carpet-price": lambda n: n[0] * n[1] * n[2] + n[3],
    "loan-simple": lambda n: n[0] + n[2] * (n[0] * n[1] / 100),
    "nails-packets": lambda n: (n[0] * n[1] - n[2]) % n[3],
}

# The operations of `lookup` in another language. {number} and the like are column names.
SQL = {
    "number_of": 'SELECT "{number}" FROM t WHERE "{key}" = :name',
    "group_of": 'SELECT "{group}" FROM t WHERE "{key}" = :name',
    "count_group": 'SELECT COUNT(*) FROM t WHERE "{group}" = :value',
    "count_above": 'SELECT COUNT(*) FROM t WHERE "{number}" > :limit',
    "sum_group": 'SELECT SUM("{number}") FROM t WHERE "{group}" = :value',
    "max_group": 'SELECT MAX("{number}") FROM t WHERE "{group}" = :value',
    "min_group": 'SELECT MIN("{number}") FROM t WHERE "{group}" = :value',
    "name_of_max": 'SELECT "{key}" FROM t WHERE "{number}" = (SELECT MAX("{number}") FROM t)',
    "name_of_min": 'SELECT "{key}" FROM t WHERE "{number}" = (SELECT MIN("{number}") FROM t)',
    "other_of_max": 'SELECT "{other}" FROM t WHERE "{number}" = (SELECT MAX("{number}") FROM t)',
    "group_of_min": 'SELECT "{group}" FROM t WHERE "{number}" = (SELECT MIN("{number}") FROM t)',
    "difference": 'SELECT a."{number}" - b."{number}" FROM t a, t b '
    'WHERE a."{key}" = :name AND b."{key}" = :name2',
    "sum_two": 'SELECT SUM("{number}") FROM t WHERE "{key}" IN (:name, :name2)',
    "name_of_group_max": 'SELECT "{key}" FROM t WHERE "{group}" = :value AND "{number}" = '
    '(SELECT MAX("{number}") FROM t WHERE "{group}" = :value)',
    "range_group": 'SELECT MAX("{number}") - MIN("{number}") FROM t WHERE "{group}" = :value',
    "count_higher": "SELECT COUNT(*) FROM t "
    'WHERE "{number}" > (SELECT "{number}" FROM t WHERE "{key}" = :name)',
    "commonest": 'SELECT "{group}" FROM t GROUP BY 1 HAVING COUNT(*) = '
    '(SELECT MAX(c) FROM (SELECT COUNT(*) AS c FROM t GROUP BY "{group}"))',
}


def numbers(text: str) -> list[Fraction]:
    return [Fraction(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_arithmetic_answers_follow_from_the_numbers_in_the_text(split: Any) -> None:
    tasks = make_tasks("arithmetic", 600, 3, split=split)
    assert {task.meta["template"] for task in tasks} == {
        w.name for w in (TRAIN if split == "train" else TEST)
    }
    for task in tasks:
        worked_out = ARITHMETIC[task.meta["template"]](numbers(task.question))
        assert Fraction(task.answer) == worked_out > 0, (task.question, task.answer)
        assert re.fullmatch(r"\d+(\.\d{0,1}[1-9])?", task.answer)
        assert task.kind is TaskKind.MATH


@pytest.mark.parametrize("split", ["train", "test"])
def test_lookup_answers_agree_with_sql_and_are_unique(split: Any) -> None:
    tasks = make_tasks("lookup", 400, 3, split=split)
    for task in tasks:
        table, slots = task.meta["data"]["table"], task.meta["slots"]
        assert 20 <= len(table) <= 60
        base = sqlite3.connect(":memory:")
        columns = list(table[0])
        base.execute("CREATE TABLE t (" + ", ".join(f'"{column}"' for column in columns) + ")")
        base.executemany(
            f"INSERT INTO t VALUES ({', '.join('?' * len(columns))})", [list(row.values()) for row in table]
        )
        rows = base.execute(SQL[task.meta["op"]].format(**slots), slots).fetchall()
        base.close()
        assert len(rows) == 1, task.question
        assert str(rows[0][0]) == task.answer, task.question
        assert task.kind is (TaskKind.MATH if isinstance(rows[0][0], int) else TaskKind.QA)
        assert all(f'"{column}"' in task.question for column in columns)
        assert "`table`" in task.question


def sentences(text: str) -> set[str]:
    """The wording of each sentence, whatever its slots are called."""
    return {
        re.sub(r"\W+", " ", re.sub(r"\{\w+\}", "_", part)).strip().lower()
        for part in re.split(r"(?<=[.?!])\s+", text)
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_train_and_test_share_no_wording(family: str) -> None:
    wordings: dict[str, set[str]] = {}
    for split in ("train", "test"):
        wordings[split] = set().union(
            *(sentences(t.skeleton) for level in (1, 2, 3) for t in FAMILIES[family].templates(split, level))
        )
        assert wordings[split]
    assert not wordings["train"] & wordings["test"]


def test_train_and_test_share_no_names_tables_or_introductions() -> None:
    assert not set(TRAIN_NAMES) & set(TEST_NAMES)
    train, test = (
        {n for d in DOMAINS[split] for n in (d.noun, *d.names, *d.columns)} for split in ("train", "test")
    )
    assert not train & test
    introductions = [set().union(*map(sentences, INTROS[split])) for split in ("train", "test")]
    assert not introductions[0] & introductions[1]
    train, test = (
        {word for wording in wordings for options in wording.words.values() for word in options}
        for wordings in (TRAIN, TEST)
    )
    assert not train & test


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_repeats_nothing_and_grows_at_its_end(family: str, split: Any) -> None:
    tasks = make_tasks(family, 300, 7, split=split)
    assert len({task.question for task in tasks}) == len({task.id for task in tasks}) == 300
    assert tasks[:40] == make_tasks(family, 40, 7, split=split)
    assert {task.meta["level"] for task in tasks} == {1, 2, 3}
    assert tasks[12].id == f"{family}-{split}-s7-0012"
    for task in tasks:
        assert "{" not in task.question
        if family == "arithmetic" and task.meta["level"] < 3:
            assert len(task.question.split()) <= 45


def test_hundreds_of_look_ups_differ_at_least_in_their_table() -> None:
    tasks = make_tasks("lookup", 1200, 1, split="test", levels=(3,))
    assert len({(task.question, json.dumps(task.meta["data"])) for task in tasks}) == 1200


@pytest.mark.parametrize(
    ("family", "digest"),
    [("arithmetic", "366c08d38e3e716a"), ("lookup", "f7ad0c9ca4853b9a")],
)
def test_the_bytes_are_pinned(family: str, digest: str) -> None:
    """Recorded trajectories belong to these tasks: change a wording, and this says that they are others."""
    rows = [to_json(t) for split in ("train", "test") for t in make_tasks(family, 90, 0, split=split)]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    n=st.integers(1, 30),
    seed=st.integers(-(10**30), 10**30),
    split=st.sampled_from(["train", "test"]),
    levels=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
)
def test_any_arguments_give_tasks_that_survive_json(
    family: str, n: int, seed: int, split: Any, levels: list[int]
) -> None:
    tasks = make_tasks(family, n, seed, split=split, levels=levels)
    assert tasks == make_tasks(family, n, seed, split=split, levels=levels)
    assert [task.meta["level"] for task in tasks] == [levels[i % len(levels)] for i in range(n)]
    assert [Task.from_json(json.loads(json.dumps(to_json(task)))) for task in tasks] == tasks


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("geometry", 1, 0), "arithmetic, lookup"),
        (("arithmetic", 0, 0), "at least 1"),
        (("arithmetic", -3, 0), "at least 1"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: tuple[str, int, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_tasks(*arguments)


def test_bad_levels_and_splits_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="levels"):
        make_tasks("lookup", 1, 0, levels=(4,))
    with pytest.raises(UsageError, match="levels"):
        make_tasks("lookup", 1, 0, levels=())
    with pytest.raises(UsageError, match="split"):
        make_tasks("lookup", 1, 0, split="dev")
