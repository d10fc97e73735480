"""The list this catalog grew from: its 79 entries word for word, and the proof that the records still give them back.

`catalog/seed/entries.json` holds the facts of every entry. A record with its corrections reversed must say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from catalog.awesome import AwesomeList
from catalog.document import Document, Problem
from catalog.names import ARXIV, fold
from catalog.record import InvalidRecords
from catalog.schema import Correction, Record
from catalog.vocabulary import Vocabularies

FOLDER = Path(__file__).parent / "seed"
SECTIONS = {
    "FS": "Fast Sampling",
    "PR": "Pruning",
    "QU": "Quantization",
    "DI": "Distillation",
    "CA": "Cache Mechanism",
    "DE": "Deployment Optimization",
    "OT": "Others",
    "SD": "Training-free Stable Diffusion Acceleration",
    "DT": "Training-free Diffusion Transformer Acceleration",
    "AR": "Training-free Auto-Regressive Generation Acceleration",
}

PLACES = {  # keys of a record that hold the facts of an entry
    "section": "seed.entries",
    "number": "seed.entries",
    "title": "title",
    "venue": "publications",
    "authors": "authors",
    "paper": "links",
    "code": "links",
    "badges": "seed.badges",
}


@dataclass(frozen=True)
class Facts:
    """What an entry of the list says, and where it stands: `section` and the `number` as printed."""

    section: str
    number: str
    title: str
    venue: str
    authors: tuple[str, ...]
    paper: str  # arXiv links as `arXiv:2410.05317`, whether they lead to the abstract or the PDF
    code: str | None
    badges: tuple[str, ...]

    def differences(self, other: Facts) -> list[str]:
        """Names of the facts that are not equal."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


