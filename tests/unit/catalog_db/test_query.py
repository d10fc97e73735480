"""Questions to the catalog: the same answers from SQLite and PostgreSQL, in a fixed order."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT as PROJECT
from typer.testing import CliRunner

from catalog import query
from catalog.cli import app
from catalog.database import Database
from catalog.files import ROOT
from catalog.library import load_library
from catalog.query import BadQuery, PaperFilter
from catalog.seed import SECTIONS, stored

LIBRARY = load_library()
RECORDS = LIBRARY.records


def ids(database: Database, sort: str = "id", limit: int | None = None, **wanted: Any) -> list[str]:
    with database.reading() as connection:
        return [row["id"] for row in query.papers(connection, PaperFilter(**wanted), sort, limit)]


def those(keep: Any) -> list[str]:
    return sorted(paper for paper, record in RECORDS.items() if keep(record))


def test_papers_are_what_the_records_say(database: Database) -> None:
    with database.reading() as connection:
        rows = {row["id"]: row for row in query.papers(connection, PaperFilter())}
    assert list(rows) == sorted(RECORDS)
    for paper, record in RECORDS.items():
        row = rows[paper]
        assert row["title"] == record.title
        assert row["authors"] == [author.printed or author.name for author in record.authors]
        assert row["venue"] == LIBRARY.venue(record.primary)
        assert row["applications"] == record.tags.applications
        assert row["mechanisms"] == record.tags.mechanisms
        assert row["base_models"] == record.tags.base_models
        code = record.link("code")
        assert row["code"] == (code.url if code else None)


def test_filters(database: Database) -> None:
    families = LIBRARY.vocabularies["mechanisms"]
    assert ids(database, training=["none"], base_model=["dit"]) == those(
        lambda record: record.tags.training == "none" and "dit" in record.tags.base_models
    )
    assert ids(database, mechanism=["cache"]) == those(
        lambda record: any(families[word].family == "cache" for word in record.tags.mechanisms)
    )
    assert ids(database, mechanism=["Cache_Mechanism"]) == ids(database, mechanism=["feature-caching"])
    assert ids(database, application=["video generation"]) == those(
        lambda record: {"video_generation", "text_to_video", "image_to_video"} & set(record.tags.applications)
    )
    assert ids(database, without=["code"]) == those(lambda record: record.link("code") is None)
    assert ids(database, having=["correction"]) == those(lambda record: record.corrections)
    assert ids(database, status=["implemented"]) == those(lambda record: record.status == "implemented")
    assert ids(database, author="linfeng ZHANG") == those(
        lambda record: any(author.name == "Linfeng Zhang" for author in record.authors)
    )
    assert ids(database, author="matisan") == ["duodiff"]
    accepted = ids(database, list_venue="arXiv", published=True)
    assert {"toca", "svdquant", "q_dit"} <= set(accepted) and "fora" not in accepted
    assert ids(database, arch=["autoregressive"]) == ["f3_pruning", "sjd"]
    assert ids(database, scope=["editing"]) == ["headrouter", "stable_flow"]
    assert ids(database, year=[2021]) == ["ddim"]
    assert ids(database, venue=["eccv"], mechanism=["attention"]) == ["agent_attention", "attention_mediators"]


def test_order_and_limit(database: Database) -> None:
    with database.reading() as connection:
        rows = query.papers(connection, PaperFilter(), "-date", 5)
        first = query.papers(connection, PaperFilter(), "date", 1)
    dates = [row["first_published"].ljust(7, "~") for row in rows]  # a year without a month ends it
    assert dates == sorted(dates, reverse=True)
    assert len(rows) == 5 and first[0]["id"] == "ddim"
    assert ids(database, "-id") == sorted(RECORDS, reverse=True)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ({"mechanism": ["cahce"]}, "did you mean `cache`"),
        ({"training": ["non"]}, "did you mean `none`"),
        ({"base_model": ["pixrt"]}, "did you mean `pixart`"),
        ({"without": ["cod"]}, "did you mean `code`"),
        ({"venue": ["iclrr"]}, "did you mean `iclr`"),
    ],
)
def test_unknown_words_are_explained(sqlite_catalog: Database, wanted: dict[str, Any], hint: str) -> None:
    with pytest.raises(BadQuery, match=re.escape(hint)):
        ids(sqlite_catalog, **wanted)
    with pytest.raises(BadQuery, match="did you mean `date`"):
        ids(sqlite_catalog, "dat")


def test_views_have_the_entries_of_the_list_in_its_order(database: Database) -> None:
    with database.reading() as connection:
        mechanism, free = query.view(connection, "mechanism"), query.view(connection, "training-free")
        section = query.view(connection, "training-free", "dit")
        with pytest.raises(BadQuery, match="did you mean `mechanism`"):
            query.view(connection, "mechanisms")
        with pytest.raises(BadQuery, match="did you mean `cache`"):
            query.view(connection, "mechanism", "cach")
    assert (len(mechanism), len(free)) == (52, 27)
    assert len({row["id"] for row in mechanism}) == 51 and len({row["id"] for row in mechanism + free}) == 59
    assert section == [row for row in free if row["section"] == "dit"]
    codes = [code for code in stored()]
    placed = {code: paper for paper, record in RECORDS.items() if record.seed for code in record.seed.entries}
    assert [row["id"] for row in mechanism + free] == [placed[code] for code in codes]
    numbers = {code: row["number"] for code, row in zip(codes, mechanism + free, strict=True)}
    assert all(numbers[code] == int(code[2:]) and code[:2] in SECTIONS for code in codes)


def test_links(database: Database) -> None:
    with database.reading() as connection:
        every = query.links(connection)
        assert len(every) == sum(len(record.links) for record in RECORDS.values())
        code = query.links(connection, ["code"], "permissive")
        assert code and {row["licence"] for row in code} <= set(query.PERMISSIVE)
        unknown = query.links(connection, ["code"], "unknown")
        assert all(row["licence"] is None for row in unknown)
        assert query.links(connection, status="!ok", older=90) == [
            row
            for row in every
            if row["status"] != "ok"
            and (row["checked_on"] is None or row["checked_on"] < dt.date.today() - dt.timedelta(days=90))
        ]
        assert [row["kind"] for row in query.links(connection, paper="toca")] == ["paper", "code", "project"]


def test_corrections(database: Database) -> None:
    with database.reading() as connection:
        rows = query.corrections(connection)
        venues = query.corrections(connection, fields=["venue"], confidence=["a", "b"])
        authors = query.corrections(connection, fields=["authors"])
    assert len(rows) == sum(len(record.corrections) for record in RECORDS.values()) + len(LIBRARY.origin.corrections)  # type: ignore[union-attr]
    assert venues and {(row["field"], row["confidence"]) for row in venues} <= {("venue", "A"), ("venue", "B")}
    assert authors and all(row["field"].split(".")[0] == "authors" for row in authors)
    assert all(row["evidence"] and row["why"] for row in rows)


def test_counts(database: Database) -> None:
    with database.reading() as connection:
        training = {row["training"]: row["papers"] for row in query.count(connection, ["training"])}
        families = {row["family"]: row["papers"] for row in query.count(connection, ["family"])}
        both = query.count(connection, ["mechanism", "training"])
        with pytest.raises(BadQuery, match="did you mean `family`"):
            query.count(connection, ["famly"])
    assert sum(training.values()) == 59
    assert training["none"] == len(those(lambda record: record.tags.training == "none"))
    words = LIBRARY.vocabularies["mechanisms"]
    caching = those(lambda record: any(words[word].family == "cache" for word in record.tags.mechanisms))
    assert families["Cache"] == len(caching)
    assert [row["papers"] for row in both] == sorted((row["papers"] for row in both), reverse=True)


def test_one_paper_is_found_by_all_its_names(database: Database) -> None:
    with database.reading() as connection:
        for name in ("toca", "ToCa", "TOCA", "2410.05317"):
            assert query.find(connection, name) == "toca"
        for paper, record in RECORDS.items():
            for name in (record.id, record.abbreviation, *(alias.text for alias in record.aliases)):
                assert query.find(connection, name) == paper, name
        with pytest.raises(BadQuery, match="did you mean `toca`"):
            query.find(connection, "tocca")


def test_relations_go_both_ways(database: Database) -> None:
    with database.reading() as connection:
        there = query.related(connection, "toca", ["extends"])
        back = query.related(connection, "fora", ["extends"])
    assert {"type": "extends", "paper": "fora", "direction": "to"} in there
    assert {"type": "extends", "paper": "toca", "direction": "from"} in back


def test_claims_with_two_numbers_imply_a_ratio(database: Database) -> None:
    with database.reading() as connection:
        rows = {row["id"]: row for row in query.claims(connection, "toca")}
    assert len([row for row in rows.values() if not row["computed"]]) == len(RECORDS["toca"].claims)
    ratio = rows["opensora_latency_s_ratio"]
    assert (
        ratio["computed"] and ratio["metric"] == "speedup" and ratio["value"] == pytest.approx(81.18 / 43.08, abs=1e-4)
    )


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(autouse=True)
def own_database(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Commands of this module use one database of their own."""
    folder = tmp_path_factory.getbasetemp() / "query"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("CATALOG_DATABASE_URL", f"sqlite:///{folder / 'catalog.db'}")


