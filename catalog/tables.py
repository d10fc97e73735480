"""The relational schema.

Catalogue tables hold what the YAML files say and are dropped and rebuilt as a whole. Tables of runs hold what was
measured here; they stay, and are migrated by Alembic. A run names papers by id without a foreign key, since the
catalogue is rebuilt under it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy import JSON, CheckConstraint, Column, Index, MetaData, Text, UniqueConstraint, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

CATALOG = MetaData()
RUNS = MetaData()
HEAD = "0001"  # revision of the tables of runs: the newest script in catalog/migrations


class CatalogTable(SQLModel, registry=registry(metadata=CATALOG)):
    """Base of the tables that are rebuilt from YAML."""


class RunTable(SQLModel, registry=registry(metadata=RUNS)):
    """Base of the tables that persist."""


class Meta(CatalogTable, table=True):
    """What the catalogue was built from."""

    key: str = Field(primary_key=True)
    value: str


class Paper(CatalogTable, table=True):
    """A record."""

    __table_args__ = (UniqueConstraint("arxiv_id", "arxiv_version"),)

    id: str = Field(primary_key=True)
    title: str
    abbreviation: str
    abbr_fold: str = Field(unique=True)
    arxiv_id: str | None = None
    arxiv_version: int | None = None
    doi: str | None = Field(None, unique=True)
    openreview_id: str | None = Field(None, unique=True)
    training: str | None = Field(None, index=True)
    scope: str
    summary: str | None = None
    block: str | None = None
    status: str = Field(index=True)
    list_venue: str | None = None  # venue in the original list; NULL if the list does not have the paper
    search_text: str = Field(sa_column=Column(Text, nullable=False))
    record_path: str = Field(unique=True)
    record: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class SearchToken(CatalogTable, table=True):
    """A word by which some paper can be found; misspelled queries are mended with the nearest of them."""

    __tablename__ = "search_token"
    token: str = Field(primary_key=True)


class PaperAlias(CatalogTable, table=True):
    """Another name of a paper."""

    __tablename__ = "paper_alias"
    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    fold: str = Field(primary_key=True)
    text: str
    kind: str


class Author(CatalogTable, table=True):
    """A person, known by the printed name: two of one name are one row."""

    id: str = Field(primary_key=True)
    given: str
    family: str
    orcid: str | None = None


class Authorship(CatalogTable, table=True):
    """A person's place in the authors of a paper."""

    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    position: int = Field(primary_key=True)
    author_id: str = Field(foreign_key="author.id", index=True)
    printed: str


class Venue(CatalogTable, table=True):
    """A conference, workshop, journal or preprint server."""

    id: str = Field(primary_key=True)
    short: str
    name: str
    kind: str


class Publication(CatalogTable, table=True):
    """An appearance of a paper."""

    __table_args__ = (
        Index(
            "one_primary", "paper_id", unique=True, sqlite_where=text("is_primary"), postgresql_where=text("is_primary")
        ),
    )

    id: int | None = Field(None, primary_key=True)
    paper_id: str = Field(foreign_key="paper.id", index=True)
    venue_id: str = Field(foreign_key="venue.id", index=True)
    year: int
    month: int | None = None
    kind: str
    track: str | None = None
    award: str | None = None
    pages: str | None = None
    url: str | None = None
    note: str | None = None
    is_primary: bool


class Tag(CatalogTable, table=True):
    """A word of the vocabularies of applications, mechanisms, families."""

    __table_args__ = (CheckConstraint("dimension in ('application', 'mechanism', 'family')"),)

    id: str = Field(primary_key=True)
    dimension: str
    label: str
    parent_id: str | None = Field(None, foreign_key="tag.id")
    description: str | None = None


class TagAlias(CatalogTable, table=True):
    """Another spelling of a tag."""

    __tablename__ = "tag_alias"
    alias: str = Field(primary_key=True)
    tag_id: str = Field(foreign_key="tag.id")


class PaperTag(CatalogTable, table=True):
    """A tag of a paper."""

    __tablename__ = "paper_tag"
    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    tag_id: str = Field(primary_key=True, foreign_key="tag.id", index=True)
    position: int


class BaseModelRow(CatalogTable, table=True):
    """A model that papers accelerate."""

    __tablename__ = "base_model"
    id: str = Field(primary_key=True)
    label: str
    arch: str | None = None
    modality: str | None = None
    backbone: str | None = None
    url: str | None = None


class PaperBaseModel(CatalogTable, table=True):
    """A model on which a paper was shown."""

    __tablename__ = "paper_base_model"
    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    base_model_id: str = Field(primary_key=True, foreign_key="base_model.id", index=True)
    position: int


class ListView(CatalogTable, table=True):
    """One way to group the papers."""

    __tablename__ = "list_view"
    id: str = Field(primary_key=True)
    title: str
    position: int = Field(unique=True)
    note: str | None = None


class Section(CatalogTable, table=True):
    """A heading of a view."""

    __table_args__ = (UniqueConstraint("view_id", "position"),)

    id: str = Field(primary_key=True)  # view/section
    view_id: str = Field(foreign_key="list_view.id")
    name: str
    title: str
    position: int
    intro: str | None = None


class SectionBaseModel(CatalogTable, table=True):
    """A model a section is about."""

    __tablename__ = "section_base_model"
    section_id: str = Field(primary_key=True, foreign_key="section.id")
    base_model_id: str = Field(primary_key=True, foreign_key="base_model.id")
    position: int


