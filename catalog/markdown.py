"""Text as Markdown that says just this text, and tables with aligned pipes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from rich.cells import cell_len

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
ENTITY = re.compile(r"&(?=#?\w+;)")
LINE_START = re.compile(r"^(\d+)([.)])|^([-+=])")


def md(text: str) -> str:
    """`text` as Markdown without meaning: no emphasis, links, HTML, entities, lists; on one line."""
    one_line = " ".join(text.split())
    escaped = ENTITY.sub("&amp;", SPECIAL.sub(r"\\\1", one_line))
    return LINE_START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}", escaped)


def md_url(address: str) -> str:
    """An address that stays inside the brackets of a link."""
    return quote(address, safe=":/?#@!$&'*+,;=%~-._")


def cell_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose pipes stand under each other; cells are Markdown already."""
    widths = [max(3, *(cell_len(row[column]) for row in (heads, *rows))) for column in range(len(heads))]
    lines = [line(heads, widths), "| " + " | ".join("-" * width for width in widths) + " |"]
    return "\n".join([*lines, *(line(row, widths) for row in rows)])


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One row, padded."""
    return (
        "| "
        + " | ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        + " |"
    )
