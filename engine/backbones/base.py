"""What a backbone adapter declares: everything the engine needs to know of a model family, in one place."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.denoise import Given, NoiseSchedule, Prediction, target
from engine.errors import MissingWeights
from engine.sites import Site, SiteKind
from engine.spec import ModelChoice, Strict
from engine.step import Branch, RunShape
from engine.weights import file_hash, is_hub_id


class Inputs(Strict):
    """Inputs every backbone takes; each adds its own."""

    prompts: list[str] = Field(min_length=1, max_length=10_000, description="What to generate, one output a prompt.")
    guidance: float = Field(7.0, ge=1.0, description="Strength of classifier-free guidance; 1 turns it off.")


class Backbone(ABC):
    """One model family. `sketch` knows sizes without weights; `load` fills it."""

    name: ClassVar[str]
    inputs: ClassVar[type[Inputs]]
    prediction: Prediction
    """What the denoiser predicts; a fact of the family, or of the weights."""
    noise: NoiseSchedule
    output: ClassVar[Literal["image", "video"]]
    branches: ClassVar[tuple[Branch, ...]]
    """Guidance layout, in batch order."""
    notes: ClassVar[tuple[str, ...]] = ()
    """What a reader of a plan should know of its numbers."""

    def __init__(self, choice: ModelChoice) -> None:
        self.choice = choice
        self.dtype: torch.dtype = getattr(torch, choice.dtype)
        self.device = torch.device("meta")
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []

    model: nn.Module
    """The denoiser."""

    @classmethod
    @abstractmethod
    def sketch(cls, choice: ModelChoice) -> Self:
        """The backbone with its denoiser on the meta device."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A few thousand random weights, ready to run: what tests and contract checks use."""

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Read all weights, or raise `MissingWeights` before anything was changed."""

    @abstractmethod
    def shape(self, inputs: Inputs, steps: int) -> RunShape:
        """Sizes of a run."""

    @abstractmethod
    def sites(self, run: RunShape) -> list[Site]:
        """All sites of the denoiser, outermost first and in forward order, with their costs."""

    def parts(self, kind: SiteKind) -> list[Site]:
        """Sites of a kind at default sizes, for who changes modules: their costs and grids are not those of a run."""
        run = self.shape(self.inputs(prompts=["a"]), 1)
        return [site for site in self.sites(run) if site.kind is kind]

    @abstractmethod
    def encode(self, inputs: Inputs, run: RunShape) -> Any:
        """Conditions of a run: text features and whatever else `predict` needs."""

    @abstractmethod
    def predict(
        self, x: Tensor, time: float | Tensor, conditions: Any, branches: Sequence[Branch], **extra: Any
    ) -> Tensor:
        """One call of the denoiser: x [b, ...] -> [branches * b, ...], branch by branch.

        `time` is the noise level in 0..1, of all samples or one a sample [b].
        """

    def training_loss(self, clean: Tensor, noise: Tensor, levels: Tensor, conditions: Any, branch: Branch) -> Tensor:
        """Mean squared error of the prediction for clean latents [b, ...] with `noise`, at the noise `levels` [b]."""
        factors = [[self.noise.alpha(level), self.noise.sigma(level)] for level in levels.tolist()]
        alpha, sigma = clean.new_tensor(factors).view(-1, 2, *[1] * (clean.ndim - 1)).unbind(1)
        out = self.predict(alpha * clean + sigma * noise, levels, conditions, (branch,))
        return (out - target(self.prediction, clean, noise, alpha, sigma)).square().mean()

    def blank_call(self) -> Tensor:
        """The denoiser's output for an input of no meaning, also in a sketch: for who follows its operations.

        Only backbones with convolutions offer it so far.
        """
        raise NotImplementedError

    def heads(self) -> dict[str, int]:
        """Attention heads by the names of the linears whose output they split."""
        return {}

    @abstractmethod
    def decode(self, latents: Tensor, run: RunShape) -> Tensor:
        """Outputs in 0..1: [b, 3, F, H, W], one frame for pictures."""

    @abstractmethod
    def initial_noise(self, run: RunShape, seeds: Sequence[int]) -> Tensor:
        """Latents to start from, one draw a sample from its own seed."""

    def given(self, inputs: Inputs, run: RunShape, seeds: Sequence[int]) -> Given | None:
        """Conditioning frames, where the inputs name some."""
        return None

    def check(self, inputs: Inputs) -> list[tuple[str, str, str]]:
        """What is wrong with the inputs together: (key, rule, remedy)."""
        return []

    def combine(self, predictions: Tensor, branches: Sequence[Branch], guidance: float) -> Tensor:
        """Guidance: predictions [branches * b, ...] -> [b, ...]; a branch alone is returned as it is."""
        if len(branches) == 1:
            return predictions
        parts = dict(zip(branches, predictions.chunk(len(branches)), strict=True))
        return parts[Branch.UNCOND] + guidance * (parts[Branch.COND] - parts[Branch.UNCOND])

    def swap(self, name: str, module: nn.Module) -> None:
        """Replace the sub-module `name` of the denoiser; the end of `changing` brings the old one back."""
        parent_name, _, leaf = name.rpartition(".")
        parent = self.model.get_submodule(parent_name)
        self._swapped.append((parent, leaf, parent.get_submodule(leaf)))
        setattr(parent, leaf, module)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Undo, last first, whatever is swapped inside."""
        before = len(self._swapped)
        try:
            yield
        finally:
            while len(self._swapped) > before:
                parent, leaf, module = self._swapped.pop()
                setattr(parent, leaf, module)

    @property
    def swaps(self) -> int:
        """How many modules are replaced now."""
        return len(self._swapped)

    def branches_of(self, guidance: float) -> tuple[Branch, ...]:
        """Branches a run needs: all of them under guidance, else the conditional one."""
        return self.branches if guidance > 1 else (Branch.COND,)

    def capabilities(self, sites: Sequence[Site]) -> frozenset[SiteKind]:
        """Site kinds this model has; derived, so that it cannot disagree with the sites."""
        return frozenset(site.kind for site in sites)

    def weight_bytes(self) -> int:
        """Bytes of the denoiser's weights; those that are no floating-point numbers count by their own size."""
        return sum(
            parameter.numel() * (self.dtype if parameter.is_floating_point() else parameter.dtype).itemsize
            for parameter in self.model.parameters()
        )

    def activation_bytes(self, run: RunShape) -> int:
        """Rough peak of the denoiser's activations: the widest layer's input, hidden and output at once."""
        return 0

    def weight_files(self, *, download: bool = True) -> dict[str, Path]:
        """The weight files of a run, by component and name; empty for random weights.

        Raises `MissingWeights` when a file is not here and may not be downloaded.
        """
        return {}

    def identity(self) -> str:
        """What the weights are, by their content, for keys of artefacts; nothing is downloaded for it."""
        weights = self.choice.weights
        named = f"{self.name}:{weights}" if isinstance(weights, str) and is_hub_id(weights) else self.name
        try:
            files = self.weight_files(download=False)
        except MissingWeights:
            return f"{named}:not at hand"
        if not files:
            return f"{named}:{weights}"
        digest = hashlib.sha256()
        for name, path in sorted(files.items()):
            digest.update(f"{name} {file_hash(path)}\n".encode())
        return f"{named}:{digest.hexdigest()[:20]}"

    def examples(self, run: RunShape, count: int, seed: int) -> tuple[list[str], Tensor] | None:
        """Prompts and clean latents [count, ...] of the set the weights were trained on; None where it is not here."""
        return None

    def judge(self, videos: Tensor, inputs: Inputs) -> dict[str, Any]:
        """Task metrics of outputs [b, 3, F, H, W] in 0..1, where the weights come with a judge."""
        return {}
