"""Reading YAML as plain data that remembers where every value stands: safe, strict, and bounded.

No tags, no anchors, no duplicate keys, no number beyond 63 bits, no file over a megabyte. `extends` and overlays are
merged here, so that a problem found later still points at the line the value came from, in whichever file that was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from engine.errors import InvalidInput, Place, Problem, nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
SHIPPED_SPECS = Path(__file__).resolve().parent.parent / "specs"
SYNTAX_REMEDIES = {
    "expected ',' or ": "close the bracket that opens here",
    "found unexpected end of stream": "close the quotation mark that opens before this place",
    "found character '\\t'": "indent with spaces, not with tabs",
    "found character": "put the text in quotes",
    "mapping values are not allowed": "put text that holds `: ` in quotes, or mend the indentation",
    "expected <block end>": "mend the indentation: keys of one mapping start in one column",
    "could not find expected ':'": "write `key: value`",
}


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
                return current.place.named(".".join(str(part) for part in path))
            current = Value(inner.data, inner.place.named(".".join(str(part) for part in path[: index + 1])))
        return current.place

    def moved(self, place: Place) -> Value:
        """The value with `place` instead of its own and of everything inside."""
        if isinstance(self.data, dict):
            return Value({key: value.moved(place) for key, value in self.data.items()}, place)
        if isinstance(self.data, list):
            return Value([value.moved(place) for value in self.data], place)
        return Value(self.data, place)


def refuse(rule: str, remedy: str, place: Place) -> InvalidInput:
    """An `InvalidInput` with one problem."""
    return InvalidInput(Problem(rule, remedy, place))


def read_text(path: Path) -> str:
    """The text of a spec file, or an error that says why it cannot be read."""
    place = Place(path)
    try:
        if path.is_dir():
            raise refuse("this is a folder, not a spec file", "name a .yaml file inside it", place)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        remedy = nearest(path.name, siblings) if siblings else "check the path"
        raise refuse("there is no such file", remedy, place) from None
    except OSError as error:
        raise refuse(
            f"the file cannot be read: {error.strerror}", "check the path and its permissions", place
        ) from None
    if len(data) > MAX_BYTES:
        raise refuse(
            f"the file has more than {MAX_BYTES:,} bytes",
            "a spec holds settings only: check that this is the right file",
            place,
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise refuse(
            f"byte {error.start} is not UTF-8", "save the file as UTF-8 text", _place_after(before, path)
        ) from None


def parse(text: str, file: Path | None = None) -> Value:
    """Parse one YAML document whose top level is a mapping."""
    try:
        _refuse_beyond_data(text, file)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise refuse(
            f"the file holds a character that is no text (code {error.character})",
            "remove it",
            _place_after(text[: error.position], file),
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file) from None
    if node is None:
        raise refuse("the file is empty", "start with `model:`, or `extends:` a shipped base", Place(file, 1))
    if not isinstance(node, yaml.MappingNode):
        place = _place(node.start_mark, file)
        raise refuse("the top level must be a mapping of keys to values", "write `key: value` lines", place)
    problems: list[Problem] = []
    value = _convert(node, file, (), problems)
    if problems:
        raise InvalidInput(problems)
    return value


def _place(mark: Any, file: Path | None, key: str = "") -> Place:
    return Place(file, mark.line + 1, mark.column + 1, key)


def _place_after(text: str, file: Path | None) -> Place:
    return Place(file, text.count("\n") + 1, len(text) - text.rfind("\n"))


def _refuse_beyond_data(text: str, file: Path | None) -> None:
    """Read the events alone, before anything is built from them, and stop at the first that a spec has no use for."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = _place(event.start_mark, file)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise refuse(
                "anchors and aliases are not used in specs",
                "write the value out, or move it to a base file and use `extends`",
                place,
            )
        if isinstance(event, yaml.NodeEvent) and (tag := getattr(event, "tag", None)):
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise refuse(f"tags such as `{short}` are not used in specs", "write plain values without a tag", place)
        if depth > MAX_DEPTH:
            raise refuse("values are nested too deeply", f"nest at most {MAX_DEPTH} levels", place)
        if documents > 1:
            raise refuse("a spec is one YAML document, and a second starts here", "move it to a file of its own", place)


