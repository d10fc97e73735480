"""Drafts of records and views from the entries of awesome lists.

What a list does not say is left open (`training: null`, no claims, no summary), and what the catalog has no word for is
kept: an unknown venue under a key of its own, other badges in `tags.note`. Both need a person, and a remark says so.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pylatexenc.latex2text import LatexNodes2Text
from rapidfuzz import fuzz

from catalog import awesome
from catalog.awesome import AwesomeList, Badge, Entry, Remark, kind_of
from catalog.document import UNSEEN
from catalog.encoding import LOST, Unreadable, printable, read_list
from catalog.importer_files import problems_of
from catalog.names import ARXIV, fold, tokens
from catalog.record import load_vocabularies, vocabulary_folder
from catalog.vocabulary import Vocabularies, Vocabulary

OPENREVIEW = re.compile(r"openreview\.net/(?:forum|pdf)\?id=(?P<id>[\w-]+)")
DOI = re.compile(r"doi\.org/(?P<doi>10\.\d{4,}/[^\s?#]+)")
VENUE = re.compile(r"^(?P<venue>.*?)\s*(?P<year>(?:19|20)\d\d)?\s*(?P<award>[^\d]*)$")
LATEX = re.compile(r"\$[^$]*\\[^$]*\$|\{?\\(?:[\"'`^~=.]|[A-Za-z]+)\s*(?:\{[^{}]*\}|\w)?\}?")
ESCAPED = re.compile(r"\\([_*&#%$\[\]()!-])")  # by Markdown or LaTeX
SAME_TITLE = 97.0  # rapidfuzz score from which two titles are one
SAME_PAPER = 93.0  # the same, for two titles under one address
BEGINNING = 20  # letters of a title that another one under the same address begins with
LONGEST_NAME = 60  # of an id, hence of a file
LONGEST_NICKNAME = 20  # of the words before a colon in a title
SMALL_WORDS = {"a", "an", "the", "of", "for", "with", "via", "on", "in", "and", "to", "by"}
PARTICLES = {"van", "von", "de", "der", "den", "la", "di", "del", "da", "dos"}
# Words in a legend of colours, and the vocabulary that badges of that colour are words of.
DIMENSIONS = {
    "abbreviation": "abbreviation",
    "application": "applications",
    "mechanism": "mechanisms",
    "training": "training",
}
CONVENTION = {"blue": "Abbreviation", "green": "Application", "orange": "Mechanism"}  # of lists without a legend


@dataclass
class Draft:
    """Records by id, views, and what a person should look at."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    entries: int = 0
    sources: dict[str, Entry] = field(default_factory=dict)  # id of a record -> its first entry

    def remark(self, entry: Entry, text: str) -> None:
        """Add a remark on an entry, once."""
        remark = Remark(entry.line, text, file=entry.file)
        if remark not in self.remarks:
            self.remarks.append(remark)


@dataclass
class Tags:
    """What the badges of a paper's entries say."""

    abbreviations: list[str] = field(default_factory=list)
    words: dict[str, list[str]] = field(
        default_factory=lambda: {"applications": [], "mechanisms": [], "training": []}
    )  # fmt: skip
    others: list[str] = field(default_factory=list)


def import_files(files: Sequence[Path], vocabularies: Vocabularies) -> tuple[Draft, list[str]]:
    """The records and views of lists, and what to look at as `file:line: text`. Raises `Unreadable`, or `OSError`."""
    notes, lists = [], []
    for file in files:
        text, found = read_list(file)
        notes += [f"{file}:{note.line}: {note.text}" for note in found]
        lists.append(awesome.read(text, str(file)))
    made = draft(lists, vocabularies)
    if not made.entries:
        lost = next((f"; the first that was lost: {remark.text}" for remark in made.remarks if remark.lost), "")
        remedy = "an entry is a list item with a title in bold type, a line of names in italics, and a link `Paper`"
        raise Unreadable(files[0], 1, f"there are no entries in the list{lost}", remedy)
    notes += [f"{remark.file}:{remark.line}: {remark.text}" for remark in in_order(made.remarks, lists)]
    for problem in problems_of(made, vocabularies):
        entry = made.sources.get(problem.file.stem)
        where = f"{entry.file}:{entry.line}" if entry else f"{files[0]}:1"
        rule = f"{problem.key}: {problem.rule} -> {problem.remedy}"
        notes.append(f"{where}: {problem.file.as_posix()} needs a person: {rule}")
    return made, list(map(printable, notes))


