"""The noise a diffusers model was trained with, and what it predicts: from its scheduler's config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler

from engine.backbones.common.configs import known_fields
from engine.denoise import DiscreteDiffusion, Prediction
from engine.errors import MissingWeights
from engine.spec import ModelChoice
from engine.weights import Component, is_hub_id, locate, missing

SCHEDULER = Component("scheduler", ("*.json",))
FILE = "scheduler_config.json"
PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The folder's scheduler_config.json."""
    path = folder / FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(f"{folder} has no {FILE}", "copy it from the hub repository") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise missing(f"{path} is not valid JSON ({error})", "download it again") from None
    if not isinstance(config, dict):
        raise missing(f"{path} must hold a mapping", "download it again")
    return config


def scheduler_at_hand(choice: ModelChoice, backbone: str) -> dict[str, Any]:
    """The scheduler's config, or an empty mapping when it is only on the hub, not named, or weights are random."""
    weights = choice.weights
    if choice.random or (isinstance(weights, dict) and SCHEDULER.name not in weights):
        return {}
    source = weights[SCHEDULER.name] if isinstance(weights, dict) else weights
    if not is_hub_id(source):
        return read_scheduler(locate(weights, SCHEDULER, backbone))
    try:
        return read_scheduler(locate(weights, SCHEDULER, backbone, download=False))
    except MissingWeights:
        return {}


def settled(config: Mapping[str, Any]) -> tuple[DiscreteDiffusion, Prediction]:
    """The noise process and the prediction that a scheduler's config describes."""
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise missing(
            f"the scheduler's `prediction_type` is `{name}`", f"use weights that predict {', '.join(PREDICTIONS)}"
        )
    try:
        scheduler = DDIMScheduler(**known_fields(DDIMScheduler, config))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise missing(f"the {FILE} describes no noise schedule ({error})", "download it again") from None
    return DiscreteDiffusion(tuple(scheduler.alphas_cumprod.tolist())), PREDICTIONS[name]
