"""Command line of the catalog. Imports that take time happen inside the commands, so that `--help` is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.cli.edit import add_run, check, fmt, import_lists, new
from catalog.cli.query import app as query_app
from catalog.cli.query import search
from catalog.cli.show import export, show, sql
from catalog.cli.support import CatalogFolder, opened, reporting
from catalog.cli.verify import app as seed_app

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What is known of each paper of the survey: check it, ask it, add to it, make the README of it.",
)
app.add_typer(query_app, name="query")
app.add_typer(seed_app, name="seed")
for command in (search, show, export, sql, check, fmt, new, add_run):
    app.command()(command)
app.command("import")(import_lists)


@app.command()
def build(
    what: Annotated[str, typer.Argument(help="readme, db, schema or all.", show_default=True)] = "all",
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 with a diff if a file is not up to date.")
    ] = False,
    root: CatalogFolder = None,
) -> None:
    """Make what is generated: the README, the database, the JSON Schema of records."""
    from catalog import generate
    from catalog.files import ROOT

    with reporting():
        targets = generate.targets(what)
        if "db" in targets and not check_only:
            database = opened(root, force=True)
            typer.echo(f"built: {database.engine.url.render_as_string(hide_password=True)}")
        stale = generate.files(targets, root or ROOT, write=not check_only)
    for change in stale:
        typer.echo(change.diff if check_only else f"wrote: {change.file}")
    if stale and check_only:
        names = " ".join(sorted({change.target for change in stale}))
        typer.echo(f"error: not up to date\n    -> run `catalog build {names}` and commit the result", err=True)
        raise typer.Exit(1)
