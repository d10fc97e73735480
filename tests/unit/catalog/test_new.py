"""`catalog new`: a skeleton that is valid but for what is still to do, whatever its title, and never over a record."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from catalog.fmt import formatted
from catalog.record import InvalidRecords, load_records
from catalog.skeleton import BadName, write_skeleton

NEW = "papers/new_paper.yaml"


def test_a_skeleton_is_valid_up_to_what_is_to_do(project: Any) -> None:
    result = project.catalog("new", "new_paper", "--arxiv", "2411.12345", "--title", "A new paper")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"wrote: {project.root / NEW}\nnext: fill it in")
    with pytest.raises(InvalidRecords) as caught:
        load_records(project.root / "papers")
    assert [problem.key for problem in caught.value.problems] == [
        "abbreviation",
        "authors.0.given",
        "authors.0.family",
        "summary.short",
    ]
    assert all("is still to do" in problem.rule for problem in caught.value.problems)
    project.write(NEW, project.read(NEW).replace("TODO", "done"))
    record = load_records(project.root / "papers")["new_paper"]
    assert (record.title, record.identifiers.arxiv, record.status) == ("A new paper", "2411.12345", "planned")
    assert (record.primary.year, record.primary.month) == (2024, 11)
    assert record.links[0].url == "https://arxiv.org/abs/2411.12345"


def test_without_number_and_title_these_are_to_do_too(project: Any) -> None:
    project.catalog("new", "new_paper")
    with pytest.raises(InvalidRecords) as caught:
        load_records(project.root / "papers")
    assert {"title", "links.0.url"} <= {problem.key for problem in caught.value.problems}


def test_a_skeleton_explains_its_keys_and_can_be_formatted(project: Any) -> None:
    project.catalog("new", "new_paper")
    text = project.read(NEW)
    assert "# Title as published, in plain Unicode." in text and "# All authors, in order; never `others`." in text
    once = formatted(text, project.root / NEW)
    assert yaml.safe_load(once) == yaml.safe_load(text)


TITLES = [
    'x"\nid: evil',
    'x", id: evil #',
    "x' \\\" \\",
    "a: b # c",
    "- x",
    "{{x}}",
    "*a &b !c",
    "%x",
    "\ta\n\n---\nb",
    "x\\",
]


@pytest.mark.parametrize("title", TITLES)
def test_no_title_becomes_anything_but_the_title(project: Any, title: str) -> None:
    assert project.catalog("new", "new_paper", "--title", title).exit_code == 0
    data = yaml.safe_load(project.read(NEW))
    assert data["title"] == " ".join(title.split()) and data["id"] == "new_paper"


def test_a_title_is_written_in_composed_letters(project: Any) -> None:
    project.catalog("new", "new_paper", "--title", "Cafe\u0301")
    assert yaml.safe_load(project.read(NEW))["title"] == "Café"


BAD = {
    "capitals": (["New"], "`New` is no id", "lower-case letters"),
    "dash": (["new-paper"], "`new-paper` is no id", "such as skip_dit"),
    "path": (["../evil"], "`../evil` is no id", "single underscores"),
    "line end": (["new\n"], "is no id", "lower-case"),
    "nothing": ([""], "`` is no id", "lower-case"),
    "other digits": (["new", "--arxiv", "٢٤١٠.٠٥٣١٧"], "is no arXiv number", "such as 2410.05317"),
    "version": (["new", "--arxiv", "2410.05317v2"], "`2410.05317v2` is no arXiv number", "without version"),
    "address": (["new", "--arxiv", "https://arxiv.org/abs/2410.05317"], "is no arXiv number", "2410.05317"),
    "month": (["new", "--arxiv", "2413.05317"], "`2413.05317` is no arXiv number", "2410.05317"),
    "direction": (["new", "--title", "a\u202eb"], "the unseen character U+202E", "write it without"),
    "bell": (["new", "--title", "a\ab"], "the unseen character U+0007", "write it without"),
    "bytes": (["new", "--title", "a\udcffb"], "the unseen character U+DCFF", "write it without"),
    "long": (["n" * 300], "File name too long", ""),
}


@pytest.mark.parametrize(("arguments", "rule", "remedy"), BAD.values(), ids=BAD)
def test_bad_names_are_explained_and_nothing_is_written(
    project: Any, arguments: list[str], rule: str, remedy: str
) -> None:
    before = project.files()
    result = project.catalog("new", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and rule in result.stderr and remedy in result.stderr
    assert project.files() == before


def test_a_record_is_never_overwritten(project: Any) -> None:
    before = project.files()
    result = project.catalog("new", "fast")
    assert result.exit_code == 2
    assert f"the record {project.root / 'papers/fast.yaml'} is there already\n    -> edit it" in result.stderr
    assert project.files() == before
    with pytest.raises(BadName):
        write_skeleton(project.root, "other", None, None)
