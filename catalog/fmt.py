"""One way to write a record: canonical order of keys, one-line mappings where they fit, ids in quotes; comments stay.

`catalog fmt` applies it to files; new records are written by it. Formatting twice changes nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.emitter import RoundTripEmitter
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, ScalarString, SingleQuotedScalarString
from yaml import SafeLoader, ScalarNode, load, scan
from yaml import YAMLError as PlainError

from catalog.document import TEXT, Loader
from catalog.errors import CatalogError
from catalog.schema import Record

WIDTH = 120
COMMENT = re.compile(r"#.*")  # in what lies between two tokens
RESOLVER = SafeLoader("")
QUOTED = {"arxiv", "url", "revision"}  # numbers with a point, and addresses, are read as something else without quotes
BLOCK = {"claims", "corrections"}  # lists whose items are always spread over lines
SPREAD = {"tags", "summary", "seed"}  # mappings that are always spread over lines


class Emitter(RoundTripEmitter):
    """Strings that need quotes get double ones."""

    def choose_scalar_style(self) -> Any:
        """The style of the next scalar."""
        style = super().choose_scalar_style()
        return '"' if style == "'" else style


class Representer(RoundTripRepresenter):
    """Nothing is written as `null`, not as an empty place."""

    def represent_none(self, _: Any) -> Any:
        """The node of None."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


Representer.add_representer(type(None), Representer.represent_none)


class Unformattable(CatalogError):
    """A file is no YAML that could be written in another form; the text says where."""


def read(file: Path) -> str:
    """Text of a file, byte for byte. Raises `Unformattable`."""
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Unformattable(f"{file}:1:1: the file is not UTF-8\n    -> save it as UTF-8 text") from None


def formatted(text: str, file: Path) -> str:
    """`text` of a record in canonical form, with its comments. Raises `Unformattable`."""
    try:
        data = yaml().load(text)
    except (ValueError, LookupError, AttributeError) as error:  # of a day that is none, or of a tag
        raise Unformattable(f"{file}: a value cannot be read: {error}\n    -> `catalog check` shows it") from None
    except (YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise Unformattable(f"{where}: this is not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, Mapping):
        raise Unformattable(f"{file}:1:1: a record is a mapping of keys to values\n    -> write `key: value` lines")
    new = _written(data)
    if _content(new) != _content(text):
        rule = "it would lose a comment or say something else when formatted"
        raise Unformattable(f"{file}: {rule}\n    -> put comments between keys, not inside brackets")
    return new


def _content(text: str) -> tuple[Any, list[str]] | None:
    """What the reader of records makes of a text, and its comments; None if it cannot read it."""
    end, comments = 0, list[str]()
    try:
        for token in scan(text, Loader):
            comments += COMMENT.findall(text, end, token.start_mark.index)
            end = max(end, token.end_mark.index)
        return load(text, Loader), sorted(comments)
    except (PlainError, RecursionError, ValueError, LookupError, AttributeError):
        return None


def dump(data: Mapping[str, Any]) -> str:
    """A record of plain values as canonical YAML."""
    return _written(_unmistakable(data))


def _unmistakable(value: Any) -> Any:
    """`value` with quotes around texts that would be read as something else without."""
    if isinstance(value, Mapping):
        return {key: _unmistakable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmistakable(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and mistakable(value) else value


def mistakable(text: str) -> bool:
    """Whether the reader of records (YAML 1.1) takes a text without quotes for something else: no, 12:30, 1e+3."""
    return bool(RESOLVER.resolve(ScalarNode, text, (True, False)) != TEXT)


def _written(data: Mapping[str, Any]) -> str:
    styled = _mapping(data, Record, flow=False)
    out = io.StringIO()
    yaml().dump(styled, out)
    return out.getvalue()


def yaml() -> YAML:
    """The reader and writer: YAML 1.2, comments kept, two spaces, long lines unbroken."""
    tool = YAML(typ="rt")
    tool.Emitter = Emitter
    tool.Representer = Representer
    tool.width = 4096
    tool.indent(mapping=2, sequence=4, offset=2)
    tool.preserve_quotes = True
    tool.allow_unicode = True
    return tool


def _mapping(data: Mapping[str, Any], model: type[BaseModel] | None, flow: bool) -> CommentedMap:
    styled = data if isinstance(data, CommentedMap) else CommentedMap(data)
    fields = {info.alias or name: info for name, info in model.model_fields.items()} if model else {}
    known = [key for key in fields if key in styled]
    for key in [*known, *(key for key in styled if key not in fields)]:
        below = _model_in(fields[key].annotation) if key in fields else None
        styled[key] = _value(key, styled[key], below)
    if [key for key in styled if key in fields] != known:
        for key in [*known, *(key for key in list(styled) if key not in fields)]:
            styled.move_to_end(key)
    if flow or not styled:
        styled.fa.set_flow_style()
    else:
        styled.fa.set_block_style()
    return styled


def _value(key: str, value: Any, model: type[BaseModel] | None) -> Any:
    if isinstance(value, Mapping):
        return _mapping(value, model, flow=key not in SPREAD and fits(value, len(key) + 6))
    if isinstance(value, list):
        return _sequence(key, value, model)
    return _text(key, value) if isinstance(value, str) else value


def _text(key: str, value: str) -> str:
    """A text in double quotes if it needs them, without if not; text over several lines as it is."""
    quoted = isinstance(value, (DoubleQuotedScalarString, SingleQuotedScalarString))
    if isinstance(value, ScalarString) and not quoted:
        return value
    return DoubleQuotedScalarString(value) if key in QUOTED or (quoted and mistakable(value)) else str(value)


def _sequence(key: str, value: list[Any], model: type[BaseModel] | None) -> CommentedSeq:
    styled = value if isinstance(value, CommentedSeq) else CommentedSeq(value)
    room = fits(value, len(key) + 6)
    for index, item in enumerate(styled):
        if isinstance(item, Mapping):
            styled[index] = _mapping(item, model, flow=key not in BLOCK and fits(item, 4))
        elif isinstance(item, str):
            styled[index] = _text("", item)
    if any(isinstance(item, Mapping) for item in styled) or (styled and not room):
        styled.fa.set_block_style()
    else:
        styled.fa.set_flow_style()
    return styled


def fits(value: Any, indent: int) -> bool:
    """Whether a value has room on one line."""
    return indent + len(_one_line(value)) <= WIDTH and not _has_comment(value)


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_one_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_one_line, value)) + "]"
    text = str(value)
    return f'"{text}"' if ": " in text or "," in text or "://" in text else text


def _has_comment(value: Any) -> bool:
    comments = getattr(value, "ca", None)
    # A comment behind a value on one line stays there; one behind the key of a value over several lines needs them.
    return bool(comments and (comments.items or (comments.comment and not value.fa.flow_style())))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
