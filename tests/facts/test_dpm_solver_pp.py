"""DPM-Solver++'s own invariants (arXiv 2211.01095)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from solvers import NOISE, close, denoiser, even_levels, exact, leading_to, network, noise, oracle, run_shape, slope
from support import ROOT
from torch import Tensor

from engine.compiler import compile_spec
from engine.denoise import DiscreteDiffusion, half_log_snr
from engine.ops.thresholding import dynamic_threshold
from engine.spec import load_spec
from engine.techniques.solvers.ddim import Ddim
from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP, multistep, singlestep

METHODS = ("multistep", "singlestep")


def sampled(technique: DpmSolverPP | Ddim, x: Tensor, model: Any = network, draw: Any = None) -> Tensor:
    run, (denoise, asked) = run_shape(technique.predictions()), denoiser(model, draw)
    assert technique.check(run) == []
    out = technique.sampler(run)(x, technique.times(run), denoise)
    assert len(asked) == technique.predictions(), "NFE = steps"
    return out


@pytest.mark.parametrize("profile", ["embedded", "paper", "scale"])
@pytest.mark.parametrize("spec", ["sd", "dit", "pixart"])
def test_fifteen_to_twenty_steps_stand_for_a_hundred_and_more_of_ddim(spec: str, profile: str) -> None:
    """The abstract: 15 to 20 steps where DDIM takes 100 to 250."""
    plan = compile_spec(load_spec(ROOT / "specs" / f"dpm_solver_pp_{spec}.yaml", profile=profile)).plan
    assert plan.baseline is not None and plan.baseline.sampler.slug == "ddim"
    assert 15 <= len(plan.steps) <= 20 and 100 <= plan.baseline.steps <= 250
    assert plan.estimate.macs_ratio == pytest.approx(plan.baseline.steps / len(plan.steps), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_constant_clean_sample_is_reached_by_every_order(method: Any, order: int, steps: int) -> None:
    clean = noise(1)
    assert close(
        sampled(DpmSolverPP(steps=steps, order=order, method=method), noise(2), leading_to(clean)), clean, 1e-9
    )


@pytest.mark.parametrize(
    ("method", "heun"), [("multistep", False), ("multistep", True), ("singlestep", False), ("singlestep", True)]
)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_error_falls_with_the_order(method: Any, heun: bool, order: int) -> None:
    """At least so fast, on levels even in lambda, between two levels where the flow is known."""
    x, errors = noise(), []
    technique = DpmSolverPP(order=order, method=method, solver_type="heun" if heun else "midpoint")
    if method == "singlestep" and not heun and order == 3:
        order = 2  # without the second derivative, as in diffusers
    for steps in (12, 24, 48):
        levels = even_levels(0.9, 0.1, steps)
        changes = {"steps": steps, "final_sigma": "sigma_min", "lower_order_final": False}
        sampler = technique.model_copy(update=changes).sampler(run_shape(steps))
        assert isinstance(sampler, partial)
        out = sampler(x, levels[:-1], denoiser(oracle)[0], end=levels[-1])
        errors.append((out - exact(x, levels[0], levels[-1])).abs().max().item())
    assert slope(errors) > order - 0.4


def integral(rate: float, h: float, power: int) -> float:
    """rate times the integral of exp(-rate (h - u)) u^power over u in 0..h."""
    if power == 0:
        return -math.expm1(-rate * h)
    return h**power - power / rate * integral(rate, h, power - 1)


@pytest.mark.parametrize(("order", "stochastic"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_a_data_prediction_that_is_a_polynomial_in_lambda_is_integrated_exactly(order: int, stochastic: bool) -> None:
    """Of a degree below the order, by the last of three multisteps of any size: what the coefficients are for.

    Except for the third order, which takes half the second derivative for the whole, in the official code as here.
    """
    levels, x, unit = [0.7, 0.55, 0.45, 0.25], noise(1), noise(2)
    lambdas = [half_log_snr(NOISE, level) for level in levels]

    def clean(t: float) -> Tensor:
        return unit * (half_log_snr(NOISE, t) - lambdas[2]) ** (order - 1)

    def model(x: Tensor, t: float) -> Tensor:
        return (x - NOISE.alpha(t) * clean(t)) / NOISE.sigma(t)

    def run(orders: list[int], end: int) -> Tensor:
        denoise, _ = denoiser(model, torch.zeros_like)
        return multistep(x, levels[:end], denoise, orders=orders, end=levels[end], heun=True, stochastic=stochastic)

    before, after = run([1, min(order, 2)], 2), run([1, min(order, 2), order], 3)
    h, rate = lambdas[3] - lambdas[2], 2 if stochastic else 1
    contraction = NOISE.sigma(levels[3]) / NOISE.sigma(levels[2]) * math.exp(-h * (rate - 1))
    counted = 0.5 if order == 3 else 1.0
    expected = contraction * before + NOISE.alpha(levels[3]) * counted * integral(rate, h, order - 1) * unit
    assert close(after, expected, 1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_single_steps_integrate_polynomials_exactly(order: int) -> None:
    levels, x, unit = [0.7, 0.5, 0.4, 0.25], noise(1), noise(2)
    start, end = levels[0], levels[order]

    def model(x: Tensor, t: float) -> Tensor:
        grown = (half_log_snr(NOISE, t) - half_log_snr(NOISE, start)) ** (order - 1)
        return (x - NOISE.alpha(t) * grown * unit) / NOISE.sigma(t)

    out = singlestep(x, levels[:order], denoiser(model)[0], orders=[order], end=end, heun=True)
    h = half_log_snr(NOISE, end) - half_log_snr(NOISE, start)
    expected = NOISE.sigma(end) / NOISE.sigma(start) * x + NOISE.alpha(end) * integral(1, h, order - 1) * unit
    assert close(out, expected, 1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_the_sde_keeps_the_marginals(order: int) -> None:
    """A sample of N(alpha_s x_0, sigma_s^2) becomes one of N(alpha_t x_0, sigma_t^2); here from its linear parts."""
    clean, levels = noise(1), [0.6, 0.5, 0.42, 0.35]
    solve = partial(multistep, times=levels[:3], orders=[1, order, order], end=levels[3])

    def from_start(shift: float, draws: list[float]) -> Tensor:
        drawn = iter(draws)
        denoise, _ = denoiser(leading_to(clean), lambda x: torch.full_like(x, next(drawn)))
        x = NOISE.alpha(levels[0]) * clean + shift * NOISE.sigma(levels[0])
        return solve(x, denoise=denoise, stochastic=True)

    mean = from_start(0, [0, 0, 0])
    parts = [from_start(1, [0, 0, 0]), *(from_start(0, draws) for draws in ([1, 0, 0], [0, 1, 0], [0, 0, 1]))]
    assert close(mean, NOISE.alpha(levels[3]) * clean, 1e-9)
    variance = torch.stack([(part - mean) ** 2 for part in parts]).sum(dim=0)
    assert close(variance, torch.full_like(clean, NOISE.sigma(levels[3]) ** 2), 1e-9)


def test_first_orders_are_ddim() -> None:
    """Of the ODE with eta = 0, of the SDE with eta = 1."""
    steps, x, draws = [990, 700, 650, 333, 4], noise(), [noise(seed) for seed in range(10, 15)]
    for stochastic, eta in ((False, 0.0), (True, 1.0)):
        one, two = iter(draws), iter(draws)
        first = sampled(DpmSolverPP(order=1, timesteps=steps, stochastic=stochastic), x, draw=lambda _x, i=one: next(i))
        assert close(first, sampled(Ddim(timesteps=steps, eta=eta), x, draw=lambda _x, i=two: next(i)), 1e-9)


def test_first_step_of_every_multistep_is_ddims() -> None:
    x, (denoise, _) = noise(), denoiser(network)
    first = [
        multistep(x, [0.8], denoise, orders=[1], end=0.6),
        sampled(Ddim(timesteps=[799], set_alpha_to_one=True), x),
    ]
    assert DpmSolverPP(order=3).orders()[0] == DpmSolverPP(order=2).orders()[0] == 1
    assert not close(first[0], first[1])
    assert close(multistep(x, [0.8], denoise, orders=[1], end=0.0), first[1], 1e-9)


@pytest.mark.parametrize("steps", [10, 20])
def test_nearer_to_the_solution_than_ddim_with_as_many_steps(steps: int) -> None:
    x = noise()
    where = sampled(Ddim(timesteps=list(range(999, -1, -1))), x)
    steps_taken = {"spacing": "linspace", "steps": steps}
    error = {cls: (sampled(cls(**steps_taken), x) - where).abs().mean() for cls in (DpmSolverPP, Ddim)}
    assert error[DpmSolverPP] < 0.7 * error[Ddim]


def test_spacings_of_the_official_code() -> None:
    """N of N + 1 levels from 1 to 1 / T, evenly in time, in its root or in lambda; the run then ends at the last."""
    run = run_shape(10)
    uniform, quadratic, in_lambda = (
        DpmSolverPP(steps=10, spacing=spacing, final_sigma="sigma_min").times(run)
        for spacing in ("time_uniform", "time_quadratic", "log_snr")
    )
    assert uniform == pytest.approx([1 - index * 0.0999 for index in range(10)])
    roots = [math.sqrt(level) for level in quadratic]
    assert roots == pytest.approx([1 - index * (1 - math.sqrt(0.001)) / 10 for index in range(10)])
    lambdas = [half_log_snr(NOISE, level) for level in (*in_lambda, 0.001)]
    assert [b - a for a, b in pairwise(lambdas)] == pytest.approx([(lambdas[-1] - lambdas[0]) / 10] * 10)


def test_thresholding() -> None:
    """Nothing changes inside -1..1; outside, the quantile is brought to 1 and what lies beyond it to 1, per sample."""
    inside = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(dynamic_threshold(inside, 0.995), inside)
    outside = torch.cat([inside[:1], 4 * inside[1:]])
    out = dynamic_threshold(outside, 0.5)
    assert torch.equal(out[0], inside[0])
    s = outside[1].abs().quantile(0.5)
    assert out[1].abs().max() == 1 and close(out[1], outside[1].clamp(-s, s) / s, 1e-6)
    assert dynamic_threshold(outside, 0.5, largest=8.0).abs().max() <= 0.5


def test_starts_from_noise_alone() -> None:
    """Schedules rescaled to end at alpha 0 (arXiv 2305.08891): lambda is -inf there, and no order divides by it."""
    zero = DiscreteDiffusion((*NOISE.alphas_cumprod[:-1], 0.0))
    x, clean = noise(), noise(1)
    for order in (1, 2, 3):
        technique = DpmSolverPP(steps=6, order=order, spacing="trailing")
        denoise, _ = denoiser(lambda x, t: (zero.alpha(t) * x - clean) / max(zero.sigma(t), 1e-9))
        denoise.noise, denoise.prediction = zero, "v"
        assert close(technique.sampler(run_shape(6))(x, technique.times(run_shape(6)), denoise), clean, 1e-9)
    lambda_even = DpmSolverPP(spacing="log_snr").check(replace(run_shape(20), noise=zero))
    assert "no first level" in lambda_even[0][0]
