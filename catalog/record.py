"""Records of papers: the model of one YAML file, its rules, and the reader that reports every broken rule at once.

    catalog/papers/<id>.yaml -> Document (plain data that remembers lines) -> Record

The engine reads its specs by its own code: `catalog` and `engine` import nothing of each other, and this package
stays light enough to answer in a fraction of a second.
"""

from __future__ import annotations

import datetime as dt
import difflib
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

PAPERS = Path(__file__).parent / "papers"
MAX_DEPTH = 10
Keys = tuple[str | int, ...]

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
IGNORED = "-_ \N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}"  # in names, when they are compared
CONFIDENCE = "A: seen in the source; B: independent secondary texts agree; C: unverified"

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]
SpecPath = Annotated[str, Field(pattern=r"^specs/[\w/]+\.yaml$")]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Finding(NamedTuple):
    """A broken rule inside a record: where (relative to the field checked), which, and what to do."""

    at: Keys
    rule: str
    remedy: str


class BrokenRules(ValueError):
    """What a field's validator raises: all its findings together."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(finding.rule for finding in findings))
        self.findings = findings


@dataclass(frozen=True)
class Surroundings:
    """What the rules of one record need to know outside it."""

    file: Path
    ids: frozenset[str]

    @property
    def project(self) -> Path:
        """The folder that spec paths are relative to: records lie in <project>/catalog/papers."""
        return self.file.resolve().parent.parent.parent


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

    @field_validator("*")
    @classmethod
    def _rules(cls, value: Any, info: ValidationInfo) -> Any:
        findings = list(RULES[info.field_name](value, info)) if info.field_name in RULES else []
        if findings:
            raise BrokenRules(findings)
        return value


def primary(publications: list[Publication]) -> Publication:
    """The appearance to cite."""
    return next(publication for publication in publications if publication.primary)


# Rules: each takes the value of one field. `info.context` is the record's surroundings; `info.data` holds the fields
# above it, except those that broke a rule themselves: what needs them waits until they are mended.


def id_rules(value: str, info: ValidationInfo) -> Iterator[Finding]:
    """The id is the file name."""
    stem = around(info).file.stem
    if value != stem:
        yield Finding((), f"the id `{value}` is not the file name", f"write `{stem}`, or rename the file")


def publication_rules(publications: list[Publication], info: ValidationInfo) -> Iterator[Finding]:
    """One appearance is the primary one, and preprints are as old as their arXiv number says."""
    marked = sum(publication.primary for publication in publications)
    if marked != 1:
        yield Finding((), f"{marked} publications are primary", "mark exactly one with `primary: true`")
    number = arxiv_number(info)
    if number is None:
        return
    year, month = 2000 + int(number[:2]), int(number[2:4])
    for index, publication in enumerate(publications):
        dated = (publication.year, publication.month or month)
        if publication.venue == "arxiv" and dated != (year, month):
            rule = f"the preprint is dated otherwise than its number {number}"
            yield Finding((index, "year"), rule, f"write year {year}, month {month}, or mend `identifiers.arxiv`")


def link_rules(links: list[Link], info: ValidationInfo) -> Iterator[Finding]:
    """There is a paper link, arXiv links lead to this paper, and links were checked after it came out."""
    if not any(link.kind == "paper" for link in links):
        yield Finding((), "no link leads to the paper", "add a link of kind `paper`")
    first, number = first_year(info), arxiv_number(info)
    for index, link in enumerate(links):
        if number and "//arxiv.org/" in link.url and number not in link.url:
            rule = f"the link leads to another paper than {number}"
            yield Finding((index, "url"), rule, f"write https://arxiv.org/abs/{number}, or mend `identifiers.arxiv`")
        if link.checked and link.checked.year < first:
            yield Finding((index, "checked"), f"{link.checked} is before the paper of {first}", "mend the date")


def technique_rules(technique: Block | None, info: ValidationInfo) -> Iterator[Finding]:
    """Spec paths exist, and a technique that is implemented has one."""
    if technique is None:
        return
    if technique.status != "planned" and not technique.specs:
        rule = f"the technique is {technique.status} but has no spec"
        yield Finding(("status",), rule, "list a spec, or say `planned`")
    project = around(info).project
    for index, path in enumerate(technique.specs):
        if not (project / path).is_file():
            known = [file.relative_to(project).as_posix() for file in project.glob("specs/**/*.yaml")]
            yield Finding(("specs", index), f"there is no file `{path}`", nearest(path, known))


def relation_rules(relations: list[Relation], info: ValidationInfo) -> Iterator[Finding]:
    """Targets are other records."""
    others = around(info).ids - {around(info).file.stem}
    for index, relation in enumerate(relations):
        if relation.target not in others:
            rule = f"`{relation.target}` is no other record"
            yield Finding((index, "target"), rule, nearest(relation.target, others))


def claim_rules(claims: list[Claim], info: ValidationInfo) -> Iterator[Finding]:
    """Ids of claims are unique, and their models are among the tags."""
    tags: Tags | None = info.data.get("tags")
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        if claim.id in seen:
            yield Finding((index, "id"), f"there is another claim `{claim.id}`", "give it an id of its own")
        seen.add(claim.id)
        if tags and claim.base_model not in tags.base_models:
            rule = f"`{claim.base_model}` is not among `tags.base_models`"
            yield Finding((index, "base_model"), rule, "add it there, or name another model")


def correction_rules(corrections: list[Correction], info: ValidationInfo) -> Iterator[Finding]:
    """Where the original list says something else than the record, exactly that is in the corrections."""
    facts = listed_and_recorded(info)
    first = first_year(info)
    for index, correction in enumerate(corrections):
        if correction.date.year < first:
            yield Finding((index, "date"), f"{correction.date} is before the paper of {first}", "mend the date")
        was, now = facts.pop(correction.field, (correction.was, correction.now))
        if (correction.was, correction.now) != (was, now):
            rule = f"the list has the {correction.field} `{was}`, the record `{now}`"
            yield Finding((index,), rule, "say just that in `was` and `now`")
    for name, (was, now) in facts.items():
        if was != now:
            rule = f"the list has the {name} `{was}`, the record `{now}`, and no correction says why"
            yield Finding((), rule, "add the correction and its evidence")


RULES: dict[str | None, Callable[[Any, ValidationInfo], Iterator[Finding]]] = {
    "id": id_rules,
    "publications": publication_rules,
    "links": link_rules,
    "technique": technique_rules,
    "relations": relation_rules,
    "claims": claim_rules,
    "corrections": correction_rules,
}


def around(info: ValidationInfo) -> Surroundings:
    """The surroundings that the reader handed in."""
    assert isinstance(info.context, Surroundings), "records are read by load_records"
    return info.context


def arxiv_number(info: ValidationInfo) -> str | None:
    """The record's arXiv number, if it has a valid one."""
    identifiers: Identifiers | None = info.data.get("identifiers")
    return identifiers.arxiv if identifiers else None


