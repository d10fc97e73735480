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
from engine.weights import EMBEDDED


def run(spec: str, folder: Path, *options: str) -> Any:
    arguments = ["run", str(ROOT / "specs" / spec), "--repeats", "1", "--out", str(folder), "--json", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def once_trained(name: str, *values: Any) -> Any:
    """A case for weights that may still have to be trained."""
    trained = (EMBEDDED / name / "unet" / "model.safetensors").is_file()
    reason = f"no weights yet: python -m engine.zoo.train {name}"
    return pytest.param(*(values or (name,)), marks=pytest.mark.skipif(not trained, reason=reason))


@pytest.mark.parametrize("name", ["dit", "pixart", once_trained("sd"), once_trained("ddpm")])
def test_plain_model_makes_what_its_prompts_name(name: str, tmp_path: Path) -> None:
    report = run(f"models/{name}.yaml", tmp_path / "run", "--no-baseline")
    assert report["accelerated"]["judge"]["prompt_accuracy"] >= 0.75
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "accelerated.png", "report.json", "plan.json", "spec.lock.yaml",
    }  # fmt: skip
    assert iio.imread(tmp_path / "run" / "accelerated.png").shape == (256, 4 * 256, 3)


@pytest.mark.parametrize("name", [once_trained("sd"), once_trained("ddpm")])
def test_embedded_unets_are_small(name: str) -> None:
    assert (EMBEDDED / name / "unet" / "model.safetensors").stat().st_size <= 4e6


@pytest.mark.parametrize(
    ("spec", "ratio"),
    [
        *((spec, 1.5) for spec in ("fora_dit", "toca_dit", "fora_pixart", "toca_pixart")),
        once_trained("sd", "fora_sd", 1.4),  # convolutions stay
    ],
)
def test_caches_save_macs_and_keep_the_pictures(spec: str, ratio: float, tmp_path: Path) -> None:
    report = run(f"{spec}.yaml", tmp_path / "run")
    technique = spec.partition("_")[0]
    assert report["receipts"]["techniques"][technique]["as_planned"]
    assert report["macs_ratio"] > ratio
    assert report["psnr"] > 20
    assert set(report["baseline"]["judge"]) == {"prompt_accuracy"}
    assert (tmp_path / "run" / "side_by_side.png").is_file()


def test_a_sampler_is_measured_against_another_with_more_steps(tmp_path: Path) -> None:
    changes = ("--set", "sampler.dpm_solver_pp.steps=6", "--set", "baseline.sampler.ddim.steps=24")
    report = run("dpm_solver_pp_pixart.yaml", tmp_path / "run", *changes)
    done, plain = report["receipts"], report["receipts"]["baseline"]
    assert (done["steps"], plain["steps"], report["techniques"]) == (6, 24, {})
    assert report["macs_ratio"] == 4.0 and report["speedup"] > 1
    assert report["psnr"] > 30, "both follow one ODE from one noise"
    assert report["baseline"]["sampler"]["ddim"]["steps"] == 24
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["estimate"]["macs_ratio"], plan["baseline"]["steps"]) == (4.0, 24)
    again = run(str(tmp_path / "run" / "spec.lock.yaml"), tmp_path / "again")
    assert [again[name] for name in ("psnr", "macs", "baseline_macs")] == [
        report[name] for name in ("psnr", "macs", "baseline_macs")
    ]


def test_a_plain_model_is_compared_with_nothing(tmp_path: Path) -> None:
    report = run("models/dit.yaml", tmp_path / "run", "--set", "sampler.ddim.steps=5")
    assert "baseline" not in report and not (tmp_path / "run" / "baseline.png").exists()


def test_quantized_layers_keep_the_pictures(tmp_path: Path) -> None:
    report = run("q_dit_dit.yaml", tmp_path / "run", "--set", "sampler.ddim.steps=10")
    receipts, cost = report["receipts"], json.loads((tmp_path / "run" / "plan.json").read_text())["estimate"]
    assert receipts["kernels"] == {"W4A8 float": 5 * 10, "W4A8 int8 (torch._int_mm)": 30 * 10}
    assert receipts["techniques"]["q_dit"]["modules_replaced"] == 35
    assert cost["weight_bytes"] < 0.4 * cost["baseline_weight_bytes"]
    assert report["psnr"] > 25
