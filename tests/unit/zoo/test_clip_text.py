"""The embedded CLIP tokenizer: a token a word, and letters for all else."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer

from engine.zoo import emoji
from engine.zoo.clip_text import MAX_LENGTH, build_clip_encoder, build_clip_tokenizer, save_clip_side

CAPTIONS = [emoji.caption(name) for name in emoji.names()]


def test_every_word_of_a_caption_is_a_token() -> None:
    tokenizer = build_clip_tokenizer(CAPTIONS)
    for text in CAPTIONS:
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_unknown_words_are_spelled() -> None:
    tokenizer = build_clip_tokenizer(CAPTIONS)
    tokens = tokenizer("a xylophone!").input_ids
    assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == "axylophone!"
    assert tokens[0] == tokenizer.bos_token_id and tokens[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_survives_being_saved(tmp_path: Path) -> None:
    tokenizer = build_clip_tokenizer(CAPTIONS)
    save_clip_side(tokenizer, build_clip_encoder(tokenizer, width=8, heads=2), tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    padded = again(CAPTIONS, padding="max_length", truncation=True).input_ids
    assert padded == tokenizer(CAPTIONS, padding="max_length", truncation=True).input_ids
    assert {len(row) for row in padded} == {MAX_LENGTH}
