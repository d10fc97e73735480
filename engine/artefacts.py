"""What `prepare` leaves behind: safetensors with a JSON header, addressed by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import MissingWeights, Place, Problem
from engine.step import RunShape

if TYPE_CHECKING:
    from engine.backbones.base import Backbone

DEFAULT_STORE = Path(os.environ.get("ENGINE_ARTEFACTS", "~/.cache/engine/artefacts")).expanduser()


@dataclass(frozen=True)
class Artefact:
    """Tensors that a technique prepared, with the facts they were prepared from."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass(frozen=True)
class Bench:
    """What a technique prepares with: the loaded backbone, the run it prepares for, and a way to generate.

    `generate(seed)` runs the plain model once and returns its latents.
    """

    backbone: Backbone
    run: RunShape
    generate: Callable[[int], Tensor]
    seed: int = 0


def key_of(facts: Mapping[str, Any]) -> str:
    """Address of an artefact: hash of its facts."""
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


class Store:
    """A folder of artefacts, written atomically."""

    def __init__(self, folder: Path = DEFAULT_STORE) -> None:
        self.folder = folder

    def path(self, slug: str, facts: Mapping[str, Any]) -> Path:
        """Where the artefact of these facts is or would be."""
        return self.folder / slug / f"{key_of(facts)}.safetensors"

    def save(self, slug: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Write an artefact; a reader sees the whole file or none."""
        path = self.path(slug, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, part, metadata={"facts": json.dumps(dict(facts), sort_keys=True, default=str)})
        part.replace(path)
        return path

    def load(self, slug: str, facts: Mapping[str, Any], spec: Path) -> Artefact:
        """Read the artefact made from exactly these facts, or say how to make it."""
        path = self.path(slug, facts)
        if not path.is_file():
            others = len(list(path.parent.glob("*.safetensors"))) if path.parent.is_dir() else 0
            made = f"; {others} made for other settings or weights do not fit" if others else ""
            raise MissingWeights(
                Problem(
                    f"`{slug}` has not been prepared for these settings{made}",
                    f"run `engine prepare {spec}`",
                    Place(spec),
                )
            )
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            facts_read = json.loads(file.metadata()["facts"])
        return Artefact(tensors, facts_read)
