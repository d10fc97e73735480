"""The picture set of the embedded models: 200 Noto emoji with captions, moving over plain backgrounds.

The pictures (64x64, with transparency) lie in `emoji_pictures/` with their licence and origin. `render` makes clips of
any length and size from them. `python -m engine.zoo.emoji PACKAGE` copies the pictures anew from an unpacked npm
package `emoji-datasource-google`.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).parent / "emoji_pictures"
DIRECTIONS = ("left", "right", "up", "down")
BACKGROUNDS = {
    "white": (255, 255, 255),
    "pink": (255, 224, 230),
    "yellow": (255, 247, 205),
    "mint": (218, 245, 228),
    "sky": (216, 236, 252),
    "lavender": (232, 225, 250),
}
SCALE = 0.62
"""Edge of a sprite as a fraction of the frame's."""
TRAVEL = 0.36
"""Way from the first frame to the last, as a fraction of the frame's edge, however many frames there are."""
_STEPS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])


@cache
def _index() -> tuple[dict[str, str], ...]:
    return tuple(json.loads((FOLDER / "pictures.json").read_text(encoding="utf-8")))


@cache
def names() -> tuple[str, ...]:
    """Noun phrases of all pictures, in their fixed order."""
    return tuple(entry["name"] for entry in _index())


@cache
def sprites() -> Tensor:
    """All pictures: [K, 4, 64, 64], red, green, blue and opacity in 0..1."""
    pictures = [np.array(Image.open(FOLDER / entry["file"]).convert("RGBA")) for entry in _index()]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def caption(name: str, direction: str | None = None) -> str:
    """The caption of a clip: "a red apple moving right", or "a red apple" when it stands still."""
    article = "an" if name[0] in "aeiou" and not name.startswith("uni") else "a"
    return f"{article} {name}" if direction is None else f"{article} {name} moving {direction}"


def parse(prompt: str) -> tuple[int | None, int | None]:
    """Indices of the picture and the direction that a prompt names; the longest name wins."""
    words = f" {' '.join(prompt.lower().replace(',', ' ').replace('.', ' ').split())} "
    found = [(len(name), index) for index, name in enumerate(names()) if f" {name} " in words]
    ways = [index for index, way in enumerate(DIRECTIONS) if f" {way} " in words]
    return max(found)[1] if found else None, ways[0] if ways else None


def render(
    objects: Tensor,
    directions: Tensor,
    backgrounds: Tensor,
    frames: int,
    *,
    size: int = 64,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Clips [B, 3, frames, size, size] in -1..1.

    objects [B] picture indices; directions [B] indices of DIRECTIONS, -1 to stand still; backgrounds [B, 3] in 0..1;
    scale [B] sprite edge as a fraction of the frame; offset [B, 2] of the path's middle (x, y) in frame edges.
    """
    batch = objects.shape[0]
    scale = torch.full((batch,), SCALE) if scale is None else scale
    offset = torch.zeros(batch, 2) if offset is None else offset
    time = torch.linspace(-0.5, 0.5, frames) if frames > 1 else torch.zeros(1)
    centre = 2 * (offset[:, None] + TRAVEL * time[None, :, None] * _STEPS[directions][:, None])  # [B, F, 2] in -1..1
    theta = torch.zeros(batch, frames, 2, 3)
    theta[..., 0, 0] = theta[..., 1, 1] = 1 / scale[:, None]
    theta[..., 2] = -centre / scale[:, None, None]
    pictures = sprites()[objects]
    # Colours are multiplied by opacity before they are resampled, else transparent pixels bleed into the outline.
    pictures = torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], dim=1)
    grid = F.affine_grid(theta.flatten(0, 1), [batch * frames, 4, 2 * size, 2 * size], align_corners=False)
    moved = F.grid_sample(pictures.repeat_interleave(frames, dim=0), grid, padding_mode="zeros", align_corners=False)
    moved = F.avg_pool2d(moved, 2).unflatten(0, (batch, frames))
    clip = moved[:, :, :3] + (1 - moved[:, :, 3:]) * backgrounds[:, None, :, None, None]
    return clip.transpose(1, 2) * 2 - 1


def sample(batch: int, frames: int, generator: torch.Generator) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Random clips: (video [B, 3, F, 64, 64], captions, objects [B], directions [B])."""
    objects = torch.randint(len(names()), (batch,), generator=generator)
    directions = torch.randint(len(DIRECTIONS), (batch,), generator=generator)
    video = varied(objects, directions, frames, generator)
    pairs = zip(objects.tolist(), directions.tolist(), strict=True)
    return video, [caption(names()[thing], DIRECTIONS[way]) for thing, way in pairs], objects, directions


def varied(objects: Tensor, directions: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Clips [B, 3, frames, 64, 64] of these objects [B] and directions [B]; background, size and place are drawn."""
    batch = objects.shape[0]
    colours = torch.tensor(list(BACKGROUNDS.values())).float() / 255
    backgrounds = colours[torch.randint(len(colours), (batch,), generator=generator)]
    scale = 0.56 + 0.12 * torch.rand(batch, generator=generator)
    offset = 0.03 * (2 * torch.rand(batch, 2, generator=generator) - 1)
    return render(objects, directions, backgrounds, frames, scale=scale, offset=offset)


def examples(count: int, pixels: tuple[int, int, int], seed: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """Random clips [count, 3, *pixels] in -1..1 of (frames, height, width), each with its name and direction."""
    video, _, objects, directions = sample(count, pixels[0], torch.Generator().manual_seed(seed))
    if tuple(video.shape[2:]) != pixels:
        video = F.interpolate(video, pixels, mode="area")
    pairs = zip(objects.tolist(), directions.tolist(), strict=True)
    return video, [(names()[thing], DIRECTIONS[way]) for thing, way in pairs]


def rebuild(package: Path) -> None:
    """Copy the pictures named in pictures.json from an unpacked npm package into the folder."""
    for entry in _index():
        shutil.copyfile(package / "img" / "google" / "64" / f"{entry['code']}.png", FOLDER / entry["file"])


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
