"""What each objective optimises, on a tiny model; and that packed rows never see each other."""

import math
from dataclasses import replace

import pytest
import torch
from students import CONVERSATIONS, conversation, tiny_student
from transformers import AutoModelForCausalLM

from agentdistill import catalog
from agentdistill.errors import TrainingError
from agentdistill.training.base import load_model
from agentdistill.training.objectives.masked_thought import add_noise, thought_mask
from agentdistill.training.packing import WITHIN_ROWS, collate, row_losses, shared_length
from agentdistill.training.rows import IGNORED, encode_row, encode_rows
from agentdistill.training.sft import SftConfig, load_student_tokenizer, train

SETTINGS = SftConfig(
    method="full", learning_rate=1e-2, epochs=4, batch_size=2, max_length=512, checkpoint_minutes=9
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_student_tokenizer(tiny)


@pytest.fixture(scope="module")
def rows(tokenizer):
    return encode_rows(CONVERSATIONS, tokenizer, 512).rows


def batch_of(rows):
    return collate([{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in rows])


def losses_alone(model, rows):
    with torch.no_grad():
        return [
            float(model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss)
            for row in rows
        ]


def packed_losses(base, rows):
    model = load_model(base, torch.float32)
    model.set_attn_implementation(WITHIN_ROWS)
    with torch.no_grad():
        return row_losses(model, batch_of(rows)).tolist()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_packed_row_has_the_loss_it_has_alone(tmp_path, architecture):
    base = tiny_student(tmp_path / architecture, architecture)
    tokenizer = load_student_tokenizer(base)
    some = [
        encode_row(name, messages[: 3 + 2 * (n % 2)], tokenizer)
        for n, (name, messages) in enumerate(CONVERSATIONS)
    ]
    alone = losses_alone(load_model(base, torch.float32), some)
    assert packed_losses(base, some) == pytest.approx(alone, abs=1e-5)
    assert packed_losses(base, some[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_gradients_of_packed_rows_are_those_of_rows_alone(tiny, rows):
    def gradients(batches):
        model = load_model(tiny, torch.float32)
        model.set_attn_implementation(WITHIN_ROWS)
        for batch in batches:
            row_losses(model, batch).sum().backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    batch = batch_of(rows)
    assert batch["shared"] > 20 and batch["input_ids"].shape[1] < batch["tokens"]
    packed = gradients([batch])
    for name, alone in gradients([batch_of([row]) for row in rows]).items():
        assert torch.allclose(packed[name], alone, atol=1e-5), name


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([([1, 2, 3, 4], 2)], 0),
        ([([1, 2, 3, 4], 2), ([1, 2, 5, 4], 2)], 1),  # the third token is trained: the second predicts it
        ([([1, 2, 3, 4], 3), ([1, 2, 5, 4], 3)], 2),
        ([([1, 2, 3, 4], 3), ([9, 2, 3, 4], 3)], 0),
        ([([1, 2, 3, 4], 0), ([1, 2, 3, 4], 0)], 0),
        ([([1, 2, 3, 4], 3), ([1, 2, 3], 3)], 2),
        ([([1, 2, 3, 4], 4), ([1, 2, 3, 4], 4)], 3),
    ],
)
def test_what_rows_share_ends_before_what_is_trained(rows, expected):
    examples = [{"input_ids": ids, "labels": [IGNORED] * begin + ids[begin:]} for ids, begin in rows]
    assert shared_length(examples) == expected


@pytest.mark.models
def test_a_packed_row_has_the_loss_it_has_alone_on_the_real_student():
    base = catalog.fetch("smollm2-135m")
    some = encode_rows(CONVERSATIONS, load_student_tokenizer(base), 512).rows
    assert packed_losses(base, some) == pytest.approx(
        losses_alone(load_model(base, torch.float32), some), abs=1e-4
    )


def test_thoughts_are_what_stands_outside_code(tokenizer):
    row = encode_row("r", conversation(8, 9), tokenizer)
    mask = thought_mask(row, tokenizer)
    masked = tokenizer.decode([token for token, flag in zip(row.input_ids, mask, strict=True) if flag])
    assert masked.replace("\n", "") == "Thought: I add 9 to 8.Thought: It is 17."
    assert all(label != IGNORED for label, flag in zip(row.labels, mask, strict=True) if flag)


def test_noise_falls_on_thoughts_alone_and_at_its_rate(rows, tokenizer):
    ids = torch.tensor([rows[0].input_ids * 50])
    thoughts = torch.tensor([thought_mask(rows[0], tokenizer) * 50])
    ordinary = torch.tensor([100, 101, 102])
    torch.manual_seed(0)
    noisy = add_noise(ids, thoughts, 0.4, ordinary)
    changed = noisy != ids
    assert not changed[~thoughts].any()
    assert set(noisy[changed].tolist()) <= {100, 101, 102}
    assert changed[thoughts].float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert torch.equal(add_noise(ids, thoughts, 0.0, ordinary), ids)


def test_masked_thought_learns_and_sees_noise(tiny, rows, tmp_path, monkeypatch):
    from agentdistill.training import trainer

    seen = []
    original = trainer.token_losses

    def recording(model, batch):
        seen.append((batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
        return original(model, batch)

    monkeypatch.setattr(trainer, "token_losses", recording)
    config = replace(SETTINGS, objective="masked-thought", mask_rate=0.5)
    history = train(rows, config, tmp_path / "out", tiny).history
    assert history[-1].loss < history[0].loss
    clean = {row.labels: row.input_ids for row in rows}
    changes = [  # one row a pass, so nothing is shared and rows are whole
        sum(a != b for a, b in zip(ids, clean[tuple(labels)], strict=True)) for ids, labels in seen
    ]
    assert changes[0] == 0  # p begins at 0
    assert min(changes[-6:]) > 0


def pairs(tokenizer):
    made = []
    for n in range(4):
        right, wrong = conversation(3 * n + 2, 5), conversation(3 * n + 2, 5)
        wrong[-1] = {"role": "assistant", "content": "Thought: No idea.\n<code>\nfinal_answer(0)\n</code>"}
        made += [encode_row(f"p{n}+", right, tokenizer), encode_row(f"p{n}-", wrong, tokenizer)]
    return made


def test_redi_is_the_formula(tiny, tokenizer, tmp_path):
    rows = pairs(tokenizer)
    config = replace(SETTINGS, objective="redi", redi_alpha=0.8, batch_size=4, max_steps=1)
    history = train(rows, config, tmp_path / "out", tiny).history
    alone = losses_alone(AutoModelForCausalLM.from_pretrained(tiny), rows)
    expected = sum(right - 0.8 * wrong for right, wrong in zip(alone[0::2], alone[1::2], strict=True)) / 4
    assert history[0].loss == pytest.approx(expected, abs=1e-4)


def test_redi_parts_right_from_wrong(tiny, tokenizer, tmp_path):
    rows = pairs(tokenizer)
    config = replace(SETTINGS, objective="redi", learning_rate=1e-3, batch_size=2, micro_batch=2, epochs=3)
    out = train(rows, config, tmp_path / "out", tiny).checkpoint

    def gap(folder):
        alone = losses_alone(AutoModelForCausalLM.from_pretrained(folder), rows)
        return sum(alone[1::2]) - sum(alone[0::2])

    assert math.isfinite(gap(out)) and gap(out) > gap(tiny) + 0.1


def test_redi_refuses_rows_that_are_no_pairs(tiny, rows, tokenizer, tmp_path):
    config = replace(SETTINGS, objective="redi")
    with pytest.raises(TrainingError, match="r0 and r1 are no pair"):
        train(rows, config, tmp_path / "a", tiny)
    with pytest.raises(TrainingError, match=r"p3\+ has no partner"):
        train(pairs(tokenizer)[:-1], config, tmp_path / "b", tiny)
