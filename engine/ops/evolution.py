"""Evolutionary search over short lists of choices."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

Genome = tuple[int, ...]
TRIES = 200
"""Draws for one new genome before the search takes it that there is none left."""


@dataclass(frozen=True)
class Evolution:
    """Sizes of a search: who starts, who survives, and how many are made of the survivors in each generation."""

    population: int = 50
    parents: int = 10
    crossovers: int = 25
    mutants: int = 25
    rate: float = 0.1
    """Chance of a mutant's gene to be drawn anew."""
    generations: int = 10

    def evaluations(self) -> int:
        """Most calls of the fitness function."""
        return self.population + (self.generations - 1) * (self.crossovers + self.mutants)


def evolve(
    fitness: Callable[[Genome], float],
    choices: Sequence[Sequence[int]],
    allowed: Callable[[Genome], bool],
    start: Genome,
    sizes: Evolution,
    seed: int,
) -> dict[Genome, float]:
    """Every genome tried with its fitness (the smaller the better), the best first; `start` is always among them.

    Gene i is one of `choices[i]`. Children take each gene from one of two survivors, mutants draw some genes anew; what
    is not `allowed` or was tried before is drawn again. The same seed gives the same search.
    """
    draw, scores = random.Random(seed), {start: fitness(start)}

    def grow(make: Callable[[], Genome], count: int) -> None:
        for _ in range(count):
            tried = (make() for _ in range(TRIES))
            found = next((genome for genome in tried if genome not in scores and allowed(genome)), None)
            if found is None:
                return
            scores[found] = fitness(found)

    grow(lambda: tuple(draw.choice(options) for options in choices), sizes.population - 1)
    for _ in range(sizes.generations - 1):
        best = sorted(scores, key=scores.__getitem__)[: sizes.parents]
        grow(partial(_child, draw, best), sizes.crossovers)
        grow(partial(_mutant, draw, best, choices, sizes.rate), sizes.mutants)
    return {genome: scores[genome] for genome in sorted(scores, key=scores.__getitem__)}


def _child(draw: random.Random, parents: Sequence[Genome]) -> Genome:
    first, second = draw.choice(parents), draw.choice(parents)
    return tuple(draw.choice(pair) for pair in zip(first, second, strict=True))


def _mutant(draw: random.Random, parents: Sequence[Genome], choices: Sequence[Sequence[int]], rate: float) -> Genome:
    genes = zip(draw.choice(parents), choices, strict=True)
    return tuple(draw.choice(options) if draw.random() < rate else gene for gene, options in genes)
