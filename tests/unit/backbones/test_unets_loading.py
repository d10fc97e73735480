"""Stable Diffusion and DDPM from folders in the hub's layout; with text, against diffusers' pipelines."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from support import BACKBONES, TINY_STEPS, tiny_request
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.compiler import compile_spec
from engine.errors import MissingWeights
from engine.runner import opened
from engine.spec import ModelChoice
from engine.zoo.clip_text import build_clip_encoder, build_clip_tokenizer, save_clip_side
from engine.zoo.files import save_half, save_index

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU = torch.device("cpu")
STABLE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
WIDTH, POOLED = 8, 12
XL_FIELDS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + POOLED,
    "cross_attention_dim": 2 * WIDTH,
}
on_stable = pytest.mark.parametrize("layout", ["sd", "xl"])


def denoiser(name: str, **changes: Any) -> Any:
    kind = BACKBONES[name]
    torch.manual_seed(0)
    model = kind.denoiser.from_config({**kind.tiny_config, **changes})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def saved(layout: str, folder: Path, **scheduler: Any) -> Path:
    """A tiny model, written as its repository would hold it."""
    if layout == "ddpm":
        save_half(denoiser("ddpm"), folder / "unet")
        DDIMScheduler(beta_schedule="linear", clip_sample=False).save_config(folder / "scheduler")
        save_index(folder, "DDIMPipeline", {"id2label": {"0": "goldfish", "1": "tench"}})
        return folder
    changes = XL_FIELDS if layout == "xl" else {"cross_attention_dim": WIDTH}
    save_half(denoiser("sd", **changes), folder / "unet")
    save_half(BACKBONES["sd"].tiny().vae, folder / "vae")
    DDIMScheduler(**{**STABLE, **scheduler}).save_config(folder / "scheduler")
    tokenizer = build_clip_tokenizer(["a red cat", "the dog"])
    save_clip_side(tokenizer, build_clip_encoder(tokenizer, width=WIDTH, heads=2), folder)
    save_index(folder, "StableDiffusionPipeline", {"force_zeros_for_empty_prompt": True} if layout == "xl" else {})
    if layout == "xl":
        one = build_clip_encoder(tokenizer, width=WIDTH, heads=2).config.to_dict()
        second = CLIPTextModelWithProjection(CLIPTextConfig(**{**one, "projection_dim": POOLED}))
        second.half().save_pretrained(folder / "text_encoder_2")
        tokenizer.save_pretrained(folder / "tokenizer_2")
    return folder


def loaded(name: str, weights: str | dict[str, str]) -> Any:
    backbone = BACKBONES[name].sketch(ModelChoice(backbone=name, weights=weights))
    backbone.load(CPU)
    return backbone


def pipeline_of(layout: str, folder: Path) -> Any:
    """diffusers' pipeline over the same files, read by diffusers and transformers alone."""

    def read(kind: Any, part: str) -> Any:
        return kind.from_pretrained(folder / part, dtype=torch.float32)

    def built(kind: Any, part: str) -> Any:
        model = kind.from_config(kind.load_config(folder / part))
        model.load_state_dict(load_file(folder / part / "model.safetensors"))
        return model.eval()

    parts = {
        "vae": built(AutoencoderKL, "vae"),
        "unet": built(BACKBONES["sd"].denoiser, "unet"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
        "text_encoder": read(CLIPTextModel, "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    if layout == "xl":
        second = read(CLIPTextModelWithProjection, "text_encoder_2")
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=second,
            tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            add_watermarker=False,
        )
    else:
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **nothing)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@on_stable
@pytest.mark.parametrize("negative", ["", "the dog"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_prompts_give_what_the_pipeline_gives(layout: str, negative: str, guidance: float, tmp_path: Path) -> None:
    """From words to pictures."""
    folder, prompts = saved(layout, tmp_path), ["a red cat", "zebra?"]
    backbone = loaded("sd", str(folder))
    settings = {"guidance": guidance, "negative_prompt": negative}
    compiled = compile_spec(tiny_request("sd", [], prompts=prompts, inputs=settings), backbone)
    with opened(compiled) as side:
        ours = backbone.decode(side.generate([5, 6]), compiled.run)[:, :, 0]
    theirs = pipeline_of(layout, folder)(
        prompts,
        negative_prompt=[negative] * 2 if negative else None,
        guidance_scale=guidance,
        num_inference_steps=TINY_STEPS,
        height=16,
        width=24,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="pt",
    ).images
    assert (ours - theirs).abs().max() < 1e-4
    assert ours.std() > 0.01 and not torch.equal(ours[0], ours[1])


@on_stable
def test_every_component_is_read(layout: str, tmp_path: Path) -> None:
    backbone = loaded("sd", str(saved(layout, tmp_path)))
    parts = {"unet", "vae", "text_encoder"} | ({"text_encoder_2"} if layout == "xl" else set())
    assert backbone.weight_files().keys() == {f"{part}/model.safetensors" for part in parts}
    by_part = {part.name: str(tmp_path / part.name) for part in backbone.components}
    assert loaded("sd", by_part).weight_files() == backbone.weight_files()


def test_ddpm_reads_names_of_classes(tmp_path: Path) -> None:
    backbone = loaded("ddpm", str(saved("ddpm", tmp_path)))
    inputs = backbone.inputs(prompts=["tench", "Goldfish", "7", ""], guidance=2.0)
    assert backbone.check(inputs) == []
    labels = backbone.conditions(inputs, backbone.shape(inputs, 1))
    assert [labels[branch].tolist() for branch in backbone.branches] == [[10] * 4, [1, 0, 7, 10]]
    problems = backbone.check(backbone.inputs(prompts=["goldfsh", "10"]))
    assert [rule for _, rule, _ in problems] == ["there is no class `goldfsh`", "there is no class `10`"]
    assert "goldfish" in problems[0][2] and "0..9" in problems[1][2]


def test_ddpm_of_a_repository_without_folders(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 is laid out: the UNet at the top, named as a component; no scheduler is asked for."""
    folder = saved("ddpm", tmp_path)
    backbone = loaded("ddpm", {"unet": str(folder / "unet")})
    assert backbone.weight_files().keys() == {"unet/model.safetensors"}


def test_scheduler_says_what_is_predicted(tmp_path: Path) -> None:
    folder = saved("sd", tmp_path, prediction_type="v_prediction", beta_schedule="linear")
    backbone = BACKBONES["sd"].sketch(ModelChoice(backbone="sd", weights=str(folder)))
    assert backbone.prediction == "v"
    assert backbone.noise.alphas_cumprod == tuple(
        DDIMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod.tolist()
    )


def test_scheduler_that_came_after_the_plan_must_agree(tmp_path: Path) -> None:
    folder = saved("sd", tmp_path)
    backbone = BACKBONES["sd"].sketch(ModelChoice(backbone="sd", weights=str(folder)))
    DDIMScheduler(**STABLE, prediction_type="v_prediction").save_config(folder / "scheduler")
    with pytest.raises(MissingWeights, match="another noise or prediction") as caught:
        backbone.load(CPU)
    assert "run again" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no scheduler_config"),
        ("[", "not valid JSON"),
        ("[1]", "must hold a mapping"),
        ('{"beta_schedule": "wavy"}', "describes no noise schedule"),
        ('{"prediction_type": "flow"}', "`prediction_type` is `flow`"),
    ],
)
def test_damaged_scheduler_is_explained(content: str | None, message: str, tmp_path: Path) -> None:
    folder = saved("sd", tmp_path)
    path = folder / "scheduler" / "scheduler_config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(MissingWeights, match=message):
        BACKBONES["sd"].sketch(ModelChoice(backbone="sd", weights=str(folder)))


def test_text_encoder_of_another_model_is_explained(tmp_path: Path) -> None:
    folder = saved("sd", tmp_path)
    tokenizer = build_clip_tokenizer(["a red cat"])
    save_clip_side(tokenizer, build_clip_encoder(tokenizer, width=2 * WIDTH, heads=2), folder)
    with pytest.raises(MissingWeights, match="have 16 channels where the denoiser wants 8"):
        loaded("sd", str(folder))


@pytest.mark.parametrize(("weights", "remedy"), [("folder", "put one of"), ("embedded", "engine.zoo.train sd")])
def test_missing_weights_are_named(weights: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded ones that are not trained yet say how they are trained."""
    folder = saved("sd", tmp_path / "sd")
    (folder / "unet" / "model.safetensors").unlink()
    if weights == "embedded":
        monkeypatch.setattr("engine.weights.EMBEDDED", tmp_path)
    with pytest.raises(MissingWeights, match="unet holds no weights") as caught:
        loaded("sd", "embedded" if weights == "embedded" else str(folder))
    assert remedy in str(caught.value)


def test_length_of_prompts_is_the_encoders(tmp_path: Path) -> None:
    folder = saved("sd", tmp_path)
    backbone = BACKBONES["sd"].sketch(ModelChoice(backbone="sd", weights=str(folder)))
    length = json.loads((folder / "text_encoder" / "config.json").read_text())["max_position_embeddings"]
    assert backbone.shape(backbone.inputs(prompts=["x"]), 1).text_tokens == length == 16


@on_stable
def test_vae_of_xl_stays_in_float32(layout: str, tmp_path: Path) -> None:
    choice = ModelChoice(backbone="sd", weights=str(saved(layout, tmp_path)), dtype="float16")
    backbone = BACKBONES["sd"].sketch(choice)
    backbone.load(CPU)
    assert backbone.model.dtype is torch.float16
    assert backbone.vae.dtype is (torch.float32 if layout == "xl" else torch.float16)
    run = backbone.shape(backbone.inputs(prompts=["x"], height=16, width=24), 1)
    assert backbone.decode(backbone.initial_noise(run, [0]), run).shape == (1, 3, 1, 16, 24)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("unet/diffusion_pytorch_model.safetensors", True),
        ("unet/diffusion_pytorch_model.fp16.safetensors", False),
        ("unet/diffusion_pytorch_model.non_ema.safetensors", False),
        ("unet/diffusion_pytorch_model-00001-of-00002.safetensors", True),
        ("unet/diffusion_pytorch_model.safetensors.index.json", True),
        ("text_encoder/model.safetensors", True),
        ("text_encoder/pytorch_model.bin", False),
        ("tokenizer/merges.txt", True),
        ("tokenizer/vocab.json", True),
        ("scheduler/scheduler_config.json", True),
    ],
)
def test_one_set_of_weights_is_downloaded(file: str, wanted: bool) -> None:
    """Of a repository with several number formats, as that of Stable Diffusion 1.5."""
    parts = {part.name: part for part in BACKBONES["sd"].tiny().components}
    folder, _, name = file.partition("/")
    assert any(fnmatch(name, pattern) for pattern in parts[folder].patterns) is wanted
