"""Starts two processes that run together what is marked `ranks(2)`, each rank every test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from support import ROOT
from typer.testing import CliRunner

from engine.cli import app

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

BACKBONES = "sd or pixart"
"""Of the contract: a UNet and a transformer. The technique's own facts see more."""
LIMIT = 600
"""Seconds, for a machine that has much else to do."""


def torchrun(*arguments: str) -> list[str]:
    """Two processes of this Python."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]


def test_everything_for_two_ranks(tmp_path: Path) -> None:
    tests = ["tests/unit/core/test_parallel.py", "tests/facts", "tests/contract/test_technique.py"]
    chosen = ["-m", "ranks", "-k", f"not contract or {BACKBONES}"]
    command = torchrun("--redirects", "3", "--log-dir", str(tmp_path), "-m", "pytest", "-q", "-x", *chosen, *tests)
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    logs = "\n".join(f"{path}:\n{path.read_text()[-5000:]}" for path in sorted(tmp_path.rglob("std*.log")))
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{logs}"
    counts = [line for line in logs.splitlines() if " passed" in line]
    assert len(counts) == 2, logs


def shortened(folder: Path, *options: str) -> list[str]:
    """A run of the embedded PixArt that takes seconds."""
    spec = str(ROOT / "specs" / "distrifusion_pixart.yaml")
    short = ["--set", "sampler.dpm_solver_pp.steps=8", "--set", "inputs.prompts=[a red apple, a rocket]"]
    return torchrun("-m", "engine", "run", spec, *short, "--device", "cpu", "--out", str(folder), *options)


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        shortened(tmp_path / "run", "--repeats", "1", "--json"),
        env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # the first rank alone prints
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    assert {path.name for path in tmp_path.rglob("*.png")} == {"accelerated.png", "baseline.png", "side_by_side.png"}
    first, second = report["receipts"]["ranks"]
    assert first == second and first["as_planned"] and first["macs"] == report["macs"]
    assert report["environment"]["processes"] == 2
    assert report["macs_ratio"] > 1.9 and 25 < report["psnr"] < 90


def test_a_killed_rank_ends_the_run(tmp_path: Path) -> None:
    """In well under a minute, with a sentence instead of a traceback, and without a trace on the disk."""
    command = shortened(tmp_path / "run", "--repeats", "500")
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as gang:
        try:
            deadline = time.monotonic() + 90
            while not any(tmp_path.glob(".run.*.part")) and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(2)
            second = next(child for child in psutil.Process(gang.pid).children() if child.environ()["RANK"] == "1")
            second.kill()
            killed = time.monotonic()
            _, stderr = gang.communicate(timeout=60)
        finally:
            for child in psutil.Process(gang.pid).children(recursive=True) if gang.poll() is None else ():
                child.kill()
            gang.kill()
    assert gang.returncode != 0 and time.monotonic() - killed < 60
    assert "rank 0: error: " in stderr and "rank0]: Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_started_in_another_number_of_processes(tmp_path: Path) -> None:
    options = ["--set", "seed=3", "--no-baseline", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["run", "specs/distrifusion_sd.yaml", *options])
    assert result.exit_code == 2
    asked = f"specs/distrifusion_sd.yaml --set seed=3 --out {tmp_path}/run --no-baseline"
    assert "runs on 2 processes, and was started in one" in result.stderr
    assert f"run `torchrun --nproc_per_node 2 -m engine run {asked}`" in result.stderr
    assert list(tmp_path.iterdir()) == []
