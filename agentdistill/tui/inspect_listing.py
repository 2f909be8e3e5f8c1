"""What a table of `inspect` lists: the attempts of one RUN, or the tasks of two RUNs beside each other.

Guaranteed: of any number of attempts only their line numbers are held, in order, and the rows that are asked
for. Tasks are paired by id and question. Not guaranteed: a fixed order of equals beyond their order in the
file.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.evaluation.attempt import AttemptPage, attempt_page
from agentdistill.tui.inspect_index import RunIndex
from agentdistill.visible import visible_line

GAP = 2
"""Cells between two columns."""
_PIECE = 200
"""Rows that are fetched at once."""


@dataclass(frozen=True, slots=True)
class Column:
    """`name` is also its key in JSON. `width` 0 takes the room that is left; a column is shown on screens of
    `from_width` cells and more. It is sorted by `order`, or by what it shows."""

    name: str
    title: str
    width: int
    sql: str
    show: Callable[[Any], str]
    right: bool = False
    from_width: int = 0
    order: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """Which rows, in which order. `search` is text that a row must hold somewhere, whatever its case."""

    only: str = "all"
    search: str = ""
    sort: str = ""
    descending: bool = False


class Listing:
    """Rows of one table. Subclasses say which."""

    columns: ClassVar[tuple[Column, ...]]
    filters: ClassVar[Mapping[str, str]]
    record: ClassVar[Mapping[str, str]]
    rows_sql: str
    key: str
    order: str
    searched: str

    noun: str

    def __init__(self, *indexes: RunIndex) -> None:
        self.index, self.indexes = indexes[0], indexes

    @property
    def name(self) -> str:
        """The RUNs in words."""
        return " against ".join(run_name(index) for index in reversed(self.indexes))

    def checked(self, view: View) -> View:
        """The view, with names as they are; raises UsageError for a filter or column that there is not."""
        names = [column.name for column in self.columns]
        if view.only not in self.filters:
            raise UsageError(f"there is no filter {view.only!r}", f"known: {', '.join(self.filters)}")
        if view.sort and view.sort not in names:
            raise UsageError(f"there is no column {view.sort!r}", f"known: {', '.join(names)}")
        return view

    def keys(self, view: View, limit: int | None = None) -> array[int]:
        """The keys of the rows of a view, in its order."""
        where, given = self.filters[view.only], []
        if view.search:
            where += f" AND holds(?, {self.searched})"
            given.append(view.search.casefold())
        order = self.order
        if view.sort:
            column = next(column for column in self.columns if column.name == view.sort)
            direction = "DESC" if view.descending else "ASC"
            order = f"{column.order or column.sql} {direction} NULLS LAST, {order}"
        cut = f" LIMIT {limit}" if limit is not None else ""
        sql = f"SELECT {self.key} FROM {self.rows_sql} WHERE {where} ORDER BY {order}{cut}"  # noqa: S608
        return array("q", (row[0] for row in self.index.query(sql, given)))

    def rows(self, keys: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of some keys, in their order: values by the name of the column, and `key`."""
        columns = ", ".join(column.sql for column in self.columns)
        marks = ", ".join("?" * len(keys))
        sql = f"SELECT {self.key}, {columns} FROM {self.rows_sql} WHERE {self.key} IN ({marks})"  # noqa: S608
        names = ["key", *(column.name for column in self.columns)]
        found = {row[0]: dict(zip(names, row, strict=True)) for row in self.index.query(sql, list(keys))}
        return [found[key] for key in keys if key in found]

    def each(self, keys: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows of any number of keys, of which a few are held at a time."""
        for start in range(0, len(keys), _PIECE):
            yield from self.rows(keys[start : start + _PIECE])

    def pages(self, key: int) -> list[tuple[str, AttemptPage | str]]:
        """The attempts of a row, by the name of their RUN where there are two; or why one cannot be shown."""
        lines = self.lines(key)
        return [(run_name(index) if len(lines) > 1 else "", _page(index, n)) for index, n in lines]

    def lines(self, key: int) -> list[tuple[RunIndex, int | None]]:
        """Where the attempts of a row are: their lines, None in a RUN that has none."""
        return [(self.index, key)]

    def records(self, keys: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What JSON has of the rows of some keys, in their order. Texts are cut as in the index."""
        expressions = ", ".join(self.record.values())
        sql = f"SELECT {expressions} FROM {self.rows_sql} WHERE {self.key} = ?"  # noqa: S608
        for key in keys:
            for row in self.index.query(sql, (key,)):
                yield self.as_json(dict(zip(self.record, row, strict=True)))

    def as_json(self, row: dict[str, Any]) -> dict[str, Any]:
        """A record with what SQLite has no type for."""
        return row

    def columns_for(self, width: int) -> list[tuple[Column, int]]:
        """What so many cells have room for, with the width of each."""
        shown = [column for column in self.columns if column.from_width <= width]
        taken = sum(column.width + GAP for column in shown if column.width)
        return [(column, column.width or max(8, width - taken - GAP - 1)) for column in shown]

    def matching(self, only: str) -> int:
        """How many rows a filter lets through."""
        sql = f"SELECT count(*) FROM {self.rows_sql} WHERE {self.filters[only]}"  # noqa: S608
        return int(self.index.query(sql)[0][0])

    def count(self) -> int:
        """How many rows there are in all."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Bring the rows up to date with the indexes."""


def _page(index: RunIndex, n: int | None) -> AttemptPage | str:
    if n is None:
        return "this run has no attempt at the task"
    try:
        trajectory = index.trajectory(n)
        return attempt_page(trajectory, index.score(trajectory.id))
    except RunDirectoryError as error:
        return str(error)


def run_name(index: RunIndex) -> str:
    """The folder's name, as it may be shown."""
    return visible_line(index.run.resolve().name, 60)


def fitted(text: str, room: int, right: bool = False) -> str:
    """Exactly `room` cells of a line; what was cut off is a mark."""
    size = cell_len(text)
    if size > room:
        return set_cell_size(text, room - 1) + "…"
    return " " * (room - size) + text if right else text + " " * (room - size)


def duration(seconds: float) -> str:
    """Seconds for a narrow column."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _or_nothing(value: float) -> str:
    return f"{value:g}" if value else ""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ended(reason: str) -> str:
    return {"final_answer": "answer", "max_steps": "max steps"}.get(reason, visible_line(reason))


def _share(value: float | None) -> str:
    if value is None:
        return "·"
    return {1.0: "✓", 0.0: "✗"}.get(value, f"{100 * value:.0f}%")


def _both(name: str, form: str) -> tuple[str, Callable[[Any], str], bool]:
    """What a column of both RUNs shows, its figures as text; numbers of one RUN alone are a dash."""
    one, two = (f"CASE WHEN {name}_{x} IS NULL THEN '–' ELSE printf('{form}', {name}_{x}) END" for x in "ab")
    return f"{one} || ' → ' || {two}", str, True


class Attempts(Listing):
    """One row an attempt."""

    columns = (
        Column("correct", "", 1, "s.correct", lambda value: {1: "✓", 0: "✗"}.get(value, "·")),
        Column("task", "task", 16, "a.task", visible_line),
        Column("sample", "#", 3, "a.sample", _or_nothing, right=True, from_width=140),
        Column("source", "source", 12, "a.source", visible_line, from_width=160),
        Column("question", "question", 0, "coalesce(a.problem, a.question)", visible_line),
        Column("gold", "right answer", 14, "a.gold", str, from_width=130),
        Column("answer", "answer", 14, "coalesce(a.answer, '–')", str, from_width=110),
        Column("steps", "steps", 5, "a.steps", str, right=True),
        Column("errors", "errors", 6, "a.errors", _or_nothing, right=True, from_width=120),
        Column("tokens_in", "read", 7, "a.tokens_in", _count, right=True, from_width=90),
        Column("tokens_out", "written", 7, "a.tokens_out", _count, right=True),
        Column("seconds", "time", 7, "a.seconds", duration, right=True),
        Column("stop", "ended", 9, "a.stop", _ended),
    )
    record: ClassVar[Mapping[str, str]] = {
        **{"line": "a.n", "attempt": "a.id", "task": "a.task", "sample": "a.sample", "source": "a.source"},
        **{"question": "a.question", "gold": "a.gold", "answer": "a.answer"},
        **{"correct": "s.correct", "method": "s.method", "detail": "s.detail"},
        **{"steps": "a.steps", "errors": "a.errors", "seconds": "a.seconds"},
        **{"tokens_in": "a.tokens_in", "tokens_out": "a.tokens_out"},
        **{"stop_reason": "a.stop", "problem": "a.problem"},
    }
    filters: ClassVar[Mapping[str, str]] = {
        "all": "1",
        "wrong": "s.correct = 0",
        "right": "s.correct = 1",
        "ungraded": "s.correct IS NULL",
        "unanswered": "a.answer IS NULL",
        "errors": "(a.errors > 0 OR a.problem IS NOT NULL)",
    }
    noun = "attempts"
    rows_sql = "attempts a LEFT JOIN scores s ON s.attempt = a.id"
    key = "a.n"
    order = "a.n"
    searched = "a.id, a.question, a.gold, a.answer, a.problem"

    def as_json(self, row: dict[str, Any]) -> dict[str, Any]:
        correct = row["correct"]
        return {**row, "correct": None if correct is None else bool(correct)}

    def count(self) -> int:
        return self.index.count()


_GROUPS = (
    "task",
    "digest",
    "question",
    "gold",
    "n",
    "share",
    "right_n",
    "wrong_n",
    "steps",
    "written",
    "seconds",
)

_GROUPED = """
SELECT a.task, a.digest, min(a.question) AS question, min(a.gold) AS gold, min(a.n) AS n,
    avg(s.correct) AS share,
    coalesce(min(CASE WHEN s.correct = 1 THEN a.n END), min(a.n)) AS right_n,
    coalesce(min(CASE WHEN s.correct = 0 THEN a.n END), min(a.n)) AS wrong_n,
    avg(a.steps) AS steps, avg(a.tokens_out) AS written, avg(a.seconds) AS seconds
FROM attempts a LEFT JOIN scores s ON s.attempt = a.id
WHERE a.problem IS NULL GROUP BY a.task, a.digest
"""

# With one sample a verdict, with several the attempts that its change rests on.
_PAIRED = """
CREATE TABLE pairs AS WITH
    both AS (
        SELECT {a}, {b} FROM own a LEFT JOIN others b ON a.task = b.task AND a.digest = b.digest
        UNION ALL
        SELECT {a}, {b} FROM others b LEFT JOIN own a ON a.task = b.task AND a.digest = b.digest
        WHERE a.task IS NULL),
    ranked AS (SELECT *, CASE WHEN task_b IS NULL THEN 4 WHEN task_a IS NULL THEN 5
        WHEN share_a IS NULL OR share_b IS NULL THEN 3
        WHEN share_b < share_a THEN 0 WHEN share_b > share_a THEN 1 ELSE 2 END AS change FROM both)
SELECT change, coalesce(task_a, task_b) AS task, coalesce(question_a, question_b) AS question,
    coalesce(gold_a, gold_b) AS gold, share_a, share_b,
    CASE change WHEN 0 THEN right_n_a WHEN 1 THEN wrong_n_a ELSE n_a END AS shown_a,
    CASE change WHEN 0 THEN wrong_n_b WHEN 1 THEN right_n_b ELSE n_b END AS shown_b,
    steps_a, steps_b, written_a, written_b, seconds_a, seconds_b
FROM ranked ORDER BY change, n_a, n_b
""".format(  # noqa: S608 - our own names
    a=", ".join(f"a.{name} AS {name}_a" for name in _GROUPS),
    b=", ".join(f"b.{name} AS {name}_b" for name in _GROUPS),
)
_CHANGES = ("lost", "gained", "same", "ungraded", "only in 1", "only in 2")


class Pairs(Listing):
    """One row a task: those whose verdict changed first, at the end those that only one RUN has.

    With several samples a verdict is the share of right ones, and the two attempts of a row are the first
    ones that have its change.
    """

    columns = (
        Column("change", "change", 9, "change", lambda value: _CHANGES[value]),
        Column("task", "task", 16, "task", visible_line),
        Column("question", "question", 0, "question", visible_line),
        Column("gold", "right answer", 14, "gold", str, from_width=130),
        Column("first", "1", 4, "share_a", _share, right=True),
        Column("second", "2", 4, "share_b", _share, right=True),
        Column("steps", "steps", 9, *_both("steps", "%.3g"), order="steps_b - steps_a"),
        Column("written", "written", 13, *_both("written", "%.0f"), 100, "written_b - written_a"),
        Column("seconds", "seconds", 13, *_both("seconds", "%.0f"), 120, "seconds_b - seconds_a"),
    )
    filters: ClassVar[Mapping[str, str]] = {
        "all": "1",
        "changed": "change < 2",
        "lost": "change = 0",
        "gained": "change = 1",
        "same": "change = 2",
        "unpaired": "change > 3",
    }
    record: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            *("change", "task", "question", "gold", "share_a", "share_b", "shown_a", "shown_b"),
            *("steps_a", "steps_b", "written_a", "written_b", "seconds_a", "seconds_b"),
        )
    }
    noun = "tasks"
    rows_sql = "pairs"
    key = "rowid"
    order = "rowid"
    searched = "task, question, gold"

    def __init__(self, first: RunIndex, second: RunIndex) -> None:
        super().__init__(first, second)
        self.second = second
        self.prepare()

    def prepare(self) -> None:
        self.index.replace_table("own", _GROUPS, self.index.rows(_GROUPED))
        self.index.replace_table("others", _GROUPS, self.second.rows(_GROUPED))
        for statement in (
            "CREATE INDEX own_tasks ON own (task, digest)",
            "CREATE INDEX other_tasks ON others (task, digest)",
            "DROP TABLE IF EXISTS pairs",
            _PAIRED,
        ):
            self.index.query(statement)

    def count(self) -> int:
        return int(self.index.query("SELECT count(*) FROM pairs")[0][0])

    def as_json(self, row: dict[str, Any]) -> dict[str, Any]:
        names = {"share": "right", "shown": "line", "steps": "steps"}
        names |= {"written": "tokens_out", "seconds": "seconds"}
        sides = {
            side: {name: row[f"{column}_{letter}"] for column, name in names.items()}
            for side, letter in (("first", "a"), ("second", "b"))
        }
        whole = {name: row[name] for name in ("task", "question", "gold")}
        return {"change": _CHANGES[row["change"]], **whole, **sides}

    def lines(self, key: int) -> list[tuple[RunIndex, int | None]]:
        [shown] = self.index.query("SELECT shown_a, shown_b FROM pairs WHERE rowid = ?", (key,))
        return list(zip(self.indexes, shown, strict=True))
