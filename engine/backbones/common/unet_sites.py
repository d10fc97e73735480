"""Sites of an opened UNet with their costs, outermost first and in forward order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from engine.backbones.common.linears import attention_linears, feed_forward_linears, row_macs
from engine.backbones.common.strips import StripConv2d
from engine.backbones.common.unet import Layer, OpenPictureAttention, OpenTransformer
from engine.sites import Site, SiteKind
from engine.step import RunShape

Grid = tuple[int, int, int]
Side = Literal["down", "middle", "up"]


def positions(grid: Grid) -> int:
    """Places of a grid."""
    _, rows, columns = grid
    return rows * columns


def conv_macs(conv: nn.Module, grid: Grid) -> int:
    """MACs of a sample through a convolution (or a linear over every place) whose output has that grid."""
    return int(conv.weight.numel()) * positions(grid)  # type: ignore[operator]


@dataclass
class Walk:
    """Walks a UNet's path in forward order; knows the resolution, and numbers blocks and what papers count."""

    model: Any
    run: RunShape
    grid: Grid = (1, 0, 0)
    width: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"depth": 0, "residual": 0, "attention": 0, "text": 0})
    totals: dict[str, int] = field(default_factory=dict)

    def sites(self) -> Iterator[Site]:
        """Sites inside MODEL: `conv_in`, the nested stages around the middle, and `conv_out`."""
        modules = list(self.model.modules())
        self.totals = {
            "residual": sum(hasattr(module, "time_emb_proj") for module in modules),
            "attention": sum(isinstance(module, OpenPictureAttention) for module in modules),
            "text": sum(len(module.transformer_blocks) for module in modules if isinstance(module, OpenTransformer)),
        }
        self.grid = (1, *self.run.latent[1:])  # type: ignore[assignment]
        self.width = self.model.conv_in.out_channels
        yield self._conv("conv_in", self.model.conv_in, "model", "down")
        yield from self._stage(0, "conv_in")
        yield from self._layers(self.model.last, "model", "up", "conv_in", self.grid)
        yield self._norm("conv_norm_out", self.model.conv_norm_out, "model", "up", grid=self.grid)
        yield self._conv("conv_out", self.model.conv_out, "model", "up")

    def _stage(self, number: int, skip: str) -> Iterator[Site]:
        """The stage, what it starts with, the stages further in, and what it ends with. `skip` is its input's site."""
        stages, name, outer = self.model.stages, f"stages.{number}", self.grid
        stage = stages[number]
        yield Site(
            name,
            SiteKind.STAGE,
            stage,
            "model" if number == 0 else f"stages.{number - 1}",
            depth=number,
            layer=number,
            layers=len(stages),
            grid=outer,
            width=_width_behind(stage.up or stage.down, self.width),
            skip=skip,
        )
        innermost = number + 1 == len(stages)
        yield from self._layers(stage.down, name, "middle" if innermost else "down", "", outer)
        if innermost:
            return
        own = _last_site(stage.down)
        yield from self._stage(number + 1, own)
        yield from self._layers(stage.up, name, "up", own, outer)

    def _layers(self, layers: Sequence[Layer], inside: str, side: Side, skip: str, target: Grid) -> Iterator[Site]:
        for layer in layers:
            module = layer.module
            if layer.role == "residual":
                yield from self._residual(layer, inside, side, skip)
            elif isinstance(module, OpenTransformer):
                yield from self._transformer(layer, inside, side)
            elif layer.role == "attention":
                yield from self._picture_attention(layer, inside, side)
            else:
                self.grid = _halved(self.grid, module.padding) if layer.role == "down" else target
                if isinstance(module.conv, nn.Conv2d):
                    yield self._conv(f"{layer.name}.conv", module.conv, inside, side)
            skip = ""

    def _place(self, count: str) -> dict[str, Any]:
        """Where the next block stands."""
        place = {"depth": self.counts["depth"], "layer": self.counts[count], "layers": self.totals[count]}
        self.counts["depth"] += 1
        self.counts[count] += 1
        return {**place, "grid": self.grid, "width": self.width}

    def _conv(self, name: str, conv: Any, inside: str, side: Side, **place: Any) -> Site:
        facts: dict[str, Any] = {"grid": self.grid, **place, "width": conv.out_channels, "side": side}
        if isinstance(conv, StripConv2d):
            facts |= {"reach": conv.reach, "row_values": conv.in_channels * self.grid[2] * int(conv.stride[1])}
        return Site(name, SiteKind.CONV, conv, inside, macs=conv_macs(conv, self.grid), **facts)

    def _norm(self, name: str, norm: Any, inside: str, side: Side, **place: Any) -> Site:
        facts: dict[str, Any] = {**place, "width": norm.num_channels, "side": side}
        return Site(name, SiteKind.NORM, norm, inside, **facts)

    def _residual(self, layer: Layer, inside: str, side: Side, skip: str) -> Iterator[Site]:
        block = layer.module
        self.width = block.conv2.out_channels
        place = self._place("residual")
        projection = 0 if block.time_emb_proj is None else block.time_emb_proj.weight.numel()
        facts: dict[str, Any] = {**place, "side": side, "skip": skip}
        yield Site(layer.name, SiteKind.BLOCK, block, inside, macs=projection, context_macs=projection, **facts)
        for part in ("norm1", "conv1", "norm2", "conv2", "conv_shortcut"):
            module, site = getattr(block, part), self._norm if part.startswith("norm") else self._conv
            if module is not None:
                yield site(f"{layer.name}.{part}", module, layer.name, side, **place)

    def _transformer(self, layer: Layer, inside: str, side: Side) -> Iterator[Site]:
        """A spatial transformer: its two projections, and its blocks."""
        module = layer.module
        ends = conv_macs(module.proj_in, self.grid) + conv_macs(module.proj_out, self.grid)
        first = self.counts["text"]
        place: dict[str, Any] = {"depth": self.counts["depth"], "layer": first, "layers": self.totals["text"]}
        place |= {"grid": self.grid, "width": self.width}
        yield Site(layer.name, SiteKind.BLOCK, module, inside, macs=ends, side=side, **place)
        yield self._norm(f"{layer.name}.norm", module.norm, layer.name, side, **place)
        for index, block in enumerate(module.transformer_blocks):
            yield from self._text_block(f"{layer.name}.transformer_blocks.{index}", block, layer.name, side)

    def _text_block(self, name: str, block: Any, inside: str, side: Side) -> Iterator[Site]:
        place: dict[str, Any] = {**self._place("text"), "width": block.ff.net[2].out_features, "side": side}
        yield Site(name, SiteKind.BLOCK, block, inside, **place)
        own, text = positions(self.grid), self.run.text_tokens
        for kind, layer, norm, rows, context in (
            (SiteKind.SELF_ATTENTION, "attn1", "norm1", own, 0),
            (SiteKind.CROSS_ATTENTION, "attn2", "norm2", text, text),
        ):
            path, attention = f"{name}.opened_{layer}", getattr(block, layer)
            outer = Site(path, kind, getattr(block, f"opened_{layer}"), name, **place)
            yield from _attention(outer, f"{name}.{layer}", attention, rows, context)
            yield Site(f"{name}.{norm}", SiteKind.NORM, getattr(block, norm), path, **place)
            yield _kernel(f"{name}.{layer}.kernel", attention, rows, path, place)
        path = f"{name}.opened_ff"
        outer = Site(path, SiteKind.FEED_FORWARD, block.opened_ff, name, **place)
        yield outer
        yield from feed_forward_linears(outer, f"{name}.ff", block.ff, own)
        yield Site(f"{name}.norm3", SiteKind.NORM, block.norm3, path, **place)

    def _picture_attention(self, layer: Layer, inside: str, side: Side) -> Iterator[Site]:
        """Attention over the places of a picture: the block with its residual, and what attends."""
        module, name, own = layer.module, layer.name, positions(self.grid)
        place: dict[str, Any] = {**self._place("attention"), "side": side}
        yield Site(name, SiteKind.BLOCK, module, inside, **place)
        path = f"{name}.opened"
        yield from _attention(Site(path, SiteKind.SELF_ATTENTION, module.opened, name, **place), name, module, own)
        yield self._norm(f"{name}.group_norm", module.group_norm, path, **place)
        yield _kernel(f"{name}.kernel", module, own, path, place)


