"""Views, news and the file about the original list: what they say, and how their mistakes are explained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catalog import seed
from catalog.files import ROOT
from catalog.library import read_views
from catalog.record import load_vocabularies

VIEW, NEWS, LIST = "views/mechanism.yaml", "news/2026.yaml", "seed/list.yaml"
MISTAKES = {
    "id": (VIEW, "id: mechanism", "id: mechanisms", "id", "id:", "is not the file name", "write `mechanism`"),
    "id pattern": (VIEW, "id: mechanism", "id: Mechanism", "id", "id:", "`id` is 'Mechanism'", "Name for queries"),
    "no title": (VIEW, "title: Papers by Mechanism\n", "", "title", "id:", "`title` is missing", "add it: Heading"),
    "position": (VIEW, "position: 1", "position: 0", "position", "position:", "`position` is 0", "Place among"),
    "unknown key": (VIEW, "position: 1", "position: 1\nnotes: x", "notes", "notes:", "unknown key", "mean `note`?"),
    "paper": (VIEW, "[fast, other]", "[fast, othr]", "sections.0.papers.1", "othr", "no record `othr`", "`other`?"),
    "paper twice": (VIEW, "[fast, other]", "[fast, other, fast]", "sections.0.papers.2", "fast]",
                    "`fast` stands twice in this section", "remove one"),
    "no papers": (VIEW, "    papers:\n      - fast\n", "    papers: []\n", "sections.1.papers", "papers: []",
                  "`papers` is []", "Ids of records"),
    "section twice": (VIEW, "id: video", "id: cache", "sections.1.id", "id: cache", "another section `cache`",
                      "rename"),
    "model": (VIEW, "[opensora]", "[open_sora]", "sections.1.base_models.0", "open_sora", "cannot be", "`opensora`?"),
    "code of a section": (VIEW, "code: CA", "code: Ca", "sections.0.code", "code:", "`code` is 'Ca'", "original list"),
    "order of the list": (VIEW, "[fast, other]", "[fast, fast_2]", "sections.0.papers.1", "fast_2", "no record",
                          "`fast`"),
    "date": (NEWS, "date: 2026-11-25", "date: today", "items.1.date", "date:", "`date` is 'today'", "as 2026-11-25"),
    "paper of news": (NEWS, "paper: fast", "paper: fats", "items.1.paper", "paper:", "no record `fats`",
                      "mean `fast`?"),
    "commit": (LIST, 'commit: "1fc4e79"', "commit: main", "commit", "commit:", "`commit` is 'main'", "in quotes"),
    "commit unquoted": (LIST, 'commit: "1fc4e79"', "commit: 1234567", "commit", "commit:", "is 1234567", "in quotes"),
    "address": (LIST, '"https://example.org/list"', "example.org", "url", "url:", "`url` is", "home page"),
    "line": (LIST, "line: 3", "line: 0", "corrections.0.line", "line:", "`line` is 0", "Line in the original file"),
    "entries": (LIST, "entries: 2", "entries: 3", "entries", "entries:", "the list has 2 entries, not 3", "write 2"),
    "papers": (LIST, "papers: 2", "papers: 1", "papers", "papers:", "the list has 2 papers, not 1", "write 2"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "key", "at", "rule", "remedy"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_explained(
    project: Any, name: str, old: str, new: str, key: str, at: str, rule: str, remedy: str
) -> None:
    project.explains(name, old, new, key, at, rule, remedy)


def test_a_file_of_news_without_items_is_explained(project: Any) -> None:
    project.change(NEWS, "items:", "news:")
    assert {problem.key: problem.rule for problem in project.problems()} == {
        "items": "the key `items` is missing",
        "news": "unknown key `news`",
    }


def test_views_give_sections_numbers_and_papers_in_order(project: Any) -> None:
    (view,) = project.library().views
    assert [(section.id, number, paper) for section, number, paper in view.placements()] == [
        ("cache", 1, "fast"),
        ("cache", 2, "other"),
        ("video", 1, "fast"),
    ]


def test_views_come_by_position_and_news_the_newest_first(project: Any) -> None:
    for name, position in (("zebra", 2), ("alpha", 3)):
        text = (
            project.read(VIEW).replace("id: mechanism", f"id: {name}").replace("position: 1", f"position: {position}")
        )
        project.write(f"views/{name}.yaml", text.replace("code: CA, ", ""))
    library = project.library()
    assert [view.id for view in library.views] == ["mechanism", "zebra", "alpha"]
    assert [item.text[:4] for item in library.news] == ["Fast", "The "]
    assert library.origin is not None and library.origin.commit == "1fc4e79"


def test_a_paper_out_of_its_place_is_found_in_the_view(project: Any) -> None:
    text = project.change(VIEW, "[fast, other]", "[other, fast]")
    problems = project.problems()
    assert [(problem.file.name, problem.key) for problem in problems] == [
        ("mechanism.yaml", "sections.0.papers.0"),
        ("mechanism.yaml", "sections.0.papers.1"),
    ]
    assert problems[0].rule == "the views have `other` at CA1, the original list `fast`"
    assert "new papers stand after its own" in problems[0].remedy
    assert text.split("\n")[problems[0].line - 1][problems[0].column - 1 :].startswith("other")


def test_a_missing_paper_or_section_is_found(project: Any) -> None:
    project.change(VIEW, "[fast, other]", "[fast]")
    rules = {(problem.key, problem.rule) for problem in project.problems()}
    assert ("sections.0.papers.1", "the views have nothing at CA2, the original list `other`") in rules
    project.change(VIEW, "code: CA", "code: CB")
    places = [(problem.file.name, problem.key) for problem in project.problems() if "in no view" not in problem.rule]
    assert places == [("views", ""), ("views", "")]


def test_new_papers_stand_after_those_of_the_list(project: Any) -> None:
    new = project.read("papers/other.yaml").partition("seed:")[0].replace("09999", "11111").replace("Other", "New")
    new = new.replace("id: other", "id: new").replace("Something else entirely", "A new paper").replace("other", "new")
    project.write("papers/new.yaml", new.replace("ghiJKL", "mnoPQR"))
    project.change("snapshots/arxiv.yaml", "titles:\n", 'titles:\n  "2407.11111": [A new paper]\n')
    project.change(VIEW, "[fast, other]", "[fast, other, new]")
    assert list(project.library().records) == ["fast", "new", "other"]
    project.change(VIEW, "[fast, other, new]", "[fast, new, other]")
    assert [problem.key for problem in project.problems()] == ["sections.0.papers.1"]


def test_every_paper_stands_in_a_view(project: Any) -> None:
    project.change(VIEW, "[fast, other]", "[fast]")
    problems = {(problem.file.name, problem.key, problem.rule) for problem in project.problems()}
    assert ("other.yaml", "id", "the paper `other` is in no view") in problems


def test_a_catalog_without_list_views_and_news_is_one_too(project: Any) -> None:
    for name in (VIEW, NEWS, LIST, "seed/entries.json", "snapshots/arxiv.yaml"):
        (project.root / name).unlink()
    library = project.library()
    assert (library.views, library.news, library.origin, len(library.records)) == ((), (), None, 2)


def test_shipped_views_have_the_entries_of_the_list_in_its_order() -> None:
    papers = {file.stem for file in (ROOT / "papers").glob("*.yaml")}
    documents: list[Any] = []
    views = {view.id: view for view in read_views(ROOT, load_vocabularies(), papers, documents)}
    assert not [problem for document in documents for problem in document.problems]
    assert {name: len(view.placements()) for name, view in views.items()} == {"mechanism": 52, "training-free": 27}
    placed = [f"{section.code}{number}" for view in views.values() for section, number, _ in view.placements()]
    assert placed == list(seed.stored())
    assert [section.title for view in views.values() for section in view.sections] == list(seed.SECTIONS.values())


def test_stored_entries_are_in_the_form_that_is_written() -> None:
    text = (seed.FOLDER / "entries.json").read_text(encoding="utf-8")
    assert seed.as_json(seed.stored()) == text
    assert len(json.loads(text)) == 79
