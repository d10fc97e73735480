"""Every error a user can meet. Each carries problems that say where, which rule was broken, and what to do.

    EngineError                     something to tell the user; never shown as a traceback
    ├── InvalidInput    (exit 2)    the spec or an option is wrong; all problems at once, nothing was written
    ├── MissingWeights  (exit 2)    weights or artefacts are not where the spec says, or do not fit the model
    ├── Unavailable     (exit 2)    this machine lacks what was asked: a device, memory, a writable folder
    └── NoEffect        (exit 3)    the run finished, but a technique changed nothing or did not follow its plan

`assert` is for the project's own invariants and never for what a user typed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A position in a file: 1-based line and column, and the dotted key that stands there."""

    file: Path | None = None
    line: int | None = None
    column: int | None = None
    key: str = ""

    def named(self, key: str) -> Place:
        """The same position under the dotted `key`; a command-line option, which has no line, keeps its own words."""
        return replace(self, key=key) if self.line is not None else self

    def __str__(self) -> str:
        parts = [str(self.file) if self.file else "", str(self.line or ""), str(self.column or "")]
        where = ":".join(part for part in parts if part)
        return f"{where} {self.key}".strip()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the rule that was broken, and the remedy."""

    rule: str
    remedy: str
    place: Place = Place()

    def __str__(self) -> str:
        head = f"{self.place}: " if str(self.place) else ""
        return f"{head}{self.rule}\n    -> {self.remedy}"


class EngineError(Exception):
    """Base of all errors meant for users."""

    exit_code = 1
    rank: int | None = None
    """On which rank it happened, where several had met."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = in_order([problems] if isinstance(problems, Problem) else problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidInput(EngineError):
    """The spec or a command-line option breaks a rule."""

    exit_code = 2


class MissingWeights(EngineError):
    """A weights folder or artefact is absent, incomplete, or made for something else."""

    exit_code = 2


class Unavailable(EngineError):
    """This machine cannot do what was asked."""

    exit_code = 2


class NoEffect(EngineError):
    """A technique had no effect, or did something other than its plan."""

    exit_code = 3


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems file by file and from top to bottom, each once."""
    once = list(dict.fromkeys(problems))
    files = list(dict.fromkeys(problem.place.file for problem in once))

    def position(problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        return files.index(place.file), place.line or 0, place.column or 0

    return sorted(once, key=position)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known word, or lists all of them."""
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{lower[close[0]]}`?"
    if not names:
        return "nothing is allowed here; remove it"
    return "use one of: " + ", ".join(f"`{name}`" for name in names)
