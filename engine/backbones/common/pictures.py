"""What models of pictures, and of videos frame by frame, share: a diffusers denoiser over pixels or over latents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention import Attention
from torch import Tensor, nn

from engine.backbones.base import Backbone, Inputs
from engine.backbones.common.configs import built, config_at_hand, known_fields, randomise
from engine.backbones.common.transformer2d import block_sites, open_blocks, place_positions
from engine.denoise import DiscreteDiffusion, Prediction
from engine.errors import nearest
from engine.random import draw
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice
from engine.step import Branch, RunShape
from engine.weights import Component, fitting, locate, missing, place, read_config

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CHUNK = 64
"""Frames encoded at once."""
TRANSFORMER, VAE = Component("transformer"), Component("vae")
PUBLISHED_VAE: Mapping[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
"""The VAE of Stable Diffusion 1, which DiT and PixArt-alpha use."""
TINY_VAE: Mapping[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
}


def linear_diffusion() -> DiscreteDiffusion:
    """DDPM's schedule: 1000 steps, betas from 0.0001 to 0.02."""
    return DiscreteDiffusion(tuple(DDPMScheduler(beta_schedule="linear").alphas_cumprod.tolist()))


class DenoiserCall(nn.Module):
    """The MODEL site: diffusers' denoiser, giving a tensor where that gives an output object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor, **inputs: Any) -> Tensor:
        """hidden [B, C, ...] -> [B, C', ...]."""
        (out,) = self.model(hidden, **inputs, return_dict=False)
        return out


class PictureModel(Backbone):
    """One diffusers model that denoises pictures, or the latents that an AutoencoderKL has of them."""

    output: ClassVar[Literal["image", "video"]] = "image"
    prediction: Prediction = "epsilon"
    noise = linear_diffusion()

    model: Any
    denoiser: ClassVar[Any]
    """diffusers' class of `model`."""
    part: ClassVar[Component]
    """The component that `model` is."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Configs of the published denoisers by the name of their repository; `random` weights have the first."""
    tiny_config: ClassVar[Mapping[str, Any]]
    tiny_vae: ClassVar[Mapping[str, Any] | None] = TINY_VAE
    components: tuple[Component, ...]

    def __init__(self, choice: ModelChoice, model: Any, vae_config: Mapping[str, Any] | None) -> None:
        super().__init__(choice)
        self.model, self.vae_config = model, vae_config
        self.call = DenoiserCall(model)
        self.cell = 1 if vae_config is None else 2 ** (len(vae_config["block_out_channels"]) - 1)
        """Pixels that one latent covers, along each axis."""

    @classmethod
    def sketch(cls, choice: ModelChoice) -> Self:
        """Sizes from the weights' config.json where it is at hand, else those of the published model of that name."""
        config = config_at_hand(choice, cls.part, cls.name) or cls.published_config(choice)
        with torch.device("meta"):
            model = built(cls.denoiser, known_fields(cls.denoiser, config), cls.part)
        published = cls.published_vae(choice)
        vae = None if published is None else config_at_hand(choice, VAE, cls.name) or published
        return cls(choice, model, vae, **cls.details(choice))

    @classmethod
    def details(cls, choice: ModelChoice) -> dict[str, Any]:
        """What else the constructor takes, from the weights where they are at hand."""
        return {}

    @classmethod
    def published_vae(cls, choice: ModelChoice) -> Mapping[str, Any] | None:
        """Config of the published VAE; None for a model of pixels."""
        return PUBLISHED_VAE

    @classmethod
    def published_name(cls, choice: ModelChoice) -> str:
        """The published model that stands in for a config that is not at hand: that of the repository's name."""
        weights, first = choice.weights, next(iter(cls.published))
        if choice.random:
            name = str(weights).partition(":")[2] or first
            if name not in cls.published:
                raise missing(f"no published size of `{cls.name}` is called `{name}`", nearest(name, cls.published))
            return name
        name = (weights if isinstance(weights, str) else weights.get(cls.part.name, "")).rpartition("/")[2]
        return name if name in cls.published else first

    @classmethod
    def published_config(cls, choice: ModelChoice) -> Mapping[str, Any]:
        """That model's config."""
        return cls.published[cls.published_name(choice)]

    @classmethod
    def whole_tiny_config(cls) -> Mapping[str, Any]:
        """Config of the tiny denoiser."""
        return cls.tiny_config

    @classmethod
    def tiny(cls) -> Self:
        """A few blocks with random weights, and a VAE that halves the picture once, if there is one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = cls.denoiser.from_config(dict(cls.whole_tiny_config()))
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.2)
        backbone = cls(ModelChoice(backbone=cls.name, weights="random"), model.eval(), cls.tiny_vae)
        backbone.device = torch.device("cpu")
        backbone.load_conditioner({})
        return backbone

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The VAE; built only when a run needs it. In a sketch it is empty until `load`."""
        from diffusers import AutoencoderKL

        assert self.vae_config is not None
        with torch.device(self.device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return built(AutoencoderKL, known_fields(AutoencoderKL, self.vae_config), VAE)

    @abstractmethod
    def load_conditioner(self, folders: Mapping[str, Path]) -> None:
        """Load what `encode` needs from the components' folders; from none for random weights."""

    def load(self, device: torch.device) -> None:
        """Read denoiser, VAE and what encodes prompts; all folders are found before the first tensor is read."""
        folders = self._folders()
        modules = {self.part.name: self.model}
        if self.vae_config is not None:
            modules["vae"] = self.vae
        if folders:
            self.check_configs(folders)
            tensors = {name: fitting(module, folders[name]) for name, module in modules.items()}
            for name, module in modules.items():
                place(module, tensors[name], self.dtype, device)
        else:
            randomise(modules.values(), self.dtype, device)
        self.device = device
        self.load_conditioner(folders)
        for module in modules.values():
            module.eval().requires_grad_(False)

    def _folders(self, *, download: bool = True) -> dict[str, Path]:
        if self.choice.random:
            return {}
        where = partial(locate, self.choice.weights, backbone=self.name, download=download)
        return {part.name: where(component=part) for part in self.components}

    def check_configs(self, folders: Mapping[str, Path]) -> None:
        """The plan was made from a published config if this one had yet to be downloaded: both must agree.

        Configs write null or false for the same.
        """
        folder = folders[self.part.name]
        config = known_fields(self.denoiser, read_config(folder))
        known = self.model.config
        differing = sorted(name for name, value in config.items() if (known[name] or None) != (value or None))
        if differing:
            raise missing(
                f"the config.json in {folder} has another {', '.join(differing)} than the plan was made with",
                "run again: the config is at hand now",
            )

    def weight_files(self, *, download: bool = True) -> dict[str, Path]:
        """Weight files of all components."""
        files = [
            (name, file)
            for name, folder in self._folders(download=download).items()
            for file in (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
        ]
        return {f"{name}/{file.name}": file for name, file in files}

    @abstractmethod
    def pixels(self, inputs: Inputs) -> tuple[int, int]:
        """Height and width of a picture."""

    @property
    def own_size(self) -> int:
        """Edge in pixels of the square that the model was trained for."""
        return int(self.model.config["sample_size"]) * self.cell

    def text_tokens(self, inputs: Inputs) -> int:
        """Text tokens that cross-attention reads, padding included."""
        return 0

    def shape(self, inputs: Inputs, steps: int) -> RunShape:
        """Sizes of a run."""
        height, width = self.pixels(inputs)
        latent = (int(self.model.config["in_channels"]), height // self.cell, width // self.cell)
        return RunShape(
            backbone=self.name,
            steps=steps,
            batch=len(inputs.prompts),
            branches=self.branches_of(inputs.guidance),
            latent=latent,
            pixels=(1, height, width),
            grid=(1, latent[1] // self.patch, latent[2] // self.patch),
            text_tokens=self.text_tokens(inputs),
            dtype=self.dtype,
            timesteps=len(self.noise.alphas_cumprod),
            noise=self.noise,
        )

    @property
    def patch(self) -> int:
        """Latents that one token of the outermost grid covers, along each axis."""
        return 1

    @property
    def size_step(self) -> int:
        """Pixels that height and width must be multiples of."""
        return self.cell * self.patch

    def check(self, inputs: Inputs) -> list[tuple[str, str, str]]:
        """Sizes that the model can make."""
        step = self.size_step
        return [
            (key, f"`{key}` is {edge}, no multiple of {step}", f"use {max(step, round(edge / step) * step)}")
            for key in ("size", "height", "width")
            if (edge := getattr(inputs, key, None)) is not None and edge % step
        ]

    def encode(self, inputs: Inputs, run: RunShape) -> Any:
        """Conditions of the prompts."""
        return self.conditions(inputs, run)

    @abstractmethod
    def conditions(self, inputs: Inputs, run: RunShape) -> Any:
        """What `model_inputs` makes its arguments from."""

    @abstractmethod
    def model_inputs(self, conditions: Any, branches: Sequence[Branch]) -> dict[str, Any]:
        """The denoiser's arguments besides latents and time step, for rows in batch order."""

    def predict(
        self, x: Tensor, time: float | Tensor, conditions: Any, branches: Sequence[Branch], **extra: Any
    ) -> Tensor:
        """Prediction of every branch; a learned variance is left out."""
        rows = x.to(self.dtype).repeat(len(branches), *[1] * (x.ndim - 1))
        levels = time.tolist() if isinstance(time, Tensor) else [time] * len(x)
        timestep = torch.tensor([self.noise.timestep(level) for level in levels] * len(branches), device=x.device)
        out: Tensor = self.call(rows, timestep=timestep, **self.model_inputs(conditions, branches))
        return out[:, : x.shape[1]].to(x.dtype)

    def blank_inputs(self) -> dict[str, Any]:
        """The denoiser's arguments besides latents and time step, for one row of no meaning."""
        raise NotImplementedError

    def blank_call(self) -> Tensor:
        """The denoiser on zeros, on the meta device too."""
        config, edge = self.model.config, int(self.model.config["sample_size"])
        rows = torch.zeros(1, int(config["in_channels"]), edge, edge, dtype=self.dtype, device=self.device)
        timestep = torch.zeros(1, device=self.device)
        out: Tensor = self.call(rows, timestep=timestep, **self.blank_inputs())
        return out

    def heads(self) -> dict[str, int]:
        """Heads of every attention, by its query, key and value."""
        attentions = [(name, module) for name, module in self.model.named_modules() if isinstance(module, Attention)]
        parts = ("to_q", "to_k", "to_v")
        return {f"{name}.{part}": int(attention.heads) for name, attention in attentions for part in parts}

    def decode(self, latents: Tensor, run: RunShape) -> Tensor:
        """Latents [b, 4, h, w] to pictures [b, 3, 1, H, W] in 0..1, one sample at a time; pixels stay what they are."""
        if self.vae_config is None:
            return latents.float().div(2).add(0.5).clamp(0, 1)[:, :, None]
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        parts = [self.vae.decode(latent[None], return_dict=False)[0].float() for latent in scaled]
        return torch.cat(parts).div(2).add(0.5).clamp(0, 1)[:, :, None]

    def examples(self, run: RunShape, count: int, seed: int) -> tuple[list[str], Tensor] | None:
        """For the embedded weights: random pictures (or clips) of the shared set, encoded as its recipes do."""
        if self.choice.weights != "embedded":
            return None
        from engine.zoo import emoji

        video, named = emoji.examples(count, run.pixels, seed)
        return [self.prompt_of(*names) for names in named], self.encode_pictures(video.to(self.device))

    def prompt_of(self, name: str, direction: str) -> str:
        """How a prompt names a picture of the shared set."""
        from engine.zoo import emoji

        return emoji.caption(name, direction if self.output == "video" else None)

    @torch.no_grad()
    def encode_pictures(self, video: Tensor) -> Tensor:
        """Clips [b, 3, F, H, W] in -1..1 to latents: [b, 4, h, w] of one frame, [b, 4, F, h, w] of a video."""
        frames = video.transpose(1, 2).flatten(0, 1)
        if self.vae_config is not None:
            parts = [self.vae.encode(part.to(self.vae.dtype)).latent_dist.mean for part in frames.split(CHUNK)]
            frames = torch.cat(parts).float() * self.vae.config.scaling_factor
        latents = frames.unflatten(0, (len(video), -1))
        return latents.transpose(1, 2) if self.output == "video" else latents.squeeze(1)

    def initial_noise(self, run: RunShape, seeds: Sequence[int]) -> Tensor:
        """One draw a sample, each from its own seed."""
        return draw(run.latent, seeds, self.device)

    def judge(self, videos: Tensor, inputs: Inputs) -> dict[str, Any]:
        """For the embedded weights: does a classifier see what the prompt names?"""
        if self.choice.weights != "embedded":
            return {}
        from engine.zoo.judge import judge_pictures

        return judge_pictures(videos, inputs.prompts)


class PictureTransformer(PictureModel):
    """A transformer of `transformer_blocks` that denoises the latents of an AutoencoderKL."""

    part = TRANSFORMER
    components: tuple[Component, ...] = (TRANSFORMER, VAE)

    def __init__(self, choice: ModelChoice, model: Any, vae_config: Mapping[str, Any] | None) -> None:
        open_blocks(model)
        super().__init__(choice, model, vae_config)

    @classmethod
    def whole_tiny_config(cls) -> Mapping[str, Any]:
        """Two blocks of width 48."""
        return {**cls.tiny_config, "num_attention_heads": 2, "attention_head_dim": 24}

    @property
    def patch(self) -> int:
        """Latents that one token covers, along each axis."""
        return int(self.model.config["patch_size"])

    def encode(self, inputs: Inputs, run: RunShape) -> Any:
        """Conditions of the prompts; places the position embeddings of this run's grid on the way."""
        place_positions(self.model.pos_embed, run.grid[1:])
        return super().encode(inputs, run)

    def sites(self, run: RunShape) -> list[Site]:
        """STEP, MODEL, then for each block: the block, its sub-layers, and their kernels."""
        around, block = self.modulation_macs(run)
        ends = self.model.pos_embed.proj.weight.numel() + self.output_layer.weight.numel()
        return [
            Site("step", SiteKind.STEP, nn.Identity()),
            Site("model", SiteKind.MODEL, self.call, "step", macs=run.tokens * ends + around),
            *block_sites(self.model.transformer_blocks, run, run.text_tokens, block),
        ]

    @property
    @abstractmethod
    def output_layer(self) -> nn.Linear:
        """The linear that every token leaves through."""

    @abstractmethod
    def modulation_macs(self, run: RunShape) -> tuple[int, int]:
        """MACs of a sample spent on time, class or text: around all blocks, and in every block."""

    def activation_bytes(self, run: RunShape) -> int:
        """The MLP's input, hidden and output of every row at once."""
        width = int(self.output_layer.in_features)
        return run.batch * len(run.branches) * run.tokens * width * (2 + 2 * 4) * self.dtype.itemsize


def linears_macs(*modules: nn.Module) -> int:
    """MACs of one row through every linear inside `modules`."""
    layers = (layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(layer.weight.numel() for layer in layers)
