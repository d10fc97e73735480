"""Filling the catalogue tables from the records: plain rows in bulk, then the search index and the SQL views."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlmodel import SQLModel

from catalog import search, seed, tables
from catalog.library import Library
from catalog.names import fold
from catalog.schema import RATIOS, Claim, Record

Row = dict[str, Any]
HEIGHT = re.compile(r"(?:\d+x)?(?P<pixels>\d+)p?$")
DIMENSIONS = {"applications": "application", "mechanisms": "mechanism", "families": "family"}


def fill(connection: Connection, library: Library) -> None:
    """All rows of the catalogue tables."""
    records = library.records.values()
    insert(connection, tables.Metric, metrics(library))
    insert(connection, tables.Venue, venues(library))
    insert(connection, tables.Tag, tags(library))
    insert(connection, tables.TagAlias, tag_aliases(library))
    insert(connection, tables.BaseModelRow, base_models(library))
    insert(connection, tables.Paper, (paper(record, library) for record in records))
    insert(connection, tables.PaperAlias, (row for record in records for row in aliases(record)))
    insert(connection, tables.Author, people(records))
    insert(connection, tables.Authorship, (row for record in records for row in authorships(record)))
    insert(connection, tables.Publication, (row for record in records for row in publications(record)))
    insert(connection, tables.PaperTag, (row for record in records for row in paper_tags(record)))
    insert(connection, tables.PaperBaseModel, (row for record in records for row in shown_on(record)))
    insert(connection, tables.Link, (row for record in records for row in links(record)))
    insert(connection, tables.Relation, (row for record in records for row in relations(record)))
    insert(connection, tables.Spec, specs(records))
    insert(connection, tables.Correction, corrections(library))
    insert(connection, tables.Claim, (row for record in records for row in claims(record)))
    insert(connection, tables.NewsItem, news_items(library))
    fill_views(connection, library)


def insert(connection: Connection, table: type[SQLModel], rows: Iterable[Row]) -> None:
    """All rows in one statement."""
    listed = list(rows)
    if listed:
        connection.execute(sa.insert(table), listed)


def metrics(library: Library) -> Iterator[Row]:
    """Rows of `metric`."""
    for key, word in library.vocabularies["metrics"].items():
        yield {"id": key, "label": word.label, "kind": word.kind, "unit": word.unit or "", "better": word.better}


def venues(library: Library) -> Iterator[Row]:
    """Rows of `venue`."""
    for key, word in library.vocabularies["venues"].items():
        yield {"id": key, "short": word.label, "name": word.name or word.label, "kind": word.kind}


def tags(library: Library) -> Iterator[Row]:
    """Rows of `tag`, parents before children. The parent of a mechanism is its family if it has no other."""
    for name in ("families", "applications", "mechanisms"):
        words = library.vocabularies[name]
        for key in sorted(words, key=lambda key: words[key].parent is not None):
            word = words[key]
            parent = word.parent or (f"family/{word.family}" if word.family else None)
            yield {
                "id": f"family/{key}" if name == "families" else key,
                "dimension": DIMENSIONS[name],
                "label": word.label,
                "parent_id": parent,
                "description": word.description,
            }


def tag_aliases(library: Library) -> Iterator[Row]:
    """Rows of `tag_alias`."""
    for name in ("applications", "mechanisms"):
        for key, word in library.vocabularies[name].items():
            for alias in word.aliases:
                yield {"alias": alias, "tag_id": key}


def base_models(library: Library) -> Iterator[Row]:
    """Rows of `base_model`."""
    for key, word in library.vocabularies["base_models"].items():
        yield {"id": key} | word.model_dump(include={"label", "arch", "modality", "backbone", "url"})


def paper(record: Record, library: Library) -> Row:
    """The row of `paper`."""
    ids, technique, summary = record.identifiers, record.technique, record.summary
    return {
        "id": record.id,
        "title": record.title,
        "abbreviation": record.abbreviation,
        "abbr_fold": fold(record.abbreviation),
        "arxiv_id": ids.arxiv,
        "arxiv_version": ids.version,
        "doi": ids.doi,
        "openreview_id": ids.openreview,
        "training": record.tags.training,
        "scope": record.tags.scope,
        "summary": summary.short if summary else None,
        "block": technique.block if technique else None,
        "status": record.status,
        "list_venue": list_venue(record, library),
        "search_text": search.text_of(record, library.vocabularies),
        "record_path": f"catalog/papers/{record.id}.yaml",
        "record": record.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }


def list_venue(record: Record, library: Library) -> str | None:
    """Venue of the paper's first entry in the original list."""
    facts = seed.of_record(record, library.vocabularies)
    return next((entry.venue for entry in facts.values()), None)


