"""From a choice of weights to models: configs that are at hand, models built from them, random weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import MissingWeights
from engine.spec import ModelChoice
from engine.weights import Component, is_hub_id, locate, missing, read_config


def config_at_hand(choice: ModelChoice, component: Component, backbone: str) -> dict[str, Any]:
    """The component's config.json, or an empty mapping when it is only on the hub or weights are random."""
    weights = choice.weights
    if choice.random:
        return {}
    source = weights.get(component.name, "") if isinstance(weights, dict) else weights
    if is_hub_id(source):
        try:
            return read_config(locate(weights, component, backbone, download=False))
        except MissingWeights:
            return {}
    return read_config(locate(weights, component, backbone))


def known_fields(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the model takes; other libraries and versions add more."""
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {name: value for name, value in config.items() if name in known}


def built(kind: Any, config: Mapping[str, Any], component: Component) -> Any:
    """The component's model from its config."""
    try:
        return kind.from_config(dict(config))
    except (TypeError, ValueError) as error:
        rule = f"the config.json of the {component.name} describes no model that can be built ({error})"
        raise missing(rule, "use the config.json that came with the weights") from None


def randomise(modules: Iterable[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
    """Fill modules with random matrices, zero biases and unit scales, the same ones whenever it is called."""
    generator = torch.Generator(device).manual_seed(0)
    for module in modules:
        # nn.Module's own `to`: that of diffusers warns about casts that `from_pretrained` would do differently.
        nn.Module.to(module, dtype).to_empty(device=device)
        for name, tensor in module.state_dict().items():
            if tensor.ndim > 1 and not name.endswith(("scale", "shift")):
                tensor.normal_(std=0.02, generator=generator)
            else:
                tensor.fill_(0.0 if name.endswith(("bias", "shift")) else 1.0)
