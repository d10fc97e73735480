"""The command line of the catalog: what it prints, its exit codes, and that it stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from typer.testing import CliRunner, Result

from catalog.cli import app
from catalog.record import PAPERS


def catalog(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with two records, each with a problem."""
    (tmp_path / "one.yaml").write_text("schema: 1\nname: one\n")
    (tmp_path / "two.yaml").write_text("schema: [\n")
    return tmp_path


def test_check_says_how_much_it_checked() -> None:
    result = catalog("check")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"ok: {len(list(PAPERS.glob('*.yaml')))} records, ")


@pytest.mark.parametrize("command", [["check"], ["list"], ["list", "--format", "json"], ["show", "toca"]])
def test_broken_records_end_every_command_with_all_problems(broken: Path, command: list[str]) -> None:
    result = catalog(*command, "--papers", str(broken))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"error: {broken / 'one.yaml'}:2:1 name: unknown key `name`" in result.stderr
    assert f"error: {broken / 'two.yaml'}:2:1: this is not valid YAML" in result.stderr
    assert "    -> " in result.stderr


def test_list_as_json_has_every_record_once() -> None:
    rows = json.loads(catalog("list", "--format", "json").stdout)
    assert [row["id"] for row in rows] == sorted(file.stem for file in PAPERS.glob("*.yaml"))
    toca = next(row for row in rows if row["id"] == "toca")
    assert toca["venue"] == "ICLR 2025" and toca["training"] == "none" and toca["status"] == "implemented"


def test_list_as_table_shows_whole_words_in_a_narrow_terminal() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["list"])
    row = next(line for line in result.stdout.splitlines() if line.split()[:1] == ["toca"])
    assert row.split()[1:5] == ["ToCa", "ICLR", "2025", "none"] and "implemented" in row
    assert "…" not in result.stdout


def test_show_prints_facts_claims_and_corrections() -> None:
    lines = catalog("show", "toca").stdout.splitlines()
    assert lines[0] == "ToCa: Accelerating Diffusion Transformers with Token-wise Feature Caching"
    assert lines[1].startswith("Chang Zou, Xuyang Liu, ")
    assert "code          https://github.com/Shenyi-Z/ToCa (GPL-3.0)" in lines
    heading = lines.index("  A  opensora: abstract")
    assert lines[heading + 1].strip() == "flops_speedup 2.36"
    assert any("interval=3, cross_interval=6, fresh_ratio=0.1" in line for line in lines)
    assert any(line.startswith("Corrected: venue was arXiv 2024, is ICLR 2025") for line in lines)


def test_show_does_not_repeat_a_name_that_is_in_the_title() -> None:
    assert catalog("show", "fora").stdout.startswith("FORA: Fast-Forward Caching")


def test_show_as_json_and_yaml_give_the_record() -> None:
    shown = json.loads(catalog("show", "toca", "--format", "json").stdout)
    assert (shown["schema"], shown["id"], shown["identifiers"]["arxiv"]) == (1, "toca", "2410.05317")
    assert shown["corrections"][0]["date"] == "2026-11-23"
    assert catalog("show", "toca", "--format", "yaml").stdout == (PAPERS / "toca.yaml").read_text(encoding="utf-8")


def test_show_finds_a_paper_by_its_printed_name() -> None:
    assert catalog("show", "ToCa").stdout == catalog("show", "toca").stdout


def test_an_unknown_paper_is_answered_with_the_nearest() -> None:
    result = catalog("show", "tocca")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: there is no record `tocca`\n    -> did you mean `toca`?\n"


LIGHT = """
import sys
from catalog.cli import app
assert "pydantic" not in sys.modules and "yaml" not in sys.modules, "--help would wait for them"
app(["show", "toca"], standalone_mode=False)
heavy = {"torch", "numpy", "engine", "diffusers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_commands_load_neither_torch_nor_the_engine() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
