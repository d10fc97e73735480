"""Generated files: stale ones are shown, the bytes are the same every time, and the JSON Schema fits the records."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from catalog.document import Document
from catalog.files import ROOT
from catalog.generate import record_schema
from catalog.library import Library
from catalog.record import PAPERS, load_vocabularies

SCHEMA = "record.schema.json"
RECORDS = sorted(PAPERS.glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(record_schema(Library(ROOT, load_vocabularies(), {})))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def as_json(data: Any) -> Any:
    """YAML data as an editor validates it: dates are text."""
    return json.loads(json.dumps(data, default=str))


def test_a_missing_file_is_stale_then_written_then_up_to_date(project: Any) -> None:
    before = project.files()
    stale = project.catalog("build", "schema", "--check")
    assert stale.exit_code == 1 and project.files() == before
    assert stale.stdout.startswith(f"--- {project.root / SCHEMA}\n+++ {project.root / SCHEMA} (generated)\n@@ ")
    assert stale.stderr == "error: not up to date\n    -> run `catalog build schema` and commit the result\n"
    built = project.catalog("build", "schema")
    assert (built.exit_code, built.stdout) == (0, f"wrote: {project.root / SCHEMA}\n")
    fresh = project.catalog("build", "schema", "--check")
    assert (fresh.exit_code, fresh.stdout, fresh.stderr) == (0, "", "")


def test_a_stale_file_is_shown_as_a_diff_and_left_alone(project: Any) -> None:
    project.catalog("build", "schema")
    changed = project.change(SCHEMA, '"title": "Record"', '"title": "Old"')
    stale = project.catalog("build", "schema", "--check")
    assert stale.exit_code == 1
    assert '- "title": "Old"' in stale.stdout and '+ "title": "Record"' in stale.stdout
    assert project.read(SCHEMA) == changed


def test_other_bytes_are_stale_even_if_no_line_differs(project: Any) -> None:
    project.catalog("build", "schema")
    project.write(SCHEMA, project.read(SCHEMA).replace("\n", "\r\n"))
    stale = project.catalog("build", "schema", "--check")
    assert (stale.exit_code, stale.stdout) == (
        1,
        f"{project.root / SCHEMA} has other line ends than the generated file\n",
    )
    project.write(SCHEMA, b"\xff")
    assert project.catalog("build", "schema", "--check").exit_code == 1


def test_a_file_is_the_same_every_time(project: Any) -> None:
    project.catalog("build", "schema")
    first = (project.root / SCHEMA).read_bytes()
    (project.root / SCHEMA).unlink()
    project.catalog("build", "schema")
    assert (project.root / SCHEMA).read_bytes() == first and first.endswith(b"}\n")


def test_a_new_word_makes_the_schema_stale(project: Any) -> None:
    project.catalog("build", "schema")
    project.own_vocabularies()
    project.change("vocab/link_kinds.yaml", "demo:", "poster: {label: Poster}\ndemo:")
    stale = project.catalog("build", "schema", "--check")
    assert stale.exit_code == 1 and '"poster",' in stale.stdout


def test_an_unknown_target_is_answered_with_the_nearest(project: Any) -> None:
    result = project.catalog("build", "schem")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: nothing is built as `schem`\n    -> did you mean `schema`?\n",
    )


def test_a_broken_catalog_builds_nothing(project: Any) -> None:
    project.change("papers/fast.yaml", "id: fast", "id: slow")
    before = project.files()
    for target in ("schema", "readme", "db"):
        result = project.catalog("build", target)
        assert result.exit_code == 2 and "is not the file name" in result.stderr
    assert {name: text for name, text in project.files().items() if "/build/" not in name} == before


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_schema_accepts_shipped_records(file: Any, validator: Any) -> None:
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(as_json(Document(file).data))]
    assert errors == []


WRONG = {
    "unknown word": ("[feature_caching]", "[feature_cachng]", "$.tags.mechanisms[0]"),
    "unknown training": ("training: none", "training: nothing", "$.tags.training"),
    "unknown key": ("schema: 1", "schema: 1\nyear: 2025", "$"),
    "missing key": ("title:", "# title:", "$"),
    "version": ("schema: 1", "schema: 2", "$.schema"),
    "pattern": ('arxiv: "2407.01425"', 'arxiv: "2407"', "$.identifiers.arxiv"),
    "kind of value": ("steps: 30", "steps: many", "$.claims[0].settings.steps"),
    "fixed word": ("kind: conference", "kind: party", "$.publications[1].kind"),
}


@pytest.mark.parametrize(("old", "new", "path"), WRONG.values(), ids=WRONG)
def test_the_schema_refuses_mistakes(project: Any, validator: Any, old: str, new: str, path: str) -> None:
    assert validator.is_valid(as_json(yaml.safe_load(project.read("papers/fast.yaml"))))
    data = as_json(yaml.safe_load(project.change("papers/fast.yaml", old, new)))
    assert [error.json_path for error in validator.iter_errors(data)] == [path]


def test_the_schema_explains_every_key(validator: Any) -> None:
    properties = validator.schema["properties"]
    assert properties["title"]["description"] == "Title as published, in plain Unicode."
    assert "vocabulary" not in json.dumps(validator.schema["$defs"]["Tags"])
