"""STDiT3 of Open-Sora 1.2 as plain functions of a state dict, to compare the engine's module with.

Written from the original (hpcaitech/Open-Sora, tag v1.2.0, Apache-2.0) and without looking at
`engine/backbones/opensora/stdit3.py`: it is slow and literal where that is fast. Text is packed to one row and read
through a block-diagonal mask, attention is an explicit softmax, given frames are chosen with a `where` per modulation,
nothing is cached. Names of helpers follow the original's, so that both can be read side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Config:
    """The fields of the hub's config.json that change the result; defaults are those of STDiT3-XL/2."""

    depth: int = 28
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 4
    pred_sigma: bool = True
    caption_channels: int = 4096
    model_max_length: int = 300
    input_sq_size: int = 512
    qk_norm: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)


# ---------------------------------------------------------------- names and shapes


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every key of the published checkpoint and its shape."""
    width, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (rows, columns), (rows,)

    found["x_embedder.proj.weight"] = (width, config.in_channels, *config.patch_size)
    found["x_embedder.proj.bias"] = (width,)
    for name in ("t_embedder", "fps_embedder"):
        linear(f"{name}.mlp.0", width, 256)
        linear(f"{name}.mlp.2", width, width)
    linear("t_block.1", 6 * width, width)
    found["y_embedder.y_embedding"] = (config.model_max_length, config.caption_channels)
    linear("y_embedder.y_proj.fc1", width, config.caption_channels)
    linear("y_embedder.y_proj.fc2", width, width)
    for prefix in (f"{kind}_blocks.{i}" for kind in ("spatial", "temporal") for i in range(config.depth)):
        found[f"{prefix}.scale_shift_table"] = (6, width)
        linear(f"{prefix}.attn.qkv", 3 * width, width)
        found[f"{prefix}.attn.q_norm.weight"] = found[f"{prefix}.attn.k_norm.weight"] = (config.head_dim,)
        linear(f"{prefix}.attn.proj", width, width)
        linear(f"{prefix}.cross_attn.q_linear", width, width)
        linear(f"{prefix}.cross_attn.kv_linear", 2 * width, width)
        linear(f"{prefix}.cross_attn.proj", width, width)
        linear(f"{prefix}.mlp.fc1", hidden, width)
        linear(f"{prefix}.mlp.fc2", width, hidden)
    found["final_layer.scale_shift_table"] = (2, width)
    linear("final_layer.linear", math.prod(config.patch_size) * config.out_channels, width)
    found["rope.freqs"] = (config.head_dim // 2,)
    return found


def rope_freqs(head_dim: int) -> Tensor:
    """1 / 10000^(2k / head_dim): the values that the checkpoint stores."""
    return 1.0 / (10000 ** (torch.arange(0, head_dim, 2).float() / head_dim))


def random_state(config: Config, seed: int = 0) -> State:
    """Random tensors large enough that every part shows in the output; `rope.freqs` are the true ones."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("_norm.weight"):
            state[name] = 1 + 0.2 * noise
        elif name.endswith(".bias"):
            state[name] = 0.1 * noise
        elif name.endswith("scale_shift_table"):
            state[name] = 0.5 * noise
        elif name == "y_embedder.y_embedding":
            state[name] = noise
        else:
            state[name] = noise / math.prod(shape[1:]) ** 0.5
    state["rope.freqs"] = rope_freqs(config.head_dim)
    return state


