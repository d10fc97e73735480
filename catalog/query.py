"""Questions to the catalog's database. Every answer is a list of plain rows, in a fixed order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, not_, or_, select

from catalog.errors import CatalogError
from catalog.names import fold, latin, nearest
from catalog.tables import (
    ALIAS,
    AUTHORSHIP,
    CLAIM,
    CORRECTION,
    HARDWARE,
    LINK,
    MEASUREMENT,
    METRIC,
    MODEL,
    PAPER,
    PAPER_MODEL,
    PAPER_TAG,
    PLACEMENT,
    PUBLICATION,
    RELATION,
    RUN,
    SECTION,
    SPEC,
    TAG,
    TAG_ALIAS,
    VENUE,
    VIEW,
)

Row = dict[str, Any]

NO_MONTH = 99  # sorts after the months of its year
PERMISSIVE = ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "Unlicense")
PARTS: dict[str, Callable[[], ColumnElement[bool]]] = {
    "code": lambda: exists().where(LINK.c.paper_id == PAPER.c.id, LINK.c.kind == "code"),
    "claim": lambda: exists().where(CLAIM.c.paper_id == PAPER.c.id),
    "correction": lambda: exists().where(CORRECTION.c.paper_id == PAPER.c.id),
    "measurement": lambda: exists().where(RUN.c.paper_id == PAPER.c.id),
    "spec": lambda: exists().where(SPEC.c.paper_id == PAPER.c.id),
}


class BadQuery(CatalogError):
    """A question cannot be answered; the text says what is wrong and what to write."""


@dataclass(frozen=True)
class PaperFilter:
    """Which papers are wanted; everything named must hold, and one of several values of a field is enough."""

    training: Sequence[str] = ()
    mechanism: Sequence[str] = ()
    application: Sequence[str] = ()
    base_model: Sequence[str] = ()
    arch: Sequence[str] = ()
    status: Sequence[str] = ()
    scope: Sequence[str] = ()
    venue: Sequence[str] = ()
    list_venue: str | None = None
    year: Sequence[int] = ()
    author: str | None = None
    published: bool = False
    having: Sequence[str] = field(default=())
    without: Sequence[str] = field(default=())
    ids: Sequence[str] | None = None


def papers(connection: Connection, wanted: PaperFilter, sort: str = "id", limit: int | None = None) -> list[Row]:
    """Papers as objects with their authors, tags and links."""
    venue = select(
        PUBLICATION.c.paper_id,
        func.min(PUBLICATION.c.year * 100 + func.coalesce(PUBLICATION.c.month, NO_MONTH)).label("first"),
    ).group_by(PUBLICATION.c.paper_id)
    first = venue.subquery("first")
    query = (
        select(
            PAPER,
            PUBLICATION.c.year,
            PUBLICATION.c.kind,
            PUBLICATION.c.award,
            VENUE.c.short,
            VENUE.c.id.label("venue_id"),
            first.c.first,
        )
        .join(PUBLICATION, and_(PUBLICATION.c.paper_id == PAPER.c.id, PUBLICATION.c.is_primary))
        .join(VENUE, VENUE.c.id == PUBLICATION.c.venue_id)
        .join(first, first.c.paper_id == PAPER.c.id)
    )
    query = query.with_only_columns(
        *(column for column in query.selected_columns if column.name not in ("record", "search_text"))
    )
    query = query.where(*conditions(connection, wanted)).order_by(*order(sort), PAPER.c.id)
    rows = connection.execute(query.limit(limit)).mappings().all()
    return with_details(connection, [dict(row) for row in rows])


def with_details(connection: Connection, rows: list[Row]) -> list[Row]:
    """Rows of papers with the lists that belong to them."""
    ids = [row["id"] for row in rows]
    authors = grouped(
        connection, select(AUTHORSHIP.c.paper_id, AUTHORSHIP.c.printed).order_by(AUTHORSHIP.c.position), AUTHORSHIP, ids
    )
    models = grouped(
        connection,
        select(PAPER_MODEL.c.paper_id, PAPER_MODEL.c.base_model_id).order_by(PAPER_MODEL.c.position),
        PAPER_MODEL,
        ids,
    )
    tags = {
        dimension: grouped(
            connection,
            select(PAPER_TAG.c.paper_id, PAPER_TAG.c.tag_id)
            .join(TAG, TAG.c.id == PAPER_TAG.c.tag_id)
            .where(TAG.c.dimension == dimension)
            .order_by(PAPER_TAG.c.position),
            PAPER_TAG,
            ids,
        )
        for dimension in ("application", "mechanism")
    }
    links = {
        kind: grouped(
            connection, select(LINK.c.paper_id, LINK.c.url).where(LINK.c.kind == kind).order_by(LINK.c.id), LINK, ids
        )
        for kind in ("paper", "code", "project")
    }
    specs = grouped(connection, select(SPEC.c.paper_id, SPEC.c.path).order_by(SPEC.c.path), SPEC, ids)
    return [
        {
            "id": row["id"],
            "abbreviation": row["abbreviation"],
            "title": row["title"],
            "authors": authors.get(row["id"], []),
            "venue": f"{row['short']} {row['year']}",
            "award": row["award"],
            "first_published": month_of(row["first"]),
            "list_venue": row["list_venue"],
            "arxiv": row["arxiv_id"],
            "arxiv_version": row["arxiv_version"],
            "doi": row["doi"],
            "openreview": row["openreview_id"],
            "applications": tags["application"].get(row["id"], []),
            "mechanisms": tags["mechanism"].get(row["id"], []),
            "training": row["training"],
            "scope": row["scope"],
            "base_models": models.get(row["id"], []),
            "status": row["status"],
            "specs": specs.get(row["id"], []),
            "paper": next(iter(links["paper"].get(row["id"], [])), None),
            "code": next(iter(links["code"].get(row["id"], [])), None),
            "project": next(iter(links["project"].get(row["id"], [])), None),
            "summary": row["summary"],
        }
        for row in rows
    ]


def month_of(number: int) -> str:
    """202410 as 2024-10; only the year where no month is known."""
    year, month = divmod(number, 100)
    return str(year) if month == NO_MONTH else f"{year}-{month:02d}"


def grouped(connection: Connection, query: Select[Any], table: sa.Table, ids: list[str]) -> dict[str, list[Any]]:
    """Values by paper, in the order of the query. Few ids are asked for by name, many are all read."""
    if len(ids) <= 200:
        query = query.where(table.c.paper_id.in_(ids))
    found: dict[str, list[Any]] = {}
    for paper, value in connection.execute(query):
        found.setdefault(paper, []).append(value)
    return found


def conditions(connection: Connection, wanted: PaperFilter) -> list[ColumnElement[bool]]:
    """The filter as SQL conditions. Raises `BadQuery` for unknown words."""
    found: list[ColumnElement[bool]] = [
        PAPER.c[name].in_(known(connection, PAPER.c[name], getattr(wanted, name)))
        for name in ("training", "status", "scope")
        if getattr(wanted, name)
    ]
    found += [
        exists().where(
            PAPER_TAG.c.paper_id == PAPER.c.id, PAPER_TAG.c.tag_id.in_(tags_within(connection, dimension, words))
        )
        for dimension, words in (("mechanism", wanted.mechanism), ("application", wanted.application))
        if words
    ]
    found += model_conditions(connection, wanted) + publication_conditions(connection, wanted)
    found += [part(name) for name in wanted.having] + [not_(part(name)) for name in wanted.without]
    if wanted.author:
        found.append(author_condition(connection, wanted.author))
    if wanted.ids is not None:
        found.append(PAPER.c.id.in_(wanted.ids))
    return found


def model_conditions(connection: Connection, wanted: PaperFilter) -> list[ColumnElement[bool]]:
    """Conditions on the models a paper was shown on."""
    found: list[ColumnElement[bool]] = []
    if wanted.base_model:
        keys = known(connection, MODEL.c.id, wanted.base_model)
        found.append(exists().where(PAPER_MODEL.c.paper_id == PAPER.c.id, PAPER_MODEL.c.base_model_id.in_(keys)))
    if wanted.arch:
        models = select(MODEL.c.id).where(MODEL.c.arch.in_(known(connection, MODEL.c.arch, wanted.arch)))
        found.append(exists().where(PAPER_MODEL.c.paper_id == PAPER.c.id, PAPER_MODEL.c.base_model_id.in_(models)))
    return found


def publication_conditions(connection: Connection, wanted: PaperFilter) -> list[ColumnElement[bool]]:
    """Conditions on the publication to cite and on the venue of the original list."""
    found: list[ColumnElement[bool]] = []
    if wanted.venue:
        found.append(PUBLICATION.c.venue_id.in_(known(connection, VENUE.c.id, wanted.venue)))
    if wanted.year:
        found.append(PUBLICATION.c.year.in_(wanted.year))
    if wanted.published:
        found.append(PUBLICATION.c.kind != "preprint")
    if wanted.list_venue:
        found.append(func.lower(PAPER.c.list_venue).like(escaped(wanted.list_venue.casefold()) + "%", escape="\\"))
    return found


def author_condition(connection: Connection, name: str) -> ColumnElement[bool]:
    """Papers of people whose printed name contains all words of `name`, with or without accents."""
    words = latin(name).split()
    names = connection.execute(select(AUTHORSHIP.c.printed).distinct()).scalars()
    return exists().where(
        AUTHORSHIP.c.paper_id == PAPER.c.id,
        AUTHORSHIP.c.printed.in_([other for other in names if all(word in latin(other).split() for word in words)]),
    )


def escaped(text: str) -> str:
    """`text` for LIKE, where `%` and `_` mean themselves."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def known(connection: Connection, column: sa.Column[Any], words: Iterable[str]) -> list[str]:
    """Values of a column that `words` name in any spelling. Raises `BadQuery` with the nearest one."""
    values = {fold(value): value for value in connection.execute(select(column).distinct()).scalars() if value}
    for word in words:
        if fold(word) not in values and not (column.name == "status" and word == "verified"):
            raise BadQuery(f"there is no {column.name} `{word}`\n    -> {nearest(word, values.values())}")
    return [values.get(fold(word), word) for word in words]


