"""`engine new`: the two files a technique needs, filled in far enough to compile and to fail its contract honestly."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from engine import registry
from engine.errors import InvalidInput, Place, Problem, Unavailable, nearest

TECHNIQUE = '''"""TITLE (arXiv ID).

One sentence on what is skipped or replaced.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from engine.cost import Share
from engine.sites import At, Call, Site, SiteKind, Sites
from engine.step import Phase, RunShape
from engine.technique import Stage, Technique


class {name}(Technique):
    """TITLE (arXiv ID)."""

    slug = "{slug}"
    paper = "{slug}"
    family = "{family}"
    stage = Stage.REUSE
    requires = frozenset({{SiteKind.FEED_FORWARD}})
    neutral: ClassVar[dict[str, Any]] = {{"interval": 1}}

    interval: int = Field(2, ge=1, description="Full evaluation every `interval` steps.")

    def schedule(self, run: RunShape) -> list[Phase]:
        """What happens at each step."""
        return [Phase("full" if index % self.interval == 0 else "reuse") for index in range(run.steps)]

    def attach(self, sites: Sites) -> None:
        """Which calls are wrapped."""
        sites.wrap(SiteKind.FEED_FORWARD, reuse)

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """What is left of a site's cost; receipts compare it with what happens."""
        return Share(float(phase.name == "full"), held=site.output_bytes(run))


def reuse(call: Call, hidden: Tensor, at: At) -> Tensor:
    """What an intercepted call does."""
    if at.phase == "full":
        at.memory.output = call(hidden)
    return at.memory.output
'''
SPEC = """extends: models/{backbone}.yaml
paper: {slug}
techniques:
  - {slug}: {{interval: 2}}
"""


def scaffold(slug: str, family: str, backbone: str, root: Path) -> list[Path]:
    """Write `engine/techniques/<family>/<slug>.py` and `specs/<slug>_<backbone>.yaml`; overwrites nothing."""
    package, name = root / "engine" / "techniques", "".join(part.capitalize() for part in slug.split("_"))
    code, spec = package / family / f"{slug}.py", root / "specs" / f"{slug}_{backbone}.yaml"
    problems = [*_unfit_names(slug, family, name), *_unfit_places(package, backbone)]
    there = [path for path in (code, spec) if path.exists()]
    problems += [Problem("the file exists already", "choose another name, or edit it", Place(path)) for path in there]
    known = registry.techniques()
    if slug in known and not there:
        rule = f"there is a technique `{slug}` already, in the family {known[slug].family}"
        problems.append(Problem(rule, "choose another name", Place(key="SLUG")))
    if problems:
        raise InvalidInput(problems)
    texts = {
        code: TECHNIQUE.format(name=name, slug=slug, family=family),
        spec: SPEC.format(slug=slug, backbone=backbone),
    }
    marker = code.parent / "__init__.py"
    if not marker.exists():
        texts = {marker: f'"""Techniques of the family {family}."""\n', **texts}
    return _written(texts)


def _unfit_names(slug: str, family: str, name: str) -> Iterator[Problem]:
    for word, key in ((slug, "SLUG"), (family, "--family")):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", word) or keyword.iskeyword(word):
            rule = f"`{word}` is no name for a Python module"
            yield Problem(rule, "use lower-case letters, digits and underscores", Place(key=key))
    if re.search(rf"\b{re.escape(name)}\b", TECHNIQUE):
        rule = f"the class of `{slug}` would be called `{name}`, like a name its file uses"
        yield Problem(rule, "choose another name", Place(key="SLUG"))


def _unfit_places(package: Path, backbone: str) -> Iterator[Problem]:
    known = registry.backbones()
    if backbone not in known:
        yield Problem(f"there is no backbone `{backbone}`", nearest(backbone, known), Place(key="--backbone"))
    if not package.is_dir():
        remedy = "run in the project's folder, or name it with --root"
        yield Problem(f"{package} is not there", remedy, Place(key="--root"))


def _written(texts: Mapping[Path, str]) -> list[Path]:
    """Write all files, or none."""
    folders = [folder for path in texts for folder in path.parents if not folder.exists()]
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        for written in texts:
            with suppress(OSError):
                written.unlink()
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        rule = f"{path} cannot be written: {error.strerror}"
        raise Unavailable(Problem(rule, "make the folder writable, or name another with --root", Place(path))) from None
    return list(texts)
