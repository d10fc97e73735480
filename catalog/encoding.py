"""Reading the bytes of a list: UTF-8 and UTF-16 as they are, and UTF-8 that went through a wrong encoding repaired.

The damage: the bytes of a UTF-8 text were decoded as Windows-1254, Windows-1252 or ISO 8859-1, and the result was
saved again; bytes that the encoding does not define may have been dropped on the way. It is undone only if *every*
character beyond ASCII can be explained by it and at least one of them can hardly be anything else. Healthy text does
not pass that test: an accented letter stands before a plain one, which no damaged letter does.

A character that lost a byte becomes U+FFFD, and a note names the characters it can have been; only where there is
exactly one is that one taken. Text that is damaged in places only is refused: what to repair would be a guess. Text
that is not UTF-8 is read as Windows-1252, with a note, if all that is beyond ASCII are single letters and typographic
signs; anything else is refused.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import NoReturn

from catalog.errors import CatalogError

LOST = "\N{REPLACEMENT CHARACTER}"
ENCODINGS = {"cp1254": "Windows-1254", "cp1252": "Windows-1252", "latin-1": "ISO 8859-1"}
# The longest mark first: the mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
ALIEN = chr(0x10FFFF)  # stands for a character that no byte of an encoding decodes to
SEQUENCE = re.compile(f"[\xc2-\xf4][\x80-\xbf{LOST}]*|[^\x00-\x7f]")
LINE_END = re.compile(r"\r\n?|\n")
# Signs that stand right after a letter in healthy text too: closing quotes, dots, dashes, marks, footnote numbers.
CLOSING = frozenset("\u201d\u2019\u201c\u2018»«\u203a\u2039\u2026\u2013—™®©°·•ªº¹²³\xa0\xad")
QUOTES = CLOSING - frozenset("™®©°•ªº¹²³\xad·\u2013—")
NO_TEXT = {"Cn", "Co", "Cs", "Cc"}  # categories of what no text holds
ROUNDS = 3  # some texts were damaged more than once
# What Windows-1252 text holds beyond ASCII (its typographic signs first, then letters); three in a row are no word.
PROSE = re.compile(
    "[^\x00-\x7f]{3,}|[^\x00-\x7f\u2013—\u2018\u2019\u201c\u201d\u201a\u201e\u2026•·©®™°±\xd7«»\u2039\u203a§€£¥†‡µ¼½¾¹²³ªº¡¿\xa0À-ÖØ-öø-ÿŒœŠšŽžŸƒ]"
)


@dataclass(frozen=True)
class Note:
    """Something about the text of a file that a person should look at."""

    line: int
    text: str


class Unreadable(CatalogError):
    """A file that cannot be read as a list; its text says where, which rule, and what to do."""

    def __init__(self, file: Path, line: int, rule: str, remedy: str) -> None:
        super().__init__(f"{printable(str(file))}:{line}: {printable(rule)}\n    -> {remedy}")


@dataclass(frozen=True)
class Piece:
    """Neighbouring characters beyond ASCII of a damaged text, and what they can have been."""

    start: int
    end: int
    candidates: tuple[str, ...]  # none: this is no damage
    whole: bool  # whether no byte was lost
    striking: bool  # whether healthy text hardly ever holds them


def read_list(file: Path) -> tuple[str, list[Note]]:
    """The text of a file and what had to be done to it. Raises `Unreadable` if it cannot be had without guessing."""
    text, notes = decoded(file.read_bytes(), file)
    for _ in range(ROUNDS):
        repaired = undamaged(text, file, first=not notes)
        if repaired is None:
            break
        text = repaired[0].removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        notes += repaired[1]
    return text, notes


def printable(text: str) -> str:
    """`text` without what moves the cursor, hides letters or turns the line: such characters are written as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def decoded(data: bytes, file: Path) -> tuple[str, list[Note]]:
    """Text of a file by its byte order mark, as UTF-8, or as Windows-1252."""
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            return as_windows(data, error.start, file), [windows_note(data, error.start)]
        name = encoding.removesuffix("-sig").upper()
        rule = f"the file begins with the mark of {name}, but is not {name}"
        raise Unreadable(file, 1, rule, "save it again as UTF-8") from None
    if "\0" in text:
        rule = "the file holds zero bytes: it is no text, or UTF-16 without a byte order mark"
        raise Unreadable(file, line_at(text, text.index("\0")), rule, "save it as UTF-8")
    return text, []


