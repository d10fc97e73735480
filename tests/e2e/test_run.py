"""The main job from the command line, with the weights that ship with the project."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import yaml
from support import ROOT
from typer.testing import CliRunner

from engine.cli import app

SHORT = ["--set", "sampler.rflow.steps=9", "--set", "inputs.prompts=[a red apple moving right, a penguin moving up]"]
MAIN = str(ROOT / "specs" / "toca_opensora.yaml")


def engine(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "toca"
    result = engine("run", MAIN, *SHORT, "--repeats", "2", "--out", str(folder), "--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_report_holds_what_was_measured(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = finished
    report = json.loads((folder / "report.json").read_text())
    assert report == printed
    assert {"speedup", "macs_ratio", "realised_fraction", "psnr", "ssim", "receipts"} <= set(report)
    plain, fast = report["baseline"], report["accelerated"]
    assert len(plain["all_seconds"]) == len(fast["all_seconds"]) == 2
    assert report["speedup"] == pytest.approx(plain["seconds"] / fast["seconds"], rel=0.01)
    assert report["realised_fraction"] == pytest.approx(report["speedup"] / report["macs_ratio"], rel=0.01)
    assert report["macs_ratio"] == pytest.approx(report["baseline_macs"] / report["macs"], rel=0.01)
    assert report["macs_ratio"] > 1.5
    assert 15 < report["psnr"] < 80 and 0.5 < report["ssim"] <= 1
    assert report["receipts"]["techniques"]["toca"]["as_planned"]
    assert set(plain["judge"]) == set(fast["judge"]) == {"object_seen", "direction_seen"}
    assert report["environment"]["packages"]["torch"]


def test_videos_of_both_sides(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    videos = {f"{name}.{kind}" for name in ("accelerated", "baseline", "side_by_side") for kind in ("mp4", "gif")}
    assert names == videos | {"report.json", "plan.json", "spec.lock.yaml"}
    frames = iio.imread(folder / "side_by_side.mp4", plugin="pyav")
    single = iio.imread(folder / "baseline.mp4", plugin="pyav")
    assert frames.shape[0] == single.shape[0] == 17
    assert frames.shape[1] > 2 * single.shape[1] - 10 and frames.shape[2] == single.shape[2] == 2 * 256


def test_plan_is_the_one_engine_plan_prints(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    result = engine("plan", MAIN, *SHORT, "--json")
    assert (folder / "plan.json").read_text() == result.stdout
    assert json.loads(result.stdout)["spec_hash"] == report["spec_hash"]


def test_the_lock_can_be_run_again_and_gives_the_same_output(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, report = finished
    lock = yaml.safe_load((folder / "spec.lock.yaml").read_text())
    assert lock["techniques"][0]["toca"]["cross_interval"] == 6
    assert all(value.startswith("sha256:") for value in lock["lock"]["weights"].values())
    assert {name.split("/")[0] for name in lock["lock"]["weights"]} == {"transformer", "vae", "text_encoder"}
    result = engine("run", str(folder / "spec.lock.yaml"), "--repeats", "1", "--out", str(tmp_path / "again"), "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    assert (again["psnr"], again["ssim"], again["macs"]) == (report["psnr"], report["ssim"], report["macs"])
    first, second = (iio.imread(where / "accelerated.mp4", plugin="pyav") for where in (folder, tmp_path / "again"))
    assert (first == second).all()


def test_without_a_baseline(tmp_path: Path) -> None:
    result = engine("run", MAIN, *SHORT, "--no-baseline", "--repeats", "1", "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert {path.suffix for path in (tmp_path / "run").iterdir()} == {".mp4", ".gif", ".json", ".yaml"}
    assert not (tmp_path / "run" / "baseline.mp4").exists()


def test_a_picture(tmp_path: Path) -> None:
    result = engine(
        "run", MAIN, *SHORT, "--set", "inputs.num_frames=1", "--repeats", "1", "--out", str(tmp_path / "run")
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {
        "accelerated.png",
        "baseline.png",
        "side_by_side.png",
    }


def test_a_technique_that_does_nothing_fails_the_run(tmp_path: Path) -> None:
    result = engine(
        "run", MAIN, *SHORT, "--set", "techniques.toca.interval=1", "--set", "techniques.toca.cross_interval=1",
        "--repeats", "1", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.exit_code == 3
    assert "`toca` changed nothing" in result.stderr and "with `interval: 2` it would act" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine", "run", MAIN, "--repeats", "500", "--out", str(tmp_path / "run")]
    # A process started in the background of a shell ignores Ctrl-C, and so would its children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".run.*.part")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted: nothing was written" in stderr and "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
