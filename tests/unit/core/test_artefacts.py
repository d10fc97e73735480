"""Preparation artefacts: found by what they depend on, refused otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from engine import registry
from engine.artefacts import Bench, Store, facts_of, read
from engine.backbones.base import Backbone
from engine.compiler import Compiled
from engine.errors import MissingWeights
from engine.prepare import Prepared, prepare_all, require_artefacts
from engine.receipts import Trace
from engine.runner import opened
from engine.sites import SiteKind
from engine.technique import Setting, Stage, Technique

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

    def transform(self, backbone: Backbone) -> None:
        old = backbone.model.get_submodule("final_layer.linear")
        factor = torch.zeros(1) if self.artefact is None else self.artefact["factor"]
        new = torch.nn.Linear(old.in_features, old.out_features)
        new.load_state_dict({"weight": old.weight, "bias": old.bias + factor})
        backbone.swap("final_layer.linear", new)


class Doubled(Damped):
    """Counts what it finds changed before it, for tests (arXiv 0000.00003)."""

    slug = "doubled"
    stage = Stage.REUSE
    prepared_for: ClassVar[frozenset[Setting]] = frozenset()

    def prepare(self, bench: Bench) -> dict[str, Tensor]:
        prompts, latents = bench.examples(3, 5)
        assert len(prompts) == len(latents) == 3
        model = bench.backbone.model
        return {"factor": model.get_submodule("final_layer.linear").bias.detach().mean()[None]}


@pytest.fixture(autouse=True)
def damped() -> Any:
    with registry.adding(Damped), registry.adding(Doubled):
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("ENGINE_ARTEFACTS", str(tmp_path))
    return Store()


@pytest.fixture
def made(compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Compiled]:
    def compiled(*techniques: dict[str, Any], on: Backbone | None = None) -> Compiled:
        result = compile_tiny("opensora", *techniques, **({} if on is None else {"on": on}))
        monkeypatch.setattr(result.backbone, "load", lambda device: None)
        return result

    return compiled


def prepared(compiled: Compiled, **options: Any) -> list[Prepared]:
    return prepare_all(compiled, torch.device("cpu"), lambda what, total: lambda: None, **options)


def test_prepare_writes_what_run_finds(made: Callable[..., Compiled], store: Store) -> None:
    compiled = made({"damped": None})
    assert any("`damped` has yet to be prepared" in note for note in compiled.plan.notes)
    with pytest.raises(MissingWeights, match=r"`damped` has not been prepared[^>]*-> run `engine prepare tiny.yaml`"):
        require_artefacts(compiled)
    (found,) = prepared(compiled)
    assert found.made
    assert found.path.is_file()
    assert [path.suffix for path in store.folder.rglob("*") if path.is_file()] == [".safetensors"], "no part is left"
    again = made({"damped": None})
    require_artefacts(again)
    artefact = again.entries[0].technique.artefact
    assert artefact is not None
    assert artefact["factor"].shape == (1,)
    assert artefact.facts == facts_of(again.entries[0].technique, [], again.backbone, again.sampler, again.run)
    assert not any("prepared" in note for note in again.plan.notes)
    assert prepared(again) == [Prepared("damped", found.path, made=False)]
    assert prepared(again, again=True) == [found]


def test_other_settings_do_not_find_it(made: Callable[..., Compiled], store: Store) -> None:
    prepared(made({"damped": None}))
    other = made({"damped": {"strength": 2.0}})
    with pytest.raises(MissingWeights, match="1 made for other settings or weights do not fit"):
        require_artefacts(other)


def test_later_stages_are_prepared_on_what_earlier_ones_changed(made: Callable[..., Compiled], store: Store) -> None:
    compiled = made({"doubled": None}, {"damped": None})
    bias = compiled.backbone.model.get_submodule("final_layer.linear").bias.mean()
    first, second = prepared(compiled)
    assert (first.slug, second.slug) == ("damped", "doubled")
    torch.testing.assert_close(read(second.path)["factor"][0], bias + read(first.path)["factor"][0])
    assert compiled.backbone.swaps == 0
    alone = made({"doubled": None}, on=compiled.backbone)
    with pytest.raises(MissingWeights, match="`doubled` has not been prepared"):
        require_artefacts(alone)


def test_transform_is_undone(made: Callable[..., Compiled], store: Store) -> None:
    compiled = made({"damped": None})
    prepared(compiled)
    compiled = made({"damped": None}, on=compiled.backbone)
    before = compiled.backbone.model.get_submodule("final_layer.linear")
    trace = Trace()
    with opened(compiled, trace) as side:
        assert compiled.backbone.model.get_submodule("final_layer.linear") is not before
        changed = side.generate((1, 2))
    assert compiled.backbone.model.get_submodule("final_layer.linear") is before
    assert torch.isfinite(changed).all()
    assert trace.swapped == {"damped": 1}


def test_a_shipped_artefact_is_found_behind_the_users_own(store: Store, tmp_path: Path) -> None:
    shipped = Store(tmp_path / "shipped", None)
    both = Store(tmp_path / "own", shipped.folder)
    facts = {"parameters": {"steps": 3}}
    first = shipped.save("damped", facts, {"factor": torch.ones(1)})
    assert both.find("damped", facts) == first
    assert both.find("damped", {}) is None
    own = both.save("damped", facts, {"factor": torch.zeros(1)})
    assert both.find("damped", facts) == own
    assert both.others("damped") == 2


def test_a_damaged_artefact_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(MissingWeights, match=r"x.safetensors is no artefact of this engine[^>]*-> delete it"):
        read(path)