def aliases(record: Record) -> Iterator[Row]:
    """Rows of `paper_alias`; the id is one too."""
    named: dict[str, Row | None] = {fold(record.abbreviation): None}
    named |= {fold(alias.text): {"text": alias.text, "kind": alias.kind} for alias in record.aliases}
    named.setdefault(fold(record.id), {"text": record.id, "kind": "id"})
    for folded, alias in named.items():
        if alias:
            yield {"paper_id": record.id, "fold": folded, **alias}


def people(records: Iterable[Record]) -> list[Row]:
    """Rows of `author`, each once."""
    rows: dict[str, Row] = {}
    for record in records:
        for author in record.authors:
            row = {"id": author.name, "given": author.given, "family": author.family, "orcid": author.orcid}
            rows[author.name] = row if author.orcid else rows.get(author.name, row)
    return list(rows.values())


def authorships(record: Record) -> Iterator[Row]:
    """Rows of `authorship`, counted from 1."""
    for position, author in enumerate(record.authors, 1):
        yield {
            "paper_id": record.id,
            "position": position,
            "author_id": author.name,
            "printed": author.printed or author.name,
        }


def publications(record: Record) -> Iterator[Row]:
    """Rows of `publication`."""
    for entry in record.publications:
        row = entry.model_dump(exclude={"venue", "primary"})
        yield row | {"paper_id": record.id, "venue_id": entry.venue, "is_primary": entry.primary}


def paper_tags(record: Record) -> Iterator[Row]:
    """Rows of `paper_tag`."""
    for position, tag in enumerate(dict.fromkeys([*record.tags.applications, *record.tags.mechanisms]), 1):
        yield {"paper_id": record.id, "tag_id": tag, "position": position}


def shown_on(record: Record) -> Iterator[Row]:
    """Rows of `paper_base_model`."""
    for position, model in enumerate(dict.fromkeys(record.tags.base_models), 1):
        yield {"paper_id": record.id, "base_model_id": model, "position": position}


def links(record: Record) -> Iterator[Row]:
    """Rows of `link`."""
    for link in record.links:
        row = link.model_dump(exclude={"checked"})
        yield row | {"paper_id": record.id, "checked_on": link.checked}


def relations(record: Record) -> Iterator[Row]:
    """Rows of `relation`."""
    for relation in record.relations:
        yield {"paper_id": record.id, "type": relation.type, "other_id": relation.target}


def specs(records: Iterable[Record]) -> Iterator[Row]:
    """Rows of `spec`."""
    seen: set[str] = set()
    for record in records:
        for path in record.technique.specs if record.technique else ():
            if path not in seen:
                seen.add(path)
                yield {"path": path, "paper_id": record.id}


def corrections(library: Library) -> Iterator[Row]:
    """Rows of `correction`: of entries, then of the list's file."""
    for record in library.records.values():
        for entry in record.corrections:
            row = entry.model_dump(exclude={"by", "date", "entries"})
            yield row | {"paper_id": record.id, "reported_by": entry.by, "made_on": entry.date}
    origin = library.origin
    for slip in origin.corrections if origin else ():
        yield {
            "paper_id": None,
            "field": f"line {slip.line}",
            "was": slip.was,
            "now": slip.now,
            "why": slip.why,
            "evidence": f"{origin.url}, commit {origin.commit}" if origin else "",
            "confidence": "A",
            "reported_by": "seed-audit",
            "made_on": origin.date if origin else None,
        }


def claims(record: Record) -> Iterator[Row]:
    """Rows of `claim`: the published numbers, then the ratios they imply where no ratio of that run is published."""
    ratios = {(ratio_key(claim), claim.metric) for claim in record.claims if claim.metric in RATIOS.values()}
    for claim in record.claims:
        yield claim_row(record, claim)
    for claim in record.claims:
        metric = RATIOS.get(claim.metric)
        if metric and claim.baseline and claim.value and (ratio_key(claim), metric) not in ratios:
            ratios.add((ratio_key(claim), metric))
            ratio = {"id": f"{claim.id}_ratio", "metric": metric, "value": round(claim.baseline / claim.value, 4)}
            yield claim_row(record, claim) | ratio | {"baseline": None, "computed": True}


def ratio_key(claim: Claim) -> str:
    """The same for claims of one run."""
    return f"{claim.base_model}|{claim.settings.model_dump_json()}"


