"""`agentdistill generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o


def generate(
    tasks: Annotated[str, typer.Argument(help="Task file (JSONL or JSON).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="RUN folder; the same command resumes it.")],
    model: o.Model = None,
    limit: o.Limit = None,
    first_thought: Annotated[
        str | None,
        typer.Option(help="auto, paragraph, content, correct-only, off, or a JSONL FILE. [default: auto]"),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Attempts a task. [default: 1]")] = None,
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
    """Let a teacher agent solve tasks; store its trajectories.

    Example: agentdistill generate tasks.jsonl -o runs/teacher --model qwen2.5-coder-1.5b --limit 40
    """
    from dataclasses import asdict

    from agentdistill.cli.console import Bars, err, print_json
    from agentdistill.config import GenerateConfig, load
    from agentdistill.stages.attempt import FIRST_THOUGHTS, load_thoughts
    from agentdistill.stages.generate import generate as run
    from agentdistill.tasks.load import load_tasks

    flags = {
        "model": model,
        "limit": limit,
        "first_thought": first_thought,
        "samples": samples,
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
    settings = load(GenerateConfig, "generate", config, flags)
    loaded = load_tasks(tasks, limit=settings.limit, skip_bad_rows=settings.skip_bad_rows)
    for line in loaded.skipped:
        err.print(f"skipped {line}", markup=False)
    rule = settings.first_thought
    given = {} if rule in FIRST_THOUGHTS else load_thoughts(Path(rule))
    attempt = o.attempt_settings(
        settings, "teacher", first_thought="off" if given else rule, given_thoughts=given
    )
    asked = {
        "tasks": loaded.source,
        "tasks_sha256": loaded.sha256,
        "limit": settings.limit,
        "model": settings.model,
        "retriever": settings.retriever,
    }
    teacher = o.open_for(settings)
    try:
        result = run(
            loaded.tasks,
            out,
            teacher,
            attempt,
            samples=settings.samples,
            concurrency=settings.concurrency,
            asked=asked,
            progress=Bars(),
        )
    finally:
        teacher.close()
    if as_json:
        print_json({"run": str(out), **asdict(result)})
    err.print(
        f"{result.finished} attempts made, {result.skipped} were there, {result.parked} parked, in "
        f"{result.seconds:.0f} s. Next: agentdistill grade {out}",
        markup=False,
    )
    if result.parked:
        raise typer.Exit(1)
