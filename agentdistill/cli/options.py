"""Options that several commands share, and how flags become what stages take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.errors import UsageError

if TYPE_CHECKING:
    from agentdistill.agent.knowledge import Knowledge
    from agentdistill.config import AttemptConfig, BatchConfig
    from agentdistill.grading.own import OwnGrader
    from agentdistill.knowledge.encoder import TextEncoder
    from agentdistill.knowledge.recall import Searcher
    from agentdistill.models.base import BaseModel
    from agentdistill.stages.attempt import AttemptSettings
    from agentdistill.stages.spending import Price
    from agentdistill.tasks.load import TaskSet
    from agentdistill.types import Json

TaskFile = Annotated[
    str, typer.Argument(help="Task file (JSONL or JSON), or a benchmark: math500, bbh/navigate, gsm8k:train.")
]
RunFolder = Annotated[Path, typer.Option("-o", "--out", help="RUN folder; the same command resumes it.")]
GraderFile = Annotated[
    str | None,
    typer.Option("--grader", help="FILE.py:NAME of a function (answer, task) -> bool.", show_default=False),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge", help="Model that judges phrases beside exact match (SPEC as --model).", show_default=False
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N tasks.", show_default=False)]
Prompt = Annotated[
    str | None, typer.Option(help="teacher, student, or a prompt file (YAML).", show_default=False)
]
SkipBadRows = Annotated[
    bool | None, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and say which.")
]
SandboxSpec = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        help="auto, bubblewrap, docker, docker:RUNTIME, landlock, ws://HOST:PORT (a gateway), or process (no "
        "isolation, must be asked for). \\[default: auto]",
    ),
]


def _attempt_options(
    model: Annotated[
        str | None,
        typer.Option(
            help="Catalog name, llamacpp:FILE.gguf, hf:ID_OR_DIR, openai:NAME@URL or a checkpoint folder.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Attempts side by side, at most. \\[default: 4]")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps an agent may take. \\[default: 5]")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="New tokens a step. \\[default: 512]")] = None,
    candidates: Annotated[
        int | None,
        typer.Option(help="Samples a step; the result of most of them is the step. \\[default: 1]"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature. \\[default: 0, with --candidates 0.4]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Sampling seed; sample k uses seed + k * candidates. \\[default: 0]"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of an engine in process. \\[default: all]")
    ] = None,
    sandbox: SandboxSpec = None,
    prompt: Prompt = None,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", help="FILE.py:NAME of a smolagents Tool.", show_default=False),
    ] = None,
    retriever: Annotated[
        str | None,
        typer.Option(
            "--retriever",
            help="INDEX folder, or http://HOST:PORT of a service: gives the agent search(query).",
            show_default=False,
        ),
    ] = None,
    kb: Annotated[
        str | None,
        typer.Option(
            "--kb", help="KB folder: notes that fit a task are given to the agent.", show_default=False
        ),
    ] = None,
    kb_delivery: Annotated[
        str | None,
        typer.Option(
            help="inject (in the prompt), recall (a tool), gated (inject if the model is unsure) or off. "
            "\\[default: inject]"
        ),
    ] = None,
    kb_choice: Annotated[
        str | None,
        typer.Option(
            help="retrieved, or as a control random (any entry) or filler (as long, says nothing). "
            "\\[default: retrieved]"
        ),
    ] = None,
    kb_lexical: Annotated[
        bool | None,
        typer.Option("--kb-lexical", help="Find entries by words only, without a sentence encoder."),
    ] = None,
    skip_bad_rows: SkipBadRows = None,
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
    engine: Annotated[
        str | None,
        typer.Option(
            help="local, or ray: an actor on each node of a Ray cluster; --concurrency and --threads are "
            "then a node's. \\[default: local]"
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the cluster's head, auto, or local: this machine as one. \\[default: "
            "RAY_ADDRESS]"
        ),
    ] = None,
) -> None:
    """What every command that makes attempts takes; its names are fields of AttemptConfig."""


def with_attempt_options(command: Callable[..., None], without: Container[str] = ()) -> Callable[..., None]:
    """The command, which takes the shared options in its `**flags`, as typer is to see it; some it may do
    without."""
    own = inspect.signature(command, eval_str=True)
    known = inspect.signature(_attempt_options, eval_str=True).parameters
    shared = [option for name, option in known.items() if name not in without]
    *first, last, flags = own.parameters.values()
    if flags.kind is not inspect.Parameter.VAR_KEYWORD:
        raise TypeError(f"{command.__name__} has no **flags")
    command.__signature__ = own.replace(parameters=[*first, last, *shared])  # type: ignore[attr-defined]
    return command


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as `config.load` takes them: several values as a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def tasks_of(source: str, config: BatchConfig) -> tuple[TaskSet, dict[str, Json]]:
    """The tasks, and what run.json is told of them and of the model. Says which rows are left out."""
    from agentdistill.cli.console import err
    from agentdistill.tasks.load import load_tasks

    loaded = load_tasks(source, limit=config.limit, skip_bad_rows=config.skip_bad_rows)
    for line in loaded.skipped:
        err.print(f"skipped {line}", markup=False)
    return loaded, {
        "tasks": loaded.source,
        "tasks_sha256": loaded.sha256,
        "limit": config.limit,
        "model": config.model,
        "retriever": config.retriever,
        "kb": config.kb,
        "budget": config.budget,
        "budget_tokens": config.budget_tokens,
    }


def price_of(model_id: str, file: Path | None) -> Price | None:
    """What the config file says a model's tokens cost, or None."""
    from agentdistill.config import load_price
    from agentdistill.stages.spending import Price

    found = load_price(model_id, file)
    return Price(found.input, found.output) if found else None


