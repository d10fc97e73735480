"""Reading a YAML file as plain data that remembers where every value stands, so that a problem can point at its line.

The engine reads its specs by its own code: `catalog` and `engine` import nothing of each other.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 10
SAFE: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times faster
# Control signs, soft hyphens, signs without width, signs that turn the direction of writing, unreadable letters.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufffd\ufeff]")
TEXT = "tag:yaml.org,2002:str"
TODO = re.compile(r"\bTODO\b")
KINDS: dict[type[yaml.Node], str] = {
    yaml.MappingNode: "tag:yaml.org,2002:map",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
}
Keys = tuple[str | int, ...]


class Loader(SAFE):  # type: ignore[misc, valid-type]
    """PyYAML's safe loader without its resolvers of paths, which nobody registers and every node would ask."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Tag of a node that names none."""
        if kind is not yaml.ScalarNode:
            return KINDS[kind]
        resolvers = self.yaml_implicit_resolvers.get(value[:1], ()) if implicit[0] else ()
        return next((tag for tag, pattern in resolvers if pattern.match(value)), TEXT)

    def descend_resolver(self, *_: object) -> None:
        """Nothing to note."""

    def ascend_resolver(self) -> None:
        """Nothing to forget."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, which rule was broken, and the remedy."""

    file: Path
    line: int
    column: int
    key: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column} {self.key}".strip()
        return f"{where}: {self.rule}\n    -> {self.remedy}"


class Document:
    """A YAML file as plain data, with the place of every value and the problems met so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._root: yaml.Node | None = None
        self._start = (1, 1)
        self._suspicious = True
        self.problems: list[Problem] = []
        self.data: Any = None
        self._seen: set[int] = set()
        self._constructor = yaml.constructor.SafeConstructor()
        self.data = self._read()

    def report(self, at: Keys, rule: str, remedy: str) -> None:
        """Note a problem at the value `at`, or at the nearest enclosing one that exists."""
        self.problems.append(Problem(self.file, *self._place(at), ".".join(map(str, at)), rule, remedy))

    def _place(self, at: Keys) -> tuple[int, int]:
        """Line and column of a value; of a key where there is one: that is where a reader looks."""
        if self._root is None and isinstance(self.data, dict):
            self._root = yaml.compose(self.file.read_bytes().decode("utf-8"), Loader=Loader)
        node, place = self._root, self._start
        for part in at:
            pair = _pair(node, part)
            if pair is None:
                break
            place, node = (pair[0].start_mark.line + 1, pair[0].start_mark.column + 1), pair[1]
        return place

    def _read(self) -> Any:
        try:
            text = self.file.read_bytes().decode("utf-8")
            node = yaml.compose(text, Loader=Loader)
        except OSError as error:
            return self.report((), f"the file cannot be read: {error.strerror}", "check what it is and who may read it")
        except UnicodeDecodeError:
            return self.report((), "the file is not UTF-8", "save it as UTF-8 text")
        except (yaml.YAMLError, RecursionError) as error:
            return self._invalid(error, text)
        if not isinstance(node, yaml.MappingNode):
            return self.report((), "a record is a mapping of keys to values", "write `key: value` lines")
        for number, line in enumerate(() if unicodedata.is_normalized("NFC", text) else text.split("\n"), 1):
            if not unicodedata.is_normalized("NFC", line):
                rule, remedy = "the text is not in Unicode normal form C", "write accented letters as one character"
                self.problems.append(Problem(self.file, number, 1, "", rule, remedy))
        # What no text may hold stands in the file itself, or is written as an escape.
        self._suspicious = bool("\\" in text or UNSEEN.search(text) or TODO.search(text))
        self._root, self._start = node, (node.start_mark.line + 1, node.start_mark.column + 1)
        data = self._plain(node, ())
        self._root = None  # thousands of documents would fill the memory; a problem found later reads its file again
        return data

    def _invalid(self, error: Exception, text: str) -> None:
        """Report what the parser says, at its place; libyaml counts a line after the last one."""
        mark, lines = getattr(error, "problem_mark", None), text.splitlines()
        if mark:
            self._start = (mark.line + 1, mark.column + 1) if mark.line < len(lines) else (len(lines), 1)
        cause = getattr(error, "problem", None) or str(error).partition("\n")[0]
        self.report((), f"this is not valid YAML: {cause}", "mend the syntax")

    def _plain(self, node: yaml.Node, at: Keys) -> Any:
        if id(node) in self._seen:  # compose() returns the same node for an anchor and its aliases
            return self.report(at, "anchors and aliases are not used in records", "write the value out")
        self._seen.add(id(node))
        if len(at) > MAX_DEPTH:
            return self.report(at, "values are nested too deeply", f"nest at most {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*at, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _scalar(self, node: yaml.Node, at: Keys) -> Any:
        try:
            data = self._constructor.construct_object(node) if node.tag != TEXT else node.value
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):  # the last two: !!bool and !!timestamp
            return self.report(at, f"`{node.value}` is no value of the kind it looks like", "mend or quote it")
        if isinstance(data, str) and self._suspicious:
            self._text(data, at)
        if isinstance(data, bool) and node.value not in ("true", "false"):
            self.report(at, f"YAML reads `{node.value}` as {str(data).lower()}", "write true or false, or quote it")
        return data

    def _text(self, text: str, at: Keys) -> None:
        """Report what no text of a finished record holds."""
        if match := UNSEEN.search(text):
            rule = f"the text holds the unseen or unreadable character U+{ord(match[0]):04X}"
            self.report(at, rule, "remove it, or write the letter that was meant")
        if TODO.search(text):
            self.report(at, f"`{text}` is still to do", "write what the comment beside it asks for")

    def _mapping(self, node: yaml.MappingNode, at: Keys) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                place = key_node.start_mark.line + 1, key_node.start_mark.column + 1
                rule = "a key is a list or a mapping"
                self.problems.append(Problem(self.file, *place, ".".join(map(str, at)), rule, "write one word"))
                continue
            key = str(key_node.value)
            if key in data:
                place = key_node.start_mark.line + 1, key_node.start_mark.column + 1
                rule = f"the key `{key}` stands twice"
                self.problems.append(
                    Problem(self.file, *place, ".".join(map(str, (*at, key))), rule, "remove one of them")
                )
                continue
            if self._suspicious:
                self._text(key, (*at, key))
            data[key] = self._plain(value_node, (*at, key))
        return data


def _pair(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """What stands for a key or an index (the key, or the item), and the value there; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        return next((pair for pair in node.value if pair[0].value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
