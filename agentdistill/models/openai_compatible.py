"""Any OpenAI-compatible endpoint, through the `openai` client.

Guaranteed: one request draws all n samples (a server that ignores `n` is asked for the rest); a prefix is
delivered by the highest rung of METHOD 1.1's ladder that a probe found to work, and every Completion says
which. Not guaranteed: that a server honours `seed`. Rung c (/v1/completions over a local template) needs the
model's template and is not tried here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from agentdistill.errors import ModelError
from agentdistill.models.base import BaseModel
from agentdistill.models.template import sendable
from agentdistill.types import Completion, FinishReason, Json, Message, Sampling

# No model opens a reply with this by itself, so an echoed prefix and a continued one can be told apart.
_PROBE = (Message(role="user", content="Repeat exactly: one two three four five six"),)
_PROBE_PREFIX = "Zebra: one two three"
_PROBE_NEXT = "four"

_ERROR_CHARS = 300  # a proxy's error page must not fill the log

_IGNORED = "ignored"
"""`Completion.prefill` when an emulated prefix was not taken up: the text stands alone."""


class OpenAICompatibleModel(BaseModel):
    """Model NAME behind BASE_URL. The key is read from $OPENAI_API_KEY ("none" when unset).

    One request may take `seconds`, from connecting to the reply's last byte, and is sent again up to
    `retries` times. At most `ceiling` requests are in flight. `template` names the chat template for rung c: a
    tokenizer folder or hub id.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        sampling: Sampling | None = None,
        seconds: float = 300.0,
        retries: int = 5,
        ceiling: int = 256,
        template: str | None = None,
    ) -> None:
        super().__init__(name, sampling)
        from openai import OpenAI

        self.base_url = base_url
        self._client = OpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=seconds,
            max_retries=retries,
        )
        self._probing = threading.Lock()
        self._rung = ""

    def fingerprint(self) -> dict[str, Json]:
        return {"engine": "openai", "model": self.model_id, "base_url": self.base_url}

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        sampling = sampling or self.sampling
        prefix = sendable(prefix)
        rung = self._working_rung() if prefix else ""
        drawn: list[Completion] = []
        while len(drawn) < n:
            replies = self._ask(messages, n - len(drawn), prefix, rung, stop, sampling, len(drawn))
            drawn.extend(replies)
        return drawn[:n]

    def close(self) -> None:
        self._client.close()

    def _working_rung(self) -> str:
        with self._probing:
            if not self._rung:
                self._rung = next(
                    (rung for rung in ("continue", "trailing") if self._probe(rung)), "emulated"
                )
            return self._rung

    def _probe(self, rung: str) -> bool:
        from openai import APIStatusError

        try:
            reply = self._ask(_PROBE, 1, _PROBE_PREFIX, rung, (), Sampling(max_tokens=6), 0)[0]
        except ModelError as error:
            # A server that refuses the form sends us down the ladder; one that is dead, busy or wants
            # another key says nothing about the form.
            if isinstance(error.__cause__, APIStatusError) and error.__cause__.status_code in (400, 422):
                return False
            raise
        return reply.text.strip().lower().startswith(_PROBE_NEXT)

    def _ask(
        self,
        messages: Sequence[Message],
        n: int,
        prefix: str,
        rung: str,
        stop: Sequence[str],
        sampling: Sampling,
        drawn: int,
    ) -> list[Completion]:
        from openai import OpenAIError

        turns: list[dict[str, Any]] = [
            {"role": message["role"], "content": sendable(message["content"])} for message in messages
        ]
        extra: dict[str, Any] = {}
        if rung in ("continue", "trailing"):
            turns.append({"role": "assistant", "content": prefix})
        if rung == "continue":
            extra = {"continue_final_message": True, "add_generation_prompt": False}
        if rung == "emulated":
            turns[-1]["content"] += (
                f"\n\nBegin your reply with exactly this text and go on from it:\n{prefix}"
            )
        try:
            reply = self._client.chat.completions.create(
                model=self.model_id,
                messages=turns,  # type: ignore[arg-type]
                n=n,
                stop=list(stop) or None,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed + drawn,
                extra_body=extra or None,
            )
        except (OpenAIError, ValueError) as error:  # ValueError: what came under JSON's name is none
            line = " ".join(str(error).split())[:_ERROR_CHARS]
            raise ModelError(f"{self.model_id} at {self.base_url} did not answer: {line}") from error
        try:
            return _completions(reply, prefix, rung)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.model_id} at {self.base_url} did not answer with a chat completion: {error}",
                "is this the address of an OpenAI-compatible API, with its /v1?",
            ) from error


def _completions(reply: Any, prefix: str, rung: str) -> list[Completion]:
    """A reply as Completions. Raises AttributeError, TypeError or ValueError on one of another shape."""
    if not reply.choices:
        raise ValueError("the reply has no choices")
    usage = reply.usage
    share, rest = divmod(usage.completion_tokens if usage else 0, len(reply.choices))
    completions = []
    for i, choice in enumerate(reply.choices):
        text, delivered = _continuation(choice.message.content or "", prefix, rung)
        completions.append(
            Completion(
                text=text,
                finish_reason=FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP,
                # The prompt is computed once for all n: it is counted with the first.
                tokens_in=usage.prompt_tokens if usage and i == 0 else 0,
                tokens_out=share + (rest if i == 0 else 0),
                prefill=delivered,
            )
        )
    return completions


def _continuation(text: str, prefix: str, rung: str) -> tuple[str, str]:
    """The text after the prefix (some servers echo it, some do not) and how the prefix was delivered."""
    text = sendable(text)  # half an emoji, escaped, could not be stored or sent back
    if prefix and text.lstrip().startswith(prefix.strip()):
        return text.lstrip()[len(prefix.strip()) :], rung
    return text, _IGNORED if rung == "emulated" else rung
