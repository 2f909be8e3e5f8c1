"""The prefill ladder: what each kind of server does with a prefix, and which rung it is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import CHATML, COUNTED, STYLES, Endpoint, chat_reply, refused, serve

from agentdistill.errors import ModelError, UnknownModelError
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.models.spec import open_model
from agentdistill.types import Message

ASK: list[Message] = [{"role": "user", "content": "Count."}]
BEGUN = "Zebra: one two three four"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as endpoint:
        yield endpoint


@pytest.fixture
def model(server: Endpoint) -> Iterator[OpenAICompatibleModel]:
    model = OpenAICompatibleModel("m", server.url, retries=0, seconds=20)
    yield model
    model.close()


LADDER = {
    "vllm": ("continue", " five six seven"),
    "llama-server": ("continue", " five six seven"),
    "trailing": ("trailing", " five six seven"),
    "prefix": ("prefix", " five six seven"),
    "no-trailing": ("emulated", " five six seven"),
    "deaf": ("ignored", "Sure! One."),
}


def test_every_kind_of_server_is_tried() -> None:
    assert LADDER.keys() == STYLES.keys()


@pytest.mark.parametrize("style", STYLES)
def test_a_prefix_goes_by_the_highest_rung_that_works(
    server: Endpoint, model: OpenAICompatibleModel, style: str
) -> None:
    rung, text = LADDER[style]
    server.style = style
    if style == "deaf":
        server.script = lambda _: "Sure! One."
    first, second = model.sample(ASK, 2, prefix=BEGUN)
    assert (first.prefill, first.text) == (rung, text)
    assert second == type(first)(text, tokens_in=0, tokens_out=second.tokens_out, prefill=rung)


def test_the_ladder_is_climbed_once(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.style = "no-trailing"
    for _ in range(2):
        model.sample(ASK, prefix="Zebra: one")
    assert len(server.requests) == 3 + 2, "three probes, two calls"


def test_the_ladder_is_climbed_once_by_many_threads(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.style = "prefix"
    server.latency = 0.05
    rungs: list[str] = []
    threads = [
        threading.Thread(target=lambda: rungs.append(model.sample(ASK, prefix=BEGUN)[0].prefill))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rungs == ["prefix"] * 8
    assert len(server.requests) == 3 + 8


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_server_that_is_busy_or_broken_is_not_taken_for_one_that_cannot_continue(
    server: Endpoint, model: OpenAICompatibleModel, status: int
) -> None:
    server.answer = lambda _: refused(status, "not now")
    with pytest.raises(ModelError, match="not now"):
        model.sample(ASK, prefix="Zebra: one")
    server.answer = lambda _: None
    assert model.sample(ASK, prefix="Zebra: one")[0].prefill == "continue"


def test_a_probe_that_does_not_fit_is_no_overflow_of_the_conversation(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.context = 1
    with pytest.raises(ModelError, match="a probe of 20 letters was refused") as caught:
        model.sample(ASK, prefix=BEGUN)
    assert type(caught.value) is ModelError, "nobody can shorten it"


def test_a_reply_that_does_not_come_back_with_the_prefix_stands_alone(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    server.style = "llama-server"
    assert model.sample(ASK, prefix=BEGUN)[0].prefill == "continue"
    server.answer = lambda _: chat_reply("Sure! One.")
    (done,) = model.sample(ASK, prefix=BEGUN)
    assert (done.prefill, done.text) == ("ignored", "Sure! One.")


@pytest.mark.parametrize(("style", "rung"), [("trailing", "trailing"), ("no-trailing", "emulated")])
def test_a_server_that_comes_to_refuse_a_rung_is_taken_down_the_ladder(
    server: Endpoint, model: OpenAICompatibleModel, style: str, rung: str
) -> None:
    assert model.sample(ASK, prefix=BEGUN)[0].prefill == "continue"
    server.style = style
    assert model.sample(ASK, prefix=BEGUN)[0].prefill == rung
    seen = len(server.requests)
    assert model.sample(ASK, prefix=BEGUN)[0].text == " five six seven"
    assert len(server.requests) == seen + 1, "it is known by now"


def test_a_refusal_that_is_not_about_the_rung_is_told_as_it_is_and_costs_no_rung(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    for _ in range(2):  # before anything is known of the endpoint, and after
        server.answer = lambda request: refused(400, f"no model {request['model']!r}")
        with pytest.raises(ModelError, match="no model 'm'"):
            model.sample(ASK, prefix=BEGUN)
        server.answer = lambda _: None
        assert model.sample(ASK, prefix=BEGUN)[0].prefill == "continue"


def test_a_model_that_repeats_itself_is_not_taken_for_a_server_that_echoes(
    server: Endpoint, model: OpenAICompatibleModel
) -> None:
    model.sample(ASK, prefix=BEGUN)
    server.answer = lambda _: chat_reply("Thought: I see.\nThought: I see. So 4.")
    assert model.sample(ASK, prefix="Thought: I see.")[0].text == "Thought: I see.\nThought: I see. So 4."


# /v1/completions over a chat template


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    backend = Tokenizer(WordLevel({"<s>": 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", bos_token="<s>")
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    tokenizer.save_pretrained(folder)
    return folder


def test_with_a_template_the_prefix_goes_by_completions(server: Endpoint, tokenizer_folder: Path) -> None:
    server.style = "no-trailing"
    model = OpenAICompatibleModel("m", server.url, retries=0, template=str(tokenizer_folder))
    first, second = model.sample(ASK, 2, prefix=BEGUN, stop=["seven"])
    assert (first.prefill, first.text, second.text) == ("completions", " five six ", " five six ")
    assert server.paths[-1] == "/v1/completions"
    assert server.requests[-1]["prompt"] == (
        "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n" + BEGUN
    ), "the server puts the first token in front by itself"
    assert model.sample(ASK)[0].prefill == "" and server.paths[-1] == "/v1/chat/completions"
    assert model.fingerprint()["template"] == str(tokenizer_folder)
    model.close()


def test_a_spec_names_the_template_behind_the_url(server: Endpoint, tokenizer_folder: Path) -> None:
    server.style = "no-trailing"
    model = open_model(f"openai:m@{server.url}#template={tokenizer_folder}")
    assert model.sample(ASK, prefix=BEGUN)[0].prefill == "completions"
    assert model.fingerprint()["base_url"] == server.url
    model.close()


def test_the_template_may_come_from_the_server(server: Endpoint, model: OpenAICompatibleModel) -> None:
    server.style = "no-trailing"
    server.props = True
    (done,) = model.sample(ASK, prefix=BEGUN)
    assert (done.prefill, done.text) == ("completions", " five six seven")


def test_without_the_route_the_prefix_is_asked_for_in_words(server: Endpoint, tokenizer_folder: Path) -> None:
    server.style = "no-trailing"
    server.completions = False
    model = OpenAICompatibleModel("m", server.url, retries=0, template=str(tokenizer_folder))
    assert model.sample(ASK, prefix=BEGUN)[0].prefill == "emulated"
    model.close()


def test_tokens_a_server_does_not_count_are_counted_with_the_tokenizer(
    server: Endpoint, tokenizer_folder: Path
) -> None:
    server.counts = False
    model = OpenAICompatibleModel("m", server.url, retries=0, template=str(tokenizer_folder))
    first, second = model.sample(ASK, 2)
    assert (first.tokens_in, second.tokens_in) == (4, 0), "<s> and three words"
    assert first.tokens_out == second.tokens_out == len(COUNTED.split())
    model.close()


def test_a_template_that_is_none_is_one_line(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="cannot load the tokenizer") as caught:
        OpenAICompatibleModel("m", server.url, template=str(tmp_path))
    assert "\n" not in str(caught.value)
