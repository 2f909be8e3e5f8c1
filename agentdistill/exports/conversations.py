"""Conversations as trainers read them, one JSON object a line.

    messages    {"messages": [{"role", "content"}, ...], ...}       TRL, Hugging Face, OpenAI fine-tuning
    sharegpt    {"conversations": [{"from", "value"}, ...], ...}    axolotl, LLaMA-Factory, unsloth

Both keep the sample's columns beside the conversation. In ShareGPT the system prompt is the first turn, from
"system", and what the agent observes comes from "human", as in the chat template it was trained under.
"""

from __future__ import annotations

from agentdistill.exports.sample import Sample
from agentdistill.types import Json

SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def to_messages(sample: Sample) -> Json:
    """A row whose column `messages` TRL's SFTTrainer takes as it is."""
    return {"messages": [dict(message) for message in sample.messages], **sample.columns}


def to_sharegpt(sample: Sample) -> Json:
    """A row of ShareGPT's shape."""
    turns = [{"from": SHAREGPT_ROLES[turn["role"]], "value": turn["content"]} for turn in sample.messages]
    return {"conversations": turns, **sample.columns}
