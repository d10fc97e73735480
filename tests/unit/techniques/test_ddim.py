"""DDIM beside diffusers' DDIMScheduler and DDPMScheduler: spacings, eta, variances, clipping.

Where a spacing does not step by 1000 // steps, `DDIMScheduler.step` starts a transition elsewhere than the one before
ended (it computes the next time step instead of looking it up). There the oracle is the first-order DPM-Solver of
diffusers, which is the same update and looks it up.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from solvers import LINEAR, close, denoiser, network, noise, run_shape, theirs
from support import tiny_request
from torch import Tensor

from engine.compiler import compile_spec
from engine.errors import InvalidInput
from engine.techniques.solvers.ddim import Ddim

numpy_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SPACINGS: dict[str, Any] = {
    "leading": {"steps_offset": 1},
    "trailing": {},
    "linspace": {},
}


def ours(technique: Ddim, x: Tensor, model: Any = network, draw: Any = None, *, pixels: bool = True) -> Tensor:
    run = run_shape(technique.predictions(), pixels=pixels)
    assert technique.check(run) == []
    denoise, asked = denoiser(model, draw)
    out = technique.sampler(run)(x, technique.times(run), denoise)
    assert len(asked) == technique.predictions() and asked == technique.times(run)
    return out


def wide(x: Tensor, t: float) -> Tensor:
    """A network whose clean samples leave -1..1 often."""
    return network(x, t) + 0.3 * torch.cos(5 * x)


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize(("offset", "to_one"), [(0, True), (1, False)], ids=["dit", "stable_diffusion"])
def test_leading_steps_are_those_of_diffusers(steps: int, offset: int, to_one: bool) -> None:
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False, steps_offset=offset, set_alpha_to_one=to_one)
    x = noise(dtype=torch.float32)
    technique = Ddim(steps=steps, steps_offset=offset, set_alpha_to_one=to_one)
    expected = theirs(scheduler, x, num_inference_steps=steps)
    assert technique.visited(1000) == scheduler.timesteps.tolist()
    assert close(ours(technique, x), expected)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 30, 50])
def test_every_spacing_visits_diffusers_time_steps(spacing: Any, steps: int) -> None:
    scheduler = DDIMScheduler(**LINEAR, timestep_spacing=spacing, **SPACINGS[spacing])
    scheduler.set_timesteps(steps)
    assert Ddim(steps=steps, spacing=spacing, **SPACINGS[spacing]).visited(1000) == scheduler.timesteps.tolist()


@numpy_2
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [7, 30])
def test_transitions_are_those_of_the_first_order_solver(spacing: Any, steps: int) -> None:
    technique, x = Ddim(steps=steps, spacing=spacing, **SPACINGS[spacing]), noise(dtype=torch.float32)
    first_order = DPMSolverMultistepScheduler(**LINEAR, solver_order=1)
    # Another rounding of sigma / alpha, which is large at time step 999.
    assert close(ours(technique, x), theirs(first_order, x, timesteps=technique.visited(1000)), 1e-4)


@pytest.mark.parametrize(
    ("spacing", "steps", "astray"), [("linspace", 30, 29), ("trailing", 30, 10), ("leading", 30, 0)]
)
def test_diffusers_own_transitions_go_astray(spacing: Any, steps: int, astray: int) -> None:
    """Why those are not compared: how often it does not go to the next time step of its list."""
    visited = Ddim(steps=steps, spacing=spacing).visited(1000)
    assert sum(t - 1000 // steps != s for t, s in pairwise(visited)) == astray
    if astray:
        scheduler, x = DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing=spacing), noise(dtype=torch.float32)
        expected = theirs(scheduler, x, num_inference_steps=steps)
        assert not close(ours(Ddim(steps=steps, spacing=spacing), x), expected, 1e-3)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_fresh_noise_and_clipping_as_diffusers(eta: float, clip: bool) -> None:
    """Clipped, diffusers keeps the predicted noise unless it is told to derive it anew, as DDPM's posterior does."""
    scheduler = DDIMScheduler(**LINEAR, clip_sample=clip)
    scheduler.set_timesteps(10)
    x, draws = noise(dtype=torch.float32), [noise(seed, torch.float32) for seed in range(20, 30)]
    expected = x
    for step, fresh in zip(scheduler.timesteps, draws, strict=True):
        output = wide(expected, (int(step) + 1) / 1000)
        options = {"eta": eta, "variance_noise": fresh, "use_clipped_model_output": clip}
        expected = scheduler.step(output, step, expected, **options).prev_sample
    stream = iter(draws)
    assert close(ours(Ddim(steps=10, eta=eta, clip=clip), x, wide, lambda _x: next(stream)), expected)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("sigma_hat", [False, True])
def test_full_eta_is_diffusers_ddpm(sigma_hat: bool, clip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smaller variance, and with the larger that the paper calls sigma-hat; neither adds noise at the end."""
    variance = "fixed_large" if sigma_hat else "fixed_small"
    scheduler = DDPMScheduler(**LINEAR, variance_type=variance, clip_sample=clip)
    x, draws = noise(dtype=torch.float32), [noise(seed, torch.float32) for seed in range(20, 60)]
    drawn = iter(draws)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_args, **_options: next(drawn))
    expected, stream = theirs(scheduler, x, wide, num_inference_steps=40), iter(draws)
    technique = Ddim(steps=40, eta=1.0, sigma_hat=sigma_hat, clip=clip)
    assert close(ours(technique, x, wide, lambda _x: next(stream)), expected, 1e-4)
    assert len(list(stream)) == len(list(drawn)) == 1


def test_without_fresh_noise_nothing_is_drawn() -> None:
    def draw(x: Tensor) -> Tensor:
        raise AssertionError("drew noise")

    x = noise()
    assert torch.equal(ours(Ddim(steps=5), x, draw=draw), ours(Ddim(steps=5), x))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"timesteps": [5, 900]}, "time steps must fall"),
        ({"timesteps": [900, 900]}, "each only once"),
        ({"timesteps": [1000, 5]}, r"must lie in 0..999"),
        ({"steps": 30, "spacing": "quadratic"}, "each only once"),
        ({"steps": 10, "steps_offset": 150}, r"must lie in 0..999"),
        ({"sigma_hat": True}, "`sigma_hat` is a variance of DDPM, and `eta` is 0"),
        ({"clip": True}, "`clip` is for models of pixels, and `dit` has latents"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule):
        compile_spec(tiny_request("dit", [], sampler={"ddim": settings}))


def test_pixels_may_be_clipped(compile_tiny: Any) -> None:
    assert compile_tiny("ddpm", sampler={"ddim": {"steps": 8, "clip": True}}).run.in_pixels
    assert not compile_tiny("latte").run.in_pixels


def test_refused_on_a_flow_model_and_flow_samplers_on_diffusion_models() -> None:
    with pytest.raises(InvalidInput, match="`ddim` is a sampler for diffusion models, and `opensora` is a flow model"):
        compile_spec(tiny_request("opensora", [], sampler={"ddim": None}))
    with pytest.raises(InvalidInput, match=r"`rflow` is a sampler for flow models.*\n.*`ddim`"):
        compile_spec(tiny_request("dit", [], sampler={"rflow": None}))
