"""ATIF, the Agent Trajectory Interchange Format of the Harbor project (its RFC 0001), version 1.7.

One document an attempt, one document a line:

- system and user turns before the agent's first are steps of these sources;
- each turn of the agent is a step: `message` is what it wrote, its code is a call of `python_interpreter`
  (smolagents' name for a code action), and `observation` is what it then read, word for word. What its last
  code showed, which it never read, is the observation of the last step;
- calls of tools from inside the code, errors, votes and seconds are in the step's `extra` and `metrics`;
- task, gold answer, answer, verdict (null if not graded) and first thought are in the root's `extra`.

Guaranteed: a document is valid ATIF v1.7, and the conversation can be read back from it exactly. A curated
row has no steps: its documents have the turns, without calls and metrics.
"""

from __future__ import annotations

from agentdistill.exports.sample import Sample, storable
from agentdistill.types import Json, Message, Step, Trajectory, to_json

VERSION = "ATIF-v1.7"
CODE_ACTION = "python_interpreter"

_TOTALS = "Totals count the chain of thought that the first thought was cut from, which is no step."


def to_atif(sample: Sample) -> Json:
    """One ATIF document. The sample has at least one turn."""
    steps: list[Json] = []
    for message in sample.messages:
        after_agent = bool(steps) and steps[-1]["source"] == "agent"
        if message["role"] == "user" and after_agent:
            results = steps[-1].setdefault("observation", {"results": []})["results"]
            results.append({"content": message["content"]})
        else:
            steps.append(_turn(message, len(steps) + 1))
    attempt = sample.attempt
    if attempt is not None:
        _add_actions(steps, attempt)
    document = {
        "schema_version": VERSION,
        "session_id": sample.columns["id"],
        "trajectory_id": sample.columns["id"],
        "agent": {"name": "agentdistill", "version": sample.version, **_model(attempt)},
        "steps": steps,
        **(_totals(attempt, len(steps)) if attempt is not None else {}),
        "extra": {**sample.columns, **_more(attempt)},
    }
    return storable(document)


def _turn(message: Message, number: int) -> Json:
    source = "agent" if message["role"] == "assistant" else message["role"]
    return {"step_id": number, "source": source, "message": message["content"]}


def _add_actions(steps: list[Json], attempt: Trajectory) -> None:
    """What is known of the agent's turns beside their text."""
    turns = [step for step in steps if step["source"] == "agent"]
    if len(turns) != len(attempt.steps):
        return  # a conversation edited by hand: which turn did what cannot be told
    for number, (turn, step) in enumerate(zip(turns, attempt.steps, strict=True), 1):
        if step.observation and turn is turns[-1] and "observation" not in turn:
            turn["observation"] = {"results": [{"content": step.observation}]}
        if step.code is not None:
            call = f"call-{number}"
            arguments = {"code": step.code}
            turn["tool_calls"] = [
                {"tool_call_id": call, "function_name": CODE_ACTION, "arguments": arguments}
            ]
            for result in turn.get("observation", {"results": []})["results"]:
                result["source_call_id"] = call
        turn["metrics"] = {
            "prompt_tokens": step.tokens_in,
            "completion_tokens": step.tokens_out,
            "extra": {"seconds": step.seconds},
        }
        if extra := _step_extra(step):
            turn["extra"] = extra


def _step_extra(step: Step) -> Json:
    extra = {
        "error": step.error,
        "error_kind": step.error_kind,
        "tool_calls": [to_json(call) for call in step.tool_calls],
        "candidates": [to_json(candidate) for candidate in step.candidates],
        "dropped": list(step.dropped),
    }
    return {name: value for name, value in extra.items() if value}


def _model(attempt: Trajectory | None) -> Json:
    return {"model_name": attempt.model} if attempt is not None else {}


def _totals(attempt: Trajectory, steps: int) -> Json:
    usage = attempt.usage
    totals = {
        "total_prompt_tokens": usage.tokens_in,
        "total_completion_tokens": usage.tokens_out,
        "total_cost_usd": usage.usd,
        "total_steps": steps,
        "extra": {"seconds": usage.seconds},
    }
    return {"final_metrics": totals, "notes": _TOTALS}


def _more(attempt: Trajectory | None) -> Json:
    if attempt is None:
        return {}
    return {"task_meta": to_json(attempt.task.meta), "first_thought": to_json(attempt.first_thought)}
