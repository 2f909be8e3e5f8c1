"""What a model's listener hears while a call draws, and how it ends the call."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from endpoint import COUNTED, Endpoint, refused, serve

from agentdistill.errors import ModelError
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.streamed import StreamedReply
from agentdistill.types import Message

ASK: list[Message] = [{"role": "user", "content": "Count."}]


class Stopped(Exception):
    pass


class Ears:
    """A listener that keeps what it hears, and raises at the n-th text if told so."""

    def __init__(self, raises_at: int | None = None) -> None:
        self.heard: list[tuple[int, str]] = []
        self.raises_at = raises_at

    def __call__(self, index: int, text: str) -> None:
        self.heard.append((index, text))
        if len(self.heard) == self.raises_at:
            raise Stopped


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as endpoint:
        yield endpoint


@pytest.fixture
def model(server: Endpoint) -> Iterator[OpenAICompatibleModel]:
    model = OpenAICompatibleModel("m", server.url, retries=0, seconds=20)
    yield model
    model.close()


def test_a_stream_is_heard_as_it_grows_and_comes_to_the_same(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    plain = model.sample(ASK, 2)
    ears = model.listener = Ears()
    assert model.sample(ASK, 2) == plain
    for index in (0, 1):
        texts = [text for i, text in ears.heard if i == index]
        assert len(texts) >= 7 and texts == sorted(texts, key=len)
        assert texts[0] == COUNTED.split()[0] and texts[-1] == COUNTED


def test_without_a_listener_nothing_is_streamed(server: Endpoint, model: OpenAICompatibleModel) -> None:
    model.sample(ASK)
    assert "stream" not in server.requests[0]


def test_a_server_that_refuses_to_stream_is_asked_without_from_then_on(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.answer = lambda request: refused(400, "no stream") if "stream" in request else None
    model.listener = Ears()
    assert [model.sample(ASK)[0].text for _ in range(2)] == [COUNTED, COUNTED]
    assert ["stream" in request for request in server.requests] == [True, False, False]


def test_a_stream_that_breaks_off_is_no_reply(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.faults = {"cut": 1.0}
    model.listener = Ears()
    with pytest.raises(ModelError):
        model.sample(ASK)


def test_what_the_listener_raises_ends_the_call(server: Endpoint, model: OpenAICompatibleModel) -> None:
    ears = model.listener = Ears(raises_at=3)
    with pytest.raises(Stopped):
        model.sample(ASK)
    assert len(ears.heard) == 3


def test_a_script_is_heard_word_by_word() -> None:
    model = ScriptedModel(["one  two"])
    ears = model.listener = Ears()
    model.sample(ASK)
    assert ears.heard == [(0, "one"), (0, "one  two")]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\r\n\r\n"


def chunk(text: str | None, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def test_pieces_may_be_cut_anywhere() -> None:
    body = b": a comment\n\n" + chunk("grö") + chunk("ße") + chunk(None, "stop") + b"data: [DONE]"
    ears = Ears()
    reply = StreamedReply(ears, first=2)
    for at in range(len(body)):
        reply.feed(body[at : at + 1])
    assert reply.reply()["choices"][0]["message"]["content"] == "größe"
    assert (2, "größe") in ears.heard


@pytest.mark.parametrize(
    "body",
    [
        b"",
        chunk("half"),
        b"data: {oops\n\n",
        b"data: [1]\n\n",
        event(error={"message": "out of memory"}),
        event(choices=[{"index": 0, "delta": {"content": 7}, "finish_reason": "stop"}]),
        event(choices=[{"index": "x", "delta": {}}]),
    ],
)
def test_what_is_no_reply_is_an_error_at_the_end_only(body: bytes) -> None:
    reply = StreamedReply(Ears())
    reply.feed(body)
    with pytest.raises(ValueError):
        reply.reply()
