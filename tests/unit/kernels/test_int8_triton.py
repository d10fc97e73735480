"""The Triton kernels against their references, on a CPU in Triton's interpreter: a process of its own, since the
interpreter is chosen when kernels are defined.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import ROOT

pytest.importorskip("triton")

CHECK = """
import torch
from engine.kernels import int8_triton
from engine.kernels.int8 import group_sums, matmul_plain
from engine.ops.quantization import pack, quantize

torch.manual_seed(0)
for rows, outs, width, group, bits, symmetric, bias, dtype in [
    (70, 40, 192, 96, 8, False, True, torch.float32),  # a group of three steps, ragged tiles
    (33, 80, 128, 64, 4, False, False, torch.float32),  # packed weights
    (16, 16, 128, 128, 6, True, True, torch.float32),
    (9, 70, 64, 32, 4, True, True, torch.bfloat16),
]:
    x = (torch.randn(rows, width) + 0.3).to(dtype)
    w = quantize(torch.randn(outs, width), bits, group, symmetric=symmetric)
    expected = quantize(x, 8, group, symmetric=symmetric)
    coded, sums = int8_triton.quantize(x, group, symmetric=symmetric)
    assert (coded.codes.int() - expected.codes.int()).abs().max() <= 1, "halves may round the other way"
    assert (coded.codes != expected.codes).float().mean() < 1e-3
    torch.testing.assert_close(coded.scale, expected.scale)
    assert torch.equal(sums, group_sums(coded.codes, width // group).float())
    shift = torch.randn(outs, dtype=dtype) if bias else None
    out = int8_triton.matmul(
        coded, sums, pack(w.codes, bits), bits, w.scale, None if w.zero is None else w.zero.to(torch.int8),
        group_sums(w.codes, w.groups), shift, dtype,
    )
    reference = matmul_plain(coded, w, None if shift is None else shift.float())
    torch.testing.assert_close(out, reference.to(dtype), atol=1e-3, rtol=1e-4 if dtype is torch.float32 else 2e-2)
print("equal")
"""


def test_kernels_equal_their_references() -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout.strip() == "equal", done.stderr


def test_tiles_fit_groups_and_products() -> None:
    from engine.kernels.int8_triton import tile_of

    assert {group: tile_of(64, 64, group)["DEPTH"] for group in (32, 64, 96, 128, 192, 288)} == {
        32: 32, 64: 64, 96: 32, 128: 128, 192: 64, 288: 32,
    }  # fmt: skip
    assert tile_of(512, 3456, 128)["ROWS"] < tile_of(16384, 4608, 128)["ROWS"]
