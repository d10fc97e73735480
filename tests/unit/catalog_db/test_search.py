"""Search: the same ids from SQLite, PostgreSQL and a plain scan, for names, accents, dashes, Greek and misspellings."""

from __future__ import annotations

import pytest

from catalog.database import Database
from catalog.library import load_library
from catalog.names import search_words, tokens
from catalog.query import records
from catalog.search import ids_by_index, ids_by_scan, mended, query_words, search, text_of

LIBRARY = load_library()
TEXTS = {paper: text_of(record, LIBRARY.vocabularies) for paper, record in LIBRARY.records.items()}
# Query -> ids that must be found; `+` after them: others may be found too.
QUERIES: dict[str, str] = {
    "tgate": "t_gate t_gate_v2",
    "T-GATE": "t_gate t_gate_v2 +",
    "t gate v2": "t_gate_v2 +",
    "delta dit": "delta_dit +",
    "Δ-DiT": "delta_dit +",
    "∆-DiT": "delta_dit +",
    "deltadit": "delta_dit",
    "svdqunat": "svdquant",
    "SVDQuant": "svdquant",
    "sdvquant": "svdquant",
    "matisan": "duodiff",
    "Matişan": "duodiff",
    "dpm-solver++": "dpm_solver_pp +",
    "dpm solver": "dpm_solver dpm_solver_pp +",
    "2410.05317": "toca",
    "2404.02747": "t_gate t_gate_v2",
    "toca": "toca +",
    "F³-Pruning": "f3_pruning +",
    "f3 pruning": "f3_pruning +",
    "prunning": "laptop_diff +",
    "Cache_Mechanism": "deepcache toca fora +",
    "token merging stable diffusion": "tomesd +",
    "linfeng zhang": "toca o2mkd +",
    "schmidhuber": "t_gate t_gate_v2",
    "jurgen": "t_gate t_gate_v2",
    "Jürgen Schmidhuber": "t_gate t_gate_v2",
    "song han": "distrifusion svdquant +",
    "hadzi": "duodiff",
    "openreview": "",
    "1jWhiakK7N": "md_dit",
    "iclr 2025": "toca +",
    "neurips": "dip_go asyncdiff +",
    "pixart quantization": "svdquant +",
    "qdit": "q_dit",
    "q-dit": "q_dit +",
    "learning to cache": "l2c +",
    "skip branches": "skip_dit +",
    "animatediff": "asyncdiff +",
    "ca2vdm": "ca2_vdm",
    "tmoesd": "tomesd +",
    "zzzzqqqq": "",
    "lumina mgpt": "sjd",
}


def expected(text: str, found: list[str]) -> None:
    wanted = text.split()
    more = "+" in wanted
    wanted = [paper for paper in wanted if paper != "+"]
    assert set(wanted) <= set(found), found
    assert more or sorted(wanted) == found


def test_there_are_forty_queries() -> None:
    assert len(QUERIES) >= 40


@pytest.mark.parametrize("query", QUERIES)
def test_a_scan_finds_what_a_reader_means(query: str) -> None:
    words = mended(query_words(query), {word for text in TEXTS.values() for word in text.split()})
    expected(QUERIES[query], ids_by_scan(TEXTS, words))


def test_the_databases_find_the_same(database: Database) -> None:
    """One test for all queries: each database is built once."""
    known = {word for text in TEXTS.values() for word in text.split()}
    with database.reading() as connection:
        assert set(records(connection)) == TEXTS.keys()
        for query in QUERIES:
            words = mended(query_words(query), known)
            scanned = ids_by_scan(TEXTS, words)
            assert ids_by_index(connection, words) == scanned, query
            ids, meant = search(connection, query)
            assert (sorted(ids), meant) == (scanned, words), query


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("toca", "toca"),
        ("q-dit", "q_dit"),
        ("dpm-solver++", "dpm_solver_pp"),
        ("fora", "fora"),
        ("dit", None),
        ("T-GATE", "t_gate"),
        ("faster diffusion", None),
    ],
)
def test_names_come_first(sqlite_catalog: Database, query: str, first: str | None) -> None:
    with sqlite_catalog.reading() as connection:
        ids, _ = search(connection, query)
    assert ids
    if first is not None:
        assert ids[0] == first


SIGNS = ['"', "' OR 1=1 --", "*", "a*", "NEAR(a b)", "toca:*", "& | !", "\\", "%", "_", "(", "-toca", "\0", "a' & 'b"]


def test_signs_of_query_languages_mean_nothing(database: Database) -> None:
    known = {word for text in TEXTS.values() for word in text.split()}
    with database.reading() as connection:
        for query in SIGNS:
            ids, _ = search(connection, query)
            assert sorted(ids) == ids_by_scan(TEXTS, mended(query_words(query), known)), query


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("T-GATE", ["t", "gate", "tgate"]),
        ("Δ-DiT", ["delta", "dit", "deltadit"]),
        ("∆", ["delta"]),
        ("DPM-Solver++", ["dpm", "solverpp", "dpmsolverpp", "solver"]),
        ("F³-Pruning", ["f3", "pruning", "f3pruning"]),
        ("Matişan", ["matisan"]),
        ("PixArt-\N{GREEK SMALL LETTER ALPHA}", ["pixart", "alpha", "pixartalpha"]),
        ("2410.05317", ["2410", "05317", "241005317"]),
        ("snake_case", ["snake", "case", "snakecase"]),
        ("", []),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]) -> None:
    assert list(search_words(text)) == words


def test_tokens_are_letters_and_digits_only() -> None:
    assert tokens("a'b\"c; drop--table|&!:*()\\%x") == ["a", "b", "c", "drop", "table", "x"]
