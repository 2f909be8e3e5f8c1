"""What quickstart found: as a record, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentdistill import catalog
from agentdistill.evaluation import report as page
from agentdistill.evaluation.stats import paired_difference
from agentdistill.runs import read_scores, read_trajectories, versions
from agentdistill.stages.curate import CurateSummary
from agentdistill.stages.grade import GradeSummary
from agentdistill.stages.pages import rendered
from agentdistill.training.sft import TrainResult

TEACHER = "qwen2.5-coder-1.5b"
STUDENT = "smollm2-135m"

STUDENTS = {
    "untrained": "untrained",
    "live": "trained on this run's attempts",
    "after": "trained on all attempts",
}
"""Names of the three students in OUT/eval-NAME-*, and what people read."""


@dataclass(frozen=True)
class QuickstartResult:
    """What quickstart found. `evaluations` is (student, benchmark) to summary; seconds are wall seconds
    over all calls that it took."""

    out: Path
    teacher: GradeSummary
    recorded: GradeSummary
    data: CurateSummary
    training: dict[str, TrainResult]
    evaluations: dict[tuple[str, str], GradeSummary]
    seconds: dict[str, float]
    peak_memory_mb: float


def summary(result: QuickstartResult) -> dict[str, Any]:
    """The figures as plain JSON."""
    return {
        "teacher": _share(result.teacher),
        "recorded": _share(result.recorded),
        "rows": result.data.kept,
        "rejected": result.data.rejected,
        "evaluations": {
            f"{student}/{benchmark}": _share(found)
            for (student, benchmark), found in result.evaluations.items()
        },
        "differences": {
            f"{row.label}/{row.benchmark}": [row.difference, row.low, row.high, row.gained, row.lost]
            for row in _differences(result)
        },
        "seconds": result.seconds,
        "seconds_without_download": seconds_without_download(result),
        "peak_memory_mb": round(result.peak_memory_mb),
    }


def seconds_without_download(result: QuickstartResult) -> float:
    """Wall seconds of all stages after the models were here."""
    return round(sum(result.seconds.values()) - result.seconds.get("download", 0.0), 1)


def _share(found: GradeSummary) -> dict[str, Any]:
    share = found.all
    return {
        "correct": share.successes,
        "n": share.n,
        "low": round(share.low, 4),
        "high": round(share.high, 4),
    }


def _differences(result: QuickstartResult) -> list[page.Difference]:
    rows = []
    for benchmark in {benchmark: None for _, benchmark in result.evaluations}:
        before = _marks(result.evaluations["untrained", benchmark])
        for name in ("live", "after"):
            after = _marks(result.evaluations[name, benchmark])
            found = paired_difference(list(before.values()), [after[task] for task in before])
            rows.append(
                page.Difference(
                    label=STUDENTS[name],
                    benchmark=benchmark,
                    difference=found.difference,
                    low=found.low,
                    high=found.high,
                    gained=found.gained,
                    lost=found.lost,
                    note=f"Against untrained, exact McNemar p = {found.p:.2g}",
                )
            )
    return rows


def _marks(found: GradeSummary) -> dict[str, bool]:
    """Verdicts by task id (an attempt's id is TASK#SAMPLE@HASH)."""
    return {score.attempt.rsplit("#", 1)[0]: score.correct for score in found.scores}


def report(result: QuickstartResult) -> page.ReportData:
    accuracies = [
        page.Accuracy(
            label=STUDENTS[name],
            model=STUDENT,
            benchmark=benchmark,
            correct=found.all.successes,
            n=found.all.n,
            low=found.all.low,
            high=found.all.high,
            note=", ".join(f"{k} {v.successes}/{v.n}" for k, v in found.by_source.items()),
        )
        for (name, benchmark), found in sorted(
            result.evaluations.items(), key=lambda item: item[0][1] != "held-out"
        )
    ]
    teacher = result.teacher.all
    accuracies.append(
        page.Accuracy(
            "teacher (training tasks)",
            TEACHER,
            "live",
            teacher.successes,
            teacher.n,
            teacher.low,
            teacher.high,
            ", ".join(f"{k} {v.successes}/{v.n}" for k, v in result.teacher.by_source.items()),
        )
    )
    live_rows = sum(1 for _ in (result.out / "data-live" / "rows.jsonl").open())
    return page.ReportData(
        title="agentdistill quickstart",
        subtitle=f"{STUDENT} learns to act with code from {TEACHER}",
        facts={
            "Teacher attempts made now": str(result.teacher.all.n),
            "Teacher attempts recorded earlier": str(result.recorded.all.n),
            "Training rows (now + recorded)": f"{live_rows} + {result.data.kept - live_rows}",
            "Time after downloads": f"{seconds_without_download(result) / 60:.1f} min",
            "Peak memory": f"{result.peak_memory_mb / 1024:.1f} GB",
        },
        accuracies=accuracies,
        differences=_differences(result),
        losses={
            STUDENTS[name]: [(point.step, point.loss) for point in trained.history]
            for name, trained in result.training.items()
        },
        examples=list(_examples(result.out)),
        timings=_timings(result),
        provenance=_provenance(result),
    )


def _timings(result: QuickstartResult) -> list[page.StageTiming]:
    tokens: dict[str, tuple[float, float]] = {
        "teacher": (
            result.teacher.tokens_in * result.teacher.all.n,
            result.teacher.tokens_out * result.teacher.all.n,
        )
    }
    for (name, benchmark), found in result.evaluations.items():
        n = found.all.n
        tokens[f"eval: {name}, {benchmark}"] = (found.tokens_in * n, found.tokens_out * n)
    for name, trained in result.training.items():
        tokens[f"train: {name}"] = (trained.total_tokens, 0)
    return [
        page.StageTiming(stage, seconds, round(tokens_in), round(tokens_out))
        for stage, seconds in result.seconds.items()
        for tokens_in, tokens_out in [tokens.get(stage, (0.0, 0.0))]
    ]


def _provenance(result: QuickstartResult) -> dict[str, str]:
    found = {f"{name} (SHA-256)": catalog.entry(name).sha256 for name in (TEACHER, STUDENT)}
    for run in ("teacher", "recorded"):
        ids = [
            row["task"]
            for line in (result.out / "data" / "rows.jsonl").open(encoding="utf-8")
            if (row := json.loads(line))["run"] == run
        ]
        label = "Rows made in this run" if run == "teacher" else "Rows recorded earlier (training only)"
        found[label] = f"{len(ids)}: {', '.join(ids)}"
    found["Attempts left out of training"] = ", ".join(
        f"{n} {why}" for why, n in result.data.rejected.items()
    )
    found["Versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    return found


def _examples(out: Path, most: int = 4) -> Iterator[page.Example]:
    """Tasks whose verdict training changed come first, lost ones among them."""
    runs = {name: out / f"eval-{name}-held-out" for name in STUDENTS}
    attempts = {name: {t.task.id: t for t in read_trajectories(run)} for name, run in runs.items()}
    correct = {
        name: {t.task.id: score.correct for t in attempts[name].values() for score in [scores[t.id]]}
        for name, run in runs.items()
        for scores in [read_scores(run)]
    }

    def rank(task: str) -> int:
        before, after = correct["untrained"][task], correct["after"][task]
        return {(True, False): 1, (False, True): 0, (True, True): 3, (False, False): 2}[before, after]

    ids = sorted(attempts["after"], key=rank)
    changed = [task for task in ids if rank(task) == 0][: most - 2]
    others = [next((task for task in ids if rank(task) == kind), None) for kind in (1, 2)]
    for task_id in [*changed, *(task for task in others if task is not None)]:
        task = attempts["after"][task_id].task
        yield page.Example(
            question=task.question,
            gold=task.answer,
            attempts=[
                rendered(STUDENTS[name], attempts[name][task_id], correct[name][task_id])
                for name in ("untrained", "after")
            ],
        )
