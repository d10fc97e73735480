"""What a record is made of: the vocabularies, and the model of one YAML file.

The descriptions are part of the format: they are the remedies for keys that are missing or hold something else.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from catalog.vocabulary import In

# Words of the vocabularies in catalog/vocab.
Application = Annotated[str, In("applications")]
Mechanism = Annotated[str, In("mechanisms")]
Training = Annotated[str, In("training")]
Venue = Annotated[str, In("venues")]
BaseModelName = Annotated[str, In("base_models")]
Metric = Annotated[str, In("metrics")]
LinkKind = Annotated[str, In("link_kinds")]
RelationType = Literal[
    "builds_on", "version_of", "extends", "supersedes", "shares_code", "composes_with", "conflicts_with"
]
Confidence = Literal["A", "B", "C"]
CONFIDENCE = "A: seen in the source; B: independent secondary texts agree; C: unverified"

# Costs and times of the plain model over the fast one: what a claim with a baseline implies.
RATIOS = {
    "tflops": "flops_speedup",
    "gflops": "flops_speedup",
    "tmacs": "flops_speedup",
    "gmacs": "flops_speedup",
    "latency_s": "speedup",
    "latency_ms": "speedup",
}

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]
SpecPath = Annotated[str, Field(pattern=r"^specs/[\w/]+\.yaml$")]
SeedEntry = Annotated[str, Field(pattern=r"^[A-Z]{2}[1-9]\d*$")]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Strict(BaseModel):
    """Base of all parts of a record: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Alias(Strict):
    """Another name a reader may search for."""

    text: Text = Field(description="The other name.")
    kind: Literal["abbreviation", "earlier_title", "later_title", "list_spelling", "repository"] = Field(
        description="What it is."
    )


class Author(Strict):
    """A person, in the order of the paper."""

    given: Text = Field(description="Given names.")
    family: Text = Field(description="Family name.")
    printed: Text | None = Field(None, description="The name as published, if it differs.")
    orcid: str | None = Field(
        None, pattern=r"^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$", description="ORCID, as 0000-0000-0000-0000."
    )

    @property
    def name(self) -> str:
        """As a list prints it: `Ada Lovelace`."""
        return f"{self.given} {self.family}"


class Identifiers(Strict):
    """Numbers by which others know the paper."""

    arxiv: str | None = Field(
        None, pattern=r"^\d{4}\.\d{4,5}$", description='arXiv number in quotes, without version: "2410.05317".'
    )
    version: int | None = Field(None, ge=1, description="arXiv version, if the record is about one in particular.")
    doi: str | None = Field(None, pattern=r"^10\.\d{4,}/\S+$", description="DOI without a resolver: 10.1145/123.456.")
    openreview: Text | None = Field(None, description="OpenReview forum id.")


class Publication(Strict):
    """One appearance of the paper."""

    venue: Venue = Field(description="Key of the venue.")
    year: int = Field(ge=1990, le=2100, description="Year of the event, issue or first preprint.")
    month: int | None = Field(None, ge=1, le=12, description="Month, 1 to 12.")
    kind: Literal["preprint", "workshop", "conference", "journal"] = Field(description="What kind of appearance it is.")
    primary: bool = Field(False, description="Whether this is the appearance to cite; exactly one is.")
    track: Text | None = Field(None, description="Track, such as `poster`.")
    award: Text | None = Field(None, description="Distinction, such as `Oral` or `Highlight`.")
    pages: Text | None = Field(None, description="Pages in the proceedings.")
    url: Url | None = Field(None, description="Page of the publisher.")
    note: Text | None = Field(None, description="What a reader should know, such as what is unverified.")


class Link(Strict):
    """A web page about the paper."""

    kind: LinkKind = Field(description="What the page holds.")
    url: Url = Field(description="Address, starting with https://.")
    official: bool | None = Field(None, description="Whether the authors keep it; None: unknown.")
    licence: Text | None = Field(None, description="SPDX id of the code's licence; None: unknown.")
    revision: Text | None = Field(None, description="Commit that was read.")
    checked: dt.date | None = Field(None, description="Day the link was last opened, as 2026-11-23; None: never.")
    status: Literal["ok", "moved", "broken"] | None = Field(None, description="What was found on that day.")
    note: Text | None = Field(None, description="What a reader should know.")


class Tags(Strict):
    """Words of the vocabularies."""

    applications: list[Application] = Field(description="What is generated.")
    mechanisms: list[Mechanism] = Field(description="How time is saved.")
    training: Training | None = Field(description="What has to be prepared before use; null: not established.")
    scope: Literal["acceleration", "editing"] = Field("acceleration", description="What the paper is for.")
    base_models: list[BaseModelName] = Field([], description="Models it was shown on, by anybody.")
    note: Text | None = Field(None, description="What a reader should know, such as what is disputed.")


class Block(Strict):
    """The engine's implementation of the paper."""

    block: Slug = Field(description="Slug of the technique; `engine techniques` lists them.")
    status: Literal["planned", "implemented", "verified"] = Field(
        description="`verified`: the paper's claims were measured too."
    )
    specs: list[SpecPath] = Field([], description="Spec files from the project folder: specs/toca_opensora.yaml.")


