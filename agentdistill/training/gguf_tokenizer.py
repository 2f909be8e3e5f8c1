"""The tokenizer of a checkpoint, as llama.cpp reads it from a GGUF header.

Guaranteed: a tokenizer that is written splits text in llama.cpp as it does here (tested against llama.cpp for
each kind in PRE_TOKENIZERS); one of another kind is refused. llama.cpp adds no token of its own: what the
chat template renders is what is read, as in training.

Not guaranteed: text that a tokenizer's normaliser would change (qwen2's NFC): llama.cpp normalises nothing.
"""

from __future__ import annotations

import json
from typing import Any

from agentdistill.errors import ExportError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS: dict[tuple[tuple[str, Any], ...], str] = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", _QWEN2), ("ByteLevel", False)): "qwen2",
}
"""llama.cpp's names for what cuts text into words: kinds of the parts, each with the setting that matters."""


def write_tokenizer(writer: Any, tokenizer: Any, vocabulary: int) -> None:
    """Add `tokenizer` to a gguf.GGUFWriter. `vocabulary` is the rows of the embedding: ids that no token has
    are marked unused. Raises ExportError."""
    import gguf

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE" or model.get("ignore_merges") or model.get("byte_fallback"):
        raise ExportError(f"GGUF export knows byte-level BPE tokenizers, not this {model['type']}")
    tokens = {id_: token for token, id_ in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in state["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    if max(tokens) >= vocabulary:
        raise ExportError(f"the tokenizer has {max(tokens) + 1} tokens, the model {vocabulary}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(state["pre_tokenizer"]))
    writer.add_token_list([tokens.get(id_, f"[PAD{id_}]") for id_ in range(vocabulary)])
    writer.add_token_types([kinds.get(id_, gguf.TokenType.UNUSED) for id_ in range(vocabulary)])
    writer.add_token_merges([_merge(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for token_id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(state: dict[str, Any] | None) -> str:
    parts = state["pretokenizers"] if state and state["type"] == "Sequence" else [state or {"type": "none"}]
    kinds: list[tuple[str, Any]] = []
    for part in parts:
        match part:
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": setting}:
                kinds.append(("ByteLevel", setting))
            case {"type": "Digits", "individual_digits": setting}:
                kinds.append(("Digits", setting))
            case {"type": "Split", "pattern": {"Regex": setting}, "behavior": "Isolated", "invert": False}:
                kinds.append(("Split", setting))
            case _:
                kinds.append((str(part["type"]), None))
    name = PRE_TOKENIZERS.get(tuple(kinds))
    if name is None:
        found = " and ".join(kind for kind, _ in kinds)
        raise ExportError(
            f"GGUF export does not know a tokenizer that cuts text by {found} in this way",
            f"known are those of {', '.join(sorted(PRE_TOKENIZERS.values()))}",
        )
    return name


def _merge(pair: Any) -> str:
    """A merge as "left right". Byte-level vocabularies hold no blanks of their own."""
    return pair if isinstance(pair, str) else " ".join(pair)
