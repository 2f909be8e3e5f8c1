"""The endpoint engine: what is asked of a server, and what is made of its reply."""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from endpoint import COUNTED, Endpoint, chat_reply, refused, serve

from agentdistill.errors import ModelError, UnknownModelError
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.types import Completion, FinishReason, Message, Sampling

ASK: list[Message] = [{"role": "user", "content": "Count."}]


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as endpoint:
        yield endpoint


@pytest.fixture
def model(server: Endpoint) -> Iterator[OpenAICompatibleModel]:
    model = OpenAICompatibleModel("m", server.url, retries=0, seconds=20)
    yield model
    model.close()


def test_without_a_prefix_nothing_is_probed(server: Endpoint, model: OpenAICompatibleModel) -> None:
    (done,) = model.sample(ASK)
    assert (done.text, done.prefill) == (COUNTED, "")
    assert len(server.requests) == 1
    assert "continue_final_message" not in server.requests[0]


def test_what_is_asked_is_what_was_set(server: Endpoint, model: OpenAICompatibleModel) -> None:
    how = Sampling(temperature=0.7, top_p=0.9, max_tokens=33, seed=5)
    model.sample(ASK, 3, stop=["</code>"], sampling=how)
    (request,) = server.requests
    wanted = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 33, "seed": 5, "n": 3, "stop": ["</code>"]}
    assert wanted.items() <= request.items()
    assert request["messages"] == ASK


# Several samples


def test_one_request_draws_all_samples(server: Endpoint, model: OpenAICompatibleModel) -> None:
    assert len(model.sample(ASK, 8)) == 8
    assert len(server.requests) == 1


def seeds(request: dict[str, Any]) -> Any:
    return chat_reply(f"sample {request['seed']}")


