"""Rectified flow: Open-Sora's noise levels to the last digit, Euler on fields that can be solved, given frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.denoise import Denoise, Given, NoiseSchedule, Prediction, RectifiedFlow
from engine.step import Branch, RunShape
from engine.techniques.solvers.rflow import Rflow, euler, transformed

BF16, FP32 = torch.bfloat16, torch.float32
HD = (51, 480, 854)

SEEN_IN_BF16 = [
    *(1000, 992, 984, 976, 968, 960, 952, 940, 932, 920, 908, 892, 880, 864, 848),
    *(828, 808, 788, 764, 736, 708, 676, 636, 596, 548, 492, 426, 350, 258, 143),
]
WHOLE_PARTS_IN_FP32 = [
    *(1000, 992, 985, 977, 969, 960, 950, 940, 930, 918, 906, 893, 879, 863, 846),
    *(828, 809, 787, 763, 737, 707, 674, 637, 595, 547, 492, 426, 349, 257, 143),
]


def run_shape(pixels: tuple[int, int, int], dtype: torch.dtype, steps: int = 30) -> RunShape:
    frames, height, width = pixels
    latent = (4, 1 if frames == 1 else frames // 17 * 5, height // 8, width // 8)
    return RunShape("any", steps, 1, (Branch.COND,), latent, pixels, latent[1:], 8, dtype)


def ratio_of(pixels: tuple[int, int, int], dtype: torch.dtype) -> float:
    """The ratio r, from the level that 1/2 becomes: r / (1 + r)."""
    (level,) = transformed([0.5], pixels, 512, dtype)
    return level / (1 - level)


# ---------------------------------------------------------------- noise levels


def test_levels_that_the_denoiser_sees_in_bfloat16() -> None:
    times = Rflow().times(run_shape(HD, BF16))
    assert (torch.tensor(times) * 1000).to(BF16).tolist() == SEEN_IN_BF16


def test_whole_parts_of_levels_in_float32() -> None:
    times = Rflow().times(run_shape(HD, FP32))
    assert [int(time * 1000) for time in times] == WHOLE_PARTS_IN_FP32


def test_levels_themselves_are_in_float32_whatever_the_dtype() -> None:
    """Only the ratio is rounded under bfloat16; the denoiser rounds the levels later."""
    times = torch.tensor(Rflow().times(run_shape(HD, BF16)))
    assert not torch.equal(times, times.to(BF16).float())
    assert not torch.equal(times, torch.tensor(Rflow().times(run_shape(HD, FP32))))


@pytest.mark.parametrize(
    ("pixels", "ratio"),
    [
        (HD, 4.84375),
        ((102, 480, 854), 6.84375),
        ((204, 480, 854), 9.6875),
        ((51, 720, 1280), 7.25),
        ((51, 240, 426), 2.421875),
        # By hand: 712 * 1256 -> 892928; sqrt(3.40625) -> 1.84375; times sqrt(15) -> 3.875 is 7.1445, rounded.
        ((51, 714, 1258), 7.15625),
    ],
)
def test_ratios_in_bfloat16(pixels: tuple[int, int, int], ratio: float) -> None:
    assert ratio_of(pixels, BF16) == pytest.approx(ratio, rel=1e-5)
    assert ratio_of(pixels, FP32) != pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize(
    ("frames", "latent_frames"), [(1, 1), (17, 5), (33, 5), (34, 10), (51, 15), (102, 30), (204, 60), (408, 120)]
)
def test_ratio_in_float32_is_the_formula(frames: int, latent_frames: int) -> None:
    expected = math.sqrt(480 * 854 / 512**2) * math.sqrt(latent_frames)
    assert ratio_of((frames, 480, 854), FP32) == pytest.approx(expected, rel=1e-5)


def test_square_picture_of_base_size_is_not_shifted() -> None:
    plain = [1 - i / 30 for i in range(30)]
    assert Rflow().times(run_shape((1, 512, 512), FP32)) == pytest.approx(plain, abs=1e-6)
    assert Rflow(base_size=256).times(run_shape((1, 512, 512), FP32)) != pytest.approx(plain, abs=1e-3)
    assert Rflow(base_size=256).times(run_shape((1, 256, 256), FP32)) == pytest.approx(plain, abs=1e-6)


def test_without_time_shift_levels_are_even_whatever_the_size() -> None:
    assert Rflow(time_shift=False, steps=4).times(run_shape(HD, BF16)) == [1.0, 0.75, 0.5, 0.25]


@settings(deadline=None, max_examples=50)
@given(
    steps=st.integers(1, 100),
    frames=st.sampled_from([1, 17, 51, 408]),
    height=st.integers(16, 2048),
    width=st.integers(16, 2048),
    dtype=st.sampled_from([FP32, BF16]),
)
def test_levels_fall_from_one_towards_zero(
    steps: int, frames: int, height: int, width: int, dtype: torch.dtype
) -> None:
    times = Rflow(steps=steps).times(run_shape((frames, height, width), dtype, steps))
    assert len(times) == steps
    assert times[0] == pytest.approx(1, abs=1e-5)
    assert all(now > then for now, then in pairwise([*times, 0.0]))


def test_first_level_is_never_above_one() -> None:
    sizes = [(17, size, size) for size in range(16, 512, 16)]
    assert max(Rflow().times(run_shape(size, FP32))[0] for size in sizes) <= 1


def test_levels_are_finite_in_float16() -> None:
    assert all(math.isfinite(time) for time in Rflow().times(run_shape(HD, torch.float16)))


# ---------------------------------------------------------------- Euler


@dataclass
class Field:
    """A velocity field that remembers how it was called."""

    velocity: Callable[[Tensor, float], Tensor]
    calls: list[float] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)
    frames: list[Tensor | None] = field(default_factory=list)

    def __call__(self, x: Tensor, t: float, frames: Tensor | None = None) -> Tensor:
        self.calls.append(t)
        self.seen.append(x.clone())
        self.frames.append(frames)
        return self.velocity(x, t)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(field: Field, x: Tensor, times: list[float], known: Given | None = None) -> Tensor:
    """Run Euler; the noise of step i has the seed 100 + i."""
    seeds = itertools.count(100)

    def draw(like: Tensor) -> Tensor:
        return noise(*like.shape, seed=next(seeds)).to(like.dtype)

    return euler(x, times, Denoise(field, "velocity", RectifiedFlow(), known, draw))


TIMES = Rflow(steps=8).times(run_shape(HD, FP32))


@pytest.mark.parametrize("times", [TIMES, [1.0], [0.7, 0.2]], ids=["eight steps", "one step", "from the middle"])
def test_euler_reaches_the_data_point_of_a_linear_field(times: list[float]) -> None:
    """With one data point the true velocity is (x_0 - x) / t; straight paths, so any number of steps is exact."""
    target = noise(2, 4, 3, 2, 2, seed=1)
    field = Field(lambda x, t: (target - x) / t)
    found = solve(field, noise(2, 4, 3, 2, 2), times)
    torch.testing.assert_close(found, target, atol=1e-12, rtol=0)
    assert field.calls == times


def test_euler_stays_on_the_straight_path() -> None:
    """At every level the state is (1 - t) x_0 + t noise, which a sampler with wrong step sizes would leave."""
    target, start = noise(1, 2, 3, 2, 2, seed=1), noise(1, 2, 3, 2, 2)
    field = Field(lambda x, t: target - start)
    torch.testing.assert_close(solve(field, start, TIMES), target, atol=1e-6, rtol=0)
    for t, seen in zip(TIMES, field.seen, strict=True):
        torch.testing.assert_close(seen, (1 - t) * target + t * start, atol=1e-6, rtol=0)


def test_euler_on_a_decaying_field() -> None:
    """dx = 3 x d(1 - t): each step multiplies by 1 + 3 (t_i - t_(i+1)), the last one ends at level 0."""
    start = noise(1, 2, 3, 2, 2)
    factor = math.prod(1 + 3 * (t - s) for t, s in pairwise([*TIMES, 0.0]))
    torch.testing.assert_close(solve(Field(lambda x, t: 3 * x), start, TIMES), factor * start, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- given frames

SHAPE = (2, 4, 3, 2, 2)
CLEAN = noise(*SHAPE, seed=5)
START = noise(*SHAPE, seed=6)


def pull(x: Tensor, t: float) -> Tensor:
    """A field in which frames do not see one another."""
    return torch.sin(3 * x) - t


def test_given_frames_stay_untouched_and_the_others_move_as_ever() -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    field = Field(pull)
    found = solve(field, START, TIMES, Given(CLEAN, mask))
    plain = solve(Field(pull), START, TIMES)
    kept = (mask == 0)[:, None, :, None, None].expand(SHAPE)
    assert torch.equal(found[kept], CLEAN[kept])
    assert torch.equal(found[~kept], plain[~kept])
    for seen, frames in zip(field.seen, field.frames, strict=True):
        assert torch.equal(seen[kept], CLEAN[kept]), "the denoiser sees given frames without noise"
        assert frames is not None
        assert torch.equal(frames, mask == 1), "and is told which ones they are"


def test_mask_of_ones_equals_no_mask() -> None:
    field = Field(pull)
    found = solve(field, START, TIMES, Given(CLEAN, torch.ones(2, 3)))
    assert torch.equal(found, solve(Field(pull), START, TIMES))
    assert all(frames is not None and bool(frames.all()) for frames in field.frames)
    assert not torch.equal(found, solve(Field(pull), START, TIMES, Given(CLEAN, torch.full((2, 3), 0.9))))


def test_frame_with_half_mask_joins_when_the_level_has_fallen_to_it() -> None:
    times = [1.0, 0.8, 0.4, 0.3, 0.1]
    mask = torch.tensor([[0.5, 1.0, 0.0], [1.0, 0.5, 0.5]])
    field = Field(pull)
    found = solve(field, START, times, Given(CLEAN, mask))
    half = (mask == 0.5)[:, None, :, None, None].expand(SHAPE)

    # Before: clean, and not among the frames that are generated.
    for step in (0, 1):
        assert torch.equal(field.seen[step][half], CLEAN[half])
        assert torch.equal(field.frames[step], mask == 1)
    # At level 0.4, the first one below: noised to just that level, with the noise of that step (the third draw), once.
    joining = 0.6 * CLEAN + 0.4 * noise(*SHAPE, seed=102)
    torch.testing.assert_close(field.seen[2][half], joining[half], rtol=1e-12, atol=0)
    # From there on it moves like any other frame.
    expected = joining
    for step, (t, s) in enumerate(pairwise([*times[2:], 0.0]), start=2):
        assert torch.equal(field.frames[step], mask >= 0.5)
        torch.testing.assert_close(field.seen[step][half], expected[half], rtol=1e-12, atol=0)
        expected = expected + pull(expected, t) * (t - s)
    torch.testing.assert_close(found[half], expected[half], rtol=1e-12, atol=0)
    # The frames that were given or generated all along are as without it.
    plain = solve(Field(pull), START, times)
    ones, zeros = ((mask == value)[:, None, :, None, None].expand(SHAPE) for value in (1, 0))
    assert torch.equal(found[ones], plain[ones])
    assert torch.equal(found[zeros], CLEAN[zeros])


@settings(deadline=None, max_examples=50)
@given(
    value=st.floats(0, 1, exclude_max=True, width=32),
    times=st.lists(st.floats(1 / 128, 1, width=32), min_size=1, max_size=6, unique=True),
)
def test_frame_joins_at_the_first_level_not_above_its_mask(value: float, times: list[float]) -> None:
    times = sorted(times, reverse=True)
    field = Field(pull)
    solve(field, START, times, Given(CLEAN, torch.full((2, 3), value)))
    assert [bool(frames.all()) for frames in field.frames if frames is not None] == [value >= t for t in times]


# ---------------------------------------------------------------- conversions of predictions


@dataclass(frozen=True)
class Circle:
    """Variance-preserving: alpha = cos, sigma = sin of a quarter turn."""

    def alpha(self, t: float) -> float:
        return math.cos(t * math.pi / 2)

    def sigma(self, t: float) -> float:
        return math.sin(t * math.pi / 2)


LEVELS = st.floats(0.01, 0.99)
SCHEDULES = st.sampled_from([RectifiedFlow(), Circle()])


def as_predicted(kind: Prediction, x0: Tensor, epsilon: Tensor) -> Tensor:
    return {"velocity": x0 - epsilon, "epsilon": epsilon, "sample": x0}[kind]


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    t=LEVELS,
    schedule=SCHEDULES,
    kind=st.sampled_from(["velocity", "epsilon", "sample"]),
)
def test_every_kind_of_prediction_means_the_same(
    seed: int, t: float, schedule: NoiseSchedule, kind: Prediction
) -> None:
    x0, epsilon = noise(2, 3, seed=seed), noise(2, 3, seed=seed + 1)
    x = schedule.alpha(t) * x0 + schedule.sigma(t) * epsilon
    asked: list[tuple[float, bool]] = []

    def predict(_x: Tensor, time: float, flag: bool = False) -> Tensor:
        asked.append((time, flag))
        return as_predicted(kind, x0, epsilon)

    denoise = Denoise(predict, kind, schedule)
    torch.testing.assert_close(denoise(x, t, flag=True), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoise.velocity(x, t, flag=True), x0 - epsilon, rtol=1e-9, atol=1e-9)
    assert asked == [(t, True)] * 2, "one prediction each, with what the sampler passes on"


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    t=LEVELS,
    schedule=SCHEDULES,
    kind=st.sampled_from(["velocity", "epsilon", "sample"]),
)
def test_clean_sample_and_velocity_agree_for_any_prediction(
    seed: int, t: float, schedule: NoiseSchedule, kind: Prediction
) -> None:
    """Even where the prediction is not the truth: x = alpha x_0 + sigma (x_0 - velocity)."""
    x, out = noise(2, 3, seed=seed), noise(2, 3, seed=seed + 1)
    denoise = Denoise(lambda *_: out, kind, schedule)
    x0, velocity = denoise(x, t), denoise.velocity(x, t)
    again = schedule.alpha(t) * x0 + schedule.sigma(t) * (x0 - velocity)
    torch.testing.assert_close(again, x, rtol=1e-7, atol=1e-7)
