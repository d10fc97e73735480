"""`catalog query …` and `catalog search`: questions to the database."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from catalog.cli.support import FAILED, CatalogFolder, Form, Limit, listed, opened, reporting
from catalog.output import Format, put, show

app = typer.Typer(no_args_is_help=True, help="Ask the database; every answer as a table, JSON or CSV.")

PAPERS = {
    "id": "id", "abbreviation": "paper", "venue": "venue", "training": "training", "mechanisms": "mechanism",
    "base_models": "models", "status": "status",
}  # fmt: skip
Several = list[str] | None
Paper = Annotated[str | None, typer.Option("--paper", help="Id, abbreviation or alias of a paper.")]
Metric = Annotated[str | None, typer.Option("--metric", help="A metric, such as speedup.")]


@app.command()
def papers(
    training: Annotated[Several, typer.Option(help="none, calibration, search, finetune, distill, train.")] = None,
    mechanism: Annotated[Several, typer.Option(help="Mechanism or family; those below it are included.")] = None,
    application: Annotated[Several, typer.Option(help="What is generated; those below it are included.")] = None,
    base_model: Annotated[Several, typer.Option(help="Model it was shown on, such as dit or opensora.")] = None,
    arch: Annotated[Several, typer.Option(help="Architecture it was shown on: unet, dit, mmdit ...")] = None,
    status: Annotated[
        Several, typer.Option(help="State of the engine's block: planned, implemented, verified.")
    ] = None,
    scope: Annotated[Several, typer.Option(help="acceleration or editing.")] = None,
    venue: Annotated[Several, typer.Option(help="Venue to cite, such as iclr.")] = None,
    list_venue: Annotated[str | None, typer.Option(help="Beginning of the venue in the original list.")] = None,
    year: Annotated[list[int] | None, typer.Option(help="Year of the publication to cite.")] = None,
    author: Annotated[str | None, typer.Option(help="Words of an author's name.")] = None,
    published: Annotated[bool, typer.Option("--published", help="No preprints.")] = False,
    having: Annotated[Several, typer.Option("--with", help="code, claim, correction, measurement, spec.")] = None,
    without: Annotated[Several, typer.Option(help="The opposite of --with.")] = None,
    sort: Annotated[
        str, typer.Option(help="id, abbreviation, title, date, venue, year, status; `-date`: newest first.")
    ] = "id",
    limit: Limit = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Papers that meet all conditions; of several values of one condition, one is enough (repeat it, or use commas)."""
    from catalog import query

    with reporting():
        wanted = query.PaperFilter(
            training=listed(training), mechanism=listed(mechanism), application=listed(application),
            base_model=listed(base_model), arch=listed(arch), status=listed(status), scope=listed(scope),
            venue=listed(venue), list_venue=list_venue, year=year or (), author=author, published=published,
            having=listed(having), without=listed(without),
        )  # fmt: skip
        with opened(root).reading() as connection:
            rows = query.papers(connection, wanted, sort, limit)
    show(rows, form, PAPERS)


