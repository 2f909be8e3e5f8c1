"""llama.cpp in this process (xllamacpp): GGUF files on a CPU, or on whatever xllamacpp was built for.

Guaranteed: prompts are rendered here and continued token for token (rung d of the prefill ladder), calls
from several threads share the server's slots, and the GIL is free while it computes. The HTTP listener that
xllamacpp always opens is bound to loopback and locked with a random key. A conversation that leaves a reply
no room is a ContextOverflowError, never shifted or cut: one longer than a slot's context, and one whose reply
met the end of the context before its own limit.
Not guaranteed: equal text for equal seeds when other slots are busy (batched kernels round differently).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models.base import BaseModel
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
        sampling = sampling or self.sampling
        prompt = self.template.render(messages, prefix)
        requests = [self._request(prompt, stop, sampling, sampling.seed + i) for i in range(n)]
        if n == 1:
            replies = [self._complete(requests[0])]
        else:
            with ThreadPoolExecutor(min(n, self.slots)) as pool:
                replies = list(pool.map(self._complete, requests))
        for reply in replies:
            self._check_room(reply, sampling.max_tokens)
        return [_completion(reply, "tokens" if prefix else "") for reply in replies]

    def close(self) -> None:
        with self._closing:
            self._server = None

    def _request(self, prompt: str, stop: Sequence[str], sampling: Sampling, seed: int) -> dict[str, Json]:
        return {
            "prompt": prompt,
            "n_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "seed": seed,
            "stop": list(stop),
            "cache_prompt": True,
        }

    def _complete(self, request: dict[str, Json]) -> dict[str, Any]:
        server = self._server
        if server is None:
            raise ModelError(f"{self.model_id} is closed")
        try:
            reply = server.handle_completions(request)
        except Exception as error:  # xllamacpp raises RuntimeError and ValueError alike
            raise ModelError(f"llama.cpp failed on {self.model_id}: {error}") from error
        if not isinstance(reply, dict) or "choices" not in reply:
            # Errors come as {"error": {...}} or as the inner object alone.
            said = reply.get("error", reply) if isinstance(reply, dict) else reply
            message = said.get("message", said) if isinstance(said, dict) else said
            if isinstance(said, dict) and said.get("type") == "exceed_context_size_error":
                raise self._overflow(str(message))
            raise ModelError(f"llama.cpp refused a call to {self.model_id}: {message}")
        return reply

    def _check_room(self, reply: dict[str, Any], max_tokens: int) -> None:
        if reply["choices"][0].get("finish_reason") != "length":
            return
        usage = reply.get("usage", {})
        written = int(usage.get("completion_tokens", 0))
        if written < max_tokens:
            read = usage.get("prompt_tokens", 0)
            raise self._overflow(
                f"{read} tokens left room for {written} of the {max_tokens} a reply may have"
            )

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


def _completion(reply: dict[str, Any], prefill: str) -> Completion:
    choice = reply["choices"][0]
    usage = reply.get("usage", {})
    return Completion(
        text=choice["text"],
        finish_reason=FinishReason.LENGTH if choice.get("finish_reason") == "length" else FinishReason.STOP,
        tokens_in=int(usage.get("prompt_tokens", 0)),
        tokens_out=int(usage.get("completion_tokens", 0)),
        prefill=prefill,
    )
