"""PixArt-alpha for the engine: text to image (Chen et al., arXiv 2310.00426)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Inputs
from engine.backbones.common import text
from engine.backbones.common.pictures import TRANSFORMER, VAE, PictureTransformer, linears_macs
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import Component

XL_2: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
}


class PixArtInputs(Inputs):
    """Inputs of PixArt-alpha."""

    guidance: float = Field(4.5, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")
    negative_prompt: str = Field("", description="What guidance leads away from.")
    height: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")
    width: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")
    max_sequence_length: int = Field(120, ge=1, le=512, description="Text tokens, padding included.")


@dataclass
class Conditions:
    """Text features [b, L, channels] and masks [b, L] of each branch, and the size conditions of 1024 pixel models."""

    features: Mapping[Branch, Tensor]
    masks: Mapping[Branch, Tensor]
    resolution: Tensor | None
    aspect_ratio: Tensor | None


class PixArt(PictureTransformer):
    """PixArt-alpha (PixArtTransformer2DModel): text to image with diffusion in the latents of a VAE."""

    name = "pixart"
    inputs = PixArtInputs
    branches: ClassVar[tuple[Branch, ...]] = (Branch.UNCOND, Branch.COND)
    denoiser = PixArtTransformer2DModel
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "PixArt-XL-2-256x256": {**XL_2, "sample_size": 32},
        "PixArt-XL-2-512x512": {**XL_2, "sample_size": 64},
        "PixArt-XL-2-1024-MS": {**XL_2, "sample_size": 128},
    }
    tiny_config: ClassVar[Mapping[str, Any]] = {
        "num_layers": 2, "in_channels": 4, "out_channels": 8, "sample_size": 8, "cross_attention_dim": 48,
        "caption_channels": 16,
    }  # fmt: skip
    components: tuple[Component, ...] = (TRANSFORMER, VAE, *text.COMPONENTS)

    model: PixArtTransformer2DModel

    def __init__(self, choice: ModelChoice, model: Any, vae_config: Mapping[str, Any] | None) -> None:
        super().__init__(choice, model, vae_config)
        self.text: text.TextEncoder | None = None

    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """The T5 encoder, or random features."""
        self.text = text.text_encoder(folders, int(self.model.config["caption_channels"]), self.device)

    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """As asked for, else the model's own square."""
        assert isinstance(inputs, PixArtInputs)
        return inputs.height or self.own_size, inputs.width or self.own_size

    def text_tokens(self, inputs: Inputs) -> int:
        """The whole sequence: the pipeline pads every prompt to it."""
        assert isinstance(inputs, PixArtInputs)
        return inputs.max_sequence_length

    def conditions(self, inputs: Inputs, run: RunShape) -> Conditions:
        """Text of both branches; the unconditional one reads the negative prompt under its own mask."""
        assert isinstance(inputs, PixArtInputs) and self.text is not None
        prompts = {Branch.COND: inputs.prompts, Branch.UNCOND: [inputs.negative_prompt] * run.batch}
        encoded = {branch: self.text(prompts[branch], inputs.max_sequence_length) for branch in run.branches}
        features = {branch: rows.to(self.device, self.dtype) for branch, (rows, _) in encoded.items()}
        masks = {branch: mask.to(self.device) for branch, (_, mask) in encoded.items()}
        if not self.model.use_additional_conditions:
            return Conditions(features, masks, None, None)
        _, height, width = run.pixels
        size = torch.tensor([[height, width]], dtype=self.dtype, device=self.device)
        return Conditions(features, masks, size, size[:, :1] / size[:, 1:])

    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """Text, masks and sizes of all rows."""
        features = torch.cat([conditions.features[branch] for branch in branches])
        sizes = {
            name: value if value is None else value.repeat(len(features), 1)
            for name, value in (("resolution", conditions.resolution), ("aspect_ratio", conditions.aspect_ratio))
        }
        return {
            "encoder_hidden_states": features,
            "encoder_attention_mask": torch.cat([conditions.masks[branch] for branch in branches]),
            "added_cond_kwargs": sizes,
        }

    @property
    def output_layer(self) -> nn.Linear:
        """The last linear."""
        return self.model.proj_out

    def modulation_macs(self, run: RunShape) -> tuple[int, int]:
        """Time is embedded once for all blocks, and every text token is projected once."""
        return linears_macs(self.model.adaln_single) + run.text_tokens * linears_macs(self.model.caption_projection), 0
