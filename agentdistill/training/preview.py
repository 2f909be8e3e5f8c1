"""Looking at training rows before they are trained on.

Guaranteed: what is coloured is what carries loss, token by token, as the trainer sees it. Text is
shown as it decodes; control characters in it never reach the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.text import Text

from agentdistill.training.rows import IGNORED, Row


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Lengths are in tokens. `trained_share` is of all tokens."""

    rows: int
    tokens: int
    trained: int
    p50: int
    p90: int
    longest: int

    @property
    def trained_share(self) -> float:
        return self.trained / self.tokens if self.tokens else 0.0


def preview(row: Row, tokenizer: Any) -> Text:
    """One row, decoded: trained tokens in colour, the rest dim."""
    text = Text()
    tokens = zip(row.input_ids, row.labels, strict=True)
    # Whole runs are decoded at once: a character may be spread over several tokens.
    for trained, run in groupby(tokens, key=lambda pair: pair[1] != IGNORED):
        ids = [token for token, _ in run]
        piece = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text.append(_printable(piece), style="bold green" if trained else "dim")
    return text


def row_statistics(rows: Sequence[Row]) -> RowStatistics:
    """Counts and length percentiles (nearest rank) of a set of rows; zeros for none."""
    lengths = sorted(len(row.input_ids) for row in rows)
    return RowStatistics(
        rows=len(rows),
        tokens=sum(lengths),
        trained=sum(row.trained for row in rows),
        p50=_percentile(lengths, 50),
        p90=_percentile(lengths, 90),
        longest=lengths[-1] if lengths else 0,
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0


def _printable(text: str) -> str:
    """Model text could hold escape sequences that drive a terminal: show them as what they are."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
