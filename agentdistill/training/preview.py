"""Looking at training rows before they are trained on.

Guaranteed: what is coloured is what carries loss, token by token, as the trainer sees it. Text is
shown as it decodes; control characters in it never reach the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from agentdistill.training.rows import IGNORED, Row
from agentdistill.visible import visible


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Lengths of rows in tokens; `labels_*` are trained tokens of a row, `trained_share` is of all tokens."""

    rows: int
    tokens: int
    trained: int
    p50: int
    p90: int
    longest: int
    labels_p50: int
    labels_p90: int

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
        text.append(visible(piece), style="bold green" if trained else "dim")
    return text


def row_statistics(rows: Sequence[Row]) -> RowStatistics:
    """Counts and length percentiles (nearest rank) of a set of rows; zeros for none."""
    lengths = sorted(len(row.input_ids) for row in rows)
    labels = sorted(row.trained for row in rows)
    return RowStatistics(
        rows=len(rows),
        tokens=sum(lengths),
        trained=sum(row.trained for row in rows),
        p50=_percentile(lengths, 50),
        p90=_percentile(lengths, 90),
        longest=lengths[-1] if lengths else 0,
        labels_p50=_percentile(labels, 50),
        labels_p90=_percentile(labels, 90),
    )


def statistics_table(rows: Sequence[Row]) -> Table:
    """`row_statistics` for people."""
    found = row_statistics(rows)
    table = Table(title=f"{found.rows} rows", title_justify="left")
    for column in ("tokens", "sum", "median", "90 % up to", "fewest", "most"):
        table.add_column(column, justify="left" if column == "tokens" else "right")
    lengths = [len(row.input_ids) for row in rows] or [0]
    labels = [row.trained for row in rows] or [0]
    for name, total, half, most, of in (
        ("in all", found.tokens, found.p50, found.p90, lengths),
        ("trained", found.trained, found.labels_p50, found.labels_p90, labels),
    ):
        table.add_row(name, *(str(number) for number in (total, half, most, min(of), max(of))))
    table.caption = f"{found.trained_share:.1%} of the tokens carry loss"
    return table


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0