def first_year(info: ValidationInfo) -> int:
    """Year of the first publication; 0 if that is not known."""
    publications: list[Publication] = info.data.get("publications", [])
    return min((publication.year for publication in publications), default=0)


def listed_and_recorded(info: ValidationInfo) -> dict[str, tuple[str, str]]:
    """Title and venue, each as the original list has it and as the record has it."""
    seed, title, publications = (info.data.get(name) for name in ("seed", "title", "publications"))
    if seed is None or title is None or publications is None:
        return {}
    return {"title": (seed.title or title, title), "venue": (seed.venue, primary(publications).label)}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, which rule was broken, and the remedy."""

    file: Path
    line: int
    column: int
    key: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column} {self.key}".strip()
        return f"{where}: {self.rule}\n    -> {self.remedy}"


class InvalidRecords(Exception):
    """Records cannot be read; `problems` says all that is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Document:
    """A YAML file as plain data, with the place of every value and the problems met so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.marks: dict[Keys, tuple[int, int]] = {(): (1, 1)}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self.data = self._read()

    def report(self, at: Keys, rule: str, remedy: str) -> None:
        """Note a problem at the value `at`, or at the nearest enclosing one that exists."""
        place = next(at[:size] for size in range(len(at), -1, -1) if at[:size] in self.marks)
        self.problems.append(Problem(self.file, *self.marks[place], ".".join(map(str, at)), rule, remedy))

    def _read(self) -> Any:
        try:
            text = self.file.read_bytes().decode("utf-8")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError:
            return self.report((), "the file is not UTF-8", "save it as UTF-8 text")
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            self.marks[()] = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            return self.report((), f"this is not valid YAML: {getattr(error, 'problem', error)}", "mend the syntax")
        if not isinstance(node, yaml.MappingNode):
            return self.report((), "a record is a mapping of keys to values", "write `key: value` lines")
        if not unicodedata.is_normalized("NFC", text):
            self.report((), "the text is not in Unicode normal form C", "write accented letters as one character")
        return self._plain(node, ())

    def _plain(self, node: yaml.Node, at: Keys) -> Any:
        self.marks.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
        if id(node) in self._seen:  # compose() returns the same node for an anchor and its aliases
            return self.report(at, "anchors and aliases are not used in records", "write the value out")
        self._seen.add(id(node))
        if len(at) > MAX_DEPTH:
            return self.report(at, "values are nested too deeply", f"nest at most {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*at, index)) for index, item in enumerate(node.value)]
        try:
            data = yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return self.report(at, f"`{node.value}` is no value of the kind it looks like", "mend or quote it")
        if isinstance(data, bool) and node.value not in ("true", "false"):
            self.report(at, f"YAML reads `{node.value}` as {str(data).lower()}", "write true or false, or quote it")
        return data

    def _mapping(self, node: yaml.MappingNode, at: Keys) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in data:
                self.report((*at, key), f"the key `{key}` stands twice", "remove one of them")
                continue
            # Point at the key: that is where a reader looks.
            self.marks[*at, key] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            data[key] = self._plain(value_node, (*at, key))
        return data


def load_records(folder: Path = PAPERS) -> dict[str, Record]:
    """All records of a folder by id; raises `InvalidRecords` with every problem of every file."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InvalidRecords([Problem(folder, 1, 1, "", "there are no records here", "name a folder of .yaml files")])
    documents = [Document(file) for file in files]
    ids = frozenset(file.stem for file in files)
    records = [_validated(document, ids) for document in documents if document.data is not None]
    _report_doubles(documents, ("abbreviation",))
    _report_doubles(documents, ("identifiers", "arxiv"))
    problems = [
        problem
        for document in documents
        for problem in sorted(document.problems, key=lambda problem: (problem.line, problem.column))
    ]
    if problems:
        raise InvalidRecords(problems)
    return {record.id: record for record in records if record}


