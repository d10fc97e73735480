"""What was measured: reports of the engine as runs and measurements.

A run is known by the hash of its report, so adding one twice adds it once. Runs worth keeping for everybody stand as
YAML in `catalog/measurements/` and are loaded with the records.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, ValidationError
from sqlalchemy import Connection

from catalog.document import Loader
from catalog.errors import CatalogError
from catalog.names import tokens
from catalog.tables import HARDWARE, MEASUREMENT, RUN


class InvalidReport(CatalogError):
    """A report cannot be read; the text says why, one line for every reason."""


class Part(BaseModel):
    """Base of the parts of a report: what the catalog needs must be there, the rest is kept out."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Side(Part):
    """One of the two sides of a run."""

    all_seconds: list[PositiveFloat] = Field(min_length=1)
    seconds: PositiveFloat
    peak_bytes: int | None = None
    judge: dict[str, FiniteFloat] = {}


class Environment(Part):
    """The machine and its software."""

    model_config = ConfigDict(extra="allow")

    processor: str
    device: str  # `cpu`, or the name of the GPU
    cores: int | None = None
    memory_bytes: int | None = None


class Report(Part):
    """The parts of `report.json` that the catalog keeps."""

    spec: str
    spec_hash: str
    plan_hash: str
    profile: str | None = None
    paper: str | None = None
    backbone: str
    weights: str | dict[str, str]
    dtype: str
    techniques: dict[str, dict[str, Any]]
    sampler: dict[str, dict[str, Any]] = Field(min_length=1, max_length=1)
    inputs: dict[str, Any]
    seed: int
    accelerated: Side
    baseline: Side | None = None
    environment: Environment
    macs_ratio: PositiveFloat | None = None
    speedup: PositiveFloat | None = None
    realised_fraction: PositiveFloat | None = None
    psnr: FiniteFloat | None = None
    ssim: FiniteFloat | None = None
    note: str | None = None  # what makes the run differ from its spec
    finished: str | None = None
    commit: str | None = None


