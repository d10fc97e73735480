"""Databases for the tests: SQLite in a temporary folder, and a PostgreSQL server started for the session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from catalog.database import Database, create_engine, open_database
from catalog.files import ROOT
from catalog.results import Report


def binaries() -> Path | None:
    """Folder of PostgreSQL's programs, newest first; Debian keeps them out of the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    on_path = shutil.which("initdb")
    return next(
        (folder for folder in found if (folder / "initdb").is_file()), Path(on_path).parent if on_path else None
    )


def as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root: then it runs as the user that the package made."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a throw-away server on a socket, without its database name."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path may have about 100 letters
    folder.chmod(0o777)
    data, run = folder / "data", as_postgres()

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run([*run, str(programs / program), *arguments], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call("initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"
        call("pg_ctl", "-D", str(data), "-o", settings, "-l", str(folder / "log"), "-w", "-t", "60", "start")
        yield f"postgresql://postgres@/{{}}?host={folder}"
        call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of an empty database, dropped after the test."""
    name = f"t{abs(hash(request.node.nodeid))}"
    admin = sa.create_engine(postgres_server.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"create database {name}"))
        yield postgres_server.format(name)
        connection.execute(sa.text(f"drop database {name} with (force)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The project's own catalog in a database of each kind."""
    opened = open_database(ROOT, url)
    yield opened
    opened.engine.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """An engine on an empty database of each kind."""
    made = create_engine(url)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def sqlite_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The project's own catalog in SQLite, shared by the tests of a module that only read."""
    opened = open_database(ROOT, f"sqlite:///{tmp_path_factory.mktemp('db') / 'catalog.db'}")
    yield opened
    opened.engine.dispose()


@pytest.fixture
def report() -> Report:
    """A report as the engine writes it."""
    return Report.model_validate(REPORT)


REPORT: dict[str, Any] = {
    "spec": "toca_opensora.yaml",
    "spec_hash": "c7a1a5a6f28996e5",
    "plan_hash": "b5e6bb1d2dba9a5c",
    "profile": "embedded",
    "paper": "toca",
    "backbone": "opensora",
    "weights": "embedded",
    "dtype": "float32",
    "techniques": {"toca": {"interval": 3}},
    "sampler": {"rflow": {"steps": 30}},
    "inputs": {"prompts": ["a red apple", "a taxi"], "num_frames": 17, "height": 64, "width": 64},
    "seed": 0,
    "accelerated": {"seconds": 1.0, "all_seconds": [1.0, 0.9, 1.1], "peak_bytes": 100, "judge": {"object_seen": 0.5}},
    "baseline": {"seconds": 2.0, "all_seconds": [2.0, 2.1, 1.9], "peak_bytes": 90, "judge": {"object_seen": 0.75}},
    "environment": {"processor": "AMD EPYC", "device": "cpu", "cores": 2, "python": "3.11"},
    "macs_ratio": 2.3416,
    "speedup": 2.0,
    "realised_fraction": 0.854,
    "psnr": 38.1,
    "ssim": 0.997,
}