QUESTIONS = [
    ("query", "papers"),
    ("query", "papers", "--mechanism", "cache,sampling", "--training", "none", "--sort", "-date", "--limit", "3"),
    ("query", "results"),
    ("query", "results", "--compare"),
    ("query", "claims", "--paper", "toca"),
    ("query", "links", "--kind", "code"),
    ("query", "corrections", "--field", "authors"),
    ("query", "count", "--by", "family", "--by", "training"),
    ("query", "view", "mechanism"),
    ("query", "specs"),
    ("query", "related", "toca"),
    ("query", "search", "tgate"),
    ("search", "delta dit"),
    ("sql", "select id, title from paper"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_every_answer_comes_in_three_forms(question: tuple[str, ...]) -> None:
    rows = json.loads(run(*question, "--format", "json"))
    table = run(*question)
    listed = list(csv.DictReader(io.StringIO(run(*question, "--format", "csv"))))
    assert isinstance(rows, list) and len(listed) == len(rows)
    if rows:
        assert list(listed[0]) == list(rows[0])
    else:
        assert "nothing found" in table


@pytest.mark.parametrize(
    ("text", "paper"),
    [("tgate", "t_gate"), ("delta dit", "delta_dit"), ("svdqunat", "svdquant"), ("matisan", "duodiff")],
)
def test_the_command_line_finds_what_the_list_misspells(text: str, paper: str) -> None:
    assert paper in {row["id"] for row in json.loads(run("search", text, "--format", "json"))}


def test_the_yaml_of_a_paper_is_its_file() -> None:
    assert run("show", "ToCa", "--format", "yaml") == (ROOT / "papers" / "toca.yaml").read_text(encoding="utf-8")
    shown = json.loads(run("show", "toca", "--format", "json"))
    assert shown["id"] == "toca" == yaml.safe_load(run("show", "toca", "--format", "yaml"))["id"]
    text = run("show", "toca")
    for part in ("Chang Zou", "ICLR 2025", "flops_speedup 2.36", "Corrected: venue was arXiv 2024"):
        assert part in text


def test_queries_start_without_the_engine(tmp_path: Path) -> None:
    code = (
        "import sys; from catalog.cli import app\n"
        "try: app(['query', 'papers', '--format', 'json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = {'torch', 'diffusers', 'transformers', 'numpy', 'engine', 'alembic'} & set(sys.modules)\n"
        "print(sorted(slow), file=sys.stderr)"
    )
    run("query", "papers")  # the database exists
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert len(json.loads(done.stdout)) == 59
