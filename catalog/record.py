"""Reading all records of a folder; every broken rule of every file is reported at once.

    catalog/papers/<id>.yaml -> Document (plain data that remembers lines) -> Record

This package stays light enough to answer in a fraction of a second.
"""

from __future__ import annotations

import reprlib
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from catalog.document import Document, Keys, Problem
from catalog.names import nearest
from catalog.rules import BrokenRules, CheckedRecord, Surroundings, report_doubles
from catalog.schema import Record

PAPERS = Path(__file__).parent / "papers"


class InvalidRecords(Exception):
    """Records cannot be read; `problems` says all that is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load_records(folder: Path = PAPERS) -> dict[str, Record]:
    """All records of a folder by id; raises `InvalidRecords` with every problem of every file."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InvalidRecords([Problem(folder, 1, 1, "", "there are no records here", "name a folder of .yaml files")])
    documents = [Document(file) for file in files]
    ids = frozenset(file.stem for file in files)
    records = [_validated(document, ids) for document in documents if document.data is not None]
    report_doubles(documents, ("abbreviation",))
    report_doubles(documents, ("identifiers", "arxiv"))
    in_order = attrgetter("line", "column")
    problems = [problem for document in documents for problem in sorted(document.problems, key=in_order)]
    if problems:
        raise InvalidRecords(problems)
    return {record.id: record for record in records if record}


def _validated(document: Document, ids: frozenset[str]) -> Record | None:
    try:
        return CheckedRecord.model_validate(document.data, context=Surroundings(document.file, ids))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _report(document, detail)
        return None


def _report(document: Document, detail: ErrorDetails) -> None:
    """Pydantic's finding in the words of a problem."""
    at, kind, given = detail["loc"], detail["type"], detail["input"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRules):
        for finding in cause.findings:
            document.report((*at, *finding.at), finding.rule, finding.remedy)
        return
    name, keys, description = _described(at)
    if kind == "extra_forbidden":
        document.report(at, f"unknown key `{name}`", nearest(name, keys))
    elif kind == "missing":
        document.report(at, f"the key `{name}` is missing", f"add it: {description}")
    elif kind == "literal_error":
        words = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        document.report(at, f"`{name}` cannot be {given!r}", nearest(str(given), words))
    else:
        document.report(at, f"`{name}` is {reprlib.repr(given)}: {detail['msg'].lower()}", description)


def _described(at: Keys) -> tuple[str, list[str], str]:
    """Of the key that `at` ends with: its name, all keys allowed in its place, and its description."""
    model: type[BaseModel] = Record
    name, keys, description = "", list[str](), ""
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
