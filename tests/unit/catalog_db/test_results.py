"""Runs: reports are stored once, compared with claims by grade, and published as files."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT as PROJECT
from typer.testing import CliRunner

from catalog import query, results
from catalog.cli import app
from catalog.database import Database, open_database
from catalog.files import ROOT

PAPER_SIZE = {"prompts": ["a red apple"], "num_frames": 51, "height": 480, "width": 854}


@pytest.fixture
def changed(report: results.Report) -> Callable[..., results.Report]:
    """A report with other values."""
    return lambda **values: results.Report.model_validate(report.model_dump() | values)


def add(database: Database, *reports: results.Report) -> None:
    with database.writing() as connection:
        for report in reports:
            assert results.add(connection, report)


def grades(database: Database) -> dict[str, tuple[str, float | None]]:
    """Grade and ratio of every claim beside the run that a test added; published runs are others."""
    with database.reading() as connection:
        rows = [row for row in query.comparison(connection, "toca") if not row["published"]]
    return {row["claim_id"]: (row["grade"], row["measured_over_claimed"]) for row in rows}


def test_a_run_and_its_numbers_are_stored(database: Database, report: results.Report) -> None:
    add(database, report)
    with database.reading() as connection:
        rows = {row["metric"]: row for row in query.results(connection, "toca") if not row["published"]}
    assert rows.keys() >= {
        "latency_s",
        "speedup",
        "flops_speedup",
        "realised_fraction",
        "psnr",
        "ssim",
        "peak_bytes",
        "object_seen",
    }
    assert (rows["latency_s"]["value"], rows["latency_s"]["baseline"]) == (1.0, 2.0)
    assert (rows["latency_s"]["n"], rows["latency_s"]["low"], rows["latency_s"]["high"]) == (3, 0.9, 1.1)
    assert rows["speedup"]["value"] == 2.0
    assert math.isclose(rows["speedup"]["low"], 1.9 / 1.1) and math.isclose(rows["speedup"]["high"], 2.1 / 0.9)
    assert (rows["object_seen"]["value"], rows["object_seen"]["baseline"]) == (0.5, 0.75)
    assert rows["psnr"]["hardware"] == "AMD EPYC"


def test_a_run_is_stored_once(database: Database, report: results.Report) -> None:
    add(database, report)
    with database.writing() as connection:
        assert not results.add(connection, report)
        assert results.add(connection, report.model_copy(update={"seed": 1}))


def test_the_embedded_model_is_never_compared_by_ratio(database: Database, report: results.Report) -> None:
    add(database, report)
    found = grades(database)
    assert found["opensora_headline"] == ("not", None)
    assert set(found.values()) == {("not", None)}


def test_random_weights_of_the_published_size_are_near_for_speed_and_not_for_quality(
    database: Database, changed: Callable[..., results.Report]
) -> None:
    add(database, changed(weights="random", inputs=PAPER_SIZE, profile="scale"))
    found = grades(database)
    grade, ratio = found["opensora_tflops_ratio"]
    assert grade == "near" and ratio == pytest.approx(2.3416 / (3283.2 / 1394.0), rel=1e-3)
    assert found["opensora_latency_s"][0] == "near"


def test_published_weights_with_the_same_settings_are_the_same_where_hardware_does_not_matter(
    database: Database, changed: Callable[..., results.Report]
) -> None:
    add(database, changed(weights="hpcai-tech/OpenSora-STDiT-v3", inputs=PAPER_SIZE))
    found = grades(database)
    assert found["opensora_tflops_ratio"][0] == "same", "operations do not depend on the machine"
    assert found["opensora_latency_s"][0] == "near", "the claim does not say on which machine"
    assert found["opensora_headline"][0] == "near", "the abstract does not say at which settings"


@pytest.mark.parametrize(
    "values",
    [
        {"sampler": {"rflow": {"steps": 50}}},
        {"inputs": PAPER_SIZE | {"height": 720}},
        {"inputs": PAPER_SIZE | {"num_frames": 17}},
        {"sampler": {"ddim": {"steps": 30}}},
    ],
    ids=["steps", "size", "frames", "sampler"],
)
def test_other_settings_are_not_compared(
    sqlite_url: str, changed: Callable[..., results.Report], values: dict[str, Any]
) -> None:
    database = open_database(ROOT, sqlite_url)
    add(database, changed(**({"weights": "hpcai-tech/OpenSora-STDiT-v3", "inputs": PAPER_SIZE} | values)))
    assert grades(database)["opensora_tflops_ratio"] == ("not", None)


def test_a_claim_of_another_model_is_not_beside_it(sqlite_url: str, report: results.Report) -> None:
    database = open_database(ROOT, sqlite_url)
    add(database, report)
    with database.reading() as connection:
        own = [row for row in query.comparison(connection, "toca") if not row["published"]]
        assert {row["base_model_id"] for row in own} == {"opensora"}
        assert not [row for row in query.comparison(connection, "fora") if not row["published"]]
        assert query.comparison(connection, "toca", grades=["same", "near"]) == []
        with pytest.raises(query.BadQuery, match="did you mean `near`"):
            query.comparison(connection, "toca", grades=["neer"])


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Address of an empty SQLite database."""
    return f"sqlite:///{tmp_path / 'catalog.db'}"


