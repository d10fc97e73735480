"""diffusers' transformer blocks as sites: attention's kernel becomes a module, and every call gets its cost.

A block's norms, modulation and gates stay where diffusers writes them, outside the sub-layers' sites: a site's input is
normalised and modulated already, its output is not gated yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers.models.attention import Attention, BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from torch import Tensor, nn

from engine.backbones.common.kernel import AttentionKernel
from engine.sites import Site, SiteKind
from engine.step import RunShape


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


def open_kernels(model: nn.Module) -> None:
    """Give every attention of `model` a `kernel` module; what it computes, and its state dict, stay the same."""
    for module in model.modules():
        if isinstance(module, Attention):
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
    """Sites of `transformer_blocks`: the block, its attentions with their kernels, its feed-forward.

    `text_rows` are the text tokens that cross-attention reads, `modulation` a block's own MACs outside its sub-layers.
    """
    for index, block in enumerate(blocks):
        assert isinstance(block, BasicTransformerBlock)
        name, tokens, width = f"transformer_blocks.{index}", run.tokens, block.dim
        place: dict[str, Any] = {
            "depth": index,
            "layer": index,
            "layers": len(blocks),
            "grid": run.grid,
            "width": width,
        }
        yield Site(name, SiteKind.BLOCK, block, "model", macs=modulation, **place)
        attentions = (
            ("attn1", SiteKind.SELF_ATTENTION, block.attn1, tokens),
            ("attn2", SiteKind.CROSS_ATTENTION, block.attn2, text_rows),
        )
        for own, kind, attention, rows in attentions:
            if attention is not None:
                path, inner = f"{name}.{own}", attention.to_q.out_features
                projections, context = 2 * (tokens + rows) * width * inner, 2 * rows * width * inner
                if kind is SiteKind.SELF_ATTENTION:
                    context = 0
                yield Site(path, kind, attention, name, macs=projections, context_macs=context, **place)
                products = 2 * tokens * rows * inner
                yield Site(f"{path}.kernel", SiteKind.KERNEL, attention.kernel, path, macs=products, **place)
        weights = sum(layer.weight.numel() for layer in (block.ff.net[0].proj, block.ff.net[2]))
        yield Site(f"{name}.ff", SiteKind.FEED_FORWARD, block.ff, name, macs=tokens * weights, **place)
