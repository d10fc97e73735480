"""What `prepare` leaves behind: safetensors with a JSON header, addressed by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import MissingWeights, Problem
from engine.step import RunShape

if TYPE_CHECKING:
    from engine.backbones.base import Backbone
    from engine.technique import Technique

SHIPPED = Path(__file__).parent / "zoo" / "artefacts"
"""Artefacts of the project's own specs, prepared on the embedded models."""


def own_folder() -> Path:
    """Where a user's artefacts go: $ENGINE_ARTEFACTS, or a folder in the cache."""
    return Path(os.environ.get("ENGINE_ARTEFACTS", "~/.cache/engine/artefacts")).expanduser()


@dataclass(frozen=True)
class Artefact:
    """Tensors that a technique prepared, with the facts they were prepared from."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


@dataclass(frozen=True)
class Bench:
    """What a technique prepares with; the backbone carries the transforms of earlier stages.

    `generate(seed)` runs the model with the spec's sampler and prompts and returns its latents [b, ...].
    `examples(count, seed)` draws prompts and clean latents [count, ...] to calibrate or train on: of the set that the
    embedded weights were trained on, and for other weights the model's own outputs for the spec's prompts.
    `conditions(prompts)` encodes prompts for `backbone.predict`. `progress(what, total)` starts a bar and returns the
    function that advances it by one.
    """

    backbone: Backbone
    run: RunShape
    sampler: Technique
    generate: Callable[[int], Tensor]
    examples: Callable[[int, int], tuple[list[str], Tensor]]
    conditions: Callable[[Sequence[str]], Any]
    progress: Callable[[str, int], Callable[[], None]]
    guidance: float = 1.0
    seed: int = 0


def facts_of(
    technique: Technique, before: Sequence[Technique], backbone: Backbone, sampler: Technique, run: RunShape
) -> dict[str, Any]:
    """What the artefact of `technique` depends on; `before` are the techniques applied ahead of it."""
    settings: dict[str, Any] = {
        "sampler": {sampler.slug: sampler.model_dump(mode="json")},
        "size": list(run.latent),
        "dtype": str(run.dtype).removeprefix("torch."),
    }
    return {
        "parameters": technique.model_dump(mode="json"),
        "weights": backbone.identity(),
        "before": [{other.slug: other.model_dump(mode="json")} for other in before if other.transforms()],
        **{name: value for name, value in settings.items() if name in technique.prepared_for},
    }


def key_of(facts: Mapping[str, Any]) -> str:
    """Address of an artefact: hash of its facts."""
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


class Store:
    """A folder of artefacts, written atomically, in front of the folder of those that ship with the project."""

    def __init__(self, folder: Path | None = None, shipped: Path | None = SHIPPED) -> None:
        self.folder = folder or own_folder()
        self.shipped = shipped

    def path(self, slug: str, facts: Mapping[str, Any]) -> Path:
        """Where the artefact of these facts is written."""
        return self.folder / slug / f"{key_of(facts)}.safetensors"

    def find(self, slug: str, facts: Mapping[str, Any]) -> Path | None:
        """The file made from exactly these facts, the user's own before the shipped one."""
        folders = [self.folder] if self.shipped is None else [self.folder, self.shipped]
        paths = [folder / slug / f"{key_of(facts)}.safetensors" for folder in folders]
        return next((path for path in paths if path.is_file()), None)

    def others(self, slug: str) -> int:
        """How many artefacts of a technique there are, whatever they were made from."""
        folders = [self.folder] if self.shipped is None else [self.folder, self.shipped]
        return sum(len(list((folder / slug).glob("*.safetensors"))) for folder in folders)

    def save(self, slug: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Write an artefact; a reader sees the whole file or none."""
        path = self.path(slug, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, part, metadata={"facts": json.dumps(dict(facts), sort_keys=True, default=str)})
        part.replace(path)
        return path

    def load(self, slug: str, facts: Mapping[str, Any]) -> Artefact | None:
        """The artefact made from exactly these facts, or None."""
        path = self.find(slug, facts)
        return None if path is None else read(path)


def read(path: Path) -> Artefact:
    """Read an artefact file; raises `MissingWeights` when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            facts = json.loads((file.metadata() or {})["facts"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        remedy = "delete it and run `engine prepare` again"
        raise MissingWeights(Problem(f"{path} is no artefact of this engine: {error}", remedy)) from None
    return Artefact(tensors, facts)
