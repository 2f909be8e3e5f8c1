"""The agent that is assembled says to its model what the prompt file says."""

import pytest
from smolagents import CodeAgent

from agentdistill.agent.build import build_agent, system_prompt
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.record import AttemptModel, Recorder
from agentdistill.agent.tools import SearchTool
from agentdistill.clients.memory import MemorySandbox
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import Prompts, load_prompts
from agentdistill.types import Sampling


def agent_with(prompts: Prompts, tool: SearchTool) -> CodeAgent:
    executor = SandboxExecutor(MemorySandbox())
    model = AttemptModel(ScriptedModel(["-"]), Sampling())
    return build_agent(model, executor, Recorder(model, executor), prompts, tools=[tool])


def test_the_system_prompt_is_rendered_once_and_then_taken_as_it_is() -> None:
    class Odd(SearchTool):
        description = "Knows {{ braces }}, {% raw %}, {%- endraw -%} and {# comments #}."

    prompts, tool = load_prompts("teacher"), Odd()
    agent = agent_with(prompts, tool)
    assert agent.system_prompt == system_prompt(prompts, [tool])
    assert "{%- endraw -%} and {# comments #}" in agent.system_prompt


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_forced_final_call_has_the_conversations_system_prompt(name: str) -> None:
    """Else the engine computes the whole conversation again for that call."""
    agent = agent_with(load_prompts(name), SearchTool())
    assert agent.prompt_templates["final_answer"]["pre_messages"] == agent.system_prompt


def test_a_prompt_of_ones_own_for_forced_final_calls_is_kept() -> None:
    own = Prompts(load_prompts("teacher").text.replace("{{system_prompt}}", "Sum up."))
    assert agent_with(own, SearchTool()).prompt_templates["final_answer"]["pre_messages"] == "Sum up."
