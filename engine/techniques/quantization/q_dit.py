"""Q-DiT: Accurate Post-Training Quantization for Diffusion Transformers (arXiv 2406.17343).

The blocks' linear layers multiply integers: weights in few bits, activations in 8, both with a scale and zero point for
small groups of input channels; activations are quantized as they come. A search sizes the groups of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from engine.calibration import NoisySamples, input_hessians, relative_error
from engine.kernels.linear import QuantizedLinear
from engine.ops.evolution import Evolution, Genome, evolve
from engine.ops.quantization import Codes, gptq, pack, unpack
from engine.sites import Site, SiteKind, Sites
from engine.technique import Setting, Stage, Technique

if TYPE_CHECKING:
    from engine.artefacts import Bench
    from engine.backbones.base import Backbone

Layers = list[tuple[Site, nn.Linear]]


class QDit(Technique):
    """Q-DiT: Accurate Post-Training Quantization for Diffusion Transformers (arXiv 2406.17343)."""

    slug = "q_dit"
    paper = "q_dit"
    family = "quantization"
    stage = Stage.NUMERICS
    requires = frozenset({SiteKind.LINEAR, SiteKind.FEED_FORWARD})
    prepared_for: ClassVar[frozenset[Setting]] = frozenset({"dtype"})
    neutral: ClassVar[Mapping[str, Any]] = {"weight_bits": 16}
    batch_tolerance = 0.05  # a value half-way between two codes goes to either, as what came before it was rounded
    deviations: ClassVar[tuple[str, ...]] = (
        "the search minimises the error of predictions of noisy samples against the plain model's; the paper "
        "minimises the FID or FVD of 800 sampled outputs",
        "calibration inputs are noised samples of the training set (or of the model) in full precision, not "
        "activations along sampling runs",
        "layers that modulate a block are quantized with the default group size, and have no gene",
        "weights in 8 bits are not in the paper",
        "a layer whose inputs do not fill whole bytes (an odd number, in 4 bits) stays as it is",
    )

    weight_bits: Literal[4, 6, 8, 16] = Field(4, description="Bits of weights; 16 leaves the model as it is.")
    activation_bits: Literal[8, 16] = Field(8, description="Bits of activations; 16 leaves them as they are.")
    rounding: Literal["gptq", "nearest"] = Field("gptq", description="How weights are rounded.")
    group: int = Field(128, ge=4, description="Input channels of a group where no search has settled it, at most.")
    search: bool = Field(True, description="Search a group size for every layer; else all have `group`.")
    group_choices: list[int] = Field([32, 64, 128, 192, 288], min_length=1, description="Group sizes to choose from.")
    mean_group: float = Field(128.0, description="Budget of the search: smallest mean group size.")
    population: int = Field(50, ge=1, description="Allocations that the search starts from.")
    parents: int = Field(10, ge=1, description="Best allocations that the next generation is made of.")
    crossovers: int = Field(25, ge=0, description="Children of two parents in a generation.")
    mutants: int = Field(25, ge=0, description="Mutants of parents in a generation.")
    mutation_rate: float = Field(0.1, ge=0.0, le=1.0, description="Chance of a mutant's gene to be drawn anew.")
    generations: int = Field(10, ge=1, description="Generations, the first one included.")
    search_samples: int = Field(32, ge=1, description="Noisy samples that an allocation is judged by.")
    calibration_samples: int = Field(256, ge=1, description="Noisy samples whose activations guide the rounding.")

    def wants_artefact(self) -> bool:
        """Plain rounding in groups of one size needs no preparation."""
        return self.weight_bits < 16 and (self.search or self.rounding == "gptq")

    def attach(self, sites: Sites) -> None:
        """Calls stay what they are; the receipts watch them."""
        sites.watch(SiteKind.LINEAR)

    def transform(self, backbone: Backbone) -> None:
        """Every linear layer of the blocks in integers."""
        if self.weight_bits == 16:
            return
        layers = linear_layers(backbone, self.weight_bits)
        groups = [self.default_group(layer) for _, layer in layers]
        if self.artefact is not None:
            groups = self.artefact["groups"].tolist()
        for (site, layer), group in zip(layers, groups, strict=True):
            backbone.swap(site.name, self.prepared(site.name, layer) or self.rounded(layer, group))

    def prepared(self, name: str, layer: nn.Linear) -> QuantizedLinear | None:
        """The layer with the artefact's codes; None where it has none, or where there are no weights."""
        stored = {} if self.artefact is None or layer.weight.is_meta else self.artefact.tensors
        if f"{name}.packed" not in stored:
            return None
        packed, scale, zero = (stored[f"{name}.{part}"].to(layer.weight.device) for part in ("packed", "scale", "zero"))
        codes = Codes(unpack(packed, self.weight_bits), scale.to(layer.weight.dtype), zero)
        return QuantizedLinear(codes, layer.bias, self.weight_bits, self.activation_bits)

    def rounded(self, layer: nn.Linear, group: int) -> QuantizedLinear:
        """The layer rounded to the nearest."""
        return QuantizedLinear.of(layer, self.weight_bits, group, self.activation_bits)

    def default_group(self, layer: nn.Linear) -> int:
        """The largest group size up to `group` that divides the layer's input."""
        largest = min(self.group, layer.in_features)
        return next(size for size in range(largest, 0, -1) if layer.in_features % size == 0)

    def choices(self, layer: nn.Linear) -> list[int]:
        """Group sizes that divide the layer's input."""
        fitting = [size for size in self.group_choices if layer.in_features % size == 0]
        return fitting or [self.default_group(layer)]

    def prepare(self, bench: Bench) -> dict[str, Tensor]:
        """Group sizes by search, then codes by GPTQ in these groups."""
        bits = self.weight_bits
        layers = linear_layers(bench.backbone, bits)
        groups = self.searched(bench, layers) if self.search else [self.default_group(layer) for _, layer in layers]
        tensors = {"groups": torch.tensor(groups)}
        if self.rounding == "nearest":
            return tensors
        samples = NoisySamples.of(bench, self.calibration_samples, bench.seed)
        hessians = input_hessians({site.reads: layer for site, layer in layers}, samples.predict)
        tick = bench.progress("GPTQ", len(layers))
        for (site, layer), group in zip(layers, groups, strict=True):
            dtype = layer.weight.dtype
            coded = gptq(layer.weight, hessians[site.reads], bits, group, scales=dtype)
            assert coded.zero is not None
            parts = {
                "packed": pack(coded.codes, bits),
                "scale": coded.scale.to(dtype),
                "zero": coded.zero.to(torch.int8),
            }
            tensors |= {f"{site.name}.{part}": tensor for part, tensor in parts.items()}
            tick()
        return tensors

    def searched(self, bench: Bench, layers: Layers) -> list[int]:
        """Group sizes of all layers: the best allocation found, judged with weights rounded to the nearest."""
        backbone, samples = bench.backbone, NoisySamples.of(bench, self.search_samples, bench.seed + 1)
        genes = {site.reads: layer for site, layer in layers if site.part_of is not SiteKind.BLOCK}
        choices = [self.choices(layer) for layer in genes.values()]
        made: dict[tuple[str, int], nn.Module] = {}
        reference, sizes = samples.predict(), self.evolution()
        tick = bench.progress("search of group sizes", sizes.evaluations())

        def groups_of(genome: Genome) -> list[int]:
            found = dict(zip(genes, genome, strict=True))
            return [found.get(site.reads) or self.default_group(layer) for site, layer in layers]

        def fitness(genome: Genome) -> float:
            with backbone.changing():
                for (site, layer), group in zip(layers, groups_of(genome), strict=True):
                    if (site.name, group) not in made:
                        made[site.name, group] = self.rounded(layer, group)
                    backbone.swap(site.name, made[site.name, group])
                tick()
                return relative_error(samples.predict(), reference)

        def affordable(genome: Genome) -> bool:
            return sum(genome) >= self.mean_group * len(genome)

        start = tuple(self.default_group(layer) for layer in genes.values())
        if not affordable(start):
            start = tuple(map(max, choices))
        return groups_of(next(iter(evolve(fitness, choices, affordable, start, sizes, bench.seed))))

    def evolution(self) -> Evolution:
        """Sizes of the search."""
        return Evolution(
            self.population, self.parents, self.crossovers, self.mutants, self.mutation_rate, self.generations
        )


def linear_layers(backbone: Backbone, bits: int) -> Layers:
    """The linear layers of the blocks whose rows of codes fill whole bytes, in forward order."""
    layers = [(site, site.module) for site in backbone.parts(SiteKind.LINEAR) if isinstance(site.module, nn.Linear)]
    return [(site, layer) for site, layer in layers if layer.in_features * bits % 8 == 0]
