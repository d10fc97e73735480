"""The picture models from the command line, with the weights that ship with the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
from support import ROOT
from typer.testing import CliRunner

from engine.cli import app


def run(spec: str, folder: Path, *options: str) -> Any:
    arguments = ["run", str(ROOT / "specs" / spec), "--repeats", "1", "--out", str(folder), "--json", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["dit", "pixart"])
def test_plain_model_makes_what_its_prompts_name(name: str, tmp_path: Path) -> None:
    report = run(f"models/{name}.yaml", tmp_path / "run", "--no-baseline")
    assert report["accelerated"]["judge"]["prompt_accuracy"] >= 0.75
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "accelerated.png", "report.json", "plan.json", "spec.lock.yaml",
    }  # fmt: skip
    assert iio.imread(tmp_path / "run" / "accelerated.png").shape == (256, 4 * 256, 3)


@pytest.mark.parametrize("spec", ["fora_dit", "toca_dit", "fora_pixart", "toca_pixart"])
def test_caches_save_macs_and_keep_the_pictures(spec: str, tmp_path: Path) -> None:
    report = run(f"{spec}.yaml", tmp_path / "run")
    technique = spec.partition("_")[0]
    assert report["receipts"]["techniques"][technique]["as_planned"]
    assert report["macs_ratio"] > 1.5
    assert report["psnr"] > 20
    assert set(report["baseline"]["judge"]) == {"prompt_accuracy"}
    assert (tmp_path / "run" / "side_by_side.png").is_file()
