"""The snapshot of titles: a number or link that belongs to another paper is found without a network."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from catalog import seed
from catalog.files import ROOT
from catalog.library import read_snapshot
from catalog.record import load_records, load_vocabularies
from catalog.snapshot import report_other_papers, same_title

FAST, OTHER, SNAPSHOT = "papers/fast.yaml", "papers/other.yaml", "snapshots/arxiv.yaml"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def own(project: Any) -> Any:
    """The project as a catalog that grew from no list, which would see wrong links too."""
    for name in ("seed/list.yaml", "seed/entries.json"):
        (project.root / name).unlink()
    return project


def test_a_number_and_link_of_another_paper_are_found(own: Any) -> None:
    text = own.read(OTHER).replace("2407.09999", "2407.01426")
    own.write(OTHER, text)
    problems = own.problems()
    assert [(problem.file, problem.key) for problem in problems] == [
        (own.root / OTHER, "identifiers.arxiv"),
        (own.root / OTHER, "links.0.url"),
    ]
    assert {problem.rule for problem in problems} == {"2407.01426 is another paper: A paper on protein folding"}
    assert {problem.remedy for problem in problems} == {"mend the number or the title"}
    lines = text.split("\n")
    assert lines[problems[0].line - 1][problems[0].column - 1 :].startswith("arxiv:")
    assert lines[problems[1].line - 1][problems[1].column - 1 :].startswith("url:")


def test_a_link_alone_is_looked_up_if_there_is_no_number(own: Any) -> None:
    own.change(OTHER, 'arxiv: "2407.09999", ', "")
    own.change(OTHER, "abs/2407.09999", "pdf/2407.01426v2")
    (problem,) = own.problems()
    assert problem.key == "links.0.url" and problem.rule.startswith("2407.01426v2 is another paper")


def test_an_unknown_number_is_to_be_looked_up(own: Any) -> None:
    own.change(SNAPSHOT, '  "2407.09999": ["Something else entirely"]\n', "")
    assert {problem.rule for problem in own.problems()} == {"2407.09999 is not in the snapshot of identifiers"}
    assert "add its title to snapshots/arxiv.yaml" in own.problems()[0].remedy


def test_a_title_is_told_from_others_and_an_earlier_one_may_be_an_alias(own: Any) -> None:
    own.change(OTHER, "title: Something else entirely", "title: Renamed in its second version")
    assert [problem.key for problem in own.problems()] == ["identifiers.arxiv", "links.0.url"]
    alias = "aliases:\n  - {text: Something else entirely, kind: earlier_title}\nauthors:"
    own.change(OTHER, "authors:", alias)
    assert own.library().records["other"].title.startswith("Renamed")
    own.change(OTHER, "kind: earlier_title", "kind: abbreviation")
    assert len(own.problems()) == 2


def test_versions_may_have_titles_of_their_own(own: Any) -> None:
    own.change(SNAPSHOT, '  "2407.09999"', '  "2407.09999v2": [Renamed in its second version]\n  "2407.09999"')
    own.library()
    own.change(OTHER, 'arxiv: "2407.09999"', 'arxiv: "2407.09999", version: 2')
    (problem,) = own.problems()
    assert problem.rule == "2407.09999v2 is another paper: Renamed in its second version"


def test_the_snapshot_speaks_beside_the_list(project: Any) -> None:
    project.change(OTHER, "title: Something else entirely", "title: A paper on nothing")
    rules = sorted(problem.rule.partition(" of the list")[0] for problem in project.problems())
    assert rules == ["2407.09999 is another paper: Something else entirely"] * 2 + ["entry CA2"]


MISTAKES = {
    "no date": ("date: 2026-11-23\n", "", "date", "titles:", "the key `date` is missing", "add it: Day the titles"),
    "no titles": ('["Fast: a paper"]', "[]", "titles.2407.01425", '"2407.01425"', "is []", "Titles by arXiv number"),
    "one text": ('["Fast: a paper"]', "Fast", "titles.2407.01425", '"2407.01425"', "is 'Fast'",
                 "Titles by arXiv number"),
    "number": ('"2407.01426"', '"24.1"', "titles.24.1", '"24.1"', "is '24.1'", "arXiv number in quotes"),
    "number twice": ('"2407.01426"', '"2407.01425"', "titles.2407.01425", '"2407.01425"', "stands twice", "remove one"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "at", "rule", "remedy"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_snapshot_is_explained(
    project: Any, old: str, new: str, key: str, at: str, rule: str, remedy: str
) -> None:
    project.explains(SNAPSHOT, old, new, key, at, rule, remedy)


def test_titles_are_compared_by_their_words() -> None:
    assert same_title("Fast³: A Paper", "fast 3 - a papér")
    assert same_title(
        "Token Merging for Fast Stable", "Token Merging for Fast Stable Diffusion, with Appendix and More"
    )
    assert not same_title("Fast", "Fast and Slow: A Different Paper")
    assert not same_title("Token Merging for Fast Stable Diffusion", "Token Pruning for Small Language Models")


def test_shipped_numbers_are_those_of_their_titles() -> None:
    documents: list[Any] = []
    known = read_snapshot(ROOT, documents)
    records = load_records()
    assert not documents[0].problems and len(known) > 50
    assert [str(problem) for problem in report_other_papers(records, known, ROOT)] == []


def test_shipped_records_give_back_every_fact_of_the_list() -> None:

    problems = seed.compare(load_records(), seed.stored(), load_vocabularies(), ROOT / "papers")
    assert [str(problem) for problem in problems] == []
