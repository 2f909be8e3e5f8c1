"""Options that several commands share, and how flags become what stages take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdistill.errors import UsageError

if TYPE_CHECKING:
    from agentdistill.config import AttemptConfig
    from agentdistill.models.base import BaseModel
    from agentdistill.stages.attempt import AttemptSettings

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N tasks.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(
        help="Catalog name, llamacpp:FILE.gguf, hf:ID_OR_DIR, openai:NAME@URL or a checkpoint folder.",
        show_default=False,
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="Attempts side by side. [default: 4]")]
MaxSteps = Annotated[int | None, typer.Option(help="Steps an agent may take. [default: 5]")]
MaxTokens = Annotated[int | None, typer.Option(help="New tokens a step. [default: 512]")]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature. [default: 0]")]
Seed = Annotated[int | None, typer.Option(help="Sampling seed; sample k uses seed + k. [default: 0]")]
SandboxSpec = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        help="auto, bubblewrap, docker, docker:RUNTIME, landlock, ws://HOST:PORT (a gateway), or process (no "
        "isolation, must be asked for). [default: auto]",
    ),
]
Prompt = Annotated[
    str | None, typer.Option(help="teacher, student, or a prompt file (YAML).", show_default=False)
]
ToolFiles = Annotated[
    list[str] | None, typer.Option("--tool", help="FILE.py:NAME of a smolagents Tool.", show_default=False)
]
RetrieverSpec = Annotated[
    str | None,
    typer.Option(
        "--retriever",
        help="INDEX folder, or http://HOST:PORT of a service: gives the agent search(query).",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of an engine in process. [default: all]")]
SkipBadRows = Annotated[
    bool | None, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read, and say which.")
]


def open_for(config: AttemptConfig) -> BaseModel:
    """The model of a config, fetched if need be."""
    from agentdistill.cli.console import Bars
    from agentdistill.models.spec import open_model

    return open_model(
        config.model,
        slots=config.concurrency,
        context=config.context,
        threads=config.threads,
        progress=Bars().bytes(config.model),
    )


def attempt_settings(config: AttemptConfig, default_prompt: str, **more: Any) -> AttemptSettings:
    """The stage's settings of a config. A retriever in it is open until this process ends."""
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
    return AttemptSettings(
        prompts=load_prompts(config.prompt or default_prompt),
        sampling=Sampling(config.temperature, config.top_p, config.max_tokens, config.seed),
        max_steps=config.max_steps,
        sandbox=config.sandbox,
        limits=Limits(seconds=config.step_seconds, memory_mb=config.memory_mb),
        tools=tuple(load_tool(spec) for spec in config.tool),
        retriever=retriever,
        **more,
    )


def load_tool(spec: str) -> Any:
    """The smolagents Tool (or its class) named by FILE.py:NAME. The file is the caller's own code."""
    import importlib.util

    from smolagents import Tool

    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name or not Path(file).is_file():
        raise UsageError(f"--tool {spec!r}: give FILE.py:NAME with a file that exists")
    module_spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"--tool {spec!r}: {file} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"--tool {spec!r}: {file} raised {type(error).__name__}: {error}") from error
    tool = getattr(module, name, None)
    tool = tool() if isinstance(tool, type) and issubclass(tool, Tool) else tool
    if not isinstance(tool, Tool):
        raise UsageError(f"--tool {spec!r}: {name} is no smolagents Tool")
    return tool
