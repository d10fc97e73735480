"""Names as people write them: which of them are the same, which known one was meant, and which words find a text."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

IGNORED = "-_ \N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}"
LETTERS = {
    "\N{INCREMENT}": "delta",  # the mathematical sign that often stands for the letter
    "\N{LATIN SMALL LETTER DOTLESS I}": "i",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
}
ARXIV = re.compile(
    r"arxiv\.org/(?:abs|pdf|html)/(?P<number>\d{4}\.\d{4,5})(?P<version>v\d+)?", re.IGNORECASE
)  # an address of a paper, whichever of its pages
MOST = 50  # known words that are listed where none is close
PLUS = re.compile(r"\++")
PARTS = re.compile(r"[^\W_]+")


def fold(text: str) -> str:
    """`text` as names are compared: without case, dashes, underscores and spaces."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter not in IGNORED)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known word, in whatever case and with whatever dashes, or lists all of them."""
    names = sorted(known)
    spelled = {fold(name): name for name in names}
    if close := closest(word, spelled):
        return f"did you mean `{spelled[close]}`?"
    if not names:
        return "remove it"
    shown = ", ".join(f"`{name}`" for name in names[:MOST])
    return f"use one of: {shown}" + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def closest(word: str, folded: Iterable[str]) -> str | None:
    """The folded spelling that is most like `word`, if one is like it at all."""
    return next(iter(difflib.get_close_matches(fold(word), folded, n=1, cutoff=0.5)), None)


def tokens(text: str) -> list[str]:
    """Words of a text as a search compares them: lower case, no accents, Greek letters by name, `++` as `pp`."""
    return PARTS.findall(latin(text))


@lru_cache(maxsize=2**16)  # labels of vocabularies come back in every record
def search_words(text: str) -> tuple[str, ...]:
    """All forms under which the words of a text are found, split at dashes and joined: `T-GATE` is t, gate, tgate."""
    words: list[str] = []
    for chunk in text.split():
        parts = tokens(chunk)
        words += [*parts, "".join(parts)]
        if "+" in chunk:
            words += tokens(chunk.replace("+", " "))
    return tuple(dict.fromkeys(word for word in words if word))


def latin(text: str) -> str:
    """`text` in lower-case letters without accents, with Greek letters spelled out and `++` as `pp`."""
    if text.isascii():
        return PLUS.sub(lambda signs: "p" * len(signs[0]), text.casefold())
    letters = unicodedata.normalize("NFKD", text).casefold()
    spelled = "".join(map(_latin_letter, letters))
    return PLUS.sub(lambda signs: "p" * len(signs[0]), spelled)


def _latin_letter(letter: str) -> str:
    if letter.isascii():
        return letter
    if letter in LETTERS:
        return LETTERS[letter]
    if unicodedata.combining(letter):
        return ""
    name = unicodedata.name(letter, "")
    return name.rpartition(" ")[2].casefold() if name.startswith("GREEK SMALL LETTER") else letter