def vocabularies_of(root: Path) -> Vocabularies:
    """The vocabularies of the catalog in the folder `root`."""
    return load_vocabularies(vocabulary_folder(root))


def in_order(remarks: Iterable[Remark], lists: Iterable[AwesomeList]) -> list[Remark]:
    """Remarks in the order of files and lines."""
    order = {found.file: place for place, found in enumerate(lists)}
    return sorted(remarks, key=lambda remark: (order[remark.file], remark.line))


def draft(lists: Sequence[AwesomeList], vocabularies: Vocabularies) -> Draft:
    """One record for every paper of the lists, and one view for every group of sections."""
    made = Draft()
    papers: dict[str, list[Entry]] = {}
    for found in lists:
        made.remarks += found.remarks
        made.entries += len(found.entries)
        for entry in found.entries:
            slug = known_as(entry, papers, legend_of(entry.file, lists), made)
            add_to_view(entry, slug, made)
        add_base_models(found, vocabularies["base_models"], made)
    for slug, entries in papers.items():
        made.sources[slug] = entries[0]
        tags = Tags()
        for entry in entries:
            sort_badges(entry, legend_of(entry.file, lists), vocabularies, tags, made)
        made.records[slug] = record(slug, entries, tags, vocabularies, made)
    return made


def legend_of(file: str, lists: Iterable[AwesomeList]) -> dict[str, str]:
    """What the colours of badges say in a file: by its own legend, else by those of the other files, else as usual."""
    others = {colour: text for found in lists for colour, text in found.legend.items()}
    own = {colour: text for found in lists if found.file == file for colour, text in found.legend.items()}
    return own or others or CONVENTION


def known_as(entry: Entry, papers: dict[str, list[Entry]], legend: dict[str, str], made: Draft) -> str:
    """Id of the paper of an entry; a paper that is not yet among `papers` is added."""
    for slug, entries in papers.items():
        other = entries[0]
        same_link = bool(address(entry)) and address(entry) == address(other)
        if same_title(entry.title, other.title, same_link):
            note_differences(entry, other, made)
            entries.append(entry)
            return slug
        if same_link:
            made.remark(entry, f"the same link as {said_in(other, entry)}, but another title: {entry.title}")
    slug = new_slug(entry, papers, legend)
    papers[slug] = [entry]
    return slug


def same_title(title: str, other: str, same_link: bool) -> bool:
    """Whether two titles are of one paper; under one link they may differ more, or one be longer."""
    first, second = sorted((fold(clean(title)), fold(clean(other))), key=len)
    alike = fuzz.ratio(first, second, score_cutoff=SAME_PAPER)
    longer = len(first) >= BEGINNING and second.startswith(first)
    return alike >= SAME_TITLE or (same_link and (alike >= SAME_PAPER or longer))


def address(entry: Entry) -> str:
    """Address of the paper, the same for abstract and PDF."""
    return canonical(entry.link("paper") or "")


def said_in(other: Entry, entry: Entry) -> str:
    """Where another entry stands, for a remark on `entry`."""
    return f"line {other.line}" if other.file == entry.file else f"{other.file}:{other.line}"


def note_differences(entry: Entry, other: Entry, made: Draft) -> None:
    """Two entries of one paper should say the same."""
    facts: dict[str, tuple[Any, Any]] = {
        "title": (entry.title, other.title),
        "venue": (entry.venue, other.venue),
        "authors": (entry.authors, other.authors),
        "link to the paper": (address(entry), address(other)),
        "link to the code": (entry.link("code"), other.link("code")),
    }
    if entry.file == other.file:  # other files may have other kinds of badges
        facts["badges"] = (entry.badges, other.badges)
    for name, (says, said) in facts.items():
        if says != said:
            made.remark(entry, f"another {name} than in {said_in(other, entry)}: {entry.title}")


