"""What a record is made of: the vocabularies, and the model of one YAML file.

The descriptions are part of the format: they are the remedies for keys that are missing or hold something else.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Vocabularies. Venues, base models and metrics grow with the first record that needs a word.
Application = Literal[
    "image_generation", "text_to_image", "image_editing", "personalized_generation", "video_generation", "text_to_video"
]
Mechanism = Literal[
    "sampling_solver", "step_skipping", "step_selection", "early_exit",
    "token_merging", "token_pruning", "token_compression", "token_downsampling", "attention_pruning",
    "layer_pruning", "head_pruning", "structural_pruning", "sparse_finetuning",
    "post_training_quantization", "quantization_aware_training",
    "step_distillation", "distillation_pretraining", "one_to_many_distillation",
    "feature_caching", "linear_attention", "attention_broadcast", "attention_compression",
    "parallel_inference", "memory_optimization", "neural_architecture_search", "parallel_decoding",
]  # fmt: skip
Training = Literal["none", "calibration", "search", "finetune", "distill", "train"]
Venue = Literal["arxiv", "iclr"]
VENUE_NAMES: dict[Venue, str] = {"arxiv": "arXiv", "iclr": "ICLR"}
BaseModelName = Literal["dit", "flux", "opensora", "pixart"]
Metric = Literal["flops_speedup", "tflops", "latency_s", "fid", "vbench", "geneval", "image_reward"]
RelationType = Literal[
    "builds_on", "version_of", "extends", "supersedes", "shares_code", "composes_with", "conflicts_with"
]
Confidence = Literal["A", "B", "C"]
CONFIDENCE = "A: seen in the source; B: independent secondary texts agree; C: unverified"

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]
SpecPath = Annotated[str, Field(pattern=r"^specs/[\w/]+\.yaml$")]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Strict(BaseModel):
    """Base of all parts of a record: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Alias(Strict):
    """Another name a reader may search for."""

    text: Text = Field(description="The other name.")
    kind: Literal["abbreviation", "earlier_title", "later_title", "list_spelling"] = Field(description="What it is.")


class Author(Strict):
    """A person, in the order of the paper."""

    given: Text = Field(description="Given names.")
    family: Text = Field(description="Family name.")
    printed: Text | None = Field(None, description="The name as published, if it differs.")
    orcid: str | None = Field(
        None, pattern=r"^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$", description="ORCID, as 0000-0000-0000-0000."
    )


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

    @property
    def label(self) -> str:
        """As a list prints it: `ICLR 2025`."""
        return f"{VENUE_NAMES[self.venue]} {self.year}"


class Link(Strict):
    """A web page about the paper."""

    kind: Literal["paper", "code", "project"] = Field(description="What the page holds.")
    url: Url = Field(description="Address, starting with https://.")
    official: bool | None = Field(None, description="Whether the authors keep it; None: unknown.")
    licence: Text | None = Field(None, description="SPDX id of the code's licence; None: unknown.")
    revision: Text | None = Field(None, description="Commit that was read.")
    checked: dt.date | None = Field(None, description="Day the link was last opened, as 2026-11-23; None: never.")
    status: Literal["ok", "moved", "broken"] | None = Field(None, description="What was found on that day.")
    note: Text | None = Field(None, description="What a reader should know.")


class Tags(Strict):
    """Words of the vocabularies."""

    applications: list[Application] = Field(min_length=1, description="What is generated.")
    mechanisms: list[Mechanism] = Field(min_length=1, description="How time is saved.")
    training: Training = Field(description="What has to be prepared before the method can be used.")
    scope: Literal["acceleration", "editing"] = Field(description="What the paper is for.")
    base_models: list[BaseModelName] = Field(min_length=1, description="Models it was shown on, by anybody.")


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
    parameters: dict[Slug, float] = Field({}, description="Parameters of the technique, by the engine's names.")


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
    """What the list this catalog grew from says, word for word."""

    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$", description="Commit of that list, in quotes.")
    entries: list[Text] = Field(min_length=1, description="Places in it: section and number.")
    title: Text | None = Field(None, description="Its title, if it differs from the record's.")
    venue: Text = Field(description="Its venue, such as `arXiv 2024`.")
    badges: list[Text] = Field(description="Texts of its badges, in order.")


class Correction(Strict):
    """A fact of that list that was wrong or has aged, and the evidence."""

    field: Text = Field(description="Key of the fact, such as `venue` or `authors.4`.")
    was: Text = Field(description="What the list says.")
    now: Text = Field(description="What the record says.")
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
    summary: Summary = Field(description="The paper in our own words.")
    seed: Seed | None = Field(None, description="What the original list says, if it has the paper.")
    corrections: list[Correction] = Field(
        [], validate_default=True, description="What was corrected against the original list."
    )  # the default is checked too: a correction can be missing

    @property
    def venue(self) -> str:
        """The appearance to cite, as a list prints it: `ICLR 2025`."""
        return primary(self.publications).label

    @property
    def status(self) -> str:
        """How far the engine's block is; `none` without one."""
        return self.technique.status if self.technique else "none"


def primary(publications: list[Publication]) -> Publication:
    """The appearance to cite."""
    return next(publication for publication in publications if publication.primary)
