"""Everything the YAML files of a catalog say, checked as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from catalog import seed
from catalog.document import Document, Problem
from catalog.files import ROOT
from catalog.lists import News, NewsFile, Origin, View, view_rules
from catalog.names import nearest
from catalog.record import InvalidRecords, load_records, load_vocabularies, raise_problems, validated, vocabulary_folder
from catalog.schema import Publication, Record
from catalog.snapshot import Snapshot, report_other_papers
from catalog.vocabulary import Vocabularies


@dataclass(frozen=True)
class Words:
    """Context of a validation that only needs the vocabularies."""

    vocabularies: Vocabularies


@dataclass(frozen=True)
class Library:
    """Records and what surrounds them."""

    root: Path
    vocabularies: Vocabularies
    records: Mapping[str, Record]
    views: tuple[View, ...] = ()
    news: tuple[News, ...] = ()
    origin: Origin | None = None

    def venue(self, publication: Publication) -> str:
        """As a list prints it: `ICLR 2025`."""
        return f"{self.vocabularies['venues'][publication.venue].label} {publication.year}"

    def label(self, vocabulary: str, key: str) -> str:
        """A word for readers."""
        return self.vocabularies[vocabulary][key].label


def load_library(root: Path = ROOT) -> Library:
    """The catalog in the folder `root`. Raises `InvalidRecords` with the problems of all files."""
    problems: list[Problem] = []
    words = load_vocabularies(vocabulary_folder(root))
    records = collected(lambda: load_records(root / "papers", words), problems) or {}
    documents: list[Document] = []
    views = read_views(root, words, {file.stem for file in (root / "papers").glob("*.yaml")}, documents)
    news = read_news(root, set(records), documents)
    origin = read_origin(root, documents)
    titles = read_snapshot(root, documents)
    collected(lambda: raise_problems(documents), problems)
    if not problems:
        listed = seed.stored(root / "seed") if origin else None
        problems += seed.compare(records, listed, words, root / "papers") if listed else []
        problems += placement_problems(records, views, root) if listed else []
        problems += count_problems(origin, records, len(listed), root) if origin and listed else []
        problems += report_other_papers(records, titles, root)
        problems += unplaced_problems(records, views, root)
    if problems:
        raise InvalidRecords(sorted(problems, key=attrgetter("file", "line", "column")))
    return Library(root, words, records, tuple(views), tuple(news), origin)


def library_of(records: Mapping[str, Any], root: Path = ROOT) -> Library:
    """A library of records that were checked before, as the database keeps them (plain data by id); no views."""
    words = load_vocabularies(vocabulary_folder(root))
    context = Words(words)
    read = {paper: Record.model_validate_json(json.dumps(data), context=context) for paper, data in records.items()}
    return Library(root, words, read)


def collected(work: Callable[[], dict[str, Record] | None], problems: list[Problem]) -> dict[str, Record] | None:
    """What `work` returns, or None after adding its problems to `problems`."""
    try:
        return work()
    except InvalidRecords as error:
        problems += error.problems
        return None


def read_views(root: Path, words: Vocabularies, papers: set[str], documents: list[Document]) -> list[View]:
    """The views of a catalog, in order."""
    views = []
    for file in sorted((root / "views").glob("*.yaml")):
        documents.append(document := Document(file))
        if view := validated(document, View, Words(words)) if document.data else None:
            view_rules(document, view, papers)
            views.append(view)
    return sorted(views, key=lambda view: (view.position, view.id))


def read_news(root: Path, papers: set[str], documents: list[Document]) -> list[News]:
    """The news of a catalog, newest first."""
    news: list[News] = []
    for file in sorted((root / "news").glob("*.yaml")):
        documents.append(document := Document(file))
        found = validated(document, NewsFile, None) if document.data else None
        for index, item in enumerate(found.items if found else ()):
            news.append(item)
            if papers and item.paper is not None and item.paper not in papers:
                document.report(("items", index, "paper"), f"no record `{item.paper}`", nearest(item.paper, papers))
    return sorted(news, key=lambda item: item.date, reverse=True)


def read_origin(root: Path, documents: list[Document]) -> Origin | None:
    """The list the catalog grew from; None for a catalog of its own."""
    file = root / "seed" / "list.yaml"
    if not file.is_file():
        return None
    documents.append(document := Document(file))
    return validated(document, Origin, None) if document.data else None


def read_snapshot(root: Path, documents: list[Document]) -> Mapping[str, list[str]]:
    """Titles by arXiv number, or by number and version where versions differ; empty without a snapshot."""
    file = root / "snapshots" / "arxiv.yaml"
    if not file.is_file():
        return {}
    documents.append(document := Document(file))
    found = validated(document, Snapshot, None) if document.data else None
    return found.titles if found else {}


def count_problems(origin: Origin, records: Mapping[str, Record], entries: int, root: Path) -> list[Problem]:
    """The numbers of entries and papers that the file about the list states are those there are."""
    papers = sum(record.seed is not None for record in records.values())
    return [
        seed.problem(root / "seed" / "list.yaml", key, f"the list has {there} {key}, not {stated}", f"write {there}")
        for key, stated, there in (("entries", origin.entries, entries), ("papers", origin.papers, papers))
        if stated != there
    ]


def unplaced_problems(records: Mapping[str, Record], views: Iterable[View], root: Path) -> list[Problem]:
    """In a catalog with views, every paper stands in one: readers would not find it otherwise."""
    placed = {paper for view in views for section in view.sections for paper in section.papers}
    remedy = "name it in a section of a file in views/"
    return [
        seed.problem(root / "papers" / f"{paper}.yaml", "id", f"the paper `{paper}` is in no view", remedy)
        for paper in sorted(set(records) - placed)
        if placed
    ]


def placement_problems(records: Mapping[str, Record], views: Iterable[View], root: Path) -> list[Problem]:
    """Views keep the order of the original list: entry CA9 is the ninth of the section with the code CA."""
    sections = {
        section.code: (root / "views" / f"{view.id}.yaml", f"sections.{index}.papers", section.papers)
        for view in views
        for index, section in enumerate(view.sections)
        if section.code
    }
    listed = {code: record.id for record in records.values() if record.seed for code in record.seed.entries}
    problems = []
    for code, paper in sorted(listed.items(), key=lambda entry: (entry[0][:2], int(entry[0][2:]))):
        file, key, papers = sections.get(code[:2], (root / "views", "", []))
        place = int(code[2:]) - 1
        if papers[place : place + 1] != [paper]:
            there = f"`{papers[place]}`" if place < len(papers) else "nothing"
            rule = f"the views have {there} at {code}, the original list `{paper}`"
            remedy = "keep the order of the list: new papers stand after its own"
            problems.append(seed.problem(file, f"{key}.{place}" if key else "", rule, remedy))
    return problems
