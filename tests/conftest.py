"""Fixtures: one thread, the golden-file switch, and compiled runs on tiny backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import BACKBONES, tiny_request

from engine.backbones.base import Backbone
from engine.compiler import Compiled, compile_spec
from engine.parallel import Launch, joined

LAUNCH = Launch.of_environment()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `ranks(n)` run only where torchrun has started n processes, and nothing else runs there."""
    here, elsewhere = [], []
    for item in items:
        marker = item.get_closest_marker("ranks")
        (here if (marker.args[0] if marker else 1) == LAUNCH.world else elsewhere).append(item)
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = here


@pytest.fixture(scope="session", autouse=True)
def together() -> Iterator[None]:
    """Under torchrun all ranks run the same tests in step."""
    with joined(LAUNCH, torch.device("cpu")):
        yield


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
