"""DDIM's own invariants (arXiv 2010.02502)."""

from __future__ import annotations

import pytest
import torch
from solvers import NOISE, close, denoiser, exact, leading_to, network, noise, oracle, run_shape, slope
from support import ROOT
from torch import Tensor

from engine.compiler import compile_spec
from engine.denoise import Denoise, DiscreteDiffusion
from engine.spec import load_spec
from engine.techniques.solvers.ddim import Ddim, ddim
from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP


def sampled(technique: Ddim | DpmSolverPP, x: Tensor, model: object = network) -> Tensor:
    run, (denoise, asked) = run_shape(technique.predictions()), denoiser(model)  # type: ignore[arg-type]
    out = technique.sampler(run)(x, technique.times(run), denoise)
    assert len(asked) == technique.predictions()
    return out


@pytest.mark.parametrize(
    ("spec", "profile", "ratio"),
    [("ddim_ddpm", "paper", 50), ("ddim_ddpm", "embedded", 10), ("ddim_dit", "paper", 10), ("ddim_dit", "scale", 10)],
)
def test_ten_to_fifty_times_fewer_predictions_than_ddpm(spec: str, profile: str, ratio: int) -> None:
    """The abstract's claim, which is one of time: every prediction costs the same."""
    plan = compile_spec(load_spec(ROOT / "specs" / f"{spec}.yaml", profile=profile)).plan
    assert plan.baseline is not None and plan.baseline.sampler.parameters["eta"] == 1
    assert plan.estimate.macs_ratio == plan.baseline.steps / len(plan.steps) == ratio


def test_quadratic_spacing() -> None:
    """tau_i = floor(c i^2), the largest about 0.8 T (appendix D)."""
    visited = Ddim(steps=10, spacing="quadratic").visited(1000)
    assert visited == [int(800 * (index / 9) ** 2 + 1e-9) for index in range(9, -1, -1)]


def test_linspace_is_the_original_dits() -> None:
    visited = Ddim(steps=50, spacing="linspace").visited(1000)
    assert visited[:3] + visited[-3:] == [999, 979, 958, 41, 20, 0]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_marginals_do_not_depend_on_eta(eta: float) -> None:
    """Lemma 1: x_s is N(alpha_s x_0, sigma_s^2) whatever the fresh noise, here from its parts, which are linear."""
    clean, t, s = noise(1), 0.6, 0.35
    starts = NOISE.alpha(t) * clean, NOISE.alpha(t) * clean + NOISE.sigma(t)
    model = leading_to(clean)
    mean, moved = (ddim(x, [t], denoiser(model, torch.zeros_like)[0], end=s, eta=eta) for x in starts)
    added = ddim(starts[0], [t], denoiser(model, torch.ones_like)[0], end=s, eta=eta) - mean
    assert close(mean, NOISE.alpha(s) * clean, 1e-9)
    assert close((moved - mean) ** 2 + added**2, torch.full_like(clean, NOISE.sigma(s) ** 2), 1e-9)


def test_full_eta_is_the_posterior_of_ddpm() -> None:
    """Mean and variance of q(x_{t-1} | x_t, x_0) for neighbouring time steps."""
    x, clean, step = noise(1), noise(2), 400
    t, s = (step + 1) / 1000, step / 1000
    kept, before = NOISE.alphas_cumprod[step], NOISE.alphas_cumprod[step - 1]
    beta = 1 - kept / before
    mean = (before**0.5 * beta * clean + (kept / before) ** 0.5 * (1 - before) * x) / (1 - kept)
    model = leading_to(clean)
    still, moved, larger = (
        ddim(x, [t], denoiser(model, draw)[0], end=s, eta=1.0, sigma_hat=hat)
        for draw, hat in ((torch.zeros_like, False), (torch.ones_like, False), (torch.ones_like, True))
    )
    assert close(still, mean, 1e-9)
    assert close(moved - still, torch.full_like(x, ((1 - before) / (1 - kept) * beta) ** 0.5), 1e-9)
    assert close(larger - still, torch.full_like(x, beta**0.5), 1e-9)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_constant_clean_sample_is_reached_whatever_the_steps(steps: int) -> None:
    clean = noise(1)
    assert close(sampled(Ddim(steps=steps), noise(2), leading_to(clean)), clean, 1e-9)


def test_starts_from_noise_alone() -> None:
    """Schedules rescaled to end at alpha 0 (arXiv 2305.08891), with v-prediction: nothing is divided by it."""
    rescaled, clean = DiscreteDiffusion((*NOISE.alphas_cumprod[:-1], 0.0)), noise(1)

    def v(x: Tensor, t: float) -> Tensor:
        return (rescaled.alpha(t) * x - clean) / rescaled.sigma(t)

    technique = Ddim(steps=6, spacing="trailing")
    out = technique.sampler(run_shape(6))(noise(), technique.times(run_shape(6)), Denoise(v, "v", rescaled))
    assert close(out, clean, 1e-9)


def test_error_falls_with_the_first_order() -> None:
    x, errors = noise(), []
    for steps in (10, 20, 40, 80):
        times = Ddim(steps=steps, spacing="linspace").times(run_shape(steps))[:-1]
        out = ddim(x, times, denoiser(oracle)[0], end=1 / 1000)
        errors.append((out - exact(x, times[0], 1 / 1000)).abs().max().item())
    assert slope(errors) == pytest.approx(1, abs=0.25)


def test_samples_of_one_noise_agree_whatever_the_steps() -> None:
    """Section 5.2: with more steps they come closer and closer to one another."""
    many, x = sampled(Ddim(steps=1000), noise()), noise()
    errors = [(sampled(Ddim(steps=steps), x) - many).abs().mean().item() for steps in (10, 50, 250)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_encoding_undoes_sampling() -> None:
    """Section 4.3: the ODE run backwards; the error falls with the steps (Table 2)."""
    x, errors = noise(), []
    for steps in (25, 100):
        levels = [(step + 1) / 1000 for step in range(999, 0, -1000 // steps)]
        clean = ddim(x, levels[:-1], denoiser(network)[0], end=levels[-1])
        back = ddim(clean, levels[:0:-1], denoiser(network)[0], end=levels[0])
        errors.append((back - x).abs().max().item())
    assert errors[1] < errors[0] / 2


def test_is_the_first_order_of_dpm_solver() -> None:
    steps, x = [990, 700, 650, 333, 4], noise()
    assert close(sampled(Ddim(timesteps=steps), x), sampled(DpmSolverPP(order=1, timesteps=steps), x), 1e-9)
