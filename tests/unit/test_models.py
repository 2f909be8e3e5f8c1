"""Models: messages, chat templates, the scripted model and what a SPEC names."""

from __future__ import annotations

from pathlib import Path

import pytest
from smolagents.models import ChatMessage, MessageRole, get_clean_message_list, tool_role_conversions

from agentdistill import catalog
from agentdistill.errors import ModelError, UnknownModelError
from agentdistill.models.base import plain_messages
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.spec import open_model
from agentdistill.models.template import ChatTemplate
from agentdistill.types import ActionModel, Message

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
    "openai:gpt@http://host:8000/v1#context=9": r"'context=9' is no setting \(openai:NAME@URL#template",
    "openai:gpt@http://host:8000/v1#template=/nowhere": "cannot load the tokenizer of /nowhere",
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
