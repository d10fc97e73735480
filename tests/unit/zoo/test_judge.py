"""The Frechet distance of pictures to the set, through torchmetrics and the classifier's features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.zoo import emoji
from engine.zoo.judge import frechet_distance, judge_pictures, load_classifier


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, list[str]]:
    """Fresh pictures [64, 3, 1, 64, 64] in 0..1 of the first objects, and their names."""
    generator = torch.Generator().manual_seed(9)
    return emoji.varied(torch.arange(64), torch.full((64,), -1), 1, generator).add(1).div(2), list(emoji.names()[:64])


def test_frechet_distance_grows_as_pictures_get_worse(drawn: tuple[Tensor, list[str]]) -> None:
    shown, names = drawn
    noisy = shown + 0.3 * torch.randn(shown.shape, generator=torch.Generator().manual_seed(1))
    grey = shown.mean(dim=(1, 3, 4), keepdim=True).expand_as(shown)
    good, worse, worst = (judge_pictures(pictures, names)["frechet_distance"] for pictures in (shown, noisy, grey))
    assert good is not None and worse is not None and worst is not None
    assert 0 < good < worse < worst / 5
    assert judge_pictures(shown, names)["frechet_distance"] == good, "the reference is kept as it is"


def test_frechet_distance_is_the_textbooks(drawn: tuple[Tensor, list[str]]) -> None:
    """|m - m'|^2 + trace(C + C' - 2 (C C')^(1/2)) of the classifier's features."""
    shown, names = drawn
    video, generator = shown * 2 - 1, torch.Generator().manual_seed(0)
    parts = torch.arange(64).repeat(16).split(256)
    others = torch.cat([emoji.varied(part, torch.full((256,), -1), 1, generator) for part in parts])
    with torch.inference_mode():
        model = load_classifier()
        one, two = (model.features(pictures).double() for pictures in (video, others))
    root = torch.linalg.eigvals(one.T.cov() @ two.T.cov()).sqrt().real.sum()
    expected = (one.mean(0) - two.mean(0)).square().sum() + one.T.cov().trace() + two.T.cov().trace() - 2 * root
    assert frechet_distance(video, names) == pytest.approx(float(expected), rel=1e-3)


def test_frechet_distance_needs_enough_pictures_of_what_is_known(drawn: tuple[Tensor, list[str]]) -> None:
    shown, names = drawn
    assert "frechet_distance" not in judge_pictures(shown[:63], names[:63])
    assert "frechet_distance" not in judge_pictures(shown, ["something", *names[1:]])
    assert "frechet_distance" not in judge_pictures(shown * torch.nan, names)
    unnamed = judge_pictures(shown, [""] * 64)
    assert unnamed["prompt_accuracy"] is None and unnamed["frechet_distance"] is not None


def test_pictures_of_32_pixels_are_compared_with_such(drawn: tuple[Tensor, list[str]]) -> None:
    shown, names = drawn
    halved = torch.nn.functional.avg_pool3d(shown, (1, 2, 2))
    distances = [judge_pictures(pictures, names)["frechet_distance"] for pictures in (shown, halved)]
    assert distances[1] == pytest.approx(distances[0], rel=0.2)
