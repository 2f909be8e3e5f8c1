"""Rows of benchmarks from the Hugging Face hub, through `datasets`.

Guaranteed: rows in the hub's order, in our shape; a hub that cannot be had is a DownloadError within seconds,
and so is a column that is not there. `HF_HUB_OFFLINE=1` uses what `datasets` has fetched before. Not
guaranteed: that the hub's data sets stay as they are; the TaskSet's hash says whether two loads gave the
same rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agentdistill.errors import DownloadError
from agentdistill.tasks.benchmarks import ENVIRONMENT, Choice
from agentdistill.tasks.rows import Origin
from agentdistill.types import Json

_SECONDS = 3.0
"""How long the hub may take to answer at all: `datasets` alone would try for half a minute."""


def hub_rows(choice: Choice) -> Iterator[tuple[str, Iterable[Json], Origin]]:
    """For each subset chosen: its name for messages, its rows, its origin. Raises DownloadError."""
    hub = choice.benchmark.hub
    for subset in [choice.subset] if choice.subset else hub.subsets:
        repository = hub.repository.format(subset=subset)
        name = f"hub:{repository}{'/' + config if (config := hub.subsets[subset]) else ''}"
        rows = _load(choice, repository, config, hub.splits[choice.split])
        yield name, _adapted(name, rows, choice), choice.origin(choice.benchmark.name, subset)


def _adapted(name: str, rows: Iterable[Any], choice: Choice) -> Iterator[Json]:
    for row in rows:
        try:
            yield choice.benchmark.hub.row(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DownloadError(
                f"{name} has other columns than it had: {type(error).__name__} {error}; it has "
                f"{', '.join(row)}",
                f"put the benchmark as a file into a folder that {ENVIRONMENT} names",
            ) from error


def _load(choice: Choice, repository: str, config: str | None, split: str) -> Iterable[Any]:
    remedy = f"put {choice.benchmark.name}_{choice.split}.jsonl into a folder that {ENVIRONMENT} names"
    if not Path(repository).is_dir():  # `datasets` takes a folder of that name for it
        _ask(repository, remedy)
    from datasets import load_dataset

    try:
        rows: Iterable[Any] = load_dataset(repository, config, split=split)
    except Exception as error:  # whatever a library with many back ends may raise
        line = " ".join(str(error).split())[:200]
        raise DownloadError(
            f"{choice} cannot be had from the hub ({repository}): {type(error).__name__} {line}", remedy
        ) from error
    return rows


def _ask(repository: str, remedy: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise DownloadError(f"the hub does not answer ({repository}): {error}", remedy) from error
