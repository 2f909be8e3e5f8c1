"""Hugging Face transformers in this process: checkpoints and hub ids.

Guaranteed: the same prompt rendering and prefix as llama.cpp. The samples of a call share one forward pass of
the prompt, and a step of a conversation forward-passes only what is new in it (`decode.py`, `kept.py`).
Samples are drawn by temperature and top_p alone: other settings in a model's generation_config.json (top_k,
repetition penalty) are not followed. A conversation that leaves a reply no room is a ContextOverflowError, as
on llama.cpp. Calls from several threads take turns, token by token.
Not guaranteed: speed; on a CPU export the student to GGUF (`models export`) and serve that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill.errors import ContextOverflowError, ModelError, UnknownModelError
from agentdistill.models.base import BaseModel
from agentdistill.models.kept import Draw, KeptDraws, Sampled
from agentdistill.models.llamacpp import file_sha256
from agentdistill.models.template import ChatTemplate
from agentdistill.types import Completion, FinishReason, Json, Message, Sampling

if TYPE_CHECKING:
    import torch

    from agentdistill.models.decode import KeysValues


class TransformersModel(BaseModel):
    """A causal language model by folder or hub id.

    `kept_bytes` bounds the memory for keys and values of earlier prompts, on the model's device; a token of a
    model of 135 M parameters takes 46 kB in float32. `prefilled` counts the tokens forward-passed so far that
    were not sampled in the same call, for measurements.
    """

    def __init__(
        self,
        name: str,
        *,
        sampling: Sampling | None = None,
        device: str | None = None,
        kept_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(name, sampling)
        # Read when torch is loaded: beside other busy processes, waiters that spin make two threads several
        # times slower (see llamacpp.py).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from agentdistill.models import decode

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self._model = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, attn_implementation=decode.ATTENTION
            )
        except (OSError, ValueError) as error:
            raise UnknownModelError(
                f"transformers cannot load {name}: {str(error).splitlines()[0]}"
            ) from error
        if not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {name} has no chat template", "use an instruct model")
        if not self.tokenizer.is_fast:
            raise ModelError(f"{name} has no fast tokenizer", "save it with a tokenizer.json")
        decode.check_supported(self._model)
        self._model.to(self.device).eval()
        self.template = ChatTemplate(
            self.tokenizer.chat_template, self.tokenizer.bos_token or "", self.tokenizer.eos_token or ""
        )
        self.prefilled = 0
        self._ends = {*_as_list(self._model.generation_config.eos_token_id), self.tokenizer.eos_token_id}
        self._kept = KeptDraws(self.tokenizer, kept_bytes)
        self._one_at_a_time = threading.Lock()

    def fingerprint(self) -> dict[str, Json]:
        folder = Path(self.model_id)
        if folder.is_dir():
            weights: dict[str, Json] = {
                file.name: file_sha256(file) for file in sorted(folder.glob("*.safetensors"))
            }
        else:
            weights = {"revision": getattr(self._model.config, "_commit_hash", None)}
        return {"engine": "transformers", "weights": weights, "dtype": str(self._model.dtype)}

    @property
    def in_flight_limit(self) -> int | None:
        return 1

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
        """See BaseModel. A sample that meets the end of the context ends there, with FinishReason.LENGTH, if
        another one has ended before; if none has, the call raises ContextOverflowError."""
        from agentdistill.models.decode import Rows, choose

        sampling = sampling or self.sampling
        listener = self.listener
        prompt = self.template.render(messages, prefix)
        with self._working():
            ids = self._kept.encode(prompt)
            room = self._room(len(ids), sampling.max_tokens)
            draw, keys_values, logits = self._prefill(prompt, ids)
            rows = Rows(self._model, keys_values, n)
        logits = logits.expand(n, -1)
        tokens: list[int] = []
        live = [_Sample(index, sampling.seed + index, self.tokenizer, self._ends, stop) for index in range(n)]
        while live:
            if cancelled is not None and cancelled.is_set():
                for sample in live:
                    yield sample.index, sample.completion(FinishReason.CANCELLED, len(ids), prefix)
                return
            with self._working():
                if tokens:
                    logits = rows.step(tokens)
                tokens = choose(logits, [s.generator for s in live], sampling.temperature, sampling.top_p)
                for sample, token in zip(live, tokens, strict=True):
                    sample.add(token)
                full = len(live[0].ids) == room
                if full and room < sampling.max_tokens and len(live) == n and not any(s.ended for s in live):
                    raise self._overflow(len(ids), len(ids) + room)
                ended = [row for row, sample in enumerate(live) if sample.ended or full]
                for row in ended:
                    self._kept.add_sample(draw, live[row].sampled(rows.written(row)))
                going = [row for row in range(len(live)) if row not in ended]
                if ended and going:
                    rows.keep(going)
            if listener is not None:
                for sample in live:
                    listener(sample.index, sample.text)
            finished, live = [live[row] for row in ended], [live[row] for row in going]
            tokens = [tokens[row] for row in going]
            for sample in finished:
                finish = FinishReason.STOP if sample.ended else FinishReason.LENGTH
                yield sample.index, sample.completion(finish, len(ids), prefix)

    def sample_logprobs(
        self, messages: Sequence[Message], *, top: int = 2, sampling: Sampling | None = None
    ) -> Completion:
        """See BaseModel. The prompt is kept for the call that comes next."""
        from agentdistill.models.decode import Rows, choose

        sampling = sampling or self.sampling
        likeliest: list[dict[str, float]] = []
        with self._working():
            prompt = self.template.render(messages, "")
            ids = self._kept.encode(prompt)
            room = self._room(len(ids), sampling.max_tokens)
            _, keys_values, logits = self._prefill(prompt, ids)
            rows = Rows(self._model, keys_values, 1)
            sample = _Sample(0, sampling.seed, self.tokenizer, self._ends, ())
            while not sample.ended and len(sample.ids) < room:
                values, tokens = logits[0].float().log_softmax(-1).topk(top)
                names = self.tokenizer.convert_ids_to_tokens(tokens.tolist())
                likeliest.append(dict(zip(names, values.tolist(), strict=True)))
                chosen = choose(logits, [sample.generator], sampling.temperature, sampling.top_p)
                sample.add(chosen[0])
                if not sample.ended and len(sample.ids) < room:
                    logits = rows.step(chosen)
        finish = FinishReason.STOP if sample.ended else FinishReason.LENGTH
        return replace(sample.completion(finish, len(ids), ""), logprobs=tuple(likeliest))

    def _prefill(self, prompt: str, ids: tuple[int, ...]) -> tuple[Draw, KeysValues, torch.Tensor]:
        """The forward pass of what is new in a prompt; logits float[1, vocabulary] of its last token."""
        from agentdistill.models.decode import prefill

        kept = self._kept.longest(ids)
        keys_values, logits = prefill(self._model, ids, kept)
        self.prefilled += len(ids) - (kept[0][0].shape[-2] if kept else 0)
        draw = Draw(prompt, ids, keys_values)
        self._kept.add(draw)
        return draw, keys_values, logits

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One thread at a time; between two tokens another one may take its turn."""
        with self._one_at_a_time:
            try:
                yield
            except RuntimeError as error:  # torch's, out of memory among them
                raise ModelError(f"generation failed on {self.model_id}: {error}") from error

    def _room(self, width: int, max_tokens: int) -> int:
        """Tokens a reply may have. Beyond its context a model goes on without an error, writing nonsense."""
        context: int | None = getattr(self._model.config, "max_position_embeddings", None)
        if context is None:
            return max_tokens
        if width >= context:
            raise self._overflow(width, context)
        return min(max_tokens, context - width)

    def _overflow(self, width: int, context: int) -> ContextOverflowError:
        return ContextOverflowError(
            f"{self.model_id}: the conversation does not fit into {context} tokens of context: {width} tokens"
            " left a reply no room",
            "fewer tokens a step",
        )