def test_a_server_that_ignores_n_is_asked_for_the_rest(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.answer = seeds
    done = model.sample(ASK, 3, sampling=Sampling(seed=5))
    assert [c.text for c in done] == ["sample 5", "sample 6", "sample 7"], "each needs a seed of its own"
    assert sum(c.tokens_in or 0 for c in done) == 30 and sum(c.tokens_out or 0 for c in done) == 6


def test_a_server_that_refuses_n_is_asked_one_by_one(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.answer = lambda request: refused(400, "Only one choice") if "n" in request else seeds(request)
    assert [c.text for c in model.sample(ASK, 3)] == ["sample 0", "sample 1", "sample 2"]
    assert len(server.requests) == 1 + 3
    model.sample(ASK, 3)
    assert len(server.requests) == 4 + 3, "what it refuses is asked once"


def test_a_server_that_once_sent_less_is_asked_for_all_again(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.answer = lambda _: chat_reply("a", "b") if len(server.requests) == 1 else None
    assert len(model.sample(ASK, 4)) == 4
    seen = len(server.requests)
    model.sample(ASK, 4)
    assert len(server.requests) == seen + 1


def test_the_rest_is_asked_side_by_side(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.honours_n = False
    server.latency = 0.2
    model.sample(ASK, 2)
    began = time.monotonic()
    model.sample(ASK, 8)
    assert time.monotonic() - began < 3 * server.latency, "one after another would be eight times"
    assert server.most_in_flight == 8


def test_a_server_that_sends_too_many_is_cut(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.answer = lambda _: chat_reply("a", "b", "c")
    assert [c.text for c in model.sample(ASK, 2)] == ["a", "b"]


# Tokens


def test_tokens_add_up_to_what_the_server_counted(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.answer = lambda _: chat_reply("a b", "c d e", "f g")
    done = model.sample(ASK, 3)
    assert [c.tokens_in for c in done] == [10, 0, 0], "the prompt is computed once"
    assert sum(c.tokens_out or 0 for c in done) == 7


def test_a_server_that_counts_nothing_leaves_the_tokens_unknown(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.counts = False
    assert model.sample(ASK) == [Completion(COUNTED, tokens_in=None, tokens_out=None)]
    assert model.generate([dict(turn) for turn in ASK]).token_usage is None


def test_a_reply_cut_by_length_says_so(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.answer = lambda _: chat_reply("a", finish="length")
    assert model.sample(ASK)[0].finish_reason is FinishReason.LENGTH


# Text


def test_half_an_emoji_in_a_reply_becomes_a_question_mark(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.answer = lambda _: chat_reply("a \ud83d")
    assert model.sample(ASK)[0].text == "a ?"


def test_half_an_emoji_in_a_question_is_sent_as_a_question_mark(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    model.sample([{"role": "user", "content": "a \ud83d"}], prefix="\ud83d")
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["a ?", "?"]


def test_a_turn_without_content_is_empty(server: Endpoint, model: OpenAICompatibleModel) -> None:
    reply = b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}'
    server.answer = lambda _: (200, reply)
    assert model.sample(ASK)[0].text == ""


BROKEN: dict[str, tuple[tuple[int, Any], str]] = {
    "no choices": (chat_reply(), "no choices"),
    "choices that are null": ((200, b'{"choices": null}'), "no choices"),
    "an error in a 200": ((200, b'{"error": "overloaded"}'), "did not answer: no completion but overloaded"),
    "a choice without a message": ((200, b'{"choices": [{}]}'), "did not answer"),
    "a text that is a number": ((200, b'{"choices": [{"message": {"content": 1}}]}'), "did not answer"),
    "usage that is text": (
        (200, b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": "x"}}'),
        "completion_tokens is 'x'",
    ),
    "usage below zero": (
        (200, b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": -1}}'),
        "completion_tokens is '-1'",
    ),
    "a list": ((200, b"[]"), "did not answer"),
    "deep": ((200, b"[" * 100_000), "did not answer: no JSON"),
    "garbage": ((200, b"{oops"), "did not answer: no JSON but {oops .*with its /v1"),
    "nothing": ((200, b""), "did not answer: no JSON but nothing"),
    "no text at all": ((200, b"\xff\xfe\x00" * 1000), "did not answer: no JSON"),
    "an error page of many lines": ((500, b"<html>\n" + b"<p>sorry</p>\n" * 1000), "did not answer: 500 <ht"),
    "a refusal": (refused(400, "unknown\nfield"), "did not answer: 400 unknown field"),
    "a wrong key": (refused(401, "who are you?"), "did not answer: 401 who are you.*set OPENAI_API_KEY"),
    "a wrong address": ((404, b'{"detail": "Not Found"}'), "did not answer: 404 Not Found .*with its /v1"),
    "an empty account": (
        (429, b'{"error": {"message": "quota", "code": "insufficient_quota"}}'),
        "quota .*credit is used up",
    ),
    "another address": ((308, b""), "has moved to another place .*give that address"),
}


@pytest.mark.parametrize(("reply", "complaint"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_reply_is_one_line_with_model_and_address(
    server: Endpoint, model: OpenAICompatibleModel, reply: Any, complaint: str
) -> None:
    server.answer = lambda _: reply
    with pytest.raises(ModelError, match=complaint) as caught:
        model.sample(ASK)
    line = str(caught.value)
    assert line.startswith(f"m at {server.url}") and "\n" not in line and len(line) < 500


def test_a_reply_without_end_is_cut(
    server: Endpoint, model: OpenAICompatibleModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdistill.models.endpoint.REPLY_BYTES", 2**20)
    server.answer = lambda _: (200, json.dumps({"choices": "x" * 2**21}).encode())
    with pytest.raises(ModelError, match="the reply is longer than 1 MiB"):
        model.sample(ASK)


# Connections and keys


def test_a_server_that_is_not_there_is_one_line() -> None:
    model = OpenAICompatibleModel("m", "http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(
        ModelError, match=r"m at http://127\.0\.0\.1:9/v1 did not answer: Connection error.*is the server up"
    ):
        model.sample(ASK)
    model.close()


def test_an_address_that_is_none_is_one_line() -> None:
    with pytest.raises(UnknownModelError, match="is no URL: Invalid"):
        OpenAICompatibleModel("m", "http://[broken/v1")
    model = OpenAICompatibleModel("m", "http://host:port/v1", retries=0)
    with pytest.raises(ModelError, match="this cannot be sent"):
        model.sample(ASK)


def test_calls_share_connections(server: Endpoint, model: OpenAICompatibleModel) -> None:
    for _ in range(3):
        model.sample(ASK)
    (pool,) = [model._endpoint._connections.pools[key] for key in model._endpoint._connections.pools.keys()]  # noqa: SIM118
    assert (pool.num_requests, pool.num_connections) == (3, 1)


@pytest.mark.parametrize(("key", "sent"), [("", "Bearer none"), (" secret\n", "Bearer secret")])
def test_the_key_comes_from_the_environment(
    server: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str, sent: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    model = OpenAICompatibleModel("m", server.url, retries=0)
    model.sample(ASK)
    assert server.keys == [sent]
    model.close()


def test_the_environments_proxy_is_used_but_not_for_this_machine(
    server: Endpoint, model: OpenAICompatibleModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1").replace("//", "//me:w%40rd@"))
    far = OpenAICompatibleModel("m", "http://far.invalid/v1", retries=0)
    assert far.sample(ASK)[0].text == COUNTED
    assert server.paths == ["http://far.invalid/v1/chat/completions"]
    assert sorted(server.keys) == ["Basic " + b64encode(b"me:w@rd").decode(), "Bearer none"]
    far.close()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    OpenAICompatibleModel("m", server.url, retries=0).sample(ASK)
    assert server.paths[1:] == ["/v1/chat/completions"]


def test_a_proxy_of_no_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"proxy for https://far\.invalid/v1 cannot be used"):
        OpenAICompatibleModel("m", "https://far.invalid/v1")


def test_a_closed_model_says_so(server: Endpoint, model: OpenAICompatibleModel) -> None:
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        model.sample(ASK)


def test_closing_ends_the_wait_for_another_try(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda _: refused(500, "broken")
    monkeypatch.setattr("agentdistill.models.endpoint.FIRST_WAIT", 100.0)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    model = OpenAICompatibleModel("m", server.url, retries=3)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            model.sample(ASK)
        except ModelError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until = time.monotonic() + 10
    while not server.requests and time.monotonic() < until:
        time.sleep(0.01)
    model.close()
    thread.join(10)
    assert len(failed) == 1 and "is closed" in str(failed[0])