def open_for(config: AttemptConfig) -> BaseModel:
    """The model of a config, fetched if need be."""
    from agentdistill.cli.console import Bars
    from agentdistill.models.spec import open_model
    from agentdistill.stages.progress import fetching

    return open_model(
        config.model,
        slots=max(config.concurrency, config.candidates),
        context=config.context,
        threads=config.threads,
        progress=fetching(config.model, Bars()),
    )


def attempt_settings(config: AttemptConfig, default_prompt: str, **more: Any) -> AttemptSettings:
    """The stage's settings of a config. A retriever in it is open until this process ends."""
    from agentdistill.agent.self_consistency import TEMPERATURE, TOP_P
    from agentdistill.cli.console import err
    from agentdistill.prompts import load_prompts
    from agentdistill.stages.attempt import AttemptSettings
    from agentdistill.types import Limits, Sampling

    if config.sandbox == "process":
        err.print(
            "[bold red]warning[/]: --sandbox process runs the model's code on this machine, not isolated "
            "from your files or network"
        )
    retriever = None
    if config.retriever is not None:
        from agentdistill.clients.retriever import open_retriever

        retriever = open_retriever(config.retriever)
    default = Sampling(TEMPERATURE, TOP_P) if config.candidates > 1 else Sampling()
    sampling = Sampling(
        temperature=default.temperature if config.temperature is None else config.temperature,
        top_p=default.top_p if config.top_p is None else config.top_p,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    return AttemptSettings(
        prompts=load_prompts(config.prompt or default_prompt),
        sampling=sampling,
        candidates=config.candidates,
        max_steps=config.max_steps,
        sandbox=config.sandbox,
        limits=Limits(seconds=config.step_seconds, memory_mb=config.memory_mb),
        tools=tuple(load_tool(spec) for spec in config.tool),
        retriever=retriever,
        knowledge=knowledge_of(config),
        **more,
    )


def knowledge_of(config: AttemptConfig) -> Knowledge | None:
    """The knowledge base of a config, indexed and in memory."""
    if config.kb is None or config.kb_delivery == "off":
        return None
    from agentdistill.agent.knowledge import Delivery, Knowledge
    from agentdistill.knowledge.recall import Choice, LocalKnowledgeBase

    searcher = open_knowledge(Path(config.kb), hybrid=not config.kb_lexical)
    return Knowledge(LocalKnowledgeBase(searcher, Choice(config.kb_choice)), Delivery(config.kb_delivery))


def open_knowledge(kb: Path, *, hybrid: bool) -> Searcher:
    """The entries of a KB folder, to be searched. Says what takes long, and what could not be had."""
    from agentdistill.cli.console import Bars, err
    from agentdistill.knowledge.folder import EntryFolder
    from agentdistill.knowledge.recall import Searcher
    from agentdistill.knowledge.store import Index

    folder = EntryFolder(kb)
    bars, begun = Bars(), False

    def embedded(done: int, size: int) -> None:
        nonlocal begun
        if not begun:
            bars.begin("embed entries", size)
            begun = True
        bars.update(done)
        if done >= size:
            bars.end()

    index = Index(folder, sentence_encoder() if hybrid else None, embedded)
    if index.rebuilt:
        err.print(f"the index of {kb} was damaged and is made anew: {index.rebuilt}", markup=False)
    return Searcher(index)


def sentence_encoder() -> TextEncoder | None:
    """The catalog's encoder: that of the retrieval service that is up here, else one to load, fetched if need
    be; None where it cannot be had. What takes long, or is missing, is said."""
    from agentdistill import catalog
    from agentdistill.cli.console import Bars, err
    from agentdistill.clients.served_encoder import encoder_up_here
    from agentdistill.errors import DownloadError
    from agentdistill.knowledge.encoder import ENCODER, Encoder
    from agentdistill.stages.progress import fetching

    if served := encoder_up_here(catalog.entry(ENCODER).sha256[:16]):
        return served
    err.print("loading the sentence encoder ...")
    try:
        return Encoder(catalog.fetch(ENCODER, fetching(ENCODER, Bars())))
    except DownloadError as error:
        err.print(f"entries are compared by words only: {error}", markup=False, soft_wrap=True)
        return None


def load_tool(spec: str) -> Any:
    """The smolagents Tool (or its class) named by FILE.py:NAME. The file is the caller's own code."""
    from smolagents import Tool

    tool = load_named("--tool", spec)
    tool = tool() if isinstance(tool, type) and issubclass(tool, Tool) else tool
    if not isinstance(tool, Tool):
        raise UsageError(f"--tool {spec!r}: {spec.rpartition(':')[2]} is no smolagents Tool")
    return tool


def load_grader(spec: str) -> OwnGrader:
    """The function `NAME(answer, task)` of FILE.py:NAME as a grader."""
    from agentdistill.grading.own import OwnGrader

    function = load_named("--grader", spec)
    name = spec.rpartition(":")[2]
    if not callable(function):
        raise UsageError(f"--grader {spec!r}: {name} is no function of an answer and a task")
    return OwnGrader(function, name)


def load_named(flag: str, spec: str) -> Any:
    """What FILE.py:NAME names; None if the file has no such name. The file is the caller's own code: it
    runs."""
    import importlib.util

    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name or not Path(file).is_file():
        raise UsageError(f"{flag} {spec!r}: give FILE.py:NAME with a file that exists")
    module_spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"{flag} {spec!r}: {file} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{flag} {spec!r}: {file} raised {type(error).__name__}: {error}") from error
    return getattr(module, name, None)
