"""The agent that is assembled says to its model what the prompt file says."""

from agentdistill.agent.build import build_agent, system_prompt
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.record import AttemptModel, Recorder
from agentdistill.agent.tools import SearchTool
from agentdistill.clients.memory import MemorySandbox
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.types import Sampling


def test_the_system_prompt_is_rendered_once_and_then_taken_as_it_is() -> None:
    class Odd(SearchTool):
        description = "Knows {{ braces }}, {% raw %}, {%- endraw -%} and {# comments #}."

    prompts, tools = load_prompts("teacher"), [Odd()]
    executor = SandboxExecutor(MemorySandbox())
    model = AttemptModel(ScriptedModel(["-"]), Sampling())
    agent = build_agent(model, executor, Recorder(model, executor), prompts, tools=tools)
    assert agent.system_prompt == system_prompt(prompts, tools)
    assert "{%- endraw -%} and {# comments #}" in agent.system_prompt