class _Sample:
    """One sample on its way: its ids, its text so far, and where a stop string cuts it."""

    def __init__(
        self, index: int, seed: int, tokenizer: Any, ends: Container[int], stop: Sequence[str]
    ) -> None:
        import torch
        from tokenizers.decoders import DecodeStream

        self.index = index
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._control = frozenset(tokenizer.all_special_ids)
        self._ends = ends
        self._stop = stop
        self._cut: int | None = None
        self._lengths: list[int | None] = []
        self._spelled = True  # by the text: no control token so far

    def add(self, token: int) -> None:
        self.ids.append(token)
        if token in self._ends:
            self.ended = True
            return
        piece = self._decoder.step(self._tokenizer.backend_tokenizer, token)
        # A stop string may have begun in earlier tokens.
        searched = max(0, len(self.text) - max(map(len, self._stop), default=1) + 1)
        self.text += piece or ""
        self._spelled = self._spelled and token not in self._control
        self._lengths.append(len(self.text) if piece and self._spelled else None)
        cuts = [at for at in (self.text.find(mark, searched) for mark in self._stop) if at >= 0]
        if cuts:
            self._cut, self.ended = min(cuts), True

    def completion(self, finish: FinishReason, width: int, prefix: str) -> Completion:
        return Completion(
            text=self.text[: self._cut],
            finish_reason=finish,
            # The samples share the prompt, so it was read once.
            tokens_in=0 if self.index else width,
            tokens_out=len(self.ids),
            token_ids=tuple(self.ids[: len(self._lengths)]),
            prefill="tokens" if prefix else "",
        )

    def sampled(self, keys_values: KeysValues) -> Sampled:
        given = len(self.text) if self._cut is None else self._cut
        return Sampled(tuple(self.ids), self.text, given, tuple(self._lengths), keys_values)


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
