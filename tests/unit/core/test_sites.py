"""Wrapping and unwrapping calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.sites import At, Attachment, Call, Layer, Memory, Site, SiteKind, Sites, Track
from engine.step import Branch, Phase, Step


class Scale(nn.Module):
    """Multiplies by `factor`, adds `shift`."""

    def forward(self, hidden: Tensor, factor: float, shift: Tensor | None = None) -> Tensor:
        out = hidden * factor
        return out if shift is None else out + shift


class Two(nn.Module):
    """A block with two inner calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Scale(), Scale()

    def forward(self, hidden: Tensor) -> Tensor:
        return self.second(self.first(hidden, 2.0), factor=3.0)  # type: ignore[no-any-return]


def sites_of(model: Two) -> list[Site]:
    grid = (1, 2, 2)
    return [
        Site("block", SiteKind.BLOCK, model, grid=grid),
        Site("first", SiteKind.FEED_FORWARD, model.first, "block", grid=grid, token_inputs=("shift",)),
        Site("second", SiteKind.CROSS_ATTENTION, model.second, "block", grid=grid),
    ]


def attached(model: Two, *layers: tuple[str, SiteKind, Any]) -> Attachment:
    sites = sites_of(model)
    made = []
    for owner, kind, around in layers:
        view = Sites(sites)
        view.wrap(kind, around)
        made.append(Layer(Track(owner), view.wraps))
    attachment = Attachment(sites, Step(), made)
    attachment.attach()
    return attachment


def plus(amount: float) -> Any:
    return lambda call, hidden, at: call(hidden) + amount


def test_last_layer_is_outermost_and_detach_restores() -> None:
    model, x = Two(), torch.ones(1, 4, 1)
    attachment = attached(
        model,
        ("inner", SiteKind.FEED_FORWARD, plus(1)),
        ("outer", SiteKind.FEED_FORWARD, lambda call, hidden, at: 10 * call(hidden)),
    )
    assert torch.equal(model(x), x * 3 * 10 * (2 + 1))
    attachment.detach()
    attachment.detach()
    assert torch.equal(model(x), 6 * x)
    assert all("forward" not in vars(module) for module in model.modules())


def test_detach_brings_an_earlier_override_back() -> None:
    model, x = Two(), torch.ones(1, 4, 1)
    model.first.forward = lambda hidden, factor: hidden  # type: ignore[method-assign]
    attached(model, ("inner", SiteKind.FEED_FORWARD, plus(1))).detach()
    assert torch.equal(model(x), 3 * x)


def test_skipping_the_call_skips_it() -> None:
    model, x = Two(), torch.ones(1, 4, 1)
    attached(model, ("skip", SiteKind.FEED_FORWARD, lambda call, hidden, at: hidden))
    assert torch.equal(model(x), 3 * x)


def test_other_inputs_can_be_read_and_overridden() -> None:
    model, x, seen = Two(), torch.ones(1, 4, 1), []

    def around(call: Call, hidden: Tensor, at: At) -> Tensor:
        seen.append(call.inputs["factor"])
        return call(hidden, factor=5.0)  # type: ignore[no-any-return]

    attached(model, ("change", SiteKind.CROSS_ATTENTION, around))
    assert torch.equal(model(x), 10 * x)
    assert seen == [3.0]


def test_call_on_tokens_takes_their_own_inputs_along() -> None:
    scale, grid = Scale(), (1, 2, 2)
    site = Site("s", SiteKind.FEED_FORWARD, scale, grid=grid, token_inputs=("shift",))
    hidden = torch.arange(8.0).view(1, 4, 2)
    index = torch.tensor([[3, 1]])
    shift = torch.arange(8.0).view(1, 4, 2) * 100
    call = Call(lambda inner, inputs: scale(inner, **inputs), {"factor": 1.0, "shift": shift}, site)
    assert torch.equal(call.tokens(hidden, index), (hidden + shift)[:, [3, 1]])
    one = torch.full((1, 1, 2), 7.0)
    call = Call(lambda inner, inputs: scale(inner, **inputs), {"factor": 1.0, "shift": one}, site)
    assert torch.equal(call.tokens(hidden, index), hidden[:, [3, 1]] + 7), "one row for all tokens is not gathered"


