"""What pydantic finds wrong, as problems that teach: the place, the rule, and how to write it right."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.document import Value
from engine.errors import Problem, nearest

LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Finding:
    """One of pydantic's errors: where in the data, which kinds (several where a union was tried), what stood there."""

    path: tuple[str | int, ...]
    kinds: tuple[str, ...]
    given: Any
    context: Mapping[str, Any]
    message: str
    in_union: bool

    @property
    def name(self) -> str:
        """The key it is about."""
        return str(self.path[-1]) if self.path else ""


def problems_of(
    error: ValidationError, value: Value, prefix: tuple[str | int, ...], model: type[BaseModel]
) -> list[Problem]:
    """Pydantic's findings as problems with places, one for each."""
    problems = []
    for finding in _findings(error):
        path = (*prefix, *finding.path)
        rule, remedy = _lesson(finding, path, model)
        problems.append(Problem(rule, remedy, value.at(path)))
    return problems


def _findings(error: ValidationError) -> list[Finding]:
    """One finding a value: members of a union that all failed at the value itself are put together."""
    found: list[Finding] = []
    for detail in error.errors(include_url=False):
        path, kind = _yaml_path(detail), detail["type"]
        finding = Finding(
            path, (kind,), detail.get("input"), detail.get("ctx", {}), detail["msg"], len(path) < len(detail["loc"])
        )
        if found and finding.in_union and found[-1].path == path:
            found[-1] = replace(found[-1], kinds=(*found[-1].kinds, kind))
        else:
            found.append(finding)
    # A member that got further inside the value says more than one that failed at once.
    deeper = [finding.path[:-1] for finding in found if finding.in_union]
    return [finding for finding in found if not (finding.in_union and finding.path in deeper)]


def _yaml_path(detail: ErrorDetails) -> tuple[str | int, ...]:
    """The error's path without the names pydantic adds for the members of a union."""
    *outer, last = detail["loc"] or ("",)
    kept = [part for part in outer if not _names_member(part)]
    if last != "" and (detail["type"] == "extra_forbidden" or not _names_member(last)):
        kept.append(last)
    return tuple(kept)


def _names_member(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in _MEMBERS)


_MEMBERS = frozenset({"str", "int", "float", "bool", "none"})
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
_LENGTHS = {"too_short": ("min_length", "at least"), "too_long": ("max_length", "at most")}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _lesson(finding: Finding, path: tuple[str | int, ...], model: type[BaseModel]) -> tuple[str, str]:
    """Rule and remedy of a finding at `path`."""
    kind, context, given = finding.kinds[0], finding.context, shown(finding.given)
    label = _label(path)
    if kind == "extra_forbidden":
        return _unknown_key(finding, model)
    if kind == "missing":
        return f"the key {label} is missing", _how_to_add(finding, model)
    if kind in _BOUNDS:
        limit, words = _BOUNDS[kind]
        return f"{label} is {given}, out of range", f"give a value {words} {context[limit]}"
    if kind in _LENGTHS:
        limit, words = _LENGTHS[kind]
        return f"{label} has {context['actual_length']} entries", f"give {words} {context[limit]}"
    if kind == "literal_error":
        options = [option.strip("'") for option in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{label} cannot be {given}", nearest(str(finding.given), options)
    if kind == "value_error":
        return f"{label} is not valid", str(context.get("error", finding.message))
    return f"{label} is {given}, which has the wrong type", _how_to_write(finding, model)


def _label(path: tuple[str | int, ...]) -> str:
    if not path:
        return "the spec"
    last = path[-1]
    return f"item {last + 1} of `{path[-2]}`" if isinstance(last, int) else f"`{last}`"


def _unknown_key(finding: Finding, model: type[BaseModel]) -> tuple[str, str]:
    owner = _owner(model, finding.path)
    file_keys: tuple[str, ...] = getattr(owner, "file_keys", ())
    if finding.name in file_keys:
        return f"`{finding.name}` stands only at the top level of a file", "move it there"
    known = [*(owner.model_fields if owner else ()), *file_keys]
    return f"unknown key `{finding.name}`", nearest(finding.name, known)


def _how_to_add(finding: Finding, model: type[BaseModel]) -> str:
    field = _field(model, finding.path)
    if field is None:
        return "add it"
    if field.examples:
        base = ", or `extends: models/opensora.yaml`" if len(finding.path) == 1 else ""
        return f"write `{finding.name}: {flow(field.examples[0])}`{base}"
    return f"add it: {field.description}" if field.description else "add it"


def _how_to_write(finding: Finding, model: type[BaseModel]) -> str:
    given, name, kinds = finding.given, finding.name, finding.kinds
    wanted = " or ".join(_WANTED.get(kind, "") for kind in kinds)
    if not all(kind in _WANTED for kind in kinds):
        wanted = finding.message.removeprefix("Input should be ").removeprefix("a valid ")
    if kinds == ("dict_type",) and isinstance(finding.path[-1], int):
        word = given if isinstance(given, str) else "name"
        return f"write `- {word}: {{parameter: value}}`, or `- {word}:` alone for its defaults"
    field = _field(model, finding.path)
    if field is not None and field.examples:
        return f"write `{name}: {flow(field.examples[0])}`"
    if kinds == ("dict_type",):
        return f"write `{name}: {{parameter: value}}`, or `{name}:` alone for its defaults"
    if kinds == ("list_type",) and isinstance(given, str | int | float):
        return f"give a list: `[{shown(given)}]`"
    if kinds == ("string_type",) and isinstance(given, int | float):
        return f'give text: put it in quotes, `"{shown(given)}"`'
    number = _number(given, kinds[0])
    return f"give {wanted}: `{number}`, without quotes" if number else f"give {wanted}"


def _number(text: Any, kind: str) -> str | None:
    """What `text` (also 1e-3, which YAML 1.1 takes for text) would be as a YAML number of that kind."""
    read = {"int_type": int, "float_type": float}.get(kind)
    try:
        number = read(text) if read is not None and isinstance(text, str) else None
    except ValueError:
        return None
    return flow(number) if number is not None and math.isfinite(number) else None


def shown(value: Any) -> str:
    """A value as a message shows it: JSON, which YAML includes, cut when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).partition("\n")[0]


def _field(model: type[BaseModel], path: Sequence[str | int]) -> FieldInfo | None:
    owner = _owner(model, path)
    return owner.model_fields.get(str(path[-1])) if owner and path else None


def _owner(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that the last key of `path` belongs to; None inside plain mappings and lists."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model
