"""The agent's search tool: what the code reads, what the step keeps, whose fault a failure is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentdistill.agent.build import sandbox_tools, system_prompt
from agentdistill.agent.tools import CHARACTERS, PASSAGES, SearchTool
from agentdistill.clients import protocol
from agentdistill.clients.tool_calls import Desk, record
from agentdistill.errors import RetrieverError, UsageError
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.types import Passage, ToolCall

NILE = Passage("p1", "Nile", "A river\n in  Africa.", 2.0)
LONG = Passage("p2", "", "word " * 1000, 1.0)


class Shelf:
    """A Retriever that finds what it is told to, and remembers what it was asked."""

    def __init__(self, found: list[Passage] | Exception) -> None:
        self.found = found
        self.asked: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append((list(queries), k))
        if isinstance(self.found, Exception):
            raise self.found
        return [self.found[:k] for _ in queries]

    def fingerprint(self) -> dict[str, Any]:
        return {"index": "abc"}


def call(tool: SearchTool, *args: Any) -> tuple[Any, ToolCall]:
    """What sandboxed code gets for a call, and what its step keeps."""
    desk = Desk(sandbox_tools([tool]))
    desk.begin(1)
    made = desk.call({"name": "search", "args": [protocol.encode(a) for a in args], "kwargs": {}}, 0)
    answer = made.answer.result(10)
    desk.close()
    return answer.error or answer.value, record([made])[0]


def test_passages_are_short_numbered_lines() -> None:
    shelf = Shelf([NILE, LONG, NILE, NILE])
    text = SearchTool(shelf)("Where is the Nile?")
    assert shelf.asked == [(["Where is the Nile?"], PASSAGES)]
    first, second, third = text.split("\n")
    assert first == "[1] Nile: A river in Africa." and third.startswith("[3] ")
    assert second.startswith("[2] word word") and second.endswith("word ...")
    assert len(second) <= CHARACTERS + 10


def test_nothing_found_says_so() -> None:
    text, kept = call(SearchTool(Shelf([])), "xyzzy")
    assert text == "Nothing was found for 'xyzzy'. Try other words."
    assert kept.result == {"passages": []}


def test_the_step_keeps_the_query_and_ids_and_no_texts() -> None:
    text, kept = call(SearchTool(Shelf([NILE, LONG])), "the Nile")
    assert "Africa" in text
    assert (kept.name, kept.arguments, kept.result) == (
        "search",
        {"query": "the Nile"},
        {"passages": ["p1", "p2"]},
    )
    assert kept.error is None


@pytest.mark.parametrize("query", [7, None, ["a"], {"query": 1}])
def test_a_query_that_is_no_text_is_the_codes_error(query: Any) -> None:
    tool = SearchTool(Shelf([NILE]))
    text, kept = call(tool, query)
    assert "search takes one text" in text and kept.error == text and kept.result is None
    assert tool.failure is None


def test_a_refused_query_is_the_codes_error() -> None:
    tool = SearchTool(Shelf(UsageError("a query of 20000 characters", "at most 10000")))
    assert "20000 characters" in call(tool, "x" * 20_000)[0]
    assert tool.failure is None


def test_a_broken_retriever_is_remembered() -> None:
    broken = RetrieverError("no retriever answers")
    tool = SearchTool(Shelf(broken))
    assert "no retriever answers" in call(tool, "Nile")[0]
    assert tool.failure is broken


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_prompts_show_the_search_where_there_is_one(name: str) -> None:
    prompts = load_prompts(name)
    assert "def search(query: string)" in system_prompt(prompts, [SearchTool()])
    assert "search" not in system_prompt(prompts)


def test_the_retriever_shapes_a_run() -> None:
    settings = AttemptSettings(prompts=load_prompts("student"), retriever=Shelf([]))
    shape = settings.shape()
    assert shape["retriever"] == {"index": "abc", "passages": PASSAGES}
    assert shape["tools"] == ["search"]
    assert AttemptSettings(prompts=load_prompts("student")).shape()["retriever"] is None
    one, other = settings.attempt_tools(), settings.attempt_tools()
    assert one[0] is not other[0], "a failure of one attempt would be another's"
