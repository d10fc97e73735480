"""Stable Diffusion for the engine: text to image with a UNet (arXiv 2112.10752; XL: arXiv 2307.01952)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Inputs
from engine.backbones.common.clip import ONE, TWO, ClipEncoder, ClipText, Encoded, RandomClip
from engine.backbones.common.configs import config_at_hand
from engine.backbones.common.noise import SCHEDULER, read_scheduler, scheduler_at_hand, settled
from engine.backbones.common.pictures import PUBLISHED_VAE, VAE, PictureModel, linears_macs
from engine.backbones.common.unet import open_unet, run_path
from engine.backbones.common.unet_sites import Walk
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import EMBEDDED, ONE_PRECISION, Component, is_hub_id, missing

UNET = Component("unet", ONE_PRECISION)
PUBLISHED_LENGTH = 77
V1: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
V2: Mapping[str, Any] = {
    **V1,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
XL: Mapping[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PUBLISHED_SCHEDULER: Mapping[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""Of all versions; the 768 pixel model of version 2 predicts v."""
PUBLISHED_V = ("stable-diffusion-2-1", "stable-diffusion-2")
UNSUPPORTED = (
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_embedding_act_fn",
    "time_cond_proj_dim",
)
"""Config fields of other UNets of the same class, which read more than text and time."""


