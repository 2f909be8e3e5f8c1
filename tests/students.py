"""Students of a few thousand weights, real tokenizers and conversations to train them on, and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "Solve the task in steps: a thought, then Python between <code> and </code>."


def conversation(a: int, b: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"New task:\nAda has {a} pens and gets {b} more. How many has she?"},
        {"role": "assistant", "content": f"Thought: I add {b} to {a}.\n<code>\nprint({a} + {b})\n</code>"},
        {"role": "user", "content": f"Observation:\nExecution logs:\n{a + b}\n\n1. Last output:\nNone"},
        {
            "role": "assistant",
            "content": f"Thought: It is {a + b}.\n<code>\nfinal_answer({a + b})\n</code>",
        },
    ]


CONVERSATIONS = [(f"r{n}", conversation(3 * n + 2, 7 * n + 5)) for n in range(6)]


def tiny_student(
    folder: Path,
    architecture: str = "llama",
    pre_tokenizer: str = "gpt-2",
    hidden: int = 32,
    vocabulary: int = 320,
    seed: int = 0,
) -> Path:
    """A random llama or qwen2 with a byte-level BPE tokenizer of its own, as a model folder."""
    import torch
    from tokenizers import Tokenizer, decoders, trainers
    from tokenizers import models as token_models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(token_models.BPE())
    backend.pre_tokenizer = _pre_tokenizer(pre_tokenizer)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for _, messages in CONVERSATIONS for message in messages]
    backend.train_from_iterator([*texts, "  \n\n    12 345 6789 naïve it's I'LL\r\n\t"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer) + 5,  # rows that no token has, as most real models have them
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=architecture == "qwen2",
    )
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zeros in a fresh model: an export that forgot them would go unseen
            torch.nn.init.normal_(weight, std=0.5)
    # Weights that f16 holds exactly, so that engines differ in nothing but how they compute.
    model.half().float().save_pretrained(folder)
    return folder


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if name == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    pattern = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + words)
    return Sequence([Split(pattern, "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def serve(path: Path) -> Any:
    """llama.cpp's own server on a GGUF file, in this process; its address is `listening_address`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx, params.warmup, params.verbosity = 1, 2048, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    return xllamacpp.Server(params)
