"""Reading and writing pictures and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from engine.errors import InvalidInput, Place, Problem

SMALLEST_EDGE = 256
LABEL_HEIGHT = 18
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def read_frames(path: Path, size: tuple[int, int]) -> Tensor:
    """Frames of a picture or video file, scaled and cropped to (height, width): [3, F, H, W] in 0..1."""
    try:
        picture = path.suffix.lower() in PICTURES
        frames = iio.imread(path, mode="RGB") if picture else iio.imread(path, plugin="pyav")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            Problem(
                f"{path} is no picture or video that can be read ({error})", "use PNG, JPEG, GIF or MP4", Place(path)
            )
        ) from None
    if frames.ndim == 3:
        frames = frames[None]
    video = torch.from_numpy(frames[..., :3].copy()).permute(0, 3, 1, 2).float() / 255
    height, width = size
    scale = max(height / video.shape[2], width / video.shape[3])
    scaled = (max(height, round(video.shape[2] * scale)), max(width, round(video.shape[3] * scale)))
    video = F.interpolate(video, scaled, mode="bilinear", antialias=True)
    top, left = (video.shape[2] - height) // 2, (video.shape[3] - width) // 2
    return video[:, :, top : top + height, left : left + width].transpose(0, 1).clamp(0, 1)


def enlarged(video: Tensor) -> Tensor:
    """Video [3, F, H, W] with small frames enlarged a whole number of times, so that a person can see them."""
    factor = max(1, round(SMALLEST_EDGE / min(video.shape[-2:])))
    return video.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)


def tiled(videos: Tensor) -> Tensor:
    """Videos [b, 3, F, H, W] side by side: [3, F, H, b * W]."""
    return torch.cat(list(videos), dim=-1)


def labelled(rows: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Videos [3, F, H, W] of equal size under one another, each below a line of text: [3, F, sum of heights, W]."""
    parts = []
    for text, video in rows:
        strip = Image.new("RGB", (video.shape[-1], LABEL_HEIGHT), "white")
        ImageDraw.Draw(strip).text((4, 3), text, fill="black")
        line = torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255
        parts += [line[:, None].expand(-1, video.shape[1], -1, -1), video]
    return torch.cat(parts, dim=-2)


def _frames(video: Tensor) -> np.ndarray:
    frames = (video.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    # Video codecs want even sizes.
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def write_video(video: Tensor, stem: Path, fps: int) -> list[Path]:
    """Write [3, F, H, W] in 0..1 as `stem`.mp4 and `stem`.gif; returns the files."""
    frames = _frames(video)
    mp4, gif = stem.with_suffix(".mp4"), stem.with_suffix(".gif")
    iio.imwrite(mp4, frames, fps=fps, codec="libx264", plugin="pyav")
    iio.imwrite(gif, frames, duration=1000 / fps, loop=0, plugin="pillow")
    return [mp4, gif]


def write_picture(picture: Tensor, stem: Path) -> list[Path]:
    """Write [3, 1, H, W] in 0..1 as `stem`.png; returns the file."""
    png = stem.with_suffix(".png")
    iio.imwrite(png, _frames(picture)[0])
    return [png]
