"""What the commands share: options, and errors as sentences instead of tracebacks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import CatalogError
from catalog.files import ROOT
from catalog.output import Format

if TYPE_CHECKING:
    from catalog.database import Database

FAILED = 2
CatalogFolder = Annotated[
    Path | None,
    typer.Option(
        "--catalog",
        help="Folder of a catalog (papers/, vocab/, views/ ...).",
        show_default="this project's",
        exists=True,
        file_okay=False,
    ),
]
Form = Annotated[Format, typer.Option("--format", "-f", help="How to print.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many rows.", show_default="all")]


def opened(root: Path | None, force: bool = False) -> Database:
    """The database of a catalog, up to date."""
    from catalog.database import open_database

    if root and not any((root / "papers").glob("*.yaml")):
        from catalog.record import record_files

        record_files(root / "papers")  # says what is missing, before a database is made beside what is no catalog
    return open_database(root or ROOT, force=force)


@contextmanager
def reporting() -> Iterator[None]:
    """Known failures on standard error, exit code 2."""
    try:
        yield
    except CatalogError as error:
        for message in error.messages:
            print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(FAILED) from None


def listed(words: list[str] | None) -> list[str]:
    """Values of an option that may be repeated, and may hold several with commas."""
    return [part.strip() for word in words or () for part in word.split(",") if part.strip()]