class SDInputs(Inputs):
    """Inputs of Stable Diffusion."""

    guidance: float = Field(7.5, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")
    negative_prompt: str = Field("", description="What guidance leads away from.")
    height: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")
    width: int | None = Field(None, ge=16, le=4096, description="Pixels; None: what the model was trained for.")


class OpenUNet(UNet2DConditionModel):
    """diffusers' UNet with its stages as modules; `open_unet` has made them."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """sample [B, 4, h, w], timestep [B], text [B, L, F], for XL pooled text and sizes -> ([B, 4, h, w],)."""
        temb = self.time_embedding(self.get_time_embed(sample=sample, timestep=timestep))
        added = self.get_aug_embed(temb, encoder_hidden_states, added_cond_kwargs)
        temb = temb if added is None else temb + added
        return (run_path(self, sample, temb, encoder_hidden_states),)


class StableDiffusion(PictureModel):
    """Stable Diffusion 1, 2 and XL (UNet2DConditionModel): text to image with diffusion in the latents of a VAE."""

    name = "sd"
    inputs = SDInputs
    branches: ClassVar[tuple[Branch, ...]] = (Branch.UNCOND, Branch.COND)
    notes: ClassVar[tuple[str, ...]] = (
        "papers leave out attention's own products, counted here: 63.0 of version 1.5's 401.6 GMACs at 512x512",
    )
    denoiser = UNet2DConditionModel
    part = UNET
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "stable-diffusion-v1-5": V1,
        "stable-diffusion-2-1-base": V2,
        "stable-diffusion-2-1": {**V2, "sample_size": 96, "upcast_attention": True},
        "stable-diffusion-xl-base-1.0": XL,
    }
    tiny_config: ClassVar[Mapping[str, Any]] = {
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [16, 24],
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    tiny_length: ClassVar[int] = 8

    def __init__(
        self,
        choice: ModelChoice,
        model: Any,
        vae_config: Mapping[str, Any] | None,
        scheduler: Mapping[str, Any] = PUBLISHED_SCHEDULER,
        length: int = tiny_length,
    ) -> None:
        """`scheduler` is its config; `length` how many tokens every prompt has, padding included."""
        _check_supported(model.config)
        open_unet(model)
        model.__class__ = OpenUNet
        super().__init__(choice, model, vae_config)
        self.large = model.config["addition_embed_type"] == "text_time"
        """Whether this is the XL layout."""
        self.components = (UNET, VAE, SCHEDULER, *(TWO if self.large else ONE))
        self.noise, self.prediction = settled(scheduler)
        self.length = length
        self.text: ClipEncoder | None = None

    @classmethod
    def published_vae(cls, choice: ModelChoice) -> Mapping[str, Any]:
        """That of version 1; XL's differs in its scale."""
        large = cls.published_config(choice) is XL
        return {**PUBLISHED_VAE, "scaling_factor": 0.13025} if large else PUBLISHED_VAE

    @classmethod
    def details(cls, choice: ModelChoice) -> dict[str, Any]:
        """Scheduler and text length, from the weights where they are at hand, else as published."""
        name = cls.published_name(choice)
        published = {**PUBLISHED_SCHEDULER, "prediction_type": "v_prediction" if name in PUBLISHED_V else "epsilon"}
        text = {} if _lacks(choice, ONE[0].name) else config_at_hand(choice, ONE[0], cls.name)
        return {
            "scheduler": scheduler_at_hand(choice, cls.name) or published,
            "length": int(text.get("max_position_embeddings", PUBLISHED_LENGTH)),
        }

    def check_configs(self, folders: Mapping[str, Path]) -> None:
        """The scheduler's config must agree with the plan's too."""
        super().check_configs(folders)
        if (self.noise, self.prediction) != settled(read_scheduler(folders[SCHEDULER.name])):
            raise missing(
                f"the scheduler in {folders[SCHEDULER.name]} has another noise or prediction than the plan's",
                "run again: the config is at hand now",
            )

    def load(self, device: torch.device) -> None:
        """XL's VAE overflows in float16: it stays in float32 where its config says so, as in the pipeline."""
        super().load(device)
        if self.large and self.dtype is torch.float16 and self.vae.config.force_upcast:
            self.vae.to(torch.float32)

    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """The CLIP encoders, or random features."""
        channels = int(self.model.config["cross_attention_dim"])
        if folders:
            names = ["", "_2"] if self.large else [""]
            paths = [(folders[f"text_encoder{name}"], folders[f"tokenizer{name}"]) for name in names]
            self.text = ClipText(paths, channels, self.dtype, self.device)
        else:
            self.text = RandomClip(self.length, channels, self._pooled_channels)

    @property
    def _pooled_channels(self) -> int:
        """Channels of what XL reads of a whole prompt: all that its embedding takes but the six sizes."""
        config = self.model.config
        if not self.large:
            return 0
        return int(config["projection_class_embeddings_input_dim"]) - 6 * int(config["addition_time_embed_dim"])

    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """As asked for, else the model's own square."""
        assert isinstance(inputs, SDInputs)
        return inputs.height or self.own_size, inputs.width or self.own_size

    def text_tokens(self, inputs: Inputs) -> int:
        """The whole sequence: the pipeline pads every prompt to it."""
        return self.length

    @cached_property
    def zeroes_empty(self) -> bool:
        """Whether an empty negative prompt is zeros, not the text encoder's features: a line of XL's model index."""
        weights = self.choice.weights
        if not self.large or not isinstance(weights, str) or self.choice.random or is_hub_id(weights):
            return self.large
        index = (EMBEDDED / self.name if weights == "embedded" else Path(weights).expanduser()) / "model_index.json"
        facts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
        return bool(facts.get("force_zeros_for_empty_prompt", True))

    def conditions(self, inputs: Inputs, run: RunShape) -> dict[str, Any]:
        """Text of each branch, and the sizes [1, 6] that XL reads: original, corner of the cut, target."""
        assert isinstance(inputs, SDInputs) and self.text is not None
        prompts = {Branch.COND: inputs.prompts, Branch.UNCOND: [inputs.negative_prompt] * run.batch}
        encoded = {branch: self.text(prompts[branch]) for branch in run.branches}
        if Branch.UNCOND in encoded and not inputs.negative_prompt and self.zeroes_empty:
            encoded[Branch.UNCOND] = _zeros(encoded[Branch.UNCOND])
        _, height, width = run.pixels
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=self.device)
        return {"text": {branch: self._placed(rows) for branch, rows in encoded.items()}, "sizes": sizes}

    def _placed(self, rows: Encoded) -> Encoded:
        pooled = None if rows.pooled is None else rows.pooled.to(self.device, self.dtype)
        return Encoded(rows.tokens.to(self.device, self.dtype), pooled)

    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """Text of all rows; for XL the pooled text and sizes too."""
        parts = [conditions["text"][branch] for branch in branches]
        text = torch.cat([part.tokens for part in parts])
        if not self.large:
            return {"encoder_hidden_states": text}
        added = {
            "text_embeds": torch.cat([part.pooled for part in parts]),
            "time_ids": conditions["sizes"].repeat(len(text), 1),
        }
        return {"encoder_hidden_states": text, "added_cond_kwargs": added}

    def sites(self, run: RunShape) -> list[Site]:
        """STEP, MODEL, then the UNet's path."""
        embeddings = [self.model.time_embedding, *([self.model.add_embedding] if self.large else [])]
        return [
            Site("step", SiteKind.STEP, nn.Identity()),
            Site("model", SiteKind.MODEL, self.call, "step", macs=linears_macs(*embeddings)),
            *Walk(self.model, run).sites(),
        ]

    def blank_inputs(self) -> dict[str, Any]:
        """A text of one token, and for XL a pooled text with its sizes."""
        config, place = self.model.config, dict[str, Any](dtype=self.dtype, device=self.device)
        inputs: dict[str, Any] = {"encoder_hidden_states": torch.zeros(1, 1, config["cross_attention_dim"], **place)}
        if self.large:
            pooled, sizes = torch.zeros(1, self._pooled_channels, **place), torch.zeros(1, 6, **place)
            inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        return inputs

    def activation_bytes(self, run: RunShape) -> int:
        """Input, both skips and the hidden layer of the outermost level's feed-forward, of every row at once."""
        width = int(self.model.conv_in.out_channels)
        return run.batch * len(run.branches) * run.tokens * width * (4 + 8) * self.dtype.itemsize


def _check_supported(config: Any) -> None:
    odd = [name for name in UNSUPPORTED if config[name] is not None]
    odd += ["addition_embed_type"] if config["addition_embed_type"] not in (None, "text_time") else []
    odd += ["center_input_sample"] if config["center_input_sample"] else []
    if odd:
        raise missing(
            f"this UNet's config.json sets {', '.join(odd)}: it reads more than text and time",
            "use a UNet in the layout of Stable Diffusion 1, 2 or XL",
        )


def _lacks(choice: ModelChoice, component: str) -> bool:
    return isinstance(choice.weights, dict) and component not in choice.weights


def _zeros(rows: Encoded) -> Encoded:
    pooled = None if rows.pooled is None else torch.zeros_like(rows.pooled)
    return Encoded(torch.zeros_like(rows.tokens), pooled)
