"""The database: built on first use, rebuilt when files change, whole at any moment, with its runs kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import ROOT as PROJECT

from catalog import migrate, results
from catalog.database import (
    Database,
    DatabaseTrouble,
    create_engine,
    default_url,
    open_database,
    read_meta,
    refresh,
    writing,
)
from catalog.files import ROOT
from catalog.query import PaperFilter, papers
from catalog.record import InvalidRecords
from catalog.tables import CATALOG, HEAD, RUN, RUNS

RECORD = """\
schema: 1
id: {id}
title: "Paper {number}: about things"
abbreviation: Method-{number}
authors:
  - {{given: Ada, family: Lovelace}}
identifiers: {{arxiv: "2407.{number:05d}"}}
publications:
  - {{venue: arxiv, year: 2024, month: 7, kind: preprint, primary: true}}
links:
  - {{kind: paper, url: "https://arxiv.org/abs/2407.{number:05d}"}}
tags:
  applications: [text_to_image]
  mechanisms: [feature_caching]
  training: none
"""


def write_catalog(root: Path, count: int, word: str = "things") -> None:
    """A catalog of `count` records with unlike titles."""
    (root / "papers").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = RECORD.format(id=f"paper_{number}", number=number)
        title = f"{hashlib.sha256(str(number).encode()).hexdigest()[:24]} {word}"
        (root / "papers" / f"paper_{number}.yaml").write_text(text.replace(f"Paper {number}: about things", title))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The folder of a small catalog."""
    root = tmp_path / "project" / "catalog"
    write_catalog(root, 6)
    return root


def titles(database: Database) -> set[str]:
    with database.reading() as connection:
        return {row["title"].rpartition(" ")[2] for row in papers(connection, PaperFilter())}


def test_it_holds_every_table_and_row(database: Database) -> None:
    with database.reading() as connection:
        names = set(sa.inspect(connection).get_table_names())
        assert {*CATALOG.tables, *RUNS.tables, migrate.VERSIONS} <= names
        count = connection.execute(sa.text("select count(*) from paper")).scalar()
        assert count == 59
        assert connection.execute(sa.text("select count(*) from placement")).scalar() == 79
        assert connection.execute(sa.text("select count(distinct paper_id) from placement")).scalar() == 59
        primary = "select count(*) from publication where is_primary"
        assert connection.execute(sa.text(primary)).scalar() == 59


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(DatabaseTrouble), database.writing() as connection:
        connection.execute(sa.text("insert into relation values ('toca', 'extends', 'nobody')"))


def test_it_is_rebuilt_when_a_record_changes_and_only_then(small: Path, url: str) -> None:
    first = open_database(small, url)
    assert titles(first) == {"things"}
    assert not refresh(first), "nothing changed"
    write_catalog(small, 7, "others")
    assert titles(open_database(small, url)) == {"others"}
    (small / "papers" / "paper_3.yaml").unlink()
    second = open_database(small, url)
    with second.reading() as connection:
        assert len(papers(connection, PaperFilter())) == 6


def test_a_touched_file_is_no_change(small: Path, url: str) -> None:
    database = open_database(small, url)
    os.utime(small / "papers" / "paper_1.yaml")
    assert not refresh(database)
    assert refresh(database, force=True)


def test_invalid_records_leave_the_database_as_it_was(small: Path, url: str) -> None:
    database = open_database(small, url)
    file = small / "papers" / "paper_2.yaml"
    good = file.read_text()
    file.write_text(good.replace("feature_caching", "feature_cashing"))
    with pytest.raises(InvalidRecords, match="did you mean `feature_caching`"):
        open_database(small, url)
    with database.reading() as connection:
        assert len(papers(connection, PaperFilter())) == 6
    file.write_text(good)
    assert not refresh(database)


def test_a_failing_rebuild_is_rolled_back(small: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(small, url)
    write_catalog(small, 3, "others")

    def fail(connection: sa.Connection) -> None:
        raise RuntimeError("the lights went out")

    monkeypatch.setattr("catalog.build.create_views", fail)
    with pytest.raises(RuntimeError, match="lights"):
        refresh(database)
    monkeypatch.undo()
    assert titles(database) == {"things"}


def test_runs_survive_a_rebuild(small: Path, url: str, report: results.Report) -> None:
    database = open_database(small, url)
    with database.writing() as connection:
        assert results.add(connection, report)
    write_catalog(small, 6, "others")
    assert titles(open_database(small, url)) == {"others"}
    with database.reading() as connection:
        assert connection.execute(sa.select(RUN.c.id)).scalars().all() == [results.run_id(report)]


def test_sqlite_has_the_write_ahead_log_and_foreign_keys(sqlite_catalog: Database) -> None:
    with sqlite_catalog.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_migrations_go_up_down_and_up(engine: sa.Engine) -> None:
    with writing(engine) as connection:
        assert migrate.revision(connection) is None
        migrate.upgrade(connection)
        assert migrate.revision(connection) == HEAD
        assert set(RUNS.tables) <= set(sa.inspect(connection).get_table_names())
    with writing(engine) as connection:
        migrate.downgrade(connection, "base")
        assert not set(RUNS.tables) & set(sa.inspect(connection).get_table_names())
    with writing(engine) as connection:
        migrate.upgrade(connection)
        migrate.upgrade(connection)
        assert migrate.revision(connection) == HEAD


def test_migrations_make_just_the_tables_of_the_models(engine: sa.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with writing(engine) as connection:
        migrate.upgrade(connection)
        options = {"version_table": migrate.VERSIONS, "compare_type": False}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), RUNS) == []


