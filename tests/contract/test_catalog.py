"""Catalog and engine know nothing of each other; here their ids, specs and parameter names meet."""

from __future__ import annotations

from typing import Any

import pytest
from support import ROOT, TECHNIQUES

from catalog.record import load_records
from catalog.schema import Record
from engine import document
from engine.technique import Technique

RECORDS = load_records()
PUBLISHED = {slug: cls for slug, cls in sorted(TECHNIQUES.items()) if cls.paper is not None}
IMPLEMENTED = {slug: record for slug, record in RECORDS.items() if record.status in ("implemented", "verified")}
SPECS = sorted((ROOT / "specs").glob("**/*.yaml"))

published = pytest.mark.parametrize(("slug", "cls"), PUBLISHED.items(), ids=PUBLISHED)
implemented = pytest.mark.parametrize("record", IMPLEMENTED.values(), ids=IMPLEMENTED)


def spec(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = document.load(ROOT / path).plain()
    return loaded


def blocks(settings: dict[str, Any]) -> set[str]:
    """Techniques and sampler that a spec names."""
    return {slug for entry in (*settings.get("techniques", []), settings.get("sampler", {})) for slug in entry}


def test_there_is_something_to_compare() -> None:
    assert {"toca", "fora"} <= PUBLISHED.keys() and {"toca", "fora"} <= IMPLEMENTED.keys()


@published
def test_every_technique_of_a_paper_has_its_record(slug: str, cls: type[Technique]) -> None:
    assert cls.paper in RECORDS, f"write catalog/papers/{cls.paper}.yaml"
    technique = RECORDS[cls.paper].technique
    assert technique is not None and technique.block == slug
    assert technique.status in ("implemented", "verified")


@published
def test_its_specs_run_the_technique_for_that_paper(slug: str, cls: type[Technique]) -> None:
    technique = RECORDS[str(cls.paper)].technique
    assert technique is not None and technique.specs
    for path in technique.specs:
        assert (ROOT / path).is_file()
        assert slug in blocks(spec(path)), path
        assert spec(path).get("paper") == cls.paper, path


@published
def test_its_claims_have_source_and_confidence_and_name_its_parameters(slug: str, cls: type[Technique]) -> None:
    for claim in RECORDS[str(cls.paper)].claims:
        assert claim.source.where and claim.confidence in ("A", "B", "C"), claim.id
        assert claim.settings.parameters.keys() <= cls.model_fields.keys(), claim.id


@published
def test_docstring_and_record_give_the_same_title_and_number(slug: str, cls: type[Technique]) -> None:
    record = RECORDS[str(cls.paper)]
    docstring = " ".join((cls.__doc__ or "").split())
    assert record.title in docstring
    assert record.identifiers.arxiv is None or record.identifiers.arxiv in docstring


@implemented
def test_every_implemented_record_has_its_technique(record: Record) -> None:
    assert record.technique is not None
    assert record.technique.block in TECHNIQUES
    assert TECHNIQUES[record.technique.block].paper == record.id


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_paper_a_spec_names_has_a_record(path: Any) -> None:
    paper = document.load(path).plain().get("paper")
    assert paper is None or paper in RECORDS
