"""Evolutionary search."""

from __future__ import annotations

from engine.ops.evolution import Evolution, Genome, evolve

CHOICES = [(32, 64, 128)] * 6
SIZES = Evolution(population=12, parents=4, crossovers=6, mutants=6, rate=0.3, generations=6)
BEST = (32, 128, 64, 32, 128, 128)


def distance(genome: Genome) -> float:
    return sum(abs(gene - best) for gene, best in zip(genome, BEST, strict=True))


def affordable(genome: Genome) -> bool:
    return sum(genome) >= 64 * len(genome)


def search(seed: int) -> dict[Genome, float]:
    return evolve(distance, CHOICES, affordable, (64,) * 6, SIZES, seed)


def test_the_same_seed_is_the_same_search() -> None:
    assert list(search(3)) == list(search(3)) != list(search(4))


def test_everything_tried_is_allowed_and_tried_once() -> None:
    seen: list[Genome] = []

    def fitness(genome: Genome) -> float:
        seen.append(genome)
        return distance(genome)

    scores = evolve(fitness, CHOICES, affordable, (64,) * 6, SIZES, 0)
    assert len(seen) == len(set(seen)) == len(scores) <= SIZES.evaluations()
    assert seen[0] == (64,) * 6 and all(map(affordable, seen))
    assert list(scores.values()) == sorted(scores.values())


def test_generations_come_nearer_than_chance() -> None:
    first = Evolution(population=SIZES.population, generations=1)
    for seed in range(5):
        by_chance = evolve(distance, CHOICES, affordable, (64,) * 6, first, seed)
        assert min(search(seed).values()) < min(by_chance.values())


def test_ends_when_nothing_new_is_left() -> None:
    scores = evolve(lambda genome: -sum(genome), [(1, 2)] * 2, lambda genome: True, (1, 1), SIZES, 0)
    assert set(scores) == {(1, 1), (1, 2), (2, 1), (2, 2)} and next(iter(scores)) == (2, 2)