def as_windows(data: bytes, start: int, file: Path) -> str:
    """Text that is not UTF-8 as Windows-1252, if that is plausible; `start` is the first byte that is not UTF-8."""
    line = len(LINE_END.findall(data[:start].decode("latin-1"))) + 1
    remedy = "open it in its own encoding and save it as UTF-8"
    if not data[:start].isascii():
        raise Unreadable(file, line, "the text is UTF-8 up to this line, and something else here", remedy)
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise Unreadable(file, line, "the text is neither UTF-8 nor Windows-1252", remedy) from None
    if "\0" in text or (odd := PROSE.search(text)):
        where = 0 if "\0" in text or odd is None else odd.start()
        rule = f"the text is not UTF-8, and as Windows-1252 it reads `{around(text, where)}`"
        raise Unreadable(file, line_at(text, where), rule, remedy)
    return text


def windows_note(data: bytes, start: int) -> Note:
    """What to look at in a text that was read as Windows-1252."""
    text = data.decode("cp1252")
    line = line_at(text, start)
    return Note(line, f"the file is not UTF-8; it was read as Windows-1252: is `{around(text, start)}` right?")


def undamaged(text: str, file: Path, first: bool = True) -> tuple[str, list[Note]] | None:
    """The repaired text and notes; None for healthy text. With `first`, text that is partly damaged is refused."""
    if text.isascii():
        return None
    pieces = {encoding: list(pieces_of(text, encoding)) for encoding in ENCODINGS}
    suspects = [encoding for encoding in ENCODINGS if any(piece.striking for piece in pieces[encoding])]
    fitting = [encoding for encoding in suspects if all(piece.candidates for piece in pieces[encoding])]
    if not fitting:
        if suspects and first:
            refuse_mixture(text, min((pieces[encoding] for encoding in suspects), key=unexplained), file)
        return None
    found = merged([pieces[encoding] for encoding in fitting])
    names = " or ".join(ENCODINGS[encoding] for encoding in fitting)
    said = f"from here on the text is UTF-8 that was read as {names}; it was repaired"
    return repaired(text, found), [Note(line_at(text, found[0].start), said), *lost_notes(text, found)]


def unexplained(pieces: list[Piece]) -> int:
    """How many pieces a wrong encoding does not explain."""
    return sum(not piece.candidates for piece in pieces)


def refuse_mixture(text: str, pieces: list[Piece], file: Path) -> NoReturn:
    """Raise `Unreadable`: some of the text is damaged, some is not."""
    bad = next(piece for piece in pieces if piece.striking)
    good = next(piece for piece in pieces if not piece.candidates)
    rule = (
        f"`{around(text, bad.start)}` is damaged (UTF-8 read in another encoding), "
        f"but `{around(text, good.start)}` in line {line_at(text, good.start)} is not"
    )
    raise Unreadable(file, line_at(text, bad.start), rule, f"write `{bad.candidates[0]}` here, and mend others like it")


def merged(lists: list[list[Piece]]) -> list[Piece]:
    """One list of pieces from those of several encodings that all explain the text: what any of them allows."""
    return [
        replace(same[0], candidates=tuple(dict.fromkeys(sign for piece in same for sign in piece.candidates)))
        for same in zip(*lists, strict=True)
    ]


def repaired(text: str, pieces: list[Piece]) -> str:
    """`text` with every piece replaced by what it was, or by U+FFFD where that is not determined."""
    out, end = [], 0
    for piece in pieces:
        out += [text[end : piece.start], piece.candidates[0] if len(piece.candidates) == 1 else LOST]
        end = piece.end
    return "".join([*out, text[end:]])


