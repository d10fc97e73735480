"""What the engine's plain loop costs over calling the model in a bare loop: `python -m tests.bench.overhead`.

Both loops run interleaved in one process, warm, from the same noise; medians are compared, and the outputs must agree.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from engine.compiler import Compiled, compile_spec
from engine.runner import opened, seeds_of
from engine.spec import load_spec

ROOT = Path(__file__).parents[2]
REPEATS = 15


@torch.inference_mode()
def bare_loop(compiled: Compiled, x: Tensor, conditions: object) -> Tensor:
    """Rectified flow with guidance, written out."""
    model, inputs = compiled.backbone.model, compiled.inputs
    times = compiled.sampler.times(compiled.run)
    text = conditions.text(compiled.run.branches)  # type: ignore[attr-defined]
    for t, s in pairwise([*times, 0.0]):
        rows = torch.cat([x, x])
        level = torch.full((rows.shape[0],), t * 1000)
        sizes = {name: getattr(conditions, name) for name in ("mask", "fps", "height", "width")}
        cond, uncond = model(rows, level, text, **sizes)[:, : x.shape[1]].chunk(2)
        x = x + (uncond + inputs.guidance * (cond - uncond)) * (t - s)
    return x


def main() -> None:
    """Print the ratio of medians."""
    compiled = compile_spec(load_spec(ROOT / "specs" / "models" / "opensora.yaml"))
    compiled.backbone.load(torch.device("cpu"))
    seeds = seeds_of(compiled)
    bare: list[float] = []
    engine: list[float] = []
    with opened(compiled) as side:
        noise = compiled.backbone.initial_noise(compiled.run, seeds)
        for repeat in range(REPEATS + 1):
            started = time.perf_counter()
            expected = bare_loop(compiled, noise, side.call.conditions)
            middle = time.perf_counter()
            latents = side.generate(seeds)
            ended = time.perf_counter()
            if repeat:
                bare.append(middle - started)
                engine.append(ended - middle)
            if not torch.equal(latents, expected):
                sys.exit("the loops disagree")
    ratio = statistics.median(engine) / statistics.median(bare)
    print(f"bare {statistics.median(bare):.4f} s, engine {statistics.median(engine):.4f} s, ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
