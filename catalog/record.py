"""Reading YAML files of the catalog into models; every broken rule of every file is reported at once.

    catalog/papers/<id>.yaml -> Document (plain data that remembers lines) -> Record

This package stays light enough to answer in a fraction of a second.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from catalog.document import Document, Keys, Problem
from catalog.errors import CatalogError
from catalog.names import fold, nearest
from catalog.rules import BrokenRules, CheckedRecord, Surroundings, report_doubles
from catalog.schema import Record
from catalog.vocabulary import FOLDER, NAMES, Vocabularies, Vocabulary, Word

PAPERS = Path(__file__).parent / "papers"
KEY = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")  # of a word of a vocabulary
Model = TypeVar("Model", bound=BaseModel)


class InvalidRecords(CatalogError):
    """Records cannot be read; `problems` says all that is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    @property
    def messages(self) -> list[str]:
        """One text for every problem."""
        return [str(problem) for problem in self.problems]


def load_records(folder: Path = PAPERS, vocabularies: Vocabularies | None = None) -> dict[str, Record]:
    """All records of a folder by id; raises `InvalidRecords` with every problem of every file."""
    files = record_files(folder)
    documents = [Document(file) for file in files]
    ids = frozenset(file.stem for file in files)
    words = vocabularies or load_vocabularies(vocabulary_folder(folder.parent))
    records = [
        validated(document, CheckedRecord, Surroundings(document.file, ids, words))
        for document in documents
        if document.data is not None
    ]
    report_doubles(documents)
    raise_problems(documents)
    return {record.id: record for record in records if record}


def record_files(folder: Path) -> list[Path]:
    """Files of the records of a folder, in order; raises `InvalidRecords` if there are none."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InvalidRecords([Problem(folder, 1, 1, "", "there are no records here", "name a folder of .yaml files")])
    return files


def vocabulary_folder(root: Path) -> Path:
    """The vocabularies of the catalog in `root`: its own, or those of this package."""
    return root / "vocab" if (root / "vocab").is_dir() else FOLDER


@lru_cache(maxsize=8)
def load_vocabularies(folder: Path = FOLDER) -> dict[str, Vocabulary]:
    """All vocabularies of a folder, a file each, read once. Raises `InvalidRecords` with every problem."""
    return read_vocabularies(folder)


def read_vocabularies(folder: Path) -> dict[str, Vocabulary]:
    """All vocabularies of a folder; those that have no file are empty."""
    documents = {name: Document(folder / f"{name}.yaml") for name in NAMES if (folder / f"{name}.yaml").is_file()}
    vocabularies: dict[str, Vocabulary] = {name: Vocabulary(name, {}) for name in NAMES}
    written = {name: tuple(document.data or ()) for name, document in documents.items()}
    for name, document in documents.items():
        words = _words(document)
        vocabularies[name] = Vocabulary(name, words)
        for key, word in words.items():
            if word.parent is not None and word.parent not in written[name]:
                document.report((key, "parent"), f"`{word.parent}` is no word here", nearest(word.parent, words))
    families = written.get("families", ())
    for key, word in vocabularies["mechanisms"].items():
        if word.family not in families:
            rule, remedy = f"`{word.family}` is no family", nearest(str(word.family), families)
            documents["mechanisms"].report((key, "family"), rule, remedy)
    raise_problems(documents.values())
    return vocabularies


def _words(document: Document) -> dict[str, Word]:
    words = {}
    spellings = {fold(key): key for key in document.data or ()}
    for key, value in (document.data or {}).items():
        if not KEY.fullmatch(key):
            document.report((key,), f"the word `{key}` is no id", "write lower-case letters, digits and underscores")
        word = validated(document, Word, None, {} if value is None else value, (key,))
        if word is None:
            continue
        words[key] = word
        for index, spelling in enumerate(word.aliases):
            other = spellings.setdefault(fold(spelling), key)
            if other != key:
                rule = f"`{spelling}` is also a spelling of `{other}`"
                document.report((key, "aliases", index), rule, "keep it in one place")
    return words


def validated(
    document: Document, model: type[Model], context: Any, data: Any = None, at: Keys = ()
) -> Model | None:  # fmt: skip
    """`data` (default: the whole document) as a model; None if problems were reported instead."""
    try:
        return model.model_validate(document.data if data is None else data, context=context)
    except ValidationError as error:
        # What the document could not read has no value that a model could take: that was reported already.
        unread = {problem.key for problem in document.problems}
        for detail in error.errors(include_url=False):
            place = (*at, *_in_file(detail["loc"]))
            if ".".join(map(str, place)) not in unread:
                _report(document, model, detail, place, len(at), context)
        return None


def raise_problems(documents: Iterable[Document]) -> None:
    """Raise `InvalidRecords` if anything was reported, in the order of the lines."""
    in_order = attrgetter("line", "column")
    problems = [problem for document in documents for problem in sorted(document.problems, key=in_order)]
    if problems:
        raise InvalidRecords(problems)


def _report(
    document: Document, model: type[BaseModel], detail: ErrorDetails, at: Keys, above: int, context: Any
) -> None:
    """Pydantic's finding in the words of a problem at `at`, whose first `above` keys lead to the model."""
    kind, given = detail["type"], detail["input"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRules):
        for finding in cause.findings:
            document.report((*at, *finding.at), finding.rule, finding.remedy)
        return
    name, keys, description = _described(model, at[above:])
    if kind == "extra_forbidden":
        document.report(at, f"unknown key `{name}`", nearest(name, keys))
    elif kind == "missing":
        document.report(at, f"the key `{name}` is missing", f"add it: {description}")
    elif kind == "vocabulary":
        remedy = context.vocabularies[detail["ctx"]["vocabulary"]].remedy(str(given))
        document.report(at, f"`{name}` cannot be {given!r}", remedy)
    elif kind == "literal_error":
        words = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        document.report(at, f"`{name}` cannot be {given!r}", nearest(str(given), words))
    else:
        document.report(at, f"`{name}` is {reprlib.repr(given)}: {detail['msg'].lower()}", description)


def _in_file(at: Keys) -> Keys:
    """The place without what pydantic adds for alternatives of a type and for keys."""
    return tuple(part for part in at if part not in ("float", "bool", "str", "[key]"))


def _described(model: type[BaseModel], at: Keys) -> tuple[str, list[str], str]:
    """Of the key that `at` ends with: its name, all keys allowed in its place, and its description."""
    name, keys, description = str(at[-1]) if at else "", list[str](), ""
    for part in at:
        if isinstance(part, int):
            continue
        fields = {info.alias or key: info for key, info in model.model_fields.items()}
        name, keys = part, list(fields)
        if part in fields:
            description = fields[part].description or ""
            model = _model_in(fields[part].annotation) or model
    return name, keys, description


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
