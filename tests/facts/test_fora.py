"""FORA's own invariants (arXiv 2407.01425)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import BACKBONES, ROOT

from engine.compiler import Compiled, compile_spec
from engine.runner import opened
from engine.spec import load_spec

Compile = Callable[..., Compiled]


def test_macs_of_the_comparison_in_tocas_paper() -> None:
    """1751.3 of 3283.2 TFLOPs, 1.87x."""
    estimate = compile_spec(load_spec(ROOT / "specs" / "fora_opensora.yaml", profile="scale")).plan.estimate
    assert estimate.macs_ratio == pytest.approx(1.87, rel=0.01)
    assert estimate.macs == pytest.approx(1751.3e12 / 2, rel=0.03)


@pytest.mark.parametrize(("backbone", "ratio", "full"), [("dit", 2.77, 18), ("pixart", 1.98, 10)])
def test_pictures_of_the_comparison_in_tocas_paper(backbone: str, ratio: float, full: int) -> None:
    """DiT with 50 steps of DDIM: 8.58 of 23.74 TFLOPs at an interval of 3; PixArt with 20 steps at 2."""
    changes = ["inputs.max_sequence_length=24"] if backbone == "pixart" else []  # what the table's TFLOPs fit
    plan = compile_spec(load_spec(ROOT / "specs" / f"fora_{backbone}.yaml", profile="scale", changes=changes)).plan
    assert sum(step.phases["fora"] == "full" for step in plan.steps) == full
    assert plan.estimate.macs_ratio == pytest.approx(ratio, rel=0.01)
    if backbone == "dit":
        assert plan.estimate.macs / plan.shape.batch == pytest.approx(8.58e12 / 2, rel=0.01)


def test_steps_counted_from_the_start(compile_tiny: Compile) -> None:
    steps = compile_tiny("opensora", {"fora": {"interval": 3, "count_down": False}}).plan.steps
    assert [step.index for step in steps if step.phases["fora"] == "full"] == [0, 3, 6]


def test_cached_steps_spend_nothing_on_sub_layers(compile_tiny: Compile) -> None:
    plan = compile_tiny("opensora", {"fora": {"interval": 4}}).plan
    around = next(site.macs for site in _sites(compile_tiny) if site.name == "model")
    rows = plan.shape.batch * len(plan.shape.branches)
    reused = [step.macs for step in plan.steps if step.phases["fora"] == "reuse"]
    assert reused and set(reused) == {around * rows}


def test_the_last_step_is_full(compile_tiny: Compile) -> None:
    for interval in (2, 3, 5, 7):
        steps = compile_tiny("opensora", {"fora": {"interval": interval}}).plan.steps
        assert steps[0].phases["fora"] == steps[-1].phases["fora"] == "full"


def test_gates_belong_to_the_current_step(compile_tiny: Compile) -> None:
    """What is kept is the output before the gate: it must not depend on the gate."""
    tiny = BACKBONES["opensora"].tiny()

    def kept() -> torch.Tensor:
        with opened(compile_tiny("opensora", {"fora": {"interval": 100}}, on=tiny)) as side:
            seen = []
            memory = side.attachment.memories["fora", "spatial_blocks.0.attn"]
            side.generate((1, 2), lambda: seen.append(memory.output.clone()))
        return seen[0]

    before = kept()
    with torch.no_grad():
        tiny.model.get_parameter("spatial_blocks.0.scale_shift_table")[2] += 1.0  # the attention's gate
    assert torch.equal(kept(), before)


def _sites(compile_tiny: Compile) -> list:  # type: ignore[type-arg]
    compiled = compile_tiny("opensora")
    return compiled.backbone.sites(compiled.run)
