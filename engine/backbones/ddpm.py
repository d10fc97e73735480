"""DDPM for the engine: pictures in pixels with a UNet (Ho et al., arXiv 2006.11239), of a class or of none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DModel
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Inputs
from engine.backbones.common.classes import Classes
from engine.backbones.common.noise import SCHEDULER, read_scheduler, scheduler_at_hand, settled
from engine.backbones.common.pictures import PictureModel, linears_macs
from engine.backbones.common.unet import open_unet, run_path
from engine.backbones.common.unet_sites import Walk
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import ONE_PRECISION, Component, missing

UNET = Component("unet", ONE_PRECISION)
CIFAR10: Mapping[str, Any] = {
    "sample_size": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 256, 256, 256],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CHURCH: Mapping[str, Any] = {
    **CIFAR10,
    "sample_size": 256,
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
}
PUBLISHED_SCHEDULER: Mapping[str, Any] = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
NONE = ""


class DDPMInputs(Inputs):
    """Inputs of DDPM."""

    prompts: list[str] = Field(
        min_length=1,
        max_length=10_000,
        description='One output each: a class by name or number, or "" for none; only that without classes.',
    )
    guidance: float = Field(1.0, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")


class OpenUNet(UNet2DModel):
    """diffusers' UNet with its stages as modules; `open_unet` has made them."""

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        """sample [B, 3, h, w], timestep [B], class_labels [B] where there are classes -> ([B, 3, h, w],)."""
        temb = self.time_embedding(self.time_proj(timestep).to(self.dtype))
        if class_labels is not None:
            temb = temb + self.class_embedding(class_labels).to(self.dtype)
        return (run_path(self, sample, temb, None),)


class DDPM(PictureModel):
    """DDPM (UNet2DModel): diffusion in pixels. Where it has classes, the last label means none of them."""

    name = "ddpm"
    inputs = DDPMInputs
    branches: ClassVar[tuple[Branch, ...]] = (Branch.UNCOND, Branch.COND)
    notes: ClassVar[tuple[str, ...]] = (
        "no picture is clipped between steps, as in DDIM's own code; diffusers clips unless `clip_sample` is off",
    )
    denoiser = UNet2DModel
    part = UNET
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ddpm-cifar10-32": CIFAR10,
        "ddpm-church-256": CHURCH,
        "ddpm-bedroom-256": CHURCH,
    }
    tiny_config: ClassVar[Mapping[str, Any]] = {
        "sample_size": 16,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [16, 24],
        "layers_per_block": 1,
        "attention_head_dim": None,
        "norm_num_groups": 4,
        "num_class_embeds": 11,
    }
    tiny_vae: ClassVar[Mapping[str, Any] | None] = None
    components: tuple[Component, ...] = (UNET,)

    def __init__(
        self,
        choice: ModelChoice,
        model: Any,
        vae_config: Mapping[str, Any] | None,
        scheduler: Mapping[str, Any] = PUBLISHED_SCHEDULER,
    ) -> None:
        """`scheduler` is its config."""
        config = model.config
        if config["center_input_sample"] or config["time_embedding_type"] != "positional" or config["class_embed_type"]:
            raise missing("this UNet's config.json is not that of a DDPM", "use a UNet in the layout of DDPM")
        open_unet(model)
        model.__class__ = OpenUNet
        super().__init__(choice, model, vae_config)
        self.noise, self.prediction = settled(scheduler)
        whole = not isinstance(choice.weights, dict) or SCHEDULER.name in choice.weights
        self.components = (UNET, SCHEDULER) if whole else (UNET,)

    @classmethod
    def published_vae(cls, choice: ModelChoice) -> None:
        """None: DDPM works on pixels."""

    @classmethod
    def details(cls, choice: ModelChoice) -> dict[str, Any]:
        """The scheduler, from the weights where they are at hand, else as published."""
        return {"scheduler": scheduler_at_hand(choice, cls.name) or PUBLISHED_SCHEDULER}

    def check_configs(self, folders: Mapping[str, Path]) -> None:
        """The scheduler's config must agree with the plan's too."""
        super().check_configs(folders)
        folder = folders.get(SCHEDULER.name)
        if folder is not None and (self.noise, self.prediction) != settled(read_scheduler(folder)):
            raise missing(
                f"the scheduler in {folder} has another noise or prediction than the plan's",
                "run again: the config is at hand now",
            )

    @cached_property
    def named(self) -> Classes:
        """The classes, which prompts name; none for an unconditional model."""
        labels = self.model.config["num_class_embeds"] or 1
        return Classes(self.choice, self.name, int(labels) - 1)

    def check(self, inputs: Inputs) -> list[tuple[str, str, str]]:
        """Classes that exist, and guidance only where there are some."""
        named = [prompt for prompt in inputs.prompts if prompt.strip() != NONE]
        if self.named.count:
            found = map(self.named.problem, named)
            return [problem for problem in found if problem is not None]
        problems = [("prompts", f"the model has no classes, so none called `{named[0]}`", 'write ""')] if named else []
        if inputs.guidance > 1:
            problems.append(("guidance", "the model has no classes to guide towards", "use 1"))
        return problems

    def prompt_of(self, name: str, direction: str) -> str:
        """A class by its name."""
        return name

    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """Nothing: the class embedding is part of the denoiser."""

    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """The size that the model was trained for."""
        return self.own_size, self.own_size

    def conditions(self, inputs: Inputs, run: RunShape) -> dict[Branch, Tensor] | None:
        """Class numbers [b] of each branch, where there are classes."""
        none = self.named.count
        if not none:
            return None
        numbers = [none if prompt.strip() == NONE else self.named.number(prompt) for prompt in inputs.prompts]
        labels = torch.tensor(numbers, device=self.device)
        return {Branch.COND: labels, Branch.UNCOND: torch.full_like(labels, none)}

    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """The classes of all rows."""
        return {} if conditions is None else {"class_labels": torch.cat([conditions[branch] for branch in branches])}

    def sites(self, run: RunShape) -> list[Site]:
        """STEP, MODEL, then the UNet's path."""
        return [
            Site("step", SiteKind.STEP, nn.Identity()),
            Site("model", SiteKind.MODEL, self.call, "step", macs=linears_macs(self.model.time_embedding)),
            *Walk(self.model, run).sites(),
        ]

    def blank_inputs(self) -> dict[str, Any]:
        """The class of none, where there are classes."""
        return {"class_labels": torch.tensor([self.named.count], device=self.device)} if self.named.count else {}

    def activation_bytes(self, run: RunShape) -> int:
        """Skip, input, normalised input and output of the outermost level's residual block, of every row at once."""
        width = int(self.model.conv_in.out_channels)
        return run.batch * len(run.branches) * run.tokens * width * 6 * self.dtype.itemsize