def tags_within(connection: Connection, dimension: str, words: Sequence[str]) -> list[str]:
    """Tags of a dimension that `words` name (a tag, an alias, a family), with all tags below them."""
    rows = connection.execute(select(TAG.c.id, TAG.c.dimension, TAG.c.parent_id)).all()
    names = {
        fold(row.id.removeprefix("family/")): row.id
        for row in rows
        if row.dimension == "family" and dimension == "mechanism"
    }
    names |= {fold(row.id): row.id for row in rows if row.dimension == dimension}
    aliased = (
        select(TAG_ALIAS.c.alias, TAG_ALIAS.c.tag_id)
        .join(TAG, TAG.c.id == TAG_ALIAS.c.tag_id)
        .where(TAG.c.dimension == dimension)
    )
    names = {fold(name): tag for name, tag in connection.execute(aliased)} | names
    unknown = next((word for word in words if fold(word) not in names), None)
    if unknown is not None:
        hint = nearest(unknown, (tag.removeprefix("family/") for tag in names.values()))
        raise BadQuery(f"there is no {dimension} `{unknown}`\n    -> {hint}")
    found = [names[fold(word)] for word in words]
    for tag in found:  # grows while it is read
        found += [row.id for row in rows if row.parent_id == tag and row.id not in found]
    return found


