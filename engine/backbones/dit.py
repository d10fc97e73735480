"""DiT for the engine: pictures of a class (Peebles and Xie, arXiv 2212.09748)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiTTransformer2DModel
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Inputs
from engine.backbones.common.classes import Classes
from engine.backbones.common.pictures import PictureTransformer, linears_macs
from engine.step import Branch, RunShape

XL_2: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}


class DiTInputs(Inputs):
    """Inputs of DiT."""

    prompts: list[str] = Field(
        min_length=1,
        max_length=10_000,
        description="Classes by name or number, one output each; with random weights any words.",
    )
    guidance: float = Field(4.0, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")
    size: int | None = Field(None, ge=16, le=4096, description="Edge of the picture in pixels; None: the model's own.")


class DiT(PictureTransformer):
    """DiT (DiTTransformer2DModel): class to image with diffusion in the latents of a VAE."""

    name = "dit"
    inputs = DiTInputs
    branches: ClassVar[tuple[Branch, ...]] = (Branch.COND, Branch.UNCOND)
    notes: ClassVar[tuple[str, ...]] = (
        "guidance acts on all four latent channels, as in diffusers' pipeline; the original DiT guides three",
    )
    denoiser = DiTTransformer2DModel
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "DiT-XL-2-256": {**XL_2, "sample_size": 32},
        "DiT-XL-2-512": {**XL_2, "sample_size": 64},
    }
    tiny_config: ClassVar[Mapping[str, Any]] = {
        "num_layers": 2, "in_channels": 4, "out_channels": 8, "sample_size": 8, "num_embeds_ada_norm": 1000,
    }  # fmt: skip

    model: DiTTransformer2DModel

    @property
    def classes(self) -> int:
        """Number of classes; the one after the last stands for none."""
        return int(self.model.config["num_embeds_ada_norm"])

    @cached_property
    def named(self) -> Classes:
        """The classes, which prompts name."""
        return Classes(self.choice, self.name, self.classes)

    def check(self, inputs: Inputs) -> list[tuple[str, str, str]]:
        """Sizes that divide into patches, and classes that exist."""
        found = map(self.named.problem, inputs.prompts)
        return [*super().check(inputs), *(problem for problem in found if problem is not None)]

    def prompt_of(self, name: str, direction: str) -> str:
        """A class by its name."""
        return name

    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """Nothing: the class embedding is part of the denoiser."""

    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """A square, as diffusers' DiT makes no other."""
        assert isinstance(inputs, DiTInputs)
        edge = inputs.size or self.own_size
        return edge, edge

    def conditions(self, inputs: Inputs, run: RunShape) -> dict[Branch, Tensor]:
        """Class numbers [b] of each branch."""
        labels = torch.tensor([self.named.number(prompt) for prompt in inputs.prompts], device=self.device)
        return {Branch.COND: labels, Branch.UNCOND: torch.full_like(labels, self.classes)}

    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """The classes of all rows."""
        return {"class_labels": torch.cat([conditions[branch] for branch in branches])}

    @property
    def output_layer(self) -> nn.Linear:
        """The last linear."""
        return self.model.proj_out_2

    def modulation_macs(self, run: RunShape) -> tuple[int, int]:
        """Every block embeds time and class anew; so does the output."""
        norm = self.model.transformer_blocks[0].norm1
        return linears_macs(norm.emb, self.model.proj_out_1), linears_macs(norm.emb)
