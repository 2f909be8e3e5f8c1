"""The tasks of the third or fourth configuration: what its teacher solves and what every row is tested on.

    AGENTDISTILL_DATA=FOLDER python experiments/table_tasks.py OUT 4

Writes into OUT, the same on every machine:

    bbh_build.jsonl       what the teacher solves: BBH's build half, the ten subsets in turns (bbh_halves.py)
    gsm8k_easy.jsonl      and rows of GSM8K train that take one or two steps, neither its first 60 (in earlier
    arithmetic.jsonl      data) nor its last 400 (to tune on), and the families
    lookup.jsonl
    lookup_cot.jsonl      lookup with its table in the question: a chain of thought has no variables
    test.jsonl            100 of BBH's test half, 20 of gsm8k_dev, 20 of MATH500 (level 1 and 2), 36 of the
                          families, mixed, so that any first part has some of each
    test_cot.jsonl        the same with lookup's table in the question
    test_qa.jsonl         10 of HotpotQA, 10 of MuSiQue, whose evidence is in passages.jsonl
    pilot.jsonl           for a student's failures to be read and made notes of: the last 4 of each of BBH's
                          build half (most of them trained on), 10 of those rows of GSM8K train that are kept
                          to tune on, 18 of the families

No task is tested on twice: the first two tables had the first 40 of BBH's test half, the first rows of
gsm8k_dev and another seed of the families; the first 30 of HotpotQA were trained on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from bbh_halves import main as write_halves

from agentdistill.tasks.families import make_tasks
from agentdistill.tasks.load import load_tasks, write_tasks
from agentdistill.types import Task


class Fresh(NamedTuple):
    """Where a configuration's test tasks begin in each source, and the families' seed."""

    bbh: int
    gsm8k_dev: int
    math500: int
    hotpotqa: int
    musique: int
    seed: int


FRESH = {
    "3": Fresh(bbh=40, gsm8k_dev=380, math500=0, hotpotqa=30, musique=0, seed=2977),
    "4": Fresh(bbh=140, gsm8k_dev=360, math500=20, hotpotqa=40, musique=10, seed=4111),
}


def with_table(task: Task) -> Task:
    """A lookup task whose question shows the table."""
    rows = task.meta.get("data", {}).get("table")
    if not rows:
        return task
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return replace(task, question=f"{task.question}\n\ntable:\n{text.getvalue().rstrip()}")


def in_turns(*columns: Sequence[Task]) -> list[Task]:
    return [task for task in chain.from_iterable(zip_longest(*columns)) if task is not None]


def easy(data: Path) -> list[Task]:
    """Of GSM8K train, what its solutions work out in one or two steps: a calculator note is a step."""
    file = data / "gsm8k_train.jsonl"
    with file.open(encoding="utf-8") as lines:
        steps = {row["id"]: row["answer"].count("<<") for row in map(json.loads, lines)}
    return [task for task in load_tasks(str(file)).tasks[60:-400] if 1 <= steps[task.id] <= 2]


def pilot(data: Path, build: Sequence[Task]) -> list[Task]:
    subsets: dict[str, list[Task]] = defaultdict(list)
    for task in build:
        subsets[task.id.partition(":")[0]].append(task)
    return [
        *chain.from_iterable(tasks[-4:] for tasks in subsets.values()),
        *load_tasks(str(data / "gsm8k_train.jsonl")).tasks[-400:-390],
        *make_tasks("arithmetic", 9, 5111, split="train"),
        *make_tasks("lookup", 9, 5111, split="train"),
    ]


def main(data: Path, out: Path, fresh: Fresh) -> None:
    write_halves(out)
    write_tasks(out / "gsm8k_easy.jsonl", easy(data)[:600])
    families = {name: make_tasks(name, 300, 5101, split="train") for name in ("arithmetic", "lookup")}
    for name, tasks in families.items():
        write_tasks(out / f"{name}.jsonl", tasks)
    write_tasks(out / "lookup_cot.jsonl", [with_table(task) for task in families["lookup"]])
    test = load_tasks(str(out / "bbh_test.jsonl")).tasks
    level = [t for t in load_tasks(str(data / "math500_test.jsonl")).tasks if int(t.meta["level"]) <= 2]
    mixed = [
        *test[fresh.bbh : fresh.bbh + 100],
        *load_tasks(str(data / "gsm8k_dev.jsonl")).tasks[fresh.gsm8k_dev : fresh.gsm8k_dev + 20],
        *level[fresh.math500 : fresh.math500 + 20],
        *in_turns(*(make_tasks(family, 18, fresh.seed, split="test") for family in ("arithmetic", "lookup"))),
    ]
    random.Random(3).shuffle(mixed)  # noqa: S311
    write_tasks(out / "test.jsonl", mixed)
    write_tasks(out / "test_cot.jsonl", [with_table(task) for task in mixed])
    contexts = [
        load_tasks(str(data / f"{name}_context.jsonl")).tasks[first : first + 10]
        for name, first in (("hotpotqa", fresh.hotpotqa), ("musique", fresh.musique))
    ]
    write_tasks(out / "test_qa.jsonl", in_turns(*contexts))
    write_tasks(out / "pilot.jsonl", pilot(data, load_tasks(str(out / "bbh_build.jsonl")).tasks))


if __name__ == "__main__":
    main(Path(os.environ["AGENTDISTILL_DATA"]), Path(sys.argv[1]), FRESH[sys.argv[2]])
