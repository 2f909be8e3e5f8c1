"""What makes the attempts of generate and eval, from their settings: this process, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from agentdistill.cli import options as o
from agentdistill.config import BatchConfig
from agentdistill.errors import UsageError

if TYPE_CHECKING:
    from agentdistill.models.base import BaseModel
    from agentdistill.stages.engine import Engine, Settings
    from agentdistill.stages.progress import Progress
    from agentdistill.types import FirstThought

_C = TypeVar("_C", bound=BatchConfig)


@dataclass(frozen=True)
class Opening(Generic[_C]):
    """Opens the model and the settings of a command where it is called: here, or on a node."""

    config: _C
    settings: Callable[[_C], Settings]

    def __call__(self) -> tuple[BaseModel, Settings]:
        settings = self.settings(self.config)  # first: its mistakes show sooner than a model is open
        return o.open_for(self.config), settings


@contextmanager
def open_engine(
    config: _C,
    settings: Callable[[_C], Settings],
    drawn: Mapping[str, FirstThought],
    progress: Progress,
) -> Iterator[Engine]:
    """The engine of a config. `settings` is a function of a module, so that a node can import it."""
    if config.engine == "local":
        if config.ray_address is not None:
            raise UsageError("--ray-address needs --engine ray")
        from agentdistill.stages.engine import Local

        model, attempt = Opening(config, settings)()
        try:
            with Local(model, attempt, concurrency=config.concurrency, drawn=drawn) as local:
                yield local
        finally:
            model.close()
        return
    from agentdistill.stages.ray_engine import Cluster

    in_process = not config.model.startswith("openai:")
    with Cluster(
        Opening(_absolute(config), settings),
        address=config.ray_address,
        concurrency=config.concurrency,
        gpus=in_process,
        drawn=drawn,
        progress=progress,
    ) as cluster:
        yield cluster


def _absolute(config: _C) -> _C:
    """The config with the paths in it as they are called from anywhere."""

    def path(text: str) -> str:
        """Also behind `llamacpp:` and `hf:`, and before a `:NAME`."""
        kind, colon, rest = text.partition(":")
        if Path(text).exists():
            return str(Path(text).absolute())
        if kind in ("llamacpp", "hf") and Path(rest).exists():
            return f"{kind}:{Path(rest).absolute()}"
        if colon and kind.endswith(".py") and Path(kind).exists():
            return f"{Path(kind).absolute()}:{rest}"
        return text

    changed: dict[str, object] = {"tool": tuple(path(spec) for spec in config.tool)}
    for name in ("model", "prompt", "retriever", "kb", "first_thought"):
        if isinstance(value := getattr(config, name, None), str):
            changed[name] = path(value)
    return config.model_copy(update=changed)
