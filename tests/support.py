"""What tests share: the registry, imported once, and tiny requests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import registry
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
}
TINY_SAMPLER = {"opensora": {"rflow": {"steps": TINY_STEPS, "base_size": 16}}}


def tiny_request(
    backbone: str,
    techniques: Sequence[dict[str, Any]],
    prompts: Sequence[str] = ("a cat", "the dog"),
    inputs: dict[str, Any] | None = None,
    seed: int = 0,
) -> Request:
    """A request on the tiny twin of a backbone."""
    settled = {**TINY_INPUTS[backbone], "prompts": list(prompts), **(inputs or {})}
    spec = Spec.model_validate(
        {
            "model": {"backbone": backbone, "weights": "random"},
            "sampler": TINY_SAMPLER[backbone],
            "techniques": list(techniques),
            "inputs": settled,
            "seed": seed,
        }
    )
    return Request(spec, parse("model: {}"), Path("tiny.yaml"), "embedded")
