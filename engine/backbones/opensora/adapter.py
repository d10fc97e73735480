"""Open-Sora 1.2 for the engine: sizes, sites with their costs, text, guidance, frames that are given, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.backbones.base import Backbone, Inputs
from engine.backbones.common import text
from engine.backbones.common.configs import built, config_at_hand, known_fields, randomise
from engine.backbones.common.linears import linear_site, row_macs
from engine.backbones.opensora.sizes import LatentSizes
from engine.backbones.opensora.stdit3 import STDiT3, STDiT3Block
from engine.denoise import Given, RectifiedFlow
from engine.media import read_frames
from engine.random import draw
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import Component, fitting, locate, place

if TYPE_CHECKING:
    from engine.backbones.opensora.vae import OpenSoraVAE

TRANSFORMER, VAE = Component("transformer"), Component("vae")
COMPONENTS = (TRANSFORMER, VAE, *text.COMPONENTS)
CHUNK = 17
TINY_VAE: Mapping[str, Any] = {
    "spatial_block_out_channels": (8, 8, 8),
    "spatial_layers_per_block": 1,
    "spatial_norm_num_groups": 4,
    "temporal_filters": 8,
    "temporal_channel_multipliers": (1, 1, 1),
    "temporal_downsample": (True, True),
    "temporal_res_blocks": 1,
    "temporal_norm_num_groups": 4,
}
STILL_FPS = 120


def prepared(prompt: str, aesthetic_score: float | None) -> str:
    """The prompt with the score that Open-Sora's training captions carried, where one is asked for."""
    return prompt if aesthetic_score is None else f"{prompt} aesthetic score: {aesthetic_score:.1f}."


class OpenSoraInputs(Inputs):
    """Inputs of Open-Sora."""

    num_frames: int = Field(51, ge=1, le=10_000, description="Frames of the video: 1 for a picture, else at least 17.")
    height: int = Field(480, ge=16, le=16_384, description="Pixels.")
    width: int = Field(854, ge=16, le=16_384, description="Pixels.")
    fps: int = Field(24, ge=1, le=120, description="Frames a second, seen by the model and used for the file.")
    aesthetic_score: float | None = Field(None, description="Appended to the prompt; the original writes 6.5.")
    reference: str | None = Field(None, description="Picture or video file that gives the first frames.")
    reference_edit: float = Field(
        0.0, ge=0.0, lt=1.0, description="Noise level in 0..1 below which given frames may change; 0 keeps them."
    )


@dataclass
class Conditions:
    """Text and size conditions of b prompts: features [b, L, channels] of each branch, mask [b, L], sizes [b]."""

    features: dict[Branch, Tensor]
    mask: Tensor
    fps: Tensor
    height: Tensor
    width: Tensor
    _joined: dict[tuple[Branch, ...], Tensor] = field(default_factory=dict)

    def text(self, branches: Sequence[Branch]) -> Tensor:
        """Features of the branches, in batch order: [branches * b, 1, L, channels]."""
        key = tuple(branches)
        if key not in self._joined:
            self._joined[key] = torch.cat([self.features[branch] for branch in key])[:, None]
        return self._joined[key]


