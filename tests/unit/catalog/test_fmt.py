"""Canonical form of records: the same data and comments, one order of keys; formatting twice changes nothing."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.fmt import Unformattable, dump, formatted
from catalog.record import PAPERS
from catalog.schema import Record

FAST, OTHER = "papers/fast.yaml", "papers/other.yaml"
FILE = Path("x.yaml")
RECORDS = sorted(PAPERS.glob("*.yaml"))


def comments(text: str) -> list[str]:
    """All comments of a file whose texts hold no ` #`."""
    return sorted(re.findall(r"(?:^|\s)(#.*)", text))


@lru_cache
def canonical(file: Path) -> str:
    return formatted(file.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_shipped_records_keep_data_and_comments(file: Path) -> None:
    text, once = file.read_text(encoding="utf-8"), canonical(file)
    assert yaml.load(once, yaml.CSafeLoader) == yaml.load(text, yaml.CSafeLoader)
    assert comments(once) == comments(text)
    assert once == text or formatted(once, file) == once


def test_shipped_records_are_all_there_and_formatted() -> None:
    assert len(RECORDS) == 59
    assert [file.name for file in RECORDS if canonical(file) != file.read_text(encoding="utf-8")] == []


def test_keys_come_in_the_order_of_the_format_and_unknown_ones_last() -> None:
    text = "zzz: 1\ntags: {base_models: [], applications: []}\nid: x\nschema: 1\n"
    text += "links:\n  - {url: 'http://x', kind: paper}\n"
    assert formatted(text, FILE) == (
        'schema: 1\nid: x\nlinks:\n  - {kind: paper, url: "http://x"}\n'
        "tags:\n  applications: []\n  base_models: []\nzzz: 1\n"
    )
    keys = [info.alias or name for name, info in Record.model_fields.items()]
    once = formatted("\n".join(f"{key}: null" for key in reversed(keys)), FILE)
    assert list(yaml.safe_load(once)) == keys


def test_comments_stay_beside_what_they_explain() -> None:
    text = "# head\nlinks: # all\n  # the paper\n  - {url: http://x, kind: paper} # good\nid: x # name\n# tail\n"
    once = formatted(text, FILE)
    assert comments(once) == comments(text)
    assert once.startswith("# head\n") and "id: x # name\n" in once
    assert '  # the paper\n  - {kind: paper, url: "http://x"} # good\n' in once


LINES = ["claims: [] # c", "tags: {} # c", "identifiers: {} # c", "technique: {block: a, status: planned} # c",
         "tags: {applications: [a]} # c", "authors: # c\n  - {given: A, family: B}", "links: [] # c\nclaims: []",
         "tags:\n  mechanisms: # c\n    - a", "tags:\n  mechanisms: [a] # c", "seed: # c\n  entries: [CA1] # d",
         "summary: {short: x} # c", "technique: # c\n  block: a\n  # d\n  status: planned",
         "abbreviation: x # c\n\n# d",
         "tags:\n  mechanisms: [a, # c\n  b]"]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_comments_anywhere_change_nothing(line: str) -> None:
    text = f"title: A\n{line}\nid: x\nsummary:\n  short: y # z\n" if "summary" not in line else f"id: x\n{line}\n"
    once = formatted(text, FILE)
    assert yaml.safe_load(once) == yaml.safe_load(text) and comments(once) == comments(text)
    assert formatted(once, FILE) == once


def test_a_comment_that_would_be_lost_is_kept() -> None:
    with pytest.raises(Unformattable, match="lose a comment"):
        formatted("technique: {block: a, # c\n  status: planned}\n", FILE)


def test_what_would_say_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.fmt._written", lambda data: "id: other\n")
    with pytest.raises(Unformattable, match="say something else when formatted"):
        formatted("id: x\n", FILE)


def test_what_fits_stands_on_one_line() -> None:
    long = [f"author_{number}" for number in range(20)]
    text = dump(
        {"id": "x", "authors": [{"given": "A", "family": "B"}], "tags": {"mechanisms": ["a"], "base_models": long}}
    )
    assert "  - {given: A, family: B}\n" in text and "  mechanisms: [a]\n" in text
    assert "  base_models:\n    - author_0\n" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    claims = dump({"claims": [{"id": "a", "value": 1}], "summary": {"short": "x"}})
    assert claims == "claims:\n  - id: a\n    value: 1\nsummary:\n  short: x\n"


TEXTS = ["no", "on", "12:30", "2026-11-23", "1e+3", "010", "0x1F", "null", "~", "", "=", "*a", "a: b", "#x", "it's",
         'a "b"', "a\nb ", " x", "- a", "é\u2028x", "\a", "100%", "@x", "`x`", "{x}", "[x", "true", "1_000",
         ".5"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_becomes_something_else(text: str) -> None:
    data = {
        "id": "x",
        "title": text,
        "tags": {"mechanisms": [text], "applications": [text, "a"]},
        "links": [{"note": text}],
    }
    once = dump(data)
    assert yaml.safe_load(once) == data
    for style in ('"', "'"):
        again = formatted(yaml.safe_dump(data, default_style=style, allow_unicode=True), FILE)
        assert yaml.safe_load(again) == data
    assert formatted(once, FILE) == once


@pytest.mark.parametrize(
    "line", ["yes", "012", "10.80", "1_000", "", "~", "2026-11-23", ">-\n  long\n  text", "|\n  a\n  b"]
)
def test_values_without_quotes_stay_what_they_are(line: str) -> None:
    once = formatted(f"title: {line}\n", FILE)
    assert yaml.safe_load(once) == yaml.safe_load(f"title: {line}\n")


BAD = {
    "syntax": ("a: 1\nx: [1", "x.yaml:2:", "this is not valid YAML"),
    "twice": ("a: 1\na: 2\n", "x.yaml:2:1", "found duplicate key"),
    "documents": ("a: 1\n---\nb: 2\n", "x.yaml:2:1", "another document"),
    "list": ("- a\n", "x.yaml:1:1", "a record is a mapping"),
    "nothing": ("", "x.yaml:1:1", "a record is a mapping"),
    "day": ("a: 2026-11-31\n", "x.yaml", "a value cannot be read"),
    "tag": ("a: !!bool x\n", "x.yaml", "a value cannot be read"),
    "deep": ("a: " + "[" * 300, "x.yaml", "this is not valid YAML"),
}


@pytest.mark.parametrize(("text", "place", "rule"), BAD.values(), ids=BAD)
def test_what_is_no_yaml_is_reported(text: str, place: str, rule: str) -> None:
    with pytest.raises(Unformattable) as caught:
        formatted(text, FILE)
    assert str(caught.value).startswith(place) and rule in str(caught.value)


def test_the_command_formats_what_needs_it(project: Any) -> None:
    text = project.read(FAST)
    project.write(FAST, text.replace("schema: 1\nid: fast\n", "id: fast\nschema: 1\n"))
    before = project.files()
    checked = project.catalog("fmt", "--check")
    assert (checked.exit_code, checked.stdout) == (1, f"would change: {project.root / FAST}\n")
    assert project.files() == before
    done = project.catalog("fmt")
    assert (done.exit_code, done.stdout) == (0, f"formatted: {project.root / FAST}\n")
    assert project.read(FAST) == text
    for option in ((), ("--check",)):
        again = project.catalog("fmt", *option)
        assert (again.exit_code, again.stdout) == (0, "ok: nothing to change\n")


def test_the_command_formats_the_files_it_is_given(project: Any) -> None:
    for name in (FAST, OTHER):
        project.change(name, "schema: 1\n", "schema:   1\n")
    assert project.catalog("fmt", str(project.root / OTHER)).exit_code == 0
    assert "schema:   1" in project.read(FAST) and "schema: 1" in project.read(OTHER)


def test_a_file_with_an_error_is_left_alone_and_the_others_formatted(project: Any) -> None:
    project.write(FAST, "title: [unclosed\n")
    project.write("papers/latin.yaml", "title: é\n".encode("latin-1"))
    project.change(OTHER, "schema: 1\n", "schema:   1\n")
    result = project.catalog("fmt")
    assert result.exit_code == 2
    assert f"error: {project.root / FAST}:2:1: this is not valid YAML" in result.stderr
    assert "latin.yaml:1:1: the file is not UTF-8\n    -> save it as UTF-8" in result.stderr
    assert project.read(FAST) == "title: [unclosed\n" and "schema: 1\n" in project.read(OTHER)
    assert (project.root / "papers/latin.yaml").read_bytes() == b"title: \xe9\n"


def test_formatting_keeps_the_permissions_of_a_file(project: Any) -> None:
    file = project.root / FAST
    file.chmod(0o640)
    project.change(FAST, "schema: 1\n", "schema:   1\n")
    project.catalog("fmt")
    assert file.stat().st_mode & 0o777 == 0o640 and "schema: 1\n" in project.read(FAST)


def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.change(FAST, "schema: 1\n", "schema:   1\n")
    before = project.files()

    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    result = project.catalog("fmt")
    assert (result.exit_code, result.stderr) == (2, f"error: {project.root / FAST}: No space left on device\n")
    assert project.files() == before
