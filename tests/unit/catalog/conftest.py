"""A small project with a catalog of two papers, which tests change and read again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from catalog.cli import app
from catalog.document import Problem
from catalog.library import Library, load_library
from catalog.record import InvalidRecords
from catalog.vocabulary import FOLDER

FAST = """\
schema: 1
id: fast
title: "Fast: a paper"
abbreviation: Fast-Er
aliases:
  - {text: Quick, kind: abbreviation}
authors:
  - {given: Ada, family: Lovelace}
  - {given: Alan, family: Turing}
identifiers: {arxiv: "2407.01425", doi: 10.1000/fast-1, openreview: abcDEF}
publications:
  - {venue: arxiv, year: 2024, month: 7, kind: preprint}
  - {venue: iclr, year: 2025, kind: conference, primary: true}
links:
  - {kind: paper, url: "https://arxiv.org/abs/2407.01425", checked: 2026-11-23, status: ok}
tags:
  applications: [text_to_video]
  mechanisms: [feature_caching]
  training: none
  scope: acceleration
  base_models: [opensora]
technique: {block: fast, status: implemented, specs: [specs/fast_opensora.yaml]}
relations:
  - {type: extends, target: other}
claims:
  - id: speed
    base_model: opensora
    metric: flops_speedup
    value: 2
    settings: {steps: 30, parameters: {interval: 3}}
    source: {where: abstract}
    confidence: A
summary:
  short: It is fast.
seed:
  entries: [CA1]
  badges: [Fast-Er, Text2Video, Cache_Mechanism]
corrections:
  - field: venue
    was: arXiv 2024
    now: ICLR 2025
    why: accepted later
    evidence: its README
    confidence: A
    by: audit
    date: 2026-11-23
"""
OTHER = """\
schema: 1
id: other
title: Something else entirely
abbreviation: Other
authors:
  - {given: Grace, family: Hopper}
identifiers: {arxiv: "2407.09999", doi: 10.1000/other, openreview: ghiJKL}
publications:
  - {venue: arxiv, year: 2024, month: 7, kind: preprint, primary: true}
links:
  - {kind: paper, url: "https://arxiv.org/abs/2407.09999"}
tags:
  applications: [image_generation]
  mechanisms: [token_merging]
  training: none
seed:
  entries: [CA2]
  badges: [Other, Image_Generation, Token_Merging]
"""
FILES = {
    "papers/fast.yaml": FAST,
    "papers/other.yaml": OTHER,
    "views/mechanism.yaml": """\
id: mechanism
title: Papers by Mechanism
position: 1
sections:
  - {id: cache, title: Cache Mechanism, code: CA, papers: [fast, other]}
  - id: video
    title: Papers on Video
    base_models: [opensora]
    papers:
      - fast
""",
    "news/2026.yaml": """\
items:
  - {date: 2026-11-24, text: The catalog was begun.}
  - {date: 2026-11-25, paper: fast, text: Fast runs on Open-Sora.}
""",
    "seed/list.yaml": """\
name: A list
url: "https://example.org/list"
commit: "1fc4e79"
date: 2024-12-04
entries: 2
papers: 2
corrections:
  - {line: 3, was: modals, now: models, why: misspelt}
""",
    "seed/entries.json": json.dumps(
        {
            "CA1": {
                "section": "Cache Mechanism", "number": "1", "title": "Fast: a paper", "venue": "arXiv 2024",
                "authors": ["Ada Lovelace", "Alan Turing"], "paper": "arXiv:2407.01425", "code": None,
                "badges": ["Fast-Er", "Text2Video", "Cache_Mechanism"],
            },
            "CA2": {
                "section": "Cache Mechanism", "number": "2", "title": "Something else entirely", "venue": "arXiv 2024",
                "authors": ["Grace Hopper"], "paper": "arXiv:2407.09999", "code": None,
                "badges": ["Other", "Image_Generation", "Token_Merging"],
            },
        },
        indent=1,
    ),
    "snapshots/arxiv.yaml": """\
date: 2026-11-23
titles:
  "2407.01425": ["Fast: a paper"]
  "2407.09999": ["Something else entirely"]
  "2407.01426": ["A paper on protein folding"]
""",
}  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A project folder with specs and a catalog."""

    folder: Path

    @property
    def root(self) -> Path:
        """The catalog."""
        return self.folder / "catalog"

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the catalog."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def read(self, name: str) -> str:
        """A file of the catalog."""
        return (self.root / name).read_text(encoding="utf-8")

    def change(self, name: str, old: str, new: str) -> str:
        """Replace what stands once in a file; returns its new text."""
        text = self.read(name)
        assert text.count(old) == 1, f"`{old}` does not stand once in {name}"
        self.write(name, text.replace(old, new))
        return text.replace(old, new)

    def own_vocabularies(self) -> None:
        """Give the catalog words of its own."""
        shutil.copytree(FOLDER, self.root / "vocab")

    def library(self) -> Library:
        """The catalog, if it is valid."""
        return load_library(self.root)

    def problems(self) -> list[Problem]:
        """All that is wrong with the catalog."""
        with pytest.raises(InvalidRecords) as caught:
            load_library(self.root)
        assert all(problem.rule and problem.remedy for problem in caught.value.problems)
        return caught.value.problems

    def explains(self, name: str, old: str, new: str, key: str, at: str, rule: str, remedy: str) -> None:
        """The change is answered with this one problem, which points at the text `at`."""
        text = self.change(name, old, new)
        problems = self.problems()
        assert [rule in problem.rule for problem in problems] == [True], list(map(str, problems))
        problem = problems[0]
        assert (problem.file, problem.key) == (self.root / name, key)
        assert text.split("\n")[problem.line - 1][problem.column - 1 :].startswith(at), str(problem)
        assert remedy in problem.remedy

    def files(self) -> dict[str, bytes]:
        """Everything in the project folder."""
        return {str(file): file.read_bytes() for file in sorted(self.folder.rglob("*")) if file.is_file()}

    def catalog(self, *arguments: str) -> Result:
        """What a command answers about this catalog."""
        return catalog(*arguments, "--catalog", str(self.root))


def catalog(*arguments: str) -> Result:
    """What a command answers; an exception it did not expect fails the test."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A valid catalog of two papers inside a project that has their spec, with a database of its own."""
    project = Project(tmp_path)
    for name, text in FILES.items():
        project.write(name, text)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "fast_opensora.yaml").touch()
    monkeypatch.delenv("CATALOG_DATABASE_URL", raising=False)
    return project
