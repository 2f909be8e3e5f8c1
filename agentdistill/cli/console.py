"""What people see: bars and tables on stderr, machine-readable results on stdout.

Guaranteed: stdout holds nothing but the result asked for with --json, or the command's own listing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.text import Text

PLAIN_SECONDS = 15.0
"""How often a long stage says a line when stderr is no terminal."""

err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


class _NotedBars(RichBars):
    """Bars with a line of words below them."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(f"  {self.note}", style="dim")


class Bars:
    """Progress as one bar with an ETA on a terminal, the note below it; elsewhere as a line now and then."""

    def __init__(self) -> None:
        self._bars: _NotedBars | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._total = 0.0
        self._started = self._said = 0.0

    def begin(self, stage: str, total: float) -> None:
        self._stage, self._total = stage, total
        self._started = self._said = time.monotonic()
        if err.is_terminal:
            self._bars = _NotedBars(
                TextColumn("[bold]{task.description:<22}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=err,
            )
            self._bars.start()
            self._task = self._bars.add_task(stage, total=total)

    def update(self, done: float, note: str = "") -> None:
        if self._bars is not None and self._task is not None:
            self._bars.note = note
            self._bars.update(self._task, completed=done)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_SECONDS and done < self._total:
            self._said = now
            spent = now - self._started
            left = f", about {spent / done * (self._total - done):.0f} s left" if done else ""
            words = f"; {note}" if note else ""
            self.message(f"{self._stage}: {done:g} of {self._total:g} in {spent:.0f} s{left}{words}")

    def end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
        elif self._stage:
            err.print(f"{self._stage}: done in {time.monotonic() - self._started:.0f} s")
        self._stage = ""

    def message(self, text: str) -> None:
        (self._bars.console if self._bars else err).print(text, markup=False, soft_wrap=True)
