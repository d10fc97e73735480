"""PAB's own invariants (arXiv 2408.12588)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from support import BACKBONES, ROOT

from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput
from engine.runner import opened
from engine.sites import SiteKind
from engine.spec import load_spec

Compile = Callable[..., Compiled]


def phases_at_scale(backbone: str, *changes: str) -> list[set[str]]:
    """What is reused at every step, at the paper's size."""
    plan = compile_spec(load_spec(ROOT / "specs" / f"pab_{backbone}.yaml", profile="scale", changes=changes)).plan
    return [set(step.phases["pab"].split()) - {"full", "reuse"} for step in plan.steps]


def test_reused_calls_of_opensora_at_480p() -> None:
    """17 of 30 steps lie in the window; of their calls 9 spatial, 13 temporal and 14 cross ones are reused."""
    steps = phases_at_scale("opensora")
    assert Counter(name for step in steps for name in step) == {"spatial": 9, "temporal": 13, "cross": 14, "mlp": 6}
    attention = [index for index, step in enumerate(steps) if step - {"mlp"}]
    assert (attention[0], attention[-1]) == (9, 25)
    assert [index for index in range(9, 26) if not steps[index] - {"mlp"}] == [12, 24], "multiples of 2, 4 and 6"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mlps_of_opensora_rest_after_steps_13_17_and_21(dtype: str) -> None:
    """In bfloat16 the official triggers are time steps of this run; in float32 863, 787 and 674 are the nearest."""
    steps = phases_at_scale("opensora", f"model.dtype={dtype}")
    assert [index for index, step in enumerate(steps) if "mlp" in step] == [14, 15, 18, 19, 22, 23]


def test_reused_calls_of_latte() -> None:
    """50 steps of 20: the triggers are time steps of the run, 780 down to 120 lie in the window."""
    steps = phases_at_scale("latte")
    inside = [index for index in range(50) if 100 < 980 - 20 * index < 800]
    for name, interval in (("spatial", 2), ("temporal", 3), ("cross", 6)):
        assert [index for index, step in enumerate(steps) if name in step] == [i for i in inside if i % interval]
    triggers = [(980 - time) // 20 for time in (720, 640, 560, 480, 400)]
    assert [index for index, step in enumerate(steps) if "mlp" in step] == [i + k for i in triggers for k in (1, 2)]


def test_macs_of_the_first_five_layers_mlps_and_of_each_attention() -> None:
    """A reused call saves its projections and products: (4C^2 + 2SC)N, (4C^2 + 2TC)N, 2(C^2 + LC)N and the text's."""
    compiled = compile_spec(load_spec(ROOT / "specs" / "pab_opensora.yaml", profile="scale"))
    plan, run = compiled.plan, compiled.run
    width, layers, words, count = 1152, 28, run.text_tokens, run.tokens
    frames, spots = run.grid[0], run.grid[1] * run.grid[2]
    saved = {
        "spatial": layers * count * (4 * width**2 + 2 * spots * width),
        "temporal": layers * count * (4 * width**2 + 2 * frames * width),
        "cross": 2 * layers * (count * (2 * width**2 + 2 * words * width) + 2 * words * width**2),
        "mlp": 2 * 5 * count * 8 * width**2,
    }
    for step in plan.steps:
        rest = sum(saved[name] for name in step.phases["pab"].split() if name in saved)
        assert plan.steps[0].macs - step.macs == pytest.approx(2 * rest, abs=1)


def test_what_is_kept_of_opensora_at_480p() -> None:
    """112 attention outputs and 10 of MLPs, [2, 23850, 1152] in two bytes each: about 12 GB without the MLPs."""
    held = compile_spec(load_spec(ROOT / "specs" / "pab_opensora.yaml", profile="scale")).plan.estimate.held_bytes
    assert held == (112 + 10) * 2 * 23850 * 1152 * 2


def kept(compile_tiny: Compile, backbone: str, site: str, **parameters: object) -> list[torch.Tensor]:
    """What memory holds at a site after every step."""
    seen: list[torch.Tensor] = []
    with opened(compile_tiny(backbone, {"pab": parameters})) as side:
        memory = side.attachment.memories["pab", site]
        side.generate((1, 2), lambda: seen.append(memory.output.clone()))
    return seen


def test_outputs_stay_the_same_until_the_next_multiple_of_the_range(compile_tiny: Compile) -> None:
    seen = kept(compile_tiny, "latte", "transformer_blocks.0.attn2", cross_range=4, window=[0, 1000], mlp_triggers=[])
    same = [torch.equal(before, after) for before, after in pairwise(seen)]
    assert same == [True, True, True, False, True, True, False], "time step 0, the last, lies outside"


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("site", "row"), [("spatial_blocks.0.attn", 2), ("spatial_blocks.0.mlp", 5)])
def test_gates_are_kept_with_the_outputs_or_not(compile_tiny: Compile, gated: bool, site: str, row: int) -> None:
    """The official code keeps the gated residual, diffusers what comes before the gate."""
    seen = []
    for shift in (0.0, 1.0):
        tiny = BACKBONES["opensora"].tiny()
        with torch.no_grad():
            tiny.model.get_parameter("spatial_blocks.0.scale_shift_table")[row] += shift
        with opened(compile_tiny("opensora", {"pab": {"gated": gated}}, on=tiny)) as side:
            outputs: list[torch.Tensor] = []
            memory = side.attachment.memories["pab", site]
            side.generate((1, 2), lambda memory=memory, outputs=outputs: outputs.append(memory.output.clone()))
        seen.append(outputs[0])
    assert torch.equal(*seen) is not gated


def test_ranges_of_one_are_left_alone_and_triggers_of_none_too(compile_tiny: Compile) -> None:
    only_cross = {"spatial_range": 1, "temporal_range": 1, "mlp_triggers": []}
    compiled = compile_tiny("opensora", {"pab": only_cross})
    assert {site.kind for site in compiled.entries[0].sites} == {SiteKind.CROSS_ATTENTION}
    with pytest.raises(InvalidInput, match="`pab` matches no site"):
        compile_tiny("opensora", {"pab": {**only_cross, "cross_range": 1}})


def test_mlps_of_the_first_layers_only(compile_tiny: Compile) -> None:
    compiled = compile_tiny("opensora", {"pab": {"mlp_layers": 1}})
    feeds = [site.name for site in compiled.entries[0].sites if site.kind is SiteKind.FEED_FORWARD]
    assert feeds == ["spatial_blocks.0.mlp", "temporal_blocks.0.mlp"]


@pytest.mark.parametrize(
    ("window", "message"),
    [([930, 450], r"`window` falls.*\n.*window: \[450, 930\]"), ([952, 999], "no time step lies between 952 and 999")],
)
def test_windows_without_a_step_are_refused(compile_tiny: Compile, window: list[int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compile_tiny("opensora", {"pab": {"window": window}})
