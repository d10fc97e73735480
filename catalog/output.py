"""Rows on the screen: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]
# A spreadsheet takes cells that begin so for formulas; the last four are the full-width forms of the first.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")  # left by `json.dumps`
PIPE_WIDTH = 10_000  # columns where there is no terminal: programs want whole lines
STOPPED = 141  # exit status of a command whose reader stopped, as shells have it


class Format(StrEnum):
    """Forms of an answer."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def show(rows: Sequence[Row], form: Format, columns: Mapping[str, str]) -> None:
    """Print rows. Tables show `columns` (key -> heading); JSON and CSV everything."""
    if form is Format.JSON:
        put(json_lines(rows) + "\n")
    elif form is Format.CSV:
        put(as_csv(rows, columns))
    else:
        put(table(rows, columns))


def put(text: str) -> None:
    """Write to standard output. A reader that stops reading, such as `head`, ends the program in silence."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        raise SystemExit(STOPPED) from None


def json_lines(rows: Sequence[Row]) -> str:
    """A JSON list with one object a line: quick to write, and to look at with `grep`."""
    return "[\n" + ",\n".join(as_json(row, indent=None) for row in rows) + "\n]" if rows else "[]"


def as_json(data: Any, indent: int | None = 2) -> str:
    """JSON in plain Unicode. Signs that would command a terminal are escaped; NaN and infinity are null."""
    try:
        text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(finite(data), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return UNSAFE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def finite(data: Any) -> Any:
    """`data` with None for numbers that JSON does not have."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_csv(rows: Sequence[Row], columns: Iterable[str] = ()) -> str:
    """Comma-separated values with a heading; `columns` are the heading if there are no rows."""
    out = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row)) if rows else list(columns)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([harmless(key) for key in keys])
    writer.writerows([harmless(row.get(key)) for key in keys] for row in rows)
    return out.getvalue() if keys else ""


def harmless(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not compute. Lists have `; ` between their values."""
    if isinstance(value, (list, tuple)):
        value = "; ".join(as_json(item) if isinstance(item, dict) else str(item) for item in value)
    elif isinstance(value, dict):
        value = json.dumps(finite(value), ensure_ascii=False, default=str)
    if not isinstance(value, str):
        return value
    text = visible(value)
    return "'" + text if text.lstrip().startswith(FORMULA) else text


def words(value: Any) -> str:
    """A value for people: vocabulary words without underscores, lists with commas, numbers without noise."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={words(item)}" for key, item in value.items())
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A table of the given columns. Cells are plain text: brackets are no markup, and control signs are shown."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "nothing found\n"
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for key, heading in columns.items():
        number = any(isinstance(row.get(key), (int, float)) and not isinstance(row.get(key), bool) for row in rows)
        drawn.add_column(Text(visible(heading)), overflow="fold", justify="right" if number else "left")
    for row in rows:
        drawn.add_row(*(Text(visible(words(row.get(key)))) for key in columns))
    whole = not (sys.stdout.isatty() or os.environ.get("COLUMNS"))
    console = Console(width=PIPE_WIDTH if whole else None)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def visible(text: str) -> str:
    """Text without signs that would command the terminal."""
    return text if text.isprintable() else "".join(map(shown, text))


def shown(sign: str) -> str:
    """The sign itself, or its escape if it is a command. Spaces of all widths and line ends are harmless."""
    plain = sign == "\n" or sign.isprintable() or unicodedata.category(sign) == "Zs"
    return sign if plain else repr(sign)[1:-1]
