"""Which title belongs to which identifier: a dated snapshot; a link to another paper is found without a network.

`catalog/snapshots/arxiv.yaml` holds titles by arXiv number, from sources other than the list.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rapidfuzz import fuzz

from catalog.document import Problem
from catalog.names import ARXIV, tokens
from catalog.schema import Record, Strict, Text
from catalog.seed import problem

Number = Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}(v\d+)?$")]
ALIKE = 85.0  # rapidfuzz score from which two spellings are one title


class Snapshot(Strict):
    """The file of titles."""

    date: dt.date = Field(description="Day the titles were read, as 2026-11-23.")
    titles: dict[Number, Annotated[list[Text], Field(min_length=1)]] = Field(
        description='Titles by arXiv number in quotes, or number and version: "2410.05317v2". The newest is the first.'
    )


def report_other_papers(records: Mapping[str, Record], known: Mapping[str, list[str]], root: Path) -> list[Problem]:
    """Records whose arXiv number or paper link belongs to another title in `known`, or is not in it."""
    problems = []
    for record in records.values() if known else ():
        file = root / "papers" / f"{record.id}.yaml"
        own = [record.title, *(alias.text for alias in record.aliases if alias.kind.endswith("title"))]
        for place, number in numbers(record):
            snapshot = known.get(number) or known.get(number.partition("v")[0])
            if snapshot is None:
                rule = f"{number} is not in the snapshot of identifiers"
                remedy = "look it up, then add its title to snapshots/arxiv.yaml"
                problems.append(problem(file, place, rule, remedy))
            elif not any(same_title(title, other) for title in own for other in snapshot):
                rule = f"{number} is another paper: {snapshot[0]}"
                problems.append(problem(file, place, rule, "mend the number or the title"))
    return problems


def numbers(record: Record) -> list[tuple[str, str]]:
    """(key, arXiv number with its version if one is named) of a record's identifiers and paper links."""
    found = []
    if record.identifiers.arxiv:
        version = f"v{record.identifiers.version}" if record.identifiers.version else ""
        found.append(("identifiers.arxiv", record.identifiers.arxiv + version))
    for index, link in enumerate(record.links):
        if link.kind == "paper" and (match := ARXIV.search(link.url)):
            found.append((f"links.{index}.url", match["number"] + (match["version"] or "")))
    return found


def same_title(title: str, other: str) -> bool:
    """Whether two titles are spellings of one, or one is the beginning of the other."""
    first, second = " ".join(tokens(title)), " ".join(tokens(other))
    short, long = sorted((first, second), key=len)
    return fuzz.ratio(first, second) >= ALIKE or (len(short) > 20 and long.startswith(short))
