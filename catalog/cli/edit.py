"""Commands that check and change the catalog: check, fmt, new, import, add-run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.support import FAILED, CatalogFolder, opened, reporting


def check(
    online: Annotated[
        bool, typer.Option("--online", help="Also ask arXiv for titles, and every link whether it answers.")
    ] = False,
    root: CatalogFolder = None,
) -> None:
    """Check all records, views, vocabularies and the proof of the original list; every problem is shown."""
    from catalog.files import ROOT
    from catalog.library import load_library

    with reporting():
        library = load_library(root or ROOT)
    claims = [claim for record in library.records.values() for claim in record.claims]
    unverified = sum(claim.confidence == "C" for claim in claims)
    entries = sum(len(record.seed.entries) for record in library.records.values() if record.seed)
    counted = f"{len(library.records)} records, {len(claims)} claims ({unverified} of them unverified)"
    print(f"ok: {counted}, {entries} entries of the list given back")
    if online:
        from catalog import online as net

        found = list(net.findings(library))
        for finding in found:
            print(f"{finding.place}: {finding.text}", file=sys.stderr)
        print(f"online: {len(found)} findings")
        if found:
            raise typer.Exit(1)


def fmt(
    files: Annotated[list[Path] | None, typer.Argument(help="Records; default: all.", show_default=False)] = None,
    check_only: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")] = False,
    root: CatalogFolder = None,
) -> None:
    """Write records in canonical form: order of keys, quotes, line breaks. Comments stay."""
    from catalog.files import ROOT, write_whole
    from catalog.fmt import Unformattable, formatted, read
    from catalog.record import record_files

    changed, failed = 0, False
    with reporting():
        for file in files or record_files((root or ROOT) / "papers"):
            try:
                text = read(file)
                new_text = formatted(text, file)
            except Unformattable as error:
                print(f"error: {error}", file=sys.stderr)
                failed = True
                continue
            if new_text != text:
                changed += 1
                print(f"would change: {file}" if check_only else f"formatted: {file}")
                if not check_only:
                    write_whole(file, new_text)
    if failed:
        raise typer.Exit(FAILED)
    if changed and check_only:
        raise typer.Exit(1)
    if not changed:
        print("ok: nothing to change")


def new(
    slug: Annotated[str, typer.Argument(help="Id of the paper: lower case, digits, underscores.", show_default=False)],
    arxiv: Annotated[str | None, typer.Option(help="arXiv number, such as 2410.05317.")] = None,
    title: Annotated[str | None, typer.Option(help="Title.")] = None,
    root: CatalogFolder = None,
) -> None:
    """Write a commented skeleton of a record, to be filled in and checked."""
    from catalog.files import ROOT
    from catalog.skeleton import write_skeleton

    with reporting():
        file = write_skeleton(root or ROOT, slug, arxiv, title)
    print(f"wrote: {file}\nnext: fill it in, name it in a file of views/, run `catalog check`")


def add_run(
    reports: Annotated[list[Path], typer.Argument(help="report.json of runs.", show_default=False)],
    publish: Annotated[
        bool, typer.Option("--publish", help="Also write them to catalog/measurements, to be committed.")
    ] = False,
    note: Annotated[str | None, typer.Option(help="What makes the runs differ from their spec.")] = None,
    root: CatalogFolder = None,
) -> None:
    """Store runs of the engine in the database; a run that is there already is not added again."""
    from catalog import results
    from catalog.files import ROOT

    with reporting():
        read = [results.read_report(file / "report.json" if file.is_dir() else file) for file in reports]
        read = [report.model_copy(update={"note": note}) if note else report for report in read]
        database = opened(root)
        for report in read:
            with database.writing() as connection:
                added = results.add(connection, report, published=publish)
            print(f"{'added' if added else 'known'}: {results.run_id(report)} {report.spec}")
            if publish:
                print(f"wrote: {results.publish(report, root or ROOT)}")


def import_lists(
    files: Annotated[list[Path], typer.Argument(help="Markdown files of awesome lists.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new catalog; it must not hold one.")],
    root: CatalogFolder = None,
) -> None:
    """Turn awesome lists into records and views. What cannot be read is listed with its line; nothing is dropped."""
    from catalog.files import ROOT
    from catalog.importer import import_files, vocabularies_of
    from catalog.importer_files import write_catalog

    with reporting():
        found, notes = import_files(files, vocabularies_of(root or ROOT))
        written = write_catalog(found, out, root or ROOT)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{found.entries} entries, {len(found.records)} papers, {len(found.views)} views -> {out} ({written} files)")
    lost = sum(remark.lost for remark in found.remarks)
    if lost:
        print(f"error: {lost} entries could not be read\n    -> see their lines above", file=sys.stderr)
        raise typer.Exit(FAILED)
