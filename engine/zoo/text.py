"""The embedded text side: a T5 tokenizer over the captions' words and a small T5 encoder, in the hub's layout."""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path

from transformers import T5Config, T5EncoderModel, T5TokenizerFast

MAX_LENGTH = 16


def build_tokenizer(captions: Iterable[str]) -> T5TokenizerFast:
    """A tokenizer whose pieces are the captions' words, with single letters for anything else.

    Whole words score far better than spelling them out, so a known word is always one token.
    """
    words = sorted({word for text in captions for word in text.lower().split()})
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -50.0)]
    letters = [(letter, -20.0) for letter in "▁" + string.ascii_lowercase + string.digits]
    vocabulary = special + [(f"▁{word}", -1.0) for word in words] + letters
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=MAX_LENGTH)


def build_encoder(vocabulary: int, *, width: int = 64, layers: int = 2, heads: int = 4) -> T5EncoderModel:
    """A T5 v1.1 encoder (gated GELU) of `width` channels."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


def save_text_side(tokenizer: T5TokenizerFast, encoder: T5EncoderModel, folder: Path) -> None:
    """Write `folder/tokenizer` and `folder/text_encoder` as a hub repository would hold them (weights in fp16)."""
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.half().save_pretrained(folder / "text_encoder", safe_serialization=True)
    encoder.float()
