"""Reading YAML as plain data that remembers where every value stands: safe, strict, and bounded.

No tags, no anchors, no duplicate keys, no file over a megabyte. `extends` and overlays are merged here, so that a
problem found later still points at the line the value came from, in whichever file that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from engine.errors import InvalidInput, Place, Problem, nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
SHIPPED_SPECS = Path(__file__).parent.parent / "specs"


@dataclass(frozen=True)
class Value:
    """A YAML value and its place: `data` is a scalar, a dict of Values, or a list of Values."""

    data: Any
    place: Place

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def _inner(self, step: str | int) -> Value | None:
        if isinstance(self.data, dict):
            return self.data.get(step)
        if isinstance(self.data, list) and isinstance(step, int) and step < len(self.data):
            return cast(Value, self.data[step])
        return None

    def at(self, path: tuple[str | int, ...]) -> Place:
        """The place of the value at `path`, or of the nearest enclosing value that exists."""
        current = self
        for index, step in enumerate(path):
            inner = current._inner(step)
            if inner is None:
                missing = ".".join(str(part) for part in path)
                return Place(current.place.file, current.place.line, current.place.column, missing)
            key = ".".join(str(part) for part in path[: index + 1])
            current = Value(inner.data, Place(inner.place.file, inner.place.line, inner.place.column, key))
        return current.place


def refuse(rule: str, remedy: str, place: Place) -> InvalidInput:
    """An `InvalidInput` with one problem."""
    return InvalidInput(Problem(rule, remedy, place))


def read_text(path: Path) -> str:
    """The text of a spec file, or an error that says why it cannot be read."""
    place = Place(path)
    if path.is_dir():
        raise refuse("this is a folder, not a spec file", "name a .yaml file inside it", place)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise refuse(
                f"the file has {size:,} bytes; a spec may have {MAX_BYTES:,}",
                "a spec holds settings only: check that this is the right file",
                place,
            )
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise refuse(f"byte {error.start} is not UTF-8", "save the file as UTF-8 text", Place(path, line)) from None
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        remedy = nearest(path.name, siblings) if siblings else "check the path"
        raise refuse("there is no such file", remedy, place) from None
    except OSError as error:
        raise refuse(f"the file cannot be read: {error.strerror}", "check its permissions", place) from None


def parse(text: str, file: Path | None = None) -> Value:
    """Parse one YAML document whose top level is a mapping."""
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise refuse(
                    "anchors and aliases are not used in specs",
                    "write the value out, or move it to a base file and use `extends`",
                    _place(event.start_mark, file),
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise refuse(f"the file holds a character that is no text ({error.reason})", "remove it", Place(file)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(mark, file) if mark else Place(file)
        raise refuse(f"this is not valid YAML: {error.problem or error.context}", "mend the syntax", place) from None
    except RecursionError:
        raise refuse("values are nested too deeply", f"nest at most {MAX_DEPTH} levels", Place(file, 1)) from None
    if node is None:
        raise refuse("the file is empty", "start with `model:`, or `extends:` a shipped base", Place(file, 1))
    if not isinstance(node, yaml.MappingNode):
        raise refuse("the top level must be a mapping of keys to values", "write `key: value` lines", Place(file, 1))
    problems: list[Problem] = []
    value = _convert(node, file, (), problems)
    if problems:
        raise InvalidInput(problems)
    return value


def _place(mark: Any, file: Path | None, key: str = "") -> Place:
    return Place(file, mark.line + 1, mark.column + 1, key)


def _convert(node: yaml.Node, file: Path | None, path: tuple[str, ...], problems: list[Problem]) -> Value:
    place = _place(node.start_mark, file, ".".join(path))
    if len(path) > MAX_DEPTH:
        problems.append(Problem("values are nested too deeply", f"nest at most {MAX_DEPTH} levels", place))
        return Value(None, place)
    if isinstance(node, yaml.MappingNode):
        return Value(dict(_entries(node, file, path, problems)), place)
    if isinstance(node, yaml.SequenceNode):
        items = [_convert(item, file, (*path, str(index)), problems) for index, item in enumerate(node.value)]
        return Value(items, place)
    loader = yaml.SafeLoader("")
    try:
        data = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        problems.append(
            Problem(f"the tag or value `{node.tag}` is not plain data", "use text, numbers, true, false or null", place)
        )
        return Value(None, place)
    if not isinstance(data, str | int | float | bool | None):
        # YAML 1.1 reads 2024-01-01 as a date; a spec has no use for one, but a prompt may look like it.
        data = node.value
    return Value(data, place)


def _entries(
    node: yaml.MappingNode, file: Path | None, path: tuple[str, ...], problems: list[Problem]
) -> Iterator[tuple[str, Value]]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        place = _place(key_node.start_mark, file, ".".join(path))
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            problems.append(Problem("keys must be plain words", "write `key: value`", place))
            continue
        key = str(key_node.value)
        if key in seen:
            problems.append(
                Problem(f"the key `{key}` stands twice (first in line {seen[key]})", "remove one of them", place)
            )
            continue
        seen[key] = key_node.start_mark.line + 1
        value = _convert(value_node, file, (*path, key), problems)
        # Point at the key: that is where a reader looks for a setting.
        yield key, Value(value.data, _place(key_node.start_mark, file, ".".join((*path, key))))


def merge(base: Value, over: Value) -> Value:
    """`over` on top of `base`: mappings merge, everything else replaces.

    One addition: where `base` is a list of techniques (single-key mappings) and `over` a mapping of technique to
    parameters, the parameters of the techniques already listed change.
    """
    if isinstance(base.data, dict) and isinstance(over.data, dict):
        merged = dict(base.data)
        for key, value in over.data.items():
            merged[key] = merge(merged[key], value) if key in merged else value
        return Value(merged, over.place)
    if isinstance(base.data, list) and isinstance(over.data, dict):
        return _merge_listed(base, over)
    return over


def _merge_listed(base: Value, over: Value) -> Value:
    pending = dict(over.data)
    items = []
    for item in base.data:
        names = list(item.data) if isinstance(item.data, dict) else []
        name = names[0] if len(names) == 1 else None
        if name in pending:
            change, old = pending.pop(name), item.data[name]
            settings = merge(old, change) if isinstance(old.data, dict) else change
            item = Value({name: settings}, item.place)
        items.append(item)
    if pending:
        name, value = next(iter(pending.items()))
        listed = [str(next(iter(item.data))) for item in base.data if isinstance(item.data, dict) and item.data]
        raise refuse(f"`{name}` is not in the list that this changes", nearest(name, listed), value.place)
    return Value(items, over.place)


def specs_root(path: Path) -> Path:
    """The folder that `extends` is relative to: the nearest `specs` folder above `path`, or the file's own folder."""
    folder = path.resolve().parent
    return next((parent for parent in (folder, *folder.parents) if parent.name == "specs"), folder)


