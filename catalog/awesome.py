"""Reading an awesome list: Markdown in, entries out, and a line number for everything that could not be read.

The shape: headings are sections; an entry is a list item of three paragraphs, or of one with three lines:

    - **[1] Title**, Venue 2024.

      *Given Family and Given Family.*

      [[Paper](url)] [[Code](url)] ![](https://img.shields.io/badge/Nickname-blue) ![](…/badge/Application-green)

A list item looks like an entry if its title has a number, or if it has two of: a title in bold type, a line of names in
italics, a link to a paper, badges. Each such item becomes an entry or a remark with `lost`; what lacks a title is lost.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from catalog.encoding import LOST, printable
from catalog.names import fold

HEAD = re.compile(
    r"^\s*(?:\[(?P<before>[^\]]*)\]\s*)?(?P<mark>\*\*|__)\s*(?:\[(?P<number>[^\]]*)\](?!\())?\s*"
    r"(?P<title>.+?)\s*(?P=mark)(?P<rest>.*)$",
    re.DOTALL,
)
VENUE_IN_ITALICS = re.compile(r"^[\s,.]*\*(?P<venue>[^*\n]*\b(?:19|20)\d\d[^*\n]*)\*")
# A venue ends where names in italics, links, images, or placeholders for links begin.
VENUE_END = re.compile(
    r"(?:^|\s)(?:\*[^*\s]|_[^_\s]|!\[|\[\[|\[[^\]]*\]\(|\[(?:paper|pdf|code|project)\]|<(?:img|a|br)\b)", re.IGNORECASE
)
AUTHORS = re.compile(
    r"^\s*(?P<mark>[*_])(?!(?P=mark))(?P<names>(?:\\.|(?!(?P=mark))[^\\])+)(?P=mark)(?P<stray>[^\n\[!<]*)", re.DOTALL
)
BADGE = re.compile(r"img\.shields\.io/(?:badge/|(?=badge))(?P<text>[^?]+)-(?P<colour>[A-Za-z0-9]+)(?:\.svg)?(?:\?.*)?$")
COUNTER = re.compile(r"img\.shields\.io/(?:github|static|endpoint)|awesome\.re|badge\.svg")  # says nothing of a paper
PAPER_SITE = re.compile(
    r"arxiv\.org/|openreview\.net/|doi\.org/|thecvf\.com/|aclanthology\.org/|neurips\.cc/|\.pdf$", re.IGNORECASE
)
NUMBERED = re.compile(r"^\[\s*\d+\s*\](?!\()")
MARKDOWN_LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<url>[^()\s]*)\)")
LIST_ITEM = re.compile(r"<li\b.*?(?=<li\b|</li>|</[ou]l>|\Z)", re.DOTALL | re.IGNORECASE)
HTML_HEADING = re.compile(r"<h(?P<level>[1-6])\b[^>]*>(?P<title>.*?)</h(?P=level)>", re.DOTALL | re.IGNORECASE)
BASE_MODELS = re.compile(r"^\W*base mod[ae]ls?\b", re.IGNORECASE)
FURNITURE = {"contents", "tableofcontents", "keywords", "legend", "news", "papers", "paperlist", "updates", "tags"}
LISTS = ("bullet_list", "ordered_list")
KINDS = {
    "paper": ("paper", "pdf", "arxiv", "abs", "openreview", "preprint"),
    "code": ("code", "github", "repo", "repository", "official code"),
    "project": ("project", "page", "project page", "website", "homepage", "home page", "webpage"),
    "weights": ("weights", "model", "models", "checkpoint", "checkpoints", "huggingface", "hugging face"),
    "demo": ("demo", "online demo"),
}


def kind_of(text: str) -> str | None:
    """Kind of a link (a word of the vocabulary of link kinds) by its text; None if the text says nothing known."""
    word = " ".join(re.sub(r"[^\w\s]|_", " ", text).casefold().split())
    return next((kind for kind, words in KINDS.items() if word in words), None)


@dataclass(frozen=True)
class Badge:
    """A badge image: its text as it stands in the address, and its colour."""

    text: str
    colour: str

    @property
    def shown(self) -> str:
        """The text as the image shows it: `_` is a space, doubled signs are single ones."""
        return self.text.replace("__", "\0").replace("_", " ").replace("\0", "_").replace("--", "-")


@dataclass(frozen=True)
class Entry:
    """One entry of a list, word for word; what it does not say is empty."""

    line: int
    view: str
    section: str
    number: str | None
    title: str
    venue: str
    authors: tuple[str, ...]  # "Given Family" each, in order
    links: tuple[tuple[str, str], ...]  # (text, address)
    badges: tuple[Badge, ...]
    file: str = ""

    def link(self, kind: str) -> str | None:
        """Address of the first link of a kind: `paper`, `code` and so on."""
        return next((url for text, url in self.links if kind_of(text) == kind), None)


@dataclass(frozen=True)
class Remark:
    """Something in a list that a reader of the import should look at."""

    line: int
    text: str
    lost: bool = False  # whether an entry could not be read
    file: str = ""

    def __post_init__(self) -> None:
        """Texts quote the list: nothing in them may act on a terminal."""
        object.__setattr__(self, "text", printable(self.text))


@dataclass
class AwesomeList:
    """What was read of a list."""

    file: str = ""
    entries: list[Entry] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    legend: dict[str, str] = field(default_factory=dict)  # colour of a badge -> what badges of that colour say
    intros: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)  # section -> its base models

    def remark(self, line: int, text: str, lost: bool = False) -> None:
        """Add a remark."""
        self.remarks.append(Remark(line, text, lost, self.file))


class AsWritten(MarkdownIt):
    """Markdown whose addresses stay as they are written."""

    def normalizeLink(self, url: str) -> str:
        """`url` unchanged."""
        return url


class Collector(HTMLParser):
    """Links and images of inline Markdown and HTML, in order. Images inside a link are its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.images: list[str] = []
        self._open: tuple[list[str], str] | None = None

    def collect(self, nodes: Iterable[SyntaxTreeNode]) -> None:
        """Add the links and images of `nodes`."""
        for node in nodes:
            if node.type == "link":
                self.links.append((label(node), str(node.attrs["href"])))
            elif node.type == "image":
                self._image(str(node.attrs["src"]), node.content)
            elif node.type in ("html_inline", "html_block"):
                self.feed(node.content)
            elif node.type == "text":
                self.handle_data(node.content)
            else:
                self.collect(node.children)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An HTML link begins, or an HTML image."""
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and values.get("href"):
            self._open = ([], values["href"])
        elif tag == "img" and values.get("src"):
            self._image(values["src"], values.get("alt", ""))

    def handle_endtag(self, tag: str) -> None:
        """An HTML link ends."""
        if tag == "a" and self._open:
            text, url = self._open
            self.links.append(("".join(text).strip(), url))
            self._open = None

    def handle_data(self, data: str) -> None:
        """Text, perhaps of a link."""
        if self._open:
            self._open[0].append(data)

    def _image(self, url: str, alternative: str) -> None:
        if self._open:
            self._open[0].append(alternative or image_text(url))
        else:
            self.images.append(url)


@dataclass(frozen=True)
class Item:
    """Parts of a list item that may be an entry."""

    line: int
    number: str
    head: re.Match[str] | None
    venue: str
    names: tuple[str, ...]
    stray: str
    links: tuple[tuple[str, str], ...]
    images: tuple[str, ...]
    excerpt: str

    @property
    def badges(self) -> tuple[Badge, ...]:
        """The images that are badges."""
        return tuple(badge for badge in map(badge_of, self.images) if badge)

    @property
    def title(self) -> str:
        """The title in one line, without a link around it."""
        raw = re.sub(r"[ \t]*\n[ \t]*", " ", self.head["title"]) if self.head else ""
        return MARKDOWN_LINK.sub(lambda link: link["text"], raw).strip()

    @property
    def has_paper(self) -> bool:
        """Whether a link leads to a paper."""
        return any(kind_of(text) == "paper" for text, _ in self.links)

    @property
    def is_numbered(self) -> bool:
        """Whether the title has a number in brackets, be it in bold type or not."""
        return bool((self.head and self.head["number"]) or NUMBERED.match(self.excerpt))

    @property
    def looks_like_entry(self) -> bool:
        """Whether this is to be an entry; see the description of this module."""
        signs = (self.head, self.names, self.has_paper, self.badges)
        return self.is_numbered or sum(map(bool, signs)) > 1


def read(text: str, file: str = "") -> AwesomeList:
    """Entries, legend and remarks of a list in Markdown; nothing is dropped without a remark."""
    found = AwesomeList(file)
    headings: list[tuple[int, str]] = []
    blocks = deque(SyntaxTreeNode(AsWritten("commonmark").parse(text)).children)
    while blocks:
        node = blocks.popleft()
        if node.type == "heading":
            enter(headings, int(node.tag[1]), "".join(texts(node)))
        elif node.type == "html_block":
            read_html(node, headings, found)
        elif node.type == "blockquote":
            blocks.extendleft(reversed(node.children))
        elif node.type in LISTS:
            read_list_node(node, outdented(node, blocks), place(headings), found)
        elif node.type == "paragraph":
            read_paragraph(node, headings, found)
    return found


def enter(headings: list[tuple[int, str]], level: int, title: str) -> None:
    """A heading begins: those of its level and below end."""
    headings[:] = [heading for heading in headings if heading[0] < level]
    headings.append((level, plain(title)))


def place(headings: list[tuple[int, str]]) -> tuple[str, str]:
    """(view, section): the outermost heading and those below it; headings such as `Contents` do not count."""
    path = [(level, title) for level, title in headings if title and fold(title.replace(LOST, "")) not in FURNITURE]
    view = path.pop(0)[1] if len(path) > 1 or (path and path[0][0] == 1) else ""
    return view, ": ".join(title for _, title in path)


def read_paragraph(node: SyntaxTreeNode, headings: list[tuple[int, str]], found: AwesomeList) -> None:
    """Outside of lists: the legend of colours, the base models of a section, or an entry that lacks its bullet."""
    item = item_of([node], node)
    legend = {badge.colour: badge.shown for badge in item.badges}
    explains = any("abbreviation" in fold(text) for text in legend.values())
    if item.is_numbered or (item.head and item.has_paper):
        found.remark(item.line, f"this entry is no list item (write `- ` before it): {item.excerpt}", lost=True)
    elif explains and len(legend) == len(item.badges) > 1:
        found.legend |= legend
    elif BASE_MODELS.match(node.children[0].content):
        found.intros.setdefault(place(headings), []).extend(item.links)
    elif item.has_paper:
        found.remark(item.line, f"a link to a paper outside of lists was not read: {item.excerpt}")


def read_html(node: SyntaxTreeNode, headings: list[tuple[int, str]], found: AwesomeList) -> None:
    """Headings in HTML count; entries in HTML lists are lost."""
    for heading in HTML_HEADING.finditer(node.content):
        enter(headings, int(heading["level"]), re.sub(r"<[^>]*>", "", heading["title"]))
    for part in LIST_ITEM.finditer(node.content):
        collector = Collector()
        collector.feed(part[0])
        if any(kind_of(text) == "paper" for text, _ in collector.links):
            line = first_line(node) + node.content.count("\n", 0, part.start())
            found.remark(line, "this entry is written in HTML: write it in Markdown", lost=True)


def read_list_node(
    node: SyntaxTreeNode, extra: list[SyntaxTreeNode], at: tuple[str, str], found: AwesomeList
) -> None:  # fmt: skip
    """Entries of a list and of the lists inside its items; `extra` belongs to the last item."""
    for item in node.children:
        last = item is node.children[-1]
        read_item(item, extra if last else [], at, found, nested=node.level > 0)


def read_item(
    node: SyntaxTreeNode, extra: list[SyntaxTreeNode], at: tuple[str, str], found: AwesomeList, nested: bool
) -> None:  # fmt: skip
    """Add the entry that a list item holds, or a remark why it is none; then those of the lists inside it."""
    inner = nested_items(node)
    headless = [child for child in inner if head_of(child) is None]
    item = item_of([*node.children, *(part for child in headless for part in child.children), *extra], node)
    if not (item.head and item.looks_like_entry):  # the lists inside are no parts of an entry
        item = item_of([*node.children, *extra], node)
        headless = []
    if item.looks_like_entry:
        add_entry(item, at, found)
    elif not nested:
        found.remark(item.line, f"this list item is no entry: {item.excerpt}")
    for child in inner:
        if child not in headless:
            read_item(child, [], at, found, nested=True)


def add_entry(item: Item, at: tuple[str, str], found: AwesomeList) -> None:
    """Add an entry, and remarks on what it lacks or holds besides; without a title it is lost."""
    if item.head is None or not item.title:
        found.remark(item.line, f"no title in bold type in: {item.excerpt}", lost=True)
        return
    names = item.names
    if names and fold(" ".join(names)) == fold(item.title):
        found.remark(item.line, f"the line of authors is the title: {item.title}")
        names = ()
    elif not names:
        found.remark(item.line, f"no line of authors in italics in: {item.excerpt}")
    if not item.has_paper:
        found.remark(item.line, f"no link `Paper` in: {item.excerpt}")
    if item.stray:
        found.remark(item.line, f"stray text after the authors: {item.stray}")
    for url in item.images:
        if badge_of(url) is None and not COUNTER.search(url):
            found.remark(item.line, f"this image is no badge: {url}")
    number = item.head["number"] or item.head["before"] or item.number or None
    found.entries.append(
        Entry(item.line, *at, number, item.title, item.venue, names, item.links, item.badges, found.file)
    )


def item_of(nodes: Iterable[SyntaxTreeNode], around: SyntaxTreeNode) -> Item:
    """Parts of what stands in `nodes`, which belong to the list item or paragraph `around`."""
    parts = [node.children[0] if node.type == "paragraph" else node for node in nodes if is_part(node)]
    contents = [part.content for part in parts]
    head, contents = split_head(contents)
    venue, contents[:1] = split_venue(head["rest"]) if head else ("", contents[:1])
    names, stray = authors_of(contents)
    collector = Collector()
    collector.collect(parts)
    links = collector.links
    if head and (link := MARKDOWN_LINK.search(head["title"])) and PAPER_SITE.search(link["url"]):
        links.append(("Paper", link["url"]))
    excerpt = next((text.split("\n")[0].strip() for text in (part.content for part in parts) if text), "")
    return Item(
        first_line(around), around.info if around.type == "list_item" else "", head, venue, tuple(names), stray,
        tuple(links), tuple(collector.images), excerpt if len(excerpt) <= 80 else excerpt[:79] + "…",
    )  # fmt: skip


def is_part(node: SyntaxTreeNode) -> bool:
    """Whether a block can be a part of an entry."""
    return node.type in ("paragraph", "html_block")


def split_head(contents: list[str]) -> tuple[re.Match[str] | None, list[str]]:
    """The title with what follows it, and the other paragraphs; the title may be broken over two of them."""
    if contents and (head := HEAD.match(contents[0])):
        return head, contents
    if len(contents) > 1 and contents[0].lstrip().startswith("**") and (head := HEAD.match("\n".join(contents[:2]))):
        return head, contents[1:]
    return None, contents


def split_venue(rest: str) -> tuple[str, list[str]]:
    """The venue that follows a title, and what follows the venue."""
    if italics := VENUE_IN_ITALICS.match(rest):
        venue, after = italics["venue"], rest[italics.end() :]
    else:
        end = match.start() if (match := VENUE_END.search(rest)) else len(rest)
        venue, after = rest[:end], rest[end:]
    return " ".join(venue.split()).strip("\\ ").removeprefix(",").strip().removesuffix(".").strip(), [after]


def authors_of(contents: Iterable[str]) -> tuple[list[str], str]:
    """Names in the first line of italics, and what else stands in that line."""
    for content in contents:
        if match := AUTHORS.match(content):
            return split_names(match["names"]), match["stray"].strip()
    return [], ""


def split_names(text: str) -> list[str]:
    """Names as "Given Family", from `Family, Given and …` (BibTeX), `Given Family and …` or `Given Family, …`."""
    text = " ".join(text.split()).rstrip(",;、 ").removesuffix(".").rstrip(",;、 ")
    text = re.sub(r",? et al\.?$", " and others", re.sub("[、,]", ", ", text))
    parts = [part.strip() for part in re.split(r",? and |;| & ", text)]
    if len(parts) == 1 and text.count(",") == 1 and " " not in text.split(",")[0].strip():
        return [swapped(text)]  # one author, family name first
    if len(parts) == 1 or is_comma_list(parts):
        parts = [name for part in parts for name in part.split(",")]
    return [swapped(name.strip()) for name in parts if name.strip()]


def is_comma_list(parts: list[str]) -> bool:
    """Whether commas stand between names (`A B, C D and E F`), and not inside them (`B, A and D, C`)."""
    if any(part.count(",") > 1 for part in parts):
        return True
    first = parts[0].partition(",")
    return len(parts) == 2 and bool(first[1]) and "," not in parts[1] and " " in first[0]


def swapped(name: str) -> str:
    """`Family, Given` as `Given Family`."""
    family, comma, given = name.partition(",")
    return f"{given.strip()} {family.strip()}".strip() if comma else name


def outdented(node: SyntaxTreeNode, blocks: deque[SyntaxTreeNode]) -> list[SyntaxTreeNode]:
    """Paragraphs after a list that belong to its last entry, because that has neither authors nor links: taken away."""
    item = item_of(node.children[-1].children, node.children[-1])
    taken: list[SyntaxTreeNode] = []
    while blocks and item.head and not item.names and not item.links and is_part(blocks[0]):
        following = item_of([blocks[0]], blocks[0])
        if following.head or not (following.names or following.links or following.images):
            break
        taken.append(blocks.popleft())
    return taken


def nested_items(node: SyntaxTreeNode) -> list[SyntaxTreeNode]:
    """Items of the lists inside a list item."""
    return [item for child in node.children if child.type in LISTS for item in child.children]


def head_of(node: SyntaxTreeNode) -> re.Match[str] | None:
    """The title in bold type of a list item."""
    return split_head([child.children[0].content for child in node.children if child.type == "paragraph"])[0]


def label(link: SyntaxTreeNode) -> str:
    """Text of a link; that of its images if it has no other."""
    text = "".join(texts(link)).strip()
    return text or "".join(image_text(str(node.attrs["src"])) for node in link.walk() if node.type == "image")


def texts(node: SyntaxTreeNode) -> Iterator[str]:
    """The words of a block, without Markdown and HTML."""
    return (child.content for child in node.walk() if child.type in ("text", "code_inline"))


def badge_of(url: str) -> Badge | None:
    """The badge behind an address, if it is one."""
    match = BADGE.search(unquote(url))
    return Badge(match["text"], match["colour"]) if match else None


def image_text(url: str) -> str:
    """What an image without alternative text says: that of a badge."""
    badge = badge_of(url)
    return badge.shown.split("-")[0] if badge else ""


def first_line(node: SyntaxTreeNode) -> int:
    """Line of a block, counted from 1."""
    return (node.map or (0, 0))[0] + 1


def plain(heading: str) -> str:
    """Text of a heading without emoji, mathematical letters, and a colon at its end; lost letters stay visible."""
    text = unicodedata.normalize("NFKC", heading)
    unsaid = ("So", "Cs", "Co", "Cn", "Cf", "Cc")
    seen = (sign for sign in text if sign == LOST or unicodedata.category(sign) not in unsaid)
    return " ".join("".join(seen).replace("\N{VARIATION SELECTOR-16}", "").split()).removesuffix(":").strip()
