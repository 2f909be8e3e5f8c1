"""Weighted averages of checkpoints.

Balanced Actor Initialization (BAI, RECIPES) averages an instruct model and a reasoning model, `M = 1/2 I +
1/2 R`, and then with the base, `alpha B + (1 - alpha) M`: as one call the weights are alpha, (1 - alpha) / 2
and (1 - alpha) / 2. The paper's best score had alpha 0.1, its steadiest training 0.5.

Guaranteed: every weight of the result is that average, computed in float32, of models of one shape with one
vocabulary; tokenizer, chat template and prompts are the first one's; merge.json says what went in. The
folder appears whole or not at all. Not guaranteed: that an average of models of different bases is of use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill.errors import TrainingError, UsageError
from agentdistill.runs import write_atomic
from agentdistill.training.base import base_sha256, load_model, load_tokenizer, quiet
from agentdistill.training.checkpoint import PROMPTS, save_model
from agentdistill.training.rows import student_chat_template

RECORD = "merge.json"


def merge(models: Sequence[Path], weights: Sequence[float], out: Path) -> Path:
    """Average model folders or GGUF files into the new folder `out`, and return it.

    `weights` are one a model and sum to 1. Raises UsageError, TrainingError.
    """
    if len(models) < 2 or len(models) != len(weights):
        raise UsageError(
            f"{len(models)} models and {len(weights)} weights", "give two models or more, a weight each"
        )
    if abs(sum(weights) - 1) > 1e-6:
        raise UsageError(f"the weights sum to {sum(weights):g}, not to 1")
    if out.exists():
        raise UsageError(f"{out} is there already", "choose another folder")
    tokenizer = load_tokenizer(models[0])
    tokenizer.chat_template = student_chat_template(tokenizer)
    for other in models[1:]:
        if load_tokenizer(other).get_vocab() != tokenizer.get_vocab():
            raise TrainingError(f"{models[0]} and {other} have different vocabularies")
    prompts = models[0] / PROMPTS
    fresh = out.with_name(out.name + ".new")
    try:
        with quiet():
            model = _average(models, weights)
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            text = prompts.read_text(encoding="utf-8") if prompts.is_file() else ""
            save_model(model, tokenizer, fresh, fresh / ".state", text)
        (fresh / ".state").rmdir()
        sources = [
            {"path": str(path.resolve()), "sha256": base_sha256(path), "weight": weight}
            for path, weight in zip(models, weights, strict=True)
        ]
        write_atomic(fresh / RECORD, json.dumps(sources, indent=1) + "\n")
        fresh.rename(out)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise TrainingError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def _average(models: Sequence[Path], weights: Sequence[float]) -> Any:
    import torch

    merged = load_model(models[0], torch.float32)
    # Parameters, not the state: tied weights are one parameter under two names.
    sums = dict(merged.named_parameters())
    with torch.no_grad():
        for parameter in sums.values():
            parameter.mul_(weights[0])
        for path, weight in zip(models[1:], weights[1:], strict=True):
            others = dict(load_model(path, torch.float32).named_parameters())
            if {name: p.shape for name, p in others.items()} != {name: p.shape for name, p in sums.items()}:
                raise TrainingError(f"{models[0]} and {path} are models of different shapes")
            for name, parameter in sums.items():
                parameter.add_(others[name], alpha=weight)
    return merged
