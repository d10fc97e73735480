"""Writing trained weights the way a hub repository holds them."""

from __future__ import annotations

from pathlib import Path

from diffusers import ModelMixin
from safetensors.torch import save_file


def save_half(model: ModelMixin, folder: Path) -> None:
    """Write config.json and model.safetensors in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
