"""Exports: BibTeX that two parsers read without complaint, CSL-JSON in the form of its schema, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bibtexparser
import jsonschema
import pybtex.database
import pybtex.errors
import pytest
from pylatexenc.latex2text import LatexNodes2Text

from catalog import export
from catalog.library import Library
from catalog.schema import Record

GOLDEN = Path(__file__).parent / "papers.bib"
DECODER = LatexNodes2Text(math_mode="text")
PRIMARY = {"venue": "iclr", "year": 2025, "kind": "conference", "primary": True}
KINDS = {
    "preprint": ("arxiv", "misc", "article"),
    "workshop": ("cvpr_workshop", "inproceedings", "paper-conference"),
    "conference": ("iclr", "inproceedings", "paper-conference"),
    "journal": ("tmlr", "article", "article-journal"),
}
CSL_ITEM: dict[str, Any] = {  # the part of the published CSL data schema that these items use
    "type": "object",
    "required": ["id", "type", "title", "author", "issued"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "type": {"enum": ["article", "article-journal", "paper-conference"]},
        "author": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["family", "given"],
                "additionalProperties": False,
                "properties": {"family": {"type": "string"}, "given": {"type": "string"}},
            },
        },
        "issued": {
            "type": "object",
            "required": ["date-parts"],
            "additionalProperties": False,
            "properties": {
                "date-parts": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 2,
                    "items": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "integer"}},
                }
            },
        },
        **{name: {"type": "string"} for name in ("title", "container-title", "page", "DOI", "number", "URL")},
    },
}


def decoded(latex: str) -> str:
    text: str = DECODER.latex_to_text(latex)
    return text


def parsed(text: str) -> dict[str, Any]:
    """The entries of both parsers, which must agree; any complaint fails."""
    library = bibtexparser.parse_string(text)
    assert library.failed_blocks == [] and len(library.blocks) == len(library.entries)
    with pybtex.errors.capture() as complaints:
        entries = pybtex.database.parse_string(text, "bibtex").entries
    assert complaints == [] and list(entries) == [entry.key for entry in library.entries]
    for entry in library.entries:
        assert entry.entry_type == entries[entry.key].type
        for field in entry.fields:
            if field.key != "author":
                assert entries[entry.key].fields[field.key] == re.sub(r"\s+", " ", field.value)
    return dict(entries)


def check(records: list[Record], library: Library) -> dict[str, Any]:
    """Titles and authors decode to those of the records."""
    entries = parsed(export.bibtex(records, library))
    assert list(entries) == [record.id for record in records]
    for record in records:
        entry = entries[record.id]
        assert decoded(entry.fields["title"]) == record.title
        people = [
            (
                decoded(" ".join(person.prelast_names + person.last_names)),
                decoded(" ".join(person.first_names + person.middle_names)),
            )
            for person in entry.persons["author"]
        ]
        assert people == [(author.family, author.given) for author in record.authors]
    return entries


def test_all_papers_are_read_by_both_parsers_and_decode_to_their_records(library: Library) -> None:
    entries = check(list(library.records.values()), library)
    assert len(entries) == 59
    for entry in entries.values():
        assert int(entry.fields["year"]) > 2015
        assert ("eprint" in entry.fields) == (entry.fields.get("archiveprefix") == "arXiv")
        assert {"journal", "booktitle"} & set(entry.fields) or entry.type == "misc"


def test_three_papers_are_exactly_these_bytes(library: Library, update_golden: bool) -> None:
    text = export.bibtex([library.records[paper] for paper in ("toca", "f3_pruning", "t_gate_v2")], library)
    if update_golden:
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "title",
    [
        "Δ-DiT: Ω ≤ β³ on 50% of C++ & C# with x_1",
        "Curly {braces}, {unbalanced and } the rest",
        r"A \backslash, \input{x} and a trailing \\",
        "$x$ ~ < > | \" ' ` '' `` -- --- ?` !` \"\"",
        "} @comment{x, } @article{evil, title = {x}}",
        "@string{a = 1}, #1 and a = b,",
        "Müller, Ørsted, ǎ ǐ Ǧ ă ș ş ž ć Ł ß é",
    ],
)
def test_no_sign_breaks_an_entry(
    title: str, library: Library, record: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    hostile = record(title=title, authors=[{"given": "Rǎzvan-Andrei", "family": "Matişan {x} % & _"}])
    check([hostile, library.records["fora"]], library)
    assert caplog.records == [], "no complaint about signs without LaTeX"


@pytest.mark.parametrize(
    ("given", "family"),
    [("Tin", "Hadži Veljković"), ("A. and B.", "Team"), ("J.", "King, Jr."), ("Joost", "van de Weijer"), ("X", "And")],
)
def test_a_name_is_one_person(given: str, family: str, library: Library, record: Callable[..., Record]) -> None:
    check([record(authors=[{"given": given, "family": family}, {"given": "Ada", "family": "Lovelace"}])], library)


@pytest.mark.parametrize(
    ("title", "latex"),
    [
        ("ToCa: A Fast ODE Solver", "{ToCa}: A Fast {ODE} Solver"),
        ("Training-Free Text-to-Video, in Two Steps", "Training-Free Text-to-Video, in Two Steps"),
        ("Routing MM-DiTs by T-GATE", "Routing {MM-DiTs} by {T-GATE}"),
        ("On F³-Pruning and Δ-DiT", r"On {F{\textthreesuperior}-Pruning} and {{\ensuremath{\Delta}}-DiT}"),
        ("DPM-Solver++ at 4-Bit", "{DPM-Solver++} at 4-Bit"),
        ("Fast Stable Diffusion with Jacobi", "Fast {Stable Diffusion} with {Jacobi}"),
        ("Émile's \N{GREEK SMALL LETTER ALPHA}-Cache", r"{\'E}mile's {\ensuremath{\alpha}}-Cache"),
        ("Use \\LaTeX & AT&T", r"Use {{\textbackslash}LaTeX} {\&} {AT{\&}T}"),
    ],
)
def test_capitals_of_names_stand_in_braces(
    title: str, latex: str, library: Library, record: Callable[..., Record]
) -> None:
    assert export.title(record(title=title)) == latex


def test_a_title_that_begins_with_the_name_keeps_it(record: Callable[..., Record]) -> None:
    assert export.title(record(title="Stable Flow: On It", abbreviation="Stable Flow")) == "{Stable Flow}: On It"
    assert export.title(record(title="Stable Flow: On It", abbreviation="Flow")) == "Stable Flow: On It"


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_publication_is_the_kind_of_entry(
    kind: str, library: Library, record: Callable[..., Record]
) -> None:
    venue, bibtex, csl = KINDS[kind]
    paper = record(publications=[PRIMARY | {"venue": venue, "kind": kind, "pages": "1\N{EN DASH}9"}])
    entry = check([paper], library)["toca"]
    item = export.csl(paper, library)
    assert (entry.type, item["type"]) == (bibtex, csl)
    assert "title" in entry.fields and entry.fields["eprint"] == "2410.05317"
    if kind != "preprint":
        name = library.vocabularies["venues"][venue].name
        assert entry.fields["journal" if kind == "journal" else "booktitle"] == name == item["container-title"]
        assert (entry.fields["pages"], item["page"]) == ("1--9", "1\N{EN DASH}9")


def test_numbers_and_addresses(library: Library, record: Callable[..., Record]) -> None:
    link = {"kind": "paper", "url": "https://x.org/a{b}\\c?d=%20&e_#f"}
    paper = record(identifiers={"arxiv": "2410.05317", "version": 2, "doi": "10.1000/a}{_%b"}, links=[link])
    fields = check([paper], library)["toca"].fields
    assert fields["eprint"] == "2410.05317v2" and fields["archiveprefix"] == "arXiv"
    assert fields["doi"] == "10.1000/a%7D%7B_%b" and fields["url"] == "https://x.org/a%7Bb%7D%5Cc?d=%20&e_#f"


def test_csl_items_are_valid_and_complete(library: Library) -> None:
    records = list(library.records.values())
    items = json.loads(export.exported("csl-json", records, [], library))
    jsonschema.Draft202012Validator({"type": "array", "items": CSL_ITEM}).validate(items)
    assert [(item["id"], item["title"]) for item in items] == [(record.id, record.title) for record in records]
    assert all(
        item["issued"]["date-parts"][0][0] == record.primary.year for item, record in zip(items, records, strict=True)
    )


def test_json_is_what_the_records_say(library: Library) -> None:
    records = [library.records["toca"], library.records["duodiff"]]
    data = json.loads(export.exported("json", records, [], library))
    assert [entry["id"] for entry in data] == ["toca", "duodiff"]
    assert data[1]["authors"][1] == {"given": records[1].authors[1].given, "family": records[1].authors[1].family}
    assert data[0]["schema"] == 1 and data[0]["publications"][1]["primary"] is True


def test_csv_has_a_row_for_each_paper(library: Library) -> None:
    rows = [{"id": "a", "authors": ["X", "Y"], "year": 2024}, {"id": "b", "authors": [], "year": None}]
    text = export.exported("csv", [], rows, library)
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"id": "a", "authors": "X; Y", "year": "2024"}, {"id": "b", "authors": "", "year": ""},
    ]  # fmt: skip