def part(name: str) -> ColumnElement[bool]:
    """Whether a paper has a code link, a claim, a correction, a measurement, a spec."""
    if name not in PARTS:
        raise BadQuery(f"nothing is known of `{name}`\n    -> {nearest(name, PARTS)}")
    return PARTS[name]()


def order(sort: str) -> list[Any]:
    """Sort key of papers; a minus turns it round."""
    name = sort.removeprefix("-")
    columns: dict[str, Any] = {
        "id": PAPER.c.id,
        "abbreviation": func.lower(PAPER.c.abbreviation),
        "title": func.lower(PAPER.c.title),
        "date": sa.column("first"),
        "venue": VENUE.c.id,
        "year": PUBLICATION.c.year,
        "status": PAPER.c.status,
        "training": PAPER.c.training,
    }
    if name not in columns:
        raise BadQuery(f"papers cannot be sorted by `{name}`\n    -> {nearest(name, columns)}")
    return [sa.desc(columns[name]) if sort.startswith("-") else columns[name]]


def plain(connection: Connection, query: Select[Any]) -> list[Row]:
    """Rows of a query as plain mappings."""
    return [dict(row) for row in connection.execute(query).mappings()]


def view(connection: Connection, name: str, section: str | None = None) -> list[Row]:
    """Entries of a view in order: section, number, paper."""
    views = connection.execute(select(VIEW.c.id).order_by(VIEW.c.position)).scalars().all()
    if name not in views:
        raise BadQuery(f"there is no view `{name}`\n    -> {nearest(name, views)}")
    query = (
        select(
            SECTION.c.name.label("section"),
            SECTION.c.title.label("heading"),
            PLACEMENT.c.position.label("number"),
            PAPER.c.id,
            PAPER.c.abbreviation,
            PAPER.c.title,
        )
        .join(PLACEMENT, PLACEMENT.c.section_id == SECTION.c.id)
        .join(PAPER, PAPER.c.id == PLACEMENT.c.paper_id)
        .where(SECTION.c.view_id == name)
        .order_by(SECTION.c.position, PLACEMENT.c.position)
    )
    if section is not None:
        names = connection.execute(select(SECTION.c.name).where(SECTION.c.view_id == name)).scalars().all()
        if section not in names:
            raise BadQuery(f"the view `{name}` has no section `{section}`\n    -> {nearest(section, names)}")
        query = query.where(SECTION.c.name == section)
    return plain(connection, query)


