"""The list this catalog grew from, rendered from its facts: its shape and its quirks, in words of our own.

The facts are those of `catalog/seed/entries.json`; the prose of the original is not in this repository.
"""

# ruff: noqa: RUF001 (letters that look like others are what this is about)

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from catalog.seed import Facts, stored

SECOND_GROUP = "SD"  # the section that the second group begins with
COMMA_LISTS = ("FS5", "FS6", "CA14", "DT10")
PLAIN_LISTS = ("FS4", "PR7", "PR8", "QU7", "SD10", "SD11", "OT1", "AR1")
INDENTED = ("QU6", "QU7")
APPLICATIONS = {
    "Image_Generation", "Text2Image", "Image_Editing", "Personalized_Generation", "Video_Generation", "Text2Video"
}  # fmt: skip
MONOSPACE = {
    ord(letter): chr(0x1D670 + place)
    for place, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
}
TITLE = "Awesome Generation Acceleration".translate(MONOSPACE)
SECOND_TITLE = "Training-free Generation Acceleration".translate(MONOSPACE)
HEADER = f"""\
<div align=center>

# {TITLE}

<p>

![papercount](https://img.shields.io/badge/Papercount-50+-pink)
[![Maintained](https://img.shields.io/badge/maintained%3F-yes-green.svg)](https://example.org/activity)
👐👐 Write to us! 👐👐

</p>

</div>

## 🔥 <span id="head1"> *News* </span>

* `2024/10/12` 🚀🚀 Our work [ToCa](https://github.com/Shenyi-Z/ToCa) is out, at **2.36×**!

* `2024/07/15` 🤗🤗 This list begins.

## 📚 <span id="head1"> *Contents* </span>

- First group
  - [Fast Sampling](#fast-sampling)
- Second group
  - [Stable Diffusion](#stable-diffusion)
\x20
## 💬 <span id="head1"> *Keywords* </span>
![](https://img.shields.io/badge/Abbreviation-blue) ![](https://img.shields.io/badge/Application-green) \
![](https://img.shields.io/badge/Mechanism-orange)\x20

## 📝 <span id="head1"> *Papers* </span>

"""
SECOND_HEADER = f"""\
<div align=center>

# {SECOND_TITLE}

:loudspeaker: A few words.

</div>

"""
BASE_MODELS = {
    "SD": "[Stable Diffusion](https://github.com/CompVis/stable-diffusion) and "
    "[Text2Video-Zero](https://github.com/Picsart-AI-Research/Text2Video-Zero)",
    "DT": "[DiT-XL](https://github.com/facebookresearch/DiT) and "
    "[PIXART-α](https://github.com/PixArt-alpha/PixArt-alpha)",
    "AR": "[Anole](https://github.com/GAIR-NLP/anole)",
}


def render(facts: Mapping[str, Facts] | None = None) -> str:
    """The list in Markdown; default: all 79 entries."""
    facts = facts or stored()
    text = HEADER
    for prefix, codes in groupby(facts, key=lambda code: code[:2]):
        text += SECOND_HEADER if prefix == SECOND_GROUP else ""
        entries = "".join(entry(code, facts[code]) for code in codes)
        section = facts[f"{prefix}1"].section
        text += f"### {section}\n{base_models(prefix)}\n{entries}\n  \n"
    return text


def base_models(prefix: str) -> str:
    """The line under the heading of a section in the second group."""
    return f"Base modals: {BASE_MODELS[prefix]} for Text2Image.\n" if prefix in BASE_MODELS else ""


def entry(code: str, facts: Facts) -> str:
    """One list item."""
    indent = " " if code in INDENTED else ""
    stray = "、" if code == "QU5" else ""
    code_link = f"[[Code]({facts.code})]" if facts.code else "[Code]"
    paper = facts.paper.replace("arXiv:", "https://arxiv.org/pdf/")
    return (
        f"{indent}- **[{facts.number}] {facts.title}**, {facts.venue}.\n{indent}  \n"
        f"{indent}  *{names(code, facts.authors)}.*{stray}\n\n"
        f"{indent}  [[Paper]({paper})] {code_link} {badges(code, facts.badges)}\n\n"
    )


def names(code: str, authors: Iterable[str]) -> str:
    """The line of authors, in one of the three styles of the list."""
    if code in COMMA_LISTS:
        return ", ".join(authors)
    return " and ".join(name if code in PLAIN_LISTS else family_first(name) for name in authors)


def family_first(name: str) -> str:
    """`Given Family` as BibTeX has it."""
    given, space, family = name.rpartition(" ")
    return f"{family}, {given}" if space else name


def badges(code: str, texts: Iterable[str]) -> str:
    """Badges without alternative text, coloured by the legend."""
    images = []
    for place, text in enumerate(texts):
        colour = "green" if text in APPLICATIONS else "blue" if place == 0 else "orange"
        folder = "" if text.startswith("badge") else "badge/"  # one badge lacks its slash
        images.append(f"![](https://img.shields.io/{folder}{text}-{colour})")
    return ("\N{IDEOGRAPHIC SPACE}" if code == "QU7" else " ").join(images)


def damaged(text: str, encoding: str = "cp1254", undefined: str = "drop") -> str:
    """`text` as if its UTF-8 had been read in another encoding; undefined bytes are dropped, kept or marked."""
    shown = {"drop": lambda byte: "", "keep": chr, "mark": lambda byte: "\N{REPLACEMENT CHARACTER}"}[undefined]
    return "".join(bytes([byte]).decode(encoding, "ignore") or shown(byte) for byte in text.encode())
