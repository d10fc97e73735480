"""DDIM: diffusers' own scheduler where that keeps its time steps, and the paper's invariants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from solvers import LINEAR, NOISE, close, denoiser, exact, network, noise, oracle, run_shape, slope, theirs
from support import tiny_request
from torch import Tensor

from engine.compiler import compile_spec
from engine.errors import InvalidInput
from engine.techniques.solvers.ddim import Ddim, ddim
from engine.techniques.solvers.dpm_solver_pp import DpmSolverPP


def ours(technique: Ddim, x: Tensor, model: Any = network, draw: Any = None) -> Tensor:
    run = run_shape(technique.predictions())
    assert technique.check(run) == []
    denoise, asked = denoiser(model, draw)
    out = technique.sampler(run)(x, technique.times(run), denoise)
    assert len(asked) == technique.predictions() and asked == technique.times(run)
    return out


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize(("offset", "to_one"), [(0, True), (1, False)], ids=["dit", "stable_diffusion"])
def test_leading_steps_are_those_of_diffusers(steps: int, offset: int, to_one: bool) -> None:
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False, steps_offset=offset, set_alpha_to_one=to_one)
    x = noise(dtype=torch.float32)
    technique = Ddim(steps=steps, steps_offset=offset, set_alpha_to_one=to_one)
    expected = theirs(scheduler, x, num_inference_steps=steps)
    assert technique.visited(1000) == scheduler.timesteps.tolist()
    if 1000 % steps == 0:  # else diffusers' last transition starts from another time step than the one before ended at
        assert close(ours(technique, x), expected)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 30, 50])
def test_other_spacings_visit_diffusers_time_steps(spacing: str, steps: int) -> None:
    scheduler = DDIMScheduler(**LINEAR, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert Ddim(steps=steps, spacing=spacing).visited(1000) == scheduler.timesteps.tolist()


def test_linspace_is_the_original_dits() -> None:
    visited = Ddim(steps=50, spacing="linspace").visited(1000)
    assert visited[:3] + visited[-3:] == [999, 979, 958, 41, 20, 0]


def test_quadratic_spacing_of_the_paper() -> None:
    visited = Ddim(steps=10, spacing="quadratic").visited(1000)
    assert visited == [int(800 * (index / 9) ** 2 + 1e-9) for index in range(9, -1, -1)]


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_constant_clean_sample_is_reached_whatever_the_steps(steps: int) -> None:
    clean, x = noise(1), noise(2)

    def model(x: Tensor, t: float) -> Tensor:
        return (x - NOISE.alpha(t) * clean) / NOISE.sigma(t)

    assert close(ours(Ddim(steps=steps), x, model), clean, 1e-9)


def test_error_falls_with_the_first_order() -> None:
    x, errors = noise(), []
    for steps in (10, 20, 40, 80):
        technique = Ddim(steps=steps, spacing="linspace", set_alpha_to_one=False)
        denoise, _ = denoiser(oracle)
        times = technique.times(run_shape(steps))[:-1]
        out = ddim(x, times, denoise, end=1 / 1000)
        errors.append((out - exact(x, times[0], 1 / 1000)).abs().max().item())
    assert slope(errors) == pytest.approx(1, abs=0.25)


def test_without_fresh_noise_nothing_is_drawn() -> None:
    def draw(x: Tensor) -> Tensor:
        raise AssertionError("drew noise")

    x = noise()
    assert torch.equal(ours(Ddim(steps=5), x, draw=draw), ours(Ddim(steps=5), x))


def test_full_eta_is_the_posterior_of_ddpm() -> None:
    """Mean and variance of q(x_{t-1} | x_t, x_0) for neighbouring time steps."""
    x, clean, step = noise(1), noise(2), 400
    t, s = (step + 1) / 1000, step / 1000
    kept, before = NOISE.alphas_cumprod[step], NOISE.alphas_cumprod[step - 1]
    beta = 1 - kept / before
    mean = (before**0.5 * beta * clean + (kept / before) ** 0.5 * (1 - before) * x) / (1 - kept)

    def model(x: Tensor, t: float) -> Tensor:
        return (x - NOISE.alpha(t) * clean) / NOISE.sigma(t)

    outputs = [ddim(x, [t], denoiser(model, lambda x, z=z: z + 0 * x)[0], end=s, eta=1.0) for z in (0.0, 1.0)]
    assert close(outputs[0], mean, 1e-9)
    spread = ((1 - before) / (1 - kept) * beta) ** 0.5
    assert close(outputs[1] - outputs[0], torch.full_like(x, spread), 1e-9)


def test_fresh_noise_as_diffusers_adds_it() -> None:
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False)
    scheduler.set_timesteps(10)
    x, draws = noise(dtype=torch.float32), [noise(seed, torch.float32) for seed in range(20, 30)]
    expected = x
    for step, fresh in zip(scheduler.timesteps, draws, strict=True):
        output = network(expected, (int(step) + 1) / 1000)
        expected = scheduler.step(output, step, expected, eta=0.7, variance_noise=fresh).prev_sample
    stream = iter(draws)
    assert close(ours(Ddim(steps=10, eta=0.7), x, draw=lambda _x: next(stream)), expected)


def test_own_time_steps_and_first_order_dpm_solver() -> None:
    steps, x = [990, 700, 650, 333, 4], noise()
    own = ours(Ddim(timesteps=steps), x)
    run, (denoise, _) = run_shape(5), denoiser(network)
    first_order = DpmSolverPP(order=1, timesteps=steps)
    assert close(own, first_order.sampler(run)(x, first_order.times(run), denoise), 1e-9)


def test_encoding_undoes_sampling() -> None:
    x, errors = noise(), []
    for steps in (25, 100):
        levels = [(step + 1) / 1000 for step in range(999, 0, -1000 // steps)]
        clean = ddim(x, levels[:-1], denoiser(network)[0], end=levels[-1])
        back = ddim(clean, levels[:0:-1], denoiser(network)[0], end=levels[0])
        errors.append((back - x).abs().max().item())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"timesteps": [5, 900]}, "time steps must fall"),
        ({"timesteps": [900, 900]}, "each only once"),
        ({"timesteps": [1000, 5]}, r"must lie in 0..999"),
        ({"steps": 500, "spacing": "quadratic"}, "each only once"),
        ({"steps": 10, "steps_offset": 150}, r"must lie in 0..999"),
    ],
)
def test_time_steps_that_cannot_be(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule):
        compile_spec(tiny_request("dit", [], sampler={"ddim": settings}))


def test_refused_on_a_flow_model_and_flow_samplers_on_diffusion_models() -> None:
    with pytest.raises(InvalidInput, match="`ddim` is a sampler for diffusion models, and `opensora` is a flow model"):
        compile_spec(tiny_request("opensora", [], sampler={"ddim": None}))
    with pytest.raises(InvalidInput, match=r"`rflow` is a sampler for flow models.*\n.*`ddim`"):
        compile_spec(tiny_request("dit", [], sampler={"rflow": None}))
