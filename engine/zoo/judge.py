"""What the embedded classifier sees in generated pictures and videos, and how far they are from the picture set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from engine.weights import EMBEDDED, fitting, place, read_config
from engine.zoo import emoji
from engine.zoo.classifier import EmojiClassifier

SIZE = 64
"""Edge in pixels of the pictures the classifier was trained on."""
FEW, REFERENCES, CHUNK = 64, 1024, 256
"""Below `FEW` pictures there is no Frechet distance; about how many it compares with, and how many at once."""


class Features(nn.Module):
    """The classifier as torchmetrics takes a network: pictures [B, 3, 1, 64, 64] in -1..1 to features."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = load_classifier()
        self.num_features = self.classifier.object_head.in_features

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, num_features]."""
        return self.classifier.features(pictures)


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
    out; None when none is left, or the pictures have another size. Of 64 pictures and more also the Frechet distance.
    """
    halved = pictures.shape[-2:] == (SIZE // 2, SIZE // 2)
    pictures = doubled(pictures) if halved else pictures
    if pictures.shape[-2:] != (SIZE, SIZE):
        return {"prompt_accuracy": None}
    pictures = pictures.float().cpu() * 2 - 1
    seen = load_classifier().seen(pictures, prompts)
    accuracy = {"prompt_accuracy": _share(seen["object_ok"])}
    distance = frechet_distance(pictures, prompts, halved=halved)
    return accuracy if distance is None else accuracy | {"frechet_distance": distance}


def doubled(pictures: Tensor) -> Tensor:
    """Pictures [b, 3, 1, h, w] at twice their size."""
    return F.interpolate(pictures[:, :, 0], scale_factor=2, mode="bilinear", align_corners=False)[:, :, None]


@torch.inference_mode()
def frechet_distance(pictures: Tensor, prompts: Sequence[str], *, halved: bool = False) -> float | None:
    """Frechet distance of pictures [b, 3, 1, 64, 64] in -1..1 to those of the set that their prompts name.

    Mean and covariance are those of the classifier's features, not of Inception's: the number compares runs here, and
    nothing with a paper's FID. The reference holds the same objects as often, with other backgrounds, sizes and places,
    since fewer pictures than features are otherwise mostly a sample of the 200 objects; even so few pictures give
    larger numbers, so that only runs of equally many compare. Without any prompt that names an object the reference is
    the whole set. `halved` pictures were 32x32. None for fewer than 64 pictures, or for pictures that are not finite.
    """
    objects = [thing for thing, _ in map(emoji.parse, prompts)]
    if any(thing is not None for thing in objects):
        pictures = pictures[[thing is not None for thing in objects]]
    if len(pictures) < FEW or not pictures.isfinite().all():
        return None
    metric = _reference(tuple(thing for thing in objects if thing is not None), halved)
    metric.reset()
    for part in pictures.split(CHUNK):
        metric.update(part, real=False)
    return round(float(metric.compute()), 4)


@lru_cache(maxsize=4)
def _reference(objects: tuple[int, ...], halved: bool) -> FrechetInceptionDistance:
    """A metric that has seen the reference pictures and keeps them."""
    metric = FrechetInceptionDistance(feature=Features(), reset_real_features=False)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor(objects or range(len(emoji.names())))
    for part in wanted.repeat(-(-REFERENCES // len(wanted))).split(CHUNK):
        shown = emoji.varied(part, torch.full_like(part, -1), 1, generator)
        metric.update(doubled(F.avg_pool3d(shown, (1, 2, 2))) if halved else shown, real=True)
    return metric


def _share(answers: Sequence[bool | None]) -> float | None:
    given = [answer for answer in answers if answer is not None]
    return sum(given) / len(given) if given else None
