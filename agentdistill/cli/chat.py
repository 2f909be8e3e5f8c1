"""`agentdistill chat`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.cli import options as o
from agentdistill.errors import UsageError

if TYPE_CHECKING:
    from agentdistill.agent.knowledge import Knowledge
    from agentdistill.config import ChatConfig
    from agentdistill.models.base import BaseModel
    from agentdistill.stages.chat.conversation import Conversation
    from agentdistill.stages.chat.events import Event, Listener
    from agentdistill.stages.spending import Price
    from agentdistill.tui.chat_parts import Parts
    from agentdistill.types import Retriever

EMBEDDED = ("qwen2.5-coder-1.5b", "smollm2-135m")
"""What to start on where no model is given: the first that is here; if none is, the first is fetched."""


BATCH = (
    "limit",
    "concurrency",
    "skip_bad_rows",
    "samples",
    "budget",
    "budget_tokens",
    "engine",
    "ray_address",
)
"""Options of generate and eval that a conversation has no use for."""


@functools.partial(o.with_attempt_options, without=(*BATCH, "temperature"))
def chat(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="RUN folder to store the turns in; one that holds a conversation is gone on with. "
            "\\[default: a new one, in your state folder]",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. \\[default: 0.4]", show_default=False)
    ] = None,
    approve: Annotated[
        bool | None, typer.Option("--approve", help="Ask before code runs.", show_default=False)
    ] = None,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
    **flags: Any,
) -> None:
    """Talk to a model as an agent whose code runs in the sandbox.

    With a question on stdin it answers that one, without a screen; its steps go to stderr:
    echo "How many primes are below 1000?" | agentdistill chat --json

    Example: agentdistill chat --model qwen2.5-coder-1.5b --candidates 3
    """
    from agentdistill.config import ChatConfig, load

    own = {"approve": approve, "temperature": temperature}
    settings = load(ChatConfig, "chat", config, o.given(flags) | own)
    question = _piped_question(as_json)
    settings = _with_model(settings)
    if question is not None:
        _answer_one(question, settings, out, config, as_json)
        return
    from agentdistill.services import state_folder
    from agentdistill.tui.chat import run_chat
    from agentdistill.tui.chat_history import History

    history = History(state_folder() / "chat-history.jsonl")
    run_chat(_parts(settings, config), out or _new_folder(), approve=settings.approve, history=history)


def _piped_question(as_json: bool) -> str | None:
    """What stands on stdin; None where that is a terminal, and there is a screen to talk on."""
    if not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise UsageError("there is no question on stdin", 'echo "question" | agentdistill chat')
        return question
    if as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):  # Textual draws on stderr
        asked = "--json" if as_json else "without a terminal to draw on, chat"
        raise UsageError(
            f"{asked} answers one question from stdin", 'echo "question" | agentdistill chat --json'
        )
    return None


def _with_model(settings: ChatConfig) -> ChatConfig:
    """The settings with a model that is here; says what is fetched, and how large it is."""
    from agentdistill import catalog
    from agentdistill.cli.console import Bars, err
    from agentdistill.stages.progress import fetching

    name = settings.model
    if not name:
        here = [known for known in EMBEDDED if catalog.cached(known) is not None]
        name = (here or EMBEDDED)[0]
        if not here:
            small = catalog.entry(EMBEDDED[-1])
            err.print(
                f"No --model was given and none is here yet. Starting on {catalog.entry(name).title}. "
                f"Smaller: --model {small.name} ({small.size / 1e6:.0f} MB)",
                markup=False,
                soft_wrap=True,
            )
    if any(entry.name == name for entry in catalog.ENTRIES) and catalog.cached(name) is None:
        entry = catalog.entry(name)
        err.print(
            f"Fetching {name}: {entry.size / 1e6:,.0f} MB ({entry.licence}), once, into "
            f"{catalog.cache_folder()}",
            markup=False,
            soft_wrap=True,
        )
        catalog.fetch(name, fetching(name, Bars()))
    return settings.model_copy(update={"model": name})


def _new_folder() -> Path:
    """Where a conversation is stored that was given no place."""
    import time

    from agentdistill.services import state_folder

    return state_folder() / "chats" / time.strftime("%Y%m%d-%H%M%S")


def _parts(settings: ChatConfig, config: Path | None) -> Parts:
    """How a conversation's parts are opened, at its start and by its commands."""
    from agentdistill.tui.chat_parts import Parts

    def open_model(spec: str) -> tuple[BaseModel, Price | None]:
        model = o.open_for(settings.model_copy(update={"model": spec}))
        return model, o.price_of(model.model_id, config)

    def retriever(spec: str) -> Retriever:
        from agentdistill.clients.retriever import open_retriever

        return open_retriever(spec)

    def knowledge(folder: str) -> Knowledge | None:
        return o.knowledge_of(settings.model_copy(update={"kb": folder}))

    def conversation(listener: Listener, out: Path | None) -> Conversation:
        return _open(settings, listener, out, config)

    return Parts(
        conversation=conversation,
        model=open_model,
        retriever=retriever,
        knowledge=knowledge,
        model_name=settings.model,
        sandbox=settings.sandbox,
        retriever_name=settings.retriever,
        kb_name=settings.kb,
    )