def new_slug(entry: Entry, taken: Iterable[str], legend: dict[str, str]) -> str:
    """An id of plain letters: from the abbreviation, the words before a colon in the title, or its first words."""
    nickname = next((badge.shown for badge in entry.badges if dimension(badge, legend) == "abbreviation"), "")
    head, colon, _ = clean(entry.title).partition(":")
    words = [word for word in tokens(clean(entry.title)) if word not in SMALL_WORDS]
    names = [slug_of(text) for text in (nickname, head if colon else "", " ".join(words[:3]), " ".join(words))]
    return free_name([name for name in names if name] or ["paper"], taken, "_")


def slug_of(text: str, between: str = "_") -> str:
    """`text` as a name of small Latin letters and digits, not too long for a file; empty if it has none."""
    words = [word for word in tokens(text.replace("++", " pp")) if word.isascii()]
    name = ""
    for word in words:
        name = f"{name}{between}{word}" if name else word[:LONGEST_NAME]
        if len(name) > LONGEST_NAME:
            return name[:LONGEST_NAME].rstrip(between)
    return name


def free_name(names: Sequence[str], taken: Iterable[str], between: str) -> str:
    """The first of `names` that is not taken, or the last one with a number."""
    used = set(taken)
    numbered = (f"{names[-1]}{between}{count}" for count in range(2, len(used) + 3))
    return next(name for name in (*names, *numbered) if name not in used)


def add_to_view(entry: Entry, slug: str, made: Draft) -> None:
    """Add a paper to the section in which its entry stands."""
    section = section_of(entry.view, entry.section, made)
    if slug in section["papers"]:
        made.remark(entry, f"the paper stands twice in this section: {entry.title}")
    else:
        section["papers"].append(slug)


def section_of(view_title: str, section_title: str, made: Draft) -> dict[str, Any]:
    """The section of a view with these headings; it is added if there is none yet."""
    title = clean(view_title) or "List"
    view = next((view for view in made.views.values() if view["title"] == title), None)
    if view is None:
        name = free_name([slug_of(title, "-") or "list"], made.views, "-")
        view = {"id": name, "title": title, "position": len(made.views) + 1, "sections": []}
        made.views[name] = view
    title = clean(section_title) or "Papers"
    sections: list[dict[str, Any]] = view["sections"]
    found = next((section for section in sections if section["title"] == title), None)
    if found is None:
        name = free_name([slug_of(title, "-") or "section"], [section["id"] for section in sections], "-")
        found = {"id": name, "title": title, "papers": []}
        sections.append(found)
    return found


def add_base_models(found: AwesomeList, models: Vocabulary, made: Draft) -> None:
    """Name the base models that the list gives for its sections; those without a word are remarked."""
    spelled = {fold(word.label): key for key, word in models.items()}
    for entry in found.entries:
        links = found.intros.pop((entry.view, entry.section), [])
        keys = {text: models.resolve(text) or spelled.get(fold(text)) for text, _ in links}
        if known := unique(key for key in keys.values() if key):
            section_of(entry.view, entry.section, made)["base_models"] = known
        for text in (text for text, key in keys.items() if key is None):
            made.remark(entry, f"the vocabulary of base models does not have `{text}` of section {entry.section}")


def record(
    slug: str, entries: Sequence[Entry], tags: Tags, vocabularies: Vocabularies, made: Draft
) -> dict[str, Any]:  # fmt: skip
    """The draft of a record from all entries of a paper."""
    title = clean(entries[0].title)
    names = authors_in(entries, made)
    head, colon, _ = title.partition(":")
    nickname = (tags.abbreviations or [head if colon and len(head) <= LONGEST_NICKNAME else slug])[0]
    other_titles = unique(clean(entry.title) for entry in entries if clean(entry.title) != title)
    aliases = [{"text": text, "kind": "abbreviation"} for text in tags.abbreviations[1:]]
    aliases += [{"text": text, "kind": "list_spelling"} for text in other_titles]
    training = tags.words["training"]
    if len(training) > 1:
        tags.others.append(f"training: {', '.join(training)}")
    said: dict[str, Any] = {
        "applications": tags.words["applications"],
        "mechanisms": tags.words["mechanisms"],
        "training": training[0] if len(training) == 1 and not has_training_note(tags) else None,
        "scope": "acceleration",
        "base_models": [],
    }
    appeared = publications(entries, vocabularies["venues"], tags, made)
    if tags.others:
        said["note"] = "in the list: " + "; ".join(unique(tags.others))
    drafted: dict[str, Any] = {"schema": 1, "id": slug, "title": title, "abbreviation": nickname}
    return (
        drafted
        | ({"aliases": aliases} if aliases else {})
        | {
            "authors": [author(name) for name in names],
            "identifiers": identifiers(entries),
            "publications": appeared,
            "links": links_in(entries, vocabularies["link_kinds"], made),
            "tags": said,
        }
    )