class Relation(Strict):
    """How this paper stands to another of the catalog."""

    type: RelationType = Field(description="Kind of relation, read from this paper to the target.")
    target: Slug = Field(description="Id of the other record.")


class Settings(Strict):
    """Under which settings a claim holds; what the source does not say is left out."""

    sampler: Text | None = Field(None, description="Sampler, such as `ddim`.")
    steps: int | None = Field(None, ge=1, description="Number of sampling steps.")
    resolution: Text | None = Field(None, description="Size of the output, such as 256x256.")
    frames: int | None = Field(None, ge=1, description="Number of video frames.")
    batch: int | None = Field(None, ge=1, description="Samples at a time.")
    precision: Text | None = Field(None, description="Number format.")
    hardware: Text | None = Field(None, description="Device it was measured on.")
    guidance: float | None = Field(None, description="Scale of classifier-free guidance.")
    devices: int | None = Field(None, ge=1, description="Number of devices.")
    task: Text | None = Field(None, description="Data set or task, such as `ImageNet` or `COCO 2017`.")
    parameters: dict[Slug, float | bool | str] = Field(
        {}, description="Parameters of the technique, by the engine's names."
    )


class Source(Strict):
    """Where a claim was found."""

    where: Text = Field(description="Place in words, such as `abstract` or `Table 1`.")
    url: Url | None = Field(None, description="Address of the source.")


class Claim(Strict):
    """A published number."""

    id: Slug = Field(description="Name of the claim inside its record.")
    base_model: BaseModelName = Field(description="Model that was accelerated; one of `tags.base_models`.")
    metric: Metric = Field(description="What was measured.")
    value: float = Field(description="The number with the technique.")
    baseline: float | None = Field(None, description="The same metric of the plain model.")
    settings: Settings = Field(Settings(), description="Under which settings.")
    source: Source = Field(description="Where the number was found.")
    confidence: Confidence = Field(description=CONFIDENCE + ".")
    note: Text | None = Field(None, description="What a reader should know.")


class Summary(Strict):
    """The paper in the catalog's own words."""

    short: str = Field(min_length=1, max_length=160, description="One sentence of at most 160 characters.")
    long: Text | None = Field(None, description="A paragraph.")


class Seed(Strict):
    """Where the list this catalog grew from has the paper."""

    entries: list[SeedEntry] = Field(min_length=1, description="Places in it: code of the section and number.")
    badges: list[Text] = Field(description="Texts of its badges there, word for word, in order.")


class Correction(Strict):
    """A fact of that list that was wrong or has aged, and the evidence."""

    field: str = Field(
        pattern=r"^(title|abbreviation|venue|number|badges|authors(\.\d+)?|links\.(paper|code)"
        r"|tags\.(applications|mechanisms|training))$",
        description="The fact: title, abbreviation, venue, number, badges, authors (all, with `; ` between them), "
        "authors.N (counted from 0 as in the record), links.paper, links.code, tags.applications, tags.mechanisms "
        "(with `, ` between them) or tags.training.",
    )
    was: Text | None = Field(description="What the list says; null: it says nothing.")
    now: Text | None = Field(description="What the record says; null: it says nothing.")
    entries: list[SeedEntry] | None = Field(None, description="Places in the list that say so; default: all.")
    why: Text = Field(description="What happened.")
    evidence: Text = Field(description="Where this can be seen.")
    confidence: Confidence = Field(description=CONFIDENCE + ".")
    by: Text = Field(description="Who found it.")
    date: dt.date = Field(description="Day of the correction, as 2026-11-23.")


class Record(Strict):
    """Everything the catalog knows of one paper."""

    schema_: Literal[1] = Field(alias="schema", description="Version of this format: 1.")
    id: Slug = Field(description="Name of the record: its file name without `.yaml`. It never changes.")
    title: Text = Field(description="Title as published, in plain Unicode.")
    abbreviation: Text = Field(description="Short name, unique in the catalog.")
    aliases: list[Alias] = Field([], description="Other names to find it by.")
    authors: list[Author] = Field(min_length=1, description="All authors, in order; never `others`.")
    identifiers: Identifiers = Field(description="arXiv, DOI, OpenReview.")
    publications: list[Publication] = Field(description="All appearances, the earliest first.")
    links: list[Link] = Field(description="Paper, code, project page.")
    tags: Tags = Field(description="Words of the vocabularies.")
    technique: Block | None = Field(None, description="The engine's block, if there is or will be one.")
    relations: list[Relation] = Field([], description="How it stands to other records.")
    claims: list[Claim] = Field([], description="Published numbers, each with source and confidence.")
    summary: Summary | None = Field(None, description="The paper in our own words.")
    seed: Seed | None = Field(None, description="What the original list says, if it has the paper.")
    corrections: list[Correction] = Field([], description="What was corrected against the original list.")

    @property
    def status(self) -> str:
        """How far the engine's block is; `none` without one."""
        return self.technique.status if self.technique else "none"

    @property
    def primary(self) -> Publication:
        """The appearance to cite."""
        return next(publication for publication in self.publications if publication.primary)

    def link(self, kind: str) -> Link | None:
        """The first link of a kind."""
        return next((link for link in self.links if link.kind == kind), None)
