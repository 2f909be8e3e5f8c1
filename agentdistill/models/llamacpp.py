"""llama.cpp in this process (xllamacpp): GGUF files on a CPU, or on whatever xllamacpp was built for.

Guaranteed: prompts are rendered here and continued token for token (rung d of the prefill ladder), calls
from several threads share the server's slots, and the GIL is free while it computes. The HTTP listener that
xllamacpp always opens is bound to loopback and locked with a random key. A conversation that leaves a reply
no room is a ContextOverflowError, never shifted or cut: one longer than a slot's context, and one whose reply
met the end of the context before its own limit. The samples of a call share one forward pass of the prompt.
Not guaranteed: equal text for equal seeds when other slots are busy (batched kernels round differently).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx

from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models.base import BaseModel, TextListener
from agentdistill.models.logprobs import read_logprobs
from agentdistill.models.template import ChatTemplate
from agentdistill.types import Completion, FinishReason, Json, Message, Sampling


class LlamaCppModel(BaseModel):
    """One GGUF file served by `slots` parallel sequences of `context` tokens each."""

    def __init__(
        self,
        path: Path,
        *,
        model_id: str = "",
        sampling: Sampling | None = None,
        slots: int = 4,
        context: int = 4096,
        threads: int = 2,
    ) -> None:
        super().__init__(model_id or path.name, sampling)
        if not path.is_file():
            raise ModelError(f"no such model file: {path}")
        self.path = path
        self.slots = slots
        self.context = context
        self._sha256 = ""
        self._closing = threading.Lock()
        self._server, self.template = _start(path, slots, context, threads)

    def fingerprint(self) -> dict[str, Json]:
        # The engine's version shapes the text too, but a patch release must not refuse a resume: it is
        # recorded under "versions" in run.json instead.
        if not self._sha256:
            self._sha256 = file_sha256(self.path)
        return {
            "engine": "llama.cpp",
            "file": self.path.name,
            "sha256": self._sha256,
            "context": self.context,
        }

    @property
    def in_flight_limit(self) -> int | None:
        return self.slots

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        drawn = dict(self.draw(messages, n, prefix=prefix, stop=stop, sampling=sampling))
        return [drawn[index] for index in range(n)]

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
        """See BaseModel. More samples than slots are drawn in groups, one after the other. A sample that
        meets the end of the context ends there, with FinishReason.LENGTH, if another one has ended before; if
        none has, the call raises ContextOverflowError."""
        sampling = sampling or self.sampling
        prompt = self.template.render(messages, prefix)
        enough = cancelled or threading.Event()
        listener = self.listener
        alone = True
        for first in range(0, n, self.slots):
            samples = [
                _Sample(first + i, "tokens" if prefix else "") for i in range(min(self.slots, n - first))
            ]
            request = self._request(prompt, stop, sampling, sampling.seed + first, len(samples))
            for sample in [] if enough.is_set() else self._ended(request, samples, enough, listener):
                if sample.finish == "length" and sample.tokens_out < sampling.max_tokens and alone:
                    raise self._overflow(
                        f"{sample.prompt_tokens} tokens left room for {sample.tokens_out} of the "
                        f"{sampling.max_tokens} a reply may have"
                    )
                alone = False
                yield sample.index, sample.completion()
            # A sample that is given up is not told what the prompt was, but a finished one was.
            samples[0].prompt_tokens = next((s.prompt_tokens for s in samples if s.prompt_tokens), None)
            yield from ((sample.index, sample.completion()) for sample in samples if not sample.finish)

    def sample_logprobs(
        self, messages: Sequence[Message], *, top: int = 2, sampling: Sampling | None = None
    ) -> Completion:
        """See BaseModel. The prompt stays in a slot for the call that comes next."""
        server = self._server
        if server is None:
            raise ModelError(f"{self.model_id} is closed")
        sampling = sampling or self.sampling
        request = self._request(self.template.render(messages, ""), (), sampling, sampling.seed, 1)
        try:
            reply = server.handle_completions(request | {"stream": False, "n_probs": top})
        except Exception as error:  # xllamacpp raises RuntimeError and ValueError alike
            raise ModelError(f"llama.cpp failed on {self.model_id}: {error}") from error
        if not isinstance(reply, dict) or "choices" not in reply:
            raise self._refusal(reply)
        sample = _Sample(0, "")
        sample.add(reply)
        return replace(sample.completion(), logprobs=read_logprobs(reply["choices"][0]))

    def close(self) -> None:
        with self._closing:
            self._server = None

    def _request(
        self, prompt: str, stop: Sequence[str], sampling: Sampling, seed: int, count: int
    ) -> dict[str, Json]:
        return {
            "prompt": prompt,
            # The server reads the prompt in one slot and copies it to the others; sample i has seed + i.
            "n_cmpl": count,
            "stream": True,
            "n_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "seed": seed,
            "stop": list(stop),
            "cache_prompt": True,
        }

    def _ended(
        self,
        request: dict[str, Json],
        samples: Sequence[_Sample],
        enough: threading.Event,
        listener: TextListener | None,
    ) -> Iterator[_Sample]:
        """The samples of one request as they end; it is given up once `enough` is set or nobody listens."""
        server = self._server
        if server is None:
            raise ModelError(f"{self.model_id} is closed")
        chunks: SimpleQueue[Any] = SimpleQueue()
        dropped = threading.Event()

        def hear(chunk: Any) -> bool:  # True ends the request; what it raises is lost
            chunks.put(chunk)
            return enough.is_set() or dropped.is_set()

        def work() -> None:
            try:
                chunks.put(server.handle_completions(request, hear))  # None, or what went wrong
            except Exception as error:  # xllamacpp raises RuntimeError and ValueError alike
                chunks.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (chunk := chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    raise ModelError(f"llama.cpp failed on {self.model_id}: {chunk}") from chunk
                if not isinstance(chunk, dict) or "choices" not in chunk:
                    raise self._refusal(chunk)
                sample = samples[chunk["choices"][0]["index"]]
                sample.add(chunk)
                if listener is not None:
                    listener(sample.index, sample.text)
                if sample.finish:
                    yield sample
            unfinished = [sample for sample in samples if not sample.finish]
            if unfinished and not enough.is_set():
                raise ModelError(f"llama.cpp broke off on {self.model_id}")
        finally:
            dropped.set()
            thread.join()

    def _refusal(self, reply: Any) -> ModelError:
        # Errors come as {"error": {...}} or as the inner object alone.
        said = reply.get("error", reply) if isinstance(reply, dict) else reply
        message = said.get("message", said) if isinstance(said, dict) else said
        if isinstance(said, dict) and said.get("type") == "exceed_context_size_error":
            return self._overflow(str(message))
        return ModelError(f"llama.cpp refused a call to {self.model_id}: {message}")

    def _overflow(self, what: str) -> ContextOverflowError:
        return ContextOverflowError(
            f"{self.model_id}: the conversation does not fit into {self.context} tokens of context: {what}",
            "a larger context, or fewer tokens a step",
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start(path: Path, slots: int, context: int, threads: int) -> tuple[Any, ChatTemplate]:
    # libgomp reads this once, when it is loaded: spinning waiters made two threads seven times slower beside
    # another busy process (2.0 against 13.6 tokens/s on two shared cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.ctx_shift = False  # a full context ends the reply; nothing of the conversation is dropped
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    # Waiting threads that spin were 5-10 times slower on shared cores (DESIGN, Embedded default).
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    params.warmup = False
    params.verbosity = -1
    params.endpoint_metrics = False
    params.endpoint_slots = False
    key = secrets.token_hex(16)
    params.api_keys = [key]
    try:
        server = xllamacpp.Server(params)
        properties = httpx.get(
            f"{server.listening_address}/props", headers={"Authorization": f"Bearer {key}"}, timeout=30
        ).json()
        source = properties["chat_template"]
    except Exception as error:
        raise ModelError(f"llama.cpp cannot load {path}: {error}", "is it a GGUF chat model?") from error
    return server, ChatTemplate(source, properties.get("bos_token", ""), properties.get("eos_token", ""))


class _Sample:
    """One sample of a request on its way. `finish` is "" until it has ended."""

    def __init__(self, index: int, prefill: str) -> None:
        self.index = index
        self.text = ""
        self.finish = ""
        self.prompt_tokens: int | None = None
        self.tokens_out = 0
        self._prefill = prefill

    def add(self, chunk: dict[str, Any]) -> None:
        choice = chunk["choices"][0]
        self.text += choice["text"]
        self.finish = choice.get("finish_reason") or ""
        # Every chunk is a token; the last one, which is none, tells the count.
        usage = chunk.get("usage", {})
        self.prompt_tokens = usage.get("prompt_tokens")
        self.tokens_out = int(usage.get("completion_tokens", self.tokens_out + 1))

    def completion(self) -> Completion:
        reasons = {"": FinishReason.CANCELLED, "length": FinishReason.LENGTH}
        return Completion(
            text=self.text,
            finish_reason=reasons.get(self.finish, FinishReason.STOP),
            # The samples share the prompt, so it was read once.
            tokens_in=0 if self.index else self.prompt_tokens,
            tokens_out=self.tokens_out,
            prefill=self._prefill,
        )
