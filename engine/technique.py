"""What a technique is: pydantic fields for its YAML parameters, class variables for its facts, optional methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor

from engine.artefacts import Artefact
from engine.cost import KEEP_ALL, Share
from engine.denoise import Process
from engine.sites import Site, SiteKind, Sites
from engine.step import FULL, Phase, RunShape

if TYPE_CHECKING:
    from engine.artefacts import Bench
    from engine.backbones.base import Backbone
    from engine.denoise import Denoise


class Stage(IntEnum):
    """Stages in the order they are applied; each wraps what the ones above it left, so the last is the outermost.

    WEIGHTS      a distilled checkpoint comes first: everything else measures and changes that model
    STRUCTURE    pruning decides which weights exist before anyone quantizes them
    NUMERICS     quantization replaces layers that are final in shape
    ATTEND       kernels, windows and mediators replace attention on whatever tokens arrive
    TOKENS       merging and pruning change how many tokens arrive
    ROUTE        skipping layers, exits and second backbones decide whether a block runs at all
    REUSE        caches and gates must see full-size tokens, so they stand outside everything that changes them
    PLACE        devices and streaming move what is left
    TRAJECTORY   the sampler or decoder owns the loop; exactly one
    """

    WEIGHTS = 1
    STRUCTURE = 2
    NUMERICS = 3
    ATTEND = 4
    TOKENS = 5
    ROUTE = 6
    REUSE = 7
    PLACE = 8
    TRAJECTORY = 9


Setting = Literal["sampler", "size", "dtype"]
Sampler = Callable[[Tensor, Sequence[float], "Denoise"], Tensor]


class Technique(BaseModel):
    """Base of all techniques. Subclasses live one to a file, `engine/techniques/<family>/<slug>.py`.

    Everything is optional. There is no detach and no step method: undo belongs to the engine, and step logic is an
    around that reads `at.phase`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slug: ClassVar[str]
    paper: ClassVar[str | None] = None
    """Slug of the catalog record; None for a substrate that the survey does not list."""
    family: ClassVar[str]
    stage: ClassVar[Stage]
    requires: ClassVar[frozenset[SiteKind]] = frozenset()
    """Site kinds without which the technique means nothing."""
    excludes: ClassVar[Mapping[str, str]] = {}
    """Slugs it cannot run with although their stages differ, each with the reason in a few words."""
    shares_with: ClassVar[frozenset[str]] = frozenset()
    """Slugs of the same stage it may share a site with."""
    process: ClassVar[Process | None] = None
    """For samplers: the noise process whose solution they step along."""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    """Parameters under which it must change nothing; None for samplers."""
    neutral_tolerance: ClassVar[float] = 0.0
    """Largest absolute difference allowed under neutral parameters, with its reason beside it in the class."""
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The paper's values per backbone; they replace the defaults on that backbone."""
    dynamic: ClassVar[bool] = False
    """True when data decides, so that a plan can only give a range."""
    couples_batch: ClassVar[bool] = False
    """True when the samples of a batch influence one another."""
    batch_tolerance: ClassVar[float] = 2e-4
    """Largest difference, in parts of the latents' size, of a sample alone to the same in a batch, with its reason."""
    couples_branches: ClassVar[bool] = False
    """True when what one guidance branch does depends on another branch's values."""
    deviations: ClassVar[tuple[str, ...]] = ()
    """Where it departs from its paper, in words."""
    prepared_for: ClassVar[frozenset[Setting]] = frozenset({"sampler", "size", "dtype"})
    """Settings of a run, besides parameters and weights, for which an artefact must have been prepared."""

    _artefact: Artefact | None = PrivateAttr(None)

    @property
    def artefact(self) -> Artefact | None:
        """What `prepare` made for these settings; None while nothing has. A run starts only with it."""
        return self._artefact

    def bound(self, artefact: Artefact | None) -> Self:
        """The same technique with `artefact`."""
        twin = self.model_copy()
        twin._artefact = artefact
        return twin

    def schedule(self, run: RunShape) -> list[Phase]:
        """A phase for every step, decided before the run."""
        return [FULL] * run.steps

    def bounds(self, run: RunShape) -> tuple[list[Phase], list[Phase]]:
        """The cheapest and the dearest course of a run, in phases that `share` knows; data may decide between them."""
        phases = self.schedule(run)
        return phases, phases

    def attach(self, sites: Sites) -> None:
        """Wrap calls."""

    def transform(self, backbone: Backbone) -> None:
        """Change weights or modules, through `backbone.swap` only.

        Also called on a sketch without weights (tensors on the meta device), so that a plan knows the changed model:
        shapes may depend on the artefact, never on the values of weights.
        """

    def prepare(self, bench: Bench) -> dict[str, Tensor]:
        """Calibrate, search or train; the tensors become the artefact."""
        raise NotImplementedError

    def predictions(self) -> int:
        """How often a run asks for a guided prediction, for techniques of stage TRAJECTORY."""
        raise NotImplementedError

    def times(self, run: RunShape) -> list[float]:
        """Noise levels in 0..1, one a prediction, for techniques of stage TRAJECTORY."""
        raise NotImplementedError

    def sampler(self, run: RunShape) -> Sampler:
        """The loop, for techniques of stage TRAJECTORY."""
        raise NotImplementedError

    def share(self, site: Site, phase: Phase, run: RunShape) -> Share:
        """What is left of `site` in `phase`; must agree with what `attach` does."""
        return KEEP_ALL

    def processes(self) -> int:
        """Processes that must run it together, one device each."""
        return 1

    def exact(self, run: RunShape) -> bool:
        """Whether it gives the plain model's output but for rounding, so that an identical one is no failure."""
        return False

    def check(self, run: RunShape) -> list[tuple[str, str]]:
        """What is wrong with these parameters for this run: (rule, remedy)."""
        return []

    @classmethod
    def prepares(cls) -> bool:
        """Whether the technique can prepare an artefact."""
        return cls.prepare is not Technique.prepare

    def wants_artefact(self) -> bool:
        """Whether it needs one with these parameters."""
        return self.prepares()

    @classmethod
    def transforms(cls) -> bool:
        """Whether the technique changes weights or modules."""
        return cls.transform is not Technique.transform

    @classmethod
    def title(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or cls.slug).strip().splitlines()[0]
