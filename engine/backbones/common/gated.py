"""A sub-layer with the gate behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Gated(nn.Module):
    """What a sub-layer adds to a block's tokens: its output times the gate.

    The sub-layer is no child of this module: its weights keep their only names.
    """

    def __init__(self, block: nn.Module, layer: str) -> None:
        super().__init__()
        self._block, self.layer = (block,), layer

    def forward(self, hidden: Tensor, gate: Tensor, **inputs: Any) -> Tensor:
        """hidden [B, n, C] (any tokens, where the sub-layer takes any), gate [B, 1 or n, C] -> [B, n, C]."""
        (block,) = self._block
        out: Tensor = getattr(block, self.layer)(hidden, **inputs)
        return gate * out
