"""Caches of papers as plain code: the reference of Open-Sora's denoiser with another rule for what a block adds.

Written from the papers' algorithms, with the bookkeeping of their own code: counters and stores a block, literal time
steps. The engine's loop runs it in place of the tiny backbone's own denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from reference import stdit3 as original
from torch import Tensor

from engine.compiler import Compiled
from engine.runner import opened

CONFIG = original.Config(
    depth=2, hidden_size=48, num_heads=2, input_sq_size=32, caption_channels=16, model_max_length=8
)
"""Of the engine's tiny Open-Sora."""


@dataclass
class Block:
    """One block of one call: what each of its sub-layers adds to tokens x [B, T S, C], gates included."""

    state: original.State
    name: str
    text: Tensor
    text_lengths: list[int]
    time: Tensor
    grid: tuple[int, int]

    @property
    def temporal(self) -> bool:
        return self.name.startswith("temporal")

    @property
    def layer(self) -> int:
        return int(self.name.rpartition(".")[2])

    def _modulation(self) -> tuple[Tensor, ...]:
        table = self.state[f"{self.name}.scale_shift_table"]
        return (table[None] + self.time.reshape(len(self.time), 6, -1)).chunk(6, dim=1)

    def attention(self, x: Tensor) -> Tensor:
        shift, scale, gate, *_ = self._modulation()
        normed = original.t2i_modulate(original.layer_norm(x), shift, scale).unflatten(1, self.grid)
        freqs = self.state["rope.freqs"] if self.temporal else None
        rows = normed.transpose(1, 2) if self.temporal else normed
        out = original.self_attention(self.state, f"{self.name}.attn", CONFIG, rows.flatten(0, 1), freqs)
        out = out.unflatten(0, rows.shape[:2])
        return gate * (out.transpose(1, 2) if self.temporal else out).flatten(1, 2)

    def cross(self, x: Tensor) -> Tensor:
        name = f"{self.name}.cross_attn"
        return original.cross_attention(self.state, name, CONFIG, x, self.text, self.text_lengths)

    def mlp(self, x: Tensor) -> Tensor:
        *_, shift, scale, gate = self._modulation()
        hidden = original.linear(
            self.state, f"{self.name}.mlp.fc1", original.t2i_modulate(original.layer_norm(x), shift, scale)
        )
        return gate * original.linear(self.state, f"{self.name}.mlp.fc2", F.gelu(hidden, approximate="tanh"))


def run(compiled: Compiled, seeds: list[int], rule: Callable[[Block, Tensor, float], Tensor]) -> Tensor:
    """Latents of a plain tiny Open-Sora whose blocks are `rule(block, x, time step)`: tokens in, tokens out."""
    model = compiled.backbone.model
    state = dict(model.state_dict())

    def forward(x: Tensor, timestep: Tensor, *args: Any, **inputs: Any) -> Tensor:
        def block(
            state: original.State, name: str, _config: Any, x: Tensor, y: Tensor, y_lens: list[int], t_mlp: Tensor,
            _t0: None, x_mask: None, frames: int, spots: int,
        ) -> Tensor:  # fmt: skip
            assert x_mask is None
            return rule(Block(state, name, y, y_lens, t_mlp, (frames, spots)), x, float(timestep[0]))

        with mock.patch.object(original, "block", block):
            return original.forward(state, CONFIG, x, timestep, *args, **inputs)

    with opened(compiled) as side, mock.patch.object(model, "forward", forward), torch.inference_mode():
        return side.generate(seeds)


def plain(block: Block, x: Tensor, _time: float) -> Tensor:
    """What a block does without a cache."""
    x = x + block.attention(x)
    x = x + block.cross(x)
    return x + block.mlp(x)
