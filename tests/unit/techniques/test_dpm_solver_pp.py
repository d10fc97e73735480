"""DPM-Solver++: diffusers' multistep and singlestep schedulers, order by order, and the paper's invariants."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from solvers import LINEAR, NOISE, close, denoiser, exact, network, noise, oracle, run_shape, slope, theirs
from torch import Tensor

from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = {"multistep": DPMSolverMultistepScheduler, "singlestep": DPMSolverSinglestepScheduler}
SETTINGS = list(itertools.product((1, 2, 3), ("midpoint", "heun"), (True, False), ("zero", "sigma_min")))


def ours(technique: DpmSolverPP, x: Tensor, model: Any = network) -> Tensor:
    run = run_shape(technique.predictions())
    assert technique.check(run) == []
    denoise, asked = denoiser(model)
    out = technique.sampler(run)(x, technique.times(run), denoise)
    assert asked == technique.times(run), "one prediction a step, and no other"
    return out


@pytest.mark.parametrize("method", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 6, 12, 18])
def test_every_order_and_ending_is_that_of_diffusers(method: Any, steps: int) -> None:
    x = noise(dtype=torch.float32)
    for order, solver_type, lower, final in SETTINGS:
        if not lower and method == "singlestep" and steps % order:
            continue
        if method == "singlestep" and order > steps:
            continue  # diffusers' table of orders is then longer than the run
        shared: dict[str, Any] = {"solver_type": solver_type, "lower_order_final": lower}
        scheduler = SCHEDULERS[method](**LINEAR, **shared, solver_order=order, final_sigmas_type=final)
        expected = theirs(scheduler, x, num_inference_steps=steps)
        technique = DpmSolverPP(steps=steps, order=order, method=method, final_sigma=final, **shared)
        assert technique.visited(1000) == scheduler.timesteps.tolist()
        # From pure noise in a step or two, fp32 keeps few digits of alpha.
        tolerance = 3e-4 if steps <= 2 else 2e-5
        assert close(ours(technique, x), expected, tolerance), (order, solver_type, lower, final)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 7, 20, 33])
def test_spacings_are_those_of_diffusers(spacing: Any, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(**LINEAR, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    technique = DpmSolverPP(steps=steps, spacing=spacing, steps_offset=1)
    assert technique.visited(1000) == scheduler.timesteps.tolist()


def test_own_time_steps() -> None:
    steps, x = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13], noise(dtype=torch.float32)
    expected = theirs(DPMSolverMultistepScheduler(**LINEAR), x, timesteps=steps)
    assert close(ours(DpmSolverPP(timesteps=steps), x), expected)


@pytest.mark.parametrize("method", SCHEDULERS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_constant_clean_sample_is_reached_by_every_order(method: Any, order: int, steps: int) -> None:
    clean = noise(1)

    def model(x: Tensor, t: float) -> Tensor:
        return (x - NOISE.alpha(t) * clean) / NOISE.sigma(t)

    assert close(ours(DpmSolverPP(steps=steps, order=order, method=method), noise(2), model), clean, 1e-9)


@pytest.mark.parametrize(("method", "heun"), [("multistep", False), ("multistep", True), ("singlestep", True)])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_error_falls_with_the_order(method: Any, heun: bool, order: int) -> None:
    """At least so fast, on levels even in lambda, between two levels where the flow is known."""
    x, errors = noise(), []
    technique = DpmSolverPP(order=order, method=method, solver_type="heun" if heun else "midpoint")
    for steps in (12, 24, 48):
        levels = even_levels(0.9, 0.1, steps)
        changes = {"steps": steps, "final_sigma": "sigma_min", "lower_order_final": False}
        sampler = technique.model_copy(update=changes).sampler(run_shape(steps))
        assert isinstance(sampler, partial)
        out = sampler(x, levels[:-1], denoiser(oracle)[0], end=levels[-1])
        errors.append((out - exact(x, levels[0], levels[-1])).abs().max().item())
    assert slope(errors) > order - 0.4


def even_levels(first: float, last: float, steps: int) -> list[float]:
    """Levels from first to last, even in log(alpha / sigma), found by bisection."""

    def snr(t: float) -> float:
        return NOISE.alpha(t) / NOISE.sigma(t)

    ratio = (snr(last) / snr(first)) ** (1 / steps)
    levels = [first]
    for index in range(1, steps):
        low, high = last, first
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if snr(middle) > snr(first) * ratio**index else (low, middle)
        levels.append(low)
    return [*levels, last]


def test_first_multistep_is_of_first_order() -> None:
    assert DpmSolverPP(steps=20, order=3).orders() == [1, 2, *[3] * 17, 1]
    assert DpmSolverPP(steps=20, order=3, final_sigma="sigma_min").orders() == [1, 2, *[3] * 18]
    assert DpmSolverPP(steps=6, order=3, final_sigma="sigma_min").orders() == [1, 2, 3, 3, 2, 1]


def test_singlesteps_need_whole_groups() -> None:
    technique = DpmSolverPP(steps=7, order=2, method="singlestep", lower_order_final=False)
    ((rule, remedy),) = technique.check(run_shape(7))
    assert rule == "7 steps do not divide into single steps of order 2" and "lower_order_final" in remedy


def test_two_runs_are_equal() -> None:
    assert torch.equal(ours(DpmSolverPP(), noise()), ours(DpmSolverPP(), noise()))