class OpenSora(Backbone):
    """Open-Sora 1.2 (STDiT3): text to video with rectified flow."""

    name = "opensora"
    inputs = OpenSoraInputs
    prediction = "velocity"
    noise = RectifiedFlow()
    output = "video"
    branches: ClassVar[tuple[Branch, ...]] = (Branch.COND, Branch.UNCOND)
    notes: ClassVar[tuple[str, ...]] = ("text_tokens is an estimate from the words of the longest prompt",)

    model: STDiT3

    def __init__(self, choice: ModelChoice, model: STDiT3, vae_config: Mapping[str, Any]) -> None:
        super().__init__(choice)
        self.model, self.vae_config = model, vae_config
        self.sizes = LatentSizes.of(vae_config)
        self.text: text.TextEncoder | None = None

    @classmethod
    def sketch(cls, choice: ModelChoice) -> Self:
        """Sizes from the weights' config.json where it is at hand, else those of the published checkpoint."""
        with torch.device("meta"):
            config = known_fields(STDiT3, config_at_hand(choice, TRANSFORMER, cls.name))
            model = built(STDiT3, config, TRANSFORMER)
        return cls(choice, model, config_at_hand(choice, VAE, cls.name))

    @cached_property
    def vae(self) -> OpenSoraVAE:
        """The VAE; built, and its code imported, only when a run needs it. In a sketch it is empty until `load`."""
        from engine.backbones.opensora.vae import OpenSoraVAE

        with torch.device(self.device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cast("OpenSoraVAE", built(OpenSoraVAE, self.vae_config, VAE))

    @classmethod
    def tiny(cls) -> Self:
        """Two block pairs of width 48 with random weights, and a VAE that halves the picture twice."""
        sizes = {"depth": 2, "hidden_size": 48, "num_heads": 2, "input_sq_size": 32}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = STDiT3(caption_channels=16, model_max_length=8, **sizes)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.2)
        backbone = cls(ModelChoice(backbone=cls.name, weights="random"), model.eval(), TINY_VAE)
        backbone.text = text.RandomText(model.config["caption_channels"])
        backbone.device = torch.device("cpu")
        return backbone

    def load(self, device: torch.device) -> None:
        """Read denoiser, VAE and text encoder; all folders are found before the first tensor is read."""
        weights = self.choice.weights
        if weights == "random":
            self._randomise(device)
        else:
            folders = {part.name: locate(weights, part, self.name) for part in COMPONENTS}
            denoiser, vae = fitting(self.model, folders["transformer"]), fitting(self.vae, folders["vae"])
            channels = int(self.model.config["caption_channels"])
            self.text = text.T5Text(folders["text_encoder"], folders["tokenizer"], channels, device)
            place(self.model, denoiser, self.dtype, device)
            place(self.vae, vae, self.dtype, device)
        self.model.eval().requires_grad_(False)
        self.vae.eval().requires_grad_(False)
        self.device = device

    def _randomise(self, device: torch.device) -> None:
        randomise((self.model, self.vae), self.dtype, device)
        fresh = STDiT3.from_config({**self.model.config, "depth": 1}).rope.freqs
        self.model.rope.freqs.data.copy_(fresh)
        self.text = text.RandomText(self.model.config["caption_channels"])

    def weight_files(self, *, download: bool = True) -> dict[str, Path]:
        """Weight files of all components."""
        if self.choice.weights == "random":
            return {}
        where = partial(locate, self.choice.weights, backbone=self.name, download=download)
        folders = [(part.name, where(component=part)) for part in COMPONENTS]
        files = [
            (name, file) for name, folder in folders for file in (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
        ]
        return {f"{name}/{file.name}": file for name, file in files}

    def shape(self, inputs: Inputs, steps: int) -> RunShape:
        """Sizes of a run; the prompt's token count is an estimate (a word and a third each)."""
        assert isinstance(inputs, OpenSoraInputs)
        pixels = (inputs.num_frames, inputs.height, inputs.width)
        latent = self.sizes.latent_shape(*pixels)
        prompts = [prepared(prompt, inputs.aesthetic_score) for prompt in inputs.prompts]
        return RunShape(
            backbone=self.name,
            steps=steps,
            batch=len(inputs.prompts),
            branches=self.branches_of(inputs.guidance),
            latent=latent,
            pixels=pixels,
            grid=self.model.grid((latent[1], latent[2], latent[3])),
            text_tokens=text.estimated_tokens(prompts, int(self.model.config["model_max_length"])),
            dtype=self.dtype,
            noise=self.noise,
        )

    def check(self, inputs: Inputs) -> list[tuple[str, str, str]]:
        """Frame counts that the time-step transform understands, and a reference that exists."""
        assert isinstance(inputs, OpenSoraInputs)
        problems = []
        if 1 < inputs.num_frames < CHUNK:
            problems.append(
                ("num_frames", f"`num_frames` is {inputs.num_frames}", f"use 1 for a picture, or at least {CHUNK}")
            )
        if inputs.reference is not None and not Path(inputs.reference).is_file():
            problems.append(("reference", f"there is no file {inputs.reference}", "name a picture or video file"))
        return problems

    def encode(self, inputs: Inputs, run: RunShape) -> Conditions:
        """Text features cut to the longest prompt; the unconditional half is the null caption under the same mask."""
        assert isinstance(inputs, OpenSoraInputs) and self.text is not None
        prompts = [prepared(prompt, inputs.aesthetic_score) for prompt in inputs.prompts]
        features, mask = self.text(prompts, int(self.model.config["model_max_length"]))
        longest = int(mask.sum(dim=1).max())
        features, mask = features[:, :longest].to(self.device), mask[:, :longest].to(self.device)
        null = self.model.y_embedder.null(longest).to(features.dtype).expand_as(features)
        fps = STILL_FPS if inputs.num_frames == 1 else inputs.fps
        sizes = torch.tensor([[fps, inputs.height, inputs.width]], dtype=self.dtype, device=self.device)
        fps_rows, height, width = sizes.expand(len(prompts), -1).unbind(1)
        return Conditions({Branch.COND: features, Branch.UNCOND: null}, mask, fps_rows, height, width)

    def predict(
        self, x: Tensor, time: float | Tensor, conditions: Any, branches: Sequence[Branch], **extra: Any
    ) -> Tensor:
        """Velocity x_0 - noise of every branch; `frames` [b, T] marks frames that are generated."""
        count = len(branches)
        rows = x.repeat(count, *[1] * (x.ndim - 1))
        frames = extra.get("frames")
        out = self.model(
            rows,
            (torch.as_tensor(time, dtype=torch.float64, device=x.device) * 1000).float().expand(len(x)).repeat(count),
            conditions.text(branches),
            mask=conditions.mask,
            x_mask=None if frames is None else frames.repeat(count, 1),
            fps=conditions.fps,
            height=conditions.height,
            width=conditions.width,
        )
        return out[:, : x.shape[1]]

    def examples(self, run: RunShape, count: int, seed: int) -> tuple[list[str], Tensor] | None:
        """For the embedded weights: random clips of the shared set."""
        if self.choice.weights != "embedded":
            return None
        from engine.zoo import emoji

        video, named = emoji.examples(count, run.pixels, seed)
        with torch.no_grad():
            parts = [self.vae.encode(clip[None].to(self.device, self.dtype), sample=False) for clip in video]
        return [emoji.caption(*names) for names in named], torch.cat(parts).float()

    def given(self, inputs: Inputs, run: RunShape, seeds: Sequence[int]) -> Given | None:
        """The reference's latents in the first frames, and the mask that keeps them."""
        assert isinstance(inputs, OpenSoraInputs)
        if inputs.reference is None:
            return None
        frames = read_frames(Path(inputs.reference), run.pixels[1:])
        count = 1 if frames.shape[1] == 1 else min(frames.shape[1], run.pixels[0]) // CHUNK * CHUNK or 1
        clip = (frames[None, :, :count] * 2 - 1).to(self.device, self.dtype)
        known = self.vae.encode(clip, sample=False).float()
        latents = torch.zeros(run.batch, *run.latent, device=self.device)
        mask = torch.ones(run.batch, run.latent[1], device=self.device)
        latents[:, :, : known.shape[2]] = known
        mask[:, : known.shape[2]] = inputs.reference_edit
        return Given(latents, mask)

    def decode(self, latents: Tensor, run: RunShape) -> Tensor:
        """Latents [b, 4, T, h, w] to video [b, 3, F, H, W] in 0..1, one sample at a time."""
        parts = [self.vae.decode(latent[None].to(self.dtype), run.pixels[0]).float() for latent in latents]
        return torch.cat(parts).add(1).div(2).clamp(0, 1)

    def sites(self, run: RunShape) -> list[Site]:
        """STEP, MODEL, then for each block: the block, its three sub-layers, their linears and kernels."""
        width, tokens = int(self.model.config["hidden_size"]), run.tokens
        channels = int(self.model.config["caption_channels"])
        patch = self.model.x_embedder.proj.weight[0].numel() + self.model.final_layer.linear.out_features
        around = tokens * width * patch + 6 * width**2 + run.text_tokens * (channels + width) * width
        around += 2 * (self.model.t_embedder.WIDTH * width + width**2)
        found = [
            Site("step", SiteKind.STEP, nn.Identity()),
            Site("model", SiteKind.MODEL, self.model, "step", macs=around),
        ]
        pairs = list(zip(self.model.spatial_blocks, self.model.temporal_blocks, strict=True))
        for layer, pair in enumerate(pairs):
            for temporal, block in enumerate(pair):
                assert isinstance(block, STDiT3Block)
                name = f"{('spatial', 'temporal')[temporal]}_blocks.{layer}"
                found += self._block_sites(name, block, 2 * layer + temporal, layer, len(pairs), run)
        return found

    def _block_sites(
        self, name: str, block: STDiT3Block, depth: int, layer: int, layers: int, run: RunShape
    ) -> list[Site]:
        width, tokens, words = int(self.model.config["hidden_size"]), run.tokens, run.text_tokens
        frames, rows, columns = run.grid
        keys = frames if block.attn.temporal else rows * columns
        kind = SiteKind.TEMPORAL_ATTENTION if block.attn.temporal else SiteKind.SELF_ATTENTION

        def site(suffix: str, kind: SiteKind, module: nn.Module, macs: int = 0, **facts: Any) -> Site:
            inside = (name + suffix).rpartition(".")[0] if suffix else "model"
            return Site(name + suffix, kind, module, inside, depth, layer, layers, run.grid, width, macs=macs, **facts)

        def linear(outer: Site, part: str, rows: int = tokens, **facts: Any) -> Site:
            return linear_site(outer, f"{outer.name}.{part}", outer.module.get_submodule(part), rows, **facts)

        attend, read, along = block.attn, block.cross_attn, "time" if block.attn.temporal else "space"
        own = site(".attn", kind, attend, along=along, gated=block.gated_attn)
        text = words * row_macs(read.kv_linear)
        cross = site(".cross_attn", SiteKind.CROSS_ATTENTION, read, context_macs=text)
        feed = site(
            ".mlp",
            SiteKind.FEED_FORWARD,
            block.mlp,
            token_inputs=("shift", "scale", "gate"),
            gated=block.gated_mlp,
        )
        return [
            site("", SiteKind.BLOCK, block, token_inputs=("frame_mask",)),
            own,
            linear(own, "qkv"),
            linear(own, "proj"),
            site(".attn.kernel", SiteKind.KERNEL, attend.kernel, 2 * tokens * keys * width, along=along),
            cross,
            linear(cross, "q_linear"),
            linear(cross, "kv_linear", words, per_token=False),
            linear(cross, "proj"),
            site(".cross_attn.kernel", SiteKind.KERNEL, read.kernel, 2 * tokens * words * width),
            feed,
            linear(feed, "fc1"),
            linear(feed, "fc2"),
        ]

    def activation_bytes(self, run: RunShape) -> int:
        """The MLP's input, hidden and output of every row at once."""
        rows = run.batch * len(run.branches)
        width = int(self.model.config["hidden_size"])
        return int(rows * run.tokens * width * (2 + 2 * float(self.model.config["mlp_ratio"])) * self.dtype.itemsize)

    def initial_noise(self, run: RunShape, seeds: Sequence[int]) -> Tensor:
        """One draw a sample, each from its own seed."""
        return draw(run.latent, seeds, self.device)

    def judge(self, videos: Tensor, inputs: Inputs) -> dict[str, Any]:
        """For the embedded weights: does a classifier see the object and the direction that the prompt names?"""
        if self.choice.weights != "embedded":
            return {}
        from engine.zoo.judge import judge_videos

        return judge_videos(videos, inputs.prompts)
