"""Any two techniques either compile together or are refused with a reason."""

from __future__ import annotations

from itertools import combinations

import pytest
from support import BACKBONES, TECHNIQUES, tiny_request

from engine.compiler import compile_spec
from engine.errors import InvalidInput
from engine.registry import backbones_with
from engine.technique import Stage

PAIRS = [
    pytest.param(first.slug, second.slug, backbone, id=f"{first.slug}+{second.slug}-{backbone}")
    for first, second in combinations([cls for cls in TECHNIQUES.values() if cls.stage is not Stage.TRAJECTORY], 2)
    for backbone in sorted(set(backbones_with(first.requires)) & set(backbones_with(second.requires)))
]


@pytest.mark.parametrize(("first", "second", "backbone"), PAIRS)
def test_pair_compiles_or_says_why_not(first: str, second: str, backbone: str) -> None:
    request = tiny_request(backbone, [{first: None}, {second: None}])
    try:
        plan = compile_spec(request, BACKBONES[backbone].tiny()).plan
    except InvalidInput as error:
        assert all(problem.rule and problem.remedy for problem in error.problems)
        assert any(first in problem.rule and second in problem.rule for problem in error.problems)
        return
    assert [technique.stage for technique in plan.techniques] == sorted(
        (technique.stage for technique in plan.techniques), key=lambda name: Stage[name]
    )
