"""`catalog show`, `catalog export` and `catalog sql`: one paper, many papers, anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.cli.support import CatalogFolder, Form, opened, reporting
from catalog.output import Format, put, visible
from catalog.output import show as show_rows

if TYPE_CHECKING:
    from catalog.library import Library
    from catalog.schema import Claim, Record


class ShowFormat(StrEnum):
    """Forms of `catalog show`."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"
    BIBTEX = "bibtex"


class ExportFormat(StrEnum):
    """Forms of `catalog export`."""

    BIBTEX = "bibtex"
    CSL = "csl-json"
    CSV = "csv"
    JSON = "json"


def show(
    paper: Annotated[str, typer.Argument(help="Id, abbreviation or alias, such as `toca`.", show_default=False)],
    form: Annotated[ShowFormat, typer.Option("--format", "-f", help="How to print.")] = ShowFormat.TEXT,
    root: CatalogFolder = None,
) -> None:
    """Everything known of one paper."""
    from catalog import export, query
    from catalog.files import ROOT
    from catalog.library import library_of
    from catalog.output import as_json

    with reporting():
        with opened(root).reading() as connection:
            slug = query.find(connection, paper)
            record = query.record(connection, slug)
        if form is ShowFormat.JSON:
            put(as_json(record) + "\n")
        elif form is ShowFormat.YAML:
            put(((root or ROOT) / "papers" / f"{slug}.yaml").read_text(encoding="utf-8"))
        else:
            library = library_of({slug: record}, root or ROOT)
            if form is ShowFormat.BIBTEX:
                put(export.bibtex([library.records[slug]], library))
            else:
                put(visible(text_of(library.records[slug], library)) + "\n")


def export(
    form: Annotated[ExportFormat, typer.Option("--format", "-f", help="Form of the file.")],
    view: Annotated[str | None, typer.Option(help="Only the papers of a view, in its order.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.", show_default="the screen")] = None,
    root: CatalogFolder = None,
) -> None:
    """All papers as a bibliography (BibTeX, CSL-JSON) or as data (CSV, JSON)."""
    from catalog import export as exports
    from catalog import query
    from catalog.files import ROOT, write_whole
    from catalog.library import library_of

    with reporting():
        with opened(root).reading() as connection:
            library = library_of(query.records(connection), root or ROOT)
            ids = [row["id"] for row in query.view(connection, view)] if view else sorted(library.records)
            wanted = list(dict.fromkeys(ids))
            rows = {row["id"]: row for row in query.papers(connection, query.PaperFilter())}
        text = exports.exported(
            form.value, [library.records[paper] for paper in wanted], [rows[paper] for paper in wanted], library
        )
        if out is None:
            put(text)
        else:
            write_whole(out, text)


def sql(
    statement: Annotated[str, typer.Argument(help="One `select`; values as :name.", show_default=False)],
    param: Annotated[list[str] | None, typer.Option("--param", help="Value of a :name, as name=value.")] = None,
    fail_empty: Annotated[bool, typer.Option("--fail-empty", help="Exit 1 if there are no rows.")] = False,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Any question in SQL; nothing can be changed."""
    from catalog.readonly import ask

    unnamed = [text for text in param or () if not re.match(r"\w+=", text)]
    if unnamed:
        raise typer.BadParameter(f"`{unnamed[0]}` is not of the form name=value", param_hint="--param")
    values = dict(text.partition("=")[::2] for text in param or ())
    with reporting():
        rows = ask(opened(root), statement, values)
    show_rows(rows, form, {key: key for key in (rows[0] if rows else {})})
    if fail_empty and not rows:
        raise typer.Exit(1)


def text_of(record: Record, library: Library) -> str:
    """A record for people: facts first, then claims and corrections."""
    from catalog.schema import CONFIDENCE

    lines = [f"{record.abbreviation}: {record.title}" if record.abbreviation not in record.title else record.title]
    lines += [", ".join(author.printed or author.name for author in record.authors)]
    if record.summary:
        lines += ["", record.summary.short, *([record.summary.long] if record.summary.long else [])]
    lines += ["", *(f"{name:<13} {value}" for name, value in facts(record, library))]
    if record.claims:
        lines += ["", f"Claims ({CONFIDENCE})"]
    # Claims of one run stand together in a record, so that neighbours under one heading are one measurement.
    for heading, claims in groupby(record.claims, claim_heading):
        lines += [f"  {heading}", f"      {', '.join(map(claim_text, claims))}"]
    for entry in record.corrections:
        lines += ["", f"Corrected: {entry.field} was {entry.was}, is {entry.now}: {entry.why} [{entry.confidence}]"]
        lines += [f"  {entry.evidence}"]
    return "\n".join(lines)


def facts(record: Record, library: Library) -> list[tuple[str, str]]:
    """The lines of a record that need no table."""
    tags, block = record.tags, record.technique
    lines = [
        ("published", describe(library.venue(entry), entry.track, entry.award, entry.note))
        for entry in record.publications
    ]  # fmt: skip
    lines += [(link.kind, describe(link.url, link.licence, link.note)) for link in record.links]
    lines += [
        ("mechanism", words(tags.mechanisms)),
        ("generates", words(tags.applications)),
        ("base models", ", ".join(library.label("base_models", model) for model in tags.base_models)),
        ("training", describe(tags.training or "not established", tags.note)),
        ("technique", describe(block.block, block.status, *block.specs) if block else "none"),
    ]
    return lines + [("relation", f"{words(entry.type)} {entry.target}") for entry in record.relations]


def describe(text: str, *remarks: str | None) -> str:
    """`text`, with remarks in brackets where there are any."""
    given = "; ".join(remark for remark in remarks if remark)
    return f"{text} ({given})" if given else text


def claim_heading(claim: Claim) -> str:
    """What the claims of one run share: confidence, model, settings, source, note."""
    settings = claim.settings.model_dump(exclude_defaults=True, exclude={"parameters"})
    parts = [f"{words(key)} {value}" for key, value in settings.items()]
    parts += [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in claim.settings.parameters.items()
    ]
    under = f" with {', '.join(parts)}" if parts else ""
    return f"{claim.confidence}  {claim.base_model}{under}: {describe(claim.source.where, claim.note)}"


def claim_text(claim: Claim) -> str:
    """The number, after that of the plain model if there is one."""
    plain = "" if claim.baseline is None else f"{claim.baseline:g} -> "
    return f"{claim.metric} {plain}{claim.value:g}"


def words(value: str | Sequence[str]) -> str:
    """Vocabulary words for people: without underscores, lists with commas."""
    return (value if isinstance(value, str) else ", ".join(value)).replace("_", " ")
