"""The embedded CLIP text side: a byte-pair tokenizer over the captions' words, a small encoder, in the hub's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def build_clip_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges until every word of the captions is one token; bytes spell out all else."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted({word for text in captions for word in text.lower().split()})
    learning = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learning.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, show_progress=False, end_of_word_suffix="</w>", initial_alphabet=alphabet
    )
    learning.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(learning.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def kept_clip_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    """The tokenizer in `folder`, built there at the first call: merges that tie come in another order each time."""
    if not folder.is_dir():
        build_clip_tokenizer(captions).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_clip_encoder(tokenizer: CLIPTokenizer, *, width: int = 64, layers: int = 2, heads: int = 4) -> CLIPTextModel:
    """A CLIP text encoder of `width` channels."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def save_clip_side(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, folder: Path) -> None:
    """Write `folder/tokenizer` and `folder/text_encoder` as a hub repository would hold them (weights in fp16)."""
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.half().save_pretrained(folder / "text_encoder", safe_serialization=True)
    encoder.float()
