"""Preparation artefacts: found by what they depend on, refused otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import registry
from engine.artefacts import Artefact, Bench, Store
from engine.backbones.base import Backbone
from engine.compiler import Compiled
from engine.errors import MissingWeights
from engine.prepare import facts_of, find_artefacts, prepare_all
from engine.runner import opened
from engine.sites import SiteKind
from engine.technique import Stage, Technique

Compile = Callable[..., Compiled]


class Damped(Technique):
    """Scales a layer's bias by a prepared factor, for tests (arXiv 0000.00002)."""

    slug = "damped"
    family = "caching"
    stage = Stage.NUMERICS
    requires = frozenset({SiteKind.FEED_FORWARD})
    strength: float = 1.0

    def prepare(self, bench: Bench) -> dict[str, Tensor]:
        return {"factor": bench.generate(bench.seed).std().mul(self.strength)[None]}

    def transform(self, backbone: Backbone, artefact: Artefact | None) -> None:
        assert artefact is not None
        old = backbone.model.get_submodule("final_layer.linear")
        new = torch.nn.Linear(old.in_features, old.out_features)
        new.load_state_dict({"weight": old.weight, "bias": old.bias + artefact["factor"]})
        backbone.swap("final_layer.linear", new)


@pytest.fixture(autouse=True)
def damped() -> Any:
    with registry.adding(Damped):
        yield


@pytest.fixture
def compiled(compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    made = compile_tiny("opensora", {"damped": None})
    monkeypatch.setattr(made.backbone, "load", lambda device: None)
    return made


def test_prepare_writes_what_run_finds(compiled: Compiled, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(MissingWeights, match=r"`damped` has not been prepared[^>]*-> run `engine prepare tiny.yaml`"):
        find_artefacts(compiled, store)
    made = prepare_all(compiled, torch.device("cpu"), store)
    found = find_artefacts(compiled, store)
    assert made["damped"].is_file()
    assert found["damped"]["factor"].shape == (1,)
    assert found["damped"].facts == facts_of(compiled, 0)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"], "no part is left"


def test_other_settings_do_not_find_it(compiled: Compiled, compile_tiny: Compile, tmp_path: Path) -> None:
    store = Store(tmp_path)
    prepare_all(compiled, torch.device("cpu"), store)
    other = compile_tiny("opensora", {"damped": {"strength": 2.0}})
    with pytest.raises(MissingWeights, match="1 made for other settings or weights do not fit"):
        find_artefacts(other, store)


def test_transform_is_undone(compiled: Compiled, tmp_path: Path) -> None:
    store = Store(tmp_path)
    prepare_all(compiled, torch.device("cpu"), store)
    before = compiled.backbone.model.get_submodule("final_layer.linear")
    with opened(compiled, find_artefacts(compiled, store)) as side:
        assert compiled.backbone.model.get_submodule("final_layer.linear") is not before
        changed = side.generate((1, 2))
    assert compiled.backbone.model.get_submodule("final_layer.linear") is before
    assert torch.isfinite(changed).all()
