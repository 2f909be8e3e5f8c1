"""Training itself: on a tiny model for what goes wrong, on the real student for what must work."""

import json
import shutil
from dataclasses import replace

import pytest
from students import CONVERSATIONS, serve, tiny_student

from agentdistill import catalog
from agentdistill.errors import ConfigError, RunMismatchError, TrainingError
from agentdistill.training import sft
from agentdistill.training.rows import encode_rows
from agentdistill.training.sft import PRESETS, SftConfig, load_student_tokenizer, train

SETTINGS = SftConfig(
    lora_r=4, lora_alpha=8, lora_dropout=0.1, learning_rate=1e-2, epochs=2, batch_size=2, max_length=512
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def rows(tiny):
    return encode_rows(CONVERSATIONS, load_student_tokenizer(tiny), 512).rows


def losses(result):
    return [point.loss for point in result.history]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_finished_checkpoint_is_a_model_folder(tiny, rows, tmp_path, method):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen = []
    out = tmp_path / "out"
    result = train(rows, replace(SETTINGS, method=method), out, tiny, prompts="a: 1\n", progress=seen.append)
    assert result.steps == 6 == len(seen) and seen[-1].total == 6
    assert result.trained_tokens == 2 * sum(row.trained for row in rows)
    assert result.total_tokens == 2 * sum(len(row.input_ids) for row in rows)
    assert losses(result)[-1] < losses(result)[0]
    assert (out / "adapter").is_dir() == (method == "lora")
    assert (out / "prompts.yaml").read_text() == "a: 1\n"
    assert not (out / ".state").exists()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == load_student_tokenizer(tiny).chat_template
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert train(rows, replace(SETTINGS, method=method), out, tiny, prompts="a: 1\n") == result


def test_bfloat16_on_a_cpu_gives_nearly_the_losses_of_float32(tiny, rows, tmp_path):
    settings = replace(SETTINGS, lora_dropout=0.0, epochs=1)
    exact, half = (
        losses(train(rows, replace(settings, precision=precision), tmp_path / precision, tiny))
        for precision in ("float32", "bfloat16")
    )
    assert half == pytest.approx(exact, rel=0.02)
    assert half != exact


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_loss_falls_on_exactly_the_labels_of_the_rows(tiny, rows, tmp_path, monkeypatch, micro_batch):
    from agentdistill.training.trainer import AgentTrainer

    batches = []
    original = AgentTrainer.compute_loss

    def recording(self, model, inputs, *args, **kwargs):
        batches.append(dict(inputs))
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(AgentTrainer, "compute_loss", recording)
    train(rows, replace(SETTINGS, epochs=1, micro_batch=micro_batch), tmp_path / "out", tiny)
    seen = set()
    for batch in batches:
        lengths, shared = batch["row_lengths"], batch["shared"]
        assert len(lengths) == micro_batch and batch["input_ids"].shape == (1, shared + sum(lengths))
        assert (shared > 0) == (micro_batch > 1)  # all conversations begin alike
        names = ("input_ids", "labels", "position_ids")
        first, *rests = zip(*(batch[name][0].split([shared, *lengths]) for name in names), strict=True)
        for rest in rests:
            ids, labels, positions = (
                begin.tolist() + end.tolist() for begin, end in zip(first, rest, strict=True)
            )
            assert positions == list(range(len(ids)))
            seen.add((tuple(ids), tuple(labels)))
    assert seen == {(row.input_ids, row.labels) for row in rows}


def test_our_loss_is_the_models_own(tiny, rows, tmp_path):
    """The loss of step 1, computed only where labels are, equals transformers' over whole rows."""
    import torch
    from transformers import AutoModelForCausalLM

    one = replace(SETTINGS, lora_dropout=0.0, batch_size=6, max_steps=1)
    result = train(rows, one, tmp_path / "out", tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    total = 0.0
    with torch.no_grad():
        for row in rows:
            loss = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            total += loss.item() * row.trained
    assert losses(result)[0] == pytest.approx(total / sum(row.trained for row in rows), abs=1e-4)


def test_goes_on_after_ctrl_c_as_if_nothing_had_happened(tiny, rows, tmp_path, monkeypatch):
    from agentdistill.training.trainer import AgentTrainer

    whole = train(rows, SETTINGS, tmp_path / "whole", tiny)
    original = AgentTrainer.compute_loss

    def interrupting(self, *args, **kwargs):
        if self.state.global_step == 3 and self.tokens_seen > 7 * 100:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AgentTrainer, "compute_loss", interrupting)
        train(rows, SETTINGS, tmp_path / "out", tiny)
    assert not (tmp_path / "out/training.json").exists()
    steps = []
    resumed = train(
        rows,
        replace(SETTINGS, checkpoint_minutes=9),
        tmp_path / "out",
        tiny,
        progress=lambda p: steps.append(p.step),
    )
    assert steps == [4, 5, 6]
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    assert resumed.total_tokens == whole.total_tokens


def test_goes_on_when_stopped_while_the_finished_model_is_written(tiny, rows, tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft, "_save", interrupted)
        train(rows, SETTINGS, tmp_path / "out", tiny)
    steps = []
    result = train(rows, SETTINGS, tmp_path / "out", tiny, progress=lambda p: steps.append(p.step))
    assert steps == [] and result.steps == 6 and len(result.history) == 6


def test_a_torn_checkpoint_is_not_resumed_from(tiny, rows, tmp_path):
    def stop(progress):
        if progress.step == 4:
            raise KeyboardInterrupt

    every_step = replace(SETTINGS, checkpoint_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(rows, every_step, tmp_path / "out", tiny, progress=stop)
    (tmp_path / "out/.state/checkpoint-4/whole").unlink()
    (tmp_path / "out/.state/checkpoint-4/adapter_model.safetensors").write_bytes(b"torn")
    steps = []
    train(rows, every_step, tmp_path / "out", tiny, progress=lambda p: steps.append(p.step))
    assert steps == [4, 5, 6]


def test_another_setting_row_or_base_is_refused_by_name(tiny, rows, tmp_path):
    out = tmp_path / "out"
    train(rows, replace(SETTINGS, max_steps=1), out, tiny)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    for name, call in {
        "learning_rate": (rows, replace(SETTINGS, max_steps=1, learning_rate=0.5), tiny),
        "rows_sha256": (rows[1:], replace(SETTINGS, max_steps=1), tiny),
        "base_sha256": (rows, replace(SETTINGS, max_steps=1), other),
    }.items():
        with pytest.raises(RunMismatchError, match=name):
            train(call[0], call[1], out, call[2])


def test_a_folder_with_other_files_is_left_alone(tiny, rows, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunMismatchError, match="no training of ours"):
        train(rows, SETTINGS, tmp_path, tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nan_stops_before_it_is_saved(tiny, rows, tmp_path, monkeypatch):
    import torch

    original = torch.nn.functional.cross_entropy
    calls = []

    def breaking(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", breaking)
    with pytest.raises(TrainingError, match="loss is nan at step 3"):
        train(rows, replace(SETTINGS, checkpoint_minutes=0.0), tmp_path / "out", tiny)
    assert (tmp_path / "out/.state/checkpoint-2/whole").exists()
    assert not (tmp_path / "out/training.json").exists()


def test_a_full_disk_is_one_clear_line(tiny, rows, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sft, "_save", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        train(rows, SETTINGS, tmp_path / "out", tiny)
    assert not (tmp_path / "out/training.json").exists()


def test_two_trainings_into_one_folder(tiny, rows, tmp_path):
    def again(progress):
        with pytest.raises(TrainingError, match="another process is training"):
            train(rows, SETTINGS, tmp_path / "out", tiny)

    train(rows, SETTINGS, tmp_path / "out", tiny, progress=again)


def test_no_rows_and_no_base(tiny, rows, tmp_path):
    with pytest.raises(TrainingError, match="no training rows"):
        train([], SETTINGS, tmp_path / "out", tiny)
    with pytest.raises(TrainingError, match="neither a model folder nor a GGUF file"):
        train(rows, SETTINGS, tmp_path / "out", tmp_path / "nothing")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(TrainingError, match=r"broken\.gguf"):
        train(rows, SETTINGS, tmp_path / "out", tmp_path / "broken.gguf")


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 3, "micro_batch": 2}, {"learning_rate": 0.0}, {"lora_r": 0}, {"threads": 0}]
)
def test_impossible_settings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(SETTINGS, **wrong)


# --- the real student -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student():
    return catalog.fetch("smollm2-135m")


@pytest.fixture(scope="module")
def trained(student, tmp_path_factory):
    """The real student after five steps."""
    out = tmp_path_factory.mktemp("student") / "checkpoint"
    rows = encode_rows(CONVERSATIONS, load_student_tokenizer(student), 512).rows
    config = replace(PRESETS["quick"], batch_size=2, max_steps=5)
    return train(rows, config, out, student)


@pytest.mark.models
def test_tokenizer_of_the_gguf_splits_as_llamacpp_does(student):
    import httpx

    tokenizer = load_student_tokenizer(student)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    server = serve(student)
    for text in [
        "12345 + 678.90 ٣² ½",
        "it's  I'LL\n\n1. one\n\n2. two\n    12\n  3 +   4\t5",
        tokenizer.apply_chat_template(CONVERSATIONS[0][1], tokenize=False),
    ]:
        reply = httpx.post(
            server.listening_address + "/tokenize",
            json={"content": text, "add_special": False, "parse_special": True},
            trust_env=False,
        )
        assert tokenizer.encode(text, add_special_tokens=False) == reply.json()["tokens"]


@pytest.mark.models
def test_five_steps_of_the_real_student(trained, student):
    assert trained.steps == 5
    assert losses(trained)[-1] < 0.7 * losses(trained)[0]
    record = json.loads((trained.checkpoint / "training.json").read_text())
    assert record["base"]["sha256"] == catalog.entry("smollm2-135m").sha256
    rows = encode_rows(CONVERSATIONS, load_student_tokenizer(trained.checkpoint), 512).rows
    assert rows == encode_rows(CONVERSATIONS, load_student_tokenizer(student), 512).rows