def _syntax_error(error: yaml.MarkedYAMLError, file: Path | None) -> InvalidInput:
    problem = error.problem or error.context or "unreadable"
    known = (remedy for start, remedy in SYNTAX_REMEDIES.items() if problem.startswith(start))
    # An open bracket is noticed only where the next key or the file's end comes; its own place is what helps.
    bracket = problem.startswith("expected ',' or ")
    mark = error.context_mark if bracket else error.problem_mark or error.context_mark
    place = _place(mark, file) if mark else Place(file)
    return refuse(f"this is not valid YAML: {problem}", next(known, "mend the syntax"), place)


def _convert(node: yaml.Node, file: Path | None, path: tuple[str, ...], problems: list[Problem]) -> Value:
    place = _place(node.start_mark, file, ".".join(path))
    if isinstance(node, yaml.MappingNode):
        return Value(dict(_entries(node, file, path, problems)), place)
    if isinstance(node, yaml.SequenceNode):
        items = [_convert(item, file, (*path, str(index)), problems) for index, item in enumerate(node.value)]
        return Value(items, place)
    try:
        return Value(_scalar(node), place)
    except _Unusable as error:
        problems.append(Problem(error.rule, error.remedy, place))
        return Value(None, place)


class _Unusable(Exception):
    """A scalar that no setting can take."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(rule)
        self.rule, self.remedy = rule, remedy


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    text = str(node.value)
    short = text if len(text) <= 20 else f"{text[:20]}..."
    try:
        data = yaml.SafeLoader("").construct_object(node)
    except yaml.YAMLError:
        data = text  # YAML 1.1 gives `=` and `<<` a meaning of their own
    except ValueError:
        rule = f"`{short}` looks like a number or a date, but cannot be read as one"
        raise _Unusable(rule, "put it in quotes if it is text") from None
    # YAML 1.1 reads 2024-01-01 as a date and 12:30 as 750; a spec has no use for them, but a prompt may look like it.
    if not isinstance(data, str | int | float | None) or (not isinstance(data, str | None) and ":" in text):
        data = text
    if isinstance(data, str):
        _refuse_control_characters(data)
    elif isinstance(data, float) and not math.isfinite(data):
        raise _Unusable(f"`{short}` is not a finite number", "write an ordinary number")
    elif isinstance(data, int) and abs(data) >= 2**63:
        raise _Unusable(f"`{short}` is larger than any setting can be", "write a number below 2^63")
    return data


def _refuse_control_characters(text: str) -> None:
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        rule = f"the text holds a character that cannot be shown (code {ord(found.group())})"
        raise _Unusable(rule, "remove the escape sequence")


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
        try:
            _refuse_control_characters(key)
        except _Unusable as error:
            problems.append(Problem(error.rule, error.remedy, place))
            continue
        place = place.named(".".join((*path, key)))
        if key in seen:
            problems.append(
                Problem(f"the key `{key}` stands twice (first in line {seen[key]})", "remove one of them", place)
            )
            continue
        seen[key] = key_node.start_mark.line + 1
        value = _convert(value_node, file, (*path, key), problems)
        # Point at the key: that is where a reader looks for a setting.
        yield key, Value(value.data, place)


def merge(base: Value, over: Value) -> Value:
    """`over` on top of `base`: mappings merge, everything else replaces.

    Two additions. Where `base` is a list of techniques (single-key mappings) and `over` a mapping of technique to
    parameters, the parameters of the techniques already listed change. A `sampler` that names another technique than
    the base's takes its place.
    """
    # What a command-line option reaches into still stands where the file has it.
    place = over.place if over.place.line is not None else base.place
    if isinstance(base.data, dict) and isinstance(over.data, dict):
        merged = dict(base.data)
        for key, value in over.data.items():
            stays = key in merged and not (key == "sampler" and _names_another(merged[key], value))
            merged[key] = merge(merged[key], value) if stays else value
        return Value(merged, place)
    if isinstance(base.data, list) and isinstance(over.data, dict):
        listed = [next(iter(item.data)) for item in base.data if isinstance(item.data, dict) and len(item.data) == 1]
        if listed:
            return Value(_merge_listed(base, over, listed), place)
    return over


def _names_another(base: Value, over: Value) -> bool:
    return isinstance(base.data, dict) and isinstance(over.data, dict) and not over.data.keys() <= base.data.keys()


def _merge_listed(base: Value, over: Value, listed: list[str]) -> list[Value]:
    unknown = [
        Problem(f"`{name}` is not in the list that this changes", nearest(name, listed), value.place)
        for name, value in over.data.items()
        if name not in listed
    ]
    if unknown:
        raise InvalidInput(unknown)
    items = []
    for item in base.data:
        name = next(iter(item.data)) if isinstance(item.data, dict) and len(item.data) == 1 else None
        if name in over.data:
            change, old = over.data[name], item.data[name]
            item = Value({name: merge(old, change) if isinstance(old.data, dict) else change}, item.place)
        items.append(item)
    return items


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
    target, chain = _extended(specs_root(path), extends), (*_chain, path.resolve())
    if target in chain:
        loop = " -> ".join(step.name for step in (*chain, target))
        raise refuse(f"`extends` goes in a circle: {loop}", "remove one of the links", extends.place)
    return merge(load(_as_typed(target, path), chain), value)


def _as_typed(target: Path, path: Path) -> Path:
    """`target` the way the user typed `path`: relative to the working folder, where that is possible."""
    here = Path.cwd()
    return target.relative_to(here) if target.is_relative_to(here) and not path.is_absolute() else target


def _extended(root: Path, extends: Value) -> Path:
    """The file that `extends` names, in the spec's own folder or among the shipped ones."""
    name = extends.data
    if not isinstance(name, str):
        raise refuse("`extends` must be the path of one file", "write `extends: models/opensora.yaml`", extends.place)
    for folder in (root, SHIPPED_SPECS):
        try:
            target = (folder / name).resolve()
            found = target.is_file()
        except (OSError, RuntimeError):  # a name that no file can have, or links that go in a circle
            continue
        if not target.is_relative_to(folder):
            raise refuse(
                f"`extends: {name}` leaves the specs folder {folder}",
                "extend a file inside the folder, written relative to it",
                extends.place,
            )
        if found:
            return target
    pattern = "**/*.yaml" if root.name == "specs" else "*.yaml"
    known = {str(file.relative_to(root)) for file in root.glob(pattern)}
    known |= {str(file.relative_to(SHIPPED_SPECS)) for file in SHIPPED_SPECS.glob("**/*.yaml")}
    raise refuse(f"there is no file `{name}` to extend", nearest(name, known), extends.place)


def assign(value: Value, dotted: str, text: str, option: str) -> Value:
    """`value` with the key `dotted` (`techniques.toca.interval`) set to the YAML scalar or flow value `text`."""
    place = Place(key=option)
    keys = dotted.split(".")
    if not all(keys):
        raise refuse(f"`{option}` names no key", "write KEY=VALUE, for example techniques.toca.interval=4", place)
    try:
        new = parse(f"value: {text}\n")
    except InvalidInput as error:
        raise InvalidInput(replace(problem, place=place) for problem in error.problems) from None
    if len(new.data) != 1:
        raise refuse(f"`{option}` holds more than one value", "give each its own --set", place)
    new = new.data["value"].moved(place)
    for key in reversed(keys):
        new = Value({key: new}, place)
    return merge(value, new)
