"""A small classifier of the picture set: which object a clip shows and which way it moves.

It judges generated videos (`engine.zoo.judge`) and gives the features of a Frechet distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from engine.zoo import emoji


class EmojiClassifier(ModelMixin, ConfigMixin):
    """Convolutions over the first, middle and last frame of a clip; two heads."""

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self, objects: int = 200, directions: int = 4, widths: tuple[int, ...] = (24, 48, 64, 96), groups: int = 8
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(groups, after), nn.SiLU()]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.GroupNorm(groups, widths[-1]), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.place = nn.Conv2d(widths[-1], 1, 1)
        self.object_head = nn.Linear(2 * widths[-1], objects)
        self.direction_head = nn.Linear(2, directions)

    def features(self, video: Tensor) -> Tensor:
        """Features [B, 2 * width] of video [B, 3, F, 64, 64] in -1..1: mean and maximum over places and frames."""
        return self._pooled(self._maps(video))

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over objects [B, K] and directions [B, 4] of video [B, 3, F, 64, 64] in -1..1."""
        maps = self._maps(video)
        return self.object_head(self._pooled(maps)), self.direction_head(self._shift(maps))

    @torch.inference_mode()
    def seen(self, video: Tensor, prompts: Sequence[str]) -> dict[str, list[Any]]:
        """What video [B, 3, F, 64, 64] in -1..1 shows of B prompts: lists of B entries, None where none is asked.

        object_ok (the most likely one), object_top5 and direction_ok are booleans; object_probability and
        direction_probability are those of what the prompt asks for.
        """
        things, ways = (logits.softmax(dim=1) for logits in self(video))
        asked = [emoji.parse(prompt) for prompt in prompts]
        objects, directions = [thing for thing, _ in asked], [way for _, way in asked]
        return {
            "object_ok": _among_top(things, objects, 1),
            "object_top5": _among_top(things, objects, 5),
            "direction_ok": _among_top(ways, directions, 1),
            "object_probability": _probability(things, objects),
            "direction_probability": _probability(ways, directions),
        }

    def _maps(self, video: Tensor) -> Tensor:
        """Feature maps of three frames: [B, 3, width, 4, 4]."""
        last = video.shape[2] - 1
        if last == 0:  # a picture is all three of its frames
            return cast(Tensor, self.trunk(video[:, :, 0]))[:, None].expand(-1, 3, -1, -1, -1)
        frames = video[:, :, [0, last // 2, last]].transpose(1, 2)
        return cast(Tensor, self.trunk(frames.flatten(0, 1))).unflatten(0, (-1, 3))

    def _pooled(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean(dim=(3, 4)).mean(dim=1), maps.amax(dim=(3, 4)).mean(dim=1)], dim=1)

    def _shift(self, maps: Tensor) -> Tensor:
        """Where the object is in the last frame minus where it is in the first, (x, y): [B, 2]."""
        heat = cast(Tensor, self.place(maps.flatten(0, 1)))
        weight = heat.flatten(1).softmax(dim=1).view_as(heat)[:, 0]
        axis = torch.linspace(-1, 1, heat.shape[-1], device=heat.device)
        spot = torch.stack([(weight.sum(dim=1) * axis).sum(dim=1), (weight.sum(dim=2) * axis).sum(dim=1)], dim=1)
        spot = spot.unflatten(0, (-1, 3))
        return 8 * (spot[:, 2] - spot[:, 0])


def _among_top(probabilities: Tensor, asked: Sequence[int | None], count: int) -> list[bool | None]:
    """Whether each row's asked class is among its `count` most likely; probabilities [B, K]."""
    best = probabilities.topk(count, dim=1).indices.tolist()
    return [None if wanted is None else wanted in row for row, wanted in zip(best, asked, strict=True)]


def _probability(probabilities: Tensor, asked: Sequence[int | None]) -> list[float | None]:
    """Each row's probability of its asked class; probabilities [B, K]."""
    rows = zip(probabilities.tolist(), asked, strict=True)
    return [None if wanted is None else row[wanted] for row, wanted in rows]
