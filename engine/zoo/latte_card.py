"""The model card of the embedded Latte: what it generates for 64 prompts that nobody chose, and how it trained."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.backbones.latte.adapter import Latte, LatteInputs
from engine.spec import ModelChoice
from engine.techniques.solvers.ddim import Ddim
from engine.weights import EMBEDDED
from engine.zoo.card import evaluation_prompts, loss_curves, sample_sheet
from engine.zoo.judge import judge_videos
from engine.zoo.latte import FRAMES
from engine.zoo.plain import PROMPTS, generate
from engine.zoo.text import MAX_LENGTH

SHOWN = 24
SAMPLER = Ddim(steps=50)
GUIDANCE = 3.0
PARTS = ("transformer", "text_encoder")


def generated(weights: str | dict[str, str], prompts: Sequence[str], seed: int, guidance: float = GUIDANCE) -> Tensor:
    """Videos [b, 3, F, 64, 64] in 0..1 by the plain model."""
    backbone = Latte.sketch(ModelChoice(backbone="latte", weights=weights))
    backbone.load(torch.device("cpu"))

    def inputs_of(some: list[str]) -> LatteInputs:
        return LatteInputs(prompts=some, guidance=guidance, max_sequence_length=MAX_LENGTH)

    return generate(backbone, SAMPLER, inputs_of, prompts, seed)


def write_latte_card(work: Path, out: Path) -> None:
    """Generate, judge, and write README.md, samples.png and loss.svg beside the weights."""
    prompts = evaluation_prompts()
    videos = generated("embedded", prompts, seed=1000)
    sample_sheet(videos[:SHOWN], prompts[:SHOWN]).save(out / "samples.png", optimize=True)
    loss_curves(work, out / "loss.svg")
    facts, vae = (json.loads((folder / "training.json").read_text()) for folder in (out, EMBEDDED / "shared" / "vae"))
    sizes = {part: (out / part / "model.safetensors").stat().st_size for part in PARTS}
    (out / "README.md").write_text(
        CARD.format(
            prompts=PROMPTS,
            shown=SHOWN,
            frames=FRAMES,
            guidance=GUIDANCE,
            sampler_steps=SAMPLER.steps,
            sizes=", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items()),
            machine=f"2 cores of a {platform.machine()} CPU, shared with other work",
            notes="".join(f"\n{note}\n" for note in facts.pop("notes", ())),
            psnr=vae["end"]["psnr"],
            **judge_videos(videos, prompts),
            **facts,
        )
    )


CARD = """# The embedded Latte

A small Latte (3 pairs of spatial and temporal blocks, width 128, learned variance; T5 v1.1 encoder): text to video. It
was trained here, from the embedded PixArt, so that techniques can be run and measured without a download; layout and
tensor names are those of the published checkpoint. It knows one thing: 200 Noto emoji moving left, right, up or down
over plain pale backgrounds, {frames} frames of 64x64. Quality says something about a technique's effect on *this*
model, not about the published one.

Sizes in fp16: {sizes}. The VAE is the one in
`engine/zoo/weights/shared/vae`, frame by frame; it restores pictures it has not seen to
{psnr} dB.

## How well it does

On {prompts} random captions of the training vocabulary (ddim, {sampler_steps} steps, guidance {guidance}), the
classifier in `../classifier` recognises the object in {object_seen:.0%} and the direction in {direction_seen:.0%} of
the videos of the plain model. `samples.png` shows the first {shown} of the {prompts}, unselected, five frames each.

![samples](samples.png)

## How it was trained

`python -m engine.zoo.train latte` (resumable), then `python -m engine.zoo.train latte-card`. Seed {seed}, {steps} steps
on the frames of {clips} encoded clips: {still_steps} on {still_batch} single frames each, told their place in time,
then {clip_batch} clips each; {minutes} minutes on the clock on {machine}.
{notes}
![loss](loss.svg)

Data and their licence: `engine/zoo/emoji_pictures`. The weights are under the project's licence, Apache-2.0.
"""
