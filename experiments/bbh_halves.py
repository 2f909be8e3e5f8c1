"""The ten BBH tasks in two halves, by a fixed hash of the task id: build (train on it) and test (never).

    AGENTDISTILL_DATA=FOLDER python experiments/bbh_halves.py OUT

Writes OUT/bbh_build.jsonl and OUT/bbh_test.jsonl, the ten subsets in turns, so that `--limit 10 * N` takes
N of each; `meta.family` is the subset. Each question ends in a line that says how its subset is answered. The
files are the same on every machine.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path

from agentdistill.tasks.load import load_tasks, write_tasks
from agentdistill.types import Task

LETTER = "Answer with the letter of the right option in parentheses, such as (A)."
FORM = {
    "boolean_expressions": "Answer True or False.",
    "date_understanding": LETTER,
    "multistep_arithmetic_two": "Answer with a number.",
    "navigate": "Answer Yes or No.",
    "object_counting": "Answer with a number.",
    "penguins_in_a_table": LETTER,
    "reasoning_about_colored_objects": LETTER,
    "tracking_shuffled_objects_three_objects": LETTER,
    "web_of_lies": "Answer Yes or No.",
    "word_sorting": "Answer with the sorted words, separated by spaces.",
}
"""How a subset is answered, which its examples say in the original benchmark and its questions do not."""


def half(task: Task) -> str:
    return ("build", "test")[hashlib.sha256(task.id.encode()).digest()[0] % 2]


def main(out: Path) -> None:
    halves: dict[str, list[list[Task]]] = {"build": [], "test": []}
    for subset, form in FORM.items():
        tasks = [
            replace(task, question=f"{task.question}\n{form}", meta={**task.meta, "family": subset})
            for task in load_tasks(f"bbh/{subset}").tasks
        ]
        for name, columns in halves.items():
            columns.append([task for task in tasks if half(task) == name])
    out.mkdir(parents=True, exist_ok=True)
    for name, columns in halves.items():
        rows = [task for task in chain.from_iterable(zip_longest(*columns)) if task is not None]
        write_tasks(out / f"bbh_{name}.jsonl", rows)
        sys.stderr.write(f"bbh_{name}.jsonl: {len(rows)} tasks\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
