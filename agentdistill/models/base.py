"""The one door between smolagents and our engines.

Every engine is an ActionModel (`sample`) and, through `BaseModel`, also a smolagents `Model`
(`generate`). Guaranteed: `generate` never sees or stores "Calling tools:" echoes, so an assistant turn
in the history holds exactly what the model wrote. An engine that cannot answer raises ModelError. Not
guaranteed: retries; an engine in process makes none, an endpoint has a policy of its own.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.monitoring import TokenUsage

from agentdistill.errors import ModelError
from agentdistill.types import Completion, Json, Message, Sampling

TextListener = Callable[[int, str], None]
"""Told of a sample's index in its call, and of its text so far, without the prefix."""


class BaseModel(Model):
    """A smolagents Model over `sample`. Subclasses implement `sample` and `fingerprint`.

    `listener` hears live text, where the engine can tell it: an engine takes up the listener of the moment as
    a call begins, and may call it from several threads. A text may run a little beyond the stop string that
    will end it, and is shorter than before where a request is sent again. What the listener raises ends the
    call, which raises it.
    """

    def __init__(self, model_id: str, sampling: Sampling | None = None) -> None:
        super().__init__(model_id=model_id)
        self.listener: TextListener | None = None
        self.model_id: str = model_id
        self.sampling = sampling or Sampling()

    @abstractmethod
    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        """Draw n completions that continue `prefix` as the next assistant turn.

        Raises ContextOverflowError where the conversation and the tokens asked for don't fit, ModelBusyError
        where an endpoint has turned the call away for as long as it was tried, ModelError for all else.
        """

    def draw(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """The n completions of `sample` with their index, each as it ends, in whatever order they end.

        Sample i is drawn with a generator of its own, seeded `sampling.seed + i`: the same sample that `draw`
        with n = 1 and that seed gives. Once `cancelled` is set, by whatever thread, the engine stops where it
        can and gives the unfinished ones back as they are, with FinishReason.CANCELLED and the tokens they
        cost: n completions come back whatever happens. An engine that cannot stop, like this default, draws
        them all. An iterator that is closed or dropped stops too, but tells nothing of what it cost.
        """
        yield from enumerate(self.sample(messages, n, prefix=prefix, stop=stop, sampling=sampling))

    def sample_logprobs(
        self, messages: Sequence[Message], *, top: int = 2, sampling: Sampling | None = None
    ) -> Completion:
        """One completion with `logprobs`: at each place the `top` likeliest tokens with their log
        probabilities at temperature 1. An engine that does not tell them raises ModelError."""
        raise ModelError(f"{self.model_id} tells no probabilities", "use another engine, or do without")

    @abstractmethod
    def fingerprint(self) -> dict[str, Json]:
        """What identifies weights and engine, for run.json."""

    @property
    def in_flight_limit(self) -> int | None:
        """Calls that are of use side by side right now, at least 1; None if the engine has no opinion.

        It may change from call to call: an endpoint's grows while it answers in time and is halved when it
        turns calls away. A call above it waits, it does not fail.
        """
        return None

    def close(self) -> None:
        """Free the engine. The model cannot be used afterwards."""

    def generate(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
        tools_to_call_from: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """One assistant turn for smolagents. `raw` is the Completion."""
        if response_format is not None or tools_to_call_from:
            raise ValueError("our agents act by code in text: no response_format, no tool calling API")
        completion = self.sample(plain_messages(messages), stop=tuple(stop_sequences or ()))[0]
        return assistant_message(completion.text, [completion], raw=completion)


def assistant_message(text: str, completions: Sequence[Completion], raw: Any) -> ChatMessage:
    """A smolagents assistant turn whose token usage sums over all completions it cost, None if unknown."""
    tokens_in = [c.tokens_in for c in completions if c.tokens_in is not None]
    tokens_out = [c.tokens_out for c in completions if c.tokens_out is not None]
    usage = None
    if len(tokens_in) == len(tokens_out) == len(completions):
        usage = TokenUsage(input_tokens=sum(tokens_in), output_tokens=sum(tokens_out))
    return ChatMessage(role=MessageRole.ASSISTANT, content=text, raw=raw, token_usage=usage)


def plain_messages(messages: Iterable[ChatMessage | Mapping[str, Any]]) -> list[Message]:
    """smolagents messages as system/user/assistant texts.

    Tool-call echoes are dropped, tool responses become user turns, neighbours of one role are joined by
    a newline as smolagents' own `get_clean_message_list` joins them.
    """
    plain: list[Message] = []
    for message in messages:
        role = message["role"] if isinstance(message, Mapping) else message.role
        content = message["content"] if isinstance(message, Mapping) else message.content
        role = getattr(role, "value", role)
        if role == MessageRole.TOOL_CALL.value:
            continue
        if role == MessageRole.TOOL_RESPONSE.value:
            role = "user"
        text = content if isinstance(content, str) else _joined(content or ())
        if plain and plain[-1]["role"] == role:
            plain[-1] = Message(role=role, content=plain[-1]["content"] + "\n" + text)
        else:
            plain.append(Message(role=role, content=text))
    return plain


def _joined(parts: Iterable[Mapping[str, Any]]) -> str:
    texts = []
    for part in parts:
        if part.get("type") != "text":
            raise ValueError(f"only text can be sent to an action model, not {part.get('type')!r}")
        texts.append(str(part["text"]))
    return "\n".join(texts)