class Placement(CatalogTable, table=True):
    """A paper's place in a section."""

    __table_args__ = (UniqueConstraint("section_id", "position"),)

    section_id: str = Field(primary_key=True, foreign_key="section.id")
    paper_id: str = Field(primary_key=True, foreign_key="paper.id", index=True)
    position: int


class Link(CatalogTable, table=True):
    """A web page about a paper."""

    __table_args__ = (UniqueConstraint("paper_id", "kind", "url"),)

    id: int | None = Field(None, primary_key=True)
    paper_id: str = Field(foreign_key="paper.id", index=True)
    kind: str
    url: str
    official: bool | None = None
    licence: str | None = None
    revision: str | None = None
    checked_on: dt.date | None = None
    status: str | None = None
    note: str | None = None


class Relation(CatalogTable, table=True):
    """How a paper stands to another."""

    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    type: str = Field(primary_key=True)
    other_id: str = Field(primary_key=True, foreign_key="paper.id")


class Spec(CatalogTable, table=True):
    """A spec file of a paper."""

    path: str = Field(primary_key=True)
    paper_id: str = Field(foreign_key="paper.id", index=True)


class Correction(CatalogTable, table=True):
    """A fact of the original list that was wrong or has aged; without a paper: of the list's file."""

    id: int | None = Field(None, primary_key=True)
    paper_id: str | None = Field(None, foreign_key="paper.id", index=True)
    field: str
    was: str | None = None
    now: str | None = None
    why: str
    evidence: str
    confidence: str
    reported_by: str
    made_on: dt.date


class NewsItem(CatalogTable, table=True):
    """Something that happened."""

    __tablename__ = "news"
    id: int | None = Field(None, primary_key=True)
    date: dt.date
    paper_id: str | None = Field(None, foreign_key="paper.id")
    text: str


class Metric(CatalogTable, table=True):
    """What claims and measurements count."""

    id: str = Field(primary_key=True)
    label: str
    kind: str
    unit: str
    better: str


class Claim(CatalogTable, table=True):
    """A published number, or (`computed`) the ratio of a published number to its published baseline."""

    paper_id: str = Field(primary_key=True, foreign_key="paper.id")
    id: str = Field(primary_key=True)
    base_model_id: str = Field(foreign_key="base_model.id", index=True)
    metric: str = Field(foreign_key="metric.id", index=True)
    value: float
    baseline: float | None = None
    computed: bool = False
    sampler: str | None = None
    steps: int | None = None
    resolution: str | None = None
    height: int | None = None
    frames: int | None = None
    batch: int | None = None
    precision: str | None = None
    hardware: str | None = None
    devices: int | None = None
    task: str | None = None
    parameters: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    source: str
    source_url: str | None = None
    confidence: str
    note: str | None = None


class Hardware(RunTable, table=True):
    """A machine on which something was measured."""

    id: str = Field(primary_key=True)
    name: str
    kind: str  # cpu or cuda
    cores: int | None = None
    memory_bytes: int | None = None


class Run(RunTable, table=True):
    """One run of the engine."""

    id: str = Field(primary_key=True)  # hash of the report
    paper_id: str | None = Field(None, index=True)
    spec: str
    spec_hash: str
    plan_hash: str
    profile: str | None = None
    backbone: str = Field(index=True)
    weights: str
    precision: str
    sampler: str
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    batch: int | None = None
    seed: int
    repeats: int
    techniques: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    environment: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    hardware_id: str = Field(foreign_key="hardware.id")
    finished_at: str | None = None
    code_commit: str | None = None
    note: str | None = None  # what makes the run differ from its spec
    published: bool = False  # whether the run stands in catalog/measurements


class Measurement(RunTable, table=True):
    """A number of a run: of the accelerated side, with that of the plain side as baseline."""

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    metric: str = Field(primary_key=True)
    value: float
    baseline: float | None = None
    n: int | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


# Text is compared byte by byte on every database, so that answers have one order.
BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")
for _column in (column for table in CATALOG.tables.values() for column in table.columns):
    if isinstance(_column.type, sa.String):
        _column.type = BYTEWISE


def table_of(model: type[SQLModel]) -> sa.Table:
    """The table behind a model, for queries."""
    found: sa.Table = model.__table__  # type: ignore[attr-defined]
    return found


PAPER = table_of(Paper)
TAG = table_of(Tag)
PAPER_TAG = table_of(PaperTag)
MODEL = table_of(BaseModelRow)
PAPER_MODEL = table_of(PaperBaseModel)
AUTHORSHIP = table_of(Authorship)
PUBLICATION = table_of(Publication)
VENUE = table_of(Venue)
LINK = table_of(Link)
CLAIM = table_of(Claim)
CORRECTION = table_of(Correction)
SPEC = table_of(Spec)
RELATION = table_of(Relation)
SECTION = table_of(Section)
VIEW = table_of(ListView)
PLACEMENT = table_of(Placement)
METRIC = table_of(Metric)
RUN = table_of(Run)
MEASUREMENT = table_of(Measurement)
HARDWARE = table_of(Hardware)
NEWS = table_of(NewsItem)
ALIAS = table_of(PaperAlias)
TAG_ALIAS = table_of(TagAlias)
SEARCH_TOKEN = table_of(SearchToken)
META = table_of(Meta)