def test_a_migration_that_fails_is_rolled_back(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no index today")

    monkeypatch.setattr(op, "create_index", fail)
    with pytest.raises(RuntimeError, match="no index"), writing(engine) as connection:
        migrate.upgrade(connection)
    with engine.connect() as connection:
        assert not set(RUNS.tables) & set(sa.inspect(connection).get_table_names())


@pytest.mark.parametrize("address", ["mysql://x/y", "nonsense", "sqlite:////proc/nowhere/catalog.db"])
def test_a_bad_address_is_explained(address: str) -> None:
    with pytest.raises(DatabaseTrouble, match=r"CATALOG_DATABASE_URL|cannot be made"):
        open_database(ROOT, address)


def test_a_server_that_is_not_there_is_explained(small: Path) -> None:
    with pytest.raises(DatabaseTrouble, match="failed") as caught:
        open_database(small, "postgresql://someone:secret@/nothing?host=/tmp/no_such_folder")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_not_touched(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, which are longer than a header of one hundred bytes " * 3)
    before = file.read_bytes()
    with pytest.raises(DatabaseTrouble, match="not a database"):
        open_database(small, f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_the_default_is_a_file_beside_the_project(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CATALOG_DATABASE_URL", raising=False)
    assert default_url(small) == f"sqlite:///{small.parent / 'build' / 'catalog.db'}"
    database = open_database(small)
    assert Path(str(database.engine.url.database)).is_file()


KILLS = 8  # at evenly spread moments of a rebuild
BUILD = """
import sys
from pathlib import Path
from catalog import database, library
root, url = Path(sys.argv[1]), sys.argv[2]
found = library.load_library(root)
opened = database.Database(database.create_engine(url), root)
library.load_library = lambda _: found
print("ready", flush=True)
sys.stdin.readline()
database.refresh(opened, force=True)
print("done", flush=True)
"""


def start_build(root: Path, url: str) -> subprocess.Popen[str]:
    """A process that waits just before it rebuilds the database."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root), url],
        cwd=PROJECT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_kill_9_leaves_the_old_database_or_the_new_one(tmp_path: Path) -> None:
    root = tmp_path / "project" / "catalog"
    write_catalog(root, 120, "word0")
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    open_database(root, url).engine.dispose()
    with start_build(root, url) as process:
        start = time.perf_counter()
        go(process)
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        whole = time.perf_counter() - start
    killed, current = 0, "word0"
    for attempt in range(KILLS):
        word = f"word{attempt + 1}"
        write_catalog(root, 120, word)
        with start_build(root, url) as process:
            go(process)
            time.sleep(whole * (attempt + 0.5) / KILLS)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        connection = sqlite3.connect(tmp_path / "catalog.db")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        found = {title.rpartition(" ")[2] for (title,) in connection.execute("select title from paper")}
        counts = {
            connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("paper", "link", "paper_search")
        }
        connection.close()
        assert counts == {120}
        assert found in ({current}, {word}), "neither the old catalogue nor the new one"
        current = found.pop()
    assert killed >= KILLS // 2, "too few builds were killed before their end: the test shows nothing"
    assert titles(open_database(root, url)) == {word}


def test_ten_processes_add_a_run_each_to_a_database_that_is_not_yet_there(
    small: Path, url: str, report: results.Report, tmp_path: Path
) -> None:
    files = []
    for number in range(10):
        file = tmp_path / f"report{number}.json"
        file.write_text(json.dumps(results.kept(report.model_copy(update={"seed": number}))))
        files.append(file)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "catalog.cli", "add-run", str(file), "--catalog", str(small)],
            cwd=PROJECT,
            env=os.environ | {"CATALOG_DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for file in files
    ]
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        assert "added" in out
    with open_database(small, url).reading() as connection:
        assert sorted(connection.execute(sa.select(RUN.c.seed)).scalars()) == list(range(10))
        assert read_meta(connection)["revision"] == HEAD


def test_a_copy_of_the_project_answers_alike(tmp_path: Path, sqlite_catalog: Database) -> None:
    """The digest of the files does not depend on where they lie."""
    from catalog.database import content_digest, stat_stamp

    for name in ("papers", "vocab", "views", "news", "seed", "snapshots", "measurements"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "catalog" / name)
    assert content_digest(tmp_path / "catalog") == content_digest(ROOT)
    assert stat_stamp(tmp_path / "catalog") != stat_stamp(ROOT)


def test_writers_wait_for_each_other(small: Path, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    with writing(engine) as connection:
        connection.execute(sa.text("create table t (x integer)"))
    with writing(engine) as connection:
        connection.execute(sa.text("insert into t values (1)"))
        other = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
        with other.connect() as reader:  # readers are never kept waiting, and do not see what is not finished
            assert reader.execute(sa.text("select count(*) from t")).scalar() == 0