# ---------------------------------------------------------------- small parts


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm without weights, eps 1e-6."""
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def t2i_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Statistics in fp32, the weight multiplied after casting back."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(x.dtype)


def timestep_embedding(t: Tensor) -> Tensor:
    """[n] to [n, 256], cosines first, in fp32."""
    freqs = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    args = t[:, None].float() * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


def timestep_embedder(state: State, name: str, t: Tensor) -> Tensor:
    sinusoid = timestep_embedding(t).to(state[f"{name}.mlp.0.weight"].dtype)
    return linear(state, f"{name}.mlp.2", F.silu(linear(state, f"{name}.mlp.0", sinusoid)))


def sin_cos_emb(position: Tensor, half_dim: int, dtype: torch.dtype) -> Tensor:
    """[n] to [n, half_dim], sines first.

    The frequencies are a buffer of the original, so `model.to(dtype)` rounds them; the product is in fp32 again.
    """
    inv_freq = (1.0 / (10000 ** (torch.arange(0, half_dim, 2).float() / half_dim))).to(dtype)
    out = position[:, None] * inv_freq[None]
    return torch.cat([torch.sin(out), torch.cos(out)], dim=-1)


def position_embedding(
    hidden_size: int, rows: int, columns: int, scale: float, base_size: int, dtype: torch.dtype
) -> Tensor:
    """[rows * columns, hidden_size] of one frame: the column's embedding first, then the row's."""
    grid_h = torch.arange(rows) / scale * (base_size / rows)
    grid_w = torch.arange(columns) / scale * (base_size / columns)
    tokens = []
    for h in range(rows):
        for w in range(columns):
            column = sin_cos_emb(grid_w[w : w + 1], hidden_size // 2, dtype)
            row = sin_cos_emb(grid_h[h : h + 1], hidden_size // 2, dtype)
            tokens.append(torch.cat([column, row], dim=-1))
    return torch.cat(tokens).to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    """Pairs (2k, 2k + 1): (a, b) to (-b, a)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([-odd, even], dim=-1).flatten(-2)


def spread(angles: Tensor) -> Tensor:
    """One angle a pair to one a channel: both channels of a pair get it."""
    return angles.repeat_interleave(2, dim=-1)


