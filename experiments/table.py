"""The experiment's table in Markdown, from packed or plain RUNs.

Rows with their averages, paired tests, and the rows by BBH subset and by level of the generated families.

    python experiments/table.py experiments/table [NAME=RUN ...]

A row is a RUN in the folder by one of the names in ROWS, together with those called NAME.SOMETHING (other
tasks), or NAME=RUN from elsewhere; what is missing is left out. Each is graded anew, in a folder of its own:
nothing is written here. Intervals are Wilson's, paired tests those of `agentdistill compare`. `could see` is
the smallest difference that the test finds with power 0.8 at 5 % (two-sided), if the share of tasks on which
the two rows differ is as observed, and one at least (Connor 1987, normal approximation).
"""

from __future__ import annotations

import lzma
import math
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from agentdistill import grade
from agentdistill.evaluation.stats import paired_difference, wilson
from agentdistill.runs import read_scores, read_trajectories

ROWS = {
    "cot-prompt": "chain of thought, prompted",
    "cot-distill": "chain of thought, distilled",
    "agent-prompt": "agent, prompted",
    "agent-distill": "agent, distilled",
    "first-thought": "+ first thought",
    "candidates-8": "+ self-consistent actions (n = 8)",
    "both": "+ both",
    "knowledge-off": "+ first thought, trained with a knowledge base",
    "knowledge": "+ knowledge base",
    "agent-knowledge": "+ knowledge base",
    "knowledge-random": "+ a random entry, where there was one",
    "knowledge-filler": "+ filler as long, where there was one",
    "cot-distill-2": "chain of thought, distilled, second seed",
    "agent-distill-2": "agent, distilled, second seed",
    "teacher-cot": "teacher, chain of thought",
    "teacher-agent": "teacher, agent",
}
TAUGHT = {
    "train-off": "taught, agent",
    "train-content": "taught, agent with a first thought",
    "train-cot": "taught, chain of thought",
}
"""The teacher's attempts at training tasks."""
TAUGHT_TEST = (("train-off", "train-content"),)
TESTS = (
    ("cot-distill", "agent-distill"),
    ("agent-distill", "first-thought"),
    ("agent-distill", "candidates-8"),
    ("agent-distill", "both"),
    ("first-thought", "both"),
    ("cot-distill", "candidates-8"),
    ("cot-distill", "both"),
    ("knowledge-off", "knowledge"),
    ("first-thought", "knowledge"),
    ("agent-distill", "agent-knowledge"),
    ("agent-distill", "knowledge-random"),
    ("agent-distill", "knowledge-filler"),
    ("knowledge-random", "agent-knowledge"),
    ("knowledge-filler", "agent-knowledge"),
    ("cot-distill-2", "agent-distill-2"),
)
REAL = "real"
GENERATED = "generated"
COLUMNS = {
    "bbh/": ("BBH", REAL),
    "[0-9a-f]{24}$|[234]hop": ("HotpotQA, MuSiQue", REAL),
    "gsm8k": ("GSM8K", REAL),
    "math500": ("MATH500", REAL),
    "arithmetic": ("arithmetic", GENERATED),
    "lookup": ("lookup", GENERATED),
}
SEEN = 1.959964 + 0.841621
"""Standard normal quantiles of 5 % two-sided and of power 0.8."""


def column(task: str) -> tuple[str, str]:
    return next(found for pattern, found in COLUMNS.items() if re.match(pattern, task))


class Verdict(NamedTuple):
    right: bool
    level: int | None
    """How difficult, as the task says; 1 to 3 of the families."""


