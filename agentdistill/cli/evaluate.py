"""`agentdistill eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o


def evaluate(
    tasks: Annotated[str, typer.Argument(help="Task file (JSONL or JSON).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="RUN folder; the same command resumes it.")],
    model: o.Model = None,
    limit: o.Limit = None,
    concurrency: o.Concurrency = None,
    max_steps: o.MaxSteps = None,
    max_tokens: o.MaxTokens = None,
    temperature: o.Temperature = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    sandbox: o.SandboxSpec = None,
    prompt: o.Prompt = None,
    tool: o.ToolFiles = None,
    retriever: o.RetrieverSpec = None,
    skip_bad_rows: o.SkipBadRows = None,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
) -> None:
    """Let a model act as an agent on tasks, grade it, print a table.

    A checkpoint is asked with the prompts it was trained on, any other model with the teacher's (they hold
    examples). Example: agentdistill eval tasks.jsonl -o runs/student --model checkpoints/student --limit 60
    """
    from agentdistill.cli.console import Bars, err
    from agentdistill.cli.grade import show
    from agentdistill.config import EvalConfig, load
    from agentdistill.stages.evaluate import evaluate as run
    from agentdistill.tasks.load import load_tasks

    flags = {
        "model": model,
        "limit": limit,
        "concurrency": concurrency,
        "max_steps": max_steps,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "threads": threads,
        "sandbox": sandbox,
        "prompt": prompt,
        "tool": tuple(tool or ()),
        "retriever": retriever,
        "skip_bad_rows": skip_bad_rows,
    }
    settings = load(EvalConfig, "eval", config, flags)
    loaded = load_tasks(tasks, limit=settings.limit, skip_bad_rows=settings.skip_bad_rows)
    for line in loaded.skipped:
        err.print(f"skipped {line}", markup=False)
    own = Path(settings.model) / "prompts.yaml"
    attempt = o.attempt_settings(settings, str(own) if own.is_file() else "teacher")
    asked = {
        "tasks": loaded.source,
        "tasks_sha256": loaded.sha256,
        "limit": settings.limit,
        "model": settings.model,
        "retriever": settings.retriever,
    }
    student = o.open_for(settings)
    try:
        summary = run(
            loaded.tasks,
            out,
            student,
            attempt,
            concurrency=settings.concurrency,
            asked=asked,
            progress=Bars(),
        )
    finally:
        student.close()
    show(summary, as_json)
    if summary.failed:
        raise typer.Exit(1)