@lru_cache
def stored(folder: Path = FOLDER) -> dict[str, Facts]:
    """Facts of all entries of the list by their code, such as `CA9`."""
    file = folder / "entries.json"
    try:
        entries = json.loads(file.read_bytes())
        return {
            code: Facts(**entry | {"authors": tuple(entry["authors"]), "badges": tuple(entry["badges"])})
            for code, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        remedy = "take the file from the repository: it is never edited"
        raise InvalidRecords([Problem(file, 1, 1, "", "these are not the entries of a list", remedy)]) from None


def of_list(found: AwesomeList) -> dict[str, Facts]:
    """Facts of the entries of a list with the same sections, by code; codes count the entries of a section."""
    codes = {title: code for code, title in SECTIONS.items()}
    facts: dict[str, Facts] = {}
    for entry in found.entries:
        prefix = codes.get(entry.section, entry.section)
        place = sum(code.startswith(prefix) for code in facts) + 1
        facts[f"{prefix}{place}"] = Facts(
            entry.section,
            entry.number or "",
            entry.title,
            entry.venue,
            entry.authors,
            address(entry.link("paper") or ""),
            entry.link("code"),
            tuple(badge.text for badge in entry.badges),
        )
    return facts


def of_record(record: Record, vocabularies: Vocabularies) -> dict[str, Facts]:
    """Facts of the record's entries, with its corrections reversed."""
    return {code: _reversed(record, code, vocabularies) for code in (record.seed.entries if record.seed else ())}


def as_json(facts: Mapping[str, Facts]) -> str:
    """The form of `entries.json`."""
    return json.dumps({code: asdict(entry) for code, entry in facts.items()}, indent=1, ensure_ascii=False) + "\n"


def address(url: str) -> str:
    """An arXiv address as `arXiv:` and number, whether it leads to the abstract or the PDF; any other as it is."""
    match = ARXIV.search(url)
    return f"arXiv:{match['number']}{match['version'] or ''}{url[match.end() :]}" if match else url


def _reversed(record: Record, code: str, vocabularies: Vocabularies) -> Facts:
    assert record.seed is not None
    listed = {correction.field: correction for correction in applying(record.corrections, code)}
    venue = says(record, "venue", vocabularies)
    paper, source = record.link("paper"), record.link("code")
    return Facts(
        section=SECTIONS.get(code[:2], ""),
        number=was("number", code[2:], listed) or "",
        title=was("title", record.title, listed) or "",
        venue=was("venue", venue, listed) or "",
        authors=tuple(_authors(record, listed)),
        paper=address(was("links.paper", paper.url if paper else "", listed) or ""),
        code=was("links.code", source.url if source else None, listed),
        badges=tuple(record.seed.badges),
    )


def applying(corrections: Iterable[Correction], code: str) -> Iterator[Correction]:
    """Corrections of one entry."""
    return (correction for correction in corrections if correction.entries is None or code in correction.entries)


def was(field: str, now: str | None, listed: Mapping[str, Correction]) -> str | None:
    """What the list says of a fact."""
    return listed[field].was if field in listed else now


def _authors(record: Record, listed: Mapping[str, Correction]) -> Iterator[str]:
    if "authors" in listed:
        yield from (listed["authors"].was or "").split("; ")
        return
    for index, author in enumerate(record.authors):
        name = was(f"authors.{index}", author.printed or author.name, listed)
        if name is not None:
            yield name


def compare(
    records: Mapping[str, Record], listed: Mapping[str, Facts], vocabularies: Vocabularies, folder: Path
) -> list[Problem]:
    """Every fact of the list that the records do not give back, and what to do."""
    problems: list[Problem] = []
    given: dict[str, str] = {}
    for record in records.values():
        file = folder / f"{record.id}.yaml"
        for code, facts in of_record(record, vocabularies).items():
            if code in given:
                problems.append(problem(file, "seed.entries", f"{code} is also in {given[code]}.yaml", "keep one"))
            given[code] = record.id
            if code not in listed:
                problems.append(problem(file, "seed.entries", f"the list has no entry {code}", "mend `seed.entries`"))
                continue
            for name in facts.differences(listed[code]):
                says, reads = getattr(listed[code], name), getattr(facts, name)
                rule = (
                    f"entry {code} of the list has the {name} {says!r}; the record with its corrections gives {reads!r}"
                )
                problems.append(
                    problem(file, PLACES[name], rule, "add or mend the correction with `was`, `now` and evidence")
                )
        problems += [*_tags(record, vocabularies, file), *_outdated(record, vocabularies, file)]
    missing = [code for code in listed if code not in given]
    if missing:
        rule = f"no record has the entries {', '.join(missing)} of the list"
        problems.append(problem(folder, "", rule, "name them in `seed.entries` of their records"))
    return problems


def _tags(record: Record, vocabularies: Vocabularies, file: Path) -> Iterator[Problem]:
    """Badges of the list and abbreviation and tags of the record say the same, or a correction says why not."""
    if record.seed is None:
        return
    nickname, *listed = sorted_badges(record.seed.badges, vocabularies)
    corrected = {correction.field: correction for correction in record.corrections}
    before = was("abbreviation", record.abbreviation, corrected)
    if fold(before or "") != fold(nickname or ""):
        rule = f"the list calls the paper {nickname!r}, the record {before!r}"
        remedy = f"add a correction of the abbreviation with `was: {nickname or 'null'}`"
        yield problem(file, "abbreviation", rule, remedy)
    for dimension, badges in zip(("applications", "mechanisms"), listed, strict=True):
        tags: list[str] = getattr(record.tags, dimension)
        field, now, said = f"tags.{dimension}", ", ".join(tags), ", ".join(badges or ())
        if (was(field, now, corrected) or "") != said:
            rule = f"the badges of the list say `{said}`, the record `{was(field, now, corrected)}`"
            yield problem(file, field, rule, f"add or mend the correction of {field} with `was: {said or 'null'}`")


def _outdated(record: Record, vocabularies: Vocabularies, file: Path) -> Iterator[Problem]:
    """What a correction says is true now is what the record says."""
    for index, correction in enumerate(record.corrections):
        if correction.field in ("number", "badges"):  # facts of the list alone
            continue
        now = says(record, correction.field, vocabularies)
        if correction.now != now:
            rule = f"the correction says `{correction.now}`, the record `{now}`"
            yield problem(file, f"corrections.{index}.now", rule, "say in both what is true")


def says(record: Record, field: str, vocabularies: Vocabularies) -> str | None:
    """What a record says of a field that can be corrected; None: nothing."""
    name, _, below = field.partition(".")
    if name == "authors":
        names = [author.printed or author.name for author in record.authors]
        wanted = names[int(below) : int(below) + 1] if below else names
        return "; ".join(wanted) or None
    if name == "links":
        link = record.link(below)
        return link.url if link else None
    if name == "tags":
        tag: str | list[str] | None = getattr(record.tags, below)
        return (", ".join(tag) if isinstance(tag, list) else tag) or None
    if name == "venue":
        return f"{vocabularies['venues'][record.primary.venue].label} {record.primary.year}"
    return str(getattr(record, name))


def sorted_badges(badges: list[str], vocabularies: Vocabularies) -> tuple[str | None, list[str], list[str]]:
    """(abbreviation, applications, mechanisms) of an entry's badges; an abbreviation stands first."""
    applications, mechanisms = vocabularies["applications"], vocabularies["mechanisms"]
    nickname = badges[0] if badges and not applications.resolve(badges[0]) else None
    rest = badges if nickname is None else badges[1:]
    named = [(applications.resolve(badge), mechanisms.resolve(badge)) for badge in rest]
    return nickname, [key for key, _ in named if key], [key for _, key in named if key]


def problem(file: Path, key: str, rule: str, remedy: str) -> Problem:
    """A problem at a key of a YAML file, such as `tags.mechanisms`; of the whole file if it has no such key."""
    if not file.is_file() or file.suffix != ".yaml":
        return Problem(file, 1, 1, key, rule, remedy)
    document = Document(file)
    document.report(tuple(int(part) if part.isdigit() else part for part in key.split(".") if part), rule, remedy)
    return document.problems[-1]
