"""Assembles teacher and student alike: an unmodified smolagents CodeAgent with our parts in its own doors.

Guaranteed: stock code tags, no private method overridden, no output on the console.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jinja2 import StrictUndefined, Template
from smolagents import CodeAgent, FinalAnswerTool, LogLevel, Tool
from smolagents.agents import populate_template

from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.record import AttemptModel, Recorder
from agentdistill.prompts import Prompts
from agentdistill.types import SandboxTool

CODE_BLOCK_TAGS = ("<code>", "</code>")
"""CodeAgent's own."""


def build_agent(
    model: AttemptModel,
    executor: SandboxExecutor,
    recorder: Recorder,
    prompts: Prompts,
    *,
    tools: Sequence[Tool] = (),
    max_steps: int = 5,
) -> CodeAgent:
    """An agent for one attempt."""
    system, final = system_prompt(prompts, tools), prompts.templates["final_answer"]
    final = {**final, "pre_messages": final["pre_messages"].replace("{{system_prompt}}", system)}
    return CodeAgent(
        tools=list(tools),
        model=model,
        prompt_templates={**prompts.templates, "system_prompt": _verbatim(system), "final_answer": final},
        executor=executor,
        code_block_tags=CODE_BLOCK_TAGS,
        max_steps=max_steps,
        step_callbacks=recorder.callbacks,
        verbosity_level=LogLevel.OFF,
    )


def system_prompt(prompts: Prompts, tools: Sequence[Tool] = ()) -> str:
    """The system prompt an agent with these tools is given."""
    offered = {tool.name: tool for tool in tools} | {"final_answer": FinalAnswerTool()}
    variables = {"tools": offered, "managed_agents": {}, "custom_instructions": None}
    return _compiled(prompts.templates["system_prompt"]).render(**variables)


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    """CodeAgent compiles its system prompt twice for every attempt: 10 ms each."""
    compiled: Template = Template(template, undefined=StrictUndefined)
    return compiled


def _verbatim(text: str) -> str:
    """A template of this text."""
    return "{% raw %}" + text.replace("{%", "{% endraw %}{{ '{%' }}{% raw %}") + "{% endraw %}"


def chain_of_thought_prompt(prompts: Prompts, tools: Sequence[Tool] = ()) -> str:
    """The system prompt of the chain of thought that a first thought is cut from."""
    return str(
        populate_template(prompts.chain_of_thought, variables={"tools": [tool.name for tool in tools]})
    )


def sandbox_tools(tools: Sequence[Tool]) -> list[SandboxTool]:
    """smolagents Tools as the stubs a sandbox offers. A Tool is repeatable unless it says
    `repeatable = False`. One that has a method `recorded` is called by that: it returns a ToolResult."""
    return [
        SandboxTool(
            name=tool.name,
            call=getattr(tool, "recorded", tool),
            parameters=tuple(tool.inputs),
            repeatable=bool(getattr(tool, "repeatable", True)),
        )
        for tool in tools
    ]
