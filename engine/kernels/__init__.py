"""Low-precision matrix products, each with a plain reference; GPU versions are written in Triton.

Which kernel really ran is counted where it is launched (`counting`), so that receipts need not believe a promise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_counts: Counter[str] | None = None


@contextmanager
def counting(counts: Counter[str]) -> Iterator[None]:
    """Add the launches inside the block to `counts`, by name."""
    global _counts
    before, _counts = _counts, counts
    try:
        yield
    finally:
        _counts = before


def launched(name: str) -> None:
    """A kernel was launched."""
    if _counts is not None:
        _counts[name] += 1
