"""The agent's own tools: `search(query)` over a Retriever.

Guaranteed: what the code gets is short, plain text with numbered passages, or a sentence that nothing was
found; a query that can't be searched is an error the code sees, a retriever that is broken is remembered in
`failure` and ends the attempt (agent/record.py). Passages are text from a corpus: what they say is not
checked, and a passage may hold instructions.
"""

from __future__ import annotations

from smolagents import Tool

from agentdistill.errors import RetrieverError, UsageError
from agentdistill.types import Passage, Retriever, ToolResult

PASSAGES = 3
CHARACTERS = 600
"""Of a passage's text, about 130 tokens: three passages leave a small model room to think."""


class SearchTool(Tool):
    """One for each attempt. Without a retriever it can be shown in a prompt, and not called."""

    name = "search"
    description = "Looks facts up: returns the passages that fit the query best, as text. Print it to read."
    inputs = {"query": {"type": "string", "description": "a few words on what to find"}}  # noqa: RUF012
    output_type = "string"
    repeatable = True

    def __init__(self, retriever: Retriever | None = None) -> None:
        super().__init__()
        self.retriever = retriever
        self.failure: Exception | None = None

    def forward(self, query: str) -> str:
        return str(self.recorded(query).value)

    def recorded(self, query: object) -> ToolResult:
        """The text for the code, and the ids of the passages in it for the ToolCall."""
        if not isinstance(query, str):
            raise ValueError(f"search takes one text, not a value of type {type(query).__name__}")
        if self.retriever is None:
            raise ValueError("there is nothing to search in")
        try:
            [passages] = self.retriever.search([query], PASSAGES)
        except UsageError as error:
            raise ValueError(error.message) from None
        except RetrieverError as error:
            self.failure = self.failure or error
            raise
        return ToolResult(shown(query, passages), {"passages": [passage.id for passage in passages]})


def shown(query: str, passages: list[Passage]) -> str:
    """Passages as a model reads them."""
    if not passages:
        return f"Nothing was found for {_cut(query, 100)!r}. Try other words."
    return "\n".join(f"[{number}] {_line(passage)}" for number, passage in enumerate(passages, 1))


def _line(passage: Passage) -> str:
    text = _cut(" ".join(passage.text.split()), CHARACTERS)
    title = _cut(" ".join(passage.title.split()), 100)
    return f"{title}: {text}" if title else text


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return text[:most].rsplit(" ", 1)[0] + " ..."
