"""Text as Markdown that says just this text, and tables with aligned pipes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from rich.cells import cell_len

from catalog.output import visible

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
ENTITY = re.compile(r"&(?=#?\w+;)")
ADDRESS = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)  # GitHub makes links of bare addresses
LINE_START = re.compile(r"^(\d+)([.)])|^([-+=])")


def flat(text: str) -> str:
    """`text` on one line, without signs that nobody sees."""
    return visible(" ".join(text.split()))


def md(text: str) -> str:
    """`text` as Markdown without meaning: no emphasis, links, HTML, entities, lists; on one line."""
    escaped = ENTITY.sub("&amp;", SPECIAL.sub(r"\\\1", flat(text)))
    escaped = ADDRESS.sub(r"\\\g<0>", escaped)
    return LINE_START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}", escaped)


def code(text: str) -> str:
    """`text` as code, also inside a table."""
    one_line = flat(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", one_line)), default=0))
    space = " " if "`" in one_line else ""
    return f"{fence}{space}{one_line}{space}{fence}"


def md_url(address: str) -> str:
    """An address that stays inside the brackets of a link."""
    return ENTITY.sub("&amp;", quote(address, safe=":/?#@!$&'*+,;=%~-._"))


def slug(title: str, taken: Counter[str]) -> str:
    """GitHub's anchor of a heading; `taken` counts those above it, since equal ones are numbered."""
    plain = re.sub(r"[^\w\- ]", "", flat(title).lower()).replace(" ", "-")
    taken[plain] += 1
    return plain if taken[plain] == 1 else f"{plain}-{taken[plain] - 1}"


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
