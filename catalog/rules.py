"""Rules that a field's own type cannot say: between the fields of a record, between records, and with the project."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationInfo, field_validator
from rapidfuzz import fuzz

from catalog.document import Document, Keys
from catalog.names import ARXIV, fold, nearest, tokens
from catalog.schema import Author, Block, Claim, Correction, Identifiers, Link, Publication, Record, Relation, Tags
from catalog.vocabulary import Vocabularies


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


MARKUP = re.compile(r"</?[A-Za-z][^>]*>|\\[A-Za-z\"'^`~=.]|[{}]")
NEIGHBOURS = 3  # titles are compared with the next ones in order of their beginnings and of their ends


@dataclass(frozen=True)
class Surroundings:
    """What the rules of one record need to know outside it."""

    file: Path
    ids: frozenset[str]
    vocabularies: Vocabularies

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
    """One appearance is the primary one, each is of its venue's kind, and preprints are as old as their number."""
    marked = sum(publication.primary for publication in publications)
    if marked != 1:
        yield Finding((), f"{marked} publications are primary", "mark exactly one with `primary: true`")
    for index, publication in enumerate(publications):
        kind = around(info).vocabularies["venues"][publication.venue].kind
        if kind != publication.kind:
            rule = f"{publication.venue} is not a {publication.kind}"
            yield Finding((index, "kind"), rule, f"write `{kind}`, or name another venue")
    yield from preprint_rules(publications, arxiv_number(info))


def preprint_rules(publications: list[Publication], number: str | None) -> Iterator[Finding]:
    """Preprints are as old as their arXiv number says."""
    if number is None:
        return
    year, month = 2000 + int(number[:2]), int(number[2:4])
    for index, publication in enumerate(publications):
        if publication.venue == "arxiv" and (publication.year, publication.month or month) != (year, month):
            rule = f"the preprint is dated otherwise than its number {number}"
            yield Finding((index, "year"), rule, f"write year {year}, month {month}, or mend `identifiers.arxiv`")


def link_rules(links: list[Link], info: ValidationInfo) -> Iterator[Finding]:
    """There is a paper link, arXiv links lead to this paper, and links were checked after it came out."""
    if not any(link.kind == "paper" for link in links):
        yield Finding((), "no link leads to the paper", "add a link of kind `paper`")
    first, number = first_year(info), arxiv_number(info)
    for index, link in enumerate(links):
        linked = ARXIV.search(link.url)
        if number and linked and linked["number"] != number:
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
    """Corrections are younger than the paper, change something, and belong to a paper of the original list."""
    first, seed = first_year(info), info.data.get("seed")
    for index, correction in enumerate(corrections):
        if correction.date.year < first:
            yield Finding((index, "date"), f"{correction.date} is before the paper of {first}", "mend the date")
        if correction.was == correction.now:
            yield Finding((index, "now"), "`was` and `now` are the same", "say what changed, or remove the correction")
        if "seed" not in info.data:  # it broke a rule itself
            continue
        if seed is None:
            yield Finding((index,), "the paper is not in the original list", "remove the correction, or add `seed`")
        elif unknown := set(correction.entries or ()) - set(seed.entries):
            rule = f"{', '.join(sorted(unknown))} is not among `seed.entries`"
            yield Finding((index, "entries"), rule, nearest(min(unknown), seed.entries))


def title_rules(title: str, info: ValidationInfo) -> Iterator[Finding]:
    """Titles are plain text."""
    yield from markup_in(title, ())


def author_rules(authors: list[Author], info: ValidationInfo) -> Iterator[Finding]:
    """Names are plain text, and nobody is called `others`."""
    for index, author in enumerate(authors):
        yield from markup_in(author.name, (index,))
        if fold(author.name) in ("others", "andothers", "etal"):
            yield Finding((index,), "`others` is no author", "name all authors")


def markup_in(text: str, at: Keys) -> Iterator[Finding]:
    """HTML tags and LaTeX in what should be plain Unicode text."""
    match = MARKUP.search(text)
    if match:
        yield Finding(at, f"`{match[0]}` is markup", "write plain Unicode text, such as ³ or ü")


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


