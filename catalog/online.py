"""What only the network can tell: whether links answer, and whether arXiv gives a number the title of the record."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httpx

from catalog.library import Library
from catalog.snapshot import same_title

ARXIV = "https://export.arxiv.org/api/query"
ATOM = {"atom": "http://www.w3.org/2005/Atom"}
BATCH = 50  # numbers in one question to arXiv
TIMEOUT_S = 20.0


class Finding(NamedTuple):
    """Something that is not as the record says."""

    place: str
    text: str


def findings(library: Library, client: httpx.Client | None = None, arxiv: str = ARXIV) -> Iterator[Finding]:
    """Titles that differ on arXiv, then links that do not answer or lead elsewhere. Nothing is changed."""
    with client or httpx.Client(
        timeout=TIMEOUT_S, headers={"user-agent": "awesome-generation-acceleration link check"}
    ) as web:
        yield from title_findings(library, web, arxiv)
        yield from link_findings(library, web)


def title_findings(library: Library, web: httpx.Client, arxiv: str) -> Iterator[Finding]:
    """Records whose arXiv number belongs to another title."""
    numbers = {
        record.identifiers.arxiv + (f"v{record.identifiers.version}" if record.identifiers.version else ""): record
        for record in library.records.values()
        if record.identifiers.arxiv
    }
    asked = sorted(numbers)
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        try:
            found = titles(web, arxiv, batch)
        except (httpx.HTTPError, ElementTree.ParseError) as error:
            yield Finding("arxiv", f"no answer: {error}")
            return
        for number in batch:
            record = numbers[number]
            own = [record.title, *(alias.text for alias in record.aliases if alias.kind.endswith("title"))]
            title = found.get(number.partition("v")[0])
            if title is None:
                yield Finding(f"papers/{record.id}.yaml", f"arXiv does not know {number}")
            elif not any(same_title(title, other) for other in own):
                yield Finding(f"papers/{record.id}.yaml", f"arXiv calls {number} `{title}`")


def titles(web: httpx.Client, arxiv: str, numbers: list[str]) -> Mapping[str, str]:
    """Titles by number, from one question to arXiv."""
    answer = web.get(arxiv, params={"id_list": ",".join(numbers), "max_results": str(len(numbers))})
    answer.raise_for_status()
    found = {}
    for entry in ElementTree.fromstring(answer.text).iterfind("atom:entry", ATOM):
        number = (entry.findtext("atom:id", "", ATOM)).rpartition("/")[2].partition("v")[0]
        found[number] = " ".join(entry.findtext("atom:title", "", ATOM).split())
    return found


def link_findings(library: Library, web: httpx.Client) -> Iterator[Finding]:
    """Links that do not answer, or that were moved."""
    for record in library.records.values():
        for index, link in enumerate(record.links):
            place = f"papers/{record.id}.yaml links.{index}.url"
            try:
                answer = web.head(link.url, follow_redirects=True)
                if answer.status_code in (403, 405, 501):  # some servers only answer whole requests
                    answer = web.get(link.url, follow_redirects=True)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                yield Finding(place, f"{link.url} does not answer: {error}")
                continue
            if answer.is_error:
                yield Finding(place, f"{link.url} answers {answer.status_code}")
            elif answer.history and str(answer.url).rstrip("/") != link.url.rstrip("/"):
                yield Finding(place, f"{link.url} was moved to {answer.url}")
