"""What DistriFusion (arXiv 2402.19481) says of itself, checked on two ranks against one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import BACKBONES, TECHNIQUES, TINY_STEPS
from torch import Tensor, nn

from engine import parallel, registry
from engine.compiler import Compiled
from engine.errors import InvalidInput
from engine.parallel import gang
from engine.receipts import Trace, receipts
from engine.runner import live_sites, opened
from engine.sites import At, Call, SiteKind, Sites
from engine.step import Branch, Phase, RunShape
from engine.technique import Stage, Technique

Compile = Callable[..., Compiled]
two_ranks = pytest.mark.ranks(2)
MODES = ("corrected_async_gn", "stale_gn", "sync_gn", "separate_gn", "full_sync", "no_sync")
WARM = 2


def latents(compiled: Compiled, trace: Trace | None = None) -> Tensor:
    with opened(compiled, trace=trace) as side:
        return side.generate((5, 6))


def close(one: Tensor, other: Tensor) -> None:
    """Equal up to the rounding of sums taken in another order, which grows with the size of the latents."""
    assert torch.isfinite(one).all()
    assert (one - other).abs().max() < 1e-5 * other.abs().max()


class Emulated(Technique):
    """Displaced patches in one process, for tests (arXiv 2402.19481): strips are stacked in front of the batch.

    Every site keeps a table with what each strip had in the last step. No group, no mailbox, none of the engine's
    functions for strips.
    """

    slug = "emulated"
    family = "parallel"
    stage = Stage.PLACE
    requires = frozenset({SiteKind.SELF_ATTENTION})
    mode: str
    strips: int = 2

    def schedule(self, run: RunShape) -> list[Phase]:
        waits = [self.mode == "full_sync" or index <= WARM for index in range(run.steps)]
        return [Phase("sync" if wait else "async") for wait in waits]

    def attach(self, sites: Sites) -> None:
        path = sites.within(SiteKind.MODEL)
        first, last = path[0].name, path[-1].name
        sites.wrap(SiteKind.CONV, self.conv, lambda site: site.module.kernel_size != (1, 1))
        sites.wrap(SiteKind.NORM, self.norm, lambda site: isinstance(site.module, nn.GroupNorm))
        sites.wrap(SiteKind.KERNEL, self.kernel, lambda site: sites.enclosing(site).kind is SiteKind.SELF_ATTENTION)
        sites.wrap(path[0].kind, self.first, lambda site: site.name == first)
        sites.wrap(path[-1].kind, self.last, lambda site: site.name == last)
        sites.wrap(SiteKind.MODEL, self.model)

    def seen(self, at: At, fresh: list[Tensor]) -> list[list[Tensor]]:
        """What each strip sees of every strip: in the warm-up all fresh, later the others' of the last step."""
        old = at.memory.table if at.phase == "async" else fresh
        if at.phase == "sync" or self.mode != "no_sync":
            at.memory.table = fresh
        return [[*old[:strip], own, *old[strip + 1 :]] for strip, own in enumerate(fresh)]

    def model(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        def times(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: times(inner) for key, inner in value.items()}
            return value if value is None else torch.cat([value] * self.strips)

        return call(times(hidden), **{name: times(value) for name, value in call.inputs.items()})[: len(hidden)]

    def first(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        whole, axis = hidden.chunk(self.strips)[0], 2 if hidden.ndim == 4 else 1
        at.common.picture = whole
        return call(torch.cat(whole.chunk(self.strips, dim=axis)))

    def last(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        out = call(hidden)
        whole = torch.cat(out.chunk(self.strips), dim=2 if hidden.ndim == 4 else 1)
        return torch.cat([whole] * self.strips)

    def conv(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        conv, strips = at.site.module, list(hidden.chunk(self.strips))
        # Of the first convolution's input, the picture itself, every strip has all rows in every step.
        seen = [strips] * self.strips if at.site.name == "conv_in" else self.seen(at, strips)
        behind = (0, 1, 0, 1) if conv.padding == (0, 0) else (1, 1, 1, 1)
        outs = []
        for strip, parts in enumerate(seen):
            rows, height = F.pad(torch.cat(parts, dim=2), behind), strips[0].shape[2]
            outs.append(F.conv2d(rows[:, :, strip * height :][:, :, : height + sum(behind[2:])], conv.weight, conv.bias,
                                 conv.stride))  # fmt: skip
        return torch.cat(outs)

    def norm(self, call: Call, hidden: Tensor, at: At) -> Tensor:
        strips, norm = list(hidden.chunk(self.strips)), at.site.module
        grouped = [strip.reshape(len(strip), norm.num_groups, -1) for strip in strips]
        own = [torch.stack([strip.mean(-1), (strip**2).mean(-1)]) for strip in grouped]
        old = getattr(at.memory, "moments", own)
        at.memory.moments = own
        if at.phase == "async" and self.mode in ("separate_gn", "no_sync"):
            return torch.cat([norm.__class__.__base__.forward(norm, strip) for strip in strips])
        outs = []
        for strip, (values, mine) in enumerate(zip(grouped, own, strict=True)):
            if at.phase == "sync" or self.mode == "sync_gn":
                mean, square = sum(own) / self.strips
            elif self.mode == "stale_gn":
                mean, square = (sum(old) - old[strip] + mine) / self.strips
            else:
                mean, square = sum(old) / self.strips + mine - old[strip]
            variance = square - mean**2
            variance = torch.where(variance < 0, mine[1] - mine[0] ** 2, variance)
            normed = (values - mean[..., None]) / (variance[..., None] + norm.eps).sqrt()
            places = (None, slice(None), *[None] * (hidden.ndim - 2))
            outs.append(normed.view_as(strips[0]) * norm.weight[places] + norm.bias[places])
        return torch.cat(outs)

    def kernel(self, call: Call, query: Tensor, at: At) -> Tensor:
        keys = self.seen(at, list(torch.stack([call.inputs["key"], call.inputs["value"]]).chunk(self.strips, dim=1)))
        whole = [torch.cat(parts, dim=3) for parts in keys]
        queries = query.chunk(self.strips)
        return torch.cat([F.scaled_dot_product_attention(q, *kv) for q, kv in zip(queries, whole, strict=True)])


@pytest.fixture(autouse=True)
def emulated() -> Iterator[None]:
    with registry.adding(Emulated):
        yield


@pytest.mark.parametrize("backbone", ["sd", "ddpm", "dit", "pixart", "latte"])
def test_one_rank_is_the_plain_model(backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    alone = compile_tiny(backbone, {"distrifusion": {"ranks": 1}}, on=tiny)
    assert torch.equal(latents(alone), latents(compile_tiny(backbone, on=tiny)))
    assert alone.plan.estimate.macs == alone.plan.estimate.baseline_macs


@two_ranks
@pytest.mark.parametrize("backbone", ["sd", "ddpm", "pixart", "latte", "opensora"])
def test_full_sync_is_one_device(backbone: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    plain = latents(compile_tiny(backbone, on=tiny))
    full = latents(compile_tiny(backbone, {"distrifusion": {"mode": "full_sync"}}, on=tiny))
    close(full, plain)


@two_ranks
def test_a_warm_up_to_the_end_is_full_sync_and_so_are_its_steps(compile_tiny: Compile) -> None:
    """The first `warmup_steps + 1` predictions are the plain model's."""
    tiny = BACKBONES["sd"].tiny()
    full = latents(compile_tiny("sd", {"distrifusion": {"mode": "full_sync"}}, on=tiny))
    warm = latents(compile_tiny("sd", {"distrifusion": {"warmup_steps": TINY_STEPS - 1}}, on=tiny))
    assert torch.equal(warm, full)
    less = latents(compile_tiny("sd", {"distrifusion": {"warmup_steps": TINY_STEPS - 2}}, on=tiny))
    assert not torch.equal(less, full), "the last step reads what is stale"


@two_ranks
@pytest.mark.parametrize(
    ("backbone", "mode"),
    [*(("sd", mode) for mode in MODES), ("ddpm", "corrected_async_gn"), ("pixart", "stale_gn"), ("dit", "no_sync")],
)
def test_ranks_do_what_one_process_emulates(backbone: str, mode: str, compile_tiny: Compile) -> None:
    tiny = BACKBONES[backbone].tiny()
    parameters = {"mode": mode, "warmup_steps": WARM, "comm_checkpoint": 7}
    ours = latents(compile_tiny(backbone, {"distrifusion": parameters}, on=tiny))
    close(ours, latents(compile_tiny(backbone, {"emulated": {"mode": mode}}, on=tiny)))
    if mode != "full_sync":
        plain = latents(compile_tiny(backbone, on=tiny))
        assert (ours - plain).abs().max() > 1e-3 * plain.abs().max(), "stale values must show, or nothing was compared"


@two_ranks
@pytest.mark.parametrize("parameters", [{}, {"split_batch": True}, {"mode": "separate_gn", "unbiased": True}])
def test_ranks_hold_the_same_latents_to_the_bit(parameters: dict[str, Any], compile_tiny: Compile) -> None:
    mine = latents(compile_tiny("sd", {"distrifusion": parameters}))
    first, second = gang().all(mine)
    assert torch.equal(first, second)


@two_ranks
def test_halves_are_plain_guidance(compile_tiny: Compile) -> None:
    """Two halves of one strip each: every rank has one branch, nothing is stale."""
    tiny, trace = BACKBONES["sd"].tiny(), Trace()
    compiled = compile_tiny("sd", {"distrifusion": {"split_batch": True}}, on=tiny)
    close(latents(compiled, trace), latents(compile_tiny("sd", on=tiny)))
    with opened(compiled) as side:
        done = receipts(compiled, live_sites(compiled, side.call), trace, 0.0)
    assert done["techniques"]["distrifusion"]["kinds"]["model"]["done"] == {"partial": TINY_STEPS}
    assert done["macs"] == compiled.plan.estimate.macs == compiled.plan.estimate.baseline_macs / 2


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers in each gather."""
    sizes: list[int] = []
    real = parallel._gather_flat

    def spy(received: Tensor, sent: Tensor, handle: Any) -> Any:
        sizes.append(sent.numel())
        return real(received, sent, handle)

    monkeypatch.setattr(parallel, "_gather_flat", spy)
    yield sizes


@two_ranks
def test_gathers_of_every_step(compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the warm-up one a layer, then one for every `comm_checkpoint` layers, and one for the output."""
    compiled = compile_tiny("sd", {"distrifusion": {"warmup_steps": WARM, "comm_checkpoint": 10}})
    sites = {site.name: site for site, _ in compiled.entries[0].wraps}.values()
    layers = sum(site.kind in (SiteKind.KERNEL, SiteKind.NORM) or any(site.reach) for site in sites) - 1
    ends = []
    with counting(monkeypatch) as sizes, opened(compiled) as side:
        side.generate((5, 6), lambda: ends.append(len(sizes)))
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    whole, tail = divmod(layers, 10)
    assert tail, "the case is to have a rest that goes with the next step"
    steady = TINY_STEPS - WARM - 3
    assert counts == [layers + 1] * (WARM + 1) + [whole + 1] + [whole + 2] * steady + [2]
    warm, later = (sum(sizes[slice(*span)]) for span in ((0, ends[0]), (ends[WARM + 1], ends[WARM + 2])))
    assert warm == later, "every step carries the same numbers, in fewer gathers"


@two_ranks
def test_nothing_is_sent_without_synchronisation(compile_tiny: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compile_tiny("sd", {"distrifusion": {"warmup_steps": WARM, "mode": "no_sync"}})
    with counting(monkeypatch) as sizes, opened(compiled) as side:
        ends: list[int] = []
        side.generate((5, 6), lambda: ends.append(len(sizes)))
    assert ends[-1] - ends[WARM] == TINY_STEPS - WARM - 1, "the outputs, and nothing else"


@two_ranks
@pytest.mark.parametrize(("backbone", "cache"), [("pixart", "fora"), ("sd", "deepcache")])
def test_a_cache_further_in_exchanges_only_when_it_computes(backbone: str, cache: str, compile_tiny: Compile) -> None:
    compiled, trace = compile_tiny(backbone, {cache: {"interval": 2}}, {"distrifusion": {"warmup_steps": 1}}), Trace()
    first, second = gang().all(latents(compiled, trace))
    assert torch.equal(first, second)
    with opened(compiled) as side:
        done = receipts(compiled, live_sites(compiled, side.call), trace, 1.0)
    assert done["techniques"][cache]["as_planned"] and done["techniques"]["distrifusion"]["as_planned"]
    assert done["macs"] == pytest.approx(compiled.plan.estimate.macs, rel=1e-6)


class Drops(Technique):
    """A gate for tests that drops the unconditional branch half-way (arXiv 0000.00001)."""

    slug = "drops"
    family = "gating"
    stage = Stage.REUSE
    requires = frozenset({SiteKind.FEED_FORWARD})

    def schedule(self, run: RunShape) -> list[Phase]:
        gated = Phase("gated", (Branch.COND,))
        return [Phase("full") if index < run.steps // 2 else gated for index in range(run.steps)]

    def attach(self, sites: Sites) -> None:
        sites.wrap(SiteKind.FEED_FORWARD, lambda call, hidden, at: call(hidden))


@two_ranks
def test_when_a_branch_is_dropped_ranks_wait_for_one_another_once(compile_tiny: Compile) -> None:
    with registry.adding(Drops):
        mine = latents(compile_tiny("sd", {"drops": None}, {"distrifusion": {"warmup_steps": 0}}))
    first, second = gang().all(mine)
    assert torch.isfinite(first).all() and torch.equal(first, second)


def test_halves_need_both_branches(compile_tiny: Compile) -> None:
    with registry.adding(Drops), pytest.raises(InvalidInput, match="needs the branch uncond at step 4, which `drops`"):
        compile_tiny("sd", {"drops": None}, {"distrifusion": {"split_batch": True}})


def test_what_data_decides_is_refused(compile_tiny: Compile) -> None:
    """Every rank would decide on its own strip, and wait for others that decided otherwise."""
    with pytest.raises(InvalidInput, match="cannot run with `adacache`: every process would decide by itself"):
        compile_tiny("latte", {"adacache": None}, {"distrifusion": None})


def test_plan_is_that_of_one_rank(compile_tiny: Compile) -> None:
    plans = {ranks: compile_tiny("pixart", {"distrifusion": {"ranks": ranks}}).plan for ranks in (1, 2, 4)}
    plain, halves, quarters = (plans[ranks].estimate for ranks in (1, 2, 4))
    assert plain.macs == plain.baseline_macs == halves.baseline_macs
    assert halves.kinds["feed_forward"]["planned"] == plain.kinds["feed_forward"]["planned"] / 2
    assert quarters.kinds["kernel"]["planned"] < plain.kinds["kernel"]["planned"] / 3, "text is a small part"
    assert halves.kinds["model"] == plain.kinds["model"], "embeddings and the output layer are computed everywhere"
    assert plain.held_bytes == 0 < halves.held_bytes
    assert [note for note in plans[2].notes if note.startswith("runs on 2 processes")]
    assert [step.phases["distrifusion"] for step in plans[2].steps] == ["sync"] * 5 + ["async"] * 2 + ["last"]


def test_memory_is_the_keys_and_values_of_the_whole_picture(compile_tiny: Compile) -> None:
    """And once more the own ones while they travel."""
    compiled = compile_tiny("pixart", {"distrifusion": {"ranks": 4}})
    width, layers, rows = 48, 2, 4
    whole = 2 * compiled.run.tokens * width * 4 * layers * rows
    assert compiled.plan.estimate.held_bytes == whole * 5 / 4


@pytest.mark.parametrize(
    ("backbone", "ranks", "expected"),
    [
        ("sd", 3, "the 4 rows of `down_blocks.0.downsamplers.0.conv` do not divide into 3 strips"),
        ("sd", 8, "the 4 rows"),
        ("pixart", 3, "the 4 rows of `transformer_blocks.0` do not divide into 3 strips"),
    ],
)
def test_rows_that_do_not_divide_are_refused(backbone: str, ranks: int, expected: str, compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match=expected):
        compile_tiny(backbone, {"distrifusion": {"ranks": ranks}})


def test_a_convolution_that_takes_no_rows_is_refused(compile_tiny: Compile) -> None:
    """One that another technique has put in, for instance: it would pad every strip with zeros."""
    tiny = BACKBONES["sd"].tiny()
    block = tiny.model.down_blocks[0].resnets[0]
    block.conv1 = nn.Conv2d(block.conv1.in_channels, block.conv1.out_channels, 3, padding=1)
    with pytest.raises(InvalidInput, match=r"`down_blocks.0.resnets.0.conv1` reads rows around its own"):
        compile_tiny("sd", {"distrifusion": None}, on=tiny)


def test_odd_halves_are_refused(compile_tiny: Compile) -> None:
    with pytest.raises(InvalidInput, match="needs an even number of `ranks`"):
        compile_tiny("sd", {"distrifusion": {"ranks": 3, "split_batch": True}})


def test_defaults_are_the_official_ones() -> None:
    fields = TECHNIQUES["distrifusion"].model_fields
    values = {name: fields[name].default for name in ("warmup_steps", "mode", "comm_checkpoint")}
    assert values == {"warmup_steps": 4, "mode": "corrected_async_gn", "comm_checkpoint": 60}
