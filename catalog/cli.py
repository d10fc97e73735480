"""Command line of the catalog. Imports that take time happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.names import fold, nearest

if TYPE_CHECKING:
    from catalog.schema import Claim, Record

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What is known of each paper of the survey: check, list and show its records.",
)
FAILED = 2
COLUMNS = {
    "id": "id",
    "abbreviation": "paper",
    "venue": "venue",
    "training": "training",
    "mechanisms": "mechanism",
    "base_models": "models",
    "status": "status",
}


class ListFormat(StrEnum):
    """Forms of `catalog list`."""

    TABLE = "table"
    JSON = "json"


class ShowFormat(StrEnum):
    """Forms of `catalog show`."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


Papers = Annotated[
    Path | None, typer.Option("--papers", help="Folder of records; default: the catalog's own.", show_default=False)
]


def read(papers: Path | None) -> dict[str, Record]:
    """All records, or every problem of every file on standard error and exit code 2."""
    from catalog.record import PAPERS, InvalidRecords, load_records

    try:
        return load_records(papers or PAPERS)
    except InvalidRecords as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(FAILED) from None


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(data, indent=2, allow_nan=False))


@app.command()
def check(papers: Papers = None) -> None:
    """Check all records; every problem is shown."""
    records = read(papers)
    claims = [claim for record in records.values() for claim in record.claims]
    unverified = sum(claim.confidence == "C" for claim in claims)
    print(f"ok: {len(records)} records, {len(claims)} claims ({unverified} of them unverified)")


@app.command("list")
def list_records(
    form: Annotated[ListFormat, typer.Option("--format", help="How to print.")] = ListFormat.TABLE,
    papers: Papers = None,
) -> None:
    """List the papers."""
    rows = [overview(record) for record in read(papers).values()]
    if form is ListFormat.JSON:
        print_json(rows)
        return
    print_table(COLUMNS, rows)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(help="Id of a record, such as `toca`.", show_default=False)],
    form: Annotated[ShowFormat, typer.Option("--format", help="How to print.")] = ShowFormat.TEXT,
    papers: Papers = None,
) -> None:
    """Show everything known of one paper."""
    from catalog.record import PAPERS

    records = read(papers)
    known = {fold(name): record.id for record in records.values() for name in (record.id, record.abbreviation)}
    if fold(slug) not in known:
        print(f"error: there is no record `{slug}`\n    -> {nearest(slug, records)}", file=sys.stderr)
        raise typer.Exit(FAILED)
    record = records[known[fold(slug)]]
    if form is ShowFormat.JSON:
        print_json(record.model_dump(mode="json", by_alias=True))
    elif form is ShowFormat.YAML:
        print(((papers or PAPERS) / f"{record.id}.yaml").read_text(encoding="utf-8"), end="")
    else:
        show_text(record)


def overview(record: Record) -> dict[str, Any]:
    """One row of the list."""
    return {
        "id": record.id,
        "abbreviation": record.abbreviation,
        "title": record.title,
        "venue": record.venue,
        "arxiv": record.identifiers.arxiv,
        "training": record.tags.training,
        "mechanisms": list(record.tags.mechanisms),
        "applications": list(record.tags.applications),
        "base_models": list(record.tags.base_models),
        "status": record.status,
        "claims": len(record.claims),
    }


def show_text(record: Record) -> None:
    """A record for people: facts first, then claims and corrections."""
    from catalog.schema import CONFIDENCE

    print(f"{record.abbreviation}: {record.title}" if record.abbreviation not in record.title else record.title)
    print(", ".join(f"{author.given} {author.family}" for author in record.authors))
    print(f"\n{record.summary.short}\n")
    for name, value in facts(record):
        print(f"{name:<13} {value}")
    if record.claims:
        print(f"\nClaims ({CONFIDENCE})")
    # Claims of one run stand together in a record, so that neighbours under one heading are one measurement.
    for heading, claims in groupby(record.claims, claim_heading):
        print(f"  {heading}\n      {', '.join(map(claim_text, claims))}")
    for entry in record.corrections:
        print(f"\nCorrected: {entry.field} was {entry.was}, is {entry.now}: {entry.why} [{entry.confidence}]")
        print(f"  {entry.evidence}")


def facts(record: Record) -> list[tuple[str, str]]:
    """The lines of a record that need no table."""
    tags, block = record.tags, record.technique
    lines = [("published", describe(entry.label, entry.track, entry.note)) for entry in record.publications]
    lines += [(link.kind, describe(link.url, link.licence, link.note)) for link in record.links]
    lines += [
        ("mechanism", words(tags.mechanisms)),
        ("generates", words(tags.applications)),
        ("base models", words(tags.base_models)),
        ("training", tags.training),
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
    parts += [f"{key}={value:g}" for key, value in claim.settings.parameters.items()]
    under = f" with {', '.join(parts)}" if parts else ""
    return f"{claim.confidence}  {claim.base_model}{under}: {describe(claim.source.where, claim.note)}"


def claim_text(claim: Claim) -> str:
    """The number, after that of the plain model if there is one."""
    plain = "" if claim.baseline is None else f"{claim.baseline:g} -> "
    return f"{claim.metric} {plain}{claim.value:g}"


def words(value: str | Sequence[str]) -> str:
    """Vocabulary words for people: without underscores, lists with commas."""
    return (value if isinstance(value, str) else ", ".join(value)).replace("_", " ")


def print_table(columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """A table of `rows`; `columns` maps their keys to headings. Cells are plain text: brackets are no markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(words(row[key])) for key in columns))
    Console().print(table)


if __name__ == "__main__":
    app()
