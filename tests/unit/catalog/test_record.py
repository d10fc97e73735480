"""Records: what is valid, and that every broken rule is reported at its line, with a remedy, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from catalog import schema
from catalog.document import Problem
from catalog.names import fold, nearest
from catalog.record import PAPERS, InvalidRecords, load_records

RECORD = """\
schema: 1
id: fast
title: "Fast: a paper"
abbreviation: Fast-Er
authors:
  - {given: Ada, family: Lovelace}
identifiers: {arxiv: "2407.01425"}
publications:
  - {venue: arxiv, year: 2024, month: 7, kind: preprint}
  - {venue: iclr, year: 2025, kind: conference, primary: true}
links:
  - {kind: paper, url: "https://arxiv.org/abs/2407.01425", checked: 2026-11-23, status: ok}
tags:
  applications: [text_to_video]
  mechanisms: [feature_caching]
  training: none
  scope: acceleration
  base_models: [opensora]
technique: {block: fast, status: implemented, specs: [specs/fast_opensora.yaml]}
relations:
  - {type: extends, target: other}
claims:
  - id: speed
    base_model: opensora
    metric: flops_speedup
    value: 2
    settings: {steps: 30, parameters: {interval: 3}}
    source: {where: abstract}
    confidence: A
summary: {short: It is fast.}
seed: {commit: "1fc4e79", entries: [CA1], venue: arXiv 2024, badges: [Fast]}
corrections:
  - field: venue
    was: arXiv 2024
    now: ICLR 2025
    why: accepted later
    evidence: its README
    confidence: A
    by: audit
    date: 2026-11-23
"""
OTHER = (
    RECORD.replace("id: fast", "id: other").replace("Fast-Er", "Other").replace("01425", "09999").split("relations:")[0]
    + "summary: {short: It is other.}\n"
)


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with two valid records, inside a project that has their spec."""
    folder = tmp_path / "catalog" / "papers"
    folder.mkdir(parents=True)
    (folder / "fast.yaml").write_text(RECORD)
    (folder / "other.yaml").write_text(OTHER)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "fast_opensora.yaml").touch()
    return folder


def changed(papers: Path, old: str, new: str) -> str:
    assert RECORD.count(old) == 1, f"`{old}` does not stand once in the record"
    text = RECORD.replace(old, new)
    (papers / "fast.yaml").write_text(text, encoding="utf-8")
    return text


def problems(papers: Path) -> list[Problem]:
    with pytest.raises(InvalidRecords) as caught:
        load_records(papers)
    return caught.value.problems


def test_a_valid_record_keeps_its_values(papers: Path) -> None:
    records = load_records(papers)
    assert list(records) == ["fast", "other"]
    fast = records["fast"]
    assert (fast.venue, fast.status) == ("ICLR 2025", "implemented")
    assert fast.claims[0].value == 2 and fast.claims[0].settings.parameters == {"interval": 3}
    assert fast.links[0].checked is not None and fast.links[0].checked.isoformat() == "2026-11-23"
    assert records["other"].relations == []