@app.command()
def results(
    paper: Paper = None,
    metric: Metric = None,
    compare: Annotated[bool, typer.Option("--compare", help="Claims beside measurements, with a grade.")] = False,
    grade: Annotated[Several, typer.Option(help="With --compare: same, near, not.")] = None,
    sort: Annotated[
        str, typer.Option(help="With --compare: paper, gap, claimed, measured; a minus turns it round.")
    ] = "paper",
    limit: Limit = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """What was measured, and with --compare what was claimed. Ratios only where both may be compared."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        name = query.find(connection, paper) if paper else None
        if compare:
            rows = query.comparison(connection, name, metric, listed(grade), sort, limit)
            columns = {
                "paper": "paper", "base_model_id": "model", "metric": "metric", "claimed": "claimed",
                "measured": "measured", "grade": "grade", "measured_over_claimed": "ratio",
                "weights": "weights", "measured_on": "measured on", "run_note": "run", "source": "source of the claim",
            }  # fmt: skip
        else:
            rows = query.results(connection, name, metric)[:limit]
            columns = {
                "paper": "paper", "spec": "spec", "metric": "metric", "value": "value", "baseline": "plain",
                "unit": "unit", "n": "n", "low": "low", "high": "high", "weights": "weights", "hardware": "hardware",
            }  # fmt: skip
    show(rows, form, columns)


@app.command()
def claims(paper: Paper = None, metric: Metric = None, form: Form = Format.TABLE, root: CatalogFolder = None) -> None:
    """Published numbers with source and confidence; `computed` marks ratios that follow from two of them."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        rows = query.claims(connection, query.find(connection, paper) if paper else None, metric)
    columns = {
        "paper": "paper", "base_model_id": "model", "metric": "metric", "value": "value", "baseline": "plain",
        "steps": "steps", "resolution": "size", "hardware": "hardware", "source": "source", "confidence": "sure",
        "computed": "computed",
    }  # fmt: skip
    show(rows, form, columns)


@app.command()
def links(
    kind: Annotated[Several, typer.Option(help="paper, code, project.")] = None,
    licence: Annotated[str | None, typer.Option(help="SPDX id, `permissive` or `unknown`.")] = None,
    status: Annotated[str | None, typer.Option(help="ok, moved, broken; `!ok` for all but that.")] = None,
    older: Annotated[int | None, typer.Option(min=0, help="Not checked for so many days.")] = None,
    paper: Paper = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Links, with licence and what the last check found."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        name = query.find(connection, paper) if paper else None
        rows = query.links(connection, listed(kind), licence, status, name, older)
    show(
        rows,
        form,
        {"paper": "paper", "kind": "kind", "url": "address", "licence": "licence", "status": "status", "note": "note"},
    )


@app.command()
def corrections(
    paper: Paper = None,
    fields: Annotated[
        Several, typer.Option("--field", help="title, venue, authors, links.code, tags.mechanisms ...")
    ] = None,
    confidence: Annotated[Several, typer.Option(help="A, B, C.")] = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """What was corrected against the original list, and on what evidence."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        name = query.find(connection, paper) if paper else None
        rows = query.corrections(connection, name, listed(fields), listed(confidence))
    show(
        rows,
        form,
        {"paper": "paper", "field": "field", "was": "was", "now": "now", "confidence": "sure", "evidence": "evidence"},
    )


@app.command()
def count(
    by: Annotated[
        Several, typer.Option(help="training, mechanism, family, application, base-model, venue, year, status.")
    ] = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Numbers of papers by one or several facets."""
    from catalog import query

    names = listed(by) or ["family"]
    with reporting(), opened(root).reading() as connection:
        rows = query.count(connection, names)
    show(rows, form, {name.replace("-", "_"): name for name in names} | {"papers": "papers"})


@app.command()
def view(
    name: Annotated[str, typer.Argument(help="mechanism or training-free.", show_default=False)],
    section: Annotated[str | None, typer.Option(help="One section, such as cache.")] = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """A view as printed: its entries in order."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        rows = query.view(connection, name, section)
    show(rows, form, {"section": "section", "number": "no.", "abbreviation": "paper", "title": "title"})


@app.command()
def specs(
    status: Annotated[str | None, typer.Option(help="implemented or verified.")] = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Spec files with their papers."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        rows = query.specs(connection, status)
    show(rows, form, {"path": "spec", "abbreviation": "paper", "status": "status"})


@app.command()
def related(
    paper: Annotated[str, typer.Argument(help="Id, abbreviation or alias.", show_default=False)],
    kind: Annotated[Several, typer.Option("--type", help="composes_with, conflicts_with, extends ...")] = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Papers that a paper names, and papers that name it."""
    from catalog import query

    with reporting(), opened(root).reading() as connection:
        rows = query.related(connection, query.find(connection, paper), listed(kind))
    show(rows, form, {"type": "relation", "direction": "direction", "paper": "paper"})


def search(
    text: Annotated[
        str, typer.Argument(help="Words, in any spelling: tgate, `delta dit`, matisan.", show_default=False)
    ],
    limit: Limit = None,
    form: Form = Format.TABLE,
    root: CatalogFolder = None,
) -> None:
    """Papers by words of names, titles, authors, tags, models; accents, dashes and small mistakes do not matter."""
    from catalog import query
    from catalog.search import query_words
    from catalog.search import search as find

    with reporting():
        words = query_words(text)
        if not words:
            print("error: there is no word to search for\n    -> write letters or digits", file=sys.stderr)
            raise typer.Exit(FAILED)
        with opened(root).reading() as connection:
            ids, meant = find(connection, text)
            rows = {row["id"]: row for row in query.papers(connection, query.PaperFilter(ids=ids[:limit]))}
    if meant != words and form is Format.TABLE:
        put(f"searching for: {' '.join(meant)}\n")
    show(
        [rows[paper] for paper in ids[:limit]],
        form,
        {"id": "id", "abbreviation": "paper", "title": "title", "venue": "venue", "status": "status"},
    )


app.command("search")(search)
