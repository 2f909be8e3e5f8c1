"""Tiny random models in the formats of the real ones: a sentence encoder and a cross-encoder."""

from __future__ import annotations

from pathlib import Path

WORDS = ("the", "a", "of", "in", "is", "was", "city", "river", "king", "film", "music", "war", "book")


def tiny_bert(folder: Path, labels: int = 0) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(numbers),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=labels or 2,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config) if labels else BertModel(config)
    model.save_pretrained(folder)


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    tiny_bert(folder / "bert")
    bert = Transformer(str(folder / "bert"), max_seq_length=64)
    torch.manual_seed(seed)
    bert.auto_model.embeddings.word_embeddings.weight.data.normal_()
    target = folder / f"tiny-{seed}"
    SentenceTransformer(modules=[bert, Pooling(24), Normalize()], device="cpu").save(str(target))
    return target


def tiny_cross_encoder(folder: Path) -> Path:
    tiny_bert(folder / "cross", labels=1)
    return folder / "cross"
