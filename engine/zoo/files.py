"""Writing trained weights the way a hub repository holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModelMixin
from safetensors.torch import save_file


def save_half(model: ModelMixin, folder: Path) -> None:
    """Write config.json and model.safetensors in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_index(folder: Path, pipeline: str, facts: Mapping[str, Any]) -> None:
    """Write model_index.json, which names the pipeline and holds what belongs to no component."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **facts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n")