def claim_row(record: Record, claim: Claim) -> Row:
    """The row of a published number."""
    settings = claim.settings
    match = HEIGHT.match(settings.resolution or "")
    row = settings.model_dump(exclude={"guidance"})
    row |= claim.model_dump(include={"id", "metric", "value", "baseline", "confidence", "note"})
    return row | {
        "paper_id": record.id,
        "base_model_id": claim.base_model,
        "computed": False,
        "height": int(match["pixels"]) if match else None,
        "source": claim.source.where,
        "source_url": claim.source.url,
    }


def news_items(library: Library) -> Iterator[Row]:
    """Rows of `news`."""
    for item in library.news:
        yield {"date": item.date, "paper_id": item.paper, "text": item.text}


def fill_views(connection: Connection, library: Library) -> None:
    """Views, their sections and the places of papers in them."""
    insert(connection, tables.ListView, (view.model_dump(exclude={"sections"}) for view in library.views))
    sections = [
        (view.id, place, section) for view in library.views for place, section in enumerate(view.sections, 1)
    ]  # fmt: skip
    insert(
        connection,
        tables.Section,
        (
            {"id": f"{view}/{section.id}", "view_id": view, "name": section.id, "position": place}
            | {"title": section.title, "intro": section.intro}
            for view, place, section in sections
        ),
    )
    insert(
        connection,
        tables.SectionBaseModel,
        (
            {"section_id": f"{view}/{section.id}", "base_model_id": model, "position": position}
            for view, _, section in sections
            for position, model in enumerate(section.base_models, 1)
        ),
    )
    insert(
        connection,
        tables.Placement,
        (
            {"section_id": f"{view}/{section.id}", "paper_id": paper, "position": position}
            for view, _, section in sections
            for position, paper in enumerate(section.papers, 1)
        ),
    )


def fill_search(connection: Connection) -> None:
    """The full-text index of the database at hand, and the words it knows."""
    search.create_index(connection)
    rows = connection.execute(sa.select(tables.PAPER.c.search_text)).scalars()
    words = sorted({word for text in rows for word in text.split()})
    insert(connection, tables.SearchToken, ({"token": word} for word in words))


def drop_views(connection: Connection) -> None:
    """SQL views and the index depend on tables of both kinds: they go first."""
    connection.execute(sa.text("drop view if exists claim_vs_measured"))
    connection.execute(sa.text(f"drop table if exists {search.INDEX}"))


def create_views(connection: Connection) -> None:
    """SQL views over catalogue and runs."""
    connection.execute(sa.text(CLAIM_VS_MEASURED))


# The grade says how far a measurement may be compared with a claim: `same` (published weights, same settings, and the
# same hardware where time or memory is compared), `near` (published weights or size, settings that do not contradict),
# `not` (anything else, such as the embedded model). Ratios are only given for `same` and `near`.
CLAIM_VS_MEASURED = """
create view claim_vs_measured as
select paired.*,
  case when grade in ('same', 'near') and claimed <> 0 then measured / claimed end as measured_over_claimed
from (
  select c.paper_id, c.id as claim_id, c.base_model_id, c.metric, c.value as claimed, m.value as measured,
    m.low, m.high, m.n, c.computed, c.confidence, c.source, c.hardware as claimed_on, h.name as measured_on,
    r.weights, r.profile, c.steps as claimed_steps, r.steps as measured_steps,
    c.resolution as claimed_resolution, r.height as measured_height, c.frames as claimed_frames,
    r.frames as measured_frames, r.id as run_id, r.note as run_note, r.published,
    case
      when r.weights = 'embedded' then 'not'
      when c.steps <> r.steps or c.height <> r.height or c.frames <> r.frames then 'not'
      when c.sampler is not null and c.sampler <> r.sampler then 'not'
      when k.kind = 'quality' and r.weights = 'random' then 'not'
      when c.steps is null or c.height is null or r.weights = 'random' then 'near'
      when k.kind in ('speed', 'memory') and (c.hardware is null or c.hardware <> h.name) then 'near'
      when c.precision is not null and c.precision <> r.precision then 'near'
      else 'same'
    end as grade
  from claim c
  join base_model b on b.id = c.base_model_id
  join metric k on k.id = c.metric
  join run r on r.paper_id = c.paper_id and r.backbone = b.backbone
  join measurement m on m.run_id = r.id and m.metric = c.metric
  join hardware h on h.id = r.hardware_id
) paired
"""
