"""diffusers' transformer block, opened: each sub-layer with the norm and modulation in front of it is one module.

So a sub-layer whose output is reused costs nothing, and a call on some tokens normalises those only; outputs are not
gated yet, and a module around each gates them. Weights stay where diffusers keeps them, and what a block computes
stays the same bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from diffusers.models.attention import Attention, BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from torch import Tensor, nn

from engine.backbones.common.gated import Gated
from engine.backbones.common.kernel import AttentionKernel
from engine.backbones.common.linears import attention_linears, feed_forward_linears, linear_site, row_macs
from engine.sites import Site, SiteKind
from engine.step import RunShape

NORMS = ("ada_norm_zero", "ada_norm_single")
"""Of DiT; of PixArt, whose blocks share one modulation and have no norm before cross-attention."""


class KernelProcessor:
    """diffusers' AttnProcessor2_0 for tokens [B, N, C], with the kernel called as the module `attn.kernel`."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """`attention_mask` [B, 1, M] is diffusers' bias: 0 where a key counts, -10000 where it does not."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        query, key, value = (rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for rows in projected)
        mask = None if attention_mask is None else attention_mask[:, None] == 0
        out: Tensor = attn.kernel(query, key, value, mask).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


class SubLayer(nn.Module):
    """Norm, modulation, and the block's attention or feed-forward.

    The block is no child of this module: its weights keep their only names.
    """

    def __init__(self, block: BasicTransformerBlock, layer: str) -> None:
        super().__init__()
        self._block, self.layer = (block,), layer

    def forward(self, hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """hidden [B, n, C] (any tokens, for the feed-forward), shift and scale [B, 1, C] -> [B, n, C], ungated."""
        (block,) = self._block
        return self.run(getattr(block, self.layer), self._norm(block)(hidden) * (1 + scale) + shift)

    def run(self, layer: nn.Module, normed: Tensor) -> Tensor:
        """The block's own `layer` on normed and modulated tokens [B, n, C]."""
        out: Tensor = layer(normed)
        return out

    def _norm(self, block: BasicTransformerBlock) -> nn.Module:
        if block.norm_type == "ada_norm_zero":
            return block.norm1.norm if self.layer == "attn1" else block.norm3
        return block.norm1 if self.layer == "attn1" else block.norm2


class OpenBlock(BasicTransformerBlock):
    """A block whose forward calls its sub-layers as modules; `open_blocks` makes diffusers' blocks into this."""

    opened_attn1: SubLayer
    opened_ff: SubLayer
    gated_attn1: Gated
    gated_ff: Gated

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, N, C] -> [B, N, C]; other inputs as diffusers passes them, None where unused."""
        hidden = self.placed(hidden_states)
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self.modulation(hidden, timestep, class_labels)
        hidden = self.gated_attn1(hidden, gate_attn, shift=shift_attn, scale=scale_attn) + hidden
        if self.attn2 is not None:
            hidden = self.attn2(hidden, encoder_hidden_states, encoder_attention_mask) + hidden
        return self.gated_ff(hidden, gate_ff, shift=shift_ff, scale=scale_ff) + hidden

    def placed(self, hidden: Tensor) -> Tensor:
        """The input [B, N, C], to which a subclass adds position embeddings."""
        return hidden

    def modulation(self, hidden: Tensor, timestep: Any, class_labels: Tensor | None) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the feed-forward: each [B, 1, C]."""
        if self.norm_type == "ada_norm_zero":
            norm = self.norm1
            rows = norm.linear(norm.silu(norm.emb(timestep, class_labels, hidden_dtype=hidden.dtype)))
            return rows[:, None].chunk(6, dim=-1)
        rows = self.scale_shift_table[None] + timestep.reshape(hidden.shape[0], 6, -1)
        return rows.chunk(6, dim=1)


