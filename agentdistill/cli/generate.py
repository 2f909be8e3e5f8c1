"""`agentdistill generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.stages.pool import PoolResult
    from agentdistill.types import Usage


@o.with_attempt_options
def generate(
    tasks: o.TaskFile,
    out: o.RunFolder,
    first_thought: Annotated[
        str | None,
        typer.Option(help="auto, paragraph, content, correct-only, off, or a JSONL FILE. \\[default: auto]"),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Attempts a task; more than one need a --temperature. \\[default: 1]")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="USD the whole RUN may cost; needs a price in --config.", show_default=False),
    ] = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens the whole RUN may take, read and written.", show_default=False),
    ] = None,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
    **flags: Any,
) -> None:
    """Let a teacher agent solve tasks; store its trajectories.

    The same command resumes: it makes what is missing and tries again what failed.
    Ctrl-C finishes what is in flight, a second one stops at once.

    Example: agentdistill generate tasks.jsonl -o runs/teacher --model qwen2.5-coder-1.5b --limit 40
    """
    from dataclasses import asdict

    from agentdistill.cli.console import Bars, err, print_json
    from agentdistill.config import GenerateConfig, load
    from agentdistill.stages.generate import generate as run
    from agentdistill.stages.spending import Budget
    from agentdistill.stages.thoughts import FIRST_THOUGHTS, load_thoughts

    own: dict[str, Any] = {"first_thought": first_thought, "samples": samples}
    own |= {"budget": budget, "budget_tokens": budget_tokens}
    settings = load(GenerateConfig, "generate", config, o.given(flags) | own)
    loaded, asked = o.tasks_of(tasks, settings)
    rule = settings.first_thought
    given = {} if rule in FIRST_THOUGHTS else load_thoughts(Path(rule))
    attempt = o.attempt_settings(
        settings, "teacher", first_thought="off" if given else rule, given_thoughts=given
    )
    teacher = o.open_for(settings)
    try:
        result = run(
            loaded.tasks,
            out,
            teacher,
            attempt,
            samples=settings.samples,
            concurrency=settings.concurrency,
            price=o.price_of(teacher, config),
            budget=Budget(settings.budget, settings.budget_tokens),
            asked={**asked, "budget": settings.budget, "budget_tokens": settings.budget_tokens},
            progress=Bars(),
        )
    finally:
        teacher.close()
    if as_json:
        print_json({"run": str(out), **asdict(result)})
    err.print(closing_words(result, out), markup=False, soft_wrap=True)
    if result.parked:
        raise typer.Exit(1)


def closing_words(result: PoolResult, out: Path) -> str:
    """What the call did and cost, and what to do next."""
    said = (
        f"{result.finished} attempts made, {result.skipped} were there, {result.parked} parked, in "
        f"{result.seconds:.0f} s; {cost(result.usage)}"
    )
    if result.usage != result.run_usage:
        said += f" (the whole run: {cost(result.run_usage)})"
    if result.remaining:
        return (
            f"{said}. The budget is used up: {result.remaining} attempts remain; the same command with a "
            "larger one goes on"
        )
    again = f"the same command tries the parked again (why: {out / 'failures.jsonl'})"
    return f"{said}. Next: {again if result.parked else f'agentdistill grade {out}'}"


def cost(usage: Usage) -> str:
    money = "cost unknown" if usage.usd is None else f"${usage.usd:.4f}"
    return f"{usage.tokens_in:,} tokens read, {usage.tokens_out:,} written, {money}"
