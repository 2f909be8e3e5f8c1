"""Exports to GGUF: llama.cpp reads the same tokens and writes the same text as transformers."""

import json
import shutil
from dataclasses import replace

import gguf
import httpx
import pytest
from students import CONVERSATIONS, conversation, serve, tiny_student
from typer.testing import CliRunner

from agentdistill import catalog
from agentdistill.cli.main import app
from agentdistill.errors import ExportError, TrainingError
from agentdistill.models.spec import open_model
from agentdistill.training.export import export_gguf
from agentdistill.training.rows import encode_rows
from agentdistill.training.sft import PRESETS, load_student_tokenizer, train
from agentdistill.types import Sampling

KINDS = [("llama", "gpt-2"), ("llama", "smollm"), ("qwen2", "qwen2")]
TEXTS = [
    "12345 + 678.90 ٣² ½",
    "it's  I'LL\n\n1. one\r\n\r\n2. two\n    12\n  3 +   4\t5",
    "naïve 🙂 東京 def f(x):\n\treturn x**2  # <code>",
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def student(request, tmp_path_factory):
    architecture, pre_tokenizer = request.param
    return tiny_student(tmp_path_factory.mktemp(architecture) / "student", architecture, pre_tokenizer)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("one") / "student")


def tokens_of(server, text):
    body = {"content": text, "add_special": True, "parse_special": True}
    return httpx.post(f"{server.listening_address}/tokenize", json=body, trust_env=False).json()["tokens"]


def greedy(folder, prompt, tokens):
    """Ids of the prompt, and of what transformers writes."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_student_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    with torch.no_grad():
        written = model.generate(
            torch.tensor([ids]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],  # llama.cpp ends at both
            pad_token_id=tokenizer.pad_token_id,
        )[0][len(ids) :].tolist()
    return ids, written


def same_ids(folder, file, prompts, tokens):
    """Ids, not text: random weights write bytes that are no characters."""
    server = serve(file)
    for prompt in prompts:
        ids, expected = greedy(folder, prompt, tokens)
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "return_tokens": True}
        url = f"{server.listening_address}/completion"
        reply = httpx.post(url, json=request, trust_env=False, timeout=120).json()
        assert reply["tokens_evaluated"] == len(ids)
        assert reply["tokens"] == expected


def prompts_of(folder):
    tokenizer = load_student_tokenizer(folder)
    conversations = [conversation(11 * n + 3, 40 - n)[: 4 if n % 2 else 2] for n in range(5)]
    return [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in conversations
    ]


def test_llamacpp_splits_text_as_the_checkpoint_does(student, tmp_path):
    tokenizer = load_student_tokenizer(student)
    server = serve(export_gguf(student, tmp_path / "s.gguf", "f16"))
    for text in [*TEXTS, tokenizer.apply_chat_template(CONVERSATIONS[0][1], tokenize=False)]:
        assert tokens_of(server, text) == tokenizer.encode(text, add_special_tokens=False)


def test_equal_greedy_text_of_random_weights(student, tmp_path):
    same_ids(student, export_gguf(student, tmp_path / "s.gguf", "f16"), prompts_of(student), 24)


@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
def test_quantised_files_are_smaller_and_served(student, tmp_path, quant):
    big = export_gguf(student, tmp_path / "f16.gguf", "f16")
    small = export_gguf(student, tmp_path / "small.gguf", quant)
    sizes = [sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(file).tensors) for file in (small, big)]
    assert sizes[0] < 0.7 * sizes[1]
    model = open_model(f"llamacpp:{small}", sampling=Sampling(max_tokens=8), slots=1, context=512)
    try:
        (completion,) = model.sample(CONVERSATIONS[0][1][:2])
    finally:
        model.close()
    assert completion.tokens_out == 8 or completion.finish_reason == "stop"


def test_the_command_line_exports(student, tmp_path):
    out = tmp_path / "student.gguf"
    done = CliRunner().invoke(app, ["models", "export", str(student), "--gguf", "q4_0", "-o", str(out)])
    assert done.exit_code == 0 and done.stdout.strip() == str(out)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds == {"F32", "Q4_0", "Q8_0"}


def changed(student, folder, **settings):
    shutil.copytree(student, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_what_cannot_be_exported_is_refused_by_name(llama, tmp_path):
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    for number, (settings, error, reason) in enumerate(
        [
            ({"model_type": "gpt_neox"}, ExportError, "not gpt_neox"),
            ({"rope_parameters": scaled}, ExportError, "linear"),
            ({"intermediate_size": 96}, TrainingError, "has no place"),
            ({"num_hidden_layers": 3}, TrainingError, r"has no weight model\.layers\.2"),
        ]
    ):
        folder = changed(llama, tmp_path / str(number), **settings)
        with pytest.raises(error, match=reason):
            export_gguf(folder, tmp_path / "out.gguf")
    with pytest.raises(TrainingError, match=r"no config\.json"):
        export_gguf(tmp_path, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out.gguf*"))


def test_an_unknown_tokenizer_is_refused(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "other")
    file = tmp_path / "other/tokenizer.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(ExportError, match="cuts text by Whitespace"):
        export_gguf(tmp_path / "other", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out.gguf*"))


def test_a_full_disk_leaves_nothing(llama, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    (tmp_path / "out.gguf").write_bytes(b"the export before")
    with pytest.raises(TrainingError, match="No space left on device"):
        export_gguf(llama, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"the export before"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real student after five steps."""
    base = catalog.fetch("smollm2-135m")
    rows = encode_rows(CONVERSATIONS, load_student_tokenizer(base), 512).rows
    config = replace(PRESETS["quick"], batch_size=2, max_steps=5)
    out = tmp_path_factory.mktemp("real") / "checkpoint"
    return train(rows, config, out, base).checkpoint


@pytest.mark.models
def test_equal_greedy_text_of_the_real_student(real, tmp_path):
    same_ids(real, export_gguf(real, tmp_path / "student.gguf", "f16"), prompts_of(real), 40)


@pytest.mark.models
def test_equal_tokens_of_the_real_student(real, tmp_path):
    tokenizer = load_student_tokenizer(real)
    server = serve(export_gguf(real, tmp_path / "student.gguf", "q8_0"))
    for text in TEXTS:
        assert tokens_of(server, text) == tokenizer.encode(text, add_special_tokens=False)