def has_training_note(tags: Tags) -> bool:
    """Whether a badge on training has no word: then it is open which one is right."""
    return any("training" in fold(text.partition(":")[0]) for text in tags.others)


def authors_in(entries: Iterable[Entry], made: Draft) -> list[str]:
    """The authors, from the first entry that names them all, else from the first that names any."""
    named = [entry for entry in entries if entry.authors]
    complete = [entry for entry in named if "others" not in entry.authors]
    entry = next(iter(complete or named), None)
    if entry and not complete:
        made.remark(entry, f"the list names not all authors (`others`): {entry.title}")
    return [name for name in entry.authors if name != "others"] if entry else []


def sort_badges(entry: Entry, legend: dict[str, str], vocabularies: Vocabularies, tags: Tags, made: Draft) -> None:
    """Add what the badges of an entry say to `tags`: by the legend of colours first, by known words otherwise."""
    for badge in entry.badges:
        meant = dimension(badge, legend)
        if meant == "abbreviation":
            tags.abbreviations = unique([*tags.abbreviations, clean(badge.shown)])
            continue
        name, key = word_for(badge, meant, vocabularies)
        if key:
            tags.words[name] = unique([*tags.words[name], key])
            continue
        tags.others.append(f"{clean(legend.get(badge.colour, 'badge'))}: {clean(badge.shown)}")
        made.remark(entry, f"the vocabularies do not have the badge `{badge.text}`; it is in `tags.note` now")


def dimension(badge: Badge, legend: dict[str, str]) -> str | None:
    """The vocabulary that the colour of a badge stands for, or `abbreviation`; None if the legend names no such."""
    said = fold(legend.get(badge.colour, ""))
    return next((name for word, name in DIMENSIONS.items() if word in said), None)


def word_for(badge: Badge, meant: str | None, vocabularies: Vocabularies) -> tuple[str, str | None]:
    """(vocabulary, word) of a badge: of the vocabulary that its colour means, else of any that has the word."""
    names = ["applications", "mechanisms", "training"]
    for name in [meant, *names] if meant in names else names:
        if key := vocabularies[name].resolve(badge.text) or vocabularies[name].resolve(badge.shown):
            return name, key
    return "", None


def paper_links(entries: Iterable[Entry]) -> list[str]:
    """Addresses of a paper, each once."""
    links = (url for entry in entries for text, url in entry.links if kind_of(text) == "paper")
    return unique(canonical(url) for url in links)


def identifiers(entries: Iterable[Entry]) -> dict[str, Any]:
    """arXiv number and version, OpenReview id and DOI, as far as the addresses of a paper tell them."""
    found: dict[str, Any] = {}
    for url in paper_links(entries):
        if (match := ARXIV.search(url)) and "arxiv" not in found:
            found["arxiv"] = match["number"]
            found |= {"version": int(match["version"][1:])} if match["version"] else {}
        elif match := OPENREVIEW.search(url):
            found.setdefault("openreview", match["id"])
        elif match := DOI.search(url):
            found.setdefault("doi", match["doi"])
    return found


def canonical(url: str) -> str:
    """arXiv addresses lead to the abstract; others stay."""
    match = ARXIV.search(url)
    if match is None:
        return url
    return f"https://arxiv.org/abs/{match['number']}" + (match["version"] or "")


