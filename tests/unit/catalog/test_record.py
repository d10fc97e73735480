"""Records: what is valid, and that every broken rule is reported at its place, with a remedy, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from catalog import schema
from catalog.document import Document
from catalog.names import fold, nearest
from catalog.record import PAPERS, InvalidRecords, load_records, load_vocabularies
from catalog.vocabulary import NAMES

FAST, OTHER = "papers/fast.yaml", "papers/other.yaml"


def test_a_valid_record_keeps_its_values(project: Any) -> None:
    library = project.library()
    assert list(library.records) == ["fast", "other"]
    fast = library.records["fast"]
    assert (library.venue(fast.primary), fast.status) == ("ICLR 2025", "implemented")
    assert fast.claims[0].value == 2 and fast.claims[0].settings.parameters == {"interval": 3}
    assert fast.links[0].checked is not None and fast.links[0].checked.isoformat() == "2026-11-23"
    assert library.records["other"].relations == [] and library.records["other"].status == "none"


def test_corrections_may_say_nothing_and_name_entries(project: Any) -> None:
    code = "  - field: links.code\n    was: null\n    now: https://example.org/code\n    entries: [CA1]\n"
    text = project.change(FAST, "corrections:\n", "corrections:\n" + code + _rest_of_a_correction())
    project.write(FAST, text.replace("links:\n", 'links:\n  - {kind: code, url: "https://example.org/code"}\n'))
    found = project.library().records["fast"].corrections[0]
    assert (found.was, found.now, found.entries) == (None, "https://example.org/code", ["CA1"])


def _rest_of_a_correction() -> str:
    return "    why: x\n    evidence: x\n    confidence: A\n    by: audit\n    date: 2026-11-23\n"


# What is replaced, by what; then of the one problem that comes of it: key, the text it points at, rule, remedy.
FIELDS = {
    "unknown key": ("by: audit", "by: audit\n    date_: 1", "corrections.0.date_", "date_: 1",
                    "unknown key `date_`", "did you mean `date`?"),
    "unknown key in another case": ("claims:", "Claims: []\nclaims:", "Claims", "Claims:", "unknown key", "`claims`?"),
    "old key": ("seed:\n", "seed:\n  commit: 1fc4e79\n", "seed.commit", "commit:", "unknown key", "use one of: `badg"),
    "missing key": ("title: ", "# ", "title", "schema: 1", "the key `title` is missing", "add it: Title as published"),
    "missing in an item": (", family: Lovelace", "", "authors.0.family", "{given: Ada}", "`family` is missing",
                           "add it: Family name"),
    "claim without source": ("    source: {where: abstract}\n", "", "claims.0.source", "id: speed", "is missing",
                             "Whe"),
    "claim without confidence": ("    confidence: A\nsum", "sum", "claims.0.confidence", "id: sp", "is missing",
                                 "C: u"),
    "correction without was": ("    was: arXiv 2024\n", "", "corrections.0.was", "field:", "`was` is missing",
                               "null: it"),
    "seed without badges": ("  badges: [Fast-Er, Text2Video, Cache_Mechanism]\n", "", "seed.badges", "seed:",
                            "`badges` is missing", "word for word"),
    "word of a vocabulary": ("[feature_caching]", "[feature_cachng]", "tags.mechanisms.0", "feature_cachng",
                             "`mechanisms` cannot be 'feature_cachng'", "did you mean `feature_caching`?"),
    "alias for a word": ("[feature_caching]", "[Cache-Mechanism]", "tags.mechanisms.0", "Cache-Mechanism",
                         "cannot be 'Cache-Mechanism'", "did you mean `feature_caching`?"),
    "misspelt alias": ("[feature_caching]", "[Layer Prunning]", "tags.mechanisms.0", "Layer Prunning",
                       "cannot be 'Layer Prunning'", "did you mean `layer_pruning`?"),
    "half of a misspelt alias": ("[feature_caching]", "[Prunning]", "tags.mechanisms.0", "Prunning",
                                 "cannot be 'Prunning'", "_pruning`?"),
    "badge for an application": ("[text_to_video]", "[Text2Vidoe]", "tags.applications.0", "Text2Vidoe", "cannot be",
                                 "did you mean `text_to_video`?"),
    "word like no other": ("[feature_caching]", "[zzz]", "tags.mechanisms.0", "zzz", "cannot be 'zzz'",
                           "`token_caching`, `token_compression`"),
    "training": ("training: none", "training: calibrated", "tags.training", "training:", "cannot be", "`calibration`?"),
    "model": ("base_models: [opensora]", "base_models: [opensora, open_sore]", "tags.base_models.1", "open_sore",
              "`base_models` cannot be", "did you mean `opensora`?"),
    "metric": ("flops_speedup", "flop_speedup", "claims.0.metric", "metric:", "cannot be", "mean `flops_speedup`?"),
    "venue": ("venue: iclr", "venue: ICLR's", "publications.1.venue", "venue:", "`venue` cannot be",
              "did you mean `iclr`?"),
    "link kind": ("kind: paper", "kind: papr", "links.0.kind", "kind: papr", "`kind` cannot be", "mean `paper`?"),
    "fixed word": ("status: ok", "status: okay", "links.0.status", "status: okay", "cannot be 'okay'", "mean `ok`?"),
    "scope": ("scope: acceleration", "scope: fast", "tags.scope", "scope:", "cannot be", "`acceleration`, `editing`"),
    "relation": ("type: extends", "type: extend", "relations.0.type", "type:", "cannot be", "mean `extends`?"),
    "confidence": ("confidence: A\nsum", "confidence: D\nsum", "claims.0.confidence", "confidence: D", "cannot be 'D'",
                   "`A`, `B`, `C`"),
    "kind of value": ("steps: 30", "steps: many", "claims.0.settings.steps", "steps: many", "`steps` is 'many'",
                      "Number of sampling steps"),
    "no silent conversion": ("year: 2025", 'year: "2025"', "publications.1.year", 'year: "', "`year` is '2025'",
                             "Year"),
    "out of range": ("month: 7", "month: 13", "publications.0.month", "month: 13", "`month` is 13", "1 to 12"),
    "year": ("year: 2025", "year: 20255", "publications.1.year", "year:", "`year` is 20255", "Year of"),
    "not a number": ("value: 2", "value: .nan", "claims.0.value", "value:", "`value` is nan", "The number with"),
    "parameter's name": ("interval: 3", "Interval: 3", "claims.0.settings.parameters.Interval", "Interval:",
                         "`Interval` is", "by the engine's names"),
    "schema": ("schema: 1", "schema: 2", "schema", "schema: 2", "`schema` cannot be 2", "use one of: `1`"),
    "id pattern": ("id: fast", "id: Fast", "id", "id: Fast", "`id` is 'Fast'", "its file name"),
    "empty title": ('title: "Fast: a paper"', 'title: ""', "title", "title:", "`title` is ''", "Title as published"),
    "no authors": ("  - {given: Ada, family: Lovelace}\n  - {given: Alan, family: Turing}\n", "  []\n", "authors",
                   "authors:", "`authors` is []", "All authors"),
    "arXiv pattern": ('arxiv: "2407.01425"', "arxiv: 2407v2", "identifiers.arxiv", "arxiv: 2407v2", "'2407v2'",
                      "in quo"),
    "arXiv number unquoted": ('arxiv: "2407.01425"', "arxiv: 2407.01425", "identifiers.arxiv", "arxiv: 2",
                              "`arxiv` is 2407.01425", "in quotes"),
    "DOI as address": ("doi: 10.1000/fast-1", 'doi: "https://doi.org/10.1000/fast-1"', "identifiers.doi", "doi:",
                       "`doi` is 'https", "without a resolver"),
    "ORCID": ("family: Turing", "family: Turing, orcid: 0000", "authors.1.orcid", "orcid:", "`orcid` is", "0000-0000"),
    "link without scheme": ('"https://arxiv.org/', '"arxiv.org/', "links.0.url", "url:", "`url` is", "https://"),
    "script as link": ('"https://arxiv.org/abs/2407.01425"', '"javascript:x"', "links.0.url", "url:", "`url` is",
                       "http"),
    "no date": ("date: 2026-11-23", "date: soon", "corrections.0.date", "date:", "`date` is 'soon'", "as 2026-11-23"),
    "summary is too long": ("It is fast.", "long " * 40, "summary.short", "short:", "`short` is", "at most 160"),
    "field of a correction": ("field: venue", "field: venu", "corrections.0.field", "field:", "`field` is", "venue"),
    "entry of the list": ("[CA1]", "[ca1]", "seed.entries.0", "ca1", "`entries` is 'ca1'", "code of the section"),
    "spec outside": ("specs/fast_", "specs/../fast_", "technique.specs.0", "specs/..", "`specs` is", "project folder"),
}  # fmt: skip
RULES = {
    "id is the file name": ("id: fast", "id: faster", "id", "id: faster", "is not the file name", "write `fast`"),
    "markup in a title": ("Fast: a", "Fast<sup>3</sup>: a", "title", "title:", "`<sup>` is markup", "plain Unicode"),
    "LaTeX in a name": ("family: Turing", 'family: "T{\\\\\\"u}ring"', "authors.1", "{given: Alan", "is markup",
                        "or ü"),
    "others": ("family: Turing", 'family: Turing}\n  - {given: et, family: al', "authors.2", "{given: et",
               "`others` is no author", "name all authors"),
    "no primary": (", primary: true", "", "publications", "publications:", "0 publications are primary", "exactly one"),
    "two primaries": ("kind: preprint", "kind: preprint, primary: true", "publications", "publications:",
                      "2 publications are primary", "exactly one"),
    "kind of a venue": ("kind: conference", "kind: journal", "publications.1.kind", "kind: journal",
                        "iclr is not a journal", "write `conference`"),
    "preprint year": ("year: 2024", "year: 2023", "publications.0.year", "year: 2023",
                      "dated otherwise than its number",
                      "year 2024, month 7"),
    "preprint month": ("month: 7", "month: 8", "publications.0.year", "year: 2024", "dated otherwise", "month 7"),
    "no paper link": ("kind: paper", "kind: project", "links", "links:", "no link leads to the paper", "kind `paper`"),
    "link to another paper": ("abs/2407.01425", "abs/2407.01426", "links.0.url", "url:", "leads to another paper",
                              "write https://arxiv.org/abs/2407.01425"),
    "link to a longer number": ("abs/2407.0142", "abs/2407.0142/2407.0142", "links.0.url", "url:", "another paper",
                                "or"),
    "link checked too early": ("checked: 2026", "checked: 2016", "links.0.checked", "checked:", "2016-11-23 is before",
                               "mend the date"),
    "implemented without spec": (", specs: [specs/fast_opensora.yaml]", "", "technique.status", "status:",
                                 "implemented but has no spec", "say `planned`"),
    "spec does not exist": ("fast_opensora.yaml", "fst_opensora.yaml", "technique.specs.0", "specs/fst",
                            "there is no file `specs/fst_opensora.yaml`", "did you mean `specs/fast_opensora.yaml`?"),
    "target of a relation": ("target: other", "target: othr", "relations.0.target", "target: othr",
                             "`othr` is no other record", "did you mean `other`?"),
    "relation to itself": ("target: other", "target: fast", "relations.0.target", "target:", "no other rec", "`other`"),
    "model of a claim": ("base_models: [opensora]", "base_models: [dit]", "claims.0.base_model", "base_model: opensora",
                         "`opensora` is not among `tags.base_models`", "add it there"),
    "corrected too early": ("date: 2026", "date: 2016", "corrections.0.date", "date:", "before the paper of 2024",
                            "mend"),
    "correction of nothing": ("was: arXiv 2024", "was: ICLR 2025", "corrections.0.now", "now:", "are the same",
                              "say wh"),
    "correction without seed": ("seed:\n  entries: [CA1]\n  badges: [Fast-Er, Text2Video, Cache_Mechanism]\n", "",
                                "corrections.0", "field:", "not in the original list", "remove the correction"),
    "correction of another entry": ("why: acc", "entries: [CA1, CA3]\n    why: acc", "corrections.0.entries",
                                    "entries:",
                                    "CA3 is not among `seed.entries`", "did you mean `CA1`?"),
}  # fmt: skip
TRAPS = {
    "duplicate key": ("abbreviation:", "id: fast\nabbreviation:", "id", "id: fast", "the key `id` stands twice",
                      "remov"),
    "duplicate inner key": ("month: 7,", "month: 7, month: 7,", "publications.0.month", "month:", "stands twice",
                            "remov"),
    "anchor": ("[CA1]", "[&a CA1, *a]", "seed.entries.1", "&a CA1", "anchors and aliases", "write the value out"),
    "on as a key": ("by: audit", "on: audit\n    by: audit", "corrections.0.on", "on: audit", "unknown key `on`",
                    "use on"),
    "yes as a value": ("primary: true", "primary: yes", "publications.1.primary", "primary: yes", "reads `yes` as true",
                       "write true or false"),
    "no as a text": ("why: accepted later", "why: no", "corrections.0.why", "why: no", "reads `no` as false",
                     "quote it"),
    "a list as a key": ("by: audit", "? [a]\n    : x\n    by: audit", "corrections.0", "[a]", "a key is a list",
                        "one word"),
    "code": ("given: Ada", "given: !!python/name:os.system Ada", "authors.0.given", "given:", "no value of the kind",
             "qu"),
    "tagged boolean": ("primary: true", "primary: !!bool x", "publications.1.primary", "primary", "no value of",
                       "quote"),
    "tagged date": ("date: 2026-11-23", "date: !!timestamp x", "corrections.0.date", "date:", "no value of the",
                    "mend"),
    "no such day": ("date: 2026-11-23", "date: 2026-11-31", "corrections.0.date", "date:", "no value of the kind",
                    "mend"),
    "decomposed letters": ("Alan", "A\u0301lan", "", "  - {given: A", "not in Unicode normal form C",
                           "as one character"),
    "right-to-left override": ("It is fast.", "It is \u202efast.", "summary.short", "short:", "character U+202E",
                               "remove"),
    "escaped control": ("short: It is fast.", 'short: "\\a"', "summary.short", "short:", "character U+0007",
                        "remove"),
    "isolated direction": ("Ada", "A\u2066da", "authors.0.given", "given:", "character U+2066", "or write the letter"),
    "no width": ("accepted later", "accepted\u200blater", "corrections.0.why", "why:", "character U+200B", "remove"),
    "byte order": ("abstract", "ab\ufeffstract", "claims.0.source.where", "where:", "character U+FEFF", "remove"),
    "lost letter": ("Turing", "T\ufffdring", "authors.1.family", "family:", "character U+FFFD", "the letter that was"),
    "to do": ("It is fast.", "TODO", "summary.short", "short: TODO", "`TODO` is still to do", "the comment beside it"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "key", "at", "rule", "remedy"),
    [pytest.param(*case, id=name) for group in (FIELDS, RULES, TRAPS) for name, case in group.items()],
)
def test_a_mistake_is_explained(project: Any, old: str, new: str, key: str, at: str, rule: str, remedy: str) -> None:
    project.explains(FAST, old, new, key, at, rule, remedy)


def test_all_problems_of_all_files_come_together_in_order(project: Any) -> None:
    text = project.read(FAST).replace("abbreviation:", "abreviation:").replace("kind: preprint", "kind: preprnt")
    project.write(FAST, text.replace("target: other", "target: nobody").replace("id: fast", "id: slow"))
    project.write(OTHER, "title: [unclosed\n")
    project.write("papers/third.yaml", "- a list\n")
    project.change("views/mechanism.yaml", "papers: [fast, other]", "papers: [fast, othr]")
    project.change("news/2026.yaml", "text: Fast", "txt: Fast")
    project.change("seed/list.yaml", "entries: 2", "entries: 0")
    project.change("snapshots/arxiv.yaml", "date: 2026-11-23", "date: today")
    found = [(problem.file.relative_to(project.root).as_posix(), problem.key) for problem in project.problems()]
    assert found == [
        ("news/2026.yaml", "items.1.text"),
        ("news/2026.yaml", "items.1.txt"),
        ("papers/fast.yaml", "abbreviation"),
        ("papers/fast.yaml", "id"),
        ("papers/fast.yaml", "abreviation"),
        ("papers/fast.yaml", "publications.0.kind"),
        ("papers/fast.yaml", "relations.0.target"),
        ("papers/other.yaml", ""),
        ("papers/third.yaml", ""),
        ("seed/list.yaml", "entries"),
        ("snapshots/arxiv.yaml", "date"),
        ("views/mechanism.yaml", "sections.0.papers.1"),
    ]


def test_a_problem_reads_as_place_rule_and_remedy(project: Any) -> None:
    project.change(FAST, "id: fast", "id: slow")
    with pytest.raises(InvalidRecords) as caught:
        load_records(project.root / "papers")
    assert str(caught.value) == (
        f"{project.root / FAST}:2:1 id: the id `slow` is not the file name\n    -> write `fast`, or rename the file"
    )


# What a second record shares with the first, in whatever spelling: the key, and how the problem begins.
DOUBLES = {
    "abbreviation": ("abbreviation: Other", "abbreviation: fast_er", "abbreviation", "`fast_er` is also in fast.yaml"),
    "arXiv number": ('arxiv: "2407.09999"', 'arxiv: "2407.01425"', "identifiers.arxiv", "`2407.01425` is also in"),
    "arXiv version beside all": ('arxiv: "2407.09999"', 'arxiv: "2407.01425", version: 2', "identifiers.arxiv",
                                 "`2407.01425v2` is also in fast.yaml"),
    "DOI": ("doi: 10.1000/other", "doi: 10.1000/FAST-1", "identifiers.doi", "`10.1000/FAST-1` is also in fast.yaml"),
    "OpenReview": ("openreview: ghiJKL", "openreview: abcDEF", "identifiers.openreview",
                   "`abcDEF` is also in fast.yaml"),
    "title": ("title: Something else entirely", "title: 'FAST - a Papér'", "title", "is nearly the title of fast.yaml"),
    "first letters of the title": ("title: Something else entirely", "title: 'Afast: a paper'", "title",
                                   "is nearly the"),
    "link": ('"https://arxiv.org/abs/2407.09999"', '"https://arxiv.org/pdf/2407.01425"', "links.0.url",
             "`https://arxiv.org/pdf/2407.01425` is also in fast.yaml"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "rule"), DOUBLES.values(), ids=DOUBLES)
def test_records_share_no_name_number_title_or_link(project: Any, old: str, new: str, key: str, rule: str) -> None:
    at = {"arxiv": "arxiv", "doi": "doi", "openreview": "openreview", "url": "url", "title": "title"}
    text = project.change(OTHER, old, new)
    double = [problem for problem in project.problems() if rule in problem.rule]
    assert [(problem.file, problem.key) for problem in double] == [(project.root / OTHER, key)]
    assert "merge the records" in double[0].remedy
    last = key.rpartition(".")[2]
    assert text.split("\n")[double[0].line - 1][double[0].column - 1 :].startswith(at.get(last, last))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("doi: 10.1000/other", "doi: 10.1000/fast1"),
        ("openreview: ghiJKL", "openreview: abcdef"),
        ("abbreviation: Other", "abbreviation: Fast-Er+"),
    ],
)
def test_what_is_not_the_same_may_look_alike(project: Any, old: str, new: str) -> None:
    project.change(OTHER, old, new)
    load_records(project.root / "papers")


def test_two_versions_of_a_paper_may_have_a_record_each(project: Any) -> None:
    first = '"https://arxiv.org/abs/2407.01425'
    project.change(FAST, 'arxiv: "2407.01425"', 'arxiv: "2407.01425", version: 1')
    project.change(FAST, first, first + "v1")
    project.change(OTHER, 'arxiv: "2407.09999"', 'arxiv: "2407.01425", version: 2')
    project.change(OTHER, '"https://arxiv.org/abs/2407.09999', first + "v2")
    project.change(OTHER, "title: Something else entirely", 'title: "Fast: a papers"')
    load_records(project.root / "papers")
    project.change(OTHER, "version: 2", "version: 1")
    (problem,) = project.problems()
    assert (problem.key, problem.rule) == ("identifiers.arxiv", "`2407.01425v1` is also in fast.yaml")


def test_a_link_with_two_titles_is_found_among_all_links(project: Any) -> None:
    link = '  - {kind: paper, url: "%s"}\n'
    project.change(FAST, "tags:\n", link % "http://example.org/paper/" + "tags:\n")
    project.change(OTHER, "tags:\n", link % "https://example.org/paper" + "tags:\n")
    (problem,) = project.problems()
    assert (problem.key, problem.rule) == ("links.1.url", "`https://example.org/paper` is also in fast.yaml")


def test_two_claims_do_not_share_an_id(project: Any) -> None:
    text = project.read(FAST)
    claim = text[text.index("  - id: speed") : text.index("summary:")]
    project.explains(FAST, claim, claim + claim, "claims.1.id", "id: speed", "another claim `speed`", "id of its own")


# The record gives back what the list says, or a correction says why not.
LISTED = {
    "venue": ("    was: arXiv 2024\n", "    was: arXiv 2023\n", "publications", "publications:",
              "the venue 'arXiv 2024'"),
    "title": ('"Fast: a paper"', '"Fast: papers"', "title", "title:",
              "entry CA1 of the list has the title 'Fast: a pa"),
    "author": ("family: Turing", "family: Turin", "authors", "authors:", "gives ('Ada Lovelace', 'Alan Turin')"),
    "code": ("tags:\n", '  - {kind: code, url: "https://example.org"}\ntags:\n', "links", "links:",
             "has the code None"),
    "badges": ("Text2Video, Ca", "Ca", "seed.badges", "badges:", "has the badges ('Fast-Er', 'Text2Video', 'Cache"),
    "abbreviation": ("abbreviation: Fast-Er", "abbreviation: Faster+", "abbreviation", "abbr",
                     "paper 'Fast-Er', the re"),
    "tags": ("[feature_caching]", "[token_caching]", "tags.mechanisms", "mechanisms:",
             "`feature_caching`, the record `t"),
    "now": ("now: ICLR 2025", "now: ICLR 2024", "corrections.0.now", "now:",
            "says `ICLR 2024`, the record `ICLR 2025`"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "at", "rule"), LISTED.values(), ids=LISTED)
def test_what_the_list_says_is_given_back(project: Any, old: str, new: str, key: str, at: str, rule: str) -> None:
    project.write("snapshots/arxiv.yaml", "date: 2026-11-23\ntitles: {}\n")  # which would see the title too
    text = project.change(FAST, old, new)
    problems = [problem for problem in project.problems() if rule in problem.rule]
    assert [(problem.file, problem.key) for problem in problems] == [(project.root / FAST, key)]
    assert text.split("\n")[problems[0].line - 1][problems[0].column - 1 :].startswith(at)
    assert any(word in problems[0].remedy for word in ("correction", "say in both"))


def test_entries_of_the_list_are_in_one_record_each(project: Any) -> None:
    project.change(OTHER, "entries: [CA2]", "entries: [CA1, CA9]")
    rules = {(problem.file.name, problem.key): problem.rule for problem in project.problems()}
    assert rules["other.yaml", "seed.entries"] == "the list has no entry CA9"
    assert rules["papers", ""] == "no record has the entries CA2 of the list"
    assert "CA1 is also in fast.yaml" in {problem.rule for problem in project.problems()}


def test_corrections_of_every_field_are_reversed(project: Any) -> None:
    fields = {
        "title": ("Fast", "Fast: a paper"),
        "authors.1": ("Alan Turin", "Alan Turing"),
        "links.paper": ("https://arxiv.org/abs/2407.99999", "https://arxiv.org/abs/2407.01425"),
        "links.code": ("https://example.org/code", None),
        "number": ("\N{FULLWIDTH DIGIT SEVEN}", "1"),
        "abbreviation": ("Faster", "Fast-Er"),
        "tags.mechanisms": ("token_merging", "feature_caching"),
    }
    text = project.read(FAST)
    for field, (was, now) in fields.items():
        text += f"  - field: {field}\n    was: {was!r}\n    now: {'null' if now is None else repr(now)}\n"
        text += _rest_of_a_correction()
    project.write(FAST, text.replace("[Fast-Er, Text2Video, Cache_Mechanism]", "[Faster, Text2Video, Token_Merging]"))
    listed = project.read("seed/entries.json").replace("Fast: a paper", "Fast").replace("Alan Turing", "Alan Turin")
    listed = listed.replace("2407.01425", "2407.99999").replace("null", '"https://example.org/code"', 1)
    listed = (
        listed.replace('"1"', '"\N{FULLWIDTH DIGIT SEVEN}"')
        .replace('"Fast-Er"', '"Faster"')
        .replace("Cache_Mechanism", "Token_Merging")
    )
    project.write("seed/entries.json", listed)
    assert len(project.library().records["fast"].corrections) == 8


@pytest.mark.parametrize("content", ["{", "[]", '{"CA1": {}}', '{"CA1": {"authors": 1, "badges": []}}', "\udcff"])
def test_damaged_entries_are_a_problem_and_no_crash(project: Any, content: str) -> None:
    project.write("seed/entries.json", content.encode(errors="surrogateescape"))
    (problem,) = project.problems()
    assert problem.file.name == "entries.json" and "not the entries of a list" in problem.rule


BROKEN_WORDS = {
    "unknown key": ("families", "label: Cache,", "label: Cache, lable: x,", "cache.lable", "unknown key", "`label`?"),
    "no label": ("families", "label: Cache, ", "", "cache.label", "`label` is missing", "As readers see it"),
    "nothing": ("link_kinds", "demo: {label: Demo}", "demo:", "demo.label", "`label` is missing", "add it"),
    "no id": ("link_kinds", "demo:", "Live Demo:", "Live Demo", "the word `Live Demo` is no id", "lower-case letters"),
    "direction": ("metrics", "unit: GMACs, better: lower", "unit: GMACs, better: less", "gmacs.better", "cannot be",
                  "`lo"),
    "no such parent": ("applications", "parent: video_generation, aliases: [Text2Video]", "parent: video",
                       "text_to_video.parent", "`video` is no word here", "did you mean"),
    "no such family": ("mechanisms", "Head routing, family: attention", "Head routing, family: atention",
                       "head_routing.family", "`atention` is no family", "`attention`?"),
    "alias of two": ("applications", "aliases: [Image2Video]", "aliases: [Text2Video]", "image_to_video.aliases.0",
                     "also a spelling of `text_to_video`", "in one place"),
    "alias is a word": ("applications", "aliases: [Image2Video]", "aliases: [Text-to-Video]",
                        "image_to_video.aliases.0",
                        "also a spelling of `text_to_video`", "in one place"),
    "word twice": ("link_kinds", "demo:", "paper:", "paper", "the key `paper` stands twice", "remove one of them"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "key", "rule", "remedy"), BROKEN_WORDS.values(), ids=BROKEN_WORDS)
def test_vocabularies_are_checked(
    project: Any, name: str, old: str, new: str, key: str, rule: str, remedy: str
) -> None:
    project.own_vocabularies()
    text = project.change(f"vocab/{name}.yaml", old, new)
    (problem,) = project.problems()
    assert (problem.file, problem.key) == (project.root / "vocab" / f"{name}.yaml", key)
    assert rule in problem.rule and remedy in problem.remedy
    assert key.partition(".")[0] in text.split("\n")[problem.line - 1]


def test_a_catalog_may_have_words_of_its_own(project: Any) -> None:
    project.own_vocabularies()
    project.change("vocab/families.yaml", "cache:", "dreams: {label: Dreams}\ncache:")
    project.change(
        "vocab/mechanisms.yaml", "feature_caching:", "dreaming: {label: D, family: dreams}\nfeature_caching:"
    )
    project.change(OTHER, "mechanisms: [token_merging]", "mechanisms: [token_merging, dreaming]")
    assert load_records(project.root / "papers")["other"].tags.mechanisms == ["token_merging", "dreaming"]


def test_shipped_words_resolve_in_every_spelling() -> None:
    words = load_vocabularies()
    assert set(words) == set(NAMES) and all(words[name] for name in NAMES)
    assert words["mechanisms"].resolve("HEAD-prunning") == "head_pruning"
    assert words["mechanisms"].resolve("dreaming") is None
    assert words["applications"].within("image_generation") == [
        "image_generation", "text_to_image", "image_editing", "personalized_generation",
    ]  # fmt: skip
    assert "token_caching" in words["mechanisms"].within("feature_caching")
    assert words["training"].remedy("zzz").endswith("; or add it to vocab/training.yaml")


@pytest.mark.parametrize(
    ("content", "rule", "place"),
    [
        (b"", "a record is a mapping", (1, 1)),
        (b"text", "a record is a mapping", (1, 1)),
        (b"- a", "a record is a mapping", (1, 1)),
        (b"\xff\xfe", "the file is not UTF-8", (1, 1)),
        ("é".encode("latin-1"), "the file is not UTF-8", (1, 1)),
        (b"a: \x00", "control characters are not allowed", (1, 1)),
        (b"a: 1\nb: [1", "this is not valid YAML: did not find expected ',' or ']'", (2, 1)),
        (b"a: 1\n\tb: 2", "this is not valid YAML", (2, 1)),
        (b"a: *b", "undefined alias", (1, 4)),
        (b"a: 1\n---\nb: 2\n", "another document", (2, 1)),
        (b"[" * 1000, "this is not valid YAML", None),
        (b"a: " + b"[" * 100_000, "this is not valid YAML", None),
        (b"- " * 100_000, "this is not valid YAML", None),
        (b"a: " + b"[" * 100 + b"]" * 100, "nested too deeply", (1, 14)),
    ],
    ids=range(14),
)
def test_what_is_no_record_is_a_problem_and_no_crash(
    project: Any, content: bytes, rule: str, place: tuple[int, int] | None
) -> None:
    project.write(FAST, content)
    problem = next(problem for problem in project.problems() if rule in problem.rule)
    assert problem.file == project.root / FAST and "\n" not in problem.rule
    assert place is None or (problem.line, problem.column) == place


def test_what_cannot_be_read_is_reported_beside_the_rest(project: Any) -> None:
    (project.root / OTHER).unlink()
    (project.root / OTHER).mkdir()
    project.change(FAST, "id: fast", "id: slow")
    rules = [problem.rule for problem in project.problems()]
    assert len(rules) == 2 and "the file cannot be read: Is a directory" in rules


def test_a_byte_order_mark_is_no_problem(project: Any) -> None:
    project.write(FAST, b"\xef\xbb\xbf" + project.read(FAST).encode())
    assert project.library().records["fast"].id == "fast"


def test_unseen_characters_are_found_in_keys_too(project: Any) -> None:
    project.change(FAST, "by: audit", "b\u200by: audit")
    assert any("U+200B" in problem.rule for problem in project.problems())


@pytest.mark.parametrize("junk", ["[]", "{a: 1}", "3.5", "null", "2026-11-23"])
def test_junk_in_any_value_is_a_problem_or_harmless(project: Any, junk: str) -> None:
    lines = project.read(FAST).splitlines()
    starts = [index for index, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        key = lines[start].split(":")[0]
        project.write(FAST, "\n".join([*lines[:start], f"{key}: {junk}", *lines[end:]]) + "\n")
        try:
            load_records(project.root / "papers")
        except InvalidRecords as error:
            assert all(problem.line >= 1 and problem.remedy for problem in error.problems)
        else:
            assert (key, junk) in {
                ("technique", "null"), ("summary", "null"), ("aliases", "[]"), ("relations", "[]"), ("claims", "[]"),
                ("corrections", "[]"),
            }  # fmt: skip


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecords) as caught:
        load_records(tmp_path)
    assert "there are no records here" in str(caught.value)


def test_marks_point_at_keys_and_items(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\nb:\n  - {c: 2,  d: 3}\n")
    document = Document(file)
    for at in (("b",), ("b", 0), ("b", 0, "d"), ("b", 7), ("a", "deeper")):
        document.report(at, "a rule", "a remedy")
    places = [(problem.line, problem.column) for problem in document.problems]
    assert places == [(2, 1), (3, 5), (3, 13), (2, 1), (1, 1)]


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
    records = load_records()
    assert len(records) == 59
    for file in PAPERS.glob("*.yaml"):
        text = file.read_bytes().decode("utf-8")
        assert "\r" not in text and "\t" not in text, file
        assert text.endswith("\n") and not text.endswith("\n\n"), file


def test_folding_and_nearest() -> None:
    assert fold("T-GATE") == fold("t_gate") == fold("T\N{NON-BREAKING HYPHEN}Gate") == "tgate"
    assert fold("DPM-Solver") != fold("DPM-Solver++")
    assert nearest("tocca", ["toca", "fora"]) == nearest("TO-CCA", ["toca", "fora"]) == "did you mean `toca`?"
    assert nearest("x", []) == "remove it"
    assert nearest("zzz", [f"a{number}" for number in range(60)]).endswith("`a53` and 10 more")
