"""Discovery by file, failing loudly."""

from __future__ import annotations

import types

import pytest
from support import BACKBONES, TECHNIQUES

from engine import registry
from engine.technique import Technique


def test_every_technique_stands_in_the_file_of_its_name() -> None:
    for slug, cls in TECHNIQUES.items():
        assert cls.__module__ == f"engine.techniques.{cls.family}.{slug}"


def test_every_backbone_has_a_tiny_twin() -> None:
    for name, cls in BACKBONES.items():
        tiny = cls.tiny()
        assert tiny.name == name
        assert sum(parameter.numel() for parameter in tiny.model.parameters()) < 1_000_000


def test_a_module_without_a_technique_is_an_error() -> None:
    empty = types.ModuleType("empty")
    empty.__file__ = "empty.py"
    with pytest.raises(ImportError, match=r"empty\.py must define exactly one Technique, found 0"):
        registry._only_class(empty, Technique)


def test_added_techniques_go_away_again() -> None:
    class Extra(Technique):
        """Extra (arXiv 0000.00000)."""

        slug = "extra"

    with registry.adding(Extra):
        assert "extra" in registry.techniques()
    assert "extra" not in registry.techniques()


def test_a_technique_runs_where_its_sites_and_its_noise_process_are() -> None:
    assert registry.backbones_for(TECHNIQUES["rflow"]) == ["opensora"]
    assert registry.backbones_for(TECHNIQUES["ddim"]) == ["ddpm", "dit", "latte", "pixart", "sd"]
    assert registry.backbones_for(TECHNIQUES["fora"]) == ["dit", "latte", "opensora", "pixart", "sd"]
