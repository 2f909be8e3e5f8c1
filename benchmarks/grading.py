"""What grading costs: ordinary answers a second, and what hostile answers can take.

    python benchmarks/grading.py [--quick] [--json] [--data FOLDER] [--workers N]

- plain: numbers and phrases, settled without a process.
- mathematics: the 500 gold answers of MATH500 (FOLDER/math500_test.jsonl; without it a few expressions over
and
  over), each against itself, written as code prints it, or against its neighbour: what reaches computer
  algebra.
- hostile: 1,000 answers (powers that never end, braces that never close, deep nesting, strings of a megabyte,
  programs), each with a time limit of one second. Reported: the slowest verdict, the sum, how many were
  killed, whether one was called right, and whether the next ordinary answer is still judged as it should
  be.

Not guaranteed: that other cores give the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentdistill.grading import Grader
from agentdistill.grading.math import grade_plainly
from agentdistill.types import Task, TaskKind

LIMIT = 1.0
EXPRESSIONS = (
    ("sqrt(2)/2", "\\frac{\\sqrt{2}}{2}"),
    ("(x+1)*(x-1)", "x^2 - 1"),
    ("(3, pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("[1, 2]", "2,1"),
    ("x**2 + 1", "x^2 + 2"),
)


def hostile(n: int) -> list[tuple[str, str]]:
    """n answers and golds. Every tenth gold is no number, so that the answer gets as far as it can."""
    kinds = [
        lambda i: f"{9 + i % 5}**9**{9 + i % 3}",
        lambda i: f"10**10**{8 + i % 4}",
        lambda i: "{" * (1 + i % 9_000),
        lambda i: "\\frac{" * (1 + i % 1_000),
        lambda i: "\\sqrt{" * (1 + i % 500) + "2",
        lambda i: "(" * (1 + i % 9_000),
        lambda i: "7" * 1_000_000,
        lambda i: "x^" * (1 + i % 4_000) + "2",
        lambda i: f"factorial({10 ** (3 + i % 6)})",
        lambda i: f"{10 ** (5 + i % 5)}!",
        lambda i: f"9^{{9^{{9^{{{i % 10}}}}}}}",
        lambda i: f"\\sum_{{k=1}}^{{10^{{{8 + i % 4}}}}} k!",
        lambda i: f"\\int_0^1 x^{{x^{{x^{{{i}}}}}}} dx",
        lambda i: "+".join(f"sin(x**{j})" for j in range(1 + i % 300)),
        lambda i: f"(x+y+z+{i})**{50 + i % 400}",
        lambda i: "__import__('os').system('sleep 60')",
        lambda i: "[" * (1 + i % 500) + "1" + "]" * (1 + i % 500),
        lambda i: f"1e{i % 400 + 300}**{i + 2}",
        lambda i: "\x00\ud800\n" * (1 + i % 100),
        lambda i: f"\\binom{{{10 ** (6 + i % 4)}}}{{{10 ** (5 + i % 4)}}}",
    ]
    return [(kinds[i % len(kinds)](i), "x + 1" if i % 10 == 0 else "8") for i in range(n)]


def judged(grader: Grader, pairs: Sequence[tuple[str, str]], kind: TaskKind, workers: int) -> dict[str, Any]:
    """Every pair once, `workers` side by side: verdicts a second, the slowest of them, and how they came
    about."""

    def one(pair: tuple[str, str]) -> tuple[bool, str, float]:
        started = time.monotonic()
        correct, method, _ = grader.grade(pair[0], Task("t", "q", pair[1], kind))
        return correct, method, time.monotonic() - started

    started = time.monotonic()
    with ThreadPoolExecutor(workers) as threads:
        found = list(threads.map(one, pairs))
    seconds = time.monotonic() - started
    return {
        "n": len(pairs),
        "seconds": round(seconds, 2),
        "per_second": round(len(pairs) / seconds, 1),
        "slowest": round(max(spent for *_, spent in found), 2),
        "right": sum(correct for correct, *_ in found),
        "methods": dict(Counter(method for _, method, _ in found)),
    }


def expressions(data: Path | None, n: int) -> list[tuple[str, str]]:
    if data is None:
        return [EXPRESSIONS[i % len(EXPRESSIONS)] for i in range(n)]
    from agentdistill.tasks.load import load_tasks

    golds = [task.answer for task in load_tasks(data / "math500_test.jsonl").tasks]
    pairs = [(golds[i - far], gold) for far in (1, 2, -1, -2) for i, gold in enumerate(golds[:-2])]
    pairs += [(f"{gold} + 0", gold) for gold in golds]
    algebra = [pair for pair in pairs if grade_plainly(*pair) is None]
    return random.Random(0).sample(algebra, min(n, len(algebra)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of grading.")
    parser.add_argument("--quick", action="store_true", help="fewer answers: a look, not a figure to report")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    parser.add_argument("--data", type=Path, help="folder with math500_test.jsonl")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    rows: dict[str, Any] = {}
    with Grader(LIMIT, asked.workers) as grader:
        judged(grader, [EXPRESSIONS[0]] * 4 * asked.workers, TaskKind.MATH, asked.workers)  # processes are up
        n = 2_000 if asked.quick else 20_000
        numbers = [(f"{i % 90}.0", str(i % 100)) for i in range(n)]
        rows["plain numbers"] = judged(grader, numbers, TaskKind.MATH, 1)
        phrases = [(f"the name of {i % 90}", f"Name of {i % 100}") for i in range(n)]
        rows["phrases"] = judged(grader, phrases, TaskKind.QA, 1)
        ordinary = expressions(asked.data, 100 if asked.quick else 1_000)
        rows["mathematics"] = judged(grader, ordinary, TaskKind.MATH, asked.workers)
        rows["hostile"] = judged(grader, hostile(100 if asked.quick else 1_000), TaskKind.MATH, asked.workers)
        rows["mathematics after it"] = judged(grader, ordinary, TaskKind.MATH, asked.workers)
    if asked.json:
        print(json.dumps({"workers": asked.workers, "limit": LIMIT, "rows": rows}, indent=1))
        return
    print(f"{'':<22}{'n':>7}{'seconds':>9}{'a second':>10}{'slowest':>9}{'right':>7}  how")
    for name, row in rows.items():
        how = ", ".join(f"{method} {count}" for method, count in sorted(row["methods"].items()))
        print(
            f"{name:<22}{row['n']:>7}{row['seconds']:>9}{row['per_second']:>10}{row['slowest']:>9}"
            f"{row['right']:>7}  {how}"
        )
    print(f"{asked.workers} workers, {LIMIT:g} s for an answer.")


if __name__ == "__main__":
    main()
