"""What the embedded classifier sees in generated videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.weights import EMBEDDED, fitting, place, read_config
from engine.zoo import emoji
from engine.zoo.classifier import EmojiClassifier


def load_classifier() -> EmojiClassifier:
    """The classifier that ships with the project, on the CPU."""
    folder = EMBEDDED / "classifier"
    model: EmojiClassifier = EmojiClassifier.from_config(read_config(folder))
    place(model, fitting(model, folder), torch.float32, torch.device("cpu"))
    return model.eval()


@torch.inference_mode()
def judge_videos(videos: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """Share of videos [b, 3, F, 64, 64] in 0..1 whose object and direction the classifier recognises.

    A prompt that names no known object, or no direction, is left out of that share; None when none is left.
    """
    objects, directions = load_classifier()(videos.float().cpu() * 2 - 1)
    asked = [emoji.parse(prompt) for prompt in prompts]
    things, ways = objects.argmax(dim=1).tolist(), directions.argmax(dim=1).tolist()
    return {
        "object_seen": _share(things, [thing for thing, _ in asked]),
        "direction_seen": _share(ways, [way for _, way in asked]),
        "saw": [f"{emoji.names()[thing]}, {emoji.DIRECTIONS[way]}" for thing, way in zip(things, ways, strict=True)],
    }


def _share(seen: Sequence[int], asked: Sequence[int | None]) -> float | None:
    hits = [got == wanted for got, wanted in zip(seen, asked, strict=True) if wanted is not None]
    return sum(hits) / len(hits) if hits else None
