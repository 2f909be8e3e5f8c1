"""Our verdicts beside those of lm-evaluation-harness, on gold answers and answers made from them.

    python benchmarks/grading_parity.py --data FOLDER --python LMEVAL/bin/python [--limit N] [--json]

FOLDER holds math500_test.jsonl and gsm8k_dev.jsonl; LMEVAL is an environment of its own with `lm_eval[math]`
(`python -m venv LMEVAL && LMEVAL/bin/pip install "lm_eval[math]"`). Every gold answer is put through some
twenty changes. Of each it is known whether the answer is still right: it is the same value written
otherwise, or another value, or no answer at all. So a disagreement has a side that is wrong.

Graders of the harness: for MATH `hendrycks` (the string rules of its hendrycks_math), `minerva`
(exact_match of minerva_math, by sympy) and `verify` (math_verify of minerva_math); for GSM8K `strict` (the
number behind ####) and `flexible` (the last number of the text). Each gets the answer in the wording that
it looks for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

THEIRS = {"math500": ("hendrycks", "minerva", "verify"), "gsm8k": ("strict", "flexible")}

Change = Callable[[str, Any], str | None]
"""From a gold answer and its value (a sympy expression, or None) to an answer; None where it does not
apply."""


def is_number(value: Any) -> bool:
    return value is not None and bool(getattr(value, "is_number", False)) and bool(value.is_real)


def is_integer(value: Any) -> bool:
    return is_number(value) and bool(value.is_Integer)


def decimal(gold: str, value: Any) -> str | None:
    return repr(float(value)) if is_number(value) and not is_integer(value) and "." not in gold else None


def printed(gold: str, value: Any) -> str | None:
    """What Python code would print."""
    return str(value) if value is not None and str(value) != gold else None


def latex_of(change: Callable[[Any], Any]) -> Change:
    def changed(gold: str, value: Any) -> str | None:
        from sympy import Expr, latex

        if not isinstance(value, Expr) or not value.is_finite:
            return None
        other = change(value)
        return None if other == value else latex(other)

    return changed


def turned(gold: str, value: Any) -> str | None:
    """A point with its coordinates in the other order."""
    match = re.fullmatch(r"(?:\\left)?\(\s*([^,()]+),\s*([^,()]+?)\s*(?:\\right)?\)", gold)
    return f"({match[2]}, {match[1]})" if match and match[1].strip() != match[2].strip() else None


SAME: dict[str, Change] = {
    "as it is": lambda gold, value: gold,
    "boxed": lambda gold, value: f"\\boxed{{{gold}}}",
    "in dollar signs": lambda gold, value: f"${gold}$",
    "in a sentence": lambda gold, value: f"The answer is {gold}.",
    "with a full stop": lambda gold, value: f"{gold}.",
    "spaces around": lambda gold, value: f"\n  {gold}  \n",
    "dfrac": lambda gold, value: gold.replace("\\frac", "\\dfrac") if "\\frac" in gold else None,
    "tight spacing": lambda gold, value: gold.replace(" ", "") if re.search(r"\W \W", gold) else None,
    "as code prints it": printed,
    "as a float": decimal,
    "thousands commas": lambda gold, value: f"{int(value):,}" if is_integer(value) and value > 999 else None,
    "with .0": lambda gold, value: f"{int(value)}.0" if is_integer(value) else None,
    "a unit behind": lambda gold, value: f"{gold} cm" if is_integer(value) else None,
    "a unit in \\text": lambda gold, value: f"{gold}\\text{{ cm}}" if is_integer(value) else None,
    "x = before": lambda gold, value: f"x = {gold}" if is_number(value) else None,
    "dollars before": lambda gold, value: f"\\${gold}" if is_integer(value) and value >= 0 else None,
}
OTHER: dict[str, Change] = {
    "one more": latex_of(lambda value: value + 1),
    "negated": latex_of(lambda value: -value),
    "hundredfold": latex_of(lambda value: value * 100),
    "a hundredth": latex_of(lambda value: value / 100),
    "off by a thousandth": lambda gold, value: (
        repr(float(value) * 1.001) if is_number(value) and value else None
    ),
    "None": lambda gold, value: "None",
    "empty": lambda gold, value: "",
    "two answers": lambda gold, value: f"{gold} or {value + 1}" if is_integer(value) else None,
    "only mentioned": lambda gold, value: f"I think it is not {gold}" if is_integer(value) else None,
    "turned round": turned,
}


def cases(data: Path, limit: int | None) -> list[dict[str, Any]]:
    """Every gold answer with every change that applies, and whether the changed answer is right."""
    from math_verify import LatexExtractionConfig, parse

    from agentdistill.tasks.load import load_tasks

    made = []
    for benchmark, file in (("math500", "math500_test.jsonl"), ("gsm8k", "gsm8k_dev.jsonl")):
        for task in load_tasks(data / file, limit=limit).tasks:
            read = parse(f"${task.answer}$", [LatexExtractionConfig()], fallback_mode="no_fallback")
            value = next((item for item in read if not isinstance(item, str)), None)
            for right, changes in ((True, SAME), (False, OTHER)):
                for name, change in changes.items():
                    answer = change(task.answer, value)
                    if answer is not None:
                        case = {"benchmark": benchmark, "gold": task.answer, "change": name}
                        made.append(case | {"answer": answer, "right": right})
    return made


# ---------------------------------------------------------------------- in the harness's environment


def theirs() -> None:
    """Cases on stdin, the harness's verdicts on stdout, a line each."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.tasks.hendrycks_math.utils import is_equiv as hendrycks
    from lm_eval.tasks.minerva_math import utils as minerva

    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]  # gsm8k.yaml

    def exact(answer: str, gold: str) -> bool:
        found = exact_match_hf_evaluate([answer], [gold], regexes_to_ignore=ignored, ignore_case=True)
        return bool(found["exact_match"])

    def extracted(pattern: str, text: str, last: bool) -> str:
        found = [next(filter(None, m), "") if isinstance(m, tuple) else m for m in re.findall(pattern, text)]
        return found[-1 if last else 0].strip() if found else "[invalid]"

    for line in sys.stdin:
        case = json.loads(line)
        gold, answer = case["gold"], case["answer"]
        found = {}
        if case["benchmark"] == "math500":
            found["hendrycks"] = bool(hendrycks(minerva_box(answer), gold))
            doc = {"answer": minerva.normalize_final_answer(gold), "solution": f"$\\boxed{{{gold}}}$"}
            said = f"Final Answer: The final answer is {answer}. I hope it is correct."
            found["minerva"] = bool(minerva.process_results(doc, [said])["exact_match"])
            said = answer if "$" in answer or "boxed" in answer else f"${answer}$"
            found["verify"] = bool(minerva.process_results(doc, [said])["math_verify"])
        else:
            strict = extracted("#### (\\-?[0-9\\.\\,]+)", f"#### {answer}", last=False)
            flexible = extracted("(-?[$0-9.,]{2,})|(-?[0-9]+)", answer, last=True)
            found = {"strict": exact(strict, gold), "flexible": exact(flexible, gold)}
        print(json.dumps(found), flush=True)


