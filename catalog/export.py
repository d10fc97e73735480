"""Papers for other programs: BibTeX, CSL-JSON, CSV, JSON."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pylatexenc.latexencode import RULE_CALLABLE, UnicodeToLatexConversionRule, UnicodeToLatexEncoder

from catalog.library import Library
from catalog.output import as_csv, as_json, visible
from catalog.schema import Author, Publication, Record

ENTRY_TYPES = {"preprint": "misc", "workshop": "inproceedings", "conference": "inproceedings", "journal": "article"}
CSL_TYPES = {
    "preprint": "article",
    "workshop": "paper-conference",
    "conference": "paper-conference",
    "journal": "article-journal",
}
# BibTeX counts every brace, escaped or not; `"` must not become two apostrophes, nor "?`" an inverted question mark.
SIGNS = {"{": r"\ensuremath{\lbrace}", "}": r"\ensuremath{\rbrace}", '"': '"', "`": r"\textasciigrave"}
CARON = "\N{COMBINING CARON}"
NAMES = re.compile(r"\b(?:Stable Diffusion|Jacobi)\b")  # written with capitals in running text too
WORD = re.compile(r"[^\s:;,.!?()]+")
OWN_CAPITAL = re.compile(r"[^\W\d_][A-Z]|[A-Z]\d|\d[A-Z]|^[A-Z]$")  # of a part between hyphens


def exported(form: str, records: Sequence[Record], rows: Sequence[Mapping[str, Any]], library: Library) -> str:
    """All records in one of the forms; `rows` are the same papers as `query papers` gives them."""
    if form == "bibtex":
        return bibtex(records, library)
    if form == "csl-json":
        return as_json([csl(record, library) for record in records]) + "\n"
    if form == "csv":
        return as_csv(rows)
    return as_json([record.model_dump(mode="json", by_alias=True, exclude_defaults=True) for record in records]) + "\n"


def bibtex(records: Sequence[Record], library: Library) -> str:
    """A BibTeX file; the keys are the ids of the records."""
    return "\n".join(entry(record, library) for record in records)


def entry(record: Record, library: Library) -> str:
    """One BibTeX entry: signs and accents in LaTeX, capitals of names kept."""
    primary = record.primary
    fields = {
        "title": title(record),
        "author": " and ".join(map(person, record.authors)),
        "year": str(primary.year),
        **container(primary, library),
        **identifiers(record),
    }
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@{ENTRY_TYPES[primary.kind]}{{{record.id},\n{lines}}}\n"


def container(publication: Publication, library: Library) -> dict[str, str]:
    """Where the paper appeared."""
    name = latex(library.vocabularies["venues"][publication.venue].name or publication.venue)
    pages = "--".join(map(latex, re.split("\\s*[-\N{EN DASH}]+\\s*", publication.pages or "")))
    if publication.kind == "journal":
        return {"journal": name, "pages": pages}
    if publication.kind == "preprint":
        return {}
    return {"booktitle": name, "pages": pages}


def identifiers(record: Record) -> dict[str, str]:
    """Numbers and address of the paper."""
    ids, paper = record.identifiers, record.link("paper")
    return {
        "doi": url(ids.doi or ""),
        "eprint": (ids.arxiv or "") + (f"v{ids.version}" if ids.version else ""),
        "archiveprefix": "arXiv" if ids.arxiv else "",
        "url": url(paper.url) if paper else "",
    }


def title(record: Record) -> str:
    """The title. Names stand in braces, so that styles do not lower them: `{DiT}`, `{T-GATE}`, `{Stable Diffusion}`."""
    text = " ".join(record.title.split())
    named = f"{' '.join(record.abbreviation.split())}:"
    kept = [range(len(named) - 1)] if text.startswith(named) else []
    kept += [range(*match.span()) for match in NAMES.finditer(text)]
    kept += [range(*match.span()) for match in WORD.finditer(text) if is_name(match[0])]
    done, pieces = 0, []
    for place in sorted(kept, key=lambda place: (place.start, -place.stop)):
        if place.start >= done:
            pieces += [latex(text[done : place.start]), f"{{{latex(text[place.start : place.stop])}}}"]
            done = place.stop
    return "".join([*pieces, latex(text[done:])])


def is_name(word: str) -> bool:
    """Whether a word has capitals of its own, not those of a title: `DiT`, `F³-Pruning`, but not `Training-Free`."""
    parts = unicodedata.normalize("NFKD", word).split("-")
    return any(OWN_CAPITAL.search(part) for part in parts) and word != "A"


def person(author: Author) -> str:
    """`Family, Given`; braces keep a comma or an `and` inside a name."""
    family, given = (
        f"{{{latex(name)}}}" if "," in name or "and" in name.casefold().split() else latex(name)
        for name in (author.family, author.given)
    )
    return f"{family}, {given}"


def latex(text: str) -> str:
    """`text` for LaTeX on one line: special signs and accents escaped, braces balanced."""
    one_line = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    encoded: str = LATEX.unicode_to_latex(visible(one_line))
    return encoded


def own_sign(text: str, position: int) -> tuple[int, str] | None:
    """What pylatexenc lacks or does in a way that breaks an entry."""
    sign = text[position]
    if sign in SIGNS:
        return 1, SIGNS[sign]
    if sign in "-'" and text[position - 1 : position] == sign:  # braces keep a pair from becoming one sign
        return 1, sign
    parts = unicodedata.normalize("NFD", sign)
    return (1, f"\\v{{{parts[0]}}}") if parts[1:] == CARON else None


LATEX = UnicodeToLatexEncoder(
    conversion_rules=[UnicodeToLatexConversionRule(RULE_CALLABLE, own_sign), "defaults"],
    unknown_char_policy="keep",
    unknown_char_warning=False,
    replacement_latex_protection="braces-all",
)


def url(address: str) -> str:
    """An address inside braces: signs that would end or comment it are percent-encoded."""
    return re.sub(r"[{}\\\s]", lambda sign: quote(sign[0]), visible(address))


def csl(record: Record, library: Library) -> dict[str, Any]:
    """One CSL-JSON item."""
    primary, paper = record.primary, record.link("paper")
    item: dict[str, Any] = {
        "id": record.id,
        "type": CSL_TYPES[primary.kind],
        "title": record.title,
        "author": [{"given": author.given, "family": author.family} for author in record.authors],
        "issued": {"date-parts": [[primary.year, *([primary.month] if primary.month else [])]]},
        "container-title": library.vocabularies["venues"][primary.venue].name,
        "page": primary.pages,
        "DOI": record.identifiers.doi,
        "number": f"arXiv:{record.identifiers.arxiv}" if record.identifiers.arxiv else None,
        "URL": paper.url if paper else None,
    }
    return {key: value for key, value in item.items() if value}
