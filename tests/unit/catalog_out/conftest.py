"""The shipped catalog, read once, and records whose fields hold what a test wants."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from catalog.database import URL_VARIABLE, open_database
from catalog.library import ROOT, Library, load_library
from catalog.schema import Record


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library()


@pytest.fixture
def record(library: Library) -> Callable[..., Record]:
    """ToCa's record with other values."""

    def changed(**fields: Any) -> Record:
        data = library.records["toca"].model_dump(by_alias=True) | {"corrections": [], "seed": None} | fields
        return Record.model_validate(data, context=library)

    return changed


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a database of the shipped catalog, built once."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db') / 'catalog.db'}"
    open_database(ROOT, url).engine.dispose()
    return url


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Environment in which commands use that database, set for this process too."""
    monkeypatch.setenv(URL_VARIABLE, database_url)
    for name in ("COLUMNS", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    return dict(os.environ)
