"""Prompts as files: smolagents `prompt_templates` plus `answer_hints` and `chain_of_thought`.

Guaranteed: a file that lacks a key is refused with the key's name; `sha256` identifies the text a run used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from agentdistill.errors import ConfigError
from agentdistill.types import Task, TaskKind

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "system_prompt": (),
    "planning": ("initial_plan", "update_plan_pre_messages", "update_plan_post_messages"),
    "managed_agent": ("task", "report"),
    "final_answer": ("pre_messages", "post_messages"),
    "answer_hints": tuple(TaskKind),
    "chain_of_thought": (),
}


@dataclass(frozen=True)
class Prompts:
    """One prompt file. `text` is the YAML as it was read."""

    text: str

    @cached_property
    def content(self) -> Mapping[str, Any]:
        content: Mapping[str, Any] = yaml.safe_load(self.text)
        return content

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def templates(self) -> dict[str, Any]:
        """What `CodeAgent(prompt_templates=...)` takes, but that `{{system_prompt}}` in
        `final_answer.pre_messages` stands for the rendered system prompt; keys of ours left out."""
        return {key: self.content[key] for key in list(_REQUIRED)[:4]}

    @property
    def chain_of_thought(self) -> str:
        return str(self.content["chain_of_thought"])

    def question(self, task: Task) -> str:
        """The task as the agent reads it: the question and how to answer it. In a conversation what went
        before stands in front."""
        asked = f"{task.question}\n{self.content['answer_hints'][task.kind.value]}"
        earlier = task.meta.get("earlier")
        return f"{earlier}\n\nNow:\n{asked}" if earlier else asked


def load_prompts(name_or_file: str) -> Prompts:
    """ "teacher", "student", or a YAML file of one's own. Raises ConfigError naming what is wrong."""
    if name_or_file in ("teacher", "student"):
        text = resources.files(__package__).joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")
        return Prompts(text)
    try:
        text = Path(name_or_file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date like 2001-13-45
        line = " ".join(str(error).split())
        raise ConfigError(f"prompt file {name_or_file} cannot be read: {line}") from error
    for key, parts in _REQUIRED.items():
        if not isinstance(content, dict) or key not in content:
            raise ConfigError(f"prompt file {name_or_file} lacks {key!r}", "start from prompts/teacher.yaml")
        missing = [part for part in parts if not isinstance(content[key], dict) or part not in content[key]]
        if missing:
            raise ConfigError(f"prompt file {name_or_file} lacks {key}.{missing[0]}")
    return Prompts(text)
