"""The README: an awesome list made from the records. Its form passes awesome-lint."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from catalog import results
from catalog.library import Library
from catalog.lists import Section
from catalog.markdown import cell_table, code, md, md_url, slug
from catalog.results import Report
from catalog.schema import RATIOS, Claim, Record

TEMPLATES = Path(__file__).parent / "templates"
BADGE = "https://img.shields.io/badge/{text}-{colour}"
COLOURS = {"application": "green", "mechanism": "orange", "status": "purple"}
HEADLINES = {  # ratios that can stand for a paper, the most telling first
    "speedup": "{:g}x faster",
    "flops_speedup": "{:g}x fewer FLOPs",
    "time_saved": "{:g}% less time",
    "flops_saved": "{:g}% fewer FLOPs",
    "nfe_ratio": "{:g}x fewer evaluations",
    "memory_ratio": "{:g}x less memory",
    "memory_saved": "{:g}% less memory",
    "size_ratio": "{:g}x smaller",
    "params_saved": "{:g}% fewer parameters",
}
COMPUTED = {**RATIOS, "nfe": "nfe_ratio", "memory_gb": "memory_ratio", "size_mb": "size_ratio"}
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
    claims = [claim for record in library.records.values() for claim in record.claims]
    text = environment.get_template("readme.md.j2").render(
        papers=len(library.records),
        contents=list(contents(library)),
        running=sum(record.status in ("implemented", "verified") for record in library.records.values()),
        measured=measured_table(reports),
        statuses=status_table(library, reports),
        views=views(library),
        news=library.news,
        origin=library.origin,
        corrections=sum(len(record.corrections) for record in library.records.values()),
        claims=len(claims),
        unverified=sum(claim.confidence == "C" for claim in claims),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def contents(library: Library) -> Iterator[Heading]:
    """All sections, with those of the views below them."""
    template = (TEMPLATES / "readme.md.j2").read_text(encoding="utf-8")
    fixed = [title for title in re.findall(r"^## (.+)$", template, re.MULTILINE) if "{{" not in title]
    taken: Counter[str] = Counter()
    for title in fixed:
        if title not in LATER and (title != "News" or library.news):
            link = slug(title, taken)
            if title != "Contents":
                yield Heading(title, link)
    for view in library.views:
        link = slug(view.title, taken)
        below = tuple(Heading(md(section.title), slug(section.title, taken)) for section in view.sections)
        yield Heading(md(view.title), link, below)


def views(library: Library) -> Iterator[dict[str, Any]]:
    """The views with their entries. A link may lead only once: the second time the record leads."""
    shown: set[str] = set()
    for view in library.views:
        sections = []
        for section in view.sections:
            records = [library.records[paper] for paper in section.papers]
            entries = [entry(record, library, again=record.id in shown) for record in records]
            sections.append({"title": section.title, "intro": intro(section, library), "entries": entries})
            shown.update(section.papers)
        yield {"title": view.title, "note": view.note, "sections": sections}


def intro(section: Section, library: Library) -> str:
    """What stands under the heading. Base models are no links: a link may stand only once in the README."""
    models = [md(library.label("base_models", model)) for model in section.base_models]
    bases = f"Base models: {', '.join(models)}." if models else ""
    return f"{md(section.intro or '')} {bases}".strip()


def entry(record: Record, library: Library, again: bool) -> str:
    """One line of the list: title, authors, venue, links, badges."""
    authors = ", ".join(md(author.printed or author.name) for author in record.authors)
    addresses = [(link.kind, md_url(link.url)) for link in record.links if link.kind in ("paper", "code", "project")]
    place = next(place for place, (kind, _) in enumerate(addresses) if kind == "paper")
    title = md(record.title) if again else f"[{md(record.title)}]({addresses.pop(place)[1]})"
    links = [(library.label("link_kinds", kind), address) for kind, address in addresses]
    links.insert(0 if again else len(links), ("Record", f"catalog/papers/{record.id}.yaml"))
    links += [("Spec", md_url(path)) for path in (record.technique.specs if record.technique else ())]
    linked = " ".join(f"[{name}]({address})" for name, address in links)
    return f"{title} - {authors}. {venue(record, library)} {linked} {' '.join(badges(record, library))}"


def venue(record: Record, library: Library) -> str:
    """Where to cite the paper from, in bold, with a mark where that is unverified."""
    primary = record.primary
    name = library.venue(primary) + (f" {primary.award}" if primary.award else "")
    unsure = " (venue unverified)" if (primary.note or "").startswith("unverified") else ""
    return f"**{md(name)}**{unsure}."


def badges(record: Record, library: Library) -> Iterator[str]:
    """Badges of an entry: abbreviation, applications, mechanisms, preparation, state of the technique."""
    yield badge(record.abbreviation, "blue", "Abbreviation")
    for application in record.tags.applications:
        yield badge(library.label("applications", application), COLOURS["application"], "Application")
    for mechanism in record.tags.mechanisms:
        yield badge(library.label("mechanisms", mechanism), COLOURS["mechanism"], "Mechanism")
    said, colour = preparation(record, library)
    yield badge(said, colour, "Preparation")
    if record.status in ("implemented", "verified"):
        yield badge(record.status, COLOURS["status"], "Technique")


def preparation(record: Record, library: Library) -> tuple[str, str]:
    """What has to be done before use, and the colour of its badge: grey only where nothing has to be done."""
    if record.tags.training is None:
        return "not established", "red"
    if record.tags.training == "none":
        return "training-free", "lightgrey"
    return f"needs {library.label('training', record.tags.training).casefold()}", "yellow"


def badge(text: str, colour: str, alt: str) -> str:
    """A static badge. Dashes and underscores are doubled, everything else is percent-encoded."""
    doubled = text.replace("-", "--").replace("_", "__")
    return f"![{alt}: {md(text)}]({BADGE.format(text=quote(doubled, safe=''), colour=colour)})"


def measured_table(reports: Sequence[Report]) -> str:
    """Published runs, one a row."""
    rows = []
    for report in sorted(reports, key=lambda report: (report.spec, report.note or "", results.run_id(report))):
        machine = results.hardware_row(report.environment)
        cores = f", {machine['cores']} cores" if machine["cores"] else ""
        rows.append(
            [
                code(command(report)) + (f" ({md(report.note)})" if report.note else ""),
                times(report.speedup),
                times(report.macs_ratio),
                number(report.realised_fraction),
                number(report.psnr, 1),
                number(report.ssim, 3),
                f"{md(machine['name'])}{cores}",
            ]
        )
    heads = ["Run", "Speed-up", "MACs ratio", "Realised fraction", "PSNR, dB", "SSIM", "Machine"]
    return cell_table(heads, rows) if rows else "No run has been published yet."


def command(report: Report) -> str:
    """What to type for a run like this one."""
    profile = "" if report.profile in (None, "embedded") else f" --profile {report.profile}"
    processes = (report.environment.model_extra or {}).get("processes", 1)
    engine = "engine" if processes == 1 else f"torchrun --nproc_per_node {processes} -m engine"
    return f"{engine} run specs/{report.spec}{profile}"


def status_table(library: Library, reports: Sequence[Report]) -> str:
    """Every paper: state of its technique, the headline claim, what was measured. Those that run come first."""
    order = ("verified", "implemented", "planned", "none")
    records = library.records.values()
    rows = []
    for record in sorted(records, key=lambda record: (order.index(record.status), record.abbreviation.casefold())):
        own = [report for report in reports if report.paper == record.id and not report.note]
        specs = ", ".join(
            f"[{md(Path(path).name)}]({md_url(path)})" for path in (record.technique.specs if record.technique else ())
        )
        rows.append(
            [
                md(record.abbreviation),
                record.status if record.technique else "-",
                preparation(record, library)[0],
                headline(record, library, {report.backbone for report in own}),
                "; ".join(sorted(map(measured, own))) or "-",
                specs or "-",
            ]
        )
    return cell_table(["Technique", "Status", "Preparation", "Claimed", "Measured here", "Spec"], rows)


def measured(report: Report) -> str:
    """`2.06x speed-up, 2.34x MACs ratio (embedded)`."""
    ratios = [(report.speedup, "speed-up"), (report.macs_ratio, "MACs ratio")]
    said = ", ".join(f"{times(value)} {name}" for value, name in ratios if value is not None)
    return f"{said or 'no ratio'} ({md(report.profile or 'local')})"


def headline(record: Record, library: Library, backbones: Set[str]) -> str:
    """The ratio that stands for a paper: on the model that was measured, from the abstract, best known first."""
    ratios = [claim for claim in record.claims if ratio(claim)[0] in HEADLINES]
    models = {key for key, model in library.vocabularies["base_models"].items() if model.backbone in backbones}
    if ratios:
        return claim_text(min(ratios, key=lambda claim: (claim.base_model not in models, rank(claim))), library)
    return "no ratio recorded" if record.claims else "no number recorded"


def ratio(claim: Claim) -> tuple[str, float]:
    """Metric and value of a claim, or of the ratio that follows from its number and that of the plain model."""
    metric = COMPUTED.get(claim.metric)
    if metric is None or not claim.baseline or not claim.value:
        return claim.metric, claim.value
    return metric, claim.baseline / claim.value


def rank(claim: Claim) -> tuple[bool, str, bool, int]:
    """Sorts claims: the abstract first, then by confidence, printed ratios before computed ones."""
    metric = ratio(claim)[0]
    return claim.source.where != "abstract", claim.confidence, metric != claim.metric, list(HEADLINES).index(metric)


def claim_text(claim: Claim, library: Library) -> str:
    """`2.36x fewer FLOPs (Open-Sora)`, with a mark where it is computed from two numbers, or unverified."""
    metric, value = ratio(claim)
    rounded = value if metric == claim.metric else float(f"{value:.3g}")
    remarks = [md(library.label("base_models", claim.base_model))]
    remarks += ["computed"] if metric != claim.metric else []
    remarks += ["unverified"] if claim.confidence == "C" else []
    return f"{HEADLINES[metric].format(rounded)} ({', '.join(remarks)})"


def times(value: float | None) -> str:
    """A ratio, such as 2.06x."""
    return "-" if value is None else f"{value:.2f}x"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals."""
    return "-" if value is None else f"{value:.{digits}f}"