def read_report(file: Path) -> Report:
    """A report file, checked. Raises `InvalidReport`."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return Report.model_validate_json(text)
        return Report.model_validate(yaml.load(text, Loader=Loader))
    except OSError as error:
        raise InvalidReport(f"{file}: {error.strerror}\n    -> name the report.json of a run") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidReport(f"{file}: {error}\n    -> name the report.json of a run") from None
    except ValidationError as error:
        raise InvalidReport("\n".join(explained(file, error))) from None


def explained(file: Path, error: ValidationError) -> Iterator[str]:
    """One line for every part of a report that is missing or wrong."""
    for detail in error.errors(include_url=False):
        where = ".".join(map(str, detail["loc"])) or "the file"
        yield f"{file}: {where}: {detail['msg'].lower()}\n    -> name a report.json that `engine run` wrote"


def kept(report: Report) -> dict[str, Any]:
    """The report as it is stored: only what the catalog keeps, as plain data."""
    return report.model_dump(mode="json", exclude_none=True)


def run_id(report: Report) -> str:
    """A short hash of the report."""
    return hashlib.sha256(json.dumps(kept(report), sort_keys=True).encode()).hexdigest()[:16]


def add(connection: Connection, report: Report, published: bool = False) -> bool:
    """Store a run; False if it was there already."""
    run = run_row(report, published)
    known = connection.execute(sa.select(RUN.c.published).where(RUN.c.id == run["id"])).scalar()
    if known is not None:
        if published and not known:
            connection.execute(sa.update(RUN).where(RUN.c.id == run["id"]).values(published=True))
        return False
    machine = hardware_row(report.environment)
    if not connection.execute(sa.select(HARDWARE.c.id).where(HARDWARE.c.id == machine["id"])).scalar():
        connection.execute(sa.insert(HARDWARE), [machine])
    connection.execute(sa.insert(RUN), [run])
    connection.execute(sa.insert(MEASUREMENT), list(measurement_rows(report, run["id"])))
    return True


def hardware_row(environment: Environment) -> dict[str, Any]:
    """The row of the machine."""
    kind = "cpu" if environment.device == "cpu" else "cuda"
    name = environment.processor if kind == "cpu" else environment.device
    cores = environment.cores if kind == "cpu" else None
    parts = [*tokens(name), *([f"{cores}cores"] if cores else [])]
    return {"id": "_".join(parts), "name": name, "kind": kind, "cores": cores, "memory_bytes": environment.memory_bytes}


def run_row(report: Report, published: bool) -> dict[str, Any]:
    """The row of the run."""
    (sampler, settings), inputs = next(iter(report.sampler.items())), report.inputs
    prompts = inputs.get("prompts") or inputs.get("class_labels") or []
    shared = {"paper_id": report.paper, "precision": report.dtype, "finished_at": report.finished, "note": report.note}
    same = report.model_dump(include={"spec", "spec_hash", "plan_hash", "profile", "backbone", "seed", "techniques"})
    return {
        **same,
        **shared,
        "id": run_id(report),
        "weights": report.weights if isinstance(report.weights, str) else json.dumps(report.weights, sort_keys=True),
        "sampler": sampler,
        "steps": settings.get("steps"),
        "height": inputs.get("height"),
        "width": inputs.get("width"),
        "frames": inputs.get("num_frames"),
        "batch": len(prompts) or inputs.get("batch"),
        "repeats": len(report.accelerated.all_seconds),
        "environment": report.environment.model_dump(mode="json"),
        "hardware_id": hardware_row(report.environment)["id"],
        "code_commit": report.commit,
        "published": published,
    }


def measurement_rows(report: Report, run: str) -> Iterator[dict[str, Any]]:
    """The rows of what was measured."""
    fast, plain = report.accelerated, report.baseline

    def row(
        metric: str, value: float, baseline: float | None = None, samples: list[float] | None = None
    ) -> dict[str, Any]:
        spread = statistics.stdev(samples) if samples and len(samples) > 1 else None
        counted = (
            {"n": len(samples), "low": min(samples), "high": max(samples)}
            if samples
            else {"n": None, "low": None, "high": None}
        )
        return {"run_id": run, "metric": metric, "value": value, "baseline": baseline, "sd": spread, **counted}

    yield row("latency_s", fast.seconds, plain.seconds if plain else None, fast.all_seconds)
    if report.speedup is not None and plain is not None:
        pairs = zip(plain.all_seconds, fast.all_seconds, strict=False)
        yield row("speedup", report.speedup, None, [slow / quick for slow, quick in pairs])
    for metric, value in (
        ("flops_speedup", report.macs_ratio),
        ("realised_fraction", report.realised_fraction),
        ("psnr", report.psnr),
        ("ssim", report.ssim),
    ):
        if value is not None:
            yield row(metric, value)
    if fast.peak_bytes is not None:
        yield row("peak_bytes", fast.peak_bytes, plain.peak_bytes if plain else None)
    for metric, value in fast.judge.items():
        yield row(metric, value, plain.judge.get(metric) if plain else None)


def published_files(root: Path) -> list[Path]:
    """Runs that everybody gets."""
    return sorted((root / "measurements").glob("**/*.yaml"))


def sync_published(connection: Connection, root: Path) -> None:
    """Make the published runs those of `catalog/measurements`; runs added here stay."""
    reports = [read_report(file) for file in published_files(root)]
    ids = {run_id(report) for report in reports}
    stale = sa.select(RUN.c.id).where(RUN.c.published, RUN.c.id.not_in(ids))
    gone = list(connection.execute(stale).scalars())
    connection.execute(sa.delete(MEASUREMENT).where(MEASUREMENT.c.run_id.in_(gone)))
    connection.execute(sa.delete(RUN).where(RUN.c.id.in_(gone)))
    for report in reports:
        add(connection, report, published=True)


def publish(report: Report, root: Path) -> Path:
    """Write a run to `catalog/measurements/<paper>/<id>.yaml`, so that it can be committed."""
    file = root / "measurements" / (report.paper or "recipes") / f"{run_id(report)}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".part")
    scratch.write_text(yaml.safe_dump(kept(report), sort_keys=False, allow_unicode=True), encoding="utf-8")
    scratch.replace(file)
    return file
