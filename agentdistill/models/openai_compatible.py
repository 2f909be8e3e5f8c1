"""Any OpenAI-compatible endpoint: vLLM, SGLang, llama-server, hosted APIs.

Guaranteed: one request draws all n samples (a server that ignores or refuses `n` is asked for them side by
side); a prefix is delivered by the highest rung of METHOD 1.1's ladder that a probe found to work, and every
Completion says which; retries, time limits and calls in flight follow models/endpoint.py. Tokens are those
the server counts, else counted with the tokenizer given as `template`, else None. Not guaranteed: that a
server honours `seed`, nor live text: a server that refuses to stream is asked without, and calls with a
prefix are not streamed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models.base import BaseModel
from agentdistill.models.endpoint import Endpoint, RefusedError
from agentdistill.models.logprobs import read_logprobs
from agentdistill.models.prefill import (
    EMULATED,
    NO_PREFIX,
    PROBE,
    PROBE_PREFIX,
    PROBE_TOKENS,
    Prefill,
    PrefillLadder,
    chat_request,
    probed,
)
from agentdistill.models.streamed import StreamedReply
from agentdistill.models.template import ChatTemplate, load_tokenizer, sendable
from agentdistill.types import Completion, FinishReason, Json, Message, Sampling

_BAD_FORM = (400, 422)
"""How servers say that they do not know a field or a form of conversation."""
_NO_ROUTE = (404, 405, 501)
"""How they say that they have no /v1/completions. Elsewhere a 404 is about the model or the address."""


class OpenAICompatibleModel(BaseModel):
    """Model NAME behind BASE_URL. The key is read from $OPENAI_API_KEY ("none" when unset).

    One request may take `seconds`, from connecting to the reply's last byte, and is sent again up to
    `retries` times. At most `ceiling` requests are in flight. `template` is a tokenizer folder or hub id: its
    chat template serves the rung "completions", and it counts tokens where the server counts none. Raises
    UnknownModelError if it cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        sampling: Sampling | None = None,
        seconds: float = 300.0,
        retries: int = 8,
        ceiling: int = 256,
        template: str | None = None,
    ) -> None:
        super().__init__(name, sampling)
        self.base_url = base_url
        self._template_name = template
        self._tokenizer = load_tokenizer(template) if template else None
        self._template = ChatTemplate.of(self._tokenizer) if self._tokenizer else None
        key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        self._endpoint = Endpoint(name, base_url, key, seconds=seconds, retries=retries, ceiling=ceiling)
        self._ladder = PrefillLadder(("continue", "trailing", "prefix", "completions"), self._probe)
        self._one_a_request = False
        self._streams = True

    @property
    def in_flight_limit(self) -> int | None:
        return self._endpoint.limiter.limit

    def fingerprint(self) -> dict[str, Json]:
        found: dict[str, Json] = {"engine": "openai", "model": self.model_id, "base_url": self.base_url}
        return found | {"template": self._template_name} if self._template_name else found

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
        asked = _Asked(messages, prefix, stop, sampling)
        if not prefix:
            return self._draw(asked, n, NO_PREFIX)
        prefill = self._ladder.find()
        refused: dict[str, RefusedError] = {}
        while True:
            try:
                drawn = self._draw(asked, n, prefill)
            except RefusedError as error:
                refused[prefill.rung] = error
                if not _is_about_form(error, prefill.rung) or prefill == EMULATED:
                    self._ladder.forget()
                    raise next(iter(refused.values())) from None  # it is not about the rung
                prefill = self._ladder.find(below=prefill.rung)
            else:
                for rung in refused:
                    self._ladder.drop(rung)
                return drawn

    def sample_logprobs(
        self, messages: Sequence[Message], *, top: int = 2, sampling: Sampling | None = None
    ) -> Completion:
        """See BaseModel. A server that does not know the field refuses it, or leaves `logprobs` None."""
        (drawn,) = self._ask(_Asked(messages, "", (), sampling or self.sampling, top), 1, 0, NO_PREFIX)
        return drawn

    def close(self) -> None:
        self._endpoint.close()

    def _draw(self, asked: _Asked, n: int, prefill: Prefill) -> list[Completion]:
        drawn: list[Completion] = []
        if n == 1 or not self._one_a_request:
            try:
                drawn = self._ask(asked, n, 0, prefill)
            except RefusedError as error:
                if n == 1 or error.status not in _BAD_FORM:
                    raise
                drawn = self._ask(asked, 1, 0, prefill)
            # More than one, but not all, is a server that counts to n.
            self._one_a_request = self._one_a_request or len(drawn) == 1 < n
        missing = range(len(drawn), n)
        if missing:
            with ThreadPoolExecutor(min(len(missing), self._endpoint.limiter.ceiling)) as pool:
                drawn += [one for (one,) in pool.map(lambda i: self._ask(asked, 1, i, prefill), missing)]
        return drawn[:n]

    def _ask(self, asked: _Asked, n: int, first: int, prefill: Prefill) -> list[Completion]:
        """One request for n samples, of which the first has the number `first` in its call."""
        sampling = asked.sampling
        body: dict[str, Json] = {
            "model": self.model_id,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed + first,
        }
        if n > 1:
            body["n"] = n
        if asked.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
        if asked.stop:
            body["stop"] = list(asked.stop)
        if prefill.rung == "completions":
            path = "/completions"
            body["prompt"] = self._prompt(asked)
        else:
            path = "/chat/completions"
            body |= chat_request(prefill.rung, asked.turns, asked.prefix)

        def read(reply: Any) -> list[Completion]:
            completions = self._completions(reply, asked, prefill)
            return completions[:n]

        listener = self.listener
        if listener is None or not self._streams or prefill != NO_PREFIX:
            return self._endpoint.post(path, body, read)
        live = body | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            return self._endpoint.post(path, live, read, lambda: StreamedReply(listener, first))
        except RefusedError as error:
            if error.status not in _BAD_FORM:
                raise
        drawn = self._endpoint.post(path, body, read)
        self._streams = False  # it was about the form: the same call without it was taken
        return drawn

    def _probe(self, rung: str) -> Prefill | None:
        if rung == "completions" and not self._find_template():
            return None
        asked = _Asked(PROBE, PROBE_PREFIX, (), Sampling(max_tokens=PROBE_TOKENS))
        try:
            (reply,) = self._ask(asked, 1, 0, Prefill(rung))
        except RefusedError as error:
            # A server that does not know the form sends us down the ladder; one that is dead, busy or wants
            # another key says nothing about the form.
            if _is_about_form(error, rung):
                return None
            raise
        except ContextOverflowError as error:  # is not about the caller's conversation, who would shorten it
            raise ModelError(
                f"a probe of {len(PROBE_PREFIX)} letters was refused: {error.message}"
            ) from error
        return probed(rung, reply.text)

    def _find_template(self) -> bool:
        """Whether the model's chat template is known, from the caller or from llama-server's /props."""
        if self._template is None:
            try:
                properties = self._endpoint.get(self.base_url.rstrip("/").removesuffix("/v1") + "/props")
                source = properties["chat_template"]
                self._template = ChatTemplate(source, properties.get("bos_token", ""))
            except (ModelError, LookupError, TypeError, AttributeError):
                return False  # most servers have no /props: the rung is not there
        return True

    def _prompt(self, asked: _Asked) -> str:
        if self._template is None:  # the rung is only taken where there is one
            raise ModelError(f"{self.model_id}: no chat template")
        # The server puts the token that begins a text in front by itself.
        return self._template.render(asked.messages, asked.prefix).removeprefix(self._template.bos_token)

    def _completions(self, reply: Any, asked: _Asked, prefill: Prefill) -> list[Completion]:
        """A reply as Completions. Raises AttributeError, LookupError, TypeError or ValueError on another."""
        choices = reply["choices"]
        if not choices:
            raise ValueError("the reply has no choices")
        texts = [
            choice["text"] if prefill.rung == "completions" else choice["message"]["content"] or ""
            for choice in choices
        ]
        usage = reply.get("usage") or {}
        tokens_in, tokens_out = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if tokens_in is None and self._tokenizer is not None and self._template is not None:
            tokens_in = self._length(self._template.render(asked.messages, asked.prefix))
        if tokens_out is None and self._tokenizer is not None:
            tokens_out = sum(self._length(text) for text in texts)
        completions = []
        for i, (choice, text) in enumerate(zip(choices, texts, strict=True)):
            # Half an emoji, escaped, could not be stored or sent back.
            text, delivered = prefill.continuation(sendable(text), asked.prefix)
            completions.append(
                Completion(
                    text=text,
                    finish_reason=(
                        FinishReason.LENGTH if choice.get("finish_reason") == "length" else FinishReason.STOP
                    ),
                    # The prompt is computed once for all n: it is counted with the first.
                    tokens_in=tokens_in if i == 0 or tokens_in is None else 0,
                    tokens_out=None if tokens_out is None else _share(tokens_out, len(choices), i),
                    logprobs=read_logprobs(choice) if asked.top_logprobs else None,
                    prefill=delivered,
                )
            )
        return completions

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a call asks for, whatever the requests it becomes."""

    messages: Sequence[Message]
    prefix: str
    stop: Sequence[str]
    sampling: Sampling
    top_logprobs: int = 0

    @property
    def turns(self) -> list[dict[str, Any]]:
        return [{"role": turn["role"], "content": sendable(turn["content"])} for turn in self.messages]


def _is_about_form(error: RefusedError, rung: str) -> bool:
    return error.status in _BAD_FORM or (rung == "completions" and error.status in _NO_ROUTE)


def _count(usage: Any, name: str) -> int | None:
    tokens = usage.get(name)
    if tokens is not None and (not isinstance(tokens, int) or tokens < 0):
        raise ValueError(f"{name} is {str(tokens)[:40]!r}")
    return tokens


def _share(tokens: int, samples: int, i: int) -> int:
    """Servers count all samples of a reply together: equal shares, the rest with the first."""
    share, rest = divmod(tokens, samples)
    return share + (rest if i == 0 else 0)