# What is replaced, by what, then of the one problem that comes of it: the rule, the remedy, and what stands in the
# line it points at (empty: the replacement).
CASES = {
    "unknown key": ("by: audit", "by: audit\n    date_: 1", "unknown key `date_`", "mean `date`?", "date_"),
    "missing key": ("title: ", "# ", "the key `title` is missing", "add it: Title as published", "schema: 1"),
    "missing in an item": (", family: Lovelace", "", "`family` is missing", "add it: Family name", "given: Ada"),
    "word of a vocabulary": ("[feature_caching]", "[feature_cachng]", "cannot be", "mean `feature_caching`?", ""),
    "kind of value": ("steps: 30", "steps: many", "`steps` is 'many'", "Number of sampling steps", "settings:"),
    "no silent conversion": ("year: 2025", 'year: "2025"', "`year` is '2025'", "Year of", ""),
    "out of range": ("month: 7", "month: 13", "`month` is 13", "1 to 12", ""),
    "not a number": ("value: 2", "value: .nan", "`value` is nan", "The number with", ""),
    "schema": ("schema: 1", "schema: 2", "`schema` cannot be 2", "use one of: `1`", ""),
    "id is the file name": ("id: fast", "id: faster", "is not the file name", "write `fast`", ""),
    "id pattern": ("id: fast", "id: Fast", "`id` is 'Fast'", "its file name", ""),
    "arXiv pattern": ('arxiv: "2407.01425"', "arxiv: 2407v2", "`arxiv` is '2407v2'", "in quotes", ""),
    "arXiv number unquoted": ('arxiv: "2407.01425"', "arxiv: 2407.01425", "`arxiv` is 2407.01425", "in quotes", ""),
    "no primary": (", primary: true", "", "0 publications are primary", "exactly one", "publications:"),
    "two primaries": ("kind: preprint", "kind: preprint, primary: true", "2 publications", "exactly", "publications:"),
    "preprint year": ("year: 2024", "year: 2023", "dated otherwise than its number", "year 2024, month 7", ""),
    "preprint month": ("month: 7", "month: 8", "dated otherwise than its number", "year 2024, month 7", ""),
    "link to another paper": ("abs/2407.01425", "abs/2407.01426", "leads to another paper", "abs/2407.01425", ""),
    "no paper link": ("kind: paper", "kind: project", "no link leads to the paper", "of kind `paper`", "links:"),
    "link without scheme": ('"https://arxiv.org/', '"arxiv.org/', "`url` is", "https://", ""),
    "link checked too early": ("checked: 2026", "checked: 2016", "before the paper of 2024", "mend the date", ""),
    "no such day": ("date: 2026-11-23", "date: 2026-11-31", "is no value of the kind", "mend or quote", ""),
    "no date": ("date: 2026-11-23", "date: soon", "`date` is 'soon'", "as 2026-11-23", ""),
    "corrected too early": ("date: 2026", "date: 2016", "before the paper of 2024", "mend the date", ""),
    "spec does not exist": ("fast_opensora.yaml", "fst_opensora.yaml", "no file", "`specs/fast_opensora.yaml`?", ""),
    "spec outside": ("specs/fast_", "specs/../fast_", "`specs` is", "from the project folder", ""),
    "implemented without spec": (", specs: [specs/fast_opensora.yaml]", "", "has no spec", "`planned`", "technique:"),
    "target of a relation": ("target: other", "target: othr", "is no other record", "did you mean `other`?", ""),
    "relation to itself": ("target: other", "target: fast", "is no other record", "`other`", ""),
    "model of a claim": ("base_models: [opensora]", "base_models: [dit]", "not among", "add it", "base_model: o"),
    "claim without source": ("    source: {where: abstract}\n", "", "`source` is missing", "Where", "id: speed"),
    "claim without confidence": ("    confidence: A\nsummary", "summary", "`confidence` is", "C: unv", "id: speed"),
    "confidence": ("confidence: A\nsum", "confidence: D\nsum", "cannot be 'D'", "`A`, `B`, `C`", "confidence: D"),
    "length of the summary": ("It is fast.", "long " * 40, "`short` is", "at most 160", ""),
    "correction says otherwise": ("was: arXiv 2024", "was: arXiv 2023", "record `ICLR 2025`", "just that", "- field:"),
    "correction of nothing else": ("now: ICLR 2025", "now: ICLR 2024", "record `ICLR 2025`", "just that", "- field:"),
    "correction missing": ("field: venue", "field: code", "no correction says", "add the correction", "corrections:"),
    "duplicate key": ("abbreviation:", "id: fast\nabbreviation:", "`id` stands twice", "remove one", "id: fast"),
    "anchor": ("[CA1]", "[&a CA1, *a]", "anchors and aliases", "write the value out", ""),
    "nested too deeply": ("[CA1]", "[" * 20 + "]" * 20, "nested too deeply", "at most 10", ""),
    "old boolean": ("primary: true", "primary: yes", "YAML reads `yes` as true", "write true or false", ""),
    "code": ("given: Ada", "given: !!python/name:os.system Ada", "is no value of the kind", "mend or quote", ""),
    "decomposed letters": ("Ada", "Ada\u0301", "normal form C", "as one character", "schema: 1"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "rule", "remedy", "place"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_one_problem_with_place_and_remedy(
    papers: Path, old: str, new: str, rule: str, remedy: str, place: str
) -> None:
    lines = changed(papers, old, new).splitlines()
    found = [problem for problem in problems(papers) if rule in problem.rule]
    assert len(found) == 1, [str(problem) for problem in problems(papers)]
    problem = found[0]
    assert remedy in problem.remedy
    assert problem.file == papers / "fast.yaml"
    assert (place or new.strip()) in lines[problem.line - 1]
    assert 1 <= problem.column <= len(lines[problem.line - 1])


def test_columns_point_at_the_key(papers: Path) -> None:
    lines = changed(papers, "month: 7", "month: 13").splitlines()
    (problem,) = problems(papers)
    assert lines[problem.line - 1][problem.column - 1 :].startswith("month: 13")
    assert problem.key == "publications.0.month"


def test_all_problems_of_all_files_come_together(papers: Path) -> None:
    text = RECORD.replace("abbreviation", "abreviation").replace("kind: preprint", "kind: preprnt")
    text = text.replace("target: other", "target: nobody").replace("id: fast", "id: slow")
    (papers / "fast.yaml").write_text(text)
    (papers / "other.yaml").write_text("title: [unclosed\n")
    (papers / "third.yaml").write_text("- a list\n")
    assert {(problem.file.stem, problem.key) for problem in problems(papers)} == {
        ("fast", "abbreviation"),
        ("fast", "abreviation"),
        ("fast", "id"),
        ("fast", "publications.0.kind"),
        ("fast", "relations.0.target"),
        ("other", ""),
        ("third", ""),
    }


def test_a_problem_reads_as_place_rule_and_remedy(papers: Path) -> None:
    changed(papers, "id: fast", "id: slow")
    with pytest.raises(InvalidRecords) as caught:
        load_records(papers)
    assert str(caught.value) == (
        f"{papers / 'fast.yaml'}:2:1 id: the id `slow` is not the file name\n    -> write `fast`, or rename the file"
    )


@pytest.mark.parametrize(
    ("old", "shared"),
    [("abbreviation: Other", "abbreviation: fast_er"), ('arxiv: "2407.09999"', 'arxiv: "2407.01425"')],
)
def test_names_and_numbers_are_unique_however_they_are_spelled(papers: Path, old: str, shared: str) -> None:
    (papers / "other.yaml").write_text(
        OTHER.replace(old, shared).replace("09999", "01425" if "arxiv" in old else "09999")
    )
    (problem,) = problems(papers)
    assert "is also in fast.yaml" in problem.rule


def test_two_claims_do_not_share_an_id(papers: Path) -> None:
    claim = RECORD[RECORD.index("  - id: speed") : RECORD.index("summary:")]
    changed(papers, claim, claim + claim)
    (problem,) = problems(papers)
    assert problem.key == "claims.1.id" and "another claim `speed`" in problem.rule


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\xff\xfe", b"a: \x00", b"[" * 1000, b"a: " + b"[" * 100 + b"]" * 100, b"a: *b", b"? {a: b}\n: c"],
)
def test_what_is_no_record_is_a_problem_and_no_crash(papers: Path, content: bytes) -> None:
    (papers / "fast.yaml").write_bytes(content)
    assert {problem.file.stem for problem in problems(papers)} >= {"fast"}


@pytest.mark.parametrize("junk", ["[]", "{a: 1}", "3.5", "null", "2026-11-23"])
def test_junk_in_any_value_is_a_problem_or_harmless(papers: Path, junk: str) -> None:
    lines = RECORD.splitlines()
    starts = [index for index, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        key = lines[start].split(":")[0]
        (papers / "fast.yaml").write_text("\n".join([*lines[:start], f"{key}: {junk}", *lines[end:]]) + "\n")
        try:
            load_records(papers)
        except InvalidRecords as error:
            assert all(problem.line >= 1 and problem.remedy for problem in error.problems)
        else:
            assert (key, junk) in {("technique", "null"), ("seed", "null"), ("relations", "[]"), ("claims", "[]")}


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path)
    assert "no records" in problem.rule


def test_every_key_is_described() -> None:
    parts = [part for part in vars(schema).values() if isinstance(part, type) and issubclass(part, BaseModel)]
    missing = [
        f"{part.__name__}.{name}"
        for part in parts
        if part not in (BaseModel, schema.Strict)
        for name, field in part.model_fields.items()
        if not field.description
    ]
    assert len(parts) > 10 and not missing


def test_shipped_records_are_valid_and_their_text_is_tidy() -> None:
    assert {"toca", "fora"} <= load_records().keys()
    for file in PAPERS.glob("*.yaml"):
        text = file.read_bytes().decode("utf-8")
        assert "\r" not in text and "\t" not in text, file
        assert text.endswith("\n") and not text.endswith("\n\n"), file


def test_folding_and_nearest() -> None:
    assert fold("T-GATE") == fold("t_gate") == fold("T\N{NON-BREAKING HYPHEN}Gate") == "tgate"
    assert fold("DPM-Solver") != fold("DPM-Solver++")
    assert nearest("tocca", ["toca", "fora"]) == "did you mean `toca`?"
    assert nearest("x", []) == "remove it"
