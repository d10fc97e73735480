"""What was asked for: a spec file, read strictly, with the chosen profile and command-line changes applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from engine import document
from engine.document import Value
from engine.errors import InvalidInput, Place, Problem, nearest

DEFAULT_PROFILE = "embedded"
DTypeName = Literal["float32", "bfloat16", "float16"]


class Strict(BaseModel):
    """Base of everything read from YAML: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelChoice(Strict):
    """Which model, whose weights."""

    backbone: str = Field(description="Name of a backbone; `engine backbones` lists them.")
    weights: str | dict[str, str] = Field(
        "embedded",
        description="`embedded`, `random`, a local folder, a hub id, or one of those for each component.",
    )
    dtype: DTypeName = Field("float32", description="Number format of the denoiser and the decoder.")


class Baseline(Strict):
    """What a run is compared with; by default the same model and sampler without techniques."""

    techniques: list[dict[str, dict[str, Any] | None]] = Field([], description="Techniques of the baseline.")
    sampler: dict[str, dict[str, Any] | None] | None = Field(None, description="Another sampler than the run's.")


class Spec(Strict):
    """A spec after `extends`, profile and `--set` have been applied."""

    title: str | None = Field(None, description="One line for readers.")
    paper: str | None = Field(None, description="Slug of the catalog record this spec reproduces.")
    model: ModelChoice
    sampler: dict[str, dict[str, Any] | None] = Field(description="One technique of stage TRAJECTORY.")
    techniques: list[dict[str, dict[str, Any] | None]] = Field([], description="What makes the run faster.")
    inputs: dict[str, Any] = Field({}, description="What to generate; the backbone says which keys it takes.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the first sample; sample i uses seed + i.")
    baseline: Baseline = Field(Baseline(), description="What the run is compared with.")
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


def problems_of(
    error: ValidationError, value: Value, prefix: tuple[str | int, ...], model: type[BaseModel]
) -> list[Problem]:
    """Pydantic's findings as problems with places, one for each."""
    problems = []
    for detail in error.errors(include_url=False):
        path = (*prefix, *_yaml_path(detail))
        problems.append(_problem(detail, value.at(path), model))
    return problems


def _yaml_path(detail: ErrorDetails) -> tuple[str | int, ...]:
    """The error's path without the names pydantic adds for the members of a union."""
    return tuple(part for part in detail["loc"] if not (isinstance(part, str) and ("[" in part or part in _TYPE_NAMES)))


_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "none"})


def _problem(detail: ErrorDetails, place: Place, model: type[BaseModel]) -> Problem:
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    kind, context = detail["type"], detail.get("ctx", {})
    owner = _model_at(model, detail["loc"][:-1])
    if kind == "extra_forbidden":
        return Problem(f"unknown key `{name}`", nearest(name, owner.model_fields), place)
    if kind == "missing":
        described = owner.model_fields[name].description if name in owner.model_fields else None
        return Problem(f"the key `{name}` is missing", f"add it: {described}" if described else "add it", place)
    given = detail.get("input")
    if kind in _BOUNDS:
        limit = next(iter(context.values()))
        return Problem(f"`{name}` is {given!r}, out of range", f"give a value {_BOUNDS[kind]} {limit}", place)
    if kind == "literal_error":
        options = [option.strip("'") for option in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return Problem(f"`{name}` cannot be {given!r}", nearest(str(given), options), place)
    if kind == "value_error":
        return Problem(f"`{name}` is not valid", str(context.get("error", detail["msg"])), place)
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return Problem(f"`{name}` is {given!r}, which has the wrong type", f"give a {expected}", place)


_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "of at least",
    "less_than": "below",
    "less_than_equal": "of at most",
    "too_short": "with a length of at least",
}


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return model
