"""The folder a run leaves behind: pictures or videos, report.json, plan.json, spec.lock.yaml; whole or not at all."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from engine.compiler import Compiled
from engine.errors import Place, Problem, Unavailable
from engine.measure import Comparison, Side, environment, similarity
from engine.media import enlarged, labelled, tiled, write_picture, write_video
from engine.weights import file_hash


@contextmanager
def output_folder(wanted: Path) -> Iterator[Path]:
    """A scratch folder that becomes `wanted` when the block ends well, and vanishes when it does not.

    A folder that an earlier run wrote is replaced; any other folder with something in it is refused.
    """
    place, made = Place(wanted), []
    scratch = wanted.parent / f".{wanted.name}.{os.getpid()}.part"
    try:
        with _writable(place):
            _refuse_used(wanted, place)
            made = [parent for parent in wanted.parents if not parent.exists()]
            scratch.mkdir(parents=True)
            (scratch / "probe").write_text("")
            (scratch / "probe").unlink()
        yield scratch
        with _writable(place):
            _replace(wanted, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made:  # those with something in them stay
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def _writable(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule = f"the output folder cannot be written: {error.strerror}"
        raise Unavailable(Problem(rule, "name another folder with --out", place)) from None


def _refuse_used(wanted: Path, place: Place) -> None:
    remedy = "name a new or empty folder with --out"
    if wanted.is_symlink() or (wanted.exists() and not wanted.is_dir()):
        raise Unavailable(Problem("the output folder is a file or a link", remedy, place))
    if Path.cwd().is_relative_to(wanted.resolve()):
        raise Unavailable(Problem("the output folder is the one this runs in", "name a folder inside it", place))
    if wanted.exists() and any(wanted.iterdir()) and not (wanted / "report.json").is_file():
        raise Unavailable(Problem("the output folder holds other files", remedy, place))


def _replace(wanted: Path, scratch: Path) -> None:
    old = wanted.parent / f".{wanted.name}.{os.getpid()}.old"
    if wanted.exists():
        wanted.rename(old)
    try:
        scratch.rename(wanted)
    except OSError:
        if old.exists():
            old.rename(wanted)
        raise
    shutil.rmtree(old, ignore_errors=True)


def default_folder(spec: Path) -> Path:
    """runs/<spec>-<time>."""
    return Path("runs") / f"{spec.stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def side_facts(side: Side) -> dict[str, Any]:
    """Timings and memory of one side."""
    return {
        "seconds": round(side.median, 4),
        "spread": round(side.spread, 4),
        "all_seconds": [round(seconds, 4) for seconds in side.seconds],
        "peak_bytes": side.peak_bytes,
    }


def build_report(
    compiled: Compiled, comparison: Comparison, outputs: Mapping[str, Tensor], baseline: Compiled | None
) -> dict[str, Any]:
    """Everything measured. `outputs` holds decoded videos [b, 3, F, H, W] of the sides that ran."""
    plan, accelerated, plain = compiled.plan, comparison.accelerated, comparison.baseline
    report: dict[str, Any] = {
        "spec": plan.spec,
        "spec_hash": plan.spec_hash,
        "plan_hash": plan.digest,
        "profile": plan.profile,
        "paper": compiled.request.spec.paper,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "dtype": plan.dtype,
        "techniques": {technique.slug: technique.parameters for technique in plan.techniques},
        "sampler": {plan.sampler.slug: plan.sampler.parameters},
        "inputs": plan.inputs,
        "seed": plan.seed,
        "accelerated": side_facts(accelerated) | task_metrics(compiled, outputs["accelerated"]),
        "environment": environment(compiled.backbone.device),
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    if compiled.processes > 1:
        report["environment"]["processes"] = compiled.processes
    if plain is not None and baseline is not None:
        baseline_macs, other = comparison.receipts["baseline"]["macs"], baseline.plan
        speedup = plain.median / accelerated.median
        macs_ratio = baseline_macs / max(1, comparison.receipts["macs"])
        report |= {
            "baseline": {
                **side_facts(plain),
                **task_metrics(compiled, outputs["baseline"]),
                "techniques": {technique.slug: technique.parameters for technique in other.techniques},
                "sampler": {other.sampler.slug: other.sampler.parameters},
            },
            "baseline_macs": baseline_macs,
            "macs": comparison.receipts["macs"],
            "macs_ratio": round(macs_ratio, 4),
            "speedup": round(speedup, 4),
            "realised_fraction": round(speedup / macs_ratio, 4),
            **similarity(outputs["accelerated"], outputs["baseline"]),
            "receipts": comparison.receipts,
        }
    return report


def task_metrics(compiled: Compiled, videos: Tensor) -> dict[str, Any]:
    """What a judge that comes with the weights says of the outputs."""
    judged = compiled.backbone.judge(videos, compiled.inputs)
    return {"judge": {name: value for name, value in judged.items() if value is not None}} if judged else {}


def write_run(folder: Path, compiled: Compiled, report: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> None:
    """Fill the scratch folder of a run."""
    fps = int(compiled.plan.inputs.get("fps", 24))

    def write(video: Tensor, name: str) -> None:
        if compiled.run.pixels[0] == 1:
            write_picture(video, folder / name)
        else:
            write_video(video, folder / name, fps)

    shown = {name: enlarged(tiled(videos)) for name, videos in outputs.items()}
    for name, video in shown.items():
        write(video, name)
    if "baseline" in shown:
        rows = [(f"{name}: {report[name]['seconds']:.2f} s", shown[name]) for name in ("baseline", "accelerated")]
        write(labelled(rows), "side_by_side")
    (folder / "plan.json").write_text(compiled.plan.canonical())
    (folder / "spec.lock.yaml").write_text(lock_text(compiled, report))
    # The report comes last: a folder without it is not finished.
    (folder / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def lock_text(compiled: Compiled, report: Mapping[str, Any]) -> str:
    """The settled spec with the versions and weight hashes it ran with; it can be run again as it is."""
    spec = compiled.request.spec.model_dump(mode="json", exclude_none=True, exclude={"lock"})
    spec["techniques"] = [{technique.slug: technique.parameters} for technique in compiled.plan.techniques]
    spec["sampler"] = {compiled.plan.sampler.slug: compiled.plan.sampler.parameters}
    if (other := compiled.plan.baseline) is not None:
        spec["baseline"] = {
            "techniques": [{technique.slug: technique.parameters} for technique in other.techniques],
            "sampler": {other.sampler.slug: other.sampler.parameters},
        }
    spec["inputs"] = {key: value for key, value in compiled.plan.inputs.items() if value is not None}
    spec["lock"] = {
        "environment": report["environment"],
        "plan_hash": compiled.plan.digest,
        "weights": {str(name): file_hash(path) for name, path in sorted(compiled.backbone.weight_files().items())},
    }
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
