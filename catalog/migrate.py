"""Migrating the tables of runs. The scripts are in catalog/migrations; the connection is the caller's transaction."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from catalog.tables import HEAD

SCRIPTS = Path(__file__).parent / "migrations"
VERSIONS = "catalog_migration"  # Alembic's table


def upgrade(connection: Connection, to: str = "head") -> None:
    """Bring the tables of runs to a revision; nothing is done if they are there."""
    if to in ("head", HEAD) and revision(connection) == HEAD:
        return
    command.upgrade(_config(connection), to)


def downgrade(connection: Connection, to: str) -> None:
    """Bring the tables of runs back to an older revision; `base` removes them."""
    command.downgrade(_config(connection), to)


def revision(connection: Connection) -> str | None:
    """Revision of the tables of runs; None if there are none."""
    if not sa.inspect(connection).has_table(VERSIONS):
        return None
    found: str | None = connection.execute(sa.text(f"select version_num from {VERSIONS}")).scalar()
    return found


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
