"""The line at the foot of the chat: what it has cost, how fast it is, what is at hand."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.widgets import Static

from agentdistill.types import Usage


@dataclass
class Figures:
    """Sums over the turns of this sitting; what is not known is None and said to be unknown."""

    tokens: int = 0
    uncounted: bool = False
    seconds: float = 0.0
    speed: float | None = None
    usd: float | None = 0.0
    sandbox: str = "starting"
    retriever: str = "off"
    kb: str = "off"
    candidates: int = 1

    def add(self, usage: Usage) -> None:
        """One more turn, whatever came of it."""
        self.tokens += usage.tokens_in + usage.tokens_out
        self.uncounted = self.uncounted or not usage.tokens_out
        self.seconds = usage.seconds
        self.usd = None if self.usd is None or usage.usd is None else self.usd + usage.usd

    def line(self, seconds: float, tokens: int = 0) -> str:
        """For 80 columns. `tokens` are those of a turn that goes on."""
        tokens += self.tokens
        count = f"{tokens:,}" if tokens < 100_000 else f"{tokens / 1_000:,.0f}k"
        more = "+" if self.uncounted else ""
        speed = "?" if self.speed is None else f"{self.speed:.{int(self.speed < 100)}f}"
        usd = "cost unknown" if self.usd is None else f"${self.usd:.4f}"
        parts = [f"{count}{more} tok · {speed}/s · {seconds:.{int(seconds < 100)}f} s · {usd}"]
        parts.append(f"sandbox {self.sandbox}")
        parts.append(f"search {self.retriever}")
        parts += [f"kb {self.kb}"] if self.kb != "off" else []
        parts += [f"n={self.candidates}"] if self.candidates > 1 else []
        return " │ ".join(parts)


class Status(Static):
    """Draws the figures, when they have changed."""

    DEFAULT_CSS = """
    Status { height: 1; background: $panel; color: $text-muted; padding: 0 1; }
    Status { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    drawn = ""

    def draw(self, line: str) -> None:
        if line != self.drawn:
            self.drawn = line
            self.update(Content(line), layout=False)
