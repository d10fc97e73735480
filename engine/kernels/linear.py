"""A linear layer in low precision, to put in the place of one in floating point."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels import launched
from engine.kernels.int8 import Route, best_route, group_sums, int8_linear
from engine.ops.quantization import Codes, dequantize, pack, quantize, unpack


class QuantizedLinear(nn.Module):
    """y = x w^T + bias, weights in 2, 4, 6 or 8 bits by groups of inputs, and x in 8 bits or as it is.

    x is quantized on the fly, a scale and zero point for each row and group, so nothing is kept about it. All a layer
    holds are parameters (of integers too), so that they are counted, moved and saved with the model's.
    """

    def __init__(self, coded: Codes, bias: Tensor | None, bits: int, input_bits: int = 8) -> None:
        """`coded` are the weights [N, K]; `input_bits` is 8, or 16 to leave the input alone."""
        super().__init__()
        assert bits in (2, 4, 6, 8) and input_bits in (8, 16)
        self.out_features, self.in_features = coded.codes.shape
        self.bits, self.input_bits, self.group = bits, input_bits, coded.group
        self.packed = _fixed(pack(coded.codes, bits))
        self.scale = _fixed(coded.scale)
        self.zero = None if coded.zero is None else _fixed(coded.zero.to(torch.int8))
        small = torch.int16 if coded.group * 2 ** (bits - 1) < 2**15 else torch.int32
        self.sums = _fixed(group_sums(coded.codes, coded.groups).to(small)) if input_bits == 8 else None
        self.bias = None if bias is None else _fixed(bias)

    @classmethod
    def of(cls, layer: nn.Linear, bits: int, group: int, input_bits: int = 8) -> Self:
        """`layer` with its weights rounded to the nearest codes; scales keep its number format."""
        coded = quantize(layer.weight, bits, group, scales=layer.weight.dtype)
        return cls(coded._replace(scale=coded.scale.to(layer.weight.dtype)), layer.bias, bits, input_bits)

    @property
    def numerics(self) -> str:
        """Bits of weights and of activations, as papers write them."""
        return f"W{self.bits}A{self.input_bits}"

    @property
    def row_macs(self) -> int:
        """Multiply-accumulates of one row, those of the layer it replaces: what zero points add is left out."""
        return self.out_features * self.in_features

    def codes(self) -> Codes:
        """The weights as integers."""
        return Codes(unpack(self.packed, self.bits), self.scale, self.zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., K] -> [..., N], in its number format."""
        rows = hidden.reshape(-1, self.in_features)
        if self.sums is None:
            launched(f"{self.numerics} {Route.FLOAT.value}")
            out = F.linear(rows, dequantize(self.codes()).to(hidden.dtype), self.bias)
        else:
            way = best_route(rows.shape[0] * self.packed.numel() * 8 // self.bits, self.group, hidden.device)
            out = int8_linear(
                rows, self.packed, self.scale, self.zero, self.sums, self.bias, bits=self.bits, way=way.value
            )
        return out.unflatten(0, hidden.shape[:-1]) if hidden.ndim != 2 else out

    def extra_repr(self) -> str:
        """Sizes and number format."""
        return f"{self.in_features}, {self.out_features}, {self.numerics}, groups of {self.group}"


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)
