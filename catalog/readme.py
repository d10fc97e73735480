"""The README: an awesome list made from the records. Its form passes awesome-lint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from catalog import results
from catalog.library import Library
from catalog.lists import Section
from catalog.markdown import cell_table, md, md_url
from catalog.results import Report
from catalog.schema import Claim, Record

TEMPLATES = Path(__file__).parent / "templates"
BADGE = "https://img.shields.io/badge/{text}-{colour}"
COLOURS = {"application": "green", "mechanism": "orange", "training": "lightgrey", "status": "purple"}
HEADLINES = ("speedup", "flops_speedup", "nfe_ratio", "memory_ratio", "size_ratio", "time_saved", "flops_saved")
LATER = ("Contributing", "Footnotes")  # sections that do not stand in the contents


@dataclass(frozen=True)
class Heading:
    """A line of the contents."""

    title: str
    anchor: str
    below: tuple[Heading, ...] = ()


def render(library: Library) -> str:
    """The whole README."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )  # the output is Markdown: values are escaped by `md`, not as HTML
    environment.filters["md"] = md
    reports = [results.read_report(file) for file in results.published_files(library.root)]
    corrections = sum(len(record.corrections) for record in library.records.values())
    claims = [claim for record in library.records.values() for claim in record.claims]
    shown: set[str] = set()
    text = environment.get_template("readme.md.j2").render(
        papers=len(library.records),
        contents=list(contents(library)),
        counts={"implemented": sum(record.status != "planned" for record in runnable(library))},
        measured=measured_table(library, reports),
        statuses=status_table(library, reports),
        views=[
            {
                "title": view.title,
                "note": view.note,
                "sections": [section_of(section, library, shown) for section in view.sections],
            }
            for view in library.views
        ],
        origin=library.origin,
        corrections=corrections,
        claims=len(claims),
        unverified=sum(claim.confidence == "C" for claim in claims),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def contents(library: Library) -> Iterator[Heading]:
    """All sections, with those of the views below them."""
    template = (TEMPLATES / "readme.md.j2").read_text(encoding="utf-8")
    fixed = [title for title in re.findall(r"^## (.+)$", template, re.MULTILINE) if "{" not in title]
    for title in fixed:
        if title not in ("Contents", *LATER):
            yield Heading(title, anchor(title))
    for view in library.views:
        below = tuple(Heading(md(section.title), anchor(section.title)) for section in view.sections)
        yield Heading(md(view.title), anchor(view.title), below)


def anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.casefold()).replace(" ", "-")


def section_of(section: Section, library: Library, shown: set[str]) -> dict[str, Any]:
    """A section with its entries; `shown` holds the papers that stood in the README before."""
    entries = []
    for paper in section.papers:
        entries.append(entry(library.records[paper], library, again=paper in shown))
        shown.add(paper)
    models = [model_link(library, model) for model in section.base_models]
    intro = f"Base models: {', '.join(models)}." if models else md(section.intro or "")
    return {"title": section.title, "intro": intro, "entries": entries}


def model_link(library: Library, model: str) -> str:
    """A base model by name. Plain text: a link may stand only once in the README, and models stand in many places."""
    return md(library.label("base_models", model))


def entry(record: Record, library: Library, again: bool) -> str:
    """One line of the list. A paper that stood before is led by its name, and its first link is the record."""
    authors = ", ".join(md(author.printed or author.name) for author in record.authors)
    primary = record.primary
    venue = library.venue(primary) + (f" {primary.award}" if primary.award else "")
    paper = record.link("paper")
    assert paper is not None, "a record has a link to its paper"
    page = f"catalog/papers/{record.id}.yaml"
    lead = (
        f"{md(record.abbreviation)}: [{md(record.title)}]({page})"
        if again
        else f"[{md(record.title)}]({md_url(paper.url)})"
    )
    links = [("Paper", paper.url)] if again else []
    links += [(label(library, link.kind), link.url) for link in record.links if link.kind in ("code", "project")]
    links += [] if again else [("Record", page)]
    links += [("Spec", path) for path in (record.technique.specs if record.technique else ())]
    linked = " ".join(f"[{name}]({md_url(url)})" for name, url in links)
    return f"{lead} - {authors}. **{md(venue)}.** {linked} {' '.join(badges(record, library))}"


def label(library: Library, kind: str) -> str:
    """Name of a kind of link."""
    return library.label("link_kinds", kind)


