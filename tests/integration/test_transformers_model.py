"""The transformers engine on a model of a few thousand random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models

from agentdistill.errors import ContextOverflowError
from agentdistill.models.transformers_model import TransformersModel
from agentdistill.types import FinishReason, Message, Sampling

CONTEXT = 64
ASK: list[Message] = [{"role": "user", "content": "a b c"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder: Path = tmp_path_factory.mktemp("tiny")
    letters = {letter: i for i, letter in enumerate(["</s>", *pre_tokenizers.ByteLevel.alphabet()])}
    backend = Tokenizer(token_models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}:"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=None,  # it writes until it is stopped
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return TransformersModel(str(folder))


def test_a_reply_may_fill_the_context_to_its_end(model: TransformersModel) -> None:
    (done,) = model.sample(ASK, prefix="x" * 50, sampling=Sampling(max_tokens=8))
    assert done.tokens_in == 56
    assert (done.tokens_out, done.finish_reason) == (8, FinishReason.LENGTH)


def test_a_reply_that_meets_the_end_of_the_context_is_an_overflow(model: TransformersModel) -> None:
    with pytest.raises(ContextOverflowError, match="64 tokens of context") as caught:
        model.sample(ASK, prefix="x" * 50, sampling=Sampling(max_tokens=9))
    assert "\n" not in str(caught.value)


def test_a_conversation_longer_than_the_context_is_an_overflow(model: TransformersModel) -> None:
    with pytest.raises(ContextOverflowError, match="100 tokens left a reply no room"):
        model.sample(ASK, prefix="x" * 94, sampling=Sampling(max_tokens=1))


def test_calls_are_served_one_at_a_time(model: TransformersModel) -> None:
    assert model.in_flight_limit == 1


def test_a_listener_hears_every_token_and_may_end_the_call(model: TransformersModel) -> None:
    heard: list[tuple[int, str]] = []

    def listen(index: int, text: str) -> None:
        heard.append((index, text))
        if len(heard) == 11:
            raise InterruptedError

    model.listener = listen
    try:
        done = model.sample(ASK, 2, sampling=Sampling(temperature=1.0, max_tokens=5))
        assert len(heard) == 10
        for index in (0, 1):
            texts = [text for i, text in heard if i == index]
            assert texts == sorted(texts, key=len) and texts[-1] == done[index].text
        with pytest.raises(InterruptedError):
            model.sample(ASK, sampling=Sampling(max_tokens=5))
    finally:
        model.listener = None
