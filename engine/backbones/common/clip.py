"""Prompts to CLIP features, as Stable Diffusion's pipelines make them: no mask, every prompt padded to full length."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.backbones.common.text import read_encoder, read_tokenizer
from engine.weights import ONE_PRECISION, Component, missing

TOKENIZER_FILES = ("*.json", "*.txt")
ONE = (Component("text_encoder", ONE_PRECISION), Component("tokenizer", TOKENIZER_FILES))
TWO = (*ONE, Component("text_encoder_2", ONE_PRECISION), Component("tokenizer_2", TOKENIZER_FILES))
"""Of Stable Diffusion XL."""


@dataclass
class Encoded:
    """Features [b, L, channels] of every token, and one of the whole prompt, [b, P], where there are two encoders."""

    tokens: Tensor
    pooled: Tensor | None


class ClipEncoder(Protocol):
    """Anything that turns prompts into CLIP features."""

    def __call__(self, prompts: Sequence[str]) -> Encoded:
        """Encode `prompts`."""
        ...


class ClipText:
    """One CLIP encoder, whose last layer counts, or two, whose last but one count, side by side."""

    def __init__(self, folders: Sequence[tuple[Path, Path]], channels: int, dtype: torch.dtype, device: Any) -> None:
        """`folders` are those of each encoder and its tokenizer; together they must give `channels`."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        self.encoders = []
        for kind, (encoder, tokenizer) in zip(kinds, folders, strict=False):
            model = read_encoder(kind, encoder, dtype)
            self.encoders.append((read_tokenizer(CLIPTokenizer, tokenizer), model.to(device)))
        given = sum(model.config.hidden_size for _, model in self.encoders)
        if given != channels:
            raise missing(
                f"the text encoders have {given} channels where the denoiser wants {channels}",
                "use the text encoders that the denoiser was trained with",
            )
        self.device = device

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Encoded:
        """Features of `prompts`, padded or cut to the tokenizer's length."""
        parts, pooled = [], None
        for tokenizer, model in self.encoders:
            tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
            masked = getattr(model.config, "use_attention_mask", False)
            out = model(
                tokens.input_ids.to(self.device),
                attention_mask=tokens.attention_mask.to(self.device) if masked else None,
                output_hidden_states=True,
            )
            if len(self.encoders) == 1:
                return Encoded(out.last_hidden_state, None)
            parts.append(out.hidden_states[-2])
            pooled = out[0]
        return Encoded(torch.cat(parts, dim=-1), pooled)


class RandomClip:
    """Random features that depend on the prompt alone."""

    def __init__(self, length: int, channels: int, pooled: int) -> None:
        """`pooled` is how many channels a whole prompt has; 0 where the denoiser reads none."""
        self.length, self.channels, self.pooled = length, channels, pooled

    def __call__(self, prompts: Sequence[str]) -> Encoded:
        """Random features of `prompts`."""
        generators = [torch.Generator().manual_seed(zlib.crc32(prompt.encode())) for prompt in prompts]
        tokens = [torch.randn(self.length, self.channels, generator=generator) for generator in generators]
        pooled = [torch.randn(self.pooled, generator=generator) for generator in generators]
        return Encoded(torch.stack(tokens), torch.stack(pooled) if self.pooled else None)
