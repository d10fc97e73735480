"""T-GATE's own invariants (arXiv 2404.02747, version 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import BACKBONES, ROOT

from engine.compiler import Compiled, compile_spec
from engine.errors import InvalidInput
from engine.receipts import Trace
from engine.runner import opened
from engine.sites import SiteKind
from engine.spec import load_spec

Compile = Callable[..., Compiled]
on_both = pytest.mark.parametrize("backbone", ["sd", "pixart"])


@pytest.mark.parametrize(
    ("spec", "weights", "gate_step", "before", "after"),
    [
        ("sd", "stable-diffusion-v1-5", 5, 16.938, 9.875),
        ("sd", "stable-diffusion-2-1", 5, 38.041, 22.208),
        ("sd", "stable-diffusion-xl-base-1.0", 5, 149.438, 84.438),
        ("pixart", "PixArt-XL-2-1024-MS", 8, 107.031, 65.318),
    ],
)
def test_macs_of_its_table(spec: str, weights: str, gate_step: int, before: float, after: float) -> None:
    """TMACs a picture of 25 steps, attention's own products left out, as the paper counts.

    Its rows of Stable Diffusion fit a gate step of 5, to a thousandth, and not the 10 that its README's commands have.
    """
    changes = [f"model.weights=random:{weights}", f"techniques.t_gate.gate_step={gate_step}"]
    plan = compile_spec(load_spec(ROOT / "specs" / f"t_gate_{spec}.yaml", profile="scale", changes=changes)).plan
    kinds = [values for kind, values in plan.estimate.kinds.items() if kind != SiteKind.KERNEL]
    assert sum(values["baseline"] for values in kinds) == pytest.approx(before * 1e12, rel=1e-3)
    assert sum(values["planned"] for values in kinds) == pytest.approx(after * 1e12, rel=1e-3)


@on_both
def test_cost_is_that_of_the_paper(compile_tiny: Compile, backbone: str) -> None:
    """m steps of both branches in full, T - m of one without cross-attention."""
    compiled = compile_tiny(backbone, {"t_gate": {"gate_step": 3}}, prompts=("a cat",))
    sites = compiled.backbone.sites(compiled.run)
    names = {site.name for site in compiled.entries[0].sites}
    full = sum(site.macs for site in sites)
    cross = sum(site.macs for site in sites if site.name in names or site.inside in names)
    assert compiled.plan.estimate.macs == 3 * 2 * full + (8 - 3) * (full - cross)


@on_both
def test_behind_the_gate_one_branch_runs_and_reads_no_text(compile_tiny: Compile, backbone: str) -> None:
    compiled, trace = compile_tiny(backbone, {"t_gate": {"gate_step": 3}}), Trace()
    with opened(compiled, trace=trace) as side:
        side.generate((1, 2))
    assert [step.rows for step in trace.steps] == [4, 4, 4, 2, 2, 2, 2, 2]
    assert [bool(step.evaluated) for step in trace.steps] == [True] * 3 + [False] * 5


@on_both
@pytest.mark.parametrize("gate_step", [3, None])
def test_prompt_and_guidance_do_not_matter_behind_the_gate(
    compile_tiny: Compile, backbone: str, gate_step: int | None
) -> None:
    """Other text from the fourth step on changes nothing, unless nothing is gated there."""
    parameters: dict[str, Any] = {"gate_share": 1.0} if gate_step is None else {"gate_step": gate_step}
    latents = []
    for disturbed in (False, True):
        compiled = compile_tiny(backbone, {"t_gate": parameters})
        with opened(compiled) as side:
            done: list[int] = []
            other = compiled.backbone.encode(compiled.inputs.model_copy(update={"prompts": ["x", "y z"]}), compiled.run)

            def tick(done: list[int] = done, side: Any = side, other: Any = other, disturbed: bool = disturbed) -> None:
                done.append(1)
                if disturbed and len(done) == 3:
                    side.call.conditions = other

            latents.append(side.generate((1, 2), tick))
    assert torch.equal(*latents) is (gate_step is not None)


@on_both
def test_what_is_kept_is_the_mean_of_the_branches(compile_tiny: Compile, backbone: str) -> None:
    """F = (F_uncond + F_cond) / 2 of each prompt, from the third step to the last."""
    tiny = BACKBONES[backbone].tiny()
    compiled = compile_tiny(backbone, {"t_gate": {"gate_step": 3}}, on=tiny)
    name = next(site.name for site in compiled.backbone.sites(compiled.run) if site.kind is SiteKind.CROSS_ATTENTION)
    outputs, kept = [], []
    with opened(compiled) as side:
        module = tiny.model.get_submodule(name)
        wrapped = module.forward

        def listen(*args: Any, **inputs: Any) -> torch.Tensor:
            outputs.append(wrapped(*args, **inputs))
            return outputs[-1]

        module.forward = listen
        memory = side.attachment.memories["t_gate", name]
        side.generate((1, 2), lambda: kept.append(memory.tensors()))
        module.forward = wrapped
    assert [len(tensors) for tensors in kept] == [0, 0, 1, 1, 1, 1, 1, 1]
    uncond, cond = outputs[2].chunk(2)
    assert not torch.equal(uncond, cond)
    torch.testing.assert_close(kept[-1][0], (uncond + cond) / 2, rtol=0, atol=0)
    assert all(torch.equal(output, kept[-1][0]) for output in outputs[3:])


def test_shares_of_the_readme_are_10_and_8_of_25() -> None:
    for backbone, gate_step in (("sd", 10), ("pixart", 8)):
        spec = ROOT / "specs" / f"t_gate_{backbone}.yaml"
        tuned = load_spec(spec, changes=["techniques=[{t_gate: }]"])
        for request in (load_spec(spec), tuned):
            steps = compile_spec(request).plan.steps
            assert [step.phases["t_gate"] for step in steps].index("keep") == gate_step - 1


@pytest.mark.parametrize("gate_step", [8, 9])
def test_a_gate_behind_the_run_is_refused(compile_tiny: Compile, gate_step: int) -> None:
    with pytest.raises(InvalidInput, match=rf"nothing comes behind `gate_step` {gate_step}: the run has 8 steps"):
        compile_tiny("sd", {"t_gate": {"gate_step": gate_step}})
