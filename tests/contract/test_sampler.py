"""The contract every sampler passes on every backbone whose noise process it is made for (tiny, random weights)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from support import BACKBONES, TECHNIQUES, TINY_STEPS

from engine.compiler import Compiled
from engine.receipts import Trace
from engine.runner import opened

FRESH: dict[str, dict[str, Any]] = {"ddim": {"eta": 1.0}, "dpm_solver_pp": {"stochastic": True}}
"""Settings under which a sampler draws noise of its own."""
SAMPLERS = {slug: cls for slug, cls in sorted(TECHNIQUES.items()) if cls.process is not None}
PROCESSES = {name: cls.tiny().noise.process for name, cls in BACKBONES.items()}
CASES = [
    pytest.param(backbone, {slug: {"steps": TINY_STEPS, **changes}}, id=f"{slug}-{backbone}{'-fresh' * bool(changes)}")
    for slug, cls in SAMPLERS.items()
    for backbone, process in PROCESSES.items()
    if process == cls.process
    for changes in ({}, *([FRESH[slug]] if slug in FRESH else []))
]
on_tiny = pytest.mark.parametrize(("backbone", "sampler"), CASES)
Compile = Callable[..., Compiled]


@on_tiny
def test_predicts_as_often_as_planned_at_falling_levels(backbone: str, sampler: Any, compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny(backbone, sampler=sampler), Trace()
    with opened(compiled, trace=trace) as side:
        out = side.generate((5, 6))
    assert torch.isfinite(out).all()
    assert len(trace.steps) == len(compiled.plan.steps) == compiled.sampler.predictions()
    times = compiled.sampler.times(compiled.run)
    assert len(times) == len(trace.steps) and times[-1] > 0 and times[0] <= 1
    assert all(s < t for t, s in pairwise(times))


@on_tiny
def test_two_runs_are_equal_and_a_batch_is_its_samples(backbone: str, sampler: Any, compile_tiny: Compile) -> None:
    """Fresh noise too comes from each sample's own seed."""
    prompts, tiny = ("a cat", "the dog"), BACKBONES[backbone].tiny()
    with opened(compile_tiny(backbone, on=tiny, prompts=prompts, sampler=sampler)) as side:
        together = side.generate((5, 6))
        assert torch.equal(side.generate((5, 6)), together)
        assert not torch.equal(side.generate((5, 7))[1], together[1])
    size = max(1.0, together.abs().max().item())
    for index, prompt in enumerate(prompts):
        with opened(compile_tiny(backbone, on=tiny, prompts=(prompt,), sampler=sampler)) as side:
            alone = side.generate((5 + index,))
        torch.testing.assert_close(together[index : index + 1], alone, atol=2e-4 * size, rtol=1e-3)
