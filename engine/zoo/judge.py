"""What the embedded classifier sees in generated videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.weights import EMBEDDED, fitting, place, read_config
from engine.zoo.classifier import EmojiClassifier


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


def _share(answers: Sequence[bool | None]) -> float | None:
    given = [answer for answer in answers if answer is not None]
    return sum(given) / len(given) if given else None
