"""Writing an imported catalog to a folder, whole or not at all, and saying which of its files need a person."""

from __future__ import annotations

import shutil
import unicodedata
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from catalog.document import Document, Problem
from catalog.encoding import printable
from catalog.errors import CatalogError
from catalog.files import write_whole
from catalog.fmt import dump
from catalog.library import collected, read_views
from catalog.record import load_records, raise_problems, vocabulary_folder
from catalog.vocabulary import Vocabularies

if TYPE_CHECKING:
    from catalog.importer import Draft


class AlreadyThere(CatalogError):
    """The folder for a new catalog holds something."""

    def __init__(self, folder: Path) -> None:
        what = "holds a catalog" if (folder / "papers").exists() else "is not an empty folder"
        name = printable(str(folder))
        super().__init__(f"{name}: {what}, and nothing is overwritten\n    -> name a new folder, or remove this one")


def write_catalog(draft: Draft, out: Path, root: Path) -> int:
    """Write records, views, and the vocabularies of the catalog in `root` to the folder `out`; the number of files.

    They appear all at once: the folder is written under another name and renamed. Raises `AlreadyThere`.
    """
    folder = out.resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise AlreadyThere(out)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.part"
    try:
        texts = files_of(draft) | vocabulary_texts(root)
        for name, text in texts.items():
            write_whole(scratch / name, text)
        scratch.rename(folder)
    except OSError:
        if folder.is_dir() and any(folder.iterdir()):  # somebody else wrote there meanwhile
            raise AlreadyThere(out) from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return len(texts)


def files_of(draft: Draft) -> dict[str, str]:
    """Text of every file of an imported catalog by its path in the folder, without the vocabularies."""
    records = {f"papers/{slug}.yaml": record for slug, record in draft.records.items()}
    views = {f"views/{name}.yaml": view for name, view in draft.views.items()}
    return {name: unicodedata.normalize("NFC", dump(data)) for name, data in (records | views).items()}


def vocabulary_texts(root: Path) -> dict[str, str]:
    """The vocabularies of the catalog in `root`: the new catalog gets its own, to add words to."""
    files = sorted(vocabulary_folder(root).glob("*.yaml"))
    return {f"vocab/{file.name}": file.read_text(encoding="utf-8") for file in files}


def problems_of(draft: Draft, vocabularies: Vocabularies) -> list[Problem]:
    """What keeps an imported catalog from being loaded; files are named by their path in its folder."""
    problems: list[Problem] = []
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in files_of(draft).items():
            write_whole(root / name, text)
        collected(lambda: load_records(root / "papers", vocabularies), problems)
        documents: list[Document] = []
        read_views(root, vocabularies, set(draft.records), documents)
        collected(lambda: raise_problems(documents), problems)
        return [
            Problem(
                problem.file.relative_to(root), problem.line, problem.column, problem.key, problem.rule, problem.remedy
            )
            for problem in problems
        ]
