"""Fixtures: one thread, the golden-file switch, and compiled runs on tiny backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import BACKBONES, tiny_request

from engine.backbones.base import Backbone
from engine.compiler import Compiled, compile_spec


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and runs are compared bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def compile_tiny() -> Callable[..., Compiled]:
    """Compile techniques on a fresh tiny backbone (or on the one given)."""

    def compiled(backbone: str, *techniques: dict[str, Any], on: Backbone | None = None, **options: Any) -> Compiled:
        return compile_spec(tiny_request(backbone, techniques, **options), on or BACKBONES[backbone].tiny())

    return compiled
