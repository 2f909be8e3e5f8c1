"""`agentdistill eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from agentdistill.cli import options as o


@o.with_attempt_options
def evaluate(
    tasks: o.TaskFile,
    out: o.RunFolder,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
    **flags: Any,
) -> None:
    """Let a model act as an agent on tasks, grade it, print a table.

    A checkpoint is asked with the prompts it was trained on, any other model with the teacher's (they hold
    examples). Example: agentdistill eval tasks.jsonl -o runs/student --model checkpoints/student --limit 60
    """
    from agentdistill.cli.console import Bars
    from agentdistill.cli.grade import show
    from agentdistill.config import EvalConfig, load
    from agentdistill.stages.evaluate import evaluate as run

    settings = load(EvalConfig, "eval", config, o.given(flags))
    loaded, asked = o.tasks_of(tasks, settings)
    own = Path(settings.model) / "prompts.yaml"
    attempt = o.attempt_settings(settings, str(own) if own.is_file() else "teacher")
    student = o.open_for(settings)
    try:
        summary = run(
            loaded.tasks,
            out,
            student,
            attempt,
            concurrency=settings.concurrency,
            price=o.price_of(student, config),
            asked=asked,
            progress=Bars(),
        )
    finally:
        student.close()
    show(summary, as_json)
    if summary.failed:
        raise typer.Exit(1)
