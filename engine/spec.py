"""What was asked for: a spec file, read strictly, with the chosen profile and command-line changes applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine import document
from engine.document import Value
from engine.errors import EngineError, InvalidInput, Place, nearest
from engine.lessons import problems_of

DEFAULT_PROFILE = "embedded"
DTypeName = Literal["float32", "bfloat16", "float16"]
E = TypeVar("E", bound=EngineError)


class Strict(BaseModel):
    """Base of everything read from YAML: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


TECHNIQUES_EXAMPLES = [[{"toca": {"interval": 3}}]]
SAMPLER_EXAMPLES = [{"rflow": {"steps": 30}}]


class ModelChoice(Strict):
    """Which model, whose weights."""

    backbone: str = Field(description="Name of a backbone; `engine backbones` lists them.", examples=["opensora"])
    weights: str | dict[str, str] = Field(
        "embedded",
        description="`embedded`, `random`, `random:NAME` (the size of that published model), a local folder, a hub id, "
        "or a folder or hub id for each component.",
    )
    dtype: DTypeName = Field("float32", description="Number format of the denoiser and the decoder.")

    @property
    def random(self) -> bool:
        """Whether the weights are random: `random`, or `random:NAME` for the size of that published model."""
        return isinstance(self.weights, str) and self.weights.partition(":")[0] == "random"


class Baseline(Strict):
    """What a run is compared with; by default the same model and sampler without techniques."""

    techniques: list[dict[str, dict[str, Any] | None]] = Field(
        [], description="Techniques of the baseline.", examples=TECHNIQUES_EXAMPLES
    )
    sampler: dict[str, dict[str, Any] | None] | None = Field(
        None, description="Another sampler than the run's.", examples=SAMPLER_EXAMPLES
    )


class Spec(Strict):
    """A spec after `extends`, profile and `--set` have been applied."""

    file_keys: ClassVar[tuple[str, ...]] = ("extends", "profiles")
    """Keys of a spec file that are used up before the spec is validated."""

    title: str | None = Field(None, description="One line for readers.")
    paper: str | None = Field(None, description="Slug of the catalog record this spec reproduces.")
    model: ModelChoice = Field(
        description="Which model, whose weights.", examples=[{"backbone": "opensora", "weights": "embedded"}]
    )
    sampler: dict[str, dict[str, Any] | None] = Field(
        description="One technique of stage TRAJECTORY.", examples=SAMPLER_EXAMPLES
    )
    techniques: list[dict[str, dict[str, Any] | None]] = Field(
        [], description="What makes the run faster.", examples=TECHNIQUES_EXAMPLES
    )
    inputs: dict[str, Any] = Field(
        {},
        description="What to generate; the backbone says which keys it takes.",
        examples=[{"prompts": ["a red apple moving right"]}],
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the first sample; sample i uses seed + i.")
    baseline: Baseline = Field(
        Baseline(), description="What the run is compared with.", examples=[{"techniques": TECHNIQUES_EXAMPLES[0]}]
    )
    lock: dict[str, Any] = Field({}, description="Versions and weight hashes, written by a run; changes nothing.")


@dataclass(frozen=True)
class Request:
    """A validated spec with its origin: `value` knows where everything stands, for errors found later."""

    spec: Spec
    value: Value
    path: Path
    profile: str

    @property
    def digest(self) -> str:
        """Hash of everything asked for, independent of how the files were laid out."""
        canonical = json.dumps(self.spec.model_dump(mode="json", exclude={"lock"}), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def placed(self, error: E) -> E:
        """The same error, its problems pointing at the lines where the spec has the keys they name."""
        return type(error)(
            replace(problem, place=self.value.at(tuple(problem.place.key.split("."))))
            if problem.place.file is None and problem.place.key
            else problem
            for problem in error.problems
        )


def profiles_of(path: Path) -> list[str]:
    """Profiles that a spec file knows, with those of what it extends; the default one first."""
    profiles = document.load(path).data.get("profiles")
    named = list(profiles.data) if profiles is not None and isinstance(profiles.data, dict) else []
    return [DEFAULT_PROFILE, *(name for name in named if name != DEFAULT_PROFILE)]


def load_spec(path: Path, *, profile: str | None = None, changes: Sequence[str] = ()) -> Request:
    """Read `path`, apply `profile` and `changes` (KEY=VALUE), and validate; all problems are raised together."""
    value = document.load(path)
    profiles = value.data.pop("profiles", None)
    value = _with_profile(value, profiles, profile)
    for change in changes:
        key, separator, text = change.partition("=")
        option = f"--set {change}"
        if not separator:
            raise document.refuse(f"`{option}` has no value", "write KEY=VALUE", Place(key=option))
        value = document.assign(value, key.strip(), text, option)
    try:
        spec = Spec.model_validate(value.plain())
    except ValidationError as error:
        raise InvalidInput(problems_of(error, value, (), Spec)) from None
    return Request(spec, value, path, profile or DEFAULT_PROFILE)


def _with_profile(value: Value, profiles: Value | None, name: str | None) -> Value:
    if profiles is not None and not isinstance(profiles.data, dict):
        raise document.refuse(
            "`profiles` must map names to settings", "write `profiles: {paper: {...}}`", profiles.place
        )
    known = {} if profiles is None else profiles.data
    if name is None:
        name = DEFAULT_PROFILE
        if name not in known:
            return value
    if name not in known and name == DEFAULT_PROFILE:
        return value
    if name not in known:
        raise document.refuse(
            f"there is no profile `{name}`", nearest(name, {*known, DEFAULT_PROFILE}), Place(key=f"--profile {name}")
        )
    overlay = known[name]
    if not isinstance(overlay.data, dict):
        raise document.refuse(f"profile `{name}` must be a mapping", "write `key: value` lines", overlay.place)
    return document.merge(value, overlay)
