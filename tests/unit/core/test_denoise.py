"""Noise schedules and what a prediction is converted to."""

from __future__ import annotations

import math

import pytest
import torch
from solvers import NOISE, noise
from torch import Tensor

from engine.denoise import Denoise, DiscreteDiffusion, NoiseSchedule, Prediction, RectifiedFlow, half_log_snr


def test_levels_are_time_steps() -> None:
    assert NOISE.timestep(1.0) == 999 and NOISE.timestep(0.001) == 0
    assert RectifiedFlow().timestep(0.864) == pytest.approx(864)
    for step in range(1000):
        level = (step + 1) / 1000
        assert NOISE.timestep(level) == step
        assert NOISE.alpha(level) ** 2 == pytest.approx(NOISE.alphas_cumprod[step], rel=1e-12)
        assert NOISE.alpha(level) ** 2 + NOISE.sigma(level) ** 2 == pytest.approx(1, rel=1e-12)


def test_level_zero_is_the_clean_sample() -> None:
    assert (NOISE.alpha(0.0), NOISE.sigma(0.0), half_log_snr(NOISE, 0.0)) == (1.0, 0.0, math.inf)


def test_between_time_steps_log_alpha_is_linear() -> None:
    low, middle, high = (math.log(NOISE.alpha(level)) for level in (0.4, 0.40025, 0.401))
    assert middle == pytest.approx(low + (high - low) / 4, rel=1e-9)
    assert NOISE.timestep(0.40025) == pytest.approx(399.25)
    assert math.log(NOISE.alpha(0.0005)) == pytest.approx(math.log(NOISE.alpha(0.001)) / 2)


@pytest.mark.parametrize("schedule", [NOISE, RectifiedFlow()])
@pytest.mark.parametrize("level", [0.001, 0.0123, 0.4, 0.77777, 0.999])
def test_levels_are_found_again_by_half_log_snr(schedule: NoiseSchedule, level: float) -> None:
    assert schedule.level(half_log_snr(schedule, level)) == pytest.approx(level, rel=1e-9)


def test_half_log_snr_beyond_the_time_steps_is_the_nearest_one() -> None:
    assert (NOISE.level(-math.inf), NOISE.level(-50.0), NOISE.level(50.0)) == (1.0, 1.0, 0.001)
    rescaled = DiscreteDiffusion((*NOISE.alphas_cumprod[:-1], 0.0))
    assert half_log_snr(rescaled, 1.0) == -math.inf
    assert rescaled.level(half_log_snr(rescaled, 0.999)) == pytest.approx(0.999)


def test_half_log_snr_falls_with_the_level() -> None:
    values = [half_log_snr(NOISE, level / 2000) for level in range(1, 2001)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [
        *((name, schedule) for name in ("epsilon", "sample", "velocity") for schedule in (NOISE, RectifiedFlow())),
        ("v", NOISE),
    ],
)
def test_every_prediction_gives_the_same_sample_and_noise(prediction: Prediction, schedule: NoiseSchedule) -> None:
    clean, fresh, t = noise(1), noise(2), 0.3
    x = schedule.alpha(t) * clean + schedule.sigma(t) * fresh
    v = schedule.alpha(t) * fresh - schedule.sigma(t) * clean
    said = {"epsilon": fresh, "sample": clean, "velocity": clean - fresh, "v": v}[prediction]

    def predict(_x: Tensor, _t: float) -> Tensor:
        return said

    denoise = Denoise(predict, prediction, schedule)
    torch.testing.assert_close(denoise(x, t), clean)
    torch.testing.assert_close(denoise.epsilon(x, t), fresh)
    torch.testing.assert_close(denoise.velocity(x, t), clean - fresh)
    torch.testing.assert_close(denoise.parts(x, t), (clean, fresh))
