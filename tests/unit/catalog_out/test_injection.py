"""Records, reports and questions that hold commands for whoever reads the output: they come out as plain words."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import bibtexparser
import pybtex.database
import pytest
from markdown_it import MarkdownIt
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from catalog import export, query, readme
from catalog.cli import app
from catalog.cli.show import text_of
from catalog.database import open_database
from catalog.library import ROOT, Library
from catalog.lists import News, Section, View
from catalog.markdown import code, flat, md, md_url
from catalog.output import FORMULA, as_csv, as_json, table, visible
from catalog.query import BadQuery
from catalog.readonly import ask
from catalog.results import Report
from catalog.schema import Block, Record
from catalog.search import search

HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "comment": "<!-- lint disable --> --> <!--",
    "link": "[click](javascript:alert(1)) ![x](http://evil.example/x.png) [a]: http://evil.example",
    "autolink": "<http://evil.example> https://evil.example www.evil.example",
    "emphasis": "**bold** _em_ __strong__ ~~gone~~ *x*",
    "table": "a | b \\| c || d",
    "entity": "&lt;b&gt; &#60;script&#62; &amp; &copy;",
    "code": "`$(rm -rf ~)` ``x`` ```y",
    "mathematics": "$x$ $$\\input{/etc/passwd}$$",
    "lines": "one\n\n# Heading\r\n- item\n1. item\n> quote\n---\n\n    code\n```\nfence",
    "list": "- item",
    "number": "1. item",
    "heading": "# Heading",
    "quote": "> quote",
    "rule": "---",
    "formula": "=cmd|' /C calc'!A0",
    "function": "@SUM(1+1)*cmd|' /C calc'!A0",
    "bibtex": "} @comment{x, } @article{evil, title = {x}}, {",
    "backslash": "ends in \\",
    "terminal": "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202edesrever",
    "sql": "'; drop table paper; --",
    "template": "{{ 7 * 7 }} {% raw %} ${x} #{x}",
}
EACH = pytest.mark.parametrize("evil", HOSTILE.values(), ids=HOSTILE)
INERT = "Plain words"
PAGE = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.fixture
def hostile(library: Library, record: Callable[..., Record]) -> Callable[[str], Library]:
    """A catalog of one paper whose every free text is the given one."""

    def made(evil: str) -> Library:
        primary = {"venue": "iclr", "year": 2025, "kind": "conference", "primary": True}
        claim = {
            "id": "c", "base_model": "opensora", "metric": "speedup", "value": 2.0, "confidence": "A",
            "note": evil, "source": {"where": evil}, "settings": {"task": evil},
        }  # fmt: skip
        paper = record(
            title=evil, abbreviation=evil,
            authors=[{"given": evil, "family": evil}, {"given": "A", "family": "B", "printed": evil}],
            publications=[primary | {"award": evil, "track": evil, "note": evil, "pages": evil}], claims=[claim],
            summary={"short": evil[:160], "long": evil}, aliases=[{"text": evil, "kind": "repository"}],
        )  # fmt: skip
        section = Section.model_construct(
            id="one", title=evil, code=None, intro=evil, base_models=["opensora"], papers=["toca"]
        )
        views = (
            View(id="first", title=evil, position=1, note=evil, sections=[section]),
            View(id="second", title="Again", position=2, sections=[section]),
        )
        origin = library.origin.model_copy(update={"name": evil}) if library.origin else None
        news = (News(date=dt.date(2026, 1, 1), text=evil),)
        return dataclasses.replace(library, records={"toca": paper}, views=views, news=news, origin=origin)

    return made


def structure(markdown: str) -> Iterator[str]:
    """What a page is built of: kinds of parts and where links lead, without the words and badges' texts."""
    for token in PAGE.parse(markdown):
        parts = token.children if token.type == "inline" else [token]
        previous = ""
        for part in parts or ():
            if not part.type == previous == "text":  # words may come in pieces
                yield f"{part.type} {part.attrs.get('href', '') if part.type == 'link_open' else ''}"
            previous = part.type


