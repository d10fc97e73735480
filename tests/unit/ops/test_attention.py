"""Statistics of attention maps against maps computed whole."""

from __future__ import annotations

import pytest
import torch

from engine.ops import attention

B, HEADS, N, M, D = 2, 3, 11, 7, 5


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(B, HEADS, N, D, generator=generator)
    key = torch.randn(B, HEADS, M, D, generator=generator)
    mask = torch.arange(M)[None, None, None] < torch.tensor([M, 4])[:, None, None, None]
    return query, key, mask


def whole_map(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", query, key) / D**0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).mean(1)


@pytest.mark.parametrize("elements", [1, 100, 2**24])
def test_chunks_give_the_whole_map_statistics(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", elements)
    query, key, mask = tensors()
    p = whole_map(query, key, mask)
    torch.testing.assert_close(attention.attention_received(query, key, mask), p.sum(dim=1))
    entropy = -(p * (p + 1e-7).log()).sum(-1)
    torch.testing.assert_close(attention.attention_entropy(query, key, mask), entropy)


def test_masked_keys_receive_nothing() -> None:
    query, key, mask = tensors()
    received = attention.attention_received(query, key, mask)
    assert (received[1, 4:] == 0).all()
    torch.testing.assert_close(received.sum(dim=1), torch.full((B,), float(N)))


def test_uniform_attention_has_the_highest_entropy() -> None:
    query, key, mask = tensors()
    flat = attention.attention_entropy(torch.zeros_like(query), key, mask)
    torch.testing.assert_close(flat, torch.tensor([M, 4]).float().log()[:, None].expand(-1, N), atol=1e-5, rtol=0)
    assert (attention.attention_entropy(query, key, mask) < flat).all()


def test_no_map_is_ever_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made has at most CHUNK_ELEMENTS elements, far below the whole map's."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                Largest.size = max(Largest.size, result.numel())
            return result

    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 4096)
    query = torch.randn(1, 2, 256, 4)
    with Largest():
        attention.attention_received(query, query)
    assert Largest.size <= 4096
    assert 2 * 256 * 256 > 4096