def lost_notes(text: str, pieces: list[Piece]) -> Iterator[Note]:
    """A note for every line in which characters lost bytes: what they can have been."""
    lines: dict[int, list[Piece]] = {}
    for piece in pieces:
        if not piece.whole:
            lines.setdefault(line_at(text, piece.start), []).append(piece)
    for line, lost in lines.items():
        choices = dict.fromkeys(piece.candidates for piece in lost)
        said = [f"one of {' '.join(signs)}" if len(signs) > 1 else f"{signs[0]} (taken)" for signs in choices]
        count = f"{len(lost)} characters lost bytes" if len(lost) > 1 else "a character lost bytes"
        place = around(text, lost[0].start)
        yield Note(line, f"{count}, from `{place}` on; U+FFFD stands for what is not determined: {'; '.join(said)}")


def pieces_of(text: str, encoding: str) -> Iterator[Piece]:
    """All that is beyond ASCII, as the bytes of an encoding read as UTF-8."""
    table, dropped = bytes_of(encoding)
    for match in SEQUENCE.finditer(text.translate(table)):
        lead, rest = match[0][0], match[0][1:].replace(LOST, "")
        length = 1 if "\xc2" <= lead < "\xe0" else 2 if lead < "\xf0" else 3
        whole = len(rest) == length and LOST not in match[0]
        candidates = readings(lead, rest, length, dropped) if "\xc2" <= lead <= "\xf4" else ()
        striking = bool(candidates) and whole and is_striking(text[match.start() : match.end() + 1], length)
        yield Piece(match.start(), match.end(), candidates, whole, striking)


@lru_cache
def bytes_of(encoding: str) -> tuple[dict[int, str], str]:
    """(translation of characters to the byte each was decoded from, bytes that may have been dropped)."""
    decoded_as = {}
    dropped = ""
    for byte in range(0x80, 0x100):
        sign = bytes([byte]).decode(encoding, errors="ignore")
        control = not sign or unicodedata.category(sign) == "Cc"
        dropped += chr(byte) if control else ""
        decoded_as[ord(sign or chr(byte))] = chr(byte)
    # Letters of the upper Latin-1 half that the encoding lacks must not be taken for bytes.
    return {code: ALIEN for code in range(0x80, 0x100)} | decoded_as, dropped


@lru_cache(maxsize=4096)
def readings(lead: str, rest: str, length: int, dropped: str) -> tuple[str, ...]:
    """Characters whose UTF-8 bytes are `lead` and `length` more: those of `rest`, in order, and dropped ones."""
    signs = dict.fromkeys(filled(lead, rest, length, dropped))
    return tuple(sign for sign in signs if len(sign) == 1 and unicodedata.category(sign) not in NO_TEXT)


def filled(lead: str, rest: str, length: int, dropped: str) -> Iterator[str]:
    """All ways to make `length` bytes of `rest` and dropped ones, read as UTF-8 after `lead`."""
    missing = length - len(rest)
    if missing < 0:
        return
    for places in combinations(range(length), missing):
        for filling in product(dropped, repeat=missing):
            left, new = iter(rest), iter(filling)
            tail = "".join(next(new) if place in places else next(left) for place in range(length))
            yield (lead + tail).encode("latin-1").decode("utf-8", errors="ignore")


def is_striking(signs: str, length: int) -> bool:
    """Whether healthy text hardly ever holds these: a letter, then `length` signs; the character after them is last."""
    lead, rest, after = signs[0], signs[1 : length + 1], signs[length + 1 :]
    if lead in "ÃÂ":
        return not QUOTES.issuperset(rest) or after.isalnum()
    return lead != "\xd7" and (not CLOSING.issuperset(rest) or after.isalpha())


def line_at(text: str, place: int) -> int:
    """Line of a place in a text, counted from 1."""
    return len(LINE_END.findall(text, 0, place)) + 1


def around(text: str, place: int) -> str:
    """The word at a place of a text, at most 24 characters of it."""
    start = max(place - 12, *(text.rfind(sign, 0, place) + 1 for sign in " \n\t*[(/"))
    return printable(re.split(r"\s", text[start : start + 24])[0])
