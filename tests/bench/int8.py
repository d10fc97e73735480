"""Linear layers in integers beside floating point, at the sizes of DiT: `python -m tests.bench.int8 [--device cuda]`.

All ways run in turn in one process, warm, on one thread; the fastest of their runs is shown in milliseconds, with the
speed-up over fp32, and the error against fp32 of the low-precision results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.linear import QuantizedLinear

SIZES = {
    "embedded, 4 pictures: attention": (512, 128, 128),
    "embedded, 4 pictures: fc1": (512, 128, 512),
    "embedded, 4 pictures: fc2": (512, 512, 128),
    "XL/2 256x256, 1 picture: attention": (512, 1152, 1152),
    "XL/2 256x256, 1 picture: fc1": (512, 1152, 4608),
    "XL/2 256x256, 1 picture: fc2": (512, 4608, 1152),
    "XL/2 512x512, 1 picture: fc1": (2048, 1152, 4608),
}
"""Rows (tokens of both guidance branches), inputs and outputs."""
SETTINGS = ((8, 1152), (8, 128), (4, 128), (4, 32))
"""Bits of weights and most inputs of a group; activations have 8 bits."""


def milliseconds(ways: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, float]:
    """The fastest run of each way, all in turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: 1000 * seconds for name, seconds in best.items()}


@torch.inference_mode()
def main() -> None:
    """Print a line for each size and way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for title, (rows, inputs, outputs) in SIZES.items():
        torch.manual_seed(0)
        plain = nn.Linear(inputs, outputs, device=options.device)
        hidden = torch.randn(rows, inputs, device=options.device)
        half, half_hidden = nn.Linear(inputs, outputs, device=options.device).bfloat16(), hidden.bfloat16()
        half.load_state_dict(plain.state_dict())
        ways: dict[str, Callable[[], Tensor]] = {
            "fp32": lambda layer=plain, x=hidden: F.linear(x, layer.weight, layer.bias),
            "bf16": lambda layer=half, x=half_hidden: F.linear(x, layer.weight, layer.bias),
        }
        for bits, most in SETTINGS:
            group = min(most, inputs)
            layer = QuantizedLinear.of(plain, bits, group)
            ways[f"{layer.numerics} g={group}"] = lambda layer=layer, x=hidden: layer(x)
        exact, timed = ways["fp32"](), milliseconds(ways, options.repeats, options.device)
        print(f"{title}: {rows} x {inputs} x {outputs}")
        for name, way in ways.items():
            error = float((way().float() - exact).norm() / exact.norm())
            print(f"  {name:14} {timed[name]:8.3f} ms  {timed['fp32'] / timed[name]:5.2f}x  error {error:.1e}")


if __name__ == "__main__":
    main()
