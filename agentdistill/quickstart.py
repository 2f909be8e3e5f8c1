"""The whole pipeline as one file a person can follow:

    tasks -> generate -> grade -> curate -> train -> eval -> report

Guaranteed: every stage resumes, so the same command goes on where it stopped; held-out tasks show wordings,
names and things that no training task shows; nothing is trained on an `--eval` file. Not guaranteed: that the
student learns; the report shows what came out, changed or not.

OUT/tasks/*.jsonl   OUT/teacher, OUT/recorded   RUNs      OUT/data-*   training rows
OUT/student-live, OUT/student   checkpoints               OUT/eval-*   RUNs          OUT/report.html
"""

from __future__ import annotations

import json
import lzma
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from agentdistill import catalog
from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation import report as page
from agentdistill.evaluation.stats import paired_difference
from agentdistill.models.base import BaseModel
from agentdistill.models.spec import open_model
from agentdistill.prompts import load_prompts
from agentdistill.runs import read_scores, read_trajectories, versions, write_atomic
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.curate import CurateSummary, curate
from agentdistill.stages.evaluate import evaluate
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import GradeSummary, grade
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.train import train
from agentdistill.tasks.families import make_tasks
from agentdistill.tasks.load import load_tasks, write_tasks
from agentdistill.training.sft import PRESETS, TrainResult
from agentdistill.types import Sampling, Task, Trajectory

TEACHER = "qwen2.5-coder-1.5b"
STUDENT = "smollm2-135m"
FAMILIES = ("arithmetic", "lookup")
LEVELS = (1, 2)
LIVE_TASKS = 24
HELD_OUT_TASKS = 60
FILE_TASKS = 40
"""Tasks taken from an `--eval` file."""
LIVE_SEED, HELD_OUT_SEED = 7, 11
TRAINING = replace(PRESETS["quick"], epochs=1.0, batch_size=2)
"""One pass in small steps: with about 110 rows of 190 tokens all there is time for on two cores."""

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