def words(markdown: str) -> str:
    """The text that a reader sees of one line; anything but text is an error."""
    (opened, inline, closed) = PAGE.parse(markdown)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {part.type for part in inline.children or ()} <= {"text", "text_special"}
    return "".join(part.content for part in inline.children or ())


@EACH
def test_markdown_says_just_the_text(evil: str) -> None:
    assert words(md(evil)) == flat(evil)
    assert words(f"x {md(evil)}") == f"x {flat(evil)}"
    assert not re.search(r"(?<!\\)://|www\.", md(evil)), "GitHub makes links of bare addresses"


@EACH
def test_code_is_code(evil: str) -> None:
    (_, inline, _) = PAGE.parse(f"a {code(evil)} b")
    assert [part.type for part in inline.children or ()] == ["text", "code_inline", "text"]
    page = PAGE.parse(f"| a | b |\n| --- | --- |\n| {code(evil)} | c |\n")
    cells = [token.children or [] for token in page if token.type == "inline"]
    assert [[part.type for part in cell] for cell in cells] == [["text"], ["text"], ["code_inline"], ["text"]]


@EACH
def test_the_page_keeps_its_form(evil: str, hostile: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    def page(text: str) -> list[str]:
        report = REPORT.model_copy(
            update={
                "note": text,
                "spec": text,
                "profile": text,
                "environment": REPORT.environment.model_copy(update={"processor": text}),
            }
        )
        monkeypatch.setattr(readme.results, "published_files", lambda root: [root])
        monkeypatch.setattr(readme.results, "read_report", lambda file: report)
        return [part for part in structure(readme.render(hostile(text))) if "#" not in part]

    assert page(evil) == page(INERT)


REPORT = Report.model_validate(
    {
        "spec": "x", "spec_hash": "a", "plan_hash": "b", "paper": "nobody", "backbone": "opensora", "weights": "hub",
        "dtype": "float32", "techniques": {}, "sampler": {"rflow": {}}, "inputs": {}, "seed": 0,
        "accelerated": {"seconds": 1.0, "all_seconds": [1.0]}, "environment": {"processor": "x", "device": "cpu"},
    }
)  # fmt: skip


@pytest.mark.parametrize(
    "address", ["https://x.org/)![a](http://evil)", 'https://x.org/"<b>`|[]\\^{}', "http://x/&lt;&amp;a=1"]
)
def test_an_address_stays_one_address(address: str) -> None:
    (_, inline, _) = PAGE.parse(f"[a]({md_url(address)})")
    parts = inline.children or []
    assert [part.type for part in parts] == ["link_open", "text", "link_close"]
    assert unquote(str(parts[0].attrs["href"])) == address, "no entity was replaced"
    for sign in '<>"`|()[]':
        assert sign not in md_url(address)


@EACH
def test_bibliographies_have_one_entry(evil: str, hostile: Callable[[str], Library]) -> None:
    library = hostile(evil)
    text = export.bibtex([library.records["toca"]], library)
    parsed = bibtexparser.parse_string(text)
    assert [block.key for block in parsed.blocks if block in parsed.entries] == ["toca"] and len(parsed.blocks) == 1
    entries = pybtex.database.parse_string(text, "bibtex").entries
    assert list(entries) == ["toca"] and len(entries["toca"].persons["author"]) == 2
    (item,) = json.loads(export.exported("csl-json", [library.records["toca"]], [], library))
    assert item["title"] == evil and set(item) <= {
        "id",
        "type",
        "title",
        "author",
        "issued",
        "container-title",
        "page",
        "number",
        "URL",
    }


@EACH
def test_tables_and_csv_and_json_hold_one_harmless_cell(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    row = {"a": evil, "b": [evil, evil], "c": {"k": evil}}
    assert json.loads(as_json([row])) == [row]
    (head, cells) = csv.reader(io.StringIO(as_csv([row])))
    assert head == ["a", "b", "c"] and not any(cell.strip().startswith(FORMULA) for cell in cells)
    assert cells[0] in (visible(evil), f"'{visible(evil)}")
    drawn = table([row], {"a": evil})
    for line in visible(evil).splitlines():
        assert line.strip() in drawn
    assert all(sign.isprintable() or sign == "\n" for text in (drawn, as_csv([row]), as_json([row])) for sign in text)


@EACH
def test_a_record_on_the_screen_commands_nothing(evil: str, hostile: Callable[[str], Library]) -> None:
    library = hostile(evil)
    text = visible(text_of(library.records["toca"], library))
    assert all(sign.isprintable() or sign == "\n" for sign in text)


@pytest.mark.parametrize("name", ["../toca", "a/b", "/etc/passwd", "toca.yaml", "..", "a\nb", "TOCA", "a b", ""])
def test_an_id_is_no_path(name: str, library: Library, record: Callable[..., Record]) -> None:
    with pytest.raises(ValidationError):
        record(id=name)


@pytest.mark.parametrize(
    "path",
    ["specs/../secret.yaml", "/specs/a.yaml", "../specs/a.yaml", "specs/a.yaml\n", "specs/a b.yaml", "specs/$(x).yaml"],
)
def test_a_spec_is_inside_its_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        Block(block="a", status="planned", specs=[path])


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "https://a b", "//x.org"]
)
def test_a_link_leads_to_the_web(url: str, record: Callable[..., Record]) -> None:
    with pytest.raises(ValidationError):
        record(links=[{"kind": "paper", "url": url}])


