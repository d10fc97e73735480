"""Statistics of attention maps, computed in chunks so that no [B, N, N] map is ever stored."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
LOG_FLOOR = 1e-7


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Head-mean of softmax(q k^T / sqrt(d)): [B, n, M] in fp32."""
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).mean(dim=1)


def _chunk(query: Tensor, key: Tensor) -> int:
    batch, heads = query.shape[:2]
    return max(1, CHUNK_ELEMENTS // (batch * heads * key.shape[2]))


def attention_received(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention each key receives, summed over queries and averaged over heads: [B, M].

    query [B, heads, N, d], key [B, heads, M, d], mask broadcastable to [B, heads, N, M], True where a key counts.
    """
    received = query.new_zeros(query.shape[0], key.shape[2], dtype=torch.float32)
    for part in query.split(_chunk(query, key), dim=2):
        received += _probabilities(part, key, mask).sum(dim=1)
    return received


def attention_entropy(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy over keys of each query's head-averaged attention, in nats: [B, N].

    Shapes as in `attention_received`.
    """
    parts = []
    for part in query.split(_chunk(query, key), dim=2):
        p = _probabilities(part, key, mask)
        parts.append(-(p * (p + LOG_FLOOR).log()).sum(dim=-1))
    return torch.cat(parts, dim=1)
