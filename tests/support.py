"""What tests share: the registry, imported once, and tiny requests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import registry
from engine.backbones.base import Backbone
from engine.backbones.common.clip import Encoded
from engine.document import parse
from engine.spec import Request, Spec

ROOT = Path(__file__).parent.parent
TINY_STEPS = 8

with warnings.catch_warnings():
    # Imported once here: third-party packages warn at import, which would fail whichever test comes first.
    warnings.simplefilter("ignore")
    BACKBONES = registry.backbones()
    TECHNIQUES = registry.techniques()

TINY_INPUTS: dict[str, dict[str, Any]] = {
    "opensora": {"num_frames": 17, "height": 16, "width": 24, "fps": 12, "guidance": 3.0},
    "dit": {"size": 16, "guidance": 3.0},
    "pixart": {"height": 16, "width": 24, "guidance": 3.0, "max_sequence_length": 8},
    "sd": {"height": 16, "width": 24, "guidance": 3.0},
    "ddpm": {"guidance": 3.0},
    "latte": {"height": 16, "width": 24, "guidance": 3.0, "max_sequence_length": 8},
}
TINY_SAMPLER = {
    "opensora": {"rflow": {"steps": TINY_STEPS, "base_size": 16}},
    "dit": {"ddim": {"steps": TINY_STEPS}},
    "pixart": {"dpm_solver_pp": {"steps": TINY_STEPS}},
    "sd": {"ddim": {"steps": TINY_STEPS, "steps_offset": 1, "set_alpha_to_one": False}},
    "ddpm": {"ddim": {"steps": TINY_STEPS}},
    "latte": {"ddim": {"steps": TINY_STEPS}},
}


def disturb_unconditional(tiny: Backbone) -> None:
    """Change what the unconditional branch of a tiny backbone reads, and nothing else."""
    if tiny.name in ("pixart", "latte"):
        encoder = tiny.text

        def other(prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
            features, mask = encoder(prompts, length)
            return (features + 1 if set(prompts) == {""} else features), mask

        tiny.text = other
        return
    if tiny.name == "sd":
        clip = tiny.text

        def shifted(prompts: Sequence[str]) -> Encoded:
            rows = clip(prompts)
            return Encoded(rows.tokens + 1, None) if set(prompts) == {""} else rows

        tiny.text = shifted
        return
    with torch.no_grad():
        if tiny.name == "dit":
            for block in tiny.model.transformer_blocks:
                block.norm1.emb.class_embedder.embedding_table.weight[-1].add_(1.0)
        elif tiny.name == "ddpm":
            tiny.model.class_embedding.weight[-1].add_(1.0)
        else:
            tiny.model.get_buffer("y_embedder.y_embedding").add_(1.0)


def tiny_request(
    backbone: str,
    techniques: Sequence[dict[str, Any]],
    prompts: Sequence[str] = ("a cat", "the dog"),
    inputs: dict[str, Any] | None = None,
    seed: int = 0,
    sampler: dict[str, Any] | None = None,
) -> Request:
    """A request on the tiny twin of a backbone."""
    settled = {**TINY_INPUTS[backbone], "prompts": list(prompts), **(inputs or {})}
    spec = Spec.model_validate(
        {
            "model": {"backbone": backbone, "weights": "random"},
            "sampler": sampler or TINY_SAMPLER[backbone],
            "techniques": list(techniques),
            "inputs": settled,
            "seed": seed,
        }
    )
    return Request(spec, parse("model: {}"), Path("tiny.yaml"), "embedded")
