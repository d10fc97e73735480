"""diffusers' Latte, opened: tokens stay [B, N, C] from end to end, ordered by frame, row and column.

diffusers keeps frames (in spatial blocks) or places (in temporal ones) as rows of the batch, and moves all tokens
between the two around every temporal block. Here only attention does so; everything else works on the tokens of a
sample, so that every site sees them all, and a call on some of them makes sense. Text is projected once a sample
instead of once a frame. Weights stay where diffusers keeps them.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid
from torch import Tensor, nn

from engine.backbones.common.transformer2d import OpenBlock, SubLayer, open_blocks, place_positions

NO_SIZES = {"resolution": None, "aspect_ratio": None}


class FoldedAttention(SubLayer):
    """Self-attention among the tokens of a frame ("space"), or among the frames of a place ("time")."""

    def __init__(self, block: BasicTransformerBlock, along: Literal["space", "time"]) -> None:
        super().__init__(block, "attn1")
        self.along, self.frames = along, 1

    def run(self, layer: nn.Module, normed: Tensor) -> Tensor:
        """normed [B, frames * S, C] -> [B, frames * S, C]."""
        batch = normed.shape[0]
        rows = normed.unflatten(1, (self.frames, -1))
        if self.along == "space":
            return layer(rows.flatten(0, 1)).unflatten(0, (batch, -1)).flatten(1, 2)
        out = layer(rows.transpose(1, 2).flatten(0, 1))
        return out.unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 2)


class FirstTemporalBlock(OpenBlock):
    """The block that adds the frames' position embeddings to its input.

    diffusers adds them in front of it. Here they are part of what the block changes, so that a technique that keeps
    the change some blocks make keeps them too, and adds them once.
    """

    places: Tensor | None
    """[B or 1, F, C], or None for a single frame."""

    def placed(self, hidden: Tensor) -> Tensor:
        """hidden [B, F * S, C] -> [B, F * S, C]."""
        if self.places is None:
            return hidden
        frames = hidden.unflatten(1, (self.places.shape[1], -1))
        return (frames + self.places[:, :, None].to(hidden.dtype)).flatten(1, 2)


class OpenLatte(LatteTransformer3DModel):
    """A Latte whose blocks take and give tokens [B, N, C]; `open_latte` makes diffusers' Latte into this."""

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """hidden_states [B, C, F, h, w], timestep [B], text [B, L, channels] -> predictions [B, C', F, h, w].

        `encoder_attention_mask` [B, 1, L] is diffusers' bias: 0 where a text token counts, -10000 where it does not.
        """
        batch, _, frames, *_ = hidden_states.shape
        patches = self.pos_embed(hidden_states.transpose(1, 2).flatten(0, 1))
        hidden = patches.unflatten(0, (batch, frames)).flatten(1, 2)
        modulation, embedded = self.adaln_single(timestep, NO_SIZES, batch_size=batch, hidden_dtype=hidden.dtype)
        text = self.caption_projection(encoder_hidden_states)
        pairs = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for spatial, temporal in pairs:
            hidden = spatial(hidden, None, text, encoder_attention_mask, modulation)
            hidden = temporal(hidden, timestep=modulation)
        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        return (self._unpatched(self.proj_out(self.norm_out(hidden) * (1 + scale) + shift), frames),)

    def _unpatched(self, tokens: Tensor, frames: int) -> Tensor:
        """Tokens [B, N, patch * patch * C'] to [B, C', F, h, w]."""
        patch = self.config["patch_size"]
        grid = (frames, self.pos_embed.height, self.pos_embed.width, patch, patch, self.out_channels)
        parts = tokens.unflatten(2, grid[3:]).unflatten(1, grid[:3])
        return parts.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def open_latte(model: LatteTransformer3DModel) -> None:
    """Open the model, every block and every attention; what it computes, and its state dict, stay the same."""
    open_blocks(model)
    pairs = zip(model.transformer_blocks, model.temporal_transformer_blocks, strict=True)
    for spatial, temporal in pairs:
        spatial.opened_attn1, temporal.opened_attn1 = (
            FoldedAttention(spatial, "space"),
            FoldedAttention(temporal, "time"),
        )
    first = model.temporal_transformer_blocks[0]
    first.__class__, first.places = FirstTemporalBlock, model.temp_pos_embed
    model.__class__ = OpenLatte


def place_grid(model: LatteTransformer3DModel, grid: tuple[int, int, int], numbers: Tensor | None = None) -> None:
    """Make an opened model ready for a token grid (frames, rows, columns), position embeddings included.

    `numbers` [B or 1, frames] says which frames they are; None: the first ones, and a single frame has no place then.
    """
    frames, rows, columns = grid
    place_positions(model.pos_embed, (rows, columns))
    if numbers is None and frames > 1:
        numbers = torch.arange(frames)[None]
    model.temp_pos_embed = None if numbers is None else _frame_positions(model, numbers)
    model.temporal_transformer_blocks[0].places = model.temp_pos_embed
    for block in (*model.transformer_blocks, *model.temporal_transformer_blocks):
        assert isinstance(block, OpenBlock) and isinstance(block.opened_attn1, FoldedAttention)
        block.opened_attn1.frames = frames


def _frame_positions(model: LatteTransformer3DModel, numbers: Tensor) -> Tensor:
    """diffusers' embeddings of frame numbers [b, n]: [b, n, C] in fp32. Its own buffer stops at the trained length."""
    weight = model.pos_embed.proj.weight
    positions = get_1d_sincos_pos_embed_from_grid(weight.shape[0], numbers.reshape(-1, 1), output_type="pt")
    return positions.float().unflatten(0, numbers.shape).to(weight.device)
