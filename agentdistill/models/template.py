"""Chat templates rendered on our side, so that a prefix is continued token for token.

Guaranteed: rendering runs in jinja2's immutable sandbox (a template comes with a model file and is not
trusted). Not guaranteed: that a message's text cannot spell a control token; neither does any other
renderer of chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentdistill.errors import ModelError, UnknownModelError
from agentdistill.types import Message


class ChatTemplate:
    """A compiled chat template. `render` gives the text up to where the assistant's turn goes on."""

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        environment.globals["raise_exception"] = _raise
        self.source = source
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"the model's chat template cannot be read: {error}") from error
        self.bos_token = bos_token
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    @classmethod
    def of(cls, tokenizer: Any) -> ChatTemplate:
        """The template of a transformers tokenizer. Raises ModelError if it has none."""
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template", "use an instruct model"
            )
        return cls(tokenizer.chat_template, tokenizer.bos_token or "", tokenizer.eos_token or "")

    def render(self, messages: Sequence[Message], prefix: str = "") -> str:
        """The prompt for the next assistant turn, which begins with `prefix`."""
        try:
            text = self._template.render(
                messages=[dict(m) for m in messages], add_generation_prompt=True, tools=None, **self._tokens
            )
        except Exception as error:  # a template is a program: it can fail in any way
            raise ModelError(f"the model's chat template refuses this conversation: {error}") from error
        return sendable(text + prefix)


def load_tokenizer(name: str) -> Any:
    """The transformers tokenizer of a folder or hub id. Raises UnknownModelError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnknownModelError(
            f"transformers cannot load the tokenizer of {name}: {str(error).splitlines()[0]}"
        ) from error


def sendable(text: str) -> str:
    """The text with every half of a surrogate pair, which no engine reads, as a question mark."""
    return text.encode("utf-8", "replace").decode()


def _raise(message: str) -> Any:
    raise TemplateError(message)
