"""The model card of the embedded Open-Sora: what it generates for 64 prompts that nobody chose, and how it trained."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from engine.backbones.opensora.adapter import OpenSora, OpenSoraInputs
from engine.spec import ModelChoice
from engine.techniques.solvers.rflow import Rflow
from engine.zoo import emoji
from engine.zoo.judge import judge_videos
from engine.zoo.opensora import FPS, FRAMES, SIZE
from engine.zoo.plain import PROMPTS, generate, random_objects

SHOWN = 24
SAMPLER = Rflow(steps=30, base_size=SIZE)
GUIDANCE = 3.0


def evaluation_prompts(seed: int = 1) -> list[str]:
    """64 random captions of the training vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    things = random_objects(generator)
    ways = torch.randint(len(emoji.DIRECTIONS), (PROMPTS,), generator=generator).tolist()
    return [emoji.caption(thing, emoji.DIRECTIONS[way]) for thing, way in zip(things, ways, strict=True)]


def generated(folder: Path, prompts: Sequence[str], seed: int) -> Tensor:
    """Videos [b, 3, F, H, W] in 0..1 of the weights in `folder`, by the plain model."""
    backbone = OpenSora.sketch(ModelChoice(backbone="opensora", weights=str(folder)))
    backbone.load(torch.device("cpu"))

    def inputs_of(some: list[str]) -> OpenSoraInputs:
        return OpenSoraInputs(prompts=some, num_frames=FRAMES, height=SIZE, width=SIZE, fps=FPS, guidance=GUIDANCE)

    return generate(backbone, SAMPLER, inputs_of, prompts, seed)


def sample_sheet(videos: Tensor, prompts: Sequence[str]) -> Image.Image:
    """Five frames of every video beside one another, two videos a row, each under its prompt."""
    edge, strip = 64, 14
    frames = [round(index * (videos.shape[2] - 1) / 4) for index in range(5)]
    sheet = Image.new("RGB", (2 * (5 * edge + 8), (len(prompts) + 1) // 2 * (edge + strip)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
        left, top = index % 2 * (5 * edge + 8), index // 2 * (edge + strip)
        draw.text((left + 2, top + 1), prompt, fill="black")
        row = torch.cat([video[:, frame] for frame in frames], dim=-1).permute(1, 2, 0)
        sheet.paste(Image.fromarray((row * 255).round().byte().numpy()), (left, top + strip))
    return sheet


def loss_curves(work: Path, path: Path) -> None:
    """Loss of every stage over its steps, smoothed over 20 records, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "engine"
    from matplotlib import pyplot as plt

    stages = [stage for stage in ("spatial_vae", "temporal_vae", "denoiser") if (work / f"{stage}.csv").exists()]
    figure, axes = plt.subplots(1, len(stages), figsize=(4 * len(stages), 3), layout="constrained", squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        with (work / f"{stage}.csv").open(newline="") as file:
            rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
        losses = torch.tensor([loss for _, loss in rows])
        window = min(20, len(losses))
        smooth = losses.unfold(0, window, 1).mean(dim=1)
        axis.plot([step for step, _ in rows][window - 1 :], smooth.tolist())
        axis.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_card(work: Path, out: Path) -> None:
    """Generate, judge, and write README.md, samples.png and loss.svg beside the weights."""
    prompts = evaluation_prompts()
    videos = generated(out, prompts, seed=1000)
    seen = judge_videos(videos, prompts)
    sample_sheet(videos[:SHOWN], prompts[:SHOWN]).save(out / "samples.png", optimize=True)
    loss_curves(work, out / "loss.svg")
    facts = json.loads((out / "training.json").read_text())
    sizes = {part: (out / part / "model.safetensors").stat().st_size for part in ("transformer", "vae", "text_encoder")}
    stages = "\n".join(
        f"| {stage} | {facts['recipe'][f'{stage}_steps']} | {minutes} |"
        for stage, minutes in {name.removesuffix("_vae"): value for name, value in facts["minutes"].items()}.items()
    )
    (out / "README.md").write_text(
        CARD.format(
            prompts=PROMPTS,
            object_seen=seen["object_seen"],
            direction_seen=seen["direction_seen"],
            sizes=", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items()),
            seed=facts["recipe"]["seed"],
            batch=facts["recipe"]["batch"],
            stills=facts["recipe"]["still_steps"],
            still_batch=facts["recipe"]["still_batch"],
            clips=facts["recipe"]["bank_clips"],
            stages=stages,
            notes="".join(f"\n{note}\n" for note in facts.get("notes", ())),
            machine=f"{platform.machine()} CPU, 2 cores shared with other work",
            shown=SHOWN,
            guidance=GUIDANCE,
            steps=SAMPLER.steps,
        )
    )


CARD = """# The embedded Open-Sora

A small Open-Sora 1.2 (STDiT3 of 6 blocks, width 128; 2-D and causal temporal VAE; T5 v1.1 encoder), trained from
nothing so that techniques can be run and measured without a download. Layout and tensor names are those of the
published checkpoints. It knows one thing: 200 Noto emoji moving left, right, up or down over plain pale backgrounds,
17 frames of 64x64. Quality says something about a technique's effect on *this* model, not about the published one.

Sizes in fp16: {sizes}.

## How well it does

On {prompts} random captions of the training vocabulary (`engine.zoo.card`, {steps} steps, guidance {guidance}), the
classifier in `../classifier` recognises the object in {object_seen:.0%} and the direction in {direction_seen:.0%} of
the videos of the plain model. Outlines are better than colours: the temporal VAE is small. `samples.png` shows the
first {shown} of the {prompts}, unselected, five frames each.

![samples](samples.png)

## How it was trained

`python -m engine.zoo.train opensora` (resumable), then `python -m engine.zoo.train card`. Seed {seed}; the denoiser saw
{clips} encoded clips, {stills} steps of {still_batch} stills and then clips in batches of {batch} with every fourth
step on stills; {machine}. Minutes are wall-clock on that shared machine.

| stage | steps | minutes |
| --- | --- | --- |
{stages}
{notes}
![loss](loss.svg)

Data and their licence: `engine/zoo/emoji_pictures`. The weights are under the project's licence, Apache-2.0.
"""