def verdicts(run: Path) -> dict[str, Verdict]:
    """By task id."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        copy.mkdir()
        shutil.copy(run / "run.json", copy)
        plain = run / "trajectories.jsonl"
        packed = plain.with_name("trajectories.jsonl.xz")
        text = plain.read_bytes() if plain.exists() else lzma.decompress(packed.read_bytes())
        (copy / "trajectories.jsonl").write_bytes(text)
        grade(copy)
        scores = read_scores(copy)
        return {
            made.task.id: Verdict(scores[made.id].correct, made.task.meta.get("level"))
            for made in read_trajectories(copy)
        }


def share(right: int, n: int) -> str:
    if not n:
        return ""
    low, high = wilson(right, n)
    return f"{right} of {n}: {right / n:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def read(folder: Path, names: Iterable[str], elsewhere: dict[str, Path]) -> dict[str, dict[str, Verdict]]:
    found: dict[str, dict[str, Verdict]] = {}
    for name in names:
        row = elsewhere.get(name, folder / name)
        for run in (row, *sorted(folder.glob(f"{name}.*"))):
            if run.is_dir():
                found.setdefault(name, {}).update(verdicts(run))
    return found


def subset(task: str, _: Verdict) -> str | None:
    return task.removeprefix("bbh/").partition(":")[0].replace("_", " ") if task.startswith("bbh/") else None


def level(task: str, verdict: Verdict) -> str | None:
    where, kind = column(task)
    return f"{where} {verdict.level}" if kind == GENERATED else None


def by_part(
    title: str,
    part: Callable[[str, Verdict], str | None],
    names: dict[str, str],
    found: dict[str, dict[str, Verdict]],
) -> None:
    """Right of all by part of the tasks, a row each; tasks of no part are left out."""
    cells: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in found}
    for name, row in found.items():
        for task, verdict in row.items():
            if where := part(task, verdict):
                cells[name][where].append(verdict.right)
    parts = sorted({where for row in cells.values() for where in row})
    if not parts:
        return
    print(f"\n| {title} | {' | '.join(parts)} |")
    print("|---" * (len(parts) + 1) + "|")
    for name, of in cells.items():
        counts = [f"{sum(of[p])} of {len(of[p])}" if p in of else "" for p in parts]
        print(f"| {names[name]} | {' | '.join(counts)} |")


def main(folder: Path, elsewhere: dict[str, Path]) -> None:
    found = read(folder, ROWS, elsewhere)
    seen = {column(task)[0] for row in found.values() for task in row}
    columns = [name for name, _ in COLUMNS.values() if name in seen]
    print(f"| | {' | '.join(columns)} | real benchmarks | generated families |")
    print("|---" * (len(columns) + 3) + "|")
    for name, row in found.items():
        cells: dict[str, list[bool]] = defaultdict(list)
        for task, verdict in row.items():
            for where in column(task):
                cells[where].append(verdict.right)
        counts = [f"{sum(cells[c])} of {len(cells[c])}" if cells[c] else "" for c in columns]
        averages = [share(sum(cells[kind]), len(cells[kind])) for kind in (REAL, GENERATED)]
        print(f"| {ROWS[name]} | {' | '.join(counts + averages)} |")
    paired(ROWS, found, TESTS)
    by_part("by BBH subset", subset, ROWS, found)
    by_part("by level", level, ROWS, found)
    if taught := read(folder, TAUGHT, {}):
        parts = [name for name, _ in COLUMNS.values()]
        paired(TAUGHT, taught, TAUGHT_TEST, parts)
        # What a thought was cut from goes before the chain that the chain-of-thought student learns.
        chains = taught.get("train-cot", {}) | read(folder, ["thoughts"], {}).get("thoughts", {})
        for right in (True, False) if chains and "train-content" in taught else ():
            print(f"\nFirst thoughts cut from chains that were {'right' if right else 'wrong'}:")
            of = {
                name: {t: v for t, v in row.items() if t in chains and chains[t].right == right}
                for name, row in taught.items()
            }
            paired(TAUGHT, of, TAUGHT_TEST, parts)
        by_part("by BBH subset", subset, TAUGHT, taught)


def paired(
    names: dict[str, str],
    found: dict[str, dict[str, Verdict]],
    tests: Iterable[tuple[str, str]],
    parts: Iterable[str] = (REAL, GENERATED),
) -> None:
    """A paired test a row and part (a column or an average), on the tasks that both rows have."""
    tests = [(before, after) for before, after in tests if before in found and after in found]
    if not tests:
        return
    print("\n| paired | on | difference, points | wrong to right, right to wrong | p | could see |")
    print("|---" * 6 + "|")
    for before, after in tests:
        for part in parts:
            tasks = [task for task in found[before] if task in found[after] and part in column(task)]
            if not tasks:
                continue
            test = paired_difference(
                [found[before][t].right for t in tasks], [found[after][t].right for t in tasks]
            )
            flips = max(test.gained + test.lost, 1)
            least = SEEN * math.sqrt(flips / test.n**2)
            print(
                f"| {names[before]} -> {names[after]} | {part}, {test.n} | {100 * test.difference:+.1f} "
                f"({100 * test.low:+.1f} to {100 * test.high:+.1f}) | {test.gained}, {test.lost} "
                f"| {test.p:.2g} | {100 * least:.0f} |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: Path(run) for name, _, run in (a.partition("=") for a in sys.argv[2:])})
