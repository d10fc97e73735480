"""`catalog sql`: any question, on both databases, and no way to change anything."""

from __future__ import annotations

import pytest

from catalog.database import Database
from catalog.query import BadQuery
from catalog.readonly import ask

FORBIDDEN = [
    "delete from paper",
    "update paper set title = 'x'",
    "insert into meta values ('a', 'b')",
    "drop table paper",
    "create table t (x integer)",
    "pragma query_only = off",
    "attach database '/tmp/other.db' as other",
    "vacuum into '/tmp/copy.db'",
    "set transaction read write",
    "",
    "-- nothing",
    "/* select */ delete from paper",
    "selection",
    "select 1; delete from paper",
    "select 1; select 2",
    "with gone as (delete from measurement returning *) select * from gone",
    "explain analyze delete from measurement",
    "select * from no_such_table",
    "select 'unfinished",
    "select :missing",
]


def papers(database: Database) -> int:
    return int(ask(database, "select count(*) as papers from paper", {})[0]["papers"])


def test_questions_are_answered(database: Database) -> None:
    rows = ask(database, "select id, title from paper where training = :training order by id", {"training": "search"})
    assert rows and rows[0].keys() == {"id", "title"}
    assert ask(database, "with x as (select 1 as one) select * from x", {}) == [{"one": 1}]
    assert ask(database, "-- a remark\nselect 2 as two;", {}) == [{"two": 2}]
    assert ask(database, "select id from paper where id = 'nobody'", {}) == []
    assert (
        ask(database, "select count(*) as n from claim where value > 1.5 and metric like '%speedup'", {})[0]["n"] > 10
    )


def test_values_are_never_part_of_the_statement(database: Database) -> None:
    hostile = "x' or '1'='1"
    assert ask(database, "select id from paper where id = :id", {"id": hostile}) == []


def test_nothing_can_be_changed(database: Database) -> None:
    for statement in FORBIDDEN:
        with pytest.raises(BadQuery, match="->"):
            ask(database, statement, {})
    assert papers(database) == 59
