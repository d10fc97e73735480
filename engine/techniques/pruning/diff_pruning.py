"""Diff-Pruning: Structural Pruning for Diffusion Models (arXiv 2305.10924).

Channels go where a first-order estimate, summed over the time steps that say something, changes the loss least; what
is left is fine-tuned. Time steps whose loss is a small share of the largest are noise to that estimate and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from engine.artefacts import Artefact, Bench
from engine.ops.pruning import (
    Group,
    dependency_groups,
    differentiable,
    kept_channels,
    parameters_of,
    prunable,
    pruned_parameters,
    resized,
    taylor_importance,
)
from engine.sites import SiteKind
from engine.step import Branch
from engine.technique import Setting, Stage, Technique

if TYPE_CHECKING:
    from engine.backbones.base import Backbone

KEPT = "kept/"
"""Prefix of the entries of an artefact that hold a group's channels; the others are parameters."""
CHUNK = 128
CLIP_NORM = 1.0


class DiffPruning(Technique):
    """Structural Pruning for Diffusion Models (Diff-Pruning, arXiv 2305.10924)."""

    slug = "diff_pruning"
    paper = "diff_pruning"
    family = "pruning"
    stage = Stage.STRUCTURE
    requires = frozenset({SiteKind.CONV})
    prepared_for: ClassVar[frozenset[Setting]] = frozenset({"size"})
    neutral: ClassVar[dict[str, Any]] = {"pruning_ratio": 0.0, "finetune_steps": 0}
    # Scripts of the official repository: CIFAR-10, and its latent diffusion model for ImageNet.
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ddpm": {"threshold": 0.05},
        "sd": {"threshold": 0.1, "calibration_batch": 6},
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "channels behind a concatenation count in the importance of both parts; the official script leaves them out",
        "the step that falls below the threshold is left out, as in one of the two official scripts",
        "fine-tuning has no dropout, and the average of the weights starts as short as the run is young",
        "Stable Diffusion is not in the paper: its attention loses the same channels of every head",
        "models that are not embedded are calibrated and fine-tuned on their own pictures of the spec's prompts",
        "without a preparation the plan keeps the first channels of every group; counts are those of the real choice",
    )

    pruning_ratio: float = Field(0.3, ge=0.0, lt=1.0, description="Share of each group's channels that goes.")
    threshold: float = Field(0.05, ge=0.0, le=1.0, description="T: share of the largest loss that ends the sum.")
    calibration_batch: int = Field(128, ge=1, description="Pictures that the importance is estimated from.")
    finetune_steps: int = Field(
        100_000, ge=0, description="Fine-tuning steps; 0 leaves the pruned weights as they are."
    )
    batch: int = Field(128, ge=1, description="Pictures of a fine-tuning step.")
    learning_rate: float = Field(2e-4, gt=0.0, description="Of Adam.")
    ema: float = Field(0.9999, ge=0.0, lt=1.0, description="Decay of the average of the weights that is kept.")
    pictures: int = Field(4096, ge=1, description="Pictures drawn to fine-tune on.")
    unconditional: float = Field(0.1, ge=0.0, le=1.0, description="Share of fine-tuning steps without a condition.")

    def transform(self, backbone: Backbone) -> None:
        """Give every layer its pruned parameters."""
        parameters = self._first_channels(backbone) if self.artefact is None else self.artefact.tensors
        for name, layer in prunable(backbone.model).items():
            backbone.swap(name, resized(layer, name, parameters))

    def _first_channels(self, backbone: Backbone) -> dict[str, Tensor]:
        """Parameters as many as a preparation would leave."""
        groups = groups_of(backbone)
        kept = {group.name: self._kept(group, -torch.arange(group.width).float()) for group in groups}
        return pruned_parameters(prunable(backbone.model), groups, kept)

    def _kept(self, group: Group, importance: Tensor) -> Tensor:
        return kept_channels(importance, group.blocks, self.pruning_ratio)

    def prepare(self, bench: Bench) -> dict[str, Tensor]:
        """Kept channels of every group, and the parameters after fine-tuning in half precision."""
        backbone = bench.backbone
        layers, groups = prunable(backbone.model), groups_of(backbone)
        gradients = self.gradients(bench)
        kept = {group.name: self._kept(group, taylor_importance(group, layers, gradients)) for group in groups}
        parameters = pruned_parameters(layers, groups, kept)
        if self.finetune_steps:
            with backbone.changing():
                self.bound(Artefact(parameters, {})).transform(backbone)
                parameters = self.fine_tuned(bench)
        halves = {name: value.half() for name, value in parameters.items()}
        return {**halves, **{f"{KEPT}{name}": index.int() for name, index in kept.items()}}

    def gradients(self, bench: Bench) -> dict[str, Tensor]:
        """G of every layer's weight: dL_t/dw summed over t = 0, 1, .. while L_t >= T max L, for one batch and noise."""
        layers, steps = prunable(bench.backbone.model), bench.run.timesteps
        prompts, clean = examples(bench, self.calibration_batch, bench.seed)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(bench.seed)).to(clean)
        tick = bench.progress("calibrate", steps)
        conditions, largest = bench.conditions(prompts), 0.0
        weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
        total = {name: torch.zeros(weight.shape, device=weight.device) for name, weight in weights.items()}
        with differentiable(bench.backbone.model):
            for step in range(steps):
                levels = torch.full((len(clean),), (step + 1) / steps, dtype=torch.double)
                loss = bench.backbone.training_loss(clean, noise, levels, conditions, Branch.COND)
                largest = max(largest, loss.item())
                if loss.item() < self.threshold * largest:
                    break
                parts = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
                for sum_, part in zip(total.values(), parts, strict=True):
                    sum_ += part
                tick()
        return total

    def fine_tuned(self, bench: Bench) -> dict[str, Tensor]:
        """Parameters of the model as it stands after training it with its ordinary loss, averaged over the steps."""
        model, steps, generator = bench.backbone.model, bench.run.timesteps, torch.Generator().manual_seed(bench.seed)
        prompts, clean = examples(bench, self.pictures, bench.seed + 1)
        tick = bench.progress("fine-tune", self.finetune_steps)
        named = parameters_of(prunable(model))
        averaged = [value.detach().float().clone() for value in named.values()]
        optimiser = torch.optim.Adam(named.values(), lr=self.learning_rate)
        with differentiable(model):
            for step in range(self.finetune_steps):
                rows = torch.randint(len(clean), (self.batch,), generator=generator)
                levels = (torch.randint(steps, (self.batch,), generator=generator).double() + 1) / steps
                noise = torch.randn((self.batch, *clean.shape[1:]), generator=generator).to(clean)
                blank = torch.rand((), generator=generator).item() < self.unconditional
                branch = Branch.UNCOND if blank and Branch.UNCOND in bench.run.branches else Branch.COND
                conditions = bench.conditions([prompts[row] for row in rows.tolist()])
                bench.backbone.training_loss(clean[rows], noise, levels, conditions, branch).backward()
                torch.nn.utils.clip_grad_norm_(named.values(), CLIP_NORM)
                optimiser.step()
                optimiser.zero_grad()
                decay = min(self.ema, (step + 1) / (step + 10))
                with torch.no_grad():
                    for average, value in zip(averaged, named.values(), strict=True):
                        average.lerp_(value.float(), 1 - decay)
                tick()
        return dict(zip(named, averaged, strict=True))


def groups_of(backbone: Backbone) -> list[Group]:
    """Channels of the denoiser that go together."""
    return dependency_groups(backbone.model, backbone.blank_call, backbone.heads())


def examples(bench: Bench, count: int, seed: int) -> tuple[list[str], Tensor]:
    """Prompts and clean latents [count, ...], drawn a few at a time."""
    parts = [bench.examples(min(CHUNK, count - first), seed + first) for first in range(0, count, CHUNK)]
    return [prompt for prompts, _ in parts for prompt in prompts], torch.cat([latents for _, latents in parts])