def _validated(document: Document, ids: frozenset[str]) -> Record | None:
    try:
        return Record.model_validate(document.data, context=Surroundings(document.file, ids))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _report(document, detail)
        return None


def _report(document: Document, detail: ErrorDetails) -> None:
    """Pydantic's finding in the words of a problem."""
    at, kind, given = detail["loc"], detail["type"], detail["input"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, BrokenRules):
        for finding in cause.findings:
            document.report((*at, *finding.at), finding.rule, finding.remedy)
        return
    name, keys, description = _described(at)
    if kind == "extra_forbidden":
        document.report(at, f"unknown key `{name}`", nearest(name, keys))
    elif kind == "missing":
        document.report(at, f"the key `{name}` is missing", f"add it: {description}")
    elif kind == "literal_error":
        words = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        document.report(at, f"`{name}` cannot be {given!r}", nearest(str(given), words))
    else:
        document.report(at, f"`{name}` is {reprlib.repr(given)}: {detail['msg'].lower()}", description)


def _described(at: Keys) -> tuple[str, list[str], str]:
    """Of the key that `at` ends with: its name, all keys allowed in its place, and its description."""
    model: type[BaseModel] = Record
    name, keys, description = "record", list[str](), "write `key: value` lines"
    for part in at:
        if isinstance(part, int):
            continue
        fields = {info.alias or key: info for key, info in model.model_fields.items()}
        name, keys = part, list(fields)
        if part in fields:
            description = fields[part].description or ""
            model = _model_in(fields[part].annotation) or model
    return name, keys, description


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _report_doubles(documents: list[Document], at: Keys) -> None:
    """A value at `at` that two records share, however it is spelled."""
    first: dict[str, Document] = {}
    for document in documents:
        value = document.data
        for key in at:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str):
            continue
        other = first.setdefault(fold(value), document)
        if other is not document:
            document.report(at, f"`{value}` is also in {other.file.name}", "change one, or merge the records")


def fold(text: str) -> str:
    """`text` as names are compared: without case, dashes, underscores and spaces."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter not in IGNORED)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known word, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return "use one of: " + ", ".join(f"`{name}`" for name in names) if names else "remove it"
