"""Facts about techniques, backbones and the spec format, as plain data for lists, editors and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from engine import registry
from engine.errors import InvalidInput, Place, Problem, nearest
from engine.spec import Spec
from engine.technique import Stage, Technique


def technique_facts(slug: str | None = None) -> list[dict[str, Any]]:
    """All techniques, or the one named."""
    known = registry.techniques()
    if slug is not None and slug not in known:
        raise InvalidInput(Problem(f"there is no technique `{slug}`", nearest(slug, known), Place(key="SLUG")))
    return [
        {
            "slug": cls.slug,
            "title": cls.title(),
            "paper": cls.paper,
            "family": cls.family,
            "stage": cls.stage.name,
            "backbones": registry.backbones_for(cls),
            "dynamic": cls.dynamic,
            "prepares": cls.prepares(),
            "parameters": fields_of(cls),
            "tuned": {name: dict(values) for name, values in cls.tuned.items()},
            "deviations": list(cls.deviations),
        }
        for name, cls in sorted(known.items())
        if slug in (None, name)
    ]


def fields_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """Default and meaning of every field."""
    schema = model.model_json_schema()["properties"]
    return {
        name: {"default": schema[name].get("default"), "description": schema[name].get("description", "")}
        for name in model.model_fields
    }


def backbone_facts(name: str | None = None) -> list[dict[str, Any]]:
    """All backbones, or the one named."""
    known = registry.backbones()
    if name is not None and name not in known:
        raise InvalidInput(Problem(f"there is no backbone `{name}`", nearest(name, known), Place(key="NAME")))
    return [
        {
            "name": cls.name,
            "title": (cls.__doc__ or "").strip().splitlines()[0],
            "output": cls.output,
            "prediction": cls.prediction,
            "branches": [str(branch) for branch in cls.branches],
            "sites": sorted(registry.site_kinds(slug)),
            "inputs": fields_of(cls.inputs),
        }
        for slug, cls in sorted(known.items())
        if name in (None, slug)
    ]


def spec_schema() -> dict[str, Any]:
    """JSON Schema of a spec file, with every technique's parameters spelled out."""
    schema = Spec.model_json_schema()
    known = registry.techniques()

    def single(slug: str, cls: type[Technique]) -> dict[str, Any]:
        parameters = cls.model_json_schema()
        parameters["description"] = cls.title()
        body = {"anyOf": [parameters, {"type": "null"}]}
        return {"type": "object", "properties": {slug: body}, "required": [slug], "additionalProperties": False}

    samplers = [single(slug, cls) for slug, cls in sorted(known.items()) if cls.stage is Stage.TRAJECTORY]
    others = [single(slug, cls) for slug, cls in sorted(known.items()) if cls.stage is not Stage.TRAJECTORY]
    properties = schema["properties"]
    properties["sampler"] = {"oneOf": samplers, "description": properties["sampler"]["description"]}
    properties["techniques"] |= {"items": {"oneOf": others}}
    inputs = [cls.inputs.model_json_schema() for cls in registry.backbones().values()]
    properties["inputs"] = {"anyOf": inputs, "description": properties["inputs"]["description"]}
    overlay = {"type": "object", "description": "Overlays by name; `--profile NAME` applies one."}
    properties["profiles"] = overlay
    properties["extends"] = {"type": "string", "description": "A base file, relative to the specs folder."}
    # A file that extends another needs none of the keys its base has, and may change its techniques by name.
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    by_name = {name: body for other in others for name, body in other["properties"].items()}
    changes = {"type": "object", "properties": by_name, "additionalProperties": False}
    properties["techniques"] = {"anyOf": [properties["techniques"], changes]}
    schema["if"] = {"required": ["extends"]}
    schema["else"] = {"required": ["model", "sampler"], "properties": {"techniques": {"type": "array"}}}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Engine spec"
    return schema
