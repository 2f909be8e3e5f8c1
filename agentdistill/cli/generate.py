"""`agentdistill generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.config import GenerateConfig
    from agentdistill.stages.attempt import AttemptSettings
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
    from agentdistill.cli.engines import open_engine
    from agentdistill.config import GenerateConfig, load
    from agentdistill.stages.generate import store_attempts
    from agentdistill.stages.spending import Budget
    from agentdistill.stages.thoughts import drawn_before

    settings = load(GenerateConfig, "generate", config, {**o.given(flags), "first_thought": first_thought})
    loaded, asked = o.tasks_of(tasks, settings)
    drawn = drawn_before(out, loaded.tasks) if settings.samples > 1 else {}
    progress = Bars()
    with open_engine(settings, _settings, drawn, progress) as engine:
        result = store_attempts(
            loaded.tasks,
            out,
            engine,
            samples=settings.samples,
            price=o.price_of(engine.model_id, config),
            budget=Budget(settings.budget, settings.budget_tokens),
            asked=asked,
            progress=progress,
        )
    if as_json:
        print_json({"run": str(out), **asdict(result)})
    err.print(closing_words(result, out), markup=False, soft_wrap=True)
    if result.parked:
        raise typer.Exit(1)


def _settings(config: GenerateConfig) -> AttemptSettings:
    from agentdistill.stages.thoughts import FIRST_THOUGHTS, load_thoughts

    rule = config.first_thought
    given = {} if rule in FIRST_THOUGHTS else load_thoughts(Path(rule))
    return o.attempt_settings(config, "teacher", first_thought="off" if given else rule, given_thoughts=given)


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
