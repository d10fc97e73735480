"""`catalog seed verify`: proof that the records give back every fact of the list they grew from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.support import FAILED, CatalogFolder, reporting

app = typer.Typer(no_args_is_help=True, help="The list this catalog grew from.")


@app.callback()
def group() -> None:
    """The list this catalog grew from."""


@app.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(help="README of the list at the commit in catalog/seed/list.yaml.", show_default=False),
    ],
    root: CatalogFolder = None,
) -> None:
    """Compare a list, entry by entry, with the records after reversing their corrections."""
    from catalog import awesome, encoding, seed
    from catalog.files import ROOT
    from catalog.library import load_library

    with reporting():
        folder = root or ROOT
        library = load_library(folder)
        text, notes = encoding.read_list(file)
    for note in notes:
        print(f"note: {file}:{note.line}: {note.text}", file=sys.stderr)
    found = awesome.read(text)
    listed = seed.of_list(found)
    problems = seed.compare(library.records, listed, library.vocabularies, folder / "papers")
    problems += [
        seed.problem(file, "", f"line {remark.line}: {remark.text}", "mend the line")
        for remark in found.remarks
        if remark.lost
    ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(FAILED)
    papers = {record.id for record in library.records.values() if record.seed}
    print(f"ok: {len(listed)} entries of {len(papers)} papers, every fact given back")