def minerva_box(answer: str) -> str:
    """hendrycks_math looks at what stands between the first and the last dollar sign."""
    inside = answer.split("$")
    return "$".join(inside[1:-1]) if len(inside) > 2 else answer


# ---------------------------------------------------------------------- ours, and the table


def ours(made: list[dict[str, Any]]) -> list[bool]:
    from agentdistill.grading import Grader
    from agentdistill.types import Task

    workers = len(os.sched_getaffinity(0))
    with Grader(workers=workers) as grader, ThreadPoolExecutor(workers) as threads:
        return list(
            threads.map(lambda case: grader.grade(case["answer"], Task("t", "q", case["gold"]))[0], made)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Verdicts beside those of lm-evaluation-harness.")
    parser.add_argument("--data", type=Path, help="folder with math500_test.jsonl and gsm8k_dev.jsonl")
    parser.add_argument("--python", help="the interpreter of an environment with lm_eval[math]")
    parser.add_argument("--limit", type=int, help="only the first N gold answers of each")
    parser.add_argument(
        "--json", action="store_true", help="disagreements as JSON lines on stdout, the table on stderr"
    )
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.theirs:
        return theirs()
    if not asked.data or not asked.python:
        parser.error("--data and --python are needed")
    made = cases(asked.data, asked.limit)
    started = time.monotonic()
    mine = ours(made)
    seconds = time.monotonic() - started
    lines = "".join(json.dumps(case) + "\n" for case in made)
    done = subprocess.run(
        [asked.python, __file__, "--theirs"], input=lines, capture_output=True, text=True, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(found) != len(made):
        sys.exit(f"the harness judged {len(found)} of {len(made)}: {done.stderr[-2000:]}")
    rows = [case | {"ours": verdict, **their} for case, verdict, their in zip(made, mine, found, strict=True)]
    said = sys.stderr if asked.json else sys.stdout
    print(f"{len(made)} answers, ours in {seconds:.0f} s\n", file=said)
    for benchmark, names in THEIRS.items():
        table(benchmark, names, [row for row in rows if row["benchmark"] == benchmark], said)
    if asked.json:
        for row in rows:
            if any(row[name] != row["ours"] for name in THEIRS[row["benchmark"]]):
                print(json.dumps(row))
    return None


def table(benchmark: str, names: tuple[str, ...], rows: list[dict[str, Any]], to: TextIO) -> None:
    print(f"{benchmark:<22}{'is':<7}{'n':>5}   judged as it is" + " " * 14 + "disagree with ours", file=to)
    print(f"{'':<37}{'ours':>7}" + "".join(f"{name:>10}" for name in names), file=to)
    for right, changes in ((True, SAME), (False, OTHER)):
        for change in changes:
            these = [row for row in rows if row["change"] == change]
            if not these:
                continue
            judged = Counter(name for row in these for name in ("ours", *names) if row[name] == right)
            apart = ", ".join(
                f"{name} {count}"
                for name in names
                if (count := sum(row[name] != row["ours"] for row in these))
            )
            cells = f"{judged['ours']:>7}" + "".join(f"{judged[name]:>10}" for name in names)
            print(
                f"{change:<22}{'right' if right else 'wrong':<7}{len(these):>5}   {cells}   {apart}", file=to
            )
    print(file=to)


if __name__ == "__main__":
    main()
