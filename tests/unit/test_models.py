"""Models: what reaches an engine, what comes back, and what each kind of server does with a prefix."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from smolagents.models import ChatMessage, MessageRole, get_clean_message_list, tool_role_conversions

from agentdistill import catalog
from agentdistill.errors import ModelError, UnknownModelError
from agentdistill.models.base import plain_messages
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.spec import open_model
from agentdistill.models.template import ChatTemplate
from agentdistill.types import ActionModel, FinishReason, Message, Sampling

ASK: list[Message] = [{"role": "user", "content": "Count."}]


def say(role: MessageRole, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=[{"type": "text", "text": text}])


# Messages

CONVERSATIONS = {
    "plain": [(MessageRole.SYSTEM, "s"), (MessageRole.USER, "u"), (MessageRole.ASSISTANT, "a")],
    "two turns of one role": [
        (MessageRole.USER, "u"),
        (MessageRole.USER, "v\n"),
        (MessageRole.ASSISTANT, ""),
    ],
    "a tool's response after a turn of the user": [
        (MessageRole.USER, "u"),
        (MessageRole.TOOL_RESPONSE, "Observation: 2"),
        (MessageRole.ASSISTANT, "a"),
        (MessageRole.TOOL_RESPONSE, "Observation: 3"),
    ],
}


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_messages_read_as_smolagents_own_models_read_them(turns: list[tuple[MessageRole, str]]) -> None:
    messages = [say(role, text) for role, text in turns]
    theirs = get_clean_message_list(
        messages, role_conversions=tool_role_conversions, flatten_messages_as_text=True
    )
    assert plain_messages(messages) == [{"role": m["role"].value, "content": m["content"]} for m in theirs]


def test_echoes_of_tool_calls_are_dropped() -> None:
    messages = [
        say(MessageRole.USER, "u"),
        say(MessageRole.ASSISTANT, "Thought: a"),
        say(MessageRole.TOOL_CALL, "Calling tools: [...]"),
        say(MessageRole.TOOL_RESPONSE, "Observation: 2"),
    ]
    assert plain_messages(messages) == [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "Thought: a"},
        {"role": "user", "content": "Observation: 2"},
    ]


def test_plain_dicts_pass_through_as_they_are() -> None:
    messages: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert plain_messages(messages) == messages


def test_an_image_is_refused() -> None:
    message = ChatMessage(role=MessageRole.USER, content=[{"type": "image", "image": b""}])
    with pytest.raises(ValueError, match="only text"):
        plain_messages([message])


# Chat templates

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_prompt_ends_where_the_prefix_ends() -> None:
    text = ChatTemplate(CHATML).render(ASK, "Thought: one")
    assert text == "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nThought: one"


def test_a_template_sees_the_special_tokens() -> None:
    assert ChatTemplate("{{ bos_token }}|{{ eos_token }}", "<s>", "</s>").render(ASK) == "<s>|</s>"


HOSTILE = {
    "climbs to the classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "climbs through a global": "{{ raise_exception.__globals__['json'] }}",
    "changes the messages": "{{ messages.append(1) }}",
    "counts for ever": "{% for i in range(10**9) %}{% endfor %}",
    "formats its way out": "{{ '{0.__class__.__mro__}'.format(1) }}{{ ''.__class__.__mro__[1] }}",
    "reads what is not there": "{{ messages[0].nothing.more }}",
    "divides by zero": "{{ 1 / 0 }}",
    "refuses by itself": "{{ raise_exception('roles must alternate') }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_or_broken_template_is_a_model_error(source: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(ModelError, match="chat template refuses this conversation"):
        template.render(ASK)
    assert ASK == [{"role": "user", "content": "Count."}]


def test_a_template_that_is_no_jinja_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="chat template cannot be read"):
        ChatTemplate("{% for %}")


# The scripted model


def test_the_script_is_read_in_order_and_its_last_line_for_ever() -> None:
    model = ScriptedModel(["one", "two"])
    assert [model.sample(ASK)[0].text for _ in range(3)] == ["one", "two", "two"]
    assert model.calls == [tuple(ASK)] * 3


def test_a_script_may_be_a_function_or_fail() -> None:
    assert ScriptedModel(lambda messages: messages[-1]["content"].upper()).sample(ASK)[0].text == "COUNT."
    with pytest.raises(ModelError, match="gone"):
        ScriptedModel([ModelError("gone")]).sample(ASK)


def test_a_script_stops_at_the_first_stop_string() -> None:
    model = ScriptedModel(["Thought: x <code>y</code> z"])
    assert model.sample(ASK, stop=["</code>", "x"])[0].text == "Thought: "


def test_every_model_of_ours_is_an_action_model_and_a_smolagents_model() -> None:
    model = ScriptedModel(["one two"])
    assert isinstance(model, ActionModel)
    message = model.generate([say(MessageRole.USER, "a b c")], stop_sequences=["two"])
    assert message.content == "one " and message.role == MessageRole.ASSISTANT
    assert message.raw.text == "one "
    assert (message.token_usage.input_tokens, message.token_usage.output_tokens) == (3, 1)


# SPEC

BAD_SPECS = {
    "nonsense": r"no model 'nonsense' \(give a catalog name",
    "": "no model ''",
    "openai:gpt": "no model 'openai:gpt'",
    "openai:gpt@host:8000": "'host:8000' is no URL",
    "llamacpp:": "no model 'llamacpp:'",
    "llamacpp:nowhere.gguf": r"there is no file nowhere\.gguf",
}


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_a_spec_that_names_nothing_is_one_line(spec: str) -> None:
    with pytest.raises(UnknownModelError, match=BAD_SPECS[spec]) as caught:
        open_model(spec)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_refusal_names_the_catalog() -> None:
    with pytest.raises(UnknownModelError) as caught:
        open_model("nonsense")
    assert all(entry.name in str(caught.value) for entry in catalog.ENTRIES)


def test_an_openai_spec_may_have_an_at_sign_in_its_name() -> None:
    model = open_model("openai:org/model@v2@http://127.0.0.1:1/v1")
    assert model.fingerprint() == {
        "engine": "openai",
        "model": "org/model@v2",
        "base_url": "http://127.0.0.1:1/v1",
    }
    model.close()


def test_a_file_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownModelError, match="transformers cannot load"):
        open_model(str(tmp_path))


# OpenAI-compatible servers. All of them "know" one text and behave around it as real servers do.

COUNTED = "Zebra: one two three four five six seven"
"""What these servers' model writes, whatever it is asked."""