def _open(settings: ChatConfig, listener: Listener, out: Path | None, config: Path | None) -> Conversation:
    from agentdistill.agent.self_consistency import TEMPERATURE, TOP_P
    from agentdistill.stages.chat.conversation import Conversation

    if settings.temperature is None:  # drawn at random, or a second try would say what the first one said
        settings = settings.model_copy(update={"temperature": TEMPERATURE, "top_p": settings.top_p or TOP_P})
    own = Path(settings.model) / "prompts.yaml"
    attempt = o.attempt_settings(settings, str(own) if own.is_file() else "teacher")
    model = o.open_for(settings)
    asked = {"model": settings.model, "retriever": settings.retriever, "kb": settings.kb}
    try:
        return Conversation(
            model, attempt, listener, out=out, price=o.price_of(model.model_id, config), asked=asked
        )
    except BaseException:
        model.close()
        raise


def _answer_one(
    question: str, settings: ChatConfig, out: Path | None, config: Path | None, as_json: bool
) -> None:
    from agentdistill.cli.console import err, print_json
    from agentdistill.stages.chat.events import Noticed, StepTaken, TurnFailed
    from agentdistill.types import to_json
    from agentdistill.visible import visible, visible_line

    def say(text: str) -> None:
        err.print(text, markup=False, soft_wrap=True)

    def listener(event: Event) -> None:
        if isinstance(event, StepTaken):
            step = event.step
            said = step.error.strip().splitlines()[-1] if step.error and step.error.strip() else step.thought
            say(f"step {event.number} ({step.seconds:.1f} s): {visible_line(said, 200)}")
        elif isinstance(event, TurnFailed):
            say(f"agentdistill: {visible_line(event.message)}")
        elif isinstance(event, Noticed):
            say(visible_line(event.text))

    if settings.approve:
        raise UsageError("--approve has nobody to ask", "leave it out, or chat on a terminal")
    conversation = _open(settings, listener, out, config)
    try:
        done = conversation.ask(question)
    finally:
        conversation.close()
        conversation.model.close()
    if done is None:
        raise typer.Exit(1)
    if as_json:
        row = to_json(done)
        kept = ("answer", "stop_reason", "model", "steps", "usage", "knowledge")
        print_json(
            {"question": done.task.question, **{name: row[name] for name in kept}, "run": out and str(out)}
        )
        return
    if done.answer is None:
        say(f"no answer: {done.stop_reason.value}")
        return
    # Into a file or a pipe it goes as it is; a terminal would act on control codes.
    sys.stdout.write((visible(done.answer) if sys.stdout.isatty() else done.answer) + "\n")
