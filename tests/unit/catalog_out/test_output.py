"""Answers as tables, JSON and CSV: all kinds of values, terminals of all widths, pipes that end early."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from support import ROOT

from catalog.output import Format, as_csv, as_json, show, table, visible, words

ROW: dict[str, Any] = {
    "text": "a, b", "list": ["x", "y"], "dict": {"k": 1}, "date": dt.date(2026, 11, 23), "none": None,
    "float": 2.5, "true": True, "false": False, "int": 7,
}  # fmt: skip
COLUMNS = {key: key for key in ROW}
DANGEROUS = ["=cmd()|' /C calc'!A0", "@SUM(1)", "+1", "-1", "\t=1", "\r=1", " =1", "\uff1d1", "\n@x"]
CONTROL = ["\x1b[31mred", "\x07", "\x9b31m", "\u202eabc", "\x00", "\x7f", "\u2028"]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_json_keeps_every_kind_of_value() -> None:
    assert json.loads(as_json([ROW])) == [ROW | {"date": "2026-11-23"}]
    assert json.loads(as_json([])) == []


def test_json_has_no_numbers_that_json_lacks() -> None:
    data = [{"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": float("-inf")}}]
    assert json.loads(as_json(data)) == [{"a": None, "b": [None, 1.5], "c": {"d": None}}]


def test_csv_writes_every_kind_of_value() -> None:
    assert as_csv([ROW]) == (
        'text,list,dict,date,none,float,true,false,int\n"a, b",x; y,"{""k"": 1}",2026-11-23,,2.5,True,False,7\n'
    )


def test_csv_has_a_heading_even_without_rows_and_all_columns_of_uneven_rows() -> None:
    assert as_csv([], COLUMNS) == ",".join(COLUMNS) + "\n"
    assert as_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"
    assert as_csv([]) == ""


@pytest.mark.parametrize("value", DANGEROUS, ids=repr)
def test_csv_cells_are_never_formulas(value: str) -> None:
    for row in ({"a": value}, {"a": [value, "x"]}, {value: "x"}):
        cells = [cell for line in csv.reader(io.StringIO(as_csv([row]))) for cell in line]
        assert len(cells) == 2
        assert not any(cell.strip().startswith(("=", "+", "-", "@", "\uff1d")) for cell in cells)


def test_numbers_stay_numbers_in_csv() -> None:
    assert as_csv([{"a": -1, "b": -2.5, "c": "a-b", "d": "x=y"}]) == "a,b,c,d\n-1,-2.5,a-b,x=y\n"


@pytest.mark.parametrize("sign", CONTROL, ids=repr)
def test_no_form_commands_the_terminal(sign: str, wide: None) -> None:
    row = {"a": f"x{sign}y"}
    for text in (as_json([row]), as_csv([row]), table([row], {"a": f"h{sign}"}), visible(row["a"])):
        assert sign not in text and all(letter.isprintable() or letter in "\n" for letter in text)
    assert json.loads(as_json([row])) == [row]


def test_spaces_and_letters_of_all_scripts_are_left_alone() -> None:
    text = "Δ-DiT Hadži\N{NO-BREAK SPACE}中文\N{IDEOGRAPHIC SPACE}\nβ³"
    assert visible(text) == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""), (True, "yes"), (False, "no"), (2.0, "2"), (0.123456, "0.1235"), (123456.7, "123457"),
        (float("inf"), "inf"), ([1, None, "x"], "1, , x"), ({"a": 1.0}, "a=1"), (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
    ],
)  # fmt: skip
def test_values_for_people(value: Any, said: str) -> None:
    assert words(value) == said


def test_cells_and_headings_are_no_markup(wide: None) -> None:
    text = table([{"a": "[red]x[/red] :smile: [/oops]"}], {"a": "[bold]h[/i]"})
    assert "[red]x[/red] :smile: [/oops]" in text and "[bold]h[/i]" in text and "\x1b" not in text


def test_a_table_is_whole_in_a_pipe_and_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, wide: None) -> None:
    row = {"a": "x" * 300, "b": 1}
    assert "x" * 300 in table([row], {"a": "a", "b": "b"})
    for width in (12, 40, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        text = table([row], {"a": "a", "b": "b"})
        assert max(map(len, text.splitlines())) <= width and text.count("x") == 300


def test_an_empty_answer_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {}
    for form in Format:
        show([], form, {"id": "id", "venue": "at"})
        answers[form] = capsys.readouterr().out
    assert answers == {Format.TABLE: "nothing found\n", Format.JSON: "[]\n", Format.CSV: "id,venue\n"}


def run(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    code = "import sys; from catalog.cli import app; app(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_a_reader_that_stops_ends_the_command_in_silence(environment: Mapping[str, str]) -> None:
    with run(["export", "-f", "json"], env=environment) as process:
        assert process.stdout and process.stderr and process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 141)


def test_a_screen_with_few_letters_gets_escapes(environment: Mapping[str, str]) -> None:
    with run(["show", "delta_dit"], env={**environment, "PYTHONIOENCODING": "ascii"}) as process:
        out, err = process.communicate(timeout=60)
    assert (err, process.returncode) == (b"", 0) and out.startswith(b"\\u0394-DiT: ")