def open_blocks(model: nn.Module) -> None:
    """Open every block and attention of `model`; what it computes, and its state dict, stay the same."""
    for module in list(model.modules()):
        if isinstance(module, BasicTransformerBlock):
            assert module.norm_type in NORMS and module.pos_embed is None
            module.opened_attn1, module.opened_ff = SubLayer(module, "attn1"), SubLayer(module, "ff")
            module.gated_attn1, module.gated_ff = Gated(module, "opened_attn1"), Gated(module, "opened_ff")
            module.__class__ = OpenBlock
        elif isinstance(module, Attention):
            module.kernel = AttentionKernel()
            module.set_processor(KernelProcessor())


def place_positions(embed: PatchEmbed, grid: tuple[int, int]) -> None:
    """Position embeddings for a token grid (rows, columns), which diffusers would make anew at every step.

    They are no weights: a model that was built on the meta device has none until now.
    """
    weight = embed.proj.weight
    positions = get_2d_sincos_pos_embed(
        weight.shape[0],
        grid,
        base_size=embed.base_size,
        interpolation_scale=embed.interpolation_scale,
        output_type="pt",
    )
    embed.pos_embed = positions.float()[None].to(weight.device)
    embed.height, embed.width = grid


def block_sites(blocks: nn.ModuleList, run: RunShape, text_rows: int, modulation: int) -> Iterator[Site]:
    """Sites of opened `transformer_blocks` in which all tokens attend to one another; see `sites_of_block`."""
    for index, block in enumerate(blocks):
        name, place = f"transformer_blocks.{index}", {"layer": index, "layers": len(blocks), "grid": run.grid}
        place["depth"] = index
        yield from sites_of_block(name, block, place, keys=run.tokens, text_rows=text_rows, modulation=modulation)


def sites_of_block(
    name: str,
    block: nn.Module,
    place: Mapping[str, Any],
    *,
    keys: int,
    text_rows: int,
    modulation: int = 0,
    kind: SiteKind = SiteKind.SELF_ATTENTION,
    along: Literal["all", "space", "time"] = "all",
) -> Iterator[Site]:
    """Sites of an opened block: the block, its attentions with their kernels, its feed-forward, and all their linears.

    `place` holds depth, layer, layers and grid; `kind` is that of the block's own attention, in which a token attends
    to `keys` tokens `along` an axis. `text_rows` are the text tokens that cross-attention reads, `modulation` the
    block's own MACs outside its sub-layers and linears.
    """
    assert isinstance(block, OpenBlock)
    tokens, width = math.prod(place["grid"]), block.dim
    facts: dict[str, Any] = {**place, "width": width}
    cost = modulation
    if block.norm_type == "ada_norm_zero":
        cost += row_macs(block.norm1.linear)
    here = Site(name, SiteKind.BLOCK, block, "model", macs=modulation, context_macs=cost, **facts)
    yield here
    if block.norm_type == "ada_norm_zero":
        yield linear_site(here, f"{name}.norm1.linear", block.norm1.linear, 1, per_token=False)
    attentions = [("opened_attn1", kind, block.opened_attn1, block.attn1, tokens, keys, 0, along)]
    gated = {"opened_attn1": block.gated_attn1}
    if block.attn2 is not None:
        cross = SiteKind.CROSS_ATTENTION
        attentions += [("attn2", cross, block.attn2, block.attn2, text_rows, text_rows, text_rows, "all")]
    for own, own_kind, module, attention, rows, seen, context, axis in attentions:
        path, inner = f"{name}.{own}", attention.to_q.out_features
        read = row_macs(attention.to_k) + row_macs(attention.to_v)
        extra: dict[str, Any] = {"context_macs": context * read, "gated": gated.get(own)}
        outer = Site(path, own_kind, module, name, **extra, **{**facts, "along": axis})
        yield outer
        layer = f"{name}.{own.removeprefix('opened_')}"
        yield from attention_linears(outer, layer, attention, tokens, rows, text=bool(context))
        macs = 2 * tokens * seen * inner
        yield Site(f"{layer}.kernel", SiteKind.KERNEL, attention.kernel, path, macs=macs, **{**facts, "along": axis})
    path = f"{name}.opened_ff"
    outer = Site(path, SiteKind.FEED_FORWARD, block.opened_ff, name, gated=block.gated_ff, **facts)
    yield outer
    yield from feed_forward_linears(outer, f"{name}.ff", block.ff, tokens)