class _Clock:
    """Wall seconds a stage, summed over the calls it took and kept in OUT/timings.json."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
            write_atomic(self._path, json.dumps(self.seconds, indent=1) + "\n")


def quickstart(
    out: Path, *, eval_file: str | None = None, sandbox: str = "auto", progress: Progress | None = None
) -> QuickstartResult:
    """Run or resume the pipeline in `out`. Raises what its stages raise."""
    progress = progress or Silent()
    try:
        out.mkdir(parents=True, exist_ok=True)
        clock = _Clock(out / "timings.json")
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"cannot use {out}: {error}", "give another --out") from error

    with clock.stage("download"):
        for name in (TEACHER, STUDENT):
            catalog.fetch(name, _downloading(name, progress))

    live_tasks, benchmarks = _tasks(out, eval_file)

    with clock.stage("teacher"), _model(TEACHER, slots=4) as teacher:
        generate(
            live_tasks,
            out / "teacher",
            teacher,
            _teacher_settings(sandbox),
            progress=progress,
            stage="teacher",
        )
    with clock.stage("grade and curate"):
        graded = grade(out / "teacher", progress=progress)
        recorded = grade(_unpack_recorded(out / "recorded"), progress=progress)
        prompts = load_prompts("student")
        curate([out / "teacher"], out / "data-live", prompts)
        data = curate([out / "teacher", out / "recorded"], out / "data", prompts)

    training = {}
    for name, rows in (("live", "data-live"), ("after", "data")):
        with clock.stage(f"train: {name}"):
            training[name] = train(
                out / rows,
                _checkpoint(out, name),
                STUDENT,
                TRAINING,
                progress=progress,
                stage=f"train: {name}",
            )

    evaluations = {}
    for name in STUDENTS:
        spec = STUDENT if name == "untrained" else str(_checkpoint(out, name))
        with clock.stage(f"eval: {name}"), _model(spec, slots=8) as student:
            for benchmark, tasks in benchmarks.items():
                evaluations[name, benchmark] = evaluate(
                    tasks,
                    out / f"eval-{name}-{benchmark}",
                    student,
                    _student_settings(name, sandbox),
                    concurrency=8,
                    progress=progress,
                    stage=f"eval: {name}",
                )

    result = QuickstartResult(
        out=out,
        teacher=graded,
        recorded=recorded,
        data=data,
        training=training,
        evaluations=evaluations,
        seconds=clock.seconds,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    page.write_report(out / "report.html", _report(result))
    write_atomic(out / "summary.json", json.dumps(summary(result), indent=2) + "\n")
    return result


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


def _checkpoint(out: Path, name: str) -> Path:
    return out / ("student" if name == "after" else f"student-{name}")


def _tasks(out: Path, eval_file: str | None) -> tuple[list[Task], dict[str, Sequence[Task]]]:
    """The live training tasks, and held-out tasks by benchmark name. Both are written to OUT/tasks."""

    def mixed(n: int, seed: int, split: Any) -> list[Task]:
        made = [make_tasks(family, n // 2, seed, split=split, levels=LEVELS) for family in FAMILIES]
        return [task for pair in zip(*made, strict=True) for task in pair]

    live = mixed(LIVE_TASKS, LIVE_SEED, "train")
    benchmarks: dict[str, Sequence[Task]] = {"held-out": mixed(HELD_OUT_TASKS, HELD_OUT_SEED, "test")}
    (out / "tasks").mkdir(exist_ok=True)
    write_tasks(out / "tasks" / "live.jsonl", live)
    write_tasks(out / "tasks" / "held-out.jsonl", benchmarks["held-out"])
    if eval_file is not None:
        benchmarks[Path(eval_file).stem] = load_tasks(eval_file, limit=FILE_TASKS).tasks
    return live, benchmarks


def _teacher_settings(sandbox: str) -> AttemptSettings:
    return AttemptSettings(
        prompts=load_prompts("teacher"),
        sampling=Sampling(max_tokens=300),
        max_steps=3,
        first_thought="content",
        sandbox=sandbox,
    )


def _student_settings(name: str, sandbox: str) -> AttemptSettings:
    # The untrained student gets the teacher's prompt: its examples are the best chance it has.
    return AttemptSettings(
        prompts=load_prompts("teacher" if name == "untrained" else "student"),
        sampling=Sampling(max_tokens=160),
        max_steps=2,
        sandbox=sandbox,
    )


@contextmanager
def _model(spec: str, slots: int) -> Iterator[BaseModel]:
    model = open_model(spec, slots=slots, context=2048)
    try:
        yield model
    finally:
        model.close()


def _downloading(name: str, progress: Progress) -> catalog.Progress:
    begun = False

    def report(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"fetch {name} (MB)", total // 1_000_000)
            begun = True
        progress.update(done // 1_000_000)
        if done >= total:
            progress.end()

    return report


def _unpack_recorded(folder: Path) -> Path:
    """Write the RUN that ships with the package: real teacher attempts, for training only."""
    shipped = resources.files("agentdistill").joinpath("recorded")
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "run.json", shipped.joinpath("run.json").read_text(encoding="utf-8"))
    packed = shipped.joinpath("trajectories.jsonl.xz").read_bytes()
    write_atomic(folder / "trajectories.jsonl", lzma.decompress(packed).decode("utf-8"))
    return folder


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
                    note=f"against untrained; exact McNemar p = {found.p:.2g}",
                )
            )
    return rows


def _marks(found: GradeSummary) -> dict[str, bool]:
    """Verdicts by task id (an attempt's id is TASK#SAMPLE@HASH)."""
    return {score.attempt.rsplit("#", 1)[0]: score.correct for score in found.scores}


def _report(result: QuickstartResult) -> page.ReportData:
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
    for (name, _), found in result.evaluations.items():
        before = tokens.get(f"eval: {name}", (0.0, 0.0))
        n = found.all.n
        tokens[f"eval: {name}"] = (before[0] + found.tokens_in * n, before[1] + found.tokens_out * n)
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
                _rendered(STUDENTS[name], attempts[name][task_id], correct[name][task_id])
                for name in ("untrained", "after")
            ],
        )


def _rendered(label: str, trajectory: Trajectory, correct: bool) -> page.RenderedAttempt:
    steps = [
        page.RenderedStep(step.thought, step.code or "", step.error or step.observation)
        for step in trajectory.steps
    ]
    return page.RenderedAttempt(label, steps, trajectory.answer, correct)
