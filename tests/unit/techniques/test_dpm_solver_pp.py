"""DPM-Solver++ beside diffusers' multistep and singlestep schedulers: orders, endings, spacings, SDE, thresholds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from solvers import LINEAR, NOISE, close, denoiser, leading_to, network, noise, run_shape, theirs
from support import tiny_request
from torch import Tensor

from engine.compiler import compile_spec
from engine.denoise import half_log_snr
from engine.errors import InvalidInput
from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP

# diffusers' schedulers and numpy 2, which deprecates what they do with tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = {"multistep": DPMSolverMultistepScheduler, "singlestep": DPMSolverSinglestepScheduler}
SETTINGS = list(itertools.product((1, 2, 3), ("midpoint", "heun"), (True, False), ("zero", "sigma_min")))


def ours(
    technique: DpmSolverPP, x: Tensor, model: Any = network, draw: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    run = run_shape(technique.predictions(), pixels=True)
    assert technique.check(run) == []
    denoise, asked = denoiser(model, draw)
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


@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("order", [2, 3])
def test_first_order_at_the_end_is_that_of_diffusers(steps: int, order: int) -> None:
    shared: dict[str, Any] = {"euler_at_final": True, "lower_order_final": False}
    scheduler = DPMSolverMultistepScheduler(**LINEAR, **shared, solver_order=order, final_sigmas_type="sigma_min")
    x = noise(dtype=torch.float32)
    technique = DpmSolverPP(steps=steps, order=order, final_sigma="sigma_min", **shared)
    assert technique.orders()[-1] == 1
    assert close(ours(technique, x), theirs(scheduler, x, num_inference_steps=steps))


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 7, 20, 33])
def test_spacings_are_those_of_diffusers(spacing: Any, steps: int) -> None:
    scheduler, x = (
        DPMSolverMultistepScheduler(**LINEAR, timestep_spacing=spacing, steps_offset=1),
        noise(0, torch.float32),
    )
    expected = theirs(scheduler, x, num_inference_steps=steps)
    technique = DpmSolverPP(steps=steps, spacing=spacing, steps_offset=1)
    assert technique.visited(1000) == scheduler.timesteps.tolist()
    assert close(ours(technique, x), expected, 3e-4 if steps == 1 else 2e-5)


@pytest.mark.parametrize("steps", [5, 20])
def test_even_spacing_in_lambda_is_that_of_diffusers(steps: int) -> None:
    """Of diffusers' sigmas; the time steps it rounds, so that the network is asked at other levels than those."""
    scheduler = DPMSolverMultistepScheduler(**LINEAR, use_lu_lambdas=True)
    scheduler.set_timesteps(steps + 1)
    levels = [*DpmSolverPP(steps=steps, spacing="log_snr").times(run_shape(steps)), 1 / 1000]
    ours_in_lambda = [-half_log_snr(NOISE, level) for level in levels]
    np.testing.assert_allclose(ours_in_lambda, scheduler.sigmas[:-1].log(), atol=1e-4)
    rounded = np.abs(np.array([NOISE.timestep(level) for level in levels]) - scheduler.timesteps.numpy())
    assert 0.05 < rounded.max() < 1


def test_own_time_steps() -> None:
    steps, x = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13], noise(dtype=torch.float32)
    expected = theirs(DPMSolverMultistepScheduler(**LINEAR), x, timesteps=steps)
    assert close(ours(DpmSolverPP(timesteps=steps), x), expected)


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_sde_is_that_of_diffusers(order: int, solver_type: Any, steps: int) -> None:
    """The paper has orders 1 and 2; diffusers' third has a sign wrong (its last term does not vanish with h)."""
    scheduler = DPMSolverMultistepScheduler(
        **LINEAR, algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=solver_type
    )
    scheduler.set_timesteps(steps)
    x, draws = noise(dtype=torch.float32), [noise(seed, torch.float32) for seed in range(20, 20 + steps)]
    expected = x
    for step, fresh in zip(scheduler.timesteps, draws, strict=True):
        output = network(expected, (int(step) + 1) / 1000)
        expected = scheduler.step(output, step, expected, variance_noise=fresh).prev_sample
    technique = DpmSolverPP(steps=steps, order=order, solver_type=solver_type, stochastic=True)
    stream = iter(draws)
    assert close(ours(technique, x, draw=lambda _x: next(stream)), expected)
    assert len(list(stream)) == 1, "the step to the clean sample adds none"


@pytest.mark.parametrize("method", SCHEDULERS)
@pytest.mark.parametrize("ratio", [0.9, 0.995])
def test_thresholding_is_that_of_diffusers(method: Any, ratio: float) -> None:
    """Its default `sample_max_value` of 1 bounds the quantile from above, and so only clips; a large one leaves it."""
    shared: dict[str, Any] = {"lower_order_final": True, "solver_order": 2}
    options = {"thresholding": True, "dynamic_thresholding_ratio": ratio}
    x, model = noise(dtype=torch.float32), lambda x, t: leading_to(2.5 * torch.tanh(x))(x, t)
    scheduler = SCHEDULERS[method](**LINEAR, **shared, **options, sample_max_value=100.0)
    technique = DpmSolverPP(steps=8, method=method, thresholding=True, threshold_ratio=ratio)
    expected = theirs(scheduler, x, model, num_inference_steps=8)
    assert close(ours(technique, x, model), expected)
    assert not close(ours(technique.model_copy(update={"thresholding": False}), x, model), expected, 1e-2)


def test_orders_of_the_steps() -> None:
    assert DpmSolverPP(steps=20, order=3).orders() == [1, 2, *[3] * 17, 1]
    assert DpmSolverPP(steps=20, order=3, final_sigma="sigma_min").orders() == [1, 2, *[3] * 18]
    assert DpmSolverPP(steps=6, order=3, final_sigma="sigma_min").orders() == [1, 2, 3, 3, 2, 1]
    assert DpmSolverPP(steps=7, order=3, method="singlestep", final_sigma="sigma_min").orders() == [3, 3, 1]
    assert DpmSolverPP(steps=6, order=3, method="singlestep", final_sigma="sigma_min").orders() == [3, 2, 1]


@pytest.mark.parametrize(
    ("settings", "rule", "remedy"),
    [
        (
            {"steps": 7, "method": "singlestep", "lower_order_final": False},
            "7 steps do not divide into single steps of order 2",
            "lower_order_final",
        ),
        ({"method": "singlestep", "stochastic": True}, "takes multisteps of order 1 or 2", "method: multistep"),
        ({"order": 3, "stochastic": True}, "takes multisteps of order 1 or 2", "order: 2"),
        ({"thresholding": True}, "`thresholding` is for models of pixels, and `dit` has latents", "remove"),
        ({"timesteps": [5, 900]}, "time steps must fall", "another `spacing`"),
        ({"steps": 900, "spacing": "leading", "steps_offset": 200}, r"must lie in 0..999", "other `timesteps`"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], rule: str, remedy: str) -> None:
    with pytest.raises(InvalidInput, match=rule) as caught:
        compile_spec(tiny_request("dit", [], sampler={"dpm_solver_pp": settings}))
    assert remedy in str(caught.value)


def test_two_runs_are_equal() -> None:
    assert torch.equal(ours(DpmSolverPP(), noise()), ours(DpmSolverPP(), noise()))
