"""Prompts to text features: the T5 encoder of a weights folder, or random features for random weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.weights import Component, missing, read_config, weight_paths

COMPONENTS = (
    Component("text_encoder", ("*.json", "*.safetensors", "*.bin")),
    Component("tokenizer", ("*.json", "*.model")),
)


class TextEncoder(Protocol):
    """Anything that turns prompts into features [b, L, channels] and a mask [b, L], 1 where a token counts."""

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Encode, padded or cut to `length` tokens."""
        ...


def estimated_tokens(prompts: Sequence[str], limit: int) -> int:
    """Tokens of the longest prompt before any tokenizer is at hand: a word and a third each, and one for the end."""
    return min(limit, max(round(len(prompt.split()) * 4 / 3) for prompt in prompts) + 1)


def text_encoder(folders: Mapping[str, Path], channels: int, device: torch.device) -> TextEncoder:
    """The T5 encoder in the components' folders; random features when there are none."""
    if not folders:
        return RandomText(channels)
    return T5Text(folders["text_encoder"], folders["tokenizer"], channels, device)


def cleaned(prompt: str) -> str:
    """PixArt's caption cleaning, applied twice as the original does."""
    from diffusers import PixArtAlphaPipeline

    for _ in range(2):
        prompt = PixArtAlphaPipeline._clean_caption(PixArtAlphaPipeline, prompt)
    return prompt.strip()


def read_tokenizer(kind: Any, folder: Path) -> Any:
    """The folder's tokenizer, of a class of transformers, or `MissingWeights`."""
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the tokenizer's formats raise, the file is at fault
        raise missing(f"{folder} holds no tokenizer that can be read ({error})", "download it again") from None


def read_encoder(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The folder's text encoder, of a class of transformers, on the CPU, or `MissingWeights`."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # the run shows its own
    if not any(folder.glob("*.bin")):
        weight_paths(folder)
    try:
        model, info = kind.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise missing(f"{folder} holds no encoder that can be read ({error})", "download it again") from None
    wrong = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
    if wrong:
        names = ", ".join(map(str, wrong))
        raise missing(f"{folder}: tensors missing or of another shape: {names}", "download it again")
    return model.eval().requires_grad_(False)


class T5Text:
    """T5 encoder, in fp32 as the original runs it."""

    def __init__(self, encoder: Path, tokenizer: Path, channels: int, device: torch.device) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        width = read_config(encoder).get("d_model")
        if width != channels:
            raise missing(
                f"the text encoder in {encoder} has {width} channels where the denoiser wants {channels}",
                "use the text encoder that the denoiser was trained with",
            )
        self.tokenizer = read_tokenizer(AutoTokenizer, tokenizer)
        self.model = read_encoder(T5EncoderModel, encoder, torch.float32).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Features of the last layer, padded or cut to `length` tokens."""
        tokens = self.tokenizer(
            [cleaned(prompt) for prompt in prompts],
            max_length=length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        features = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return features, tokens.attention_mask


class RandomText:
    """Random features that depend on the prompt alone, as many as a T5 tokenizer would make of it, roughly."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Features [b, length, channels] and their mask."""
        lengths = [estimated_tokens([prompt], length) for prompt in prompts]
        mask = (torch.arange(length)[None] < torch.tensor(lengths)[:, None]).long()
        generators = [torch.Generator().manual_seed(zlib.crc32(prompt.encode())) for prompt in prompts]
        rows = [torch.randn(length, self.channels, generator=generator) for generator in generators]
        return torch.stack(rows), mask