def catalog(*arguments: str) -> Result:
    """What a command answers; an exception it did not expect fails the test."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@EACH
def test_questions_are_data(evil: str, database_url: str) -> None:
    database = open_database(ROOT, database_url)
    with database.reading() as connection:
        for ask_for in (query.find, query.view):
            with pytest.raises(BadQuery):
                ask_for(connection, evil)
        for wanted in (query.PaperFilter(author=evil), query.PaperFilter(list_venue=evil)):
            assert query.papers(connection, wanted) == []
        assert len(search(connection, evil)[0]) < 59
    assert ask(database, "select :x as x, count(*) as n from paper", {"x": evil}) == [{"x": evil, "n": 59}]


def test_commands_bind_what_they_are_given(environment: Mapping[str, str]) -> None:
    evil = HOSTILE["sql"]
    refused = catalog("show", evil)
    assert refused.exit_code == 2 and refused.stderr.startswith("error: ")
    bound = catalog("sql", "select :x as x, count(*) as n from paper", "--param", f"x={evil}", "--format", "json")
    assert json.loads(bound.stdout) == [{"x": evil, "n": 59}]


def test_a_parameter_has_a_name(environment: Mapping[str, str]) -> None:
    result = catalog("sql", "select 1", "--param", "x")
    assert result.exit_code == 2 and "name=value" in result.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "insert into paper (id) values ('x')", "update paper set title = 'x'", "delete from paper", "drop table paper",
        "attach database '{file}' as other", "pragma writable_schema = on", "vacuum into '{file}'",
        "select 1; delete from paper", "with x as (select 1) insert into meta values ('a', 'b')",
        "with x as (select 1) insert into meta values ('a', 'b') returning key", "pragma table_info(paper)",
        "replace into meta values ('a', 'b')", "create table t as select 1", "select load_extension('x')",
        "select writefile('{file}', 'x')", "/**/ update paper set title = 'x'", "explain select 1; drop table paper",
    ],
)  # fmt: skip
def test_sql_only_reads(statement: str, database_url: str, tmp_path: Any) -> None:
    database = open_database(ROOT, database_url)
    before = ask(database, "select count(*) as n, min(title) as title from paper", {})
    with pytest.raises(BadQuery):
        ask(database, statement.format(file=tmp_path / "stolen.db"), {})
    assert ask(database, "select count(*) as n, min(title) as title from paper", {}) == before
    assert list(tmp_path.iterdir()) == []


def test_search_takes_its_own_syntax_as_words(database_url: str) -> None:
    with open_database(ROOT, database_url).reading() as connection:
        for text in ('"toca" OR 1', "toca*", "NEAR(toca)", "title:toca", "toca AND NOT toca", "toca'--", '"'):
            ids, _ = search(connection, text)
            assert len(ids) < 59
        assert query.papers(connection, query.PaperFilter(author="%")) == []
