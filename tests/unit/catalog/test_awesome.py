"""Entries of awesome lists: the shapes they come in, and a line for all that could not be read."""

# ruff: noqa: RUF001 (letters that look like others are what this is about)

from __future__ import annotations

from dataclasses import replace

import pytest
from support_list import render

from catalog.awesome import AwesomeList, Entry, read, split_names
from catalog.seed import Facts, of_list, stored

PAPER = "[[Paper](https://arxiv.org/abs/2410.05317)]"
BADGE = "![](https://img.shields.io/badge/ToCa-blue)"
SIMPLE = f"- **[1] One Title**, ICLR 2025.\n\n  *Ada Lovelace and Bo Li.*\n\n  {PAPER} [Code] {BADGE}\n"


def only(text: str) -> Entry:
    found = read(text)
    assert [remark for remark in found.remarks if remark.lost] == []
    (entry,) = found.entries
    return entry


def lost(found: AwesomeList) -> list[int]:
    return [remark.line for remark in found.remarks if remark.lost]


def test_the_list_gives_its_79_entries_word_for_word() -> None:
    found = read(render())
    assert len(found.entries) == 79
    assert of_list(found) == stored()
    assert lost(found) == []
    assert found.legend == {"blue": "Abbreviation", "green": "Application", "orange": "Mechanism"}
    assert {entry.view: 0 for entry in found.entries}.keys() == {
        "Awesome Generation Acceleration", "Training-free Generation Acceleration"
    }  # fmt: skip


def test_quirks_of_the_list_are_kept_or_remarked() -> None:
    text = render()
    found = read(text)
    assert [entry.number for entry in found.entries if not entry.number or not entry.number.isascii()] == ["７", "1２"]
    badges = [badge.text for entry in found.entries for badge in entry.badges]
    assert badges.count("badgeStep_Distillation") == 1
    (stray,) = [remark for remark in found.remarks if "stray text" in remark.text]
    assert text.split("\n")[stray.line + 1].endswith("*、")
    others = [remark.text[28:31] for remark in found.remarks if remark != stray]
    assert others == ["`20", "`20", "Fir", "Sec"]  # the news and the contents


def test_line_ends_do_not_matter() -> None:
    assert read(render().replace("\n", "\r\n")) == read(render())