def test_observer_sees_only_calls_that_happen() -> None:
    model, x, seen = Two(), torch.ones(1, 4, 1), []
    view = Sites(sites_of(model))
    view.wrap(SiteKind.FEED_FORWARD, lambda call, hidden, at: hidden)
    view.wrap(SiteKind.CROSS_ATTENTION, plus(0))
    attachment = Attachment(sites_of(model), Step(), [Layer(Track("t"), view.wraps)], lambda *call: seen.append(call))
    attachment.attach()
    out = model(x)
    ((site, hidden, inputs, seen_out),) = seen
    assert site.name == "second" and inputs == {"factor": 3.0}
    assert torch.equal(hidden, x) and torch.equal(seen_out, out)


def test_watching_a_site_changes_no_call() -> None:
    model, x = Two(), torch.ones(1, 4, 1)
    view = Sites(sites_of(model))
    view.watch(SiteKind.FEED_FORWARD, lambda site: site.name == "first")
    assert [site.name for site, _ in view.wraps] == ["first"]
    Attachment(sites_of(model), Step(), [Layer(Track("t"), view.wraps)]).attach()
    assert torch.equal(model(x), 6 * x)


def test_where_limits_a_wrap_and_enclosing_names_the_outer_site() -> None:
    view = Sites(sites_of(Two()))
    view.wrap(SiteKind.FEED_FORWARD, plus(0), where=lambda site: False)
    assert view.wraps == []
    assert view.enclosing(view.of(SiteKind.FEED_FORWARD)[0]).kind is SiteKind.BLOCK


def test_memory_is_per_technique_and_site_and_shared_within_a_block() -> None:
    model, x = Two(), torch.ones(2, 4, 1)

    def write(call: Call, hidden: Tensor, at: At) -> Tensor:
        at.memory.output = call(hidden)
        at.shared.note = hidden
        return at.memory.output  # type: ignore[no-any-return]

    seen = []

    def read(call: Call, hidden: Tensor, at: At) -> Tensor:
        seen.append(at.shared.note)
        return call(hidden)  # type: ignore[no-any-return]

    sites = sites_of(model)
    view = Sites(sites)
    view.wrap(SiteKind.FEED_FORWARD, write)
    view.wrap(SiteKind.CROSS_ATTENTION, read)
    attachment = Attachment(sites, Step(), [Layer(Track("t"), view.wraps)])
    attachment.attach()
    model(x)
    assert seen[0] is x
    assert attachment.nbytes() == 2 * 4 * 4 + 2 * 4 * 4
    attachment.select_rows(torch.tensor([1]), 2)
    assert attachment.nbytes() == (2 * 4 * 4 + 2 * 4 * 4) / 2
    attachment.clear()
    assert attachment.nbytes() == 0


