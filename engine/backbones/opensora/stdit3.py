"""STDiT3, the denoiser of Open-Sora 1.2, as a diffusers-style model.

Parameter names and shapes are those of the checkpoint `hpcai-tech/OpenSora-STDiT-v3`, so its weights load unchanged.
Every place a technique may want to wrap is a module of its own: a block's self-attention and MLP include the
affine-free norm and modulation in front of them, so a call that is reused costs nothing, and a call on a subset of
tokens normalises only that subset. Their outputs are *before* the gate; a module around each gates them.

Shapes: B samples (all guidance branches), T latent frames, S = H*W tokens a frame, N = T*S tokens ordered (t, h, w),
C hidden size, L text tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from engine.backbones.common.gated import Gated
from engine.backbones.common.kernel import AttentionKernel

NORM_EPS = 1e-6


class Modulation(NamedTuple):
    """Shift, scale and gate of one sub-layer: each [B, 1, C], or [B, N, C] when frames carry different noise levels."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [cos, sin] of scalars `values` [B], in fp32: [B, dim]."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=values.device))
    angles = values[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Affine-free layer norm of `hidden` [B, N, C], then `x * (1 + scale) + shift`."""
    normed = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift, normed, 1 + scale)


def position_embedding(
    rows: int,
    columns: int,
    channels: int,
    scale: Tensor | float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sine-cosine embedding of a token grid: [rows * columns, channels] in fp32, the column's half first.

    `scale` is sqrt(pixel height * pixel width) over the model's reference size; positions are stretched so that a
    picture of any shape spans the same range as a square one with as many tokens. Frequencies are rounded to `dtype`:
    in the original they are a buffer that is cast with the model.
    """
    base = round((rows * columns) ** 0.5)
    exponents = torch.arange(0, channels // 2, 2, dtype=torch.float32, device=device) / (channels // 2)
    frequencies = (1.0 / (10000**exponents)).to(dtype)

    def axis(count: int) -> Tensor:
        positions = torch.arange(count, dtype=torch.float32, device=device) / scale * (base / count)
        angles = positions[:, None].float() * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across = axis(columns)[None].expand(rows, columns, -1)
    down = axis(rows)[:, None].expand(rows, columns, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1)


def rotate_pairs(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding on interleaved pairs (2k, 2k+1). x: [..., T, d]; cosine, sine: [T, d/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


class RMSNorm(nn.Module):
    """Root-mean-square norm of each head, statistics in fp32, the weight applied after casting back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x` [..., d]."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS).to(x.dtype) * self.weight


class SelfAttention(nn.Module):
    """Norm, modulation and attention within each frame (spatial) or along each position's frames (temporal)."""

    def __init__(self, dim: int, heads: int, *, temporal: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.temporal = heads, temporal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = RMSNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(dim // heads) if qk_norm else nn.Identity()
        self.kernel = AttentionKernel()
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        hidden: Tensor,
        shift: Tensor,
        scale: Tensor,
        grid: tuple[int, int],
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden [B, N, C], grid (T, S), rotary (cos, sin) [T, d/2] for temporal attention -> [B, N, C], ungated.

        Tokens may be those of some of the places only, the same ones in all T frames.
        """
        batch, count, dim = hidden.shape
        frames, _ = grid
        spots = count // frames
        qkv = self.qkv(modulate(hidden, shift, scale)).view(batch, frames, spots, 3, self.heads, -1)
        # Sequences on the second-last axis: [3, B, T, heads, S, d] within frames, [3, B, S, heads, T, d] along time.
        qkv = qkv.permute(3, 0, 2, 4, 1, 5) if self.temporal else qkv.permute(3, 0, 1, 4, 2, 5)
        query, key, value = qkv.flatten(1, 2).unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate_pairs(query, *rotary), rotate_pairs(key, *rotary)
        out = self.kernel(query, key, value)
        if self.temporal:
            out = out.view(batch, spots, self.heads, frames, -1).permute(0, 3, 1, 2, 4)
        else:
            out = out.view(batch, frames, self.heads, spots, -1).permute(0, 1, 3, 2, 4)
        return cast(Tensor, self.proj(out.reshape(batch, frames * spots, dim)))


class CrossAttention(nn.Module):
    """Attention of the video tokens over the text tokens: no norm before, no gate after."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.kernel = AttentionKernel()
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """hidden [B, n, C] (any subset of tokens), text [B, L, C], text_mask [B, L] bool or None -> [B, n, C]."""
        batch, count, dim = hidden.shape
        query = self.q_linear(hidden).view(batch, count, self.heads, -1).transpose(1, 2)
        key, value = self.kv_linear(text).view(batch, text.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if text_mask is None else text_mask[:, None, None, :]
        out = self.kernel(query, key, value, mask)
        return cast(Tensor, self.proj(out.transpose(1, 2).reshape(batch, count, dim)))


class Mlp(nn.Module):
    """Two linears with tanh-approximated GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., out]."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x), approximate="tanh")))


class FeedForward(Mlp):
    """Norm, modulation and MLP of a block; output before the gate."""

    def forward(self, hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        """hidden [B, n, C] (any subset of tokens), shift and scale [B, 1 or n, C] -> [B, n, C]."""
        return super().forward(modulate(hidden, shift, scale))


class STDiT3Block(nn.Module):
    """One transformer block: self-attention (spatial or temporal), cross-attention, MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, *, temporal: bool, qk_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, heads, temporal=temporal, qk_norm=qk_norm)
        self.cross_attn = CrossAttention(dim, heads)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), dim)
        self.gated_attn, self.gated_mlp = Gated(self, "attn"), Gated(self, "mlp")
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def modulations(self, time: Tensor, time_zero: Tensor | None, frame_mask: Tensor | None) -> list[Modulation]:
        """The block's two modulations (attention, MLP) from the shared projections [B, 6C].

        With `frame_mask` [B, N] tokens of masked-out frames are modulated as if their time step were zero.
        """
        table = (self.scale_shift_table + time.unflatten(1, (6, -1)))[:, :, None]
        if time_zero is not None and frame_mask is not None:
            table_zero = (self.scale_shift_table + time_zero.unflatten(1, (6, -1)))[:, :, None]
            table = torch.where(frame_mask[:, None, :, None], table, table_zero)
        parts = table.unbind(1)
        return [Modulation(*parts[:3]), Modulation(*parts[3:])]

    def forward(
        self,
        hidden: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        time: Tensor,
        grid: tuple[int, int],
        rotary: tuple[Tensor, Tensor] | None = None,
        time_zero: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden [B, N, C], text [B, L, C], time [B, 6C] -> [B, N, C]."""
        attend, feed = self.modulations(time, time_zero, frame_mask)
        shift, scale, gate = attend
        hidden = hidden + self.gated_attn(hidden, gate, shift=shift, scale=scale, grid=grid, rotary=rotary)
        hidden = hidden + self.cross_attn(hidden, text, text_mask)
        return hidden + self.gated_mlp(hidden, feed.gate, shift=feed.shift, scale=feed.scale)


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches."""

    def __init__(self, dim: int, patch_volume: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, patch_volume * out_channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)

    def forward(self, hidden: Tensor, time: Tensor, time_zero: Tensor | None, frame_mask: Tensor | None) -> Tensor:
        """hidden [B, N, C], time [B, C] -> [B, N, patch volume * out channels]."""
        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        hidden = modulate(hidden, shift, scale)
        if time_zero is not None and frame_mask is not None:
            shift, scale = (self.scale_shift_table + time_zero[:, None]).chunk(2, dim=1)
            # The original normalises and modulates the *already modulated* tensor here; kept for parity.
            hidden = torch.where(frame_mask[..., None], hidden, modulate(hidden, shift, scale))
        return cast(Tensor, self.linear(hidden))


class Embedder(nn.Module):
    """Sinusoid of a scalar through a two-layer network (time step, frames per second)."""

    WIDTH = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.WIDTH, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """values [B] -> [B, C]."""
        return cast(Tensor, self.mlp(sinusoid(values, self.WIDTH).to(dtype)))


class PatchEmbed(nn.Module):
    """Convolution whose stride is its kernel: latent patches to tokens."""

    def __init__(self, patch: tuple[int, int, int], channels: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T', H', W'] -> [B, N, C]; zero-padded at the right, bottom and end to whole patches."""
        padding = [(-size) % patch for size, patch in zip(x.shape[2:], self.patch, strict=True)]
        if any(padding):
            x = F.pad(x, (0, padding[2], 0, padding[1], 0, padding[0]))
        return cast(Tensor, self.proj(x)).flatten(2).transpose(1, 2)


class CaptionEmbedder(nn.Module):
    """Projection of text features, and the null caption that stands for "no prompt"."""

    def __init__(self, channels: int, dim: int, tokens: int) -> None:
        super().__init__()
        self.y_proj = Mlp(channels, dim, dim)
        self.register_buffer("y_embedding", torch.randn(tokens, channels) / channels**0.5)

    def null(self, length: int) -> Tensor:
        """The first `length` rows of the null caption: [length, channels]."""
        return cast(Tensor, self.y_embedding)[:length]

    def forward(self, text: Tensor) -> Tensor:
        """[B, L, channels] -> [B, L, C]."""
        return cast(Tensor, self.y_proj(text))


class Rotary(nn.Module):
    """Rotary frequencies, kept in the checkpoint as the original does (and, like it, never trained)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = 1.0 / (10000 ** (torch.arange(0, dim, 2).float() / dim))
        self.freqs = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every frame position: each [frames, d/2]."""
        positions = torch.arange(frames, device=self.freqs.device, dtype=self.freqs.dtype)
        angles = positions[:, None] * self.freqs
        return angles.cos(), angles.sin()


class STDiT3(ModelMixin, ConfigMixin):
    """Spatial-temporal diffusion transformer of Open-Sora 1.2 (source: hpcaitech/Open-Sora, tag v1.2.0, Apache-2.0).

    Defaults are STDiT3-XL/2. Fields of the hub's config that steer only training or other kernels (`drop_path`,
    `class_dropout_prob`, `enable_*`, `only_train_temporal`, `freeze_y_embedder`, `input_size`) are accepted and kept
    in the config, but change nothing here. `skip_y_embedder` is refused when true: text is always projected inside.
    """

    _no_split_modules = ("STDiT3Block",)

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        input_size: tuple[int | None, int | None, int | None] = (None, None, None),
        input_sq_size: int = 512,
        in_channels: int = 4,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        pred_sigma: bool = True,
        drop_path: float = 0.0,
        caption_channels: int = 4096,
        model_max_length: int = 300,
        qk_norm: bool = True,
        enable_flash_attn: bool = False,
        enable_layernorm_kernel: bool = False,
        enable_sequence_parallelism: bool = False,
        only_train_temporal: bool = False,
        freeze_y_embedder: bool = False,
        skip_y_embedder: bool = False,
    ) -> None:
        super().__init__()
        if skip_y_embedder:
            raise ValueError("skip_y_embedder=True is not supported: pass raw text features, they are projected inside")
        if hidden_size % num_heads or hidden_size % 4 or (hidden_size // num_heads) % 2:
            raise ValueError(
                f"hidden_size {hidden_size} must be a multiple of 4 and give an even size to each of {num_heads} heads"
            )
        self.patch_size = cast("tuple[int, int, int]", tuple(patch_size))
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        self.x_embedder = PatchEmbed(self.patch_size, in_channels, hidden_size)
        self.t_embedder = Embedder(hidden_size)
        self.fps_embedder = Embedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedder(caption_channels, hidden_size, model_max_length)
        self.rope = Rotary(hidden_size // num_heads)
        self.spatial_blocks, self.temporal_blocks = (
            nn.ModuleList(
                STDiT3Block(hidden_size, num_heads, mlp_ratio, temporal=temporal, qk_norm=qk_norm) for _ in range(depth)
            )
            for temporal in (False, True)
        )
        self.final_layer = FinalLayer(hidden_size, math.prod(self.patch_size), self.out_channels)

    def grid(self, latent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Token grid (T, H, W) of a latent of size (T', H', W')."""
        return cast(
            "tuple[int, int, int]",
            tuple(math.ceil(size / patch) for size, patch in zip(latent, self.patch_size, strict=True)),
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | None = None,
        width: Tensor | None = None,
        **_unused: Any,
    ) -> Tensor:
        """Predict velocity (first `in_channels`) and variance channels.

        x [B, 4, T', H', W'] latents; timestep [B] in 0..1000; y [B, 1, L, caption channels]; mask [b, L] non-zero
        where a text token counts; x_mask [B, T'] bool, False for frames that are given, not generated; fps, height,
        width [b] in frames per second and pixels, where B is a multiple of b. Returns [B, 8, T', H', W'] in fp32.
        """
        if fps is None or height is None or width is None:
            raise ValueError("STDiT3 needs fps, height and width: one value a prompt, in frames per second and pixels")
        dtype, batch = self.x_embedder.proj.weight.dtype, x.shape[0]
        latent = cast("tuple[int, int, int]", tuple(x.shape[2:]))
        frames, rows, columns = self.grid(latent)
        spots = rows * columns

        frame_rate = self.fps_embedder(fps.to(dtype), dtype).repeat(batch // fps.shape[0], 1)
        timestep = timestep.to(dtype)
        time = self.t_embedder(timestep, dtype) + frame_rate
        time_mlp = self.t_block(time)
        time_zero = time_zero_mlp = frame_mask = None
        if x_mask is not None:
            time_zero = self.t_embedder(torch.zeros_like(timestep), dtype) + frame_rate
            time_zero_mlp = self.t_block(time_zero)
            frame_mask = x_mask.repeat_interleave(spots, dim=1)

        text = self.y_embedder(y.to(dtype).squeeze(1))
        text_mask = None if mask is None else (mask.reshape(mask.shape[0], -1) != 0).repeat(batch // mask.shape[0], 1)

        scale = (height[0].double() * width[0].double()).sqrt() / self.config["input_sq_size"]
        places = position_embedding(rows, columns, self.config["hidden_size"], scale, x.device, dtype).to(dtype)
        hidden = self.x_embedder(x.to(dtype)).unflatten(1, (frames, spots)) + places
        hidden = hidden.flatten(1, 2)

        rotary, grid = self.rope(frames), (frames, spots)
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            hidden = spatial(hidden, text, text_mask, time_mlp, grid, None, time_zero_mlp, frame_mask)
            hidden = temporal(hidden, text, text_mask, time_mlp, grid, rotary, time_zero_mlp, frame_mask)

        patches = self.final_layer(hidden, time, time_zero, frame_mask)
        return self.unpatchify(patches, (frames, rows, columns), latent).float()

    def unpatchify(self, patches: Tensor, grid: tuple[int, int, int], latent: tuple[int, int, int]) -> Tensor:
        """Tokens [B, N, patch volume * channels] to [B, channels, T', H', W'], padding cut off."""
        frames, rows, columns = grid
        depth, tall, wide = self.patch_size
        video = patches.view(-1, frames, rows, columns, depth, tall, wide, self.out_channels)
        video = video.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(
            -1, self.out_channels, frames * depth, rows * tall, columns * wide
        )
        return video[:, :, : latent[0], : latent[1], : latent[2]]
