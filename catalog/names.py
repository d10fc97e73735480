"""Names as people write them: which of them are the same, and which known one was meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

IGNORED = "-_ \N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}"


def fold(text: str) -> str:
    """`text` as names are compared: without case, dashes, underscores and spaces."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter not in IGNORED)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known word, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return "use one of: " + ", ".join(f"`{name}`" for name in names) if names else "remove it"
