"""Prompt files: the two that ship are whole, one's own is refused by what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from smolagents import CodeAgent

from agentdistill.errors import ConfigError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.types import Task, TaskKind


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_what_ships_is_taken_by_a_stock_code_agent(name: str) -> None:
    prompts = load_prompts(name)
    agent = CodeAgent(tools=[], model=ScriptedModel(["x"]), prompt_templates=prompts.templates)
    assert agent.system_prompt.strip()
    assert prompts.chain_of_thought.strip()


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize("kind", TaskKind)
def test_every_kind_of_task_is_asked_with_its_hint(name: str, kind: TaskKind) -> None:
    question, hint = load_prompts(name).question(Task("t", "How many?", "2", kind)).split("\n", 1)
    assert question == "How many?" and hint.strip()


def test_the_hash_is_of_the_text(tmp_path: Path) -> None:
    text = load_prompts("teacher").text
    (tmp_path / "same.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text + "\n# a comment\n")
    assert load_prompts(str(tmp_path / "same.yaml")).sha256 == load_prompts("teacher").sha256
    assert load_prompts(str(tmp_path / "other.yaml")).sha256 != load_prompts("teacher").sha256


def lacking(*path: str) -> str:
    """The teacher's file without one key."""
    content: Any = yaml.safe_load(load_prompts("teacher").text)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return yaml.safe_dump(content)


BROKEN = {
    "no mapping": ("just text", "lacks 'system_prompt'"),
    "empty": ("", "lacks 'system_prompt'"),
    "no chain of thought": (lacking("chain_of_thought"), "lacks 'chain_of_thought'"),
    "no hint for a kind": (lacking("answer_hints", "qa"), r"lacks answer_hints\.qa"),
    "no final answer": (lacking("final_answer", "pre_messages"), r"lacks final_answer\.pre_messages"),
    "not YAML": ("a: [", "cannot be read"),
    "a date there is not": ("a: 2001-13-45", "cannot be read"),
    "an object of Python": ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
}


@pytest.mark.parametrize(("text", "complaint"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"own\.yaml .*{complaint}") as caught:
        load_prompts(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_prompts(str(tmp_path / "nowhere.yaml"))


def test_with_a_search_the_chain_of_thought_only_plans() -> None:
    """A first thought that states a fact from memory is a fact that the agent no longer looks up."""
    from agentdistill.agent.build import chain_of_thought_prompt
    from agentdistill.agent.tools import SearchTool

    teacher, student = load_prompts("teacher"), load_prompts("student")
    assert "State none from memory" in chain_of_thought_prompt(teacher, [SearchTool()])
    plain = chain_of_thought_prompt(teacher)
    assert plain.startswith("Solve the problem") and plain.endswith('End with "The answer is X."')
    assert chain_of_thought_prompt(student) == student.chain_of_thought
