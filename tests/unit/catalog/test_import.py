"""Importing lists: what becomes of entries, what is said, what is written, and the proof of the original list."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_list import damaged, render
from typer.testing import CliRunner

from catalog import awesome, seed
from catalog.cli import app
from catalog.encoding import Unreadable
from catalog.files import ROOT
from catalog.importer import Draft, clean, import_files, vocabularies_of
from catalog.importer_files import AlreadyThere, problems_of, write_catalog
from catalog.library import load_library
from catalog.record import PAPERS, load_records

VOCABULARIES = vocabularies_of(ROOT)
LEGEND = " ".join(
    f"![](https://img.shields.io/badge/{text}-{colour})"
    for text, colour in {
        "Method_Abbreviation": "blue", "Downstream_Application": "green", "W./W.O._Training": "brown",
        "Reduction_Criteria": "purple", "Reduction_Mechanism": "orange",
    }.items()
)  # fmt: skip


def item(title: str, number: str = "2410.05317", venue: str = "arXiv 2024", **badges: str) -> str:
    images = " ".join(f"![](https://img.shields.io/badge/{text}-{colour})" for colour, text in badges.items())
    links = f"[[Paper](https://arxiv.org/abs/{number})] {images}"
    return f"- **[1] {title}**, {venue}.\n\n  *Ada Lovelace and Bo Li.*\n\n  {links}\n\n"


def imported(tmp_path: Path, **texts: str) -> tuple[Draft, list[str]]:
    """The draft and notes of lists; files are named by the names of the arguments."""
    files = []
    for name, text in texts.items():
        files.append(tmp_path / f"{name}.md")
        files[-1].write_text(text, encoding="utf-8")
    made, notes = import_files(files, VOCABULARIES)
    return made, [note.removeprefix(f"{tmp_path}/") for note in notes]


def one(tmp_path: Path, text: str) -> tuple[dict[str, Any], list[str]]:
    made, notes = imported(tmp_path, list=text)
    (record,) = made.records.values()
    return record, notes


def test_the_list_gives_79_entries_59_papers_and_two_views(tmp_path: Path) -> None:
    made, notes = imported(tmp_path, list=render())
    assert (made.entries, len(made.records)) == (79, 59)
    sizes = {name: sum(len(part["papers"]) for part in view["sections"]) for name, view in made.views.items()}
    assert sizes == {"awesome-generation-acceleration": 52, "training-free-generation-acceleration": 27}
    assert made.views["training-free-generation-acceleration"]["sections"][0]["base_models"] == [
        "sd14",
        "text2video_zero",
    ]
    said = "\n".join(notes)
    assert "the same link as line" in said and "Agent Attention" in said
    assert "another venue than in line" in said
    assert "2410.07761 is of 2024" in said
    assert "papers/tofu.yaml needs a person" in said and "papers/tdq.yaml needs a person" in said
    assert sum("needs a person" in note for note in notes) == 3


def test_the_damaged_list_gives_the_same_records_but_for_lost_letters(tmp_path: Path) -> None:
    true, _ = imported(tmp_path, true=render())
    made, notes = imported(tmp_path, damaged=damaged(render()))
    assert [slug for slug in true.records if true.records[slug] != made.records[slug]] == ["duodiff"]
    assert made.records["duodiff"]["authors"][1]["given"] == "R\ufffdzvan-Andrei"
    assert any("duodiff.yaml needs a person: authors.1.given" in note for note in notes)
    assert any(note.startswith("damaged.md:") and "Windows-1254" in note for note in notes)


def test_what_is_written_can_be_loaded(tmp_path: Path) -> None:
    made, notes = imported(tmp_path, list=item("One: A Title", venue="ICLR 2025 Oral", blue="One", green="Text2Image"))
    assert notes == []
    out = tmp_path / "out"
    assert write_catalog(made, out, ROOT) == sum(1 for file in out.rglob("*") if file.is_file())
    library = load_library(out)
    record = library.records["one"]
    assert (record.title, record.primary.venue, record.primary.award) == ("One: A Title", "iclr", "Oral")
    assert [section.papers for view in library.views for section in view.sections] == [["one"]]
    assert (out / "vocab" / "venues.yaml").read_bytes() == (ROOT / "vocab" / "venues.yaml").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.md", "out"]


def test_files_of_one_catalog_are_merged(tmp_path: Path) -> None:
    title = "Accelerating Diffusion Transformers with Token-wise Feature Caching"
    other = "Accelerating Diffusion Transformers with Dual Feature Caching"
    made, notes = imported(
        tmp_path,
        README="# By Mechanism\n\n## Cache\n\n" + item(title, blue="ToCa", orange="Cache_Mechanism"),
        TOKEN=f"# By Token\n\n## Keywords\n{LEGEND}\n\n### Image\n\n"
        + item(
            title, venue="ICLR 2025", blue="ToCa", green="Text2Image", brown="Training_Free", purple="Attention_Based"
        )
        + item(other, blue="DuCa", brown="Training_Based", orange="Cache_Mechanism"),
    )
    assert list(made.views) == ["by-mechanism", "by-token"]
    toca = made.records["toca"]
    assert [appearance["venue"] for appearance in toca["publications"]] == ["arxiv", "iclr"]
    assert toca["publications"][1]["primary"] is True
    assert toca["tags"]["applications"] == ["text_to_image"] and toca["tags"]["mechanisms"] == ["feature_caching"]
    assert toca["tags"]["training"] == "none"
    assert toca["tags"]["note"] == "in the list: Reduction Criteria: Attention Based"
    duca = made.records["duca"]
    assert duca["tags"]["training"] is None and "Training Based" in duca["tags"]["note"]
    assert f"TOKEN.md:8: another venue than in {tmp_path}/README.md:5: {title}" in notes
    assert any(note.startswith("TOKEN.md:14: the same link as ") and other in note for note in notes)


def test_one_title_under_two_links_is_one_paper_and_noted(tmp_path: Path) -> None:
    made, notes = imported(tmp_path, list=item("One Long Title") + item("One Long  title", "2410.05318"))
    assert len(made.records) == 1
    assert any("another link to the paper than in line 1" in note for note in notes)


def test_a_longer_title_under_one_link_is_the_same_paper(tmp_path: Path) -> None:
    title = "Differentiable Token Compression Ratios"
    record, _ = one(tmp_path, item(title, blue="A") + item(title + " for Efficient Transformers", blue="B"))
    assert record["aliases"] == [
        {"text": "B", "kind": "abbreviation"},
        {"text": title + " for Efficient Transformers", "kind": "list_spelling"},
    ]


def test_unknown_words_are_kept_and_named(tmp_path: Path) -> None:
    text = item("One Title", venue="PRCV 2024", blue="One", orange="Token_Folding").replace(
        "[[Paper]", "[[Dataset](https://a.org/d)] [[Paper]"
    )
    record, notes = one(tmp_path, text)
    assert record["publications"][-1] == {
        "venue": "prcv", "year": 2024, "kind": "conference", "primary": True, "note": "`PRCV 2024` in the list"
    }  # fmt: skip
    assert record["tags"]["note"] == "in the list: Mechanism: Token Folding"
    assert record["links"][1] == {"kind": "project", "url": "https://a.org/d", "note": "`Dataset` in the list"}
    assert [note.split(": ")[0] for note in notes] == ["list.md:1"] * 4
    assert any("vocab/venues.yaml does not have `PRCV 2024`" in note for note in notes)
    assert "one.yaml needs a person: publications.1.venue" in notes[-1]


def test_entries_without_authors_or_venue_need_a_person(tmp_path: Path) -> None:
    record, notes = one(tmp_path, item("One Title", venue="Under review").replace("*Ada Lovelace and Bo Li.*", ""))
    assert record["authors"] == []
    assert "venue: Under review" in record["tags"]["note"]
    assert any("list.yaml" not in note and "one_title.yaml needs a person: authors" in note for note in notes)


HOSTILE = {
    "path": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "dots": "..",
    "YAML": "x: {a: [b, *c]} # d",
    "document": "--- !!python/object:os.system",
    "line": "A&#10;id: evil&#10;B",
    "quotes": "\"'`{{1+1}}",
    "control": "A\x07\x1b[31mB",
    "turned": "A\u202eB\u200b",
    "bool": "On",
    "number": "1e3",
    "time": "12:30:45",
    "other script": "加速扩散模型",
    "accents": "E\u0301te\u0301",
    "long": "word" * 200,
    "LaTeX": "\\input{/etc/passwd} {" + "{" * 5000 + '\\"u',
    "HTML": "<script>alert(1)</script><img src=x onerror=y>",
}


@pytest.mark.parametrize("title", HOSTILE.values(), ids=HOSTILE)
def test_hostile_titles_stay_data(tmp_path: Path, title: str) -> None:
    text = f"# {title}\n\n## {title}\n\n" + item(title, venue=f"{title[:30]} 2024").replace("Ada Lovelace", "On No")
    made, notes = imported(tmp_path, list=text)
    out = tmp_path / "new" / "out"
    write_catalog(made, out, ROOT)
    (file,) = (out / "papers").iterdir()
    record = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert record["id"] == file.stem and file.stem.replace("_", "").isalnum() and file.stem.isascii()
    assert len(file.name) < 80
    assert record["title"] == clean(awesome.read(text).entries[0].title)
    assert record["authors"][0] == {"given": "On", "family": "No"}
    assert {path.name for path in tmp_path.iterdir()} == {"list.md", "new"}
    assert {path.name for path in out.iterdir()} == {"papers", "views", "vocab"}
    assert all(note.isprintable() for note in notes)
    assert all(problem.key.startswith(("publications", "title")) for problem in problems_of(made, VOCABULARIES))


def test_latex_html_and_odd_spaces_become_plain_text() -> None:
    assert (
        clean('J{\\"u}rgen} F<sup>3</sup>-A\N{IDEOGRAPHIC SPACE}B &amp; C\\_D 50% $\\Delta$x')
        == "Jürgen F³-A B & C_D 50% Δx"
    )


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    made, _ = imported(tmp_path, list=item("One Title"))
    out = tmp_path / "out"
    (out / "papers").mkdir(parents=True)
    with pytest.raises(AlreadyThere, match="holds a catalog"):
        write_catalog(made, out, ROOT)
    (out / "papers").rmdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(AlreadyThere, match="not an empty folder"):
        write_catalog(made, out, ROOT)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(AlreadyThere):
        write_catalog(made, out / "mine.txt", ROOT)
    (out / "mine.txt").unlink()
    write_catalog(made, out, ROOT)
    assert (out / "papers" / "one_title.yaml").is_file()


def test_nothing_is_left_of_an_import_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = imported(tmp_path, list=item("One Title"))
    monkeypatch.setattr("catalog.importer_files.vocabulary_texts", lambda root: {"vocab/\0": ""})
    with pytest.raises(ValueError, match="null"):
        write_catalog(made, tmp_path / "out", ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["list.md"]


def test_a_text_without_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"list\.md:1: there are no entries"):
        imported(tmp_path, list="# Nothing\n\n- here\n")


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_reports_and_refuses(tmp_path: Path) -> None:
    file = tmp_path / "LIST.md"
    file.write_text(item("One Title") + item("Two").replace("**", ""), encoding="utf-8")
    code, out, errors = run("import", file, "-o", tmp_path / "out")
    assert code == 2
    assert out.startswith("1 entries, 1 papers, 1 views")
    assert f"note: {file}:7: no title in bold type" in errors and "1 entries could not be read" in errors
    code, out, errors = run("import", file, "-o", tmp_path / "out")
    assert (code, out) == (2, "") and "holds a catalog" in errors and "    -> " in errors
    file.write_bytes("a\n标题".encode("gbk"))
    code, out, errors = run("import", file, "-o", tmp_path / "new")
    assert (code, out) == (2, "") and f"error: {file}:2: the text is not UTF-8" in errors
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def proof() -> Any:
    """Problems of a list against the shipped records."""
    records = load_records(PAPERS, VOCABULARIES)

    def problems(text: str) -> list[str]:
        listed = seed.of_list(awesome.read(text))
        return [str(problem) for problem in seed.compare(records, listed, VOCABULARIES, PAPERS)]

    return problems


def test_the_list_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(render(), encoding="utf-8")
    code, out, errors = run("seed", "verify", file)
    assert (code, out) == (0, "ok: 79 entries of 59 papers, every fact given back\n"), errors


def altered(facts: seed.Facts, name: str) -> seed.Facts:
    value = getattr(facts, name)
    if name == "authors":
        return replace(facts, authors=(*value[1:], value[0]))
    if name == "badges":
        return replace(facts, badges=value[:-1])
    return replace(facts, **{name: f"{value}9"})


@pytest.mark.parametrize("code", ["FS1", "QU7", "CA9", "AR1"])
@pytest.mark.parametrize("name", [field.name for field in fields(seed.Facts) if field.name != "section"])
def test_a_list_with_an_altered_fact_is_refused(proof: Any, code: str, name: str) -> None:
    facts = seed.stored()
    before = set(proof(render()))
    added = set(proof(render(facts | {code: altered(facts[code], name)}))) - before
    assert added and any(code in problem for problem in added)


def test_a_list_with_other_entries_is_refused(proof: Any) -> None:
    facts = seed.stored()
    before = set(proof(render()))
    fewer = {code: entry for code, entry in facts.items() if code != "CA14"}
    assert any("no entry CA14" in problem for problem in set(proof(render(fewer))) - before)
    more = {**facts, "AR2": replace(facts["AR1"], number="2")}
    assert any("entries AR2" in problem for problem in set(proof(render(more))) - before)
    swapped = facts | {"CA1": replace(facts["CA2"], number="1"), "CA2": replace(facts["CA1"], number="2")}
    assert sum("entry CA1 " in problem or "entry CA2 " in problem for problem in proof(render(swapped))) > 1
    renamed = facts | {code: replace(entry, section="Else") for code, entry in facts.items() if code.startswith("OT")}
    assert any("no entry OT1" in problem for problem in set(proof(render(renamed))) - before)
