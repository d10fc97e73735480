"""Latte for the engine: text to video (Ma et al., arXiv 2401.03048). It also stands in for Open-Sora-Plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import LatteTransformer3DModel
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Inputs
from engine.backbones.common import text
from engine.backbones.common.pictures import TRANSFORMER, VAE, PictureTransformer, linears_macs
from engine.backbones.common.transformer2d import sites_of_block
from engine.backbones.latte.opened import open_latte, place_grid
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import Component

LATTE_1: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 64,
    "video_length": 16,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
IGNORED_BIAS = -10_000.0


class LatteInputs(Inputs):
    """Inputs of Latte."""

    guidance: float = Field(7.5, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")
    negative_prompt: str = Field("", description="What guidance leads away from.")
    num_frames: int | None = Field(None, ge=1, le=10_000, description="Frames; None: what the model was trained for.")
    height: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")
    width: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")
    fps: int = Field(8, ge=1, le=120, description="Frames a second of the file; the model does not see it.")
    max_sequence_length: int = Field(120, ge=1, le=512, description="Text tokens at most; longer prompts are cut.")
    text_padding: Literal["cut", "zeros"] = Field(
        "cut",
        description="What is read beyond a prompt's end: nothing, as in diffusers' pipeline for one prompt, "
        "or zero features up to `max_sequence_length`, as there for several.",
    )


@dataclass
class Conditions:
    """Text features [b, L, channels] of each branch; bias [b, 1, L] of their tokens, None when all count."""

    features: Mapping[Branch, Tensor]
    bias: Tensor | None


class Latte(PictureTransformer):
    """Latte (LatteTransformer3DModel): text to video with diffusion in the latents of a VAE, frame by frame."""

    name = "latte"
    inputs = LatteInputs
    output = "video"
    branches: ClassVar[tuple[Branch, ...]] = (Branch.UNCOND, Branch.COND)
    notes: ClassVar[tuple[str, ...]] = ("text_tokens of cut prompts is an estimate from the words of the longest one",)
    denoiser = LatteTransformer3DModel
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"Latte-1": LATTE_1}
    tiny_config: ClassVar[Mapping[str, Any]] = {
        **LATTE_1, "num_layers": 2, "sample_size": 8, "video_length": 4, "cross_attention_dim": 48,
        "caption_channels": 16,
    }  # fmt: skip
    components: tuple[Component, ...] = (TRANSFORMER, VAE, *text.COMPONENTS)

    model: LatteTransformer3DModel

    def __init__(self, choice: ModelChoice, model: LatteTransformer3DModel, vae_config: Mapping[str, Any]) -> None:
        super().__init__(choice, model, vae_config)
        open_latte(model)
        self.text: text.TextEncoder | None = None

    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """The T5 encoder, or random features."""
        self.text = text.text_encoder(folders, int(self.model.config["caption_channels"]), self.device)

    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """As asked for, else the model's own square."""
        assert isinstance(inputs, LatteInputs)
        return inputs.height or self.own_size, inputs.width or self.own_size

    def text_tokens(self, inputs: Inputs) -> int:
        """The whole sequence when it is padded, else about the longest prompt."""
        assert isinstance(inputs, LatteInputs)
        if inputs.text_padding == "zeros":
            return inputs.max_sequence_length
        return text.estimated_tokens(inputs.prompts, inputs.max_sequence_length)

    def shape(self, inputs: Inputs, steps: int) -> RunShape:
        """Sizes of a run."""
        assert isinstance(inputs, LatteInputs)
        run = super().shape(inputs, steps)
        frames = inputs.num_frames or int(self.model.config["video_length"])
        channels, *cells = run.latent
        return replace(
            run,
            latent=(channels, frames, *cells),
            pixels=(frames, *run.pixels[1:]),
            grid=(frames, *run.grid[1:]),
        )

    def encode(self, inputs: Inputs, run: RunShape) -> Conditions:
        """Conditions of the prompts; makes the model ready for this run's grid on the way."""
        place_grid(self.model, run.grid)
        return self.conditions(inputs, run)

    def conditions(self, inputs: Inputs, run: RunShape) -> Conditions:
        """Text of both branches; the unconditional one reads as many tokens of the negative prompt as the other has."""
        assert isinstance(inputs, LatteInputs) and self.text is not None
        features, mask = self.text(inputs.prompts, inputs.max_sequence_length)
        if inputs.text_padding == "zeros":
            features, mask = features * mask[..., None], torch.ones_like(mask)
        length = int(mask.sum(dim=1).max())
        encoded = {Branch.COND: features}
        if Branch.UNCOND in run.branches:
            encoded[Branch.UNCOND], _ = self.text([inputs.negative_prompt] * run.batch, inputs.max_sequence_length)
        bias = (1 - mask[:, None, :length]).to(self.device, self.dtype) * IGNORED_BIAS
        return Conditions(
            {branch: rows[:, :length].to(self.device, self.dtype) for branch, rows in encoded.items()},
            bias if bias.any() else None,
        )

    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """Text and its bias of all rows."""
        bias = conditions.bias
        return {
            "encoder_hidden_states": torch.cat([conditions.features[branch] for branch in branches]),
            "encoder_attention_mask": None if bias is None else bias.repeat(len(branches), 1, 1),
        }

    def decode(self, latents: Tensor, run: RunShape) -> Tensor:
        """Latents [b, 4, F, h, w] to videos [b, 3, F, H, W] in 0..1, one frame at a time."""
        frames = super().decode(latents.transpose(1, 2).flatten(0, 1), run)
        return frames.squeeze(2).unflatten(0, (len(latents), -1)).transpose(1, 2)

    def sites(self, run: RunShape) -> list[Site]:
        """STEP, MODEL, then of each pair the spatial and the temporal block, each with its sub-layers and kernels."""
        around, _ = self.modulation_macs(run)
        ends = self.model.pos_embed.proj.weight.numel() + self.output_layer.weight.numel()
        return [
            Site("step", SiteKind.STEP, nn.Identity()),
            Site("model", SiteKind.MODEL, self.call, "step", macs=run.tokens * ends + around),
            *self._block_sites(run),
        ]

    def _block_sites(self, run: RunShape) -> Iterator[Site]:
        frames, rows, columns = run.grid
        pairs = list(zip(self.model.transformer_blocks, self.model.temporal_transformer_blocks, strict=True))
        for layer, (spatial, temporal) in enumerate(pairs):
            place = {"layer": layer, "layers": len(pairs), "grid": run.grid}
            yield from sites_of_block(
                f"transformer_blocks.{layer}",
                spatial,
                {**place, "depth": 2 * layer},
                keys=rows * columns,
                text_rows=run.text_tokens,
                along="space",
            )
            yield from sites_of_block(
                f"temporal_transformer_blocks.{layer}",
                temporal,
                {**place, "depth": 2 * layer + 1},
                keys=frames,
                text_rows=0,
                kind=SiteKind.TEMPORAL_ATTENTION,
                along="time",
            )

    @property
    def output_layer(self) -> nn.Linear:
        """The last linear."""
        return self.model.proj_out

    def modulation_macs(self, run: RunShape) -> tuple[int, int]:
        """Time is embedded once for all blocks, and every text token is projected once."""
        return linears_macs(self.model.adaln_single) + run.text_tokens * linears_macs(self.model.caption_projection), 0

    def judge(self, videos: Tensor, inputs: Inputs) -> dict[str, Any]:
        """For the embedded weights: does a classifier see the object and the direction that the prompt names?"""
        if self.choice.weights != "embedded":
            return {}
        from engine.zoo.judge import judge_videos

        return judge_videos(videos, inputs.prompts)
