"""One row of a task file as a Task: which fields it has, what its answer is, how it is judged.

Guaranteed: a row becomes a Task that can be written back, or a BadRow says why not. Not guaranteed: that a
guessed kind is right (a `kind` in the row always wins, a benchmark's own comes next).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentdistill.types import Json, Task, TaskKind, to_json

_GSM8K_NOTE = re.compile(r"<<[^<>\n]*>>")
_OPTION = re.compile(r"\([A-Z]\)")
_NUMBER = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?([eE][-+]?\d+)?%?")
_FORMULA = re.compile(r"[-+*/^=(),.\s\d]*([a-zA-Z]\b[-+*/^=(),.\s\d]*)*")
_MATH_SUBJECTS = frozenset(
    (
        *("Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory"),
        *("Prealgebra", "Precalculus"),
    )
)
_QA_FIELDS = ("answer_aliases", "supporting_titles", "supporting_facts", "decomposition")
_QA_SETS = ("hotpot", "musique", "bamboogle", "2wiki")
_TASK_FIELDS = frozenset(("id", "question", "answer", "kind", "source", "split", "meta"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from: a file named `stem`, or a split of a benchmark.

    `dataset` is the benchmark's name with its subset ("bbh/navigate"), "" for a file of one's own; `prefix`
    is what its ids begin with.
    """

    stem: str
    dataset: str = ""
    split: str = ""
    prefix: str = ""
    kind: TaskKind | None = None


class BadRow(ValueError):
    """Why one row is no task; always reported with its file and number."""


def task_of(row: Json | BadRow, number: int, origin: Origin, seen: set[str]) -> Task:
    """The Task of a row, the `number`th of its file. Raises BadRow; `seen` are the ids that are taken."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow(f"is a JSON {type(row).__name__}, not an object with `question` and `answer`")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRow("`question` is missing" if question is None else "`question` is empty or not text")
    answer = _answer(row)
    kind = _explicit_kind(row)
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise BadRow("`meta` is not an object")
    meta = {**{key: value for key, value in row.items() if key not in _TASK_FIELDS}, **meta}

    solution, mark, final = answer.rpartition("####")
    if mark and kind in (None, TaskKind.MATH) and final.strip() and solution.rstrip(" ")[-1:] in ("", "\n"):
        answer = final.strip().replace(",", "")
        meta.setdefault("solution", _GSM8K_NOTE.sub("", solution.strip()))
        kind = TaskKind.MATH
    if "answer_aliases" in meta:
        aliases = meta.pop("answer_aliases")
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise BadRow("`answer_aliases` is not a list of texts")
        meta.setdefault("aliases", aliases)

    task = Task(
        id=_id(row, number, origin, seen),
        question=question.strip(),
        answer=answer,
        kind=kind or origin.kind or _kind(row, answer),
        source=origin.dataset or _text(row, "source", _text(row, "dataset_name", origin.stem)),
        split=origin.split or _text(row, "split", ""),
        meta=meta,
    )
    try:  # what cannot be written to a run must not come in: half a surrogate pair, endless nesting
        json.dumps(to_json(task), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRow("holds half of a surrogate pair (\\ud800-\\udfff), which is no text") from None
    except RecursionError:
        raise BadRow("nested too deep") from None
    return task


def _answer(row: Mapping[str, Json]) -> str:
    answer = row.get("answer")
    if answer is None:
        raise BadRow("`answer` is null" if "answer" in row else "`answer` is missing")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise BadRow("`answer` is not a finite number")
    if not isinstance(answer, (str, int, float)):  # bool is an int and prints as True or False
        raise BadRow(f"`answer` is a JSON {type(answer).__name__}, not text or a number")
    if not str(answer).strip():
        raise BadRow("`answer` is empty")
    return str(answer).strip()


def _explicit_kind(row: Mapping[str, Json]) -> TaskKind | None:
    if row.get("kind") is None:
        return None
    try:
        return TaskKind(row["kind"])
    except ValueError:
        known = ", ".join(kind.value for kind in TaskKind)
        raise BadRow(f"`kind` {str(row['kind'])[:40]!r} is not known: it can be {known}") from None


def _kind(row: Mapping[str, Json], answer: str) -> TaskKind:
    """A guess from what benchmarks look like; the marks of a data set beat the look of the answer."""
    dataset = str(row.get("dataset_name", "")).lower()
    if any(field in row for field in _QA_FIELDS) or any(name in dataset for name in _QA_SETS):
        return TaskKind.QA
    if dataset == "math" or str(row.get("type")) in _MATH_SUBJECTS:
        return TaskKind.MATH
    if _OPTION.fullmatch(answer):
        return TaskKind.CHOICE
    # Short enough that the patterns cannot backtrack for long; longer ones are prose.
    if any(mark in answer for mark in ("\\", "$")) or (
        len(answer) <= 60 and any(map(str.isdigit, answer)) and _looks_like_math(answer)
    ):
        return TaskKind.MATH
    return TaskKind.QA


def _looks_like_math(answer: str) -> bool:
    return bool(_NUMBER.fullmatch(answer) or _FORMULA.fullmatch(answer))


def _id(row: Mapping[str, Json], number: int, origin: Origin, seen: set[str]) -> str:
    """The row's id, of a benchmark with its name and split before it. Files that number their rows (MATH) get
    the file's name before the number, so that two such files do not share ids."""
    given = row.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        name = str(given) if origin.dataset else f"{origin.stem}-{given}"
    elif isinstance(given, str) and given.strip():
        name = given
    elif given is None or given == "":
        name = str(number) if origin.dataset else f"{origin.stem}-{number}"
    else:
        raise BadRow("`id` is neither text nor a whole number")
    name = f"{origin.prefix}/{name}" if origin.dataset else name
    while name in seen:
        name = f"{name}#{number}"
    return name


def _text(row: Mapping[str, Json], field: str, default: str) -> str:
    value = row.get(field)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadRow(f"`{field}` is not text")
    return value