Reply = tuple[int, bytes]


def completion(*texts: str, finish: str = "stop", usage: bool = True) -> Reply:
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts)
        ],
    }
    if usage:
        out = sum(len(text.split()) for text in texts)
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": out, "total_tokens": 10 + out}
    return 200, json.dumps(body).encode()


def refused(status: int, message: str) -> Reply:
    return status, json.dumps({"error": {"message": message}}).encode()


def given_prefix(request: dict[str, Any]) -> str:
    last = request["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else ""


def rest(prefix: str) -> str:
    return COUNTED.removeprefix(prefix) if COUNTED.startswith(prefix) else " four and so on"


def vllm(request: dict[str, Any]) -> Reply:
    """Continues the last message when told to, and then sends the continuation only."""
    if given_prefix(request) and not request.get("continue_final_message"):
        return completion(*["I counted already."] * request["n"])
    if request.get("continue_final_message") and request.get("add_generation_prompt", True):
        return refused(400, "Cannot set both `continue_final_message` and `add_generation_prompt`")
    return completion(*[rest(given_prefix(request))] * request["n"])


def llama_server(request: dict[str, Any]) -> Reply:
    """Knows no `continue_final_message`; continues a trailing assistant turn and sends all of it."""
    prefix = given_prefix(request)
    return completion(*[prefix + rest(prefix)] * request["n"])


def trailing_only(request: dict[str, Any]) -> Reply:
    """Refuses unknown fields, continues a trailing assistant turn."""
    if "continue_final_message" in request:
        return refused(422, "extra fields not permitted")
    return completion(*[rest(given_prefix(request))] * request["n"])


def no_trailing_assistant(request: dict[str, Any]) -> Reply:
    """Refuses a conversation that ends with the assistant; does as it is told in words."""
    if given_prefix(request):
        return refused(400, "the last message must be from the user")
    _, asked, prefix = request["messages"][-1]["content"].partition("go on from it:\n")
    return completion(*[prefix + rest(prefix) if asked else COUNTED] * request["n"])


def deaf(request: dict[str, Any]) -> Reply:
    """Takes any conversation and starts a turn of its own."""
    return completion(*["Sure! one, two, three."] * request["n"])


@dataclass
class Server:
    """A real HTTP server whose `behave` may be changed; `requests` keeps the chat requests it got."""

    url: str
    behave: Callable[[dict[str, Any]], Reply] = vllm
    content_type: str = "application/json"
    requests: list[dict[str, Any]] = field(default_factory=list)

    def model(self, retries: int = 0) -> OpenAICompatibleModel:
        return OpenAICompatibleModel("m", self.url, retries=retries, seconds=20)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(request)
            status, body = state.behave(request)
            self.send_response(status)
            self.send_header("content-type", state.content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_port}/v1")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def model(server: Server) -> Iterator[OpenAICompatibleModel]:
    model = server.model()
    yield model
    model.close()


LADDER = {
    "vllm": (vllm, "continue", " five six seven"),
    "llama-server": (llama_server, "continue", " five six seven"),
    "trailing only": (trailing_only, "trailing", " five six seven"),
    "no trailing assistant": (no_trailing_assistant, "emulated", " five six seven"),
    "deaf": (deaf, "ignored", "Sure! one, two, three."),
}


@pytest.mark.parametrize(("behave", "rung", "text"), LADDER.values(), ids=LADDER.keys())
def test_a_prefix_goes_by_the_highest_rung_that_works(
    server: Server, model: OpenAICompatibleModel, behave: Callable[..., Reply], rung: str, text: str
) -> None:
    server.behave = behave
    first, second = model.sample(ASK, 2, prefix="Zebra: one two three four")
    assert (first.prefill, first.text) == (rung, text)
    assert second == type(first)(text, tokens_in=0, tokens_out=second.tokens_out, prefill=rung)


def test_the_ladder_is_climbed_once(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = no_trailing_assistant
    for _ in range(2):
        model.sample(ASK, prefix="Zebra: one")
    assert len(server.requests) == 2 + 2, "two probes, two calls"


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_server_that_is_busy_or_broken_is_not_taken_for_one_that_cannot_continue(
    server: Server, model: OpenAICompatibleModel, status: int
) -> None:
    server.behave = lambda _: refused(status, "not now")
    with pytest.raises(ModelError, match="not now"):
        model.sample(ASK, prefix="Zebra: one")
    server.behave = vllm
    assert model.sample(ASK, prefix="Zebra: one")[0].prefill == "continue"


def test_without_a_prefix_nothing_is_probed(server: Server, model: OpenAICompatibleModel) -> None:
    (done,) = model.sample(ASK)
    assert (done.text, done.prefill) == (COUNTED, "")
    assert len(server.requests) == 1
    assert "continue_final_message" not in server.requests[0]


def test_what_is_asked_is_what_was_set(server: Server, model: OpenAICompatibleModel) -> None:
    how = Sampling(temperature=0.7, top_p=0.9, max_tokens=33, seed=5)
    model.sample(ASK, 3, stop=["</code>"], sampling=how)
    (request,) = server.requests
    wanted = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 33, "seed": 5, "n": 3, "stop": ["</code>"]}
    assert wanted.items() <= request.items()
    assert request["messages"] == ASK


def test_a_server_that_ignores_n_is_asked_for_the_rest(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = lambda request: completion(f"sample {request['seed']}")
    done = model.sample(ASK, 3, sampling=Sampling(seed=5))
    assert [c.text for c in done] == ["sample 5", "sample 6", "sample 7"], "each needs a seed of its own"
    assert sum(c.tokens_in for c in done) == 30 and sum(c.tokens_out for c in done) == 6


def test_a_server_that_sends_too_many_is_cut(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = lambda _: completion("a", "b", "c")
    assert [c.text for c in model.sample(ASK, 2)] == ["a", "b"]


def test_tokens_add_up_to_what_the_server_counted(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = lambda _: completion("a b", "c d e", "f g")
    done = model.sample(ASK, 3)
    assert [c.tokens_in for c in done] == [10, 0, 0], "the prompt is computed once"
    assert sum(c.tokens_out for c in done) == 7


def test_a_server_that_counts_nothing_costs_nothing(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = lambda _: completion("a", usage=False)
    assert model.sample(ASK)[0] == type(model.sample(ASK)[0])("a")


def test_a_reply_cut_by_length_says_so(server: Server, model: OpenAICompatibleModel) -> None:
    server.behave = lambda _: completion("a", finish="length")
    assert model.sample(ASK)[0].finish_reason is FinishReason.LENGTH


def test_half_an_emoji_in_a_reply_becomes_a_question_mark(
    server: Server, model: OpenAICompatibleModel
) -> None:
    server.behave = lambda _: completion("a \ud83d")
    assert model.sample(ASK)[0].text == "a ?"


def test_half_an_emoji_in_a_question_is_sent_as_a_question_mark(
    server: Server, model: OpenAICompatibleModel
) -> None:
    model.sample([{"role": "user", "content": "a \ud83d"}], prefix="\ud83d")
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["a ?", "?"]


BROKEN: dict[str, tuple[Reply, str]] = {
    "no choices": (completion(), "no choices"),
    "choices that are null": ((200, b'{"choices": null}'), "no choices"),
    "an error in a 200": ((200, b'{"error": "overloaded"}'), "did not answer"),
    "a choice without a message": ((200, b'{"choices": [{}]}'), "did not answer"),
    "usage that is text": (
        (200, b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": "x"}}'),
        "did not answer",
    ),
    "a list": ((200, b"[]"), "did not answer"),
    "garbage": ((200, b"{oops"), "did not answer"),
    "nothing": ((200, b""), "did not answer"),
    "an error page of many lines": (
        (500, b"<html>\n" + b"<p>sorry</p>\n" * 1000),
        "did not answer: Error code",
    ),
    "a refusal": (refused(400, "context\nlength exceeded"), "context.{1,2}length exceeded"),
}


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
@pytest.mark.parametrize(("reply", "complaint"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_reply_is_one_line_with_model_and_address(
    server: Server, model: OpenAICompatibleModel, reply: Reply, complaint: str, content_type: str
) -> None:
    server.behave = lambda _: reply
    server.content_type = content_type
    with pytest.raises(ModelError, match=complaint if content_type == "application/json" else None) as caught:
        model.sample(ASK)
    line = str(caught.value)
    assert line.startswith(f"m at {server.url}") and "\n" not in line and len(line) < 500


def test_a_server_that_is_not_there_is_one_line() -> None:
    model = OpenAICompatibleModel("m", "http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(ModelError, match=r"m at http://127\.0\.0\.1:9/v1 did not answer: Connection error"):
        model.sample(ASK)
    model.close()


def test_a_hiccup_is_tried_again(server: Server) -> None:
    server.behave = lambda request: (
        completion("a") if len(server.requests) > 1 else refused(503, "starting up")
    )
    model = server.model(retries=1)
    assert model.sample(ASK)[0].text == "a"
    model.close()


def test_the_key_comes_from_the_environment_and_may_be_empty(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    model = server.model()
    assert model.sample(ASK)[0].text == COUNTED
    model.close()
