"""Any SQL that only reads: one statement, on a connection that cannot write."""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from catalog.database import Database
from catalog.query import BadQuery, Row

READS = ("select", "with", "values", "explain")
COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def ask(database: Database, statement: str, values: Mapping[str, str]) -> list[Row]:
    """Rows of one reading statement; `:name` stands for a value. Raises `BadQuery` for anything else, and mistakes."""
    bare = COMMENTS.sub(" ", statement).strip().casefold()
    if not re.match(rf"({'|'.join(READS)})\b", bare):
        raise BadQuery("only statements that read are allowed\n    -> begin with `select`, `with` or `values`")
    with database.engine.connect() as connection:
        postgres = connection.dialect.name == "postgresql"
        try:
            return (
                from_postgres(connection, statement, values) if postgres else from_sqlite(connection, statement, values)
            )
        except (SQLAlchemyError, psycopg.Error) as error:
            cause = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            tables = "information_schema.tables" if postgres else "sqlite_master"
            raise BadQuery(
                f'the statement failed: {cause}\n    -> tables: catalog sql "select * from {tables}"'
            ) from None


def from_sqlite(connection: Connection, statement: str, values: Mapping[str, str]) -> list[Row]:
    """SQLite runs one statement at a time, and refuses to write while `query_only` is set."""
    connection.exec_driver_sql("PRAGMA query_only = ON")
    return [dict(row) for row in connection.execute(sa.text(statement), values).mappings()]


def from_postgres(connection: Connection, statement: str, values: Mapping[str, str]) -> list[Row]:
    """A read-only transaction. A prepared statement is one command: nothing can hide behind a semicolon."""
    connection.exec_driver_sql("set transaction read only")
    compiled = str(sa.text(statement).compile(connection))
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor:
        cursor.execute(compiled.encode(), dict(values), prepare=True)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
