"""Files made from the catalog: each a pure function of the records, the same bytes every time."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.files import write_whole
from catalog.library import Library, load_library
from catalog.query import BadQuery
from catalog.schema import Record
from catalog.vocabulary import Vocabularies

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TARGETS = ("readme", "db", "schema")


@dataclass(frozen=True)
class Change:
    """A generated file that differs from what stands on the disk."""

    target: str
    file: Path
    diff: str


def targets(what: str) -> tuple[str, ...]:
    """What to build. Raises `BadQuery` for an unknown name."""
    if what == "all":
        return TARGETS
    if what not in TARGETS:
        from catalog.names import nearest

        raise BadQuery(f"nothing is built as `{what}`\n    -> {nearest(what, (*TARGETS, 'all'))}")
    return (what,)


def files(wanted: Sequence[str], root: Path, write: bool) -> list[Change]:
    """The generated files that are not up to date; written if `write`."""
    from catalog import readme

    library = load_library(root)
    makers: dict[str, tuple[Path, Callable[[Library], str]]] = {
        "readme": (root.parent / "README.md", readme.render),
        "schema": (root / "record.schema.json", record_schema),
    }
    changes = []
    for target in wanted:
        if target not in makers:
            continue
        file, make = makers[target]
        new = make(library)
        old = file.read_bytes().decode("utf-8", errors="replace") if file.is_file() else ""
        if new != old:
            changes.append(Change(target, file, unified(old, new, file)))
            if write:
                write_whole(file, new)
    return changes


def unified(old: str, new: str, file: Path) -> str:
    """A diff from the file on the disk to the one that should be there."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(file), f"{file} (generated)", lineterm="", n=1)
    return "\n".join(lines) or f"{file} has other line ends than the generated file"


def record_schema(library: Library) -> str:
    """JSON Schema of a record, with the words of the vocabularies, for editors."""
    schema = {"$schema": DIALECT, **Record.model_json_schema(by_alias=True)}
    return json.dumps(with_words(schema, library.vocabularies), indent=1, ensure_ascii=False) + "\n"


def with_words(part: Any, vocabularies: Vocabularies) -> Any:
    """The schema with every vocabulary in place of its name."""
    if isinstance(part, list):
        return [with_words(item, vocabularies) for item in part]
    if not isinstance(part, dict):
        return part
    filled = {key: with_words(value, vocabularies) for key, value in part.items() if key != "vocabulary"}
    return filled | ({"enum": list(vocabularies[part["vocabulary"]])} if "vocabulary" in part else {})
