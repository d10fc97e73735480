"""Every shipped spec compiles, and its plan is the one in `tests/golden/plans` (`--update-golden` rewrites them)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT

from engine.compiler import compile_spec
from engine.spec import load_spec

GOLDEN = ROOT / "tests" / "golden" / "plans"
SPECS = sorted((ROOT / "specs").glob("**/*.yaml"))
PROFILES = ("embedded", "scale", "paper")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_plan_is_golden(path: Path, profile: str, update_golden: bool) -> None:
    plan = compile_spec(load_spec(path, profile=profile)).plan.canonical()
    golden = GOLDEN / f"{path.stem}.{profile}.json"
    if update_golden:
        golden.write_text(plan)
    assert plan == golden.read_text(), "the plan changed; look at it, then run pytest --update-golden"


def test_no_golden_plan_is_left_over() -> None:
    known = {f"{path.stem}.{profile}.json" for path in SPECS for profile in PROFILES}
    assert {path.name for path in GOLDEN.glob("*.json")} == known