def links(
    connection: Connection, kinds: Sequence[str] = (), licence: str | None = None, status: str | None = None,
    paper: str | None = None, older: int | None = None, today: dt.date | None = None,
) -> list[Row]:  # fmt: skip
    """Links. `licence`: an SPDX id, `permissive` or `unknown`; `!ok`: all other states; `older`: in days."""
    query = select(
        LINK.c.paper_id.label("paper"),
        LINK.c.kind,
        LINK.c.url,
        LINK.c.official,
        LINK.c.licence,
        LINK.c.status,
        LINK.c.checked_on,
        LINK.c.note,
    )
    if kinds:
        query = query.where(LINK.c.kind.in_(known(connection, LINK.c.kind, kinds)))
    if paper:
        query = query.where(LINK.c.paper_id == paper)
    if licence == "permissive":
        query = query.where(LINK.c.licence.in_(PERMISSIVE))
    elif licence == "unknown":
        query = query.where(LINK.c.licence.is_(None))
    elif licence:
        query = query.where(LINK.c.licence.in_(known(connection, LINK.c.licence, [licence])))
    if status:
        same = LINK.c.status == status.removeprefix("!")
        query = query.where(or_(not_(same), LINK.c.status.is_(None)) if status.startswith("!") else same)
    if older is not None:
        before = (today or dt.date.today()) - dt.timedelta(days=older)
        query = query.where(or_(LINK.c.checked_on.is_(None), LINK.c.checked_on < before))
    return plain(connection, query.order_by(LINK.c.paper_id, LINK.c.id))


def corrections(
    connection: Connection, paper: str | None = None, fields: Sequence[str] = (), confidence: Sequence[str] = ()
) -> list[Row]:
    """What was corrected against the original list; `authors` asks for `authors.4` too."""
    query = select(
        CORRECTION.c.paper_id.label("paper"),
        *(
            CORRECTION.c[name]
            for name in ("field", "was", "now", "why", "evidence", "confidence", "reported_by", "made_on")
        ),
    )
    if paper:
        query = query.where(CORRECTION.c.paper_id == paper)
    if fields:
        query = query.where(
            or_(
                *(
                    or_(CORRECTION.c.field == name, CORRECTION.c.field.like(escaped(name) + ".%", escape="\\"))
                    for name in fields
                )
            )
        )
    if confidence:
        query = query.where(CORRECTION.c.confidence.in_([letter.upper() for letter in confidence]))
    return plain(connection, query.order_by(sa.nulls_last(CORRECTION.c.paper_id), CORRECTION.c.id))


def claims(
    connection: Connection, paper: str | None = None, metric: str | None = None, base_model: str | None = None
) -> list[Row]:
    """Published numbers, and the ratios they imply (`computed`)."""
    query = select(CLAIM.c.paper_id.label("paper"), *(column for column in CLAIM.c if column.name != "paper_id"))
    if paper:
        query = query.where(CLAIM.c.paper_id == paper)
    if metric:
        query = query.where(CLAIM.c.metric.in_(known(connection, METRIC.c.id, [metric])))
    if base_model:
        query = query.where(CLAIM.c.base_model_id.in_(known(connection, MODEL.c.id, [base_model])))
    return plain(connection, query.order_by(CLAIM.c.paper_id, CLAIM.c.id))