def rotary(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate [.., T, head_dim] by the position 0..T-1."""
    position = torch.arange(x.shape[-2], dtype=x.dtype)
    angles = spread(position.to(freqs.dtype)[:, None] * freqs[None])
    return x * angles.cos() + rotate_half(x) * angles.sin()


# ---------------------------------------------------------------- attention


def self_attention(state: State, name: str, config: Config, x: Tensor, freqs: Tensor | None) -> Tensor:
    """x [B', N', C]; `freqs` turns rotary embedding on."""
    rows, length, width = x.shape
    qkv = linear(state, f"{name}.qkv", x).view(rows, length, 3, config.num_heads, config.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if config.qk_norm:
        q, k = rms_norm(q, state[f"{name}.q_norm.weight"]), rms_norm(k, state[f"{name}.k_norm.weight"])
    if freqs is not None:
        q, k = rotary(q, freqs), rotary(k, freqs)
    scores = (q * config.head_dim**-0.5) @ k.transpose(-2, -1)
    weights = scores.float().softmax(dim=-1).to(q.dtype)
    out = (weights @ v).transpose(1, 2).reshape(rows, length, width)
    return linear(state, f"{name}.proj", out)


def block_diagonal(query_lengths: list[int], key_lengths: list[int]) -> Tensor:
    """Bias [sum of query lengths, sum of key lengths]: 0 within a sample, -inf across samples."""
    query_sample = torch.repeat_interleave(torch.arange(len(query_lengths)), torch.tensor(query_lengths))
    key_sample = torch.repeat_interleave(torch.arange(len(key_lengths)), torch.tensor(key_lengths))
    same = query_sample[:, None] == key_sample[None, :]
    return torch.where(same, 0.0, float("-inf"))


def cross_attention(state: State, name: str, config: Config, x: Tensor, y: Tensor, y_lens: list[int]) -> Tensor:
    """x [B, N, C] reads packed text y [1, sum(y_lens), C]."""
    batch, tokens, width = x.shape
    q = linear(state, f"{name}.q_linear", x).view(1, -1, config.num_heads, config.head_dim)
    kv = linear(state, f"{name}.kv_linear", y).view(1, -1, 2, config.num_heads, config.head_dim)
    k, v = kv.unbind(2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    scores = (q * config.head_dim**-0.5) @ k.transpose(-2, -1)
    weights = (scores.float() + block_diagonal([tokens] * batch, y_lens)).softmax(dim=-1).to(q.dtype)
    out = (weights @ v).transpose(1, 2).reshape(batch, -1, width)
    return linear(state, f"{name}.proj", out)


# ---------------------------------------------------------------- block, text, final layer


def t_mask_select(x_mask: Tensor | None, x: Tensor, masked_x: Tensor | None, frames: int, spots: int) -> Tensor:
    """Frames of x [B, T S, C] where x_mask [B, T] is true, of masked_x elsewhere."""
    if x_mask is None or masked_x is None:
        return x
    batch, _, width = x.shape
    x, masked_x = (part.view(batch, frames, spots, width) for part in (x, masked_x))
    return torch.where(x_mask[:, :, None, None], x, masked_x).view(batch, frames * spots, width)


def block(
    state: State,
    name: str,
    config: Config,
    x: Tensor,
    y: Tensor,
    y_lens: list[int],
    t_mlp: Tensor,
    t0_mlp: Tensor | None,
    x_mask: Tensor | None,
    frames: int,
    spots: int,
) -> Tensor:
    """One spatial or temporal block on x [B, T S, C]."""
    batch, _, width = x.shape
    table = state[f"{name}.scale_shift_table"]
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (table[None] + t_mlp.reshape(batch, 6, -1)).chunk(6, dim=1)
    zero: list[Tensor | None] = [None] * 6
    if x_mask is not None:
        assert t0_mlp is not None
        zero = list((table[None] + t0_mlp.reshape(batch, 6, -1)).chunk(6, dim=1))
    shift_a0, scale_a0, gate_a0, shift_m0, scale_m0, gate_m0 = zero

    def modulated(h: Tensor, shift0: Tensor | None, scale0: Tensor | None) -> Tensor | None:
        return None if shift0 is None or scale0 is None else t2i_modulate(layer_norm(h), shift0, scale0)

    def gated(h: Tensor, gate0: Tensor | None) -> Tensor | None:
        return None if gate0 is None else gate0 * h

    x_m = t2i_modulate(layer_norm(x), shift_a, scale_a)
    x_m = t_mask_select(x_mask, x_m, modulated(x, shift_a0, scale_a0), frames, spots)
    if name.startswith("temporal"):
        x_m = x_m.view(batch, frames, spots, width).transpose(1, 2).reshape(batch * spots, frames, width)
        x_m = self_attention(state, f"{name}.attn", config, x_m, state["rope.freqs"])
        x_m = x_m.view(batch, spots, frames, width).transpose(1, 2).reshape(batch, frames * spots, width)
    else:
        x_m = x_m.view(batch * frames, spots, width)
        x_m = self_attention(state, f"{name}.attn", config, x_m, None)
        x_m = x_m.view(batch, frames * spots, width)
    x = x + t_mask_select(x_mask, gate_a * x_m, gated(x_m, gate_a0), frames, spots)

    x = x + cross_attention(state, f"{name}.cross_attn", config, x, y, y_lens)

    x_m = t2i_modulate(layer_norm(x), shift_m, scale_m)
    x_m = t_mask_select(x_mask, x_m, modulated(x, shift_m0, scale_m0), frames, spots)
    x_m = F.gelu(linear(state, f"{name}.mlp.fc1", x_m), approximate="tanh")
    x_m = linear(state, f"{name}.mlp.fc2", x_m)
    return x + t_mask_select(x_mask, gate_m * x_m, gated(x_m, gate_m0), frames, spots)


def encode_text(state: State, config: Config, y: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int]]:
    """y [B, 1, L, caption_channels] to packed rows [1, sum(y_lens), C]; mask [b, L] is repeated to B rows."""
    y = F.gelu(linear(state, "y_embedder.y_proj.fc1", y), approximate="tanh")
    y = linear(state, "y_embedder.y_proj.fc2", y)
    if mask is None:
        return y.squeeze(1).reshape(1, -1, config.hidden_size), [y.shape[2]] * y.shape[0]
    mask = repeated_mask(mask, y.shape[0])
    y = y.squeeze(1).masked_select(mask.unsqueeze(-1) != 0).view(1, -1, config.hidden_size)
    return y, [int(count) for count in mask.sum(dim=1)]


def repeated_mask(mask: Tensor, rows: int) -> Tensor:
    """The conditional prompts' mask for the unconditional half too."""
    return mask.repeat(rows // mask.shape[0], 1)


def final_layer(
    state: State, x: Tensor, t: Tensor, x_mask: Tensor | None, t0: Tensor | None, frames: int, spots: int
) -> Tensor:
    """The second modulation is applied to the already modulated tensor, as in the original."""
    table = state["final_layer.scale_shift_table"]
    shift, scale = (table[None] + t[:, None]).chunk(2, dim=1)
    x = t2i_modulate(layer_norm(x), shift, scale)
    if x_mask is not None:
        assert t0 is not None
        shift_zero, scale_zero = (table[None] + t0[:, None]).chunk(2, dim=1)
        x_zero = t2i_modulate(layer_norm(x), shift_zero, scale_zero)
        x = t_mask_select(x_mask, x, x_zero, frames, spots)
    return linear(state, "final_layer.linear", x)


def patchify(state: State, config: Config, x: Tensor) -> Tensor:
    """Zero padding on the right and at the bottom, then the convolution, token index (t H + h) W + w."""
    pads: list[int] = []
    for size, patch in zip(reversed(x.shape[2:]), reversed(config.patch_size), strict=True):
        pads += [0, -size % patch]
    x = F.conv3d(
        F.pad(x, pads), state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=config.patch_size
    )
    return x.flatten(2).transpose(1, 2)


def unpatchify(config: Config, x: Tensor, grid: tuple[int, int, int], size: tuple[int, ...]) -> Tensor:
    """[B, N, pT pH pW C_out] to [B, C_out, T, H', W'], the padding cut."""
    (n_t, n_h, n_w), (p_t, p_h, p_w) = grid, config.patch_size
    x = x.view(x.shape[0], n_t, n_h, n_w, p_t, p_h, p_w, config.out_channels)
    x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
    x = x.reshape(x.shape[0], config.out_channels, n_t * p_t, n_h * p_h, n_w * p_w)
    return x[:, :, : size[0], : size[1], : size[2]]


# ---------------------------------------------------------------- forward


def forward(
    state: State,
    config: Config,
    x: Tensor,
    timestep: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    x_mask: Tensor | None = None,
    *,
    fps: Tensor,
    height: Tensor,
    width: Tensor,
) -> Tensor:
    """x [B, 4, T, H', W'], timestep [B] in 0..1000, y [B, 1, L, channels], mask [b, L], x_mask [B, T]."""
    dtype, batch = state["x_embedder.proj.weight"].dtype, x.shape[0]
    x, timestep, y = x.to(dtype), timestep.to(dtype), y.to(dtype)

    size = tuple(x.shape[2:])
    n_t, n_h, n_w = (math.ceil(length / patch) for length, patch in zip(size, config.patch_size, strict=True))
    spots = n_h * n_w
    base_size = round(spots**0.5)
    scale = (height[0].item() * width[0].item()) ** 0.5 / config.input_sq_size
    pos_emb = position_embedding(config.hidden_size, n_h, n_w, scale, base_size, dtype)

    fps_emb = timestep_embedder(state, "fps_embedder", fps.repeat(batch // fps.shape[0]))
    t = timestep_embedder(state, "t_embedder", timestep) + fps_emb
    t_mlp = linear(state, "t_block.1", F.silu(t))
    t0 = t0_mlp = None
    if x_mask is not None:
        t0 = timestep_embedder(state, "t_embedder", torch.zeros_like(timestep)) + fps_emb
        t0_mlp = linear(state, "t_block.1", F.silu(t0))

    y, y_lens = encode_text(state, config, y, mask)

    x = patchify(state, config, x)
    x = (x.view(batch, n_t, spots, -1) + pos_emb).view(batch, n_t * spots, -1)
    for i in range(config.depth):
        for kind in ("spatial", "temporal"):
            x = block(state, f"{kind}_blocks.{i}", config, x, y, y_lens, t_mlp, t0_mlp, x_mask, n_t, spots)
    x = final_layer(state, x, t, x_mask, t0, n_t, spots)
    return unpatchify(config, x, (n_t, n_h, n_w), size).float()
