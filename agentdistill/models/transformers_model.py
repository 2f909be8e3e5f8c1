"""Hugging Face transformers in this process: checkpoints and hub ids.

Guaranteed: the same prompt rendering and prefix as llama.cpp, so both engines see equal token ids. Calls are
served one at a time. A conversation that leaves a reply no room is a ContextOverflowError, as on llama.cpp.
Not guaranteed: speed; on a CPU export the student to GGUF (`models export`) and serve that. A decode loop that
shares the prompt between samples and steps comes with self-consistency.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill.errors import ContextOverflowError, ModelError, UnknownModelError
from agentdistill.models.base import BaseModel
from agentdistill.models.llamacpp import file_sha256
from agentdistill.models.template import ChatTemplate
from agentdistill.types import Completion, FinishReason, Json, Message, Sampling


class TransformersModel(BaseModel):
    """A causal language model by folder or hub id."""

    def __init__(
        self,
        name: str,
        *,
        sampling: Sampling | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(name, sampling)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self._model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError) as error:
            raise UnknownModelError(
                f"transformers cannot load {name}: {str(error).splitlines()[0]}"
            ) from error
        if not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {name} has no chat template", "use an instruct model")
        self._model.to(self.device).eval()
        self.template = ChatTemplate(
            self.tokenizer.chat_template, self.tokenizer.bos_token or "", self.tokenizer.eos_token or ""
        )
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
        import torch

        sampling = sampling or self.sampling
        prompt = self.template.render(messages, prefix)
        inputs = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(self.device)
        width = inputs["input_ids"].shape[1]
        room = self._room(width, sampling.max_tokens)
        how: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
            }
        if stop:
            how |= {"stop_strings": list(stop), "tokenizer": self.tokenizer}
        with self._one_at_a_time, torch.no_grad():
            torch.manual_seed(sampling.seed)
            try:
                # Greedy samples are all equal: draw one and repeat it.
                rows = self._model.generate(
                    **inputs,
                    max_new_tokens=room,
                    num_return_sequences=n if sampling.temperature > 0 else 1,
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                    **how,
                )
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"generation failed on {self.model_id}: {error}") from error
        drawn = [self._completion(row[width:].tolist(), width, stop, room, bool(prefix)) for row in rows]
        if room < sampling.max_tokens and any(one.finish_reason is FinishReason.LENGTH for one in drawn):
            raise self._overflow(width, width + room)
        return drawn if len(drawn) == n else drawn * n

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
            f"{self.model_id}: the conversation does not fit into {context} tokens of context: {width} tokens "
            "left a reply no room",
            "fewer tokens a step",
        )

    def _completion(
        self, ids: list[int], width: int, stop: Sequence[str], room: int, prefixed: bool
    ) -> Completion:
        ends = set(_as_list(self._model.generation_config.eos_token_id)) | {self.tokenizer.eos_token_id}
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
        cuts = [text.index(mark) for mark in stop if mark in text]
        cut_by_length = not cuts and length == len(ids) and len(ids) >= room
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            finish_reason=FinishReason.LENGTH if cut_by_length else FinishReason.STOP,
            tokens_in=width,
            tokens_out=min(length + 1, len(ids)),
            token_ids=tuple(ids[:length]),
            prefill="tokens" if prefixed else "",
        )


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