def badges(record: Record, library: Library) -> Iterator[str]:
    """Badges of an entry: abbreviation, applications, mechanisms, training, state of the technique."""
    yield badge(record.abbreviation, "blue", "Abbreviation")
    for application in record.tags.applications:
        yield badge(library.label("applications", application), COLOURS["application"], "Application")
    for mechanism in record.tags.mechanisms:
        yield badge(library.label("mechanisms", mechanism), COLOURS["mechanism"], "Mechanism")
    if record.tags.training:
        training = f"training: {library.label('training', record.tags.training).casefold()}"
        yield badge(training, COLOURS["training"], "")
    if record.status not in ("none", "planned"):
        yield badge(record.status, COLOURS["status"], "Technique")


def badge(text: str, colour: str, alt: str) -> str:
    """A static badge. Dashes and underscores are doubled, everything else is percent-encoded."""
    doubled = text.replace("-", "--").replace("_", "__")
    said = f"{alt}: {md(text)}" if alt else md(text).capitalize()
    return f"![{said}]({BADGE.format(text=quote(doubled, safe=''), colour=colour)})"


def runnable(library: Library) -> list[Record]:
    """Records with a technique, those that run first, then by abbreviation."""
    order = {"verified": 0, "implemented": 1, "planned": 2}
    blocks = [record for record in library.records.values() if record.technique]
    return sorted(blocks, key=lambda record: (order[record.status], record.abbreviation.casefold()))


def measured_table(library: Library, reports: Sequence[Report]) -> str:
    """Published runs, one a row."""
    rows = []
    for report in sorted(reports, key=lambda report: (report.spec, report.note or "", results.run_id(report))):
        machine = results.hardware_row(report.environment)
        cores = f", {machine['cores']} cores" if machine["cores"] else ""
        rows.append(
            [
                f"`engine run specs/{md(report.spec)}`" + (f" ({md(report.note)})" if report.note else ""),
                md(report.weights if isinstance(report.weights, str) else "local"),
                times(report.speedup),
                times(report.macs_ratio),
                number(report.realised_fraction),
                f"{number(report.psnr, 1)} dB, {number(report.ssim, 3)}",
                f"{md(machine['name'])}{cores}",
            ]
        )
    heads = ["Run", "Weights", "Speed-up", "MACs ratio", "Realised", "PSNR, SSIM", "Machine"]
    return cell_table(heads, rows) if rows else "Nothing has been published yet."


def status_table(library: Library, reports: Sequence[Report]) -> str:
    """Every technique: state, specs, the headline claim, the best measured speed-up."""
    rows = []
    for record in runnable(library):
        measured = sorted(
            {times(report.speedup) for report in reports if report.paper == record.id and not report.note}
        )
        specs = ", ".join(f"`{Path(path).name}`" for path in (record.technique.specs if record.technique else ()))
        rows.append(
            [
                md(record.abbreviation),
                record.status,
                specs or "-",
                headline(record, library),
                ", ".join(measured) or "-",
            ]
        )
    return cell_table(["Technique", "Status", "Specs", "Claimed", "Measured, embedded"], rows)


def headline(record: Record, library: Library) -> str:
    """The claim that stands for a paper: a ratio if it has one, from the abstract if possible, best known first."""
    ratios = [claim for claim in record.claims if claim.metric in HEADLINES]
    if not ratios:
        return "-"
    claim = min(
        ratios, key=lambda claim: (claim.source.where != "abstract", claim.confidence, HEADLINES.index(claim.metric))
    )
    return claim_text(claim, library)


def claim_text(claim: Claim, library: Library) -> str:
    """`2.36x FLOPs ratio (Open-Sora)`, with a mark where it is unverified."""
    word = library.vocabularies["metrics"][claim.metric]
    unit = word.unit if word.unit in ("x", "%") else f" {word.unit}"
    mark = ", unverified" if claim.confidence == "C" else ""
    model = library.label("base_models", claim.base_model)
    name = word.label if word.label.startswith("FLOPs") else word.label.casefold()
    return f"{claim.value:g}{unit} {name} ({md(model)}{mark})"


def times(value: float | None) -> str:
    """A ratio, such as 2.06x."""
    return "-" if value is None else f"{value:.2f}x"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals."""
    return "-" if value is None else f"{value:.{digits}f}"
