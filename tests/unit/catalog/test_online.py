"""What only the network tells, asked of a server on this machine: titles of arXiv numbers, and links."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import httpx
import pytest

from catalog import online

FAST, OTHER = "papers/fast.yaml", "papers/other.yaml"
TITLES = {"2407.01425": "Fast:\n a paper", "2407.09999": "Something else entirely"}
MOVED = {"/moved": "/new", "/moved/by/a/slash": "/moved/by/a/slash/"}
ENTRY = "<entry><id>http://arxiv.org/abs/{0}v1</id><title>{1}</title></entry>"


class Web(BaseHTTPRequestHandler):
    """Answers like arXiv under /api, and with the number in the path elsewhere."""

    def do_HEAD(self) -> None:
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        if path in MOVED:
            self.answer(301, {"location": MOVED[path]})
        elif path == "/loop":
            self.answer(302, {"location": "/loop"})
        elif path.startswith("/status/"):
            code, _, method = path.removeprefix("/status/").partition("/")
            self.answer(200 if method == self.command else int(code))
        else:
            self.answer(200)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path != "/api":
            return self.do_HEAD()
        titles = self.server.titles  # type: ignore[attr-defined]
        numbers = [number.partition("v")[0] for number in parse_qs(url.query)["id_list"][0].split(",")]
        entries = "".join(ENTRY.format(number, escape(titles[number])) for number in numbers if number in titles)
        self.answer(200, {}, f'<feed xmlns="http://www.w3.org/2005/Atom">{entries}</feed>')

    def answer(self, code: int, headers: dict[str, str] | None = None, text: str = "") -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "content-length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    web: Any = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    web.titles, web.asked = dict(TITLES), []
    web.address = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def found(project: Any, server: Any) -> Any:
    """The findings about the project, whose second record links to a page of the server; nothing may be written."""
    (project.root / "seed/list.yaml").unlink()
    (project.root / "snapshots/arxiv.yaml").unlink()

    def findings(page: str = "/good") -> list[tuple[str, str]]:
        for name in (FAST, OTHER):
            text = project.read(name)
            start, end = text.index("links:"), text.index("tags:")
            url = page if "://" in page else server.address + page
            link = f'links:\n  - {{kind: paper, url: "{url if name == OTHER else server.address + "/fast"}"}}\n'
            project.write(name, text[:start] + link + text[end:])
        before = project.files()
        listed = list(online.findings(project.library(), httpx.Client(timeout=5), f"{server.address}/api"))
        assert project.files() == before
        return [(finding.place, finding.text.replace(server.address, "SITE")) for finding in listed]

    return findings


def test_good_titles_and_links_are_no_findings(found: Any, server: Any) -> None:
    assert found() == []
    assert server.asked == [("HEAD", "/fast"), ("HEAD", "/good")]


def test_a_title_that_differs_is_found(found: Any, server: Any) -> None:
    server.titles["2407.09999"] = "On protein <folding>"
    assert found() == [(OTHER, "arXiv calls 2407.09999 `On protein <folding>`")]


def test_an_earlier_title_is_known(found: Any, server: Any, project: Any) -> None:
    server.titles["2407.09999"] = "Its first title was longer"
    project.change(OTHER, "authors:", "aliases:\n  - {text: Its first title was longer, kind: earlier_title}\nauthors:")
    assert found() == []


def test_an_unknown_number_is_found_with_its_version(found: Any, server: Any, project: Any) -> None:
    del server.titles["2407.09999"]
    project.change(OTHER, 'arxiv: "2407.09999"', 'arxiv: "2407.09999", version: 2')
    assert found() == [(OTHER, "arXiv does not know 2407.09999v2")]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("/status/404", "SITE/status/404 answers 404"),
        ("/status/500", "SITE/status/500 answers 500"),
        ("/status/403", "SITE/status/403 answers 403"),
        ("/status/405/GET", None),
        ("/status/501/GET", None),
        ("/moved", "SITE/moved was moved to SITE/new"),
        ("/moved/by/a/slash", None),
        ("/loop", "SITE/loop does not answer: Exceeded maximum allowed redirects."),
        ("http://[broken", "http://[broken does not answer"),
        ("http://127.0.0.1:99999/x", "http://127.0.0.1:99999/x does not answer"),
    ],
)
def test_links_that_do_not_lead_there_are_found(found: Any, page: str, text: str | None) -> None:
    findings = found(page)
    if text is None:
        assert findings == []
    else:
        ((place, said),) = findings
        assert place == f"{OTHER} links.0.url" and said.startswith(text)


def test_a_server_that_is_away_is_said_once_for_arxiv_and_for_every_link(project: Any, server: Any) -> None:
    library = project.library()
    client = httpx.Client(transport=httpx.MockTransport(refuse))
    findings = list(online.findings(library, client, "http://arxiv.invalid/api"))
    assert [finding.place for finding in findings] == ["arxiv", f"{FAST} links.0.url", f"{OTHER} links.0.url"]
    assert findings[0].text == "no answer: refused" and findings[1].text.endswith("does not answer: refused")


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_an_answer_that_is_no_list_of_papers_is_found(project: Any) -> None:
    library = project.library()
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))) as client:
        findings = list(online.title_findings(library, client, "http://arxiv.invalid/api"))
    assert [finding.place for finding in findings] == ["arxiv"] and findings[0].text.startswith("no answer")


def test_many_numbers_are_asked_in_batches(project: Any, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    monkeypatch.setattr(online, "BATCH", 1)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["id_list"])
        return httpx.Response(200, text='<feed xmlns="http://www.w3.org/2005/Atom"/>')

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        assert len(list(online.title_findings(project.library(), client, "http://arxiv.invalid/api"))) == 2
    assert asked == ["2407.01425", "2407.09999"]


def test_the_command_prints_findings_and_exits_1(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "findings", lambda _: iter([online.Finding("papers/x.yaml", "is gone")]))
    result = project.catalog("check", "--online")
    assert (result.exit_code, result.stderr) == (1, "papers/x.yaml: is gone\n")
    assert result.stdout.startswith("ok: 2 records") and result.stdout.endswith("online: 1 findings\n")
    monkeypatch.setattr(online, "findings", lambda _: iter(()))
    assert project.catalog("check", "--online").exit_code == 0
