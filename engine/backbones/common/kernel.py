"""The attention kernel of every transformer here."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class AttentionKernel(nn.Module):
    """Scaled dot-product attention, as a module so that it can be a site."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query [B', heads, N, d]; key, value [B', heads, M, d]; mask [B', 1, 1, M], True where a key counts."""
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
