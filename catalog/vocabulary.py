"""The words of the catalog: applications, mechanisms, venues, models, metrics; their labels and known misspellings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from catalog.names import closest, fold, nearest

Name = Literal[
    "applications", "families", "mechanisms", "training", "venues", "base_models", "metrics", "link_kinds"
]  # fmt: skip
NAMES: tuple[Name, ...] = get_args(Name)
FOLDER = Path(__file__).parent / "vocab"


class Word(BaseModel):
    """One word of a vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    label: str = Field(min_length=1, description="As readers see it.")
    description: str | None = Field(None, description="What it means, in one sentence.")
    aliases: list[str] = Field([], description="Other spellings, such as those of badges.")
    parent: str | None = Field(None, description="Word of the same vocabulary that includes this one.")
    family: str | None = Field(None, description="Mechanisms: the family.")
    name: str | None = Field(None, description="Venues: the name in full.")
    kind: str | None = Field(None, description="Venues: kind of appearance. Metrics: group on pages.")
    arch: str | None = Field(None, description="Base models: architecture.")
    modality: str | None = Field(None, description="Base models: what they generate.")
    backbone: str | None = Field(None, description="Base models: the engine's name for the family.")
    url: str | None = Field(None, description="Base models: home page.")
    unit: str | None = Field(None, description="Metrics: unit.")
    better: Literal["higher", "lower"] | None = Field(None, description="Metrics: the good direction.")


class Vocabulary(Mapping[str, Word]):
    """Words by key, in the order of the file."""

    def __init__(self, name: str, words: dict[str, Word]) -> None:
        self.name = name
        self._words = words
        self._keys = {fold(spelling): key for key, word in words.items() for spelling in (key, *word.aliases)}

    def __getitem__(self, key: str) -> Word:
        return self._words[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def resolve(self, spelling: str) -> str | None:
        """Key of the word that is spelled like this, in any case, with any dashes, or by an alias; None if unknown."""
        return self._keys.get(fold(spelling))

    def within(self, key: str) -> list[str]:
        """`key` and all words below it."""
        below = [child for child, word in self._words.items() if key in (word.parent, word.family)]
        return list(dict.fromkeys([key, *(deeper for child in below for deeper in self.within(child))]))

    def remedy(self, spelling: str) -> str:
        """What to write instead of an unknown `spelling`."""
        close = closest(spelling, self._keys)
        if close:
            return f"did you mean `{self._keys[close]}`?"
        return f"{nearest(spelling, self)}; or add it to vocab/{self.name}.yaml"


Vocabularies = Mapping[str, Vocabulary]


@dataclass(frozen=True)
class In:
    """Marks a field as a word of a vocabulary, looked up in the validation context: `Annotated[str, In(...)]`."""

    vocabulary: Name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A string, then the look-up."""
        return core_schema.with_info_after_validator_function(self.known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """A string of this vocabulary; the words are filled in when a file is written."""
        return handler(schema) | {"vocabulary": self.vocabulary}

    def known(self, value: str, info: core_schema.ValidationInfo) -> str:
        """`value`, if it is a word."""
        words = getattr(info.context, "vocabularies", {}).get(self.vocabulary, ())
        if value not in words:
            raise PydanticCustomError("vocabulary", "not in the vocabulary", {"vocabulary": self.vocabulary})
        return value