class Gate(nn.Module):
    """A layer's output times a gate."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = (layer,)

    def forward(self, hidden: Tensor, gate: float, **inputs: Any) -> Tensor:
        return gate * self._layer[0](hidden, **inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("gated", [False, True])
def test_a_gated_wrap_holds_the_output_times_its_gate(gated: bool) -> None:
    """The same site, wrapped inside or outside the gate; where there is no gate both are the same place."""
    layer, x, kept, seen = Scale(), torch.ones(1, 4, 1), [], []
    site = Site("s", SiteKind.FEED_FORWARD, layer, grid=(1, 2, 2), gated=Gate(layer))
    ungated = Site("u", SiteKind.CROSS_ATTENTION, Scale(), grid=(1, 2, 2))

    def keep(call: Call, hidden: Tensor, at: At) -> Tensor:
        kept.append(call(hidden))
        return kept[-1]  # type: ignore[no-any-return]

    view = Sites([site, ungated])
    view.wrap(SiteKind.FEED_FORWARD, keep, gated=gated)
    view.wrap(SiteKind.FEED_FORWARD, plus(0))
    view.wrap(SiteKind.CROSS_ATTENTION, keep, gated=gated)
    assert {wrapped.name for wrapped, _ in view.wraps} == {"s", "u"}
    attachment = Attachment(
        [site, ungated], Step(), [Layer(Track("t"), view.wraps)], lambda site, *_: seen.append(site.name)
    )
    attachment.attach()
    assert torch.equal(site.gated(x, 5.0, factor=2.0), 10 * x)
    assert torch.equal(kept[0], (10 if gated else 2) * x)
    assert torch.equal(ungated.module(x, 3.0), kept[1])
    assert seen == ["s", "u"], "a call that two wraps let through happens once"
    attachment.detach()
    assert "forward" not in {*vars(layer), *vars(site.gated)}


def test_a_technique_has_one_memory_for_all_sites() -> None:
    model, x, seen = Two(), torch.ones(1, 4, 1), []

    def count(call: Call, hidden: Tensor, at: At) -> Tensor:
        at.common.calls = getattr(at.common, "calls", 0) + 1
        seen.append(at.common.calls)
        return call(hidden)  # type: ignore[no-any-return]

    attachment = attached(model, ("a", SiteKind.FEED_FORWARD, count), ("b", SiteKind.FEED_FORWARD, count))
    model(x)
    assert seen == [1, 1], "techniques do not see each other's"
    view = Sites(sites_of(model))
    attachment.detach()
    view.wrap(SiteKind.FEED_FORWARD, count)
    view.wrap(SiteKind.CROSS_ATTENTION, count)
    attachment = Attachment(sites_of(model), Step(), [Layer(Track("a"), view.wraps)])
    attachment.attach()
    seen.clear()
    model(x)
    assert seen == [1, 2]
    attachment.clear()
    model(x)
    assert seen == [1, 2, 1, 2]


def test_reading_an_empty_memory_says_what_happened() -> None:
    with pytest.raises(AttributeError, match="`output` here: a reuse phase ran before any full one"):
        _ = Memory().output


def test_decide_counts_non_finite_scores() -> None:
    track = Track("t")
    at = At(sites_of(Two())[1], Step(), track, Memory(), Memory())
    scores = torch.tensor([1.0, torch.nan, torch.inf])
    assert at.decide(scores) is scores
    at.decide(scores)
    assert int(track.nonfinite) == 4


def test_at_shows_the_technique_its_own_phase() -> None:
    track = Track("t")
    at = At(sites_of(Two())[1], Step(), track, Memory(), Memory())
    track.phase = Phase("partial", value=0.5)
    assert (at.phase, at.value) == ("partial", 0.5)


def test_values_of_sequences_become_values_of_tokens() -> None:
    values = torch.arange(2 * 3 * 2 * 2).view(2, 3, 4)  # [sample, frame, spot]
    space = Site("s", SiteKind.KERNEL, nn.Identity(), grid=(3, 2, 2), along="space")
    time = Site("t", SiteKind.KERNEL, nn.Identity(), grid=(3, 2, 2), along="time")
    assert torch.equal(space.per_token(values.flatten(0, 1)), values.flatten(1))
    assert torch.equal(time.per_token(values.transpose(1, 2).flatten(0, 1)), values.flatten(1))


def test_mean_over_branches() -> None:
    rows = torch.tensor([[1.0], [2.0], [5.0], [8.0]])
    both = Step(branches=(Branch.COND, Branch.UNCOND))
    assert both.mean_over_branches(rows).flatten().tolist() == [3.0, 5.0, 3.0, 5.0]
    assert Step(branches=(Branch.COND,)).mean_over_branches(rows) is rows


def test_what_a_memory_keeps_in_other_objects_counts() -> None:
    class Box:
        def tensors(self) -> list[Tensor]:
            return [torch.ones(3), torch.ones(2)]

    memory = Memory()
    memory.box, memory.own, memory.note = Box(), torch.ones(1), "no tensor"
    assert memory.nbytes() == 4 * 6