def results(connection: Connection, paper: str | None = None, metric: str | None = None) -> list[Row]:
    """What was measured, newest runs first within a paper."""
    query = (
        select(
            RUN.c.paper_id.label("paper"), RUN.c.spec, RUN.c.profile, RUN.c.backbone, RUN.c.weights,
            MEASUREMENT.c.metric, MEASUREMENT.c.value, MEASUREMENT.c.baseline, METRIC.c.unit, MEASUREMENT.c.n,
            MEASUREMENT.c.sd, MEASUREMENT.c.low, MEASUREMENT.c.high, HARDWARE.c.name.label("hardware"),
            RUN.c.finished_at, RUN.c.published, RUN.c.id.label("run"),
        )
        .join(MEASUREMENT, MEASUREMENT.c.run_id == RUN.c.id)
        .join(HARDWARE, HARDWARE.c.id == RUN.c.hardware_id)
        .join(METRIC, METRIC.c.id == MEASUREMENT.c.metric, isouter=True)
    )  # fmt: skip
    if paper:
        query = query.where(RUN.c.paper_id == paper)
    if metric:
        query = query.where(MEASUREMENT.c.metric.in_(known(connection, METRIC.c.id, [metric])))
    return plain(
        connection,
        query.order_by(RUN.c.paper_id, sa.nulls_last(sa.desc(RUN.c.finished_at)), RUN.c.id, MEASUREMENT.c.metric),
    )


GRADES = ("same", "near", "not")
COMPARED = sa.table(
    "claim_vs_measured",
    *map(sa.column, (
        "paper_id", "claim_id", "base_model_id", "metric", "claimed", "measured", "measured_over_claimed", "grade",
        "low", "high", "n", "computed", "confidence", "source", "claimed_on", "measured_on", "weights", "profile",
        "claimed_steps", "measured_steps", "claimed_resolution", "measured_height", "claimed_frames",
        "measured_frames", "run_id", "run_note", "published",
    )),
)  # fmt: skip


def comparison(
    connection: Connection, paper: str | None = None, metric: str | None = None, grades: Sequence[str] = (),
    sort: str = "paper", limit: int | None = None,
) -> list[Row]:  # fmt: skip
    """Claims beside measurements of the same paper, model and metric; no ratio in grade `not`."""
    unknown = next((grade for grade in grades if grade not in GRADES), None)
    if unknown is not None:
        raise BadQuery(f"there is no grade `{unknown}`\n    -> {nearest(unknown, GRADES)}")
    keys = {
        "paper": COMPARED.c.paper_id,
        "gap": func.abs(COMPARED.c.measured_over_claimed - 1),
        "claimed": COMPARED.c.claimed,
        "measured": COMPARED.c.measured,
    }
    if sort.removeprefix("-") not in keys:
        raise BadQuery(f"results cannot be sorted by `{sort}`\n    -> {nearest(sort, keys)}")
    key = keys[sort.removeprefix("-")]
    query = select(COMPARED.c.paper_id.label("paper"), *(column for column in COMPARED.c if column.name != "paper_id"))
    if paper:
        query = query.where(COMPARED.c.paper_id == paper)
    if metric:
        query = query.where(COMPARED.c.metric.in_(known(connection, METRIC.c.id, [metric])))
    if grades:
        query = query.where(COMPARED.c.grade.in_(grades))
    ordered = sa.nulls_last(sa.desc(key) if sort.startswith("-") else key)
    query = query.order_by(ordered, COMPARED.c.paper_id, COMPARED.c.claim_id, COMPARED.c.run_id).limit(limit)
    return [
        row | {"computed": bool(row["computed"]), "published": bool(row["published"])}
        for row in plain(connection, query)
    ]


def specs(connection: Connection, status: str | None = None) -> list[Row]:
    """Spec files with their papers."""
    query = select(SPEC.c.path, PAPER.c.id.label("paper"), PAPER.c.abbreviation, PAPER.c.status).join(
        PAPER, PAPER.c.id == SPEC.c.paper_id
    )
    if status:
        query = query.where(PAPER.c.status.in_(known(connection, PAPER.c.status, [status])))
    return plain(connection, query.order_by(SPEC.c.path))


def related(connection: Connection, paper: str, kinds: Sequence[str] = ()) -> list[Row]:
    """Papers that a paper names, and papers that name it."""
    there = select(RELATION.c.type, RELATION.c.other_id.label("paper"), sa.literal("to").label("direction")).where(
        RELATION.c.paper_id == paper
    )
    back = select(RELATION.c.type, RELATION.c.paper_id.label("paper"), sa.literal("from").label("direction")).where(
        RELATION.c.other_id == paper
    )
    if kinds:
        there, back = (
            query.where(RELATION.c.type.in_(known(connection, RELATION.c.type, kinds))) for query in (there, back)
        )
    rows = plain(connection, there) + plain(connection, back)
    return sorted(rows, key=lambda row: (row["type"], row["paper"], row["direction"]))


