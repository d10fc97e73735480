"""Reading a YAML file as plain data that remembers where every value stands, so that a problem can point at its line.

The engine reads its specs by its own code: `catalog` and `engine` import nothing of each other.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 10
Keys = tuple[str | int, ...]


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
        self.marks: dict[Keys, tuple[int, int]] = {(): (1, 1)}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self.data = self._read()

    def report(self, at: Keys, rule: str, remedy: str) -> None:
        """Note a problem at the value `at`, or at the nearest enclosing one that exists."""
        place = next(at[:size] for size in range(len(at), -1, -1) if at[:size] in self.marks)
        self.problems.append(Problem(self.file, *self.marks[place], ".".join(map(str, at)), rule, remedy))

    def _read(self) -> Any:
        try:
            text = self.file.read_bytes().decode("utf-8")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError:
            return self.report((), "the file is not UTF-8", "save it as UTF-8 text")
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            self.marks[()] = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            return self.report((), f"this is not valid YAML: {getattr(error, 'problem', error)}", "mend the syntax")
        if not isinstance(node, yaml.MappingNode):
            return self.report((), "a record is a mapping of keys to values", "write `key: value` lines")
        if not unicodedata.is_normalized("NFC", text):
            self.report((), "the text is not in Unicode normal form C", "write accented letters as one character")
        return self._plain(node, ())

    def _plain(self, node: yaml.Node, at: Keys) -> Any:
        self.marks.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1))
        if id(node) in self._seen:  # compose() returns the same node for an anchor and its aliases
            return self.report(at, "anchors and aliases are not used in records", "write the value out")
        self._seen.add(id(node))
        if len(at) > MAX_DEPTH:
            return self.report(at, "values are nested too deeply", f"nest at most {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*at, index)) for index, item in enumerate(node.value)]
        try:
            data = yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return self.report(at, f"`{node.value}` is no value of the kind it looks like", "mend or quote it")
        if isinstance(data, bool) and node.value not in ("true", "false"):
            self.report(at, f"YAML reads `{node.value}` as {str(data).lower()}", "write true or false, or quote it")
        return data

    def _mapping(self, node: yaml.MappingNode, at: Keys) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in data:
                self.report((*at, key), f"the key `{key}` stands twice", "remove one of them")
                continue
            # Point at the key: that is where a reader looks.
            self.marks[*at, key] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            data[key] = self._plain(value_node, (*at, key))
        return data
