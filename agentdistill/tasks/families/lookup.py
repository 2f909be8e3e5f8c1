"""Questions over a table that code must search.

`meta["data"]["table"]` is a list of 20 to 60 dicts; the runner puts it into the sandbox as `table`, the
question only names the variable and its keys. Level 1 looks up one value, level 2 counts, adds or compares
the rows that match, level 3 takes two steps. Every answer is unique: names occur once, and a highest or
lowest value that is asked for by its row is held by one row only. `meta["op"]` and `meta["slots"]` say what
was asked, so that a test can work it out in another way. Tables and wordings stand in lookup_wordings.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.tasks.families.base import Draft, Family, Split, Template
from agentdistill.tasks.families.lookup_wordings import DOMAINS, INTROS, WORDINGS, Domain, Wording
from agentdistill.types import TaskKind

Row = dict[str, Any]  # text or int values
Slots = dict[str, Any]

_TRIES = 200


@dataclass(frozen=True, slots=True)
class TableQuestion:
    """A wording, and the tables and introductions of its split."""

    wording: Wording
    domains: tuple[Domain, ...]
    intros: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.wording.name

    @property
    def skeleton(self) -> str:
        return self.wording.text

    def draw(self, rng: random.Random) -> Draft:
        for _ in range(_TRIES):
            domain = rng.choice(self.domains)
            table = _table(domain, rng)
            slots = _slots(domain, table, rng)
            answer = OPERATIONS[self.wording.op](table, slots)
            if answer is None:
                continue
            keys = ", ".join(f'"{key}"' for key in domain.columns)
            text = f"{rng.choice(self.intros)} {self.wording.text}".format(keys=keys, **slots)
            kind = TaskKind.MATH if isinstance(answer, int) else TaskKind.QA
            meta = {"op": self.wording.op, "slots": slots, "data": {"table": table}}
            return Draft(text, str(answer), kind, meta)
        raise AssertionError(f"{self.name}: no table with a unique answer")


def _table(domain: Domain, rng: random.Random) -> list[Row]:
    size = rng.randint(20, min(60, len(domain.names)))
    rows = []
    for name in rng.sample(domain.names, size):
        row: Row = {domain.key: name}
        for column, values in domain.groups.items():
            row[column] = rng.choice(values)
        for column, (low, high) in domain.numbers.items():
            row[column] = rng.randint(low, high)
        rows.append(row)
    return rows


def _slots(domain: Domain, table: list[Row], rng: random.Random) -> Slots:
    """Something to ask about: two rows, one column of each sort, and a group with enough members."""
    first, second = rng.sample(table, 2)
    group = rng.choice(list(domain.groups))
    number, other = rng.sample(list(domain.numbers), 2)
    low, high = domain.numbers[number]
    step = 10 if high - low > 60 else 1
    return {
        "noun": domain.noun,
        "nouns": domain.nouns,
        "key": domain.key,
        "name": first[domain.key],
        "name2": second[domain.key],
        "group": group,
        "value": first[group],
        "number": number,
        "other": other,
        "limit": rng.randint(low + (high - low) // 4, high - (high - low) // 4) // step * step,
    }


def _row(table: list[Row], s: Slots, name: str) -> Row:
    return next(row for row in table if row[s["key"]] == name)


def _members(table: list[Row], s: Slots) -> list[Row]:
    return [row for row in table if row[s["group"]] == s["value"]]


def _extreme(rows: list[Row], column: str, highest: bool) -> Row | None:
    """The row with the highest or lowest value, or None if there are ties or under three rows."""
    ordered = sorted(rows, key=lambda row: row[column], reverse=highest)
    if len(ordered) < 3 or ordered[0][column] == ordered[1][column]:
        return None
    return ordered[0]


def _several(rows: list[Row]) -> list[Row] | None:
    return rows if len(rows) >= 3 else None


def _number_of(table: list[Row], s: Slots) -> int | None:
    value = _row(table, s, s["name"])[s["number"]]
    return int(value)


def _group_of(table: list[Row], s: Slots) -> str | None:
    return str(_row(table, s, s["name"])[s["group"]])


def _count_group(table: list[Row], s: Slots) -> int | None:
    rows = _several(_members(table, s))
    return len(rows) if rows else None


def _count_above(table: list[Row], s: Slots) -> int | None:
    return sum(row[s["number"]] > s["limit"] for row in table) or None


def _sum_group(table: list[Row], s: Slots) -> int | None:
    rows = _several(_members(table, s))
    return sum(row[s["number"]] for row in rows) if rows else None


def _max_group(table: list[Row], s: Slots) -> int | None:
    rows = _several(_members(table, s))
    return max(row[s["number"]] for row in rows) if rows else None


def _min_group(table: list[Row], s: Slots) -> int | None:
    rows = _several(_members(table, s))
    return min(row[s["number"]] for row in rows) if rows else None


def _name_of_max(table: list[Row], s: Slots) -> str | None:
    row = _extreme(table, s["number"], highest=True)
    return row[s["key"]] if row else None


def _name_of_min(table: list[Row], s: Slots) -> str | None:
    row = _extreme(table, s["number"], highest=False)
    return row[s["key"]] if row else None


def _other_of_max(table: list[Row], s: Slots) -> int | None:
    row = _extreme(table, s["number"], highest=True)
    return row[s["other"]] if row else None


def _group_of_min(table: list[Row], s: Slots) -> str | None:
    row = _extreme(table, s["number"], highest=False)
    return row[s["group"]] if row else None


def _difference(table: list[Row], s: Slots) -> int | None:
    gap = _row(table, s, s["name"])[s["number"]] - _row(table, s, s["name2"])[s["number"]]
    return gap if gap > 0 else None


def _sum_two(table: list[Row], s: Slots) -> int | None:
    return int(_row(table, s, s["name"])[s["number"]] + _row(table, s, s["name2"])[s["number"]])


def _name_of_group_max(table: list[Row], s: Slots) -> str | None:
    row = _extreme(_members(table, s), s["number"], highest=True)
    return row[s["key"]] if row else None


def _range_group(table: list[Row], s: Slots) -> int | None:
    rows = _several(_members(table, s))
    return max(row[s["number"]] for row in rows) - min(row[s["number"]] for row in rows) if rows else None


def _count_higher(table: list[Row], s: Slots) -> int | None:
    value = _row(table, s, s["name"])[s["number"]]
    return sum(row[s["number"]] > value for row in table) or None


def _commonest(table: list[Row], s: Slots) -> str | None:
    ranked = Counter(row[s["group"]] for row in table).most_common(2)
    return ranked[0][0] if len(ranked) > 1 and ranked[0][1] > ranked[1][1] else None


OPERATIONS: dict[str, Callable[[list[Row], Slots], int | str | None]] = {
    "number_of": _number_of,
    "group_of": _group_of,
    "count_group": _count_group,
    "count_above": _count_above,
    "sum_group": _sum_group,
    "max_group": _max_group,
    "min_group": _min_group,
    "name_of_max": _name_of_max,
    "name_of_min": _name_of_min,
    "other_of_max": _other_of_max,
    "group_of_min": _group_of_min,
    "difference": _difference,
    "sum_two": _sum_two,
    "name_of_group_max": _name_of_group_max,
    "range_group": _range_group,
    "count_higher": _count_higher,
    "commonest": _commonest,
}


def _templates(split: Split, level: int) -> Sequence[Template]:
    return [
        TableQuestion(wording, DOMAINS[split], INTROS[split])
        for wording in WORDINGS[split]
        if wording.level == level
    ]


FAMILY = Family("lookup", "questions over a table of 20 to 60 rows that code must search", _templates)
