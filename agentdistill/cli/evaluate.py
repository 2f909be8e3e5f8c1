"""`agentdistill eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.cli import options as o
from agentdistill.errors import UsageError

if TYPE_CHECKING:
    from agentdistill.config import EvalConfig
    from agentdistill.stages.attempt import AttemptSettings
    from agentdistill.stages.baseline import ChainOfThought


@o.with_attempt_options
def evaluate(
    tasks: o.TaskFile,
    out: o.RunFolder,
    mode: Annotated[
        str | None,
        typer.Option(
            help="agent; cot: a plain chain of thought; cot-rag: one with passages of the --retriever before "
            "the question. \\[default: agent]"
        ),
    ] = None,
    grader: o.GraderFile = None,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
    **flags: Any,
) -> None:
    """Let a model solve tasks, as an agent or by a chain of thought; grade it, print a table.

    A checkpoint is asked with the prompts it was trained on, any other model with the teacher's (they hold
    examples).

    Example: agentdistill eval math500@level=1-2 -o runs/student --model checkpoints/student
    """
    from agentdistill.cli.console import Bars
    from agentdistill.cli.engines import open_engine
    from agentdistill.cli.grade import show
    from agentdistill.config import EvalConfig, load
    from agentdistill.stages.generate import store_attempts
    from agentdistill.stages.grade import grade
    from agentdistill.stages.spending import Budget

    settings = load(EvalConfig, "eval", config, {**o.given(flags), "mode": mode, "grader": grader})
    judging = o.load_grader(settings.grader) if settings.grader else None
    loaded, asked = o.tasks_of(tasks, settings)
    progress = Bars()
    with open_engine(settings, _attempt, {}, progress) as engine:
        store_attempts(
            loaded.tasks,
            out,
            engine,
            samples=settings.samples,
            price=o.price_of(engine.model_id, config),
            budget=Budget(settings.budget, settings.budget_tokens),
            asked=asked,
            progress=progress,
            stage="eval",
        )
    summary = grade(out, grader=judging, sandbox=settings.sandbox, progress=progress)
    show(summary, as_json)
    if summary.failed:
        raise typer.Exit(1)


def _attempt(settings: EvalConfig) -> AttemptSettings | ChainOfThought:
    """What shapes an attempt of the mode. Raises UsageError for what the mode lacks, or has no use for."""
    from agentdistill.stages.baseline import ChainOfThought

    if settings.mode == "cot-rag" and settings.retriever is None:
        raise UsageError("--mode cot-rag needs something to search in", "give a --retriever")
    if settings.mode == "cot" and settings.retriever is not None:
        raise UsageError("--mode cot uses no retriever", "leave it out, or take --mode cot-rag")
    if settings.mode != "agent" and settings.kb is not None:
        raise UsageError(f"--mode {settings.mode} uses no knowledge base", "leave out --kb")
    if settings.mode != "agent" and settings.candidates > 1:
        raise UsageError(
            f"--mode {settings.mode} takes no steps to vote on", "give --samples for --candidates"
        )
    own = Path(settings.model) / "prompts.yaml"
    agent = o.attempt_settings(settings, str(own) if own.is_file() else "teacher")
    if settings.mode == "agent":
        return agent
    return ChainOfThought(agent.prompts, agent.sampling, agent.retriever)
