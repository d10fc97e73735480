"""What tests of UNets share: tiny ones in every layout, and the same weights in diffusers' own models and pipelines."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention import Attention
from diffusers.models.attention_processor import AttnProcessor2_0
from support import BACKBONES
from torch import Tensor

from engine.backbones.common.pictures import PictureModel
from engine.compiler import Compiled
from engine.runner import opened
from engine.spec import ModelChoice

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STABLE = {**SCALED, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
XL_FIELDS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 12,
    "transformer_layers_per_block": [2, 1],
    "use_linear_projection": True,
}
DEEP = {
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
}
"""Three levels of two layers, as many a level as in the published models; XL has no attention on its first."""


def tiny(layout: str) -> PictureModel:
    """A tiny backbone of one of the layouts."""
    kind = BACKBONES["ddpm" if layout in ("ddpm", "no_classes") else "sd"]
    # Without a middle: the smallest model of BK-SDM (arXiv 2305.15798).
    changes = {
        "xl": XL_FIELDS,
        "no_middle": {"mid_block_type": None},
        "no_classes": {"num_class_embeds": None},
        "deep": DEEP,
        "deep_xl": {
            **XL_FIELDS,
            **DEEP,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 1],
        },
    }.get(layout, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.denoiser.from_config({**kind.tiny_config, **changes}).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    details = {"scheduler": {**SCALED, "prediction_type": "v_prediction"}} if layout == "v" else {}
    backbone = kind(ModelChoice(backbone=kind.name, weights="random"), model, kind.tiny_vae, **details)
    backbone.device = torch.device("cpu")
    backbone.load_conditioner({})
    return backbone


def original(backbone: PictureModel) -> Any:
    """The denoiser with the same weights, built and run by diffusers alone."""
    model = backbone.denoiser.from_config(backbone.model.config)
    model.load_state_dict(backbone.model.state_dict())
    kernels = {type(module.processor) for module in model.modules() if isinstance(module, Attention)}
    assert type(model) is backbone.denoiser and kernels == {AttnProcessor2_0}
    return model.eval()


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generated(compiled: Compiled, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """Latents and pictures of the engine's run."""
    with opened(compiled) as side:
        latents = side.generate(seeds)
        return latents, compiled.backbone.decode(latents, compiled.run)[:, :, 0]


def pipeline_of(backbone: Any, layout: str) -> Any:
    """diffusers' pipeline with the same weights and noise schedule."""
    vae = AutoencoderKL.from_config(backbone.vae.config)
    vae.load_state_dict(backbone.vae.state_dict())
    prediction = "v_prediction" if layout == "v" else "epsilon"
    parts = {
        "vae": vae.eval(),
        "unet": original(backbone),
        "text_encoder": None,
        "tokenizer": None,
        "scheduler": DDIMScheduler(**STABLE, prediction_type=prediction),
    }
    if layout.endswith("xl"):
        pipeline = StableDiffusionXLPipeline(
            **parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False, force_zeros_for_empty_prompt=True
        )
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embeddings(backbone: Any, prompts: tuple[str, ...], layout: str) -> dict[str, Tensor]:
    """The prompts as the pipeline takes them."""
    text = backbone.text(prompts)
    negative = backbone.text([""] * len(prompts))
    if not layout.endswith("xl"):
        return {"prompt_embeds": text.tokens, "negative_prompt_embeds": negative.tokens}
    return {
        "prompt_embeds": text.tokens,
        "pooled_prompt_embeds": text.pooled,
        "negative_prompt_embeds": torch.zeros_like(text.tokens),
        "negative_pooled_prompt_embeds": torch.zeros_like(text.pooled),
    }
