"""Samples that share a prefill, and steps that keep it, are the samples that would be drawn without.

On a model of a few thousand random weights; with `-m models` on the real student too, which takes minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from students import tiny_student
from transformers import AutoModelForCausalLM, MambaConfig, MistralConfig, TopPLogitsWarper

from agentdistill import catalog
from agentdistill.errors import ContextOverflowError, ModelError
from agentdistill.models import decode
from agentdistill.models.kept import Sampled
from agentdistill.models.transformers_model import TransformersModel
from agentdistill.types import Completion, FinishReason, Message, Sampling

ASK: list[Message] = [
    {"role": "system", "content": "Solve the task in steps: a thought, then Python."},
    {"role": "user", "content": "Ada has 3 pens and gets 14 more. How many has she?\nBob has none."},
]
WARM = Sampling(temperature=1.0, top_p=0.9, max_tokens=48, seed=5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing by a second thread, and wait for it where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    scope="module",
    params=["llama", "qwen2", pytest.param("smollm2-135m", marks=[pytest.mark.models, pytest.mark.slow])],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    if request.param in ("llama", "qwen2"):
        return tiny_student(path, request.param)
    from agentdistill.training.base import load_model
    from agentdistill.training.sft import load_student_tokenizer

    base = catalog.fetch(request.param)
    load_model(base, torch.float32).save_pretrained(path)
    load_student_tokenizer(base).save_pretrained(path)
    return path


@pytest.fixture
def model(folder: Path) -> TransformersModel:
    return TransformersModel(str(folder), device="cpu")


@pytest.fixture
def forgetful(folder: Path) -> TransformersModel:
    """Keeps the ids of what it sampled, but no keys and values."""
    return TransformersModel(str(folder), device="cpu", kept_bytes=0)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Iterator[torch.nn.Module]:
    yield AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def common_letter(drawn: list[Completion]) -> str:
    """A stop string that ends some of the samples early and at different places."""
    letters = sorted({letter for one in drawn for letter in one.text[2:] if letter.isalpha()})
    return max(letters, key=lambda x: len({one.text.find(x) for one in drawn if x in one.text[2:]}))


def test_eight_samples_are_the_eight_drawn_one_by_one(
    model: TransformersModel, forgetful: TransformersModel
) -> None:
    stop = [common_letter(model.sample(ASK, 8, sampling=WARM))]
    together = model.sample(ASK, 8, stop=stop, sampling=WARM)
    assert len({one.tokens_out for one in together}) > 2  # rows have left the batch at different times
    assert len({one.token_ids for one in together}) > 4
    for index, one in enumerate(together):
        (alone,) = forgetful.sample(ASK, 1, stop=stop, sampling=replace(WARM, seed=WARM.seed + index))
        assert replace(one, tokens_in=alone.tokens_in) == alone


def test_rows_compute_the_logits_of_their_whole_text(
    model: TransformersModel, stock: torch.nn.Module
) -> None:
    prompt, count = list(range(3, 90)), 4
    keys_values, logits = decode.prefill(model._model, prompt, None)
    rows = decode.Rows(model._model, keys_values, count)
    texts = [[*prompt] for _ in range(count)]
    generator = torch.Generator().manual_seed(1)
    for step in range(decode.TAIL + 8):  # past the room that rows start with
        if step == 20:
            rows.keep([3, 0, 1])
            texts = [texts[3], texts[0], texts[1]]
        tokens = torch.randint(3, 300, (len(texts),), generator=generator).tolist()
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        logits = rows.step(tokens)
    with torch.no_grad():
        expected = stock(torch.tensor(texts)).logits[:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_greedy_is_what_generate_of_transformers_writes(
    model: TransformersModel, stock: torch.nn.Module
) -> None:
    (done,) = model.sample(ASK, sampling=Sampling(max_tokens=40))
    ids = model.tokenizer(model.template.render(ASK), add_special_tokens=False, return_tensors="pt")
    written = stock.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert done.token_ids is not None
    assert list(done.token_ids) == written.tolist()[: len(done.token_ids)]
    assert done.tokens_out == len(written)


def trajectory(model: TransformersModel, steps: int = 4) -> list[list[Completion]]:
    """Steps of four candidates each; the winner goes on, another one at each step."""
    messages, drawn = [*ASK], []
    for step in range(steps):
        drawn.append(model.sample(messages, 4, sampling=replace(WARM, max_tokens=16 + step)))
        winner = drawn[-1][step % 4].text + "</code>"
        messages += [
            {"role": "assistant", "content": winner},
            {"role": "user", "content": f"Observation:\n{step}"},
        ]
    return drawn


def test_steps_that_keep_the_cache_draw_what_steps_without_draw(
    model: TransformersModel, forgetful: TransformersModel
) -> None:
    assert trajectory(model) == trajectory(forgetful)
    assert model.prefilled < forgetful.prefilled / 2


def test_a_step_forward_passes_only_what_is_new(model: TransformersModel) -> None:
    (done,) = model.sample(ASK, sampling=WARM)
    before = model.prefilled
    history: list[Message] = [*ASK, {"role": "assistant", "content": done.text}]
    history.append({"role": "user", "content": "Observation:\n17"})
    model.sample(history, sampling=Sampling(max_tokens=1))
    rendered = model.template.render(history)
    new = rendered[len(model.template.render(ASK)) + len(done.text) :]
    # One more than the text that is new: a sample's last token is drawn, not forward-passed.
    assert model.prefilled - before <= len(model.tokenizer(new, add_special_tokens=False)["input_ids"]) + 1


def test_the_next_prompt_holds_the_sampled_ids_and_spells_the_rendered_text(
    model: TransformersModel,
) -> None:
    drawn = model.sample(ASK, 4, prefix="Thought: naïve", sampling=WARM)
    tokens = model.tokenizer
    for one in drawn:
        assert one.token_ids is not None
        turn: Message = {"role": "assistant", "content": "Thought: naïve" + one.text}
        history = [*ASK, turn, Message(role="user", content="Observation:\n1")]
        rendered = model.template.render(history)
        ids = model._kept.encode(rendered)
        assert tokens.decode(ids, clean_up_tokenization_spaces=False) == rendered
        before = tokens(model.template.render(ASK, "Thought: naïve"), add_special_tokens=False)["input_ids"]
        assert list(ids[: len(before)]) == before
        after = tokens("<|im_end|>\n<|im_start|>user\nObservation:\n1<|im_end|>\n<|im_start|>assistant\n")
        assert list(ids[-len(after["input_ids"]) :]) == after["input_ids"]
        middle = list(ids[len(before) : -len(after["input_ids"])])
        # All that was sampled, or up to a character or control token that the text doesn't hold whole.
        sampled = [i for i in one.token_ids if i < len(tokens)]
        if not set(sampled) & set(tokens.all_special_ids) and "�" not in tokens.decode(sampled):
            assert [i for i in middle if i < len(tokens)] == sampled


def test_sampled_ids_go_in_though_the_tokenizer_spells_the_text_otherwise(model: TransformersModel) -> None:
    letters = [model.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "Thought"]
    prompt = model.template.render(ASK)
    draw, *_ = model._prefill(prompt, model._kept.encode(prompt))
    spelled = Sampled(tuple(letters), "Thought", 7, tuple(range(1, 8)), None)
    model._kept.add_sample(draw, spelled)
    assert list(model._kept.encode(prompt + "Thought<|im_end|>")[-8:-1]) == letters
    whole = model.tokenizer(prompt + "Though so", add_special_tokens=False)["input_ids"]
    assert list(model._kept.encode(prompt + "Though so")) == whole  # another turn: not ours


def test_a_stop_string_is_found_across_tokens(model: TransformersModel) -> None:
    (whole,) = model.sample(ASK, sampling=WARM)
    assert len(whole.text) > 12
    mark = whole.text[5:11]
    (cut,) = model.sample(ASK, stop=["not in there", mark], sampling=WARM)
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert cut.finish_reason is FinishReason.STOP
    assert cut.tokens_out is not None and cut.tokens_out < 48


def test_cancelled_samples_come_back_as_they_are(model: TransformersModel) -> None:
    stop = [common_letter(model.sample(ASK, 8, sampling=WARM))]
    whole = model.sample(ASK, 8, stop=stop, sampling=WARM)
    enough = threading.Event()
    drawn = {}
    for index, one in model.draw(ASK, 8, stop=stop, sampling=WARM, cancelled=enough):
        drawn[index] = one
        enough.set()
    assert sorted(drawn) == list(range(8))
    cancelled = [i for i in drawn if drawn[i].finish_reason is FinishReason.CANCELLED]
    assert cancelled
    for index, one in drawn.items():
        assert whole[index].text.startswith(one.text)
        if index in cancelled:
            assert (one.tokens_out or 0) < (whole[index].tokens_out or 0)
        else:
            assert one == whole[index]


def test_a_draw_that_is_dropped_holds_nothing_up(model: TransformersModel) -> None:
    expected = model.sample(ASK, 3, sampling=WARM)
    unfinished = model.draw(ASK, 3, sampling=WARM)
    next(unfinished)
    assert model.sample(ASK, 3, sampling=WARM) == expected  # within another draw of the same thread


def test_threads_draw_what_one_draws(model: TransformersModel, forgetful: TransformersModel) -> None:
    asks = [[*ASK, Message(role="assistant", content="1"), Message(role="user", content=x)] for x in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ask: model.sample(ask, 3, sampling=WARM), asks))
    assert together == [forgetful.sample(ask, 3, sampling=WARM) for ask in asks]


def test_what_is_kept_stays_within_its_bound(folder: Path) -> None:
    probe = TransformersModel(str(folder), device="cpu")
    probe.sample(ASK, sampling=WARM)
    one_draw = sum(draw.size() for draw in probe._kept._draws)
    model = TransformersModel(str(folder), device="cpu", kept_bytes=2 * one_draw)
    for word in "abcdefgh":
        model.sample([*ASK, Message(role="user", content=word)], sampling=WARM)
        assert 0 < sum(draw.size() for draw in model._kept._draws) <= 2 * one_draw


def test_a_full_context_ends_the_last_samples_and_not_the_first_ones(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = [common_letter(model.sample(ASK, 8, sampling=WARM))]
    whole = model.sample(ASK, 8, stop=stop, sampling=WARM)
    ended = sorted(one.tokens_out or 0 for one in whole)
    assert whole[0].tokens_in is not None
    monkeypatch.setattr(model._model.config, "max_position_embeddings", whole[0].tokens_in + ended[0])
    some = model.sample(ASK, 8, stop=stop, sampling=WARM)
    assert {one.finish_reason for one in some} == {FinishReason.STOP, FinishReason.LENGTH}
    with pytest.raises(ContextOverflowError):
        model.sample(ASK, 8, stop=["not in there"], sampling=replace(WARM, temperature=0.0))


@pytest.mark.parametrize("top_p", [0.3, 0.8, 0.99, 1.0])
def test_tokens_are_drawn_from_the_nucleus_as_often_as_they_are_likely(top_p: float) -> None:
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(0)) * 3
    kept = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), logits / 0.7)
    likely = kept.softmax(-1)[0]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    drawn = decode.choose(logits.expand(4000, -1), generators, 0.7, top_p)
    often = torch.bincount(torch.tensor(drawn), minlength=400) / 4000
    assert bool((likely[often > 0] > 0).all())
    deviation = (likely * (1 - likely) / 4000).sqrt()
    assert bool(((often - likely).abs() <= 5 * deviation + 1 / 4000).all())


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_broken_weights_are_an_error(model: TransformersModel, temperature: float) -> None:
    with torch.no_grad():
        model._model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers"):
        model.sample(ASK, sampling=replace(WARM, temperature=temperature))


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4),
        MistralConfig(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                      num_attention_heads=2, num_key_value_heads=2, sliding_window=8),
    ],
    ids=["mamba", "sliding"],
)  # fmt: skip
def test_models_without_a_full_cache_are_refused(config: MambaConfig | MistralConfig) -> None:
    with pytest.raises(ModelError, match="no full key-value cache"):
        decode.check_supported(AutoModelForCausalLM.from_config(config))
