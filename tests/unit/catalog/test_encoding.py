"""Text of lists in the encodings they come in: healthy text stays, damaged text is repaired without guessing."""

# ruff: noqa: RUF001 (letters that look like others are what this is about)

from __future__ import annotations

from pathlib import Path

import pytest
from support_list import damaged, render

from catalog.encoding import LOST, Unreadable, printable, read_list

SAMPLE = "Fernández – \N{MATHEMATICAL MONOSPACE CAPITAL A} 中文 🚀 Matişan — Łódź é\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "LIST.md"


def saved(file: Path, text: str) -> Path:
    file.write_bytes(text.encode())
    return file


HEALTHY = {
    "the list": render(),
    "accents": "Rǎzvan-Andrei Matişan, Tin Hadži Veljković, Muñoz, Besançon\n",
    "letters that begin sequences": "ÀÉÎÕÜ àéîõü Ñandú Àð ÅÄÖ\n",
    "french": "« voilà\N{NO-BREAK SPACE}» déjà… « RENÉ… » CAFÉ™ “ÉTÉ”\n",
    "german": "„Spaß“ GRÜ² Übermäßig – Größe\n",
    "portuguese": "“IRMÔ SÃO NÃO Â\n",
    "chinese": "标题「中文」，全角。\N{IDEOGRAPHIC SPACE}１２\n",
    "cyrillic": "Ускорение диффузии №1 «тест»\n",
    "signs": "2×½ 180° ±3 µm x² 100 € ½\n",
    "emoji": "👐👐 📝 🖼️\n",
    "marked": f"one {LOST} lost\n",
}


@pytest.mark.parametrize("text", HEALTHY.values(), ids=HEALTHY)
def test_healthy_text_stays(file: Path, text: str) -> None:
    assert read_list(saved(file, text)) == (text, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(file: Path, encoding: str) -> None:
    file.write_bytes(SAMPLE.encode(encoding))
    assert read_list(file) == (SAMPLE, [])


@pytest.mark.parametrize("encoding", ["cp1254", "cp1252", "latin-1"])
@pytest.mark.parametrize("undefined", ["drop", "keep", "mark"])
def test_damage_is_undone_except_for_lost_bytes(file: Path, encoding: str, undefined: str) -> None:
    text, notes = read_list(saved(file, damaged(SAMPLE, encoding, undefined)))
    assert len(text) == len(SAMPLE)
    lost = [true for now, true in zip(text, SAMPLE, strict=True) if now != true]
    assert all(now in (LOST, true) for now, true in zip(text, SAMPLE, strict=True))
    assert bool(lost) == (undefined != "keep" and encoding != "latin-1")
    assert "repaired" in notes[0].text
    assert all(any(sign in note.text for note in notes[1:]) for sign in lost), "every lost letter is among those named"


def test_the_damaged_list_is_the_true_one_except_for_lost_bytes(file: Path) -> None:
    true = render()
    text, notes = read_list(saved(file, damaged(true)))
    differing = [(now, sign) for now, sign in zip(text, true, strict=True) if now != sign]
    assert {now for now, _ in differing} == {LOST}
    assert {"ǎ", "、", "👐", "📝"} < {sign for _, sign in differing}
    lines = {place + 1 for place, line in enumerate(text.split("\n")) if LOST in line}
    assert lines == {note.line for note in notes[1:]}
    note = next(note for note in notes if "Çzvan" in note.text)
    assert note.text.endswith("one of ǁ Ǎ ǎ Ǐ ǐ ǝ Ǟ")
    assert note.line == true.split("\n").index(next(line for line in true.split("\n") if "Rǎzvan" in line)) + 1


def test_a_lost_byte_with_one_possible_letter_is_taken_and_noted(file: Path) -> None:
    true = "é \N{BYZANTINE MUSICAL SYMBOL CHOREVMA ARCHAION}\n"
    text, notes = read_list(saved(file, damaged(true)))
    assert text == true
    assert "\N{BYZANTINE MUSICAL SYMBOL CHOREVMA ARCHAION} (taken)" in notes[1].text


def test_text_that_was_damaged_twice_is_repaired_twice(file: Path) -> None:
    twice = damaged(damaged("Müller – né\n", "cp1252", "keep"), "cp1252", "keep")
    text, notes = read_list(saved(file, twice))
    assert text == "Müller – né\n"
    assert [note.text.startswith("from here on") for note in notes] == [True, True]


def test_windows_text_is_read_with_a_note(file: Path) -> None:
    file.write_bytes("plain\nMüller – “né”\n".encode("cp1252"))
    text, (note,) = read_list(file)
    assert text == "plain\nMüller – “né”\n"
    assert note.line == 2
    assert "Windows-1252" in note.text and "`Müller`" in note.text


REFUSED = {
    "GBK": ("a\n标题中文\n".encode("gbk"), 2, "not UTF-8"),
    "two encodings": ("Müller é\n".encode() + "x\nMüller".encode("cp1252"), 3, "UTF-8 up to this line"),
    "undefined bytes": (b"a \x81 b", 1, "neither UTF-8 nor Windows-1252"),
    "UTF-16 without a mark": ("Müller".encode("utf-16-le"), 1, "not UTF-8"),
    "zero bytes": (b"text\n\0\n", 2, "zero bytes"),
    "a broken mark": (b"\xff\xfea", 1, "UTF-16"),
    "partly damaged": ("好\nFernÃ¡ndez\n".encode(), 2, "`FernÃ¡ndez` is damaged"),
}


@pytest.mark.parametrize(("data", "line", "rule"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_without_guessing_is_refused(file: Path, data: bytes, line: int, rule: str) -> None:
    file.write_bytes(data)
    with pytest.raises(Unreadable) as refused:
        read_list(file)
    text = str(refused.value)
    assert text.startswith(f"{file}:{line}: ")
    assert rule in text
    assert "\n    -> " in text
    assert "\0" not in text


def test_what_acts_on_a_terminal_is_escaped() -> None:
    assert printable("a\x1b[2Jb\u202ec 中é") == "a\\x1b[2Jb\\u202ec 中é"
