"""Rules that a field's own type cannot say: between the fields of a record, between records, and with the project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationInfo, field_validator

from catalog.document import Document, Keys
from catalog.names import fold, nearest
from catalog.schema import Block, Claim, Correction, Identifiers, Link, Publication, Record, Relation, Tags, primary


class Finding(NamedTuple):
    """A broken rule inside a record: where (relative to the field checked), which, and what to do."""

    at: Keys
    rule: str
    remedy: str


class BrokenRules(ValueError):
    """What a field's validator raises: all its findings together."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(findings)
        self.findings = findings


@dataclass(frozen=True)
class Surroundings:
    """What the rules of one record need to know outside it."""

    file: Path
    ids: frozenset[str]

    @property
    def project(self) -> Path:
        """The folder that spec paths are relative to: records lie in <project>/catalog/papers."""
        return self.file.resolve().parent.parent.parent


# Rules: each takes the value of one field. `info.context` is the record's surroundings; `info.data` holds the fields
# above it, except those that broke a rule themselves: what needs them waits until they are mended.


def id_rules(value: str, info: ValidationInfo) -> Iterator[Finding]:
    """The id is the file name."""
    stem = around(info).file.stem
    if value != stem:
        yield Finding((), f"the id `{value}` is not the file name", f"write `{stem}`, or rename the file")


def publication_rules(publications: list[Publication], info: ValidationInfo) -> Iterator[Finding]:
    """One appearance is the primary one, and preprints are as old as their arXiv number says."""
    marked = sum(publication.primary for publication in publications)
    if marked != 1:
        yield Finding((), f"{marked} publications are primary", "mark exactly one with `primary: true`")
    number = arxiv_number(info)
    if number is None:
        return
    year, month = 2000 + int(number[:2]), int(number[2:4])
    for index, publication in enumerate(publications):
        dated = (publication.year, publication.month or month)
        if publication.venue == "arxiv" and dated != (year, month):
            rule = f"the preprint is dated otherwise than its number {number}"
            yield Finding((index, "year"), rule, f"write year {year}, month {month}, or mend `identifiers.arxiv`")


def link_rules(links: list[Link], info: ValidationInfo) -> Iterator[Finding]:
    """There is a paper link, arXiv links lead to this paper, and links were checked after it came out."""
    if not any(link.kind == "paper" for link in links):
        yield Finding((), "no link leads to the paper", "add a link of kind `paper`")
    first, number = first_year(info), arxiv_number(info)
    for index, link in enumerate(links):
        if number and "//arxiv.org/" in link.url and number not in link.url:
            rule = f"the link leads to another paper than {number}"
            yield Finding((index, "url"), rule, f"write https://arxiv.org/abs/{number}, or mend `identifiers.arxiv`")
        if link.checked and link.checked.year < first:
            yield Finding((index, "checked"), f"{link.checked} is before the paper of {first}", "mend the date")


def technique_rules(technique: Block | None, info: ValidationInfo) -> Iterator[Finding]:
    """Spec paths exist, and a technique that is implemented has one."""
    if technique is None:
        return
    if technique.status != "planned" and not technique.specs:
        rule = f"the technique is {technique.status} but has no spec"
        yield Finding(("status",), rule, "list a spec, or say `planned`")
    project = around(info).project
    for index, path in enumerate(technique.specs):
        if not (project / path).is_file():
            known = [file.relative_to(project).as_posix() for file in project.glob("specs/**/*.yaml")]
            yield Finding(("specs", index), f"there is no file `{path}`", nearest(path, known))


def relation_rules(relations: list[Relation], info: ValidationInfo) -> Iterator[Finding]:
    """Targets are other records."""
    others = around(info).ids - {around(info).file.stem}
    for index, relation in enumerate(relations):
        if relation.target not in others:
            rule = f"`{relation.target}` is no other record"
            yield Finding((index, "target"), rule, nearest(relation.target, others))


def claim_rules(claims: list[Claim], info: ValidationInfo) -> Iterator[Finding]:
    """Ids of claims are unique, and their models are among the tags."""
    tags: Tags | None = info.data.get("tags")
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        if claim.id in seen:
            yield Finding((index, "id"), f"there is another claim `{claim.id}`", "give it an id of its own")
        seen.add(claim.id)
        if tags and claim.base_model not in tags.base_models:
            rule = f"`{claim.base_model}` is not among `tags.base_models`"
            yield Finding((index, "base_model"), rule, "add it there, or name another model")


def correction_rules(corrections: list[Correction], info: ValidationInfo) -> Iterator[Finding]:
    """Where the original list says something else than the record, exactly that is in the corrections."""
    facts = listed_and_recorded(info)
    first = first_year(info)
    for index, correction in enumerate(corrections):
        if correction.date.year < first:
            yield Finding((index, "date"), f"{correction.date} is before the paper of {first}", "mend the date")
        was, now = facts.pop(correction.field, (correction.was, correction.now))
        if (correction.was, correction.now) != (was, now):
            rule = f"the list has the {correction.field} `{was}`, the record `{now}`"
            yield Finding((index,), rule, "say just that in `was` and `now`")
    for name, (was, now) in facts.items():
        if was != now:
            rule = f"the list has the {name} `{was}`, the record `{now}`, and no correction says why"
            yield Finding((), rule, "add the correction and its evidence")


def around(info: ValidationInfo) -> Surroundings:
    """The surroundings that the reader handed in."""
    assert isinstance(info.context, Surroundings), "records are read by load_records"
    return info.context


def arxiv_number(info: ValidationInfo) -> str | None:
    """The record's arXiv number, if it has a valid one."""
    identifiers: Identifiers | None = info.data.get("identifiers")
    return identifiers.arxiv if identifiers else None


def first_year(info: ValidationInfo) -> int:
    """Year of the first publication; 0 if that is not known."""
    publications: list[Publication] = info.data.get("publications", [])
    return min((publication.year for publication in publications), default=0)


def listed_and_recorded(info: ValidationInfo) -> dict[str, tuple[str, str]]:
    """Title and venue, each as the original list has it and as the record has it."""
    seed, title, publications = (info.data.get(name) for name in ("seed", "title", "publications"))
    if seed is None or title is None or publications is None:
        return {}
    return {"title": (seed.title or title, title), "venue": (seed.venue, primary(publications).label)}


RULES: dict[str, Callable[[Any, ValidationInfo], Iterator[Finding]]] = {
    "id": id_rules,
    "publications": publication_rules,
    "links": link_rules,
    "technique": technique_rules,
    "relations": relation_rules,
    "claims": claim_rules,
    "corrections": correction_rules,
}


class CheckedRecord(Record):
    """A record that keeps the rules; validated with its surroundings as context."""

    @field_validator(*RULES)
    @classmethod
    def _keeps_its_rules(cls, value: Any, info: ValidationInfo) -> Any:
        if findings := list(RULES[str(info.field_name)](value, info)):
            raise BrokenRules(findings)
        return value


def report_doubles(documents: list[Document], at: Keys) -> None:
    """A value at `at` that two records share, however it is spelled."""
    first: dict[str, Document] = {}
    for document in documents:
        value = document.data
        for key in at:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str):
            continue
        other = first.setdefault(fold(value), document)
        if other is not document:
            document.report(at, f"`{value}` is also in {other.file.name}", "change one, or merge the records")
