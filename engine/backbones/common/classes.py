"""Prompts that name classes: by number, or by a name from the `id2label` of the repository's model_index.json."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from engine.errors import nearest
from engine.spec import ModelChoice
from engine.weights import EMBEDDED, is_hub_id, missing

INDEX = "model_index.json"


class Classes:
    """The classes of a model. With random weights any words name one."""

    def __init__(self, choice: ModelChoice, backbone: str, count: int) -> None:
        self.choice, self.backbone, self.count = choice, backbone, count

    @cached_property
    def labels(self) -> Mapping[str, int]:
        """Class numbers by name, from the repository's index; empty where that is not at hand."""
        index = self._index()
        return _read_labels(index) if index is not None and index.is_file() else {}

    def _index(self) -> Path | None:
        weights = self.choice.weights
        if self.choice.random or isinstance(weights, dict):
            return None
        if is_hub_id(weights):
            cached = try_to_load_from_cache(weights, INDEX)
            return Path(cached) if isinstance(cached, str) else None
        return (EMBEDDED / self.backbone if weights == "embedded" else Path(weights).expanduser()) / INDEX

    def problem(self, prompt: str) -> tuple[str, str, str] | None:
        """What is wrong with a prompt: (key, rule, remedy)."""
        if self.choice.random or self.number(prompt) is not None:
            return None
        named = self.labels and not prompt.isdecimal()
        remedy = nearest(prompt, self.labels) if named else f"give a number in 0..{self.count - 1}"
        return "prompts", f"there is no class `{prompt}`", remedy

    def number(self, prompt: str) -> int | None:
        """The class that a prompt names, or None."""
        words = prompt.strip().lower()
        if words.isdecimal():
            return int(words) if int(words) < self.count else None
        if self.choice.random:
            return zlib.crc32(words.encode()) % self.count
        return self.labels.get(words)


def _read_labels(path: Path) -> dict[str, int]:
    """Names to numbers; an entry such as "tench, Tinca tinca" gives two names."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["id2label"].items()
        return {name.strip().lower(): int(number) for number, names in entries for name in names.split(",")}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise missing(f"{path} holds no `id2label` ({type(error).__name__})", "download it again") from None
