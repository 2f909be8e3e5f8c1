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
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentdistill import catalog
from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation.report import write_report
from agentdistill.models.base import BaseModel
from agentdistill.models.spec import open_model
from agentdistill.prompts import load_prompts
from agentdistill.quickstart.report import STUDENT, STUDENTS, TEACHER, QuickstartResult, report, summary
from agentdistill.runs import write_atomic
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.curate import curate
from agentdistill.stages.evaluate import evaluate
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import grade
from agentdistill.stages.progress import Progress, Silent, fetching
from agentdistill.stages.recorded import unpack_run
from agentdistill.stages.train import train
from agentdistill.tasks.families import make_tasks
from agentdistill.tasks.load import load_tasks, write_tasks
from agentdistill.training.sft import PRESETS
from agentdistill.types import Sampling, Task

FAMILIES = ("arithmetic", "lookup")
LEVELS = (1, 2)
LIVE_TASKS = 24
HELD_OUT_TASKS = 60
FILE_TASKS = 40
"""Tasks taken from an `--eval` file."""
LIVE_SEED, HELD_OUT_SEED = 7, 11
TRAINING = replace(PRESETS["quick"], epochs=1.0, batch_size=2)
"""One pass in small steps: with about 140 rows of 190 tokens all there is time for on two cores."""


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
            catalog.fetch(name, fetching(name, progress))

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
        recorded = grade(unpack_run(out / "recorded"), progress=progress)
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
        for benchmark, tasks in benchmarks.items():
            stage = f"eval: {name}, {benchmark}"
            with clock.stage(stage), _model(spec, slots=8) as student:
                evaluations[name, benchmark] = evaluate(
                    tasks,
                    out / f"eval-{name}-{benchmark}",
                    student,
                    _student_settings(sandbox),
                    concurrency=8,
                    progress=progress,
                    stage=stage,
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
    write_report(out / "report.html", report(result))
    write_atomic(out / "summary.json", json.dumps(summary(result), indent=2) + "\n")
    return result


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


def _student_settings(sandbox: str) -> AttemptSettings:
    # One prompt and one limit for all three, so that only the weights differ. One step, because the teacher
    # needs 1.1 on these tasks, and a student that rambles takes all the steps it is given.
    return AttemptSettings(
        prompts=load_prompts("student"), sampling=Sampling(max_tokens=112), max_steps=1, sandbox=sandbox
    )


@contextmanager
def _model(spec: str, slots: int) -> Iterator[BaseModel]:
    model = open_model(spec, slots=slots, context=2048)
    try:
        yield model
    finally:
        model.close()