BROKEN: dict[str, Any] = {
    "no speed": {"speedup": "fast"},
    "nan": {"psnr": float("nan")},
    "no seconds": {"accelerated": {"seconds": 1.0, "all_seconds": []}},
    "two samplers": {"sampler": {"a": {}, "b": {}}},
    "negative": {"macs_ratio": -1.0},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_report_is_explained_and_not_stored(
    name: str, report: results.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps(copy.deepcopy(results.kept(report)) | BROKEN[name]))
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    monkeypatch.setenv("CATALOG_DATABASE_URL", url)
    done = CliRunner().invoke(app, ["add-run", str(file)])
    assert done.exit_code == 2
    assert str(file) in done.output and next(iter(BROKEN[name])) in done.output and "->" in done.output
    with open_database(ROOT, url).reading() as connection:
        assert query.results(connection) == [row for row in query.results(connection) if row["published"]]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff", "{}"])
def test_what_is_no_report_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(results.InvalidReport, match="->"):
        results.read_report(file)
    with pytest.raises(results.InvalidReport, match="->"):
        results.read_report(tmp_path / "nothing.json")


def test_published_runs_are_files_and_come_with_the_records(tmp_path: Path, report: results.Report) -> None:
    root, url = tmp_path / "project" / "catalog", f"sqlite:///{tmp_path / 'catalog.db'}"
    papers = root / "papers"
    papers.mkdir(parents=True)
    record = yaml.safe_load((ROOT / "papers" / "toca.yaml").read_text(encoding="utf-8"))
    apart = record | {"technique": {"block": "toca", "status": "planned"}}  # no specs, and no other papers, around it
    kept = {key: value for key, value in apart.items() if key not in ("relations", "seed", "corrections")}
    (papers / "toca.yaml").write_text(yaml.safe_dump(kept, allow_unicode=True), encoding="utf-8")
    file = results.publish(report, root)
    assert file == root / "measurements" / "toca" / f"{results.run_id(report)}.yaml"
    assert results.read_report(file) == report
    database = open_database(root, url)
    with database.reading() as connection:
        assert all(row["published"] for row in query.results(connection, "toca"))
    file.unlink()
    with open_database(root, url).reading() as connection:
        assert query.results(connection, "toca") == []


def test_the_reports_of_this_project_are_readable() -> None:
    for file in results.published_files(ROOT):
        report = results.read_report(file)
        assert file.stem == results.run_id(report)
        assert (PROJECT / "specs" / report.spec).is_file()
