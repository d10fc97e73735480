"""The catalog as a database: SQLite by default, PostgreSQL through `CATALOG_DATABASE_URL`.

Catalogue tables are a copy of the YAML files. They are built on first use and again when a file changed, in one
transaction: whoever reads sees the old catalogue or the new one. Tables of runs stay; Alembic migrates them.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from catalog.errors import CatalogError
from catalog.files import ROOT
from catalog.tables import CATALOG, HEAD, META

if TYPE_CHECKING:
    from catalog.library import Library

URL_VARIABLE = "CATALOG_DATABASE_URL"
BUSY_SECONDS = 60
LOCK = 0x61676163  # key of PostgreSQL's advisory lock, so that two processes do not build at once
SOURCES = ("papers", "vocab", "views", "news", "seed", "snapshots", "measurements")


class DatabaseTrouble(CatalogError):
    """The database cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Database:
    """An engine whose catalogue tables are those of `root`."""

    engine: Engine
    root: Path

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection in a transaction that only reads."""
        with teaching(self.engine), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that holds the write lock from its start."""
        with teaching(self.engine), writing(self.engine) as connection:
            yield connection


def open_database(root: Path = ROOT, url: str | None = None, force: bool = False) -> Database:
    """The database of the catalog in `root`, migrated and up to date. Raises `InvalidRecords`, `DatabaseTrouble`."""
    engine = create_engine(url or os.environ.get(URL_VARIABLE) or default_url(root))
    database = Database(engine, root)
    with teaching(engine):
        refresh(database, force)
    return database


def default_url(root: Path) -> str:
    """SQLite beside the project if `root` is in a checkout, else in the user's data folder."""
    if root == ROOT and not (root.parent / "pyproject.toml").is_file():
        import platformdirs

        folder = Path(platformdirs.user_data_dir("awesome-generation-acceleration"))
    else:
        folder = root.parent / "build"
    return f"sqlite:///{folder / 'catalog.db'}"


def create_engine(url: str) -> Engine:
    """An engine that begins transactions when told to, with foreign keys and, on SQLite, the write-ahead log."""
    try:
        address = sa.make_url(url.replace("postgres://", "postgresql://", 1))
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        if address.get_backend_name() not in ("sqlite", "postgresql"):
            raise DatabaseTrouble(f"{URL_VARIABLE} names {address.drivername}: use sqlite:/// or postgresql://")
        engine = sa.create_engine(address, poolclass=sa.NullPool)  # one command, one connection
    except (SQLAlchemyError, ImportError) as error:
        raise DatabaseTrouble(f"{URL_VARIABLE} is no database address: {error}") from None
    if engine.dialect.name == "sqlite":
        if address.database and address.database != ":memory:":
            folder = Path(address.database).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DatabaseTrouble(f"the folder {folder} cannot be made: {error.strerror}") from None
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_sqlite)
    return engine


def prepare_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    """Settings of every SQLite connection. The driver must not begin transactions by its own rules."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys = ON")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once, so that they wait instead of failing half-way."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the write lock from its start; rolled back if the block fails."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": LOCK})
        yield connection


@contextmanager
def teaching(engine: Engine) -> Iterator[None]:
    """Database errors as sentences that say which database and what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        where = engine.url.render_as_string(hide_password=True)
        raise DatabaseTrouble(
            f"the database {where} failed: {cause}\n    -> check {URL_VARIABLE}; catalogue tables can be rebuilt"
            " with `catalog build db`"
        ) from error


def refresh(database: Database, force: bool = False) -> bool:
    """Migrate the tables of runs and rebuild the catalogue if a file changed (or `force`); True if it was rebuilt."""
    stamp = stat_stamp(database.root)
    with database.engine.connect() as connection:
        state = read_meta(connection)
    if not force and state.get("stat") == stamp and state.get("revision") == HEAD:
        return False
    digest = content_digest(database.root)
    if not force and state.get("content") == digest and state.get("revision") == HEAD:
        with writing(database.engine) as connection:
            connection.execute(sa.update(META).where(META.c.key == "stat").values(value=stamp))
        return False
    with no_collector():
        return replaced(database, stamp, digest, force)


def replaced(database: Database, stamp: str, digest: str, force: bool) -> bool:
    """Read the files and rebuild; False if another process did so while this one waited for the lock."""
    from catalog.library import load_library  # not needed, and slow to import, while nothing changes

    library = load_library(database.root)
    with writing(database.engine) as connection:
        if not force and read_meta(connection).get("content") == digest:
            return False
        rebuild(connection, library, {"stat": stamp, "content": digest, "revision": HEAD})
    return True


def rebuild(connection: Connection, library: Library, meta: dict[str, str]) -> None:
    """Replace the catalogue inside the current transaction."""
    from catalog import build, migrate, results

    build.drop_views(connection)
    migrate.upgrade(connection)
    CATALOG.drop_all(connection)
    CATALOG.create_all(connection)
    build.fill(connection, library)
    build.fill_search(connection)
    results.sync_published(connection, library.root)
    build.create_views(connection)
    connection.execute(sa.insert(META), [{"key": key, "value": value} for key, value in meta.items()])


@contextmanager
def no_collector() -> Iterator[None]:
    """Without the search for cyclic garbage, which reads thousands of records again and again as they pile up."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_meta(connection: Connection) -> dict[str, str]:
    """What the catalogue was built from; empty for an empty database."""
    if not sa.inspect(connection).has_table(META.name):
        return {}
    return {key: value for key, value in connection.execute(sa.select(META.c.key, META.c.value))}


def source_files(root: Path) -> list[Path]:
    """All files the catalogue is made from: its YAML and JSON, and the code that reads them."""
    data = [file for name in SOURCES for file in (root / name).glob("**/*") if file.suffix in (".yaml", ".json")]
    return sorted(data) + sorted(Path(__file__).parent.glob("*.py"))


def stat_stamp(root: Path) -> str:
    """Changes when a file was written, added, removed; quick."""
    stamp = hashlib.sha256(str(root.resolve()).encode())
    entries = [entry for name in SOURCES for entry in walk(root / name)]
    entries += [entry for entry in os.scandir(Path(__file__).parent) if entry.name.endswith(".py")]
    for entry in sorted(entries, key=lambda entry: entry.path):
        state = entry.stat()
        stamp.update(f"{entry.path}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return stamp.hexdigest()


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Data files below a folder."""
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from walk(Path(entry.path))
        elif entry.name.endswith((".yaml", ".json")):
            yield entry


def content_digest(root: Path) -> str:
    """Changes when what a file says changes; the same in every checkout."""
    digest = hashlib.sha256()
    for file in source_files(root):
        content = file.read_bytes()
        name = file.relative_to(root if file.is_relative_to(root) else file.parent)
        digest.update(f"{name}|{len(content)}\n".encode() + content)
    return digest.hexdigest()
