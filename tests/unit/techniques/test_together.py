"""Techniques around one another: what a plan says of several at once is what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support_unets import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.compiler import Compiled
from engine.receipts import Trace, receipts, verdict
from engine.runner import live_sites, opened

Compile = Callable[..., Compiled]
CACHE = {"deepcache": {"interval": 3, "branch": 1, "uniform": True}}
MERGE = {"tomesd": {"max_downsample": 2, "merge_crossattn": True, "merge_mlp": True}}
FORA = {"fora": {"interval": 2}}
PAIRS = {"cache+merge": (CACHE, MERGE), "fora+merge": (FORA, MERGE)}


@pytest.mark.parametrize("techniques", PAIRS.values(), ids=PAIRS)
def test_planned_macs_are_counted_and_measured(compile_tiny: Compile, techniques: tuple[dict[str, Any], ...]) -> None:
    """What merging adds for its matching is spent only where a cache around it lets the block run."""
    compiled, trace = compile_tiny("sd", *techniques, on=tiny("deep")), Trace()
    with opened(compiled, trace=trace) as side, sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            assert torch.isfinite(side.generate((5, 6))).all()
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    verdict(done, compiled)
    assert counter.get_total_flops() == pytest.approx(2 * compiled.plan.estimate.macs, rel=0.01)
    assert done["macs"] == pytest.approx(compiled.plan.estimate.macs, rel=1e-6)
    assert done["held_bytes"] == compiled.plan.estimate.held_bytes
