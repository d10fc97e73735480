"""Finds techniques and backbones by their files; anything malformed fails loudly."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TypeVar

import engine.backbones
import engine.techniques
from engine.backbones.base import Backbone
from engine.sites import SiteKind
from engine.technique import Technique

T = TypeVar("T")
SHARED = ("engine.backbones.base", "engine.backbones.common")
_extra: dict[str, type[Technique]] = {}


def techniques() -> Mapping[str, type[Technique]]:
    """All techniques by slug."""
    return {**_discovered(), **_extra}


def backbones() -> Mapping[str, type[Backbone]]:
    """All backbones by name."""
    found: dict[str, type[Backbone]] = {}
    for info in pkgutil.iter_modules(engine.backbones.__path__, "engine.backbones."):
        name = f"{info.name}.adapter" if info.ispkg else info.name
        if info.name not in SHARED:
            cls = _only_class(importlib.import_module(name), Backbone)  # type: ignore[type-abstract]
            found[cls.name] = cls
    return found


def site_kinds(name: str) -> frozenset[SiteKind]:
    """Kinds of site that a backbone has, read off its tiny twin."""
    tiny = backbones()[name].tiny()
    return tiny.capabilities(tiny.sites(tiny.shape(tiny.inputs(prompts=["a"]), 2)))


def backbones_with(kinds: frozenset[SiteKind]) -> list[str]:
    """Names of the backbones that have all these kinds of site."""
    return sorted(name for name in backbones() if kinds <= site_kinds(name))


def backbones_for(cls: type[Technique]) -> list[str]:
    """Names of the backbones a technique runs on: those with its sites, for a sampler those of its noise process."""
    known = backbones()
    return [name for name in backbones_with(cls.requires) if cls.process in (None, known[name].noise.process)]


@contextmanager
def adding(*classes: type[Technique]) -> Iterator[None]:
    """Make further techniques known for a while (for plug-ins and tests)."""
    added = {cls.slug: cls for cls in classes}
    _extra.update(added)
    try:
        yield
    finally:
        for slug in added:
            del _extra[slug]


@cache
def _discovered() -> dict[str, type[Technique]]:
    found: dict[str, type[Technique]] = {}
    for family in pkgutil.iter_modules(engine.techniques.__path__):
        package = importlib.import_module(f"engine.techniques.{family.name}")
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            cls = _only_class(module, Technique)
            if (cls.slug, cls.family) != (info.name, family.name):
                raise ImportError(f"{module.__file__}: class {cls.__name__} says {cls.family}/{cls.slug}")
            if not isinstance(getattr(cls, "stage", None), int):
                raise ImportError(f"{module.__file__}: class {cls.__name__} declares no stage")
            found[cls.slug] = cls
    return found


def _only_class(module: ModuleType, base: type[T]) -> type[T]:
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ImportError(f"{module.__file__} must define exactly one {base.__name__}, found {len(classes)}")
    return classes[0]