COUNTED: dict[str, Callable[[], tuple[Any, list[tuple[Any, Any]]]]] = {
    "training": lambda: (PAPER.c.training, []),
    "status": lambda: (PAPER.c.status, []),
    "scope": lambda: (PAPER.c.scope, []),
    "venue": lambda: (
        VENUE.c.short,
        [
            (PUBLICATION, and_(PUBLICATION.c.paper_id == PAPER.c.id, PUBLICATION.c.is_primary)),
            (VENUE, VENUE.c.id == PUBLICATION.c.venue_id),
        ],
    ),
    "year": lambda: (
        PUBLICATION.c.year,
        [(PUBLICATION, and_(PUBLICATION.c.paper_id == PAPER.c.id, PUBLICATION.c.is_primary))],
    ),
    "mechanism": lambda: tag_count("mechanism"),
    "application": lambda: tag_count("application"),
    "family": lambda: tag_count("mechanism", family=True),
    "base-model": lambda: (PAPER_MODEL.c.base_model_id, [(PAPER_MODEL, PAPER_MODEL.c.paper_id == PAPER.c.id)]),
}


def tag_count(dimension: str, family: bool = False) -> tuple[Any, list[tuple[Any, Any]]]:
    """Column and joins to count papers by tag or by the family of the tag."""
    link, tag = PAPER_TAG.alias(), TAG.alias()
    joins = [
        (link, link.c.paper_id == PAPER.c.id),
        (tag, and_(tag.c.id == link.c.tag_id, tag.c.dimension == dimension)),
    ]
    if not family:
        return tag.c.id, joins
    parent, above = TAG.alias(), TAG.alias()
    joins += [
        (parent, parent.c.id == tag.c.parent_id),
        (above, above.c.id == func.coalesce(parent.c.parent_id, parent.c.id)),
    ]
    return above.c.label, joins


def count(connection: Connection, by: Sequence[str]) -> list[Row]:
    """Numbers of papers by one or several facets, largest first."""
    unknown = next((name for name in by if name not in COUNTED), None)
    if unknown is not None:
        raise BadQuery(f"papers cannot be counted by `{unknown}`\n    -> {nearest(unknown, COUNTED)}")
    source: Any = PAPER
    columns, joined = [], set()
    for name in by:
        column, joins = COUNTED[name]()
        columns.append(column.label(name.replace("-", "_")))
        for table, on in joins:
            if table not in joined:
                joined.add(table)
                source = source.join(table, on)
    number = func.count(sa.distinct(PAPER.c.id)).label("papers")
    query = (
        select(*columns, number)
        .select_from(source)
        .group_by(*columns)
        .order_by(sa.desc(number), *map(sa.nulls_last, columns))
    )
    return plain(connection, query)


def find(connection: Connection, name: str) -> str:
    """Id of the paper with this id, abbreviation, alias or arXiv number. Raises `BadQuery` with the nearest name."""
    folded = fold(name)
    own = select(PAPER.c.id).where(or_(PAPER.c.id == name, PAPER.c.abbr_fold == folded))
    alias = select(ALIAS.c.paper_id).where(ALIAS.c.fold == folded)
    number = select(PAPER.c.id).where(PAPER.c.arxiv_id == name)
    for query in (own, alias, number):  # the id of a paper is one of its aliases
        found: str | None = connection.execute(query.order_by(sa.text("1")).limit(1)).scalar()
        if found is not None:
            return found
    known = connection.execute(select(PAPER.c.id)).scalars()
    raise BadQuery(f"there is no record `{name}`\n    -> {nearest(name, known)}")


def record(connection: Connection, paper: str) -> Row:
    """The whole record of a paper, as its file says it."""
    found: Row = connection.execute(select(PAPER.c.record).where(PAPER.c.id == paper)).scalar_one()
    return found


def records(connection: Connection) -> dict[str, Row]:
    """All records by id, as their files say them."""
    return {paper: data for paper, data in connection.execute(select(PAPER.c.id, PAPER.c.record).order_by(PAPER.c.id))}