def links_in(entries: Iterable[Entry], kinds: Vocabulary, made: Draft) -> list[dict[str, str]]:
    """All links of a paper's entries, each once, the paper first; a kind without a word is kept in a note."""
    found: dict[str, dict[str, str]] = {url: {"kind": "paper", "url": url} for url in paper_links(entries)}
    for entry in entries:
        for text, url in entry.links:
            if canonical(url) in found:
                if kind_of(text) == "code" and found[canonical(url)]["kind"] == "paper":
                    made.remark(entry, f"the link to the code is that to the paper: {entry.title}")
                continue
            kind = kind_of(text) or kinds.resolve(text)
            found[canonical(url)] = {"kind": kind or "project", "url": canonical(url)}
            if kind is None:
                found[canonical(url)]["note"] = f"`{clean(text)}` in the list"
                made.remark(entry, f"the vocabulary of links does not have `{text}`; it is a project page now")
    return list(found.values())


def publications(entries: Sequence[Entry], venues: Vocabulary, tags: Tags, made: Draft) -> list[dict[str, Any]]:
    """The preprint, dated by its number, and the venues of the list; the last appearance is to be cited."""
    found: dict[str, dict[str, Any]] = {}
    number = identifiers(entries).get("arxiv")
    if number:
        year, month = 2000 + int(number[:2]), int(number[2:4])
        found["arxiv"] = {"venue": "arxiv", "year": year, "month": month, "kind": "preprint"}
    for entry in entries:
        for publication in appearances(entry, venues, tags, made):
            key = publication["venue"]
            if key == "arxiv" and number and publication["year"] != found["arxiv"]["year"]:
                made.remark(entry, f"`{entry.venue}`, but {number} is of {found['arxiv']['year']}: {entry.title}")
            found.setdefault(key, publication)
    listed = list(found.values())
    for publication in listed[-1:]:
        publication["primary"] = True
    return listed


def appearances(entry: Entry, venues: Vocabulary, tags: Tags, made: Draft) -> Iterator[dict[str, Any]]:
    """The publication that an entry names, if it names one with a year."""
    said = VENUE.match(clean(entry.venue))
    name = said["venue"].rstrip(" ,'").removesuffix(" preprint") if said else ""
    if said is None or said["year"] is None or not slug_of(name):
        if not (said and venues.resolve(name) == "arxiv"):
            made.remark(entry, f"no venue and year in `{entry.venue}`: {entry.title}")
            tags.others.append(f"venue: {clean(entry.venue) or 'none'}")
        return
    key, award = venues.resolve(name), said["award"].strip(" ,.()[]")
    kind = venues[key].kind if key else "workshop" if fold(name).endswith(("w", "workshop")) else "conference"
    publication = {"venue": key or slug_of(name), "year": int(said["year"]), "kind": kind}
    if key is None:
        made.remark(entry, f"vocab/venues.yaml does not have `{entry.venue}`; add it or mend the record: {entry.title}")
        publication["note"] = f"`{clean(entry.venue)}` in the list"
    yield publication | ({"award": award} if award else {})


def author(name: str) -> dict[str, str]:
    """Given and family name; the last word is the family name unless a particle stands before it."""
    parts = re.sub(r"[*†‡§¶⁰¹²³⁴⁵⁶⁷⁸⁹]", "", clean(name)).split()
    first = next((index for index, part in enumerate(parts[1:-1], 1) if part in PARTICLES), -1)
    given, family = " ".join(parts[:first]), " ".join(parts[first:])
    if not given:  # a group, or a person of one name: both fields must say something
        return {"given": family, "family": family, "printed": family}
    return {"given": given, "family": family}


def clean(text: str) -> str:
    """Plain Unicode: LaTeX as letters, superscript tags as superscript signs, odd spaces as plain ones."""
    text = re.sub(r"<sup>(\d)</sup>", lambda match: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(match[1])], text)
    text = LATEX.sub(lambda match: LatexNodes2Text().latex_to_text(match[0]), ESCAPED.sub(r"\1", text))
    text = html.unescape(re.sub(r"<[^>]*>|[{}]", "", text))
    seen = "".join(sign for sign in text if sign == LOST or sign.isspace() or not UNSEEN.match(sign))
    return unicodedata.normalize("NFC", " ".join(seen.split()))


def unique(words: Iterable[str]) -> list[str]:
    """Without repetitions."""
    return list(dict.fromkeys(words))
