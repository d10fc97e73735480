"""Model cards of the embedded picture models: what they generate for 64 prompts that nobody chose, how they trained."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from engine.backbones.common.pictures import PictureModel
from engine.backbones.ddpm import DDPM
from engine.backbones.dit import DiT
from engine.backbones.pixart import PixArt
from engine.backbones.sd import StableDiffusion
from engine.spec import ModelChoice
from engine.technique import Technique
from engine.techniques.solvers.ddim import Ddim
from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP
from engine.weights import EMBEDDED
from engine.zoo import emoji
from engine.zoo.card import loss_curves
from engine.zoo.judge import judge_pictures
from engine.zoo.plain import PROMPTS, generate, random_objects
from engine.zoo.text import MAX_LENGTH

EDGE, STRIP, COLUMNS, SHOWN = 128, 14, 8, 32


@dataclass(frozen=True)
class Subject:
    """What a card is about: the backbone, how it is run, and what is said of it."""

    backbone: type[PictureModel]
    sampler: Technique
    guidance: float
    prompt: Callable[[str], str]
    extra: dict[str, Any]
    parts: tuple[str, ...]
    what: str
    edge: int = 64


SUBJECTS = {
    "dit": Subject(
        DiT,
        Ddim(steps=50),
        2.0,
        str,
        {},
        ("transformer",),
        "A small DiT (5 blocks, width 128, learned variance): pictures of a class. The classes are the 200 pictures\n"
        "of the set; as in every DiT the number after the last class means none. (That is 200 here, where diffusers'\n"
        "DiTPipeline always writes 1000: it runs this model without guidance only.)",
    ),
    "pixart": Subject(
        PixArt,
        DpmSolverPP(steps=20),
        3.0,
        emoji.caption,
        {"max_sequence_length": MAX_LENGTH},
        ("transformer", "text_encoder"),
        "A small PixArt-alpha (6 blocks, width 128, learned variance; T5 v1.1 encoder): text to image.",
    ),
    "sd": Subject(
        StableDiffusion,
        Ddim(steps=50, steps_offset=1, set_alpha_to_one=False),
        3.0,
        emoji.caption,
        {},
        ("unet", "text_encoder"),
        "A small Stable Diffusion (UNet of 3 levels with 32, 48 and 64 channels and 9 skip connections; CLIP encoder\n"
        "of 2 layers): text to image. The noise is that of all versions, predicted as epsilon.",
    ),
    "ddpm": Subject(
        DDPM,
        Ddim(steps=50),
        2.0,
        str,
        {},
        ("unet",),
        "A small DDPM (UNet of 4 levels with 32 to 64 channels and 12 skip connections, no latents): pictures of a\n"
        "class, or with the empty prompt of none. The classifier sees them doubled in size.",
        edge=32,
    ),
}


def sample_sheet(pictures: Tensor, prompts: Sequence[str]) -> Image.Image:
    """Pictures [b, 3, 1, H, W] in 0..1, enlarged to 128 pixels, eight a row, each over its prompt."""
    rows = -(-len(prompts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * EDGE, rows * (EDGE + STRIP)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, prompt) in enumerate(zip(pictures[:, :, 0], prompts, strict=True)):
        left, top = index % COLUMNS * EDGE, index // COLUMNS * (EDGE + STRIP)
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        sheet.paste(Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.NEAREST), (left, top))
        draw.text((left + 3, top + EDGE), prompt[:20], fill="black")
    return sheet


def measure(name: str, weights: str) -> tuple[Tensor, list[str], float]:
    """Pictures of 64 random prompts by the plain model, the prompts, and the share that the classifier recognises."""
    subject = SUBJECTS[name]
    backbone = subject.backbone.sketch(ModelChoice(backbone=name, weights=weights))
    backbone.load(torch.device("cpu"))
    prompts = [subject.prompt(thing) for thing in random_objects(torch.Generator().manual_seed(1))]

    def inputs_of(some: list[str]) -> Any:
        return backbone.inputs(prompts=some, guidance=subject.guidance, **subject.extra)

    pictures = generate(backbone, subject.sampler, inputs_of, prompts, seed=1000)
    accuracy = judge_pictures(pictures, prompts)["prompt_accuracy"]
    assert accuracy is not None
    return pictures, prompts, accuracy


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def vae_training() -> str:
    """How the shared VAE was trained, as a line of a card."""
    facts = json.loads((EMBEDDED / "shared" / "vae" / "training.json").read_text())
    psnr, minutes = facts["end"]["psnr"], facts["minutes"]
    return f"The VAE, trained before that for {minutes} minutes, restores pictures it has not seen to {psnr} dB.\n"


def write_picture_card(name: str, work: Path, out: Path) -> None:
    """Generate, judge, and write README.md, samples.png and loss.svg beside the weights."""
    subject = SUBJECTS[name]
    pictures, prompts, accuracy = measure(name, "embedded")
    sample_sheet(pictures[:SHOWN], prompts[:SHOWN]).save(out / "samples.png", optimize=True)
    loss_curves(work, out / "loss.svg")
    facts = json.loads((out / "training.json").read_text())
    in_pixels = subject.backbone.published_vae(ModelChoice(backbone=name)) is None
    sizes = {part: (out / part / "model.safetensors").stat().st_size for part in subject.parts}
    (out / "README.md").write_text(
        CARD.format(
            name=name,
            title=subject.backbone.__name__,
            what=subject.what,
            sizes=", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items()),
            prompts=PROMPTS,
            size=f"{subject.edge}x{subject.edge}",
            sampler=f"{subject.sampler.slug}, {subject.sampler.predictions()} steps",
            guidance=subject.guidance,
            accuracy=accuracy,
            shown=SHOWN,
            machine=f"{_cores(facts.get('cores', 1))} of a {platform.machine()} CPU, shared with other work",
            notes="".join(f"\n{note}\n" for note in facts.get("notes", ())),
            vae="" if in_pixels else " The VAE is the one in `engine/zoo/weights/shared/vae`.",
            vae_training="" if in_pixels else vae_training(),
            **{key: facts[key] for key in ("seed", "steps", "batch", "minutes")},
        )
    )


CARD = """# The embedded {title}

{what}
It was trained from nothing so that techniques can be run and measured without a download; layout and tensor names are
those of the published checkpoints. It knows one thing: 200 Noto emoji over plain pale backgrounds, {size}. Quality says
something about a technique's effect on *this* model, not about the published one.

Sizes in fp16: {sizes}.{vae}

## How well it does

For {prompts} random pictures of the set ({sampler}, guidance {guidance}), the classifier in `../classifier` recognises
what was asked for in {accuracy:.0%} of the plain model's pictures (`prompt_accuracy`). `samples.png` shows the first
{shown} of the {prompts}, unselected.

![samples](samples.png)

## How it was trained

`python -m engine.zoo.train {name}` (resumable), then `python -m engine.zoo.train picture-card {name}`. Seed {seed},
{steps} steps of {batch} pictures, {minutes} minutes on the clock on {machine}.
{vae_training}{notes}
![loss](loss.svg)

Data and their licence: `engine/zoo/emoji_pictures`. The weights are under the project's licence, Apache-2.0.
"""