def _attention(outer: Site, name: str, attention: Any, rows: int, context: int = 0) -> Iterator[Site]:
    """The attention `name` over `rows` keys a sample, of which `context` are the text's, and its linears."""
    text = context * (row_macs(attention.to_k) + row_macs(attention.to_v))
    outer = replace(outer, context_macs=text)
    yield outer
    yield from attention_linears(outer, name, attention, outer.tokens, rows, text=bool(context))


def _kernel(name: str, attention: Any, rows: int, inside: str, place: dict[str, Any]) -> Site:
    macs = 2 * positions(place["grid"]) * rows * attention.to_q.out_features
    return Site(name, SiteKind.KERNEL, attention.kernel, inside, macs=macs, **place)


def _halved(grid: Grid, padding: int) -> Grid:
    """The grid behind a convolution of stride 2; without padding, diffusers adds one row and column behind."""
    _, rows, columns = grid
    return (1, (rows - 1) // 2 + 1, (columns - 1) // 2 + 1) if padding else (1, rows // 2, columns // 2)


def _width_behind(layers: Sequence[Layer], width: int) -> int:
    """Channels behind `layers`, which attentions keep."""
    for layer in layers:
        conv = layer.module.conv2 if layer.role == "residual" else getattr(layer.module, "conv", None)
        if isinstance(conv, nn.Conv2d):
            width = conv.out_channels
    return width


def _last_site(layers: Sequence[Layer]) -> str:
    """The site whose output a path's last layer gives."""
    last = layers[-1]
    return f"{last.name}.conv" if last.role == "down" else last.name
