"""The beginning of a new record: what is known filled in, the rest explained."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from catalog.errors import CatalogError
from catalog.files import write_whole
from catalog.schema import Record

SLUG = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
NUMBER = re.compile(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}", re.ASCII)
TODO = "TODO"


class BadName(CatalogError):
    """No record can be begun under this name or number; the text says what to write."""


def write_skeleton(root: Path, slug: str, arxiv: str | None, title: str | None) -> Path:
    """Write `papers/<slug>.yaml`; an existing record is never touched. Raises `BadName`."""
    if not SLUG.fullmatch(slug):
        raise BadName(
            f"`{slug}` is no id\n    -> write lower-case letters, digits and single underscores, such as skip_dit"
        )
    if arxiv and not NUMBER.fullmatch(arxiv):
        raise BadName(f"`{arxiv}` is no arXiv number\n    -> write it without version, such as 2410.05317")
    title = unicodedata.normalize("NFC", " ".join((title or "").split()))
    if unseen := next((sign for sign in title if not sign.isprintable()), None):
        raise BadName(f"the title holds the unseen character U+{ord(unseen):04X}\n    -> write it without")
    file = root / "papers" / f"{slug}.yaml"
    if file.exists():
        raise BadName(f"the record {file} is there already\n    -> edit it, or take another id")
    write_whole(file, skeleton(slug, arxiv, title))
    return file


def skeleton(slug: str, arxiv: str | None, title: str | None) -> str:
    """A record in which every value to fill in says `TODO`, with the meaning of each key beside it."""
    meant = {info.alias or name: info.description or "" for name, info in Record.model_fields.items()}
    ids = f'{{arxiv: "{arxiv}"}}' if arxiv else "{}"
    address = f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://example.org/{TODO}"
    year, month = (2000 + int(arxiv[:2]), int(arxiv[2:4])) if arxiv else (2026, 1)
    venue = f"{{venue: arxiv, year: {year}, month: {month}, kind: preprint, primary: true}}"
    quoted = (title or TODO).replace("\\", "\\\\").replace('"', '\\"')
    return f"""\
schema: 1
id: {slug}
title: "{quoted}" # {meant["title"]}
abbreviation: {TODO}-{slug.replace("_", "-")} # {meant["abbreviation"]}
authors: # {meant["authors"]}
  - {{given: {TODO}, family: {TODO}}}
identifiers: {ids} # {meant["identifiers"]}
publications: # {meant["publications"]}
  - {venue}
links: # {meant["links"]}
  - {{kind: paper, url: "{address}"}}
tags: # Words of catalog/vocab.
  applications: []
  mechanisms: []
  training: null
  scope: acceleration
  base_models: []
technique: {{block: {slug}, status: planned}} # {meant["technique"]}
claims: [] # {meant["claims"]}
summary:
  short: {TODO} # One sentence of at most 160 characters, in your own words.
"""
