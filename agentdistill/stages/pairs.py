"""Right and wrong attempts at one task, side by side: what REDI learns from.

    DATA/pairs.jsonl   task, chosen, rejected; each side has id, run and messages, as rows.jsonl has them

Guaranteed: `chosen` would be a row and `rejected` is a finished attempt with a wrong answer at the same task;
each attempt is in one pair at most; the same RUNs give the same pairs. Not guaranteed: that a wrong attempt
is wrong from its first step.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill.errors import RunDirectoryError, TrainingError
from agentdistill.runs import write_atomic
from agentdistill.types import Json

PAIRS = "pairs.jsonl"


def pair_up(right: Sequence[Json], wrong: Sequence[Json]) -> list[Json]:
    """Pairs of rows (`id, task, run, messages`) by task in the order given, as many as the rarer side has."""
    waiting: dict[str, list[Json]] = {}
    for row in wrong:
        waiting.setdefault(_asked(row), []).append(row)
    pairs: list[Json] = []
    for row in right:
        if partners := waiting.get(_asked(row)):
            chosen, rejected = _side(row), _side(partners.pop(0))
            pairs.append({"task": row["task"], "chosen": chosen, "rejected": rejected})
    return pairs


def _asked(row: Json) -> str:
    """Task and all that is said before the first answer: RUNs may use one id for two questions or prompts."""
    said = itertools.takewhile(lambda message: message["role"] != "assistant", row["messages"])
    return json.dumps([row["task"], *said])


def _side(row: Json) -> Json:
    return {key: row[key] for key in ("id", "run", "messages")}


def write_pairs(data: Path, pairs: Sequence[Json]) -> None:
    """Raises RunDirectoryError."""
    write_atomic(data / PAIRS, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))


def read_pairs(data: Path) -> list[dict[str, Any]]:
    """The pairs of a DATA folder. Raises TrainingError where there are none, RunDirectoryError."""
    try:
        lines = (data / PAIRS).read_text(encoding="utf-8").split("\n")
        pairs = [json.loads(line) for line in lines if line]
    except FileNotFoundError:
        pairs = []
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{data / PAIRS} cannot be read: {error}") from error
    if not pairs:
        raise TrainingError(
            f"{data} has no pairs of a right and a wrong attempt at one task",
            "generate with --samples 4 or more, then curate",
        )
    return pairs
