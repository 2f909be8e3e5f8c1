"""Families of generated tasks: a seeded supply with answers that are right by construction.

Guaranteed: the same arguments give the same tasks on every platform and Python; a larger `n` only adds
tasks at the end; train and test share no wording; no question comes twice in a set (in sets of hundreds a
few short questions about tables do, each time about another table). Not guaranteed: that two sets of
different seeds have no task in common.

A new family is one file with a `Family` in it, and one entry here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from agentdistill.errors import UsageError
from agentdistill.tasks.families import arithmetic, lookup
from agentdistill.tasks.families.base import LEVELS, Draft, Family, Split, Template
from agentdistill.types import Task

__all__ = ["FAMILIES", "Draft", "Family", "Split", "Template", "make_tasks"]

FAMILIES: dict[str, Family] = {family.name: family for family in (arithmetic.FAMILY, lookup.FAMILY)}

_TRIES = 200


def make_tasks(
    family: str, n: int, seed: int, *, split: Split = "train", levels: Sequence[int] = LEVELS
) -> list[Task]:
    """`n` tasks that go through the levels, and through the wordings of each level, in turn."""
    chosen = FAMILIES.get(family)
    if chosen is None:
        raise UsageError(f"no task family {family!r}", f"the families are {', '.join(sorted(FAMILIES))}")
    if n < 1:
        raise UsageError(f"cannot make {n} tasks", "ask for at least 1")
    if split not in ("train", "test"):
        raise UsageError(f"no split {split!r}", "it can be train or test")
    if not levels or any(level not in LEVELS for level in levels):
        raise UsageError(f"levels {list(levels)} are not known", f"they can be {', '.join(map(str, LEVELS))}")

    # Seeding with a text goes through SHA-512, so it does not depend on the platform or on PYTHONHASHSEED.
    stem = f"{family}/{split}/{seed}"
    wordings: dict[int, list[Template]] = {}
    for level in levels:
        wordings[level] = list(chosen.templates(split, level))
        random.Random(f"{stem}/order/{level}").shuffle(wordings[level])  # noqa: S311

    tasks: list[Task] = []
    seen: set[str] = set()
    for index in range(n):
        turn, place = divmod(index, len(levels))
        level = levels[place]
        template = wordings[level][turn % len(wordings[level])]
        draft = _draw(template, random.Random(f"{stem}/{level}/{index}"), seen)  # noqa: S311
        seen.add(draft.question)
        tasks.append(
            Task(
                id=f"{family}-{split}-s{seed}-{index:04d}",
                question=draft.question,
                answer=draft.answer,
                kind=draft.kind,
                source=family,
                split=split,
                meta={"level": level, "template": template.name, **draft.meta},
            )
        )
    return tasks


def _draw(template: Template, rng: random.Random, seen: set[str]) -> Draft:
    for _ in range(_TRIES):
        draft = template.draw(rng)
        if draft.question not in seen:
            return draft
    if "data" in draft.meta:  # the same words about another table are another question
        return draft
    raise UsageError(f"the wording {template.name!r} has no new question left", "ask for fewer tasks")
