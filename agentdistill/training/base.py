"""Loading the model a student starts from: a Hugging Face folder or a GGUF file.

Guaranteed: the tokenizer that comes out splits text as llama.cpp does for the same GGUF, its `eos` is
the token that ends an assistant turn, and its `pad` is another token where the vocabulary has one.
Weights of a GGUF are dequantised. Nothing is downloaded and no code from a model folder is run.

Not guaranteed: any other architecture than those transformers can read from GGUF.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentdistill.errors import TrainingError
from agentdistill.training.rows import end_of_turn


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of a model folder or GGUF file; raises TrainingError."""
    from transformers import AutoTokenizer

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(**_location(base))
        except Exception as error:  # a damaged file fails in the readers in any way it likes
            raise TrainingError(f"cannot read a tokenizer from {base}: {_first_line(error)}") from error
    if base.is_file():
        _split_digits(tokenizer, base)
    eos = end_of_turn(tokenizer)
    tokenizer.eos_token = eos
    if tokenizer.pad_token in (None, eos):
        # Padding with the end-of-turn token is what makes collators mask real ends of turns.
        tokenizer.pad_token = next(
            (token for token in ("<|endoftext|>", "<pad>", tokenizer.unk_token) if _known(tokenizer, token)),
            eos,
        )
    tokenizer.padding_side = "right"
    return tokenizer


def load_config(folder: Path) -> Any:
    """The transformers config of a model folder; raises TrainingError."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise TrainingError(
            f"{folder} is no model folder: it has no config.json", "give a CHECKPOINT that `train` finished"
        )
    with quiet():
        try:
            return AutoConfig.from_pretrained(**_location(folder))
        except Exception as error:  # as in load_tokenizer
            raise TrainingError(f"cannot read {folder / 'config.json'}: {_first_line(error)}") from error


def load_model(base: Path, dtype: Any, *, four_bit: bool = False) -> Any:
    """The weights as a transformers causal LM in `dtype`, or held in NF4 with bitsandbytes; raises
    TrainingError."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {"dtype": dtype}
    if four_bit:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    with quiet():
        try:
            model = AutoModelForCausalLM.from_pretrained(**_location(base), **how)
        except Exception as error:  # as above
            raise TrainingError(f"cannot load the student from {base}: {_first_line(error)}") from error
    if base.is_file():
        # The weights are plain floats now; the mark would make PEFT, Trainer and later loads think not.
        del model.config.quantization_config
        for owner, name in ((model, "hf_quantizer"), (model, "is_quantized"), (model, "quantization_method")):
            if name in vars(owner):
                delattr(owner, name)
    # PEFT asks the hub about a base that it can name; training.json says what the base was.
    model.name_or_path = model.config._name_or_path = ""
    model.config.use_cache = False
    return model


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_sha256(base: Path) -> str:
    """What identifies a base: the hash of the GGUF, or of a folder's config and weight files."""
    if base.is_file():
        return file_sha256(base)
    _location(base)
    files = sorted([*base.glob("config.json"), *base.glob("*.safetensors")])
    if len(files) < 2:
        raise TrainingError(
            f"{base} holds no config.json with *.safetensors", "give a model folder or GGUF file"
        )
    digests = {file.name: file_sha256(file) for file in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers on our console; its errors still show."""
    import warnings
    from functools import partial

    from transformers import modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bar = gguf_loader.tqdm
    gguf_loader.tqdm = partial(bar, disable=True)  # the one bar that heeds no setting
    try:
        with warnings.catch_warnings():
            # Raised while torch and its friends are imported; nothing a user of ours can act on.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        gguf_loader.tqdm = bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _location(base: Path) -> dict[str, Any]:
    if base.is_dir():
        return {"pretrained_model_name_or_path": str(base), "local_files_only": True}
    if base.is_file():
        return {
            "pretrained_model_name_or_path": str(base.parent),
            "gguf_file": base.name,
            "local_files_only": True,
        }
    raise TrainingError(f"{base} is neither a model folder nor a GGUF file")


def _split_digits(tokenizer: Any, base: Path) -> None:
    """Repair transformers' GGUF loader: it forgets that SmolLM2 cuts every digit off before the BPE.

    Found by comparing with llama.cpp: "\\n\\n1." and "    12" came out as other tokens.
    """
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(base).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )


def _known(tokenizer: Any, token: str | None) -> bool:
    return token is not None and token in tokenizer.get_vocab()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
