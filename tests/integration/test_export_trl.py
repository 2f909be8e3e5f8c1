"""An exported file is what TRL's own SFTTrainer takes: no code of ours between file and trained step."""

import lzma
import shutil
from pathlib import Path

import pytest

import agentdistill
from agentdistill import export, grade

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)


@pytest.mark.parametrize("name", ["messages", "hf"])
def test_sft_trainer_trains_on_the_export(tmp_path: Path, name: str) -> None:
    from datasets import load_dataset, load_from_disk
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    packed = Path(agentdistill.__file__).parent / "recorded"
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(packed / "run.json", run)
    (run / "trajectories.jsonl").write_bytes(lzma.decompress((packed / "trajectories.jsonl.xz").read_bytes()))
    grade(run)
    found = export(run, tmp_path / "out", name, correct_only=True)
    if name == "hf":
        dataset = load_from_disk(str(tmp_path / "out"))
    else:
        files = str(tmp_path / "out")
        dataset = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == found.rows > 80

    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate([*special, *alphabet])}, []))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SFTConfig(
        output_dir=str(tmp_path / "checkpoint"),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=8192,
        assistant_only_loss=True,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)),
        args=config,
        train_dataset=dataset.select(range(4)),
        processing_class=tokenizer,
    )
    assert trainer.train().training_loss > 0
