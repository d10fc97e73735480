"""Views (the list's sections in order), news, and where the list came from: small YAML files beside the records."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from catalog.document import Document
from catalog.names import nearest
from catalog.schema import BaseModelName, Slug, Strict, Text, Url

ViewId = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Section(Strict):
    """A heading of a view and its papers in order."""

    id: ViewId = Field(description="Name for queries, such as `cache`.")
    title: Text = Field(description="Heading.")
    code: str | None = Field(None, pattern=r"^[A-Z]{2}$", description="Code of the section in the original list.")
    intro: Text | None = Field(None, description="A sentence under the heading.")
    base_models: list[BaseModelName] = Field([], description="Models the section is about.")
    papers: list[Slug] = Field(min_length=1, description="Ids of records, in order.")


class View(Strict):
    """One way to group the papers."""

    id: ViewId = Field(description="Name for queries: its file name without `.yaml`.")
    title: Text = Field(description="Heading.")
    position: int = Field(ge=1, description="Place among the views.")
    note: Text | None = Field(None, description="What a reader should know.")
    sections: list[Section] = Field(min_length=1, description="Sections in order.")

    def placements(self) -> list[tuple[Section, int, str]]:
        """(section, number in it counted from 1, id of the paper) of every entry, in order."""
        return [(section, number, paper) for section in self.sections for number, paper in enumerate(section.papers, 1)]


class News(Strict):
    """Something that happened."""

    date: dt.date = Field(description="Day, as 2026-11-25.")
    text: Text = Field(description="One or two sentences.")
    paper: Slug | None = Field(None, description="Id of the record it is about.")


class ListCorrection(Strict):
    """A mistake of the original file that is no entry's."""

    line: int = Field(ge=1, description="Line in the original file.")
    was: Text = Field(description="What it says.")
    now: Text = Field(description="What this catalog does instead.")
    why: Text = Field(description="What is wrong.")


class Origin(Strict):
    """The list this catalog grew from."""

    name: Text = Field(description="Its name.")
    url: Url = Field(description="Its home page.")
    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$", description="The commit that was read, in quotes.")
    date: dt.date = Field(description="Day of that commit.")
    entries: int = Field(ge=1, description="Number of its entries.")
    papers: int = Field(ge=1, description="Number of different papers in it.")
    corrections: list[ListCorrection] = Field([], description="Mistakes of the file itself.")


class NewsFile(Strict):
    """A file of news is a list; this holds it for validation."""

    items: list[News]


def view_rules(document: Document, view: View, papers: set[str]) -> None:
    """Views name known papers, each once in a section, have sections of different names, and are named as files."""
    if view.id != Path(document.file).stem:
        document.report(("id",), f"the id `{view.id}` is not the file name", f"write `{Path(document.file).stem}`")
    sections: set[str] = set()
    for index, section in enumerate(view.sections):
        if section.id in sections:
            document.report(("sections", index, "id"), f"there is another section `{section.id}`", "rename one")
        sections.add(section.id)
        seen: set[str] = set()
        for place, paper in enumerate(section.papers):
            at: tuple[Any, ...] = ("sections", index, "papers", place)
            if paper not in papers:
                document.report(at, f"there is no record `{paper}`", nearest(paper, papers))
            if paper in seen:
                document.report(at, f"`{paper}` stands twice in this section", "remove one")
            seen.add(paper)
