"""What the embedded classifier sees in generated videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.weights import EMBEDDED, fitting, place, read_config
from engine.zoo.classifier import EmojiClassifier

SIZE = 64
"""Edge in pixels of the pictures the classifier was trained on."""


def load_classifier() -> EmojiClassifier:
    """The classifier that ships with the project, on the CPU."""
    folder = EMBEDDED / "classifier"
    model: EmojiClassifier = EmojiClassifier.from_config(read_config(folder))
    place(model, fitting(model, folder), torch.float32, torch.device("cpu"))
    return model.eval()


@torch.inference_mode()
def judge_videos(videos: Tensor, prompts: Sequence[str]) -> dict[str, float | None]:
    """Share of videos [b, 3, F, 64, 64] in 0..1 whose object and direction the classifier recognises.

    A prompt that names no known object, or no direction, is left out of that share; None when none is left.
    """
    seen = load_classifier().seen(videos.float().cpu() * 2 - 1, prompts)
    return {"object_seen": _share(seen["object_ok"]), "direction_seen": _share(seen["direction_ok"])}


@torch.inference_mode()
def judge_pictures(pictures: Tensor, prompts: Sequence[str]) -> dict[str, float | None]:
    """Share of pictures [b, 3, 1, 64, 64] in 0..1 in which the classifier sees what the prompt names.

    Pictures of 32x32 are doubled first, which costs it none of the 200. A prompt that names no known object is left
    out; None when none is left, or the pictures have another size.
    """
    if pictures.shape[-2:] == (SIZE // 2, SIZE // 2):
        pictures = F.interpolate(pictures[:, :, 0], scale_factor=2, mode="bilinear", align_corners=False)[:, :, None]
    if pictures.shape[-2:] != (SIZE, SIZE):
        return {"prompt_accuracy": None}
    seen = load_classifier().seen(pictures.float().cpu() * 2 - 1, prompts)
    return {"prompt_accuracy": _share(seen["object_ok"])}


def _share(answers: Sequence[bool | None]) -> float | None:
    given = [answer for answer in answers if answer is not None]
    return sum(given) / len(given) if given else None
