"""The shipped classifier recognises the picture set, and does not see things in a plain grey clip."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.zoo import emoji
from engine.zoo.classifier import EmojiClassifier
from engine.zoo.judge import load_classifier
from engine.zoo.train_classifier import roughened


@pytest.fixture(scope="module")
def model() -> EmojiClassifier:
    return load_classifier()


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, list[str]]:
    """One clip of every picture, directions in turn: video [200, 3, 3, 64, 64] and its captions."""
    objects = torch.arange(len(emoji.names()))
    directions = objects % len(emoji.DIRECTIONS)
    colours = torch.tensor(list(emoji.BACKGROUNDS.values())).float() / 255
    video = emoji.render(objects, directions, colours[objects % len(colours)], 3)
    captions = [
        emoji.caption(name, emoji.DIRECTIONS[way]) for name, way in zip(emoji.names(), directions.tolist(), strict=True)
    ]
    return video, captions


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def test_is_small(model: EmojiClassifier) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) <= 350_000


def test_recognises_every_picture_and_direction(model: EmojiClassifier, clips: tuple[Tensor, list[str]]) -> None:
    seen = model.seen(*clips)
    assert share(seen["object_ok"]) >= 0.95
    assert share(seen["object_top5"]) >= share(seen["object_ok"])
    assert share(seen["direction_ok"]) >= 0.95


def test_recognises_blurred_and_noisy_clips(model: EmojiClassifier, clips: tuple[Tensor, list[str]]) -> None:
    video, captions = clips
    seen = model.seen(roughened(video, torch.Generator().manual_seed(5)), captions)
    assert share(seen["object_ok"]) >= 0.9
    assert share(seen["direction_ok"]) >= 0.9


def test_sees_nothing_in_plain_grey(model: EmojiClassifier) -> None:
    video = torch.linspace(-1, 1, 5).view(5, 1, 1, 1, 1).expand(5, 3, 5, 64, 64)
    seen = model.seen(video, ["a red apple", "a snowman", "a black cat", "an elephant", "a ghost"])
    assert max(seen["object_probability"]) < 0.5
    with torch.inference_mode():
        assert model(video)[0].softmax(dim=1).max() < 0.5  # nor any other object


def test_the_wrong_prompt_is_not_seen(model: EmojiClassifier, clips: tuple[Tensor, list[str]]) -> None:
    video, captions = clips
    seen = model.seen(video[:40], captions[40:80])
    assert not any(seen["object_ok"])
    assert max(seen["object_probability"]) < 0.5


def test_what_a_prompt_does_not_ask_is_left_open(model: EmojiClassifier, clips: tuple[Tensor, list[str]]) -> None:
    seen = model.seen(clips[0][:2], ["a red apple", "something moving up"])
    assert seen["direction_ok"][0] is None and seen["object_ok"][1] is None
    assert seen["object_ok"][0] is not None and seen["direction_ok"][1] is not None


def test_still_pictures_and_features_have_the_promised_shapes(model: EmojiClassifier) -> None:
    picture = torch.zeros(2, 3, 1, 64, 64)
    objects, directions = model(picture)
    assert objects.shape == (2, 200) and directions.shape == (2, 4)
    assert model.features(picture).shape == model.features(picture.repeat(1, 1, 9, 1, 1)).shape == (2, 192)