RULES: dict[str, Callable[[Any, ValidationInfo], Iterator[Finding]]] = {
    "id": id_rules,
    "title": title_rules,
    "authors": author_rules,
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


SIMILAR = 92.0  # rapidfuzz score from which two titles are taken for one


def report_doubles(documents: list[Document]) -> None:
    """What two records must not share: abbreviation, arXiv version, DOI, OpenReview id, title, link to the paper."""
    report_shared(documents, partial(shared_at, at=("abbreviation",), form=fold))
    report_shared(documents, partial(shared_at, at=("identifiers", "doi"), form=str.casefold))
    report_shared(documents, partial(shared_at, at=("identifiers", "openreview"), form=str))
    report_shared(documents, paper_addresses)
    report_same_arxiv(documents)
    report_similar_titles(documents)


class Shared(NamedTuple):
    """Something that one record may have: where it stands, as written, and the form in which it is compared."""

    at: Keys
    text: str
    form: str


def report_shared(documents: list[Document], values: Callable[[Document], Iterable[Shared]]) -> None:
    """Records with a value of the same form."""
    first: dict[str, Document] = {}
    for document in documents:
        for value in values(document):
            other = first.setdefault(value.form, document)
            if other is not document:
                report_double(document, value.at, value.text, other)


def report_double(document: Document, at: Keys, text: str, other: Document) -> None:
    """Note that `text` is in two records."""
    document.report(at, f"`{text}` is also in {other.file.name}", "change one, or merge the records")


def report_same_arxiv(documents: list[Document]) -> None:
    """Records with one arXiv number, unless each is about a version of its own."""
    first: dict[str, dict[str, Document]] = {}
    for document in documents:
        number, version = arxiv_version(document)
        if number is None:
            continue
        others = first.setdefault(number, {})
        clashing = others.get(version) or others.get("") or (None if version else next(iter(others.values()), None))
        if clashing:
            report_double(document, ("identifiers", "arxiv"), number + version, clashing)
        others.setdefault(version, document)


def report_similar_titles(documents: list[Document]) -> None:
    """Pairs of titles that differ by little more than spelling, unless the records are about versions of one paper."""
    titled = [(document, title) for document in documents if (title := value_at(document, ("title",)))]
    folded = [" ".join(tokens(title)) for _, title in titled]
    for index, neighbour in sorted(neighbours(folded)):
        (first, _), (second, title) = titled[index], titled[neighbour]
        number, _ = arxiv_version(first)
        versions = number is not None and number == arxiv_version(second)[0]
        if not versions and fuzz.ratio(folded[index], folded[neighbour], score_cutoff=SIMILAR):
            second.report(("title",), f"`{title}` is nearly the title of {first.file.name}", "merge the records")


def neighbours(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs of texts (the lower index first) that begin or end so alike that they may be spellings of one."""
    pairs: set[tuple[int, int]] = set()
    for spelled in (texts, [text[::-1] for text in texts]):
        order = sorted(range(len(texts)), key=spelled.__getitem__)
        for step in range(1, NEIGHBOURS + 1):
            pairs |= {(min(pair), max(pair)) for pair in zip(order, order[step:], strict=False)}
    return pairs


def value_at(document: Document, at: Keys) -> str | None:
    """The text at a place of a document that may be invalid."""
    value = document.data
    for key in at:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def shared_at(document: Document, at: Keys, form: Callable[[str], str]) -> Iterator[Shared]:
    """The text at a place, if there is one."""
    if text := value_at(document, at):
        yield Shared(at, text, form(text))


def arxiv_version(document: Document) -> tuple[str | None, str]:
    """arXiv number, and `v2` if the record is about that version: two versions may have a record each."""
    number = value_at(document, ("identifiers", "arxiv"))
    version = document.data["identifiers"].get("version") if number else None
    return number, f"v{version}" if version else ""


def paper_addresses(document: Document) -> Iterator[Shared]:
    """Addresses of the paper: one link cannot lead to two papers. arXiv has several pages of one paper."""
    links = document.data.get("links") if isinstance(document.data, dict) else None
    for index, link in enumerate(links if isinstance(links, list) else ()):
        if isinstance(link, dict) and link.get("kind") == "paper" and isinstance(url := link.get("url"), str):
            number = ARXIV.search(url)
            form = number["number"] + (number["version"] or "") if number else url.partition("://")[2].rstrip("/")
            yield Shared(("links", index, "url"), url, form)
