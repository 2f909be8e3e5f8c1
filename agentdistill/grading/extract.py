"""The final answer of a chain of thought."""

from __future__ import annotations

import re

_FINAL = re.compile(r"(?:answer(?:\s+is)?|####)\s*[:=]?\s*(.+)$", re.IGNORECASE)
_WRAPPED = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+)\\\)|\\\[(.+)\\\]")
_BOX = re.compile(r"\\boxed\s*\{")


def final_answer(cot: str) -> str:
    """The answer a chain of thought ends with: the last \\boxed{X}, "The answer is X", "#### X", or ""."""
    for box in reversed(list(_BOX.finditer(cot))):
        inside = _to_closing_brace(cot, box.end())
        if inside is not None and inside.strip():
            return inside.strip()
    for line in reversed(cot.strip().splitlines()):
        found = _FINAL.search(line.replace("*", ""))
        if found:
            # Brackets stay: they are part of an interval, a point, an option.
            answer = found.group(1).strip().rstrip(".").strip()
            wrapped = _WRAPPED.fullmatch(answer)
            return next(filter(None, wrapped.groups()), "").strip() if wrapped else answer
    return ""


def _to_closing_brace(text: str, start: int) -> str | None:
    """The text up to the brace that closes the one before `start`; None if none does."""
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return None
