"""Finding and loading weights: the embedded folder, a local folder, or a hub repository, all in one layout.

Only safetensors are read for the engine's own models, and only data: no pickle, no remote code. Every missing or
unexpected tensor is named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import MissingWeights, Place, Problem

EMBEDDED = Path(__file__).parent / "zoo" / "weights"
"""A folder for each backbone; components that several use are in `shared`."""
SINGLE_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
SHOWN = 6
LARGE_FILE = 2**28
ONE_PRECISION = ("config.json", *SINGLE_FILES, "*.safetensors.index.json", "*model-*-of-*.safetensors")
"""What to download of a repository that holds the same weights in several number formats."""


@dataclass(frozen=True)
class Component:
    """One part of a model: the sub-folder it has in a diffusers layout, and the files a download needs."""

    name: str
    patterns: tuple[str, ...] = ("*.json", "*.safetensors", "*.safetensors.index.json")


def is_hub_id(source: str) -> bool:
    """Whether `source` reads as `organisation/name` and is no folder here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not source.startswith(".") and not Path(source).exists()


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of very large ones, which hubs address by revision anyway, only the size."""
    stat = path.stat()
    return f"size:{stat.st_size}" if stat.st_size > LARGE_FILE else _hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash(path: Path, _size: int, _changed: int) -> str:
    """Read once as long as size and time of change stay the same."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def missing(rule: str, remedy: str, key: str = "model.weights") -> MissingWeights:
    """A `MissingWeights` with one problem."""
    return MissingWeights(Problem(rule, remedy, Place(key=key)))


def locate(weights: str | dict[str, str], component: Component, backbone: str, *, download: bool = True) -> Path:
    """The folder that holds `component`, downloading it from the hub if that is where it is."""
    key = "model.weights"
    if isinstance(weights, dict):
        if component.name not in weights:
            raise missing(
                f"`model.weights` names no `{component.name}`", f"add `{component.name}: FOLDER or hub id`", key
            )
        source, whole, key = weights[component.name], False, f"{key}.{component.name}"
    else:
        source, whole = weights, True
    if source == "embedded":
        own, shared = (EMBEDDED / folder / component.name for folder in (backbone, "shared"))
        folder = own if own.is_dir() or not shared.is_dir() else shared
        return _local(folder, component, key, "reinstall the project: they ship with it")
    if is_hub_id(source):
        return _from_hub(source, component, whole, key, download)
    folder = Path(source).expanduser()
    hint = "give a folder in the layout of the hub repository, a hub id such as `organisation/name`, or `embedded`"
    return _local(folder / component.name if whole else folder, component, key, hint)


def _local(folder: Path, component: Component, key: str, hint: str) -> Path:
    if not folder.is_dir():
        raise missing(f"there is no weights folder {folder} for the {component.name}", hint, key)
    return folder


def _from_hub(source: str, component: Component, whole: bool, key: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    prefix = f"{component.name}/" if whole else ""
    patterns = [f"{prefix}{pattern}" for pattern in component.patterns]
    try:
        root = snapshot_download(source, allow_patterns=patterns, local_files_only=not download)
    except Exception as error:  # the hub's HTTP client raises errors of its own, which are no OSErrors
        raise missing(
            f"the {component.name} of `{source}` is neither in the local hub cache nor reachable "
            f"({type(error).__name__})",
            f"download {', '.join(patterns)} from https://huggingface.co/{source} into a folder and run with "
            f"`--set {key}=FOLDER`",
            key,
        ) from None
    return _local(Path(root) / prefix, component, key, "check that the repository has this sub-folder")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(f"{folder} has no config.json", "copy it from the hub repository beside the weights") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise missing(f"{path} is not valid JSON ({error})", "download it again") from None
    if not isinstance(config, dict):
        raise missing(f"{path} must hold a mapping", "download it again")
    return config


def weight_paths(folder: Path) -> list[Path]:
    """The folder's safetensors: one file, or the shards that an index names; each has a readable header."""
    files = [folder / name for name in SINGLE_FILES if (folder / name).is_file()][:1]
    if not files:
        for index in sorted(folder.glob("*.safetensors.index.json")):
            files = _shards(index)
    if not files:
        hint = f"put one of {', '.join(SINGLE_FILES)} there, or shards with an index"
        if folder.is_relative_to(EMBEDDED):
            name = folder.relative_to(EMBEDDED).parts[0]
            hint = f"they are not trained yet: `python -m engine.zoo.train {name}`, or take `random` ones"
        raise missing(f"{folder} holds no weights", hint)
    for file in files:
        if not file.is_file():
            raise missing(f"the index of {folder} names {file.name}, which is not there", "download the missing shard")
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise missing(f"{file} cannot be read ({error})", "download it again") from None
    return files


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise missing(f"{index} is no index of shards ({type(error).__name__}: {error})", "download it again") from None
    return [index.parent / str(name) for name in sorted(names)]


def fitting(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The folder's tensors, which must be those that `model` wants, in name and shape."""
    tensors: dict[str, Tensor] = {}
    for file in weight_paths(folder):
        tensors |= load_file(file)
    compare(folder, tensors, model.state_dict())
    return tensors


def compare(folder: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise `MissingWeights` unless both have the same names and shapes."""
    findings = [
        ("missing", sorted(wanted.keys() - tensors.keys())),
        ("unexpected", sorted(tensors.keys() - wanted.keys())),
        (
            "of another shape",
            [
                f"{name} {list(tensors[name].shape)} instead of {list(wanted[name].shape)}"
                for name in sorted(wanted.keys() & tensors.keys())
                if tensors[name].shape != wanted[name].shape
            ],
        ),
    ]
    problems = [
        Problem(
            f"{folder}: {len(names)} tensors are {what}: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}",
            "use the weights that belong to this config.json",
            Place(key="model.weights"),
        )
        for what, names in findings
        if names
    ]
    if problems:
        raise MissingWeights(problems)


def place(model: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
    """Make `tensors` the model's own."""
    placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    model.load_state_dict(placed, strict=True, assign=True)