SHAPES = {
    "three paragraphs": SIMPLE,
    "one paragraph": f"- **[1] One Title**, ICLR 2025.\n  *Ada Lovelace and Bo Li.*\n  {PAPER} [Code] {BADGE}\n",
    "one line": f"- **[1] One Title**, ICLR 2025. *Ada Lovelace and Bo Li.* {PAPER} [Code] {BADGE}\n",
    "hard line breaks": f"- **[1] One Title**, ICLR 2025.\\\n  *Ada Lovelace and Bo Li.*\\\n  {PAPER} {BADGE}\n",
    "ordered": f"1. **One Title**, ICLR 2025.\n\n   *Ada Lovelace and Bo Li.*\n\n   {PAPER} {BADGE}\n",
    "number before": f"- [1] **One Title**, ICLR 2025.\n\n  *Ada Lovelace and Bo Li.*\n\n  {PAPER} {BADGE}\n",
    "star": SIMPLE.replace("- ", "* ", 1),
    "underscores": SIMPLE.replace("**", "__").replace("*", "_"),
    "broken title": SIMPLE.replace("One Title", "One\n  Title"),
    "lazily broken title": SIMPLE.replace("One Title", "One\nTitle"),
    "title over two paragraphs": SIMPLE.replace("One Title", "One\n\n  Title"),
    "trailing comma": SIMPLE.replace("Li.*", "Li,*"),
    "venue in italics": SIMPLE.replace("ICLR 2025.", "*ICLR 2025*"),
    "PDF": SIMPLE.replace("[Paper]", "[PDF]"),
    "arXiv": SIMPLE.replace("[Paper]", "[arXiv]"),
    "title as link": f"- **[1] [One Title](https://arxiv.org/abs/2410.05317)**, ICLR 2025.\n\n"
    f"  *Ada Lovelace and Bo Li.*\n\n  [[Code](https://example.org/c)] {BADGE}\n",
    "link as badge": SIMPLE.replace(
        PAPER, "[![](https://img.shields.io/badge/Paper-arXiv-red)](https://arxiv.org/abs/2410.05317)"
    ),
    "HTML link": SIMPLE.replace(PAPER, '<a href="https://arxiv.org/abs/2410.05317">Paper</a>'),
    "alt text": SIMPLE.replace("![]", "![Token-wise]"),
    "HTML image": SIMPLE.replace(BADGE, '<img alt="ToCa" src="https://img.shields.io/badge/ToCa-blue.svg">'),
    "HTML image alone": SIMPLE.replace(BADGE, '\n\n  <img src="https://img.shields.io/badge/ToCa-blue">\n'),
    "style of badges": SIMPLE.replace("ToCa-blue", "ToCa-blue.svg?style=flat-square"),
    "counter": SIMPLE.replace(BADGE, BADGE + " ![](https://img.shields.io/github/stars/a/b.svg?style=social)"),
    "in a quote": "> " + SIMPLE.replace("\n", "\n> "),
    "under a group": "- A group\n  " + SIMPLE.replace("\n", "\n  "),
    "parts in a list": f"- **[1] One Title**, ICLR 2025.\n  - *Ada Lovelace and Bo Li.*\n  - {PAPER} {BADGE}\n",
    "not indented": SIMPLE.replace("\n  ", "\n"),
    "comma list": SIMPLE.replace(" and ", ", "),
    "BibTeX": SIMPLE.replace("Ada Lovelace and Bo Li", "Lovelace, Ada and Li, Bo"),
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_shapes_of_an_entry(text: str) -> None:
    entry = only(text)
    assert (entry.title, entry.venue, entry.authors) == ("One Title", "ICLR 2025", ("Ada Lovelace", "Bo Li"))
    assert entry.number == "1"
    assert entry.link("paper") == "https://arxiv.org/abs/2410.05317"
    assert [(badge.text, badge.colour) for badge in entry.badges] == [("ToCa", "blue")]


def test_an_entry_inside_an_entry_is_one_of_its_own() -> None:
    found = read(SIMPLE + "  " + SIMPLE.replace("One", "Another").replace("\n", "\n  "))
    assert [entry.title for entry in found.entries] == ["One Title", "Another Title"]
    assert [len(entry.badges) for entry in found.entries] == [1, 1]


def test_all_links_are_kept_and_addresses_stay_as_written() -> None:
    entry = only(
        SIMPLE.replace("[Code]", "[[Code](https://a.org/x%0Ay)] [[Page](https://a.org/ä)] [[Data](https://d.org)]")
    )
    assert entry.links[1:] == (("Code", "https://a.org/x%0Ay"), ("Page", "https://a.org/ä"), ("Data", "https://d.org"))
    assert entry.link("code") == "https://a.org/x%0Ay" and entry.link("project") == "https://a.org/ä"


INCOMPLETE = {
    "no authors": (SIMPLE.replace("*Ada Lovelace and Bo Li.*", ""), "no line of authors"),
    "the title as authors": (SIMPLE.replace("Ada Lovelace and Bo Li", "One Title"), "the line of authors is the title"),
    "no paper": (SIMPLE.replace("[Paper]", "[Video]"), "no link `Paper`"),
    "another image": (SIMPLE.replace(BADGE, "![](https://a.org/teaser.png)"), "this image is no badge"),
}


@pytest.mark.parametrize(("text", "said"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_entry_is_read_and_remarked(text: str, said: str) -> None:
    found = read("\n" + text)
    assert [entry.title for entry in found.entries] == ["One Title"]
    (remark,) = found.remarks
    assert said in remark.text and remark.line == 2 and not remark.lost


LOST = {
    "title not in bold": SIMPLE.replace("**", ""),
    "nothing but badges and a link": f"- {PAPER} {BADGE}\n",
    "no list item": SIMPLE.removeprefix("- "),
    "HTML list": '<ul>\n<li>One <a href="https://arxiv.org/abs/2410.05317">Paper</a></li>\n</ul>\n',
}


@pytest.mark.parametrize("text", LOST.values(), ids=LOST)
def test_what_cannot_be_read_is_named_with_its_line(text: str) -> None:
    found = read("# List\n\n" + text)
    assert found.entries == []
    assert lost(found) == [4 if text.startswith("<ul>") else 3]


def test_every_item_that_looks_like_an_entry_is_read_or_lost() -> None:
    spoilt = {"FS2": "**[2] ", "QU7": "**[７] ", "CA9": "**[9] Accelerating"}
    text = render()
    lines = text.split("\n")
    places = []
    for start in spoilt.values():
        place = next(index for index, line in enumerate(lines) if start in line)
        lines[place] = lines[place].replace("**", "")
        places.append(place + 1)
    found = read("\n".join(lines))
    assert lost(found) == sorted(places)
    assert len(found.entries) + len(lost(found)) == 79


def test_what_is_no_entry_is_none() -> None:
    text = "- [Contents](#a)\n  - [Part](#b)\n- **Note**: see [here](https://a.org)\n- [x] done\n\nOur [paper](https://a.org).\n"
    found = read(text)
    assert found.entries == [] and lost(found) == []
    assert [remark.line for remark in found.remarks] == [1, 3, 4, 6]


SECTIONS = {
    "one heading": ("# Awesome\n", ("Awesome", "")),
    "title and section": ("# Awesome\n## Pruning:\n", ("Awesome", "Pruning")),
    "furniture between": ("# Awesome\n## Contents\n### 🖼️ Pruning\n", ("Awesome", "Pruning")),
    "section below a section": ("# Awesome\n## Pruning\n### Tokens\n", ("Awesome", "Pruning: Tokens")),
    "no title": ("## Pruning\n", ("", "Pruning")),
    "two titles": ("# One\n## A\n# Two\n## B\n", ("Two", "B")),
    "HTML": ('<h1 align="center">A <b>List</b></h1>\n\n## *B* `c` [d](#e)\n', ("A List", "B c d")),
    "monospace letters": ("# 𝙰𝚋\n## B\n", ("Ab", "B")),
}


@pytest.mark.parametrize(("headings", "place"), SECTIONS.values(), ids=SECTIONS)
def test_headings_are_views_and_sections(headings: str, place: tuple[str, str]) -> None:
    entry = only(f"{headings}\n{SIMPLE}")
    assert (entry.view, entry.section) == place


NAMES = {
    "Song, Jiaming and Ermon, Stefano.": ["Jiaming Song", "Stefano Ermon"],
    "Jiaming Song and Stefano Ermon": ["Jiaming Song", "Stefano Ermon"],
    "A B, C D, E F.": ["A B", "C D", "E F"],
    "A B, C D, and E F,": ["A B", "C D", "E F"],
    "A B, C D and E F": ["A B", "C D", "E F"],
    "A B, C D & E F": ["A B", "C D", "E F"],
    "A B; C D": ["A B", "C D"],
    "A B、C D、": ["A B", "C D"],
    "Ho, Jonathan": ["Jonathan Ho"],
    "Nam, Kyuseok and others.": ["Kyuseok Nam", "others"],
    "A B, C D, et al.": ["A B", "C D", "others"],
    "OpenAI": ["OpenAI"],
}


@pytest.mark.parametrize(("text", "names"), NAMES.items(), ids=NAMES)
def test_names_in_all_styles(text: str, names: list[str]) -> None:
    assert split_names(text) == names


def test_remarks_cannot_act_on_a_terminal() -> None:
    found = read("- **[1] A\x1b[2J\u202e**, ICLR 2025\n")
    assert "\\x1b" in found.remarks[0].text and "\x1b" not in "".join(remark.text for remark in found.remarks)


def test_the_renderer_renders_what_it_is_given() -> None:
    changed: dict[str, Facts] = stored() | {"CA9": replace(stored()["CA9"], title="Another")}
    assert of_list(read(render(changed)))["CA9"].title == "Another"
