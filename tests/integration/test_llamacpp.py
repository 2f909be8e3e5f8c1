"""The real llama.cpp engine in this process, on the smallest catalog model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agentdistill import catalog
from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models.llamacpp import LlamaCppModel
from agentdistill.types import FinishReason, Message, Sampling

pytestmark = pytest.mark.models

COUNT: list[Message] = [{"role": "user", "content": "Count from one to ten in words, with commas."}]
SHORT = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    model = LlamaCppModel(catalog.fetch("smollm2-135m"), slots=2, context=512, threads=1)
    yield model
    model.close()


def test_a_prefix_is_continued_token_for_token(model: LlamaCppModel) -> None:
    (done,) = model.sample(COUNT, prefix="One, two, three, four,", sampling=SHORT)
    assert done.text.lower().startswith(" five, six")
    assert done.prefill == "tokens"


def test_without_a_prefix_none_was_delivered(model: LlamaCppModel) -> None:
    (done,) = model.sample(COUNT, sampling=Sampling(max_tokens=2))
    assert done.prefill == ""


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(model: LlamaCppModel) -> None:
    (done,) = model.sample(COUNT, prefix="One, two, three,", stop=["six"], sampling=SHORT)
    assert done.text.lower().strip() == "four, five,"
    assert done.finish_reason is FinishReason.STOP


def test_a_text_cut_by_length_says_so_and_is_counted(model: LlamaCppModel) -> None:
    (done,) = model.sample(COUNT, prefix="One, two,", sampling=Sampling(max_tokens=4))
    assert done.finish_reason is FinishReason.LENGTH
    assert done.tokens_out == 4
    assert 10 < done.tokens_in < 100


def test_greedy_text_is_repeatable(model: LlamaCppModel) -> None:
    texts = {model.sample(COUNT, prefix="One, two,", sampling=SHORT)[0].text for _ in range(2)}
    assert len(texts) == 1


def test_samples_of_one_call_differ(model: LlamaCppModel) -> None:
    first, second = model.sample(COUNT, 2, sampling=Sampling(temperature=1.5, max_tokens=24, seed=1))
    assert first.text != second.text


def test_samples_of_one_call_are_those_drawn_one_by_one(model: LlamaCppModel) -> None:
    warm = Sampling(temperature=0.8, top_p=0.9, max_tokens=16, seed=3)
    together = model.sample(COUNT, 5, stop=[" three"], sampling=warm)  # on two slots
    for index, one in enumerate(together):
        (alone,) = model.sample(COUNT, stop=[" three"], sampling=replace(warm, seed=3 + index))
        assert replace(one, tokens_in=alone.tokens_in) == alone
    assert [one.tokens_in for one in together[1:]] == [0, 0, 0, 0]
    assert together[0].tokens_in


def test_samples_of_one_call_read_the_prompt_once() -> None:
    model = LlamaCppModel(catalog.fetch("smollm2-135m"), slots=4, context=512, threads=1)
    seconds = []
    for n, name in ((1, "Eve"), (1, "Ada"), (4, "Bob")):  # the first pays for touching the weights
        ask: list[Message] = [{"role": "user", "content": f"{name} counts pens. " * 60}]
        started = time.process_time()
        model.sample(ask, n, sampling=Sampling(max_tokens=1, temperature=0.5))
        seconds.append(time.process_time() - started)
    model.close()
    assert seconds[2] < 2 * seconds[1]


def test_cancelled_samples_come_back_as_they_are(model: LlamaCppModel) -> None:
    enough = threading.Event()
    warm = Sampling(temperature=1.0, max_tokens=400, seed=3)
    drawn = {}
    started = time.monotonic()
    threading.Timer(0.5, enough.set).start()
    for index, one in model.draw(COUNT, 5, stop=[" ten"], sampling=warm, cancelled=enough):
        drawn[index] = one
    assert sorted(drawn) == [0, 1, 2, 3, 4]
    assert time.monotonic() - started < 20
    assert drawn[4].finish_reason is FinishReason.CANCELLED
    assert (drawn[4].text, drawn[4].tokens_out) == ("", 0)
    assert model.sample(COUNT, sampling=Sampling(max_tokens=2)), "the engine goes on"


def test_a_draw_that_is_dropped_frees_its_slots(model: LlamaCppModel) -> None:
    warm = Sampling(temperature=1.0, max_tokens=300, seed=3)
    unfinished = model.draw(COUNT, 2, stop=["o"], sampling=warm)
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]
    assert len(model.sample(COUNT, 2, sampling=Sampling(max_tokens=2))) == 2


def test_several_draws_at_once_get_their_slots(model: LlamaCppModel) -> None:
    warm = Sampling(temperature=0.8, max_tokens=8)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda i: model.sample(COUNT, 2, sampling=replace(warm, seed=i)), range(6)))
    assert all(len(samples) == 2 and all(one.tokens_out for one in samples) for samples in drawn)


def test_text_that_is_not_ascii_or_not_text_reaches_the_model(model: LlamaCppModel) -> None:
    for content in ("数を数えて 🦓", "nul \x00 and half \ud83d"):
        assert model.sample([{"role": "user", "content": content}], sampling=Sampling(max_tokens=2))


def test_several_threads_share_the_slots(model: LlamaCppModel) -> None:
    texts: list[str] = []

    def ask() -> None:
        texts.append(model.sample(COUNT, prefix="One, two, three,", sampling=Sampling(max_tokens=6))[0].text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 4 and all(text.lower().startswith(" four") for text in texts)


def test_a_conversation_longer_than_the_context_is_one_clear_error(model: LlamaCppModel) -> None:
    long: list[Message] = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(ContextOverflowError, match="512 tokens of context") as caught:
        model.sample(long, sampling=SHORT)
    assert "\n" not in str(caught.value)
    assert model.sample(COUNT, sampling=Sampling(max_tokens=2)), "the engine goes on"


def test_a_reply_that_meets_the_end_of_the_context_is_the_same_error(model: LlamaCppModel) -> None:
    counting = ("one two three four five " * 94).strip()
    messages: list[Message] = [{"role": "user", "content": "Count."}]
    with pytest.raises(ContextOverflowError, match=r"left room for \d+ of the 400"):
        model.sample(messages, prefix=counting, sampling=Sampling(max_tokens=400))


def test_slots_are_the_calls_of_use_side_by_side(model: LlamaCppModel) -> None:
    assert model.in_flight_limit == 2


def test_the_fingerprint_is_the_hash_of_the_catalog(model: LlamaCppModel) -> None:
    assert model.fingerprint()["sha256"] == catalog.entry("smollm2-135m").sha256


@pytest.mark.parametrize("path", ["/props", "/slots", "/metrics"])
def test_the_listener_answers_nobody_without_the_key(model: LlamaCppModel, path: str) -> None:
    address = model._server.listening_address
    assert httpx.URL(address).host == "127.0.0.1"
    reply = httpx.get(address + path)
    assert reply.status_code == 401
    assert "chat_template" not in reply.text


def test_nobody_can_complete_over_the_listener(model: LlamaCppModel) -> None:
    reply = httpx.post(f"{model._server.listening_address}/v1/completions", json={"prompt": "a"})
    assert reply.status_code == 401


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model file: .*nowhere\.gguf"):
        LlamaCppModel(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("content", [b"", b"not a model" * 100, b"GGUF" + bytes(200)])
def test_a_file_that_is_not_gguf_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*broken\.gguf.*is it a GGUF") as caught:
        LlamaCppModel(path, threads=1)
    assert "\n" not in str(caught.value)


def test_a_closed_model_says_so() -> None:
    model = LlamaCppModel(catalog.fetch("smollm2-135m"), slots=1, context=256, threads=1)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        model.sample(COUNT, sampling=Sampling(max_tokens=2))


def test_the_likeliest_tokens_are_told(model: LlamaCppModel) -> None:
    found = model.sample_logprobs(COUNT, sampling=Sampling(max_tokens=6))
    assert found.text == model.sample(COUNT, sampling=Sampling(max_tokens=6))[0].text
    assert found.logprobs is not None and len(found.logprobs) == found.tokens_out
    for place in found.logprobs:
        assert len(place) == 2 and all(value <= 0 for value in place.values())
    assert (
        "".join(max(place, key=place.__getitem__) for place in found.logprobs).strip() == found.text.strip()
    )


def test_a_listener_hears_text_grow_and_may_end_the_call(model: LlamaCppModel) -> None:
    heard: list[tuple[int, str]] = []

    def listen(index: int, text: str) -> None:
        heard.append((index, text))
        if len(heard) > 1000:
            raise InterruptedError

    model.listener = listen
    try:
        done = model.sample(COUNT, 2, sampling=replace(SHORT, temperature=0.5))
        for index in (0, 1):
            texts = [text for i, text in heard if i == index]
            assert len(texts) > 10 and texts == sorted(texts, key=len) and texts[-1] == done[index].text
        heard.extend([(0, "")] * 1000)
        begun = time.monotonic()
        with pytest.raises(InterruptedError):
            model.sample(COUNT, sampling=Sampling(max_tokens=400))
        assert time.monotonic() - begun < 20
    finally:
        model.listener = None
    assert model.sample(COUNT, sampling=SHORT)[0].text, "and the engine goes on"