def load(path: Path, _chain: tuple[Path, ...] = ()) -> Value:
    """Read a spec file with everything it extends merged underneath."""
    value = parse(read_text(path), path)
    extends = value.data.pop("extends", None)
    if extends is None:
        return value
    if not isinstance(extends.data, str):
        raise refuse("`extends` must be the path of one file", "write `extends: models/opensora.yaml`", extends.place)
    root = specs_root(path)
    target = (root / extends.data).resolve()
    if not target.is_relative_to(root):
        raise refuse(
            f"`extends: {extends.data}` leaves the specs folder {root}",
            "extend a file inside the folder, written relative to it",
            extends.place,
        )
    if not target.exists():
        target = (SHIPPED_SPECS / extends.data).resolve()
    if not target.is_relative_to(SHIPPED_SPECS) and not target.is_relative_to(root):
        raise refuse(f"`extends: {extends.data}` leaves the specs folder", "extend a file inside it", extends.place)
    chain = (*_chain, path.resolve())
    if target in chain:
        loop = " -> ".join(step.name for step in (*chain, target))
        raise refuse(f"`extends` goes in a circle: {loop}", "remove one of the links", extends.place)
    if not target.is_file():
        known = {str(file.relative_to(base)) for base in (root, SHIPPED_SPECS) for file in base.glob("**/*.yaml")}
        raise refuse(f"there is no file `{extends.data}` to extend", nearest(extends.data, known), extends.place)
    return merge(load(target, chain), value)


def assign(value: Value, dotted: str, text: str, option: str) -> Value:
    """`value` with the key `dotted` (`techniques.toca.interval`) set to the YAML scalar or flow value `text`."""
    place = Place(None, None, None, option)
    keys = dotted.split(".")
    if not all(keys):
        raise refuse(f"`{option}` names no key", "write KEY=VALUE, for example techniques.toca.interval=4", place)
    new = cast("dict[str, Value]", parse(f"value: {text}\n").data)["value"]
    new = Value(new.data, place)
    for key in reversed(keys):
        new = Value({key: new}, place)
    return merge(value, new)
