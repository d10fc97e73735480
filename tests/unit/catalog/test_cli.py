"""The command line of the catalog: help, exit codes, errors as sentences, and that it stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from click import Command
from support import ROOT
from typer.testing import CliRunner, Result

from catalog.cli import app
from catalog.record import PAPERS


def catalog(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def commands(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Words that lead to every command, and to every group of commands."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))
READING = [
    ["check"],
    ["query", "papers"],
    ["query", "count"],
    ["query", "view", "mechanism"],
    ["search", "fast"],
    ["show", "fast"],
    ["export", "--format", "json"],
    ["sql", "select 1"],
    ["build", "schema", "--check"],
    ["seed", "verify", "README.md"],
]
BROKEN = pytest.mark.parametrize("command", READING, ids=" ".join)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "catalog")
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [*path, "--help"])
    assert result.exit_code == 0 and "Usage: " in result.stdout
    assert len(result.stdout.split("\n")[3].strip()) > 20, "a sentence that says what it does"


def test_all_commands_are_there() -> None:
    assert {("query", "papers"), ("search",), ("show",), ("export",), ("sql",), ("check",), ("fmt",), ("new",),
    ("build",),
            ("add-run",), ("import",), ("seed", "verify")} <= set(COMMANDS)  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["show"], ["show", "fast", "--format", "xml"], ["query", "papers", "--limit", "0"]]
)
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    result = catalog(*arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert "Usage: " in result.stderr and result.stdout == ""


def test_check_says_how_much_it_checked(project: Any) -> None:
    result = project.catalog("check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "ok: 2 records, 1 claims (0 of them unverified), 2 entries of the list given back\n"


def test_the_shipped_catalog_is_valid() -> None:
    result = catalog("check")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"ok: {len(list(PAPERS.glob('*.yaml')))} records, ")
    assert result.stdout.endswith("79 entries of the list given back\n")


@BROKEN
def test_broken_records_end_every_command_with_all_problems(project: Any, command: list[str]) -> None:
    project.change("papers/fast.yaml", "abbreviation:", "name:")
    project.write("papers/other.yaml", "schema: [\n")
    result = project.catalog(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {project.root / 'papers/fast.yaml'}:4:1 name: unknown key `name`\n    -> " in result.stderr
    assert f"error: {project.root / 'papers/other.yaml'}:1:1: this is not valid YAML" in result.stderr
    assert result.stderr.count("error: ") == 3


@BROKEN
def test_a_folder_that_is_no_catalog_is_said_to_be_none(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    result = catalog(*command, "--catalog", str(tmp_path / "empty"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path / 'empty' / 'papers'}:1:1: there are no records here\n    -> name a folder" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("command", [*READING, ["fmt"], ["new", "x"]], ids=" ".join)
def test_a_folder_that_does_not_exist_is_said_to_be_missing(tmp_path: Path, command: list[str]) -> None:
    result = catalog(*command, "--catalog", str(tmp_path / "missing"))
    assert (result.exit_code, result.stdout) == (2, "") and isinstance(result.exception, SystemExit)
    assert "--catalog" in result.stderr and "does not exist" in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_fmt_says_that_there_is_nothing_to_format(tmp_path: Path) -> None:
    result = catalog("fmt", "--catalog", str(tmp_path))
    assert result.exit_code == 2 and "there are no records here" in result.stderr


def test_a_file_that_may_not_be_read_is_reported_with_the_others(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.change("papers/other.yaml", "id: other", "id: othr")
    original = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == "fast.yaml":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    result = project.catalog("check")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert (
        f"{project.root / 'papers/fast.yaml'}:1:1: the file cannot be read: Permission denied\n    -> " in result.stderr
    )
    assert "the id `othr` is not the file name" in result.stderr


@pytest.mark.parametrize("command", [["fmt", "nowhere.yaml"], ["add-run", "nowhere"], ["seed", "verify", "nowhere.md"]])
def test_a_file_that_is_missing_is_named(project: Any, command: list[str]) -> None:
    result = project.catalog(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and "nowhere" in result.stderr


def test_a_database_that_cannot_be_written_is_explained(project: Any) -> None:
    (project.folder / "build").write_text("a file in its place")
    result = project.catalog("query", "papers")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and str(project.folder / "build") in result.stderr


def test_an_unknown_paper_is_answered_with_the_nearest(project: Any) -> None:
    for command in (["show", "fsat"], ["query", "related", "fsat"], ["query", "claims", "--paper", "fsat"]):
        result = project.catalog(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "error: there is no record `fsat`\n    -> did you mean `fast`?\n"


def test_papers_as_json_csv_and_table(project: Any) -> None:
    rows = json.loads(project.catalog("query", "papers", "--format", "json").stdout)
    assert [(row["id"], row["venue"], row["status"]) for row in rows] == [
        ("fast", "ICLR 2025", "implemented"),
        ("other", "arXiv 2024", "none"),
    ]
    assert [line.split(",")[0] for line in project.catalog("query", "papers", "-f", "csv").stdout.splitlines()] == [
        "id",
        "fast",
        "other",
    ]
    table = project.catalog("query", "papers").stdout
    row = next(line for line in table.splitlines() if line.split()[:1] == ["fast"])
    assert row.split()[1:5] == ["Fast-Er", "ICLR", "2025", "none"] and "…" not in table


def test_show_prints_facts_claims_and_corrections(project: Any) -> None:
    lines = project.catalog("show", "fast").stdout.splitlines()
    assert lines[:2] == ["Fast-Er: Fast: a paper", "Ada Lovelace, Alan Turing"]
    assert "paper         https://arxiv.org/abs/2407.01425" in lines
    heading = lines.index("  A  opensora with steps 30, interval=3: abstract")
    assert lines[heading + 1].strip() == "flops_speedup 2"
    assert "Corrected: venue was arXiv 2024, is ICLR 2025: accepted later [A]" in lines


def test_show_finds_a_paper_by_any_name_and_in_any_form(project: Any) -> None:
    shown = json.loads(project.catalog("show", "FASTER", "--format", "json").stdout)
    assert (shown["schema"], shown["id"], shown["corrections"][0]["date"]) == (1, "fast", "2026-11-23")
    assert project.catalog("show", "quick", "--format", "yaml").stdout == project.read("papers/fast.yaml")
    assert project.catalog("show", "2407.01425").stdout == project.catalog("show", "fast").stdout


LIGHT = """
import sys
from catalog.cli import app
early = {"pydantic", "yaml", "sqlalchemy", "rich.table"} & set(sys.modules)
assert not early, early
app(sys.argv[1:], standalone_mode=False)
heavy = {"torch", "numpy", "engine", "diffusers", "transformers", "jinja2", "ruamel.yaml", "httpx"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("command", [["--help"], ["query", "papers"]], ids=" ".join)
def test_commands_load_neither_torch_nor_the_engine(project: Any, command: list[str]) -> None:
    place = [] if command == ["--help"] else ["--catalog", str(project.root)]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *command, *place], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "query" in done.stdout or "Fast-Er" in done.stdout
