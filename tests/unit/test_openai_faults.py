"""The endpoint engine against a server that fails in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from endpoint import COUNTED, FAULTS, OVERFLOWS, Endpoint, chat_reply, refused, serve, serve_apart

from agentdistill.errors import ContextOverflowError, ModelBusyError, ModelError
from agentdistill.models.endpoint import retry_after
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.types import Message

ASK: list[Message] = [{"role": "user", "content": "Count."}]

Open = Callable[..., OpenAICompatibleModel]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdistill.models.endpoint.FIRST_WAIT", 0.01)
    monkeypatch.setattr("agentdistill.models.endpoint.LONGEST_WAIT", 0.1)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as endpoint:
        yield endpoint


@pytest.fixture
def opened(server: Endpoint) -> Iterator[Open]:
    models: list[OpenAICompatibleModel] = []

    def open_model(**how: Any) -> OpenAICompatibleModel:
        models.append(OpenAICompatibleModel("m", server.url, **{"seconds": 20.0, **how}))
        return models[-1]

    yield open_model
    for model in models:
        model.close()


def failing(server: Endpoint, fault: str, times: int = 1) -> None:
    """The next `times` requests meet the fault, those after them none."""
    drawn = iter([fault] * times)
    server.draw_fault = lambda: next(drawn, "")  # type: ignore[method-assign]


TEMPORARY = sorted(FAULTS.keys() - {"overflow"})


@pytest.mark.parametrize("fault", TEMPORARY)
def test_what_goes_away_by_itself_is_tried_again(server: Endpoint, opened: Open, fault: str) -> None:
    failing(server, fault, 2)
    (done,) = opened(seconds=0.3).sample(ASK)
    assert done.text == COUNTED
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", TEMPORARY)
def test_it_is_tried_so_often_and_no_longer(server: Endpoint, opened: Open, fault: str) -> None:
    server.faults = {fault: 1.0}
    kind = ModelBusyError if fault in ("busy", "unavailable") else ModelError
    with pytest.raises(kind, match=r"m at http://.* did not answer: ") as caught:
        opened(seconds=0.2, retries=2).sample(ASK)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422])
def test_a_refusal_is_not_tried_again(server: Endpoint, opened: Open, status: int) -> None:
    server.answer = lambda _: refused(status, "no")
    with pytest.raises(ModelError, match=f"{status} no"):
        opened().sample(ASK)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 504, 524])
def test_a_server_in_trouble_is_tried_again(server: Endpoint, opened: Open, status: int) -> None:
    server.answer = lambda _: refused(status, "ouch") if len(server.requests) < 2 else None
    assert opened().sample(ASK)[0].text == COUNTED


def test_a_server_that_is_started_again_is_found(opened: Open) -> None:
    first = Endpoint()
    with serve(first):
        model = OpenAICompatibleModel("m", first.url, seconds=5)
        model.sample(ASK)
    port = int(first.url.rsplit(":", 1)[1].removesuffix("/v1"))
    second = Endpoint()
    starting = threading.Timer(0.2, lambda: gate.set())
    gate = threading.Event()
    starting.start()

    def late() -> None:
        gate.wait(10)
        with serve(second, port):
            ended.wait(20)

    ended = threading.Event()
    thread = threading.Thread(target=late)
    thread.start()
    try:
        assert model.sample(ASK)[0].text == COUNTED
    finally:
        ended.set()
        thread.join()
        model.close()


# Time


@pytest.mark.parametrize("fault", ["hang", "dribble"])
def test_a_reply_that_does_not_end_is_ended(server: Endpoint, opened: Open, fault: str) -> None:
    server.faults = {fault: 1.0}
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"did not answer: not in 0\.5 s"):
        opened(seconds=0.5, retries=0).sample(ASK)
    assert 0.45 < time.monotonic() - began < 1.5


def test_a_connection_that_failed_is_not_used_again(server: Endpoint, opened: Open) -> None:
    model = opened(seconds=0.3, retries=0)
    for fault in ("hang", "cut", "dribble", "reset"):
        server.faults = {fault: 1.0}
        with pytest.raises(ModelError):
            model.sample(ASK)
        server.faults = {}
        assert model.sample(ASK)[0].text == COUNTED, fault


# Busy


def test_retry_after_is_honoured(server: Endpoint, opened: Open) -> None:
    server.retry_after = "0.4"
    failing(server, "busy")
    began = time.monotonic()
    opened().sample(ASK)
    assert 0.4 <= time.monotonic() - began < 3


def test_retry_after_holds_back_the_other_calls_too(server: Endpoint, opened: Open) -> None:
    server.retry_after = "0.5"
    failing(server, "busy")
    model = opened()
    with ThreadPoolExecutor(1) as pool:
        refused_call = pool.submit(model.sample, ASK)
        until = time.monotonic() + 10
        while not server.given["busy"] and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.1)
        began = time.monotonic()
        model.sample(ASK)
        assert time.monotonic() - began > 0.25
        refused_call.result(10)


def test_an_endpoint_that_asks_for_too_long_a_wait_is_told_at_once(server: Endpoint, opened: Open) -> None:
    server.retry_after = "3600"
    server.faults = {"busy": 1.0}
    with pytest.raises(ModelBusyError, match="asks to come back in 3600 s") as caught:
        opened().sample(ASK)
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    seconds = retry_after(format_datetime(at, usegmt=True))
    assert seconds is not None and 58 < seconds <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0


def test_calls_in_flight_come_down_to_what_the_endpoint_takes(server: Endpoint, opened: Open) -> None:
    server.capacity = 8
    server.latency = 0.02
    model = opened(retries=30, ceiling=64)
    with ThreadPoolExecutor(64) as pool:
        done = list(pool.map(lambda _: model.sample(ASK)[0].text, range(600)))
    assert done == [COUNTED] * 600
    assert 3 <= model.in_flight_limit <= 16
    assert server.given["busy"] < 300, "one in three requests or more would be refused without a limit"


def test_calls_in_flight_come_down_to_what_is_answered_in_time(server: Endpoint, opened: Open) -> None:
    """Else a server too slow for so many calls is asked for them again and again, and answers none."""
    one_at_a_time = threading.Lock()

    def slowly(_: object) -> None:
        with one_at_a_time:
            time.sleep(0.05)

    server.answer = slowly
    model = opened(seconds=0.4, retries=30)
    assert model.in_flight_limit == 16, "the last of 16 would wait for 0.8 s"
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda _: model.sample(ASK)[0].text, range(32)))
    assert done == [COUNTED] * 32
    assert model.in_flight_limit <= 8


def test_calls_in_flight_grow_while_the_endpoint_answers(server: Endpoint, opened: Open) -> None:
    server.latency = 0.02
    model = opened(ceiling=48)
    assert model.in_flight_limit == 16
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda _: model.sample(ASK), range(200)))
    assert model.in_flight_limit == 48
    assert 16 < server.most_in_flight <= 48  # on a busy machine not all 48 threads meet


# Contexts


@pytest.mark.parametrize("shape", OVERFLOWS)
def test_a_conversation_that_does_not_fit_is_its_own_error(
    server: Endpoint, opened: Open, shape: str
) -> None:
    server.overflow = shape
    server.context = 50
    model = opened()
    with pytest.raises(ContextOverflowError, match=r"does not fit into its context: .*4096 tokens"):
        model.sample([{"role": "user", "content": "word " * 60}])
    assert len(server.requests) == 1
    assert model.sample(ASK)[0].text == COUNTED


SAID_ELSEWHERE = {
    "newer vLLM": (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is "
        "4096 tokens and your request has 100 input tokens",
    ),
    "TGI": (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 + 512",
    ),
    "Anthropic": (400, "prompt is too long: 5000 tokens > 4096 maximum"),
    "Mistral": (400, "Prompt contains 5000 tokens, too large for model with 4096 maximum context length"),
    "Gemini": (400, "The input token count (5000) exceeds the maximum number of tokens allowed (4096)."),
    "a proxy": (
        500,
        "litellm.ContextWindowExceededError: This model's maximum context length is 4096 tokens",
    ),
}


@pytest.mark.parametrize(("status", "message"), SAID_ELSEWHERE.values(), ids=SAID_ELSEWHERE.keys())
def test_other_servers_say_it_in_other_words(
    server: Endpoint, opened: Open, status: int, message: str
) -> None:
    server.answer = lambda _: refused(status, message)
    with pytest.raises(ContextOverflowError):
        opened().sample(ASK)
    assert len(server.requests) == 1


def test_a_reply_that_speaks_of_contexts_is_a_reply(server: Endpoint, opened: Open) -> None:
    server.answer = lambda _: chat_reply("The maximum context length is 4096 tokens.")
    assert opened().sample(ASK)[0].text.startswith("The maximum")


# All at once


def test_with_every_fault_at_ten_percent_every_call_is_answered(server: Endpoint, opened: Open) -> None:
    """Nine faults at once: nine of ten requests fail. Text and tokens of every call are whole."""
    server.faults = dict.fromkeys(TEMPORARY, 0.1)
    model = opened(seconds=0.1, retries=500, ceiling=32)
    with ThreadPoolExecutor(32) as pool:
        done = [one for (one,) in pool.map(lambda _: model.sample(ASK, prefix="Zebra: one"), range(40))]
    assert {(one.text, one.prefill, one.tokens_out) for one in done} == {
        (" two three four five six seven", "continue", 6)
    }
    assert {name for name in TEMPORARY if server.given[name]} == set(TEMPORARY)


def test_the_server_carries_calls_side_by_side_from_a_process_of_its_own() -> None:
    with serve_apart("--latency", "0.3", "--fault", "busy=0.05") as url:
        model = OpenAICompatibleModel("m", url)
        with ThreadPoolExecutor(64) as pool:
            assert len(list(pool.map(lambda _: model.sample(ASK), range(64)))) == 64
        model.close()
