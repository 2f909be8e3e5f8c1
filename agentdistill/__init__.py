"""agentdistill: distil a large tool-using agent into a small one anybody can run.

The verbs of the command line as functions; each is imported when it is first used:

    from agentdistill import generate, grade, curate, train, evaluate, export
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentdistill.models.spec import open_model
    from agentdistill.prompts import load_prompts
    from agentdistill.runs import read_scores, read_trajectories
    from agentdistill.stages.attempt import AttemptSettings
    from agentdistill.stages.compare import compare
    from agentdistill.stages.curate import curate
    from agentdistill.stages.evaluate import evaluate
    from agentdistill.stages.export import export
    from agentdistill.stages.generate import generate
    from agentdistill.stages.grade import grade
    from agentdistill.stages.recorded import unpack_run
    from agentdistill.stages.spending import Budget, Price
    from agentdistill.stages.train import train
    from agentdistill.tasks.families import make_tasks
    from agentdistill.tasks.load import load_tasks
    from agentdistill.training.settings import SftConfig
    from agentdistill.types import Sampling

__version__ = "0.1.0"

__all__ = [
    "AttemptSettings",
    "Budget",
    "Price",
    "Sampling",
    "SftConfig",
    "compare",
    "curate",
    "evaluate",
    "export",
    "generate",
    "grade",
    "load_prompts",
    "load_tasks",
    "make_tasks",
    "open_model",
    "read_scores",
    "read_trajectories",
    "train",
    "unpack_run",
]

_HOMES = {
    "AttemptSettings": "stages.attempt",
    "Budget": "stages.spending",
    "Price": "stages.spending",
    "Sampling": "types",
    "SftConfig": "training.settings",
    "compare": "stages.compare",
    "curate": "stages.curate",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "generate": "stages.generate",
    "grade": "stages.grade",
    "load_prompts": "prompts",
    "load_tasks": "tasks.load",
    "make_tasks": "tasks.families",
    "open_model": "models.spec",
    "read_scores": "runs",
    "read_trajectories": "runs",
    "train": "stages.train",
    "unpack_run": "stages.recorded",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
