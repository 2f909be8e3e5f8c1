"""The endpoint engine against a real llama-server (xllamacpp opens one) with the smallest catalog model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentdistill import catalog
from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.types import FinishReason, Message, Sampling

pytestmark = pytest.mark.models

COUNT: list[Message] = [{"role": "user", "content": "Count from one to ten in words, with commas."}]
KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(catalog.fetch("smollm2-135m"))
    params.n_parallel = 2
    params.n_ctx = 1024
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.warmup = False
    params.verbosity = -1
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture
def model(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAICompatibleModel]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = OpenAICompatibleModel("smollm2-135m", url, retries=0)
    yield model
    model.close()


def test_a_prefix_is_continued_and_does_not_come_back(model: OpenAICompatibleModel) -> None:
    drawn = model.sample(COUNT, 2, prefix="One, two, three,", sampling=Sampling(max_tokens=6))
    assert [one.text.lower()[:11] for one in drawn] == [" four, five"] * 2
    assert {one.prefill for one in drawn} == {"continue"}


def test_a_stop_string_a_length_and_tokens_are_told(model: OpenAICompatibleModel) -> None:
    (stopped,) = model.sample(
        COUNT, prefix="One, two, three,", stop=["six"], sampling=Sampling(max_tokens=12)
    )
    assert stopped.text.lower().strip() == "four, five,"
    assert stopped.finish_reason is FinishReason.STOP
    (cut,) = model.sample(COUNT, sampling=Sampling(max_tokens=3))
    assert (cut.finish_reason, cut.tokens_out) == (FinishReason.LENGTH, 3)
    assert 10 < (cut.tokens_in or 0) < 100


def test_a_conversation_longer_than_the_context_is_its_own_error(model: OpenAICompatibleModel) -> None:
    with pytest.raises(ContextOverflowError, match="512 tokens"):
        model.sample([{"role": "user", "content": "word " * 600}])


def test_a_wrong_key_says_what_to_set(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    model = OpenAICompatibleModel("smollm2-135m", url, retries=0)
    with pytest.raises(ModelError, match=r"401 .*set OPENAI_API_KEY"):
        model.sample(COUNT)
    model.close()
