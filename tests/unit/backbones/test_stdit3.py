"""STDiT3 against an independent reference, its names and shapes, and tests that the comparison itself can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import stdit3 as original
from torch import Tensor, nn

from engine.backbones.opensora import STDiT3

TOLERANCE = 1e-5
CLEARLY = 1e-2
"""A wrong variant differs by at least this much: a thousand times what is allowed."""

TINY: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 144,
    "num_heads": 2,
    "caption_channels": 32,
    "model_max_length": 12,
}
CONFIG = original.Config(**TINY)
ODD = (3, 5, 7)

PREFIXES = torch.tensor([[1] * 5 + [0] * 7, [1] * 9 + [0] * 3])
HOLES = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def state() -> original.State:
    return original.random_state(CONFIG)


@pytest.fixture(scope="module")
def model(state: original.State) -> STDiT3:
    """Tests must not change it."""
    return loaded(state)


def loaded(state: original.State, **fields: Any) -> STDiT3:
    model = STDiT3(**{**TINY, **fields})
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(latent: tuple[int, int, int] = ODD, prompts: int = 2, branches: int = 2, **changes: Any) -> dict[str, Any]:
    """Arguments of one call: rows are (cond 0, cond 1, uncond 0, uncond 1), sizes and mask have a row a prompt."""
    rows = prompts * branches
    arguments = {
        "x": noise(rows, 4, *latent, seed=7),
        "timestep": torch.full((rows,), 613.7),
        "y": noise(rows, 1, 12, 32, seed=8),
        "mask": PREFIXES[:prompts],
        "x_mask": None,
        "fps": torch.full((prompts,), 24.0),
        "height": torch.full((prompts,), latent[1] * 8.0),
        "width": torch.full((prompts,), latent[2] * 8.0 + 3),
    }
    return {**arguments, **changes}


def frame_mask(frames: int, rows: int = 4) -> Tensor:
    """Some frames given (False), others not, differently in every row."""
    return torch.rand(rows, frames, generator=torch.Generator().manual_seed(1)) > 0.5


def distance(model: STDiT3, state: original.State, arguments: dict[str, Any]) -> float:
    ours = model(**arguments)
    theirs = original.forward(state, CONFIG, **arguments)
    assert ours.shape == theirs.shape
    assert (ours.dtype, theirs.dtype) == (torch.float32, torch.float32)
    return float((ours - theirs).abs().max())


# ---------------------------------------------------------------- equal to the reference

CASES = {
    "odd height and width, two prompt lengths": case(),
    "even, high": case((2, 6, 4)),
    "wide": case((2, 4, 14)),
    "only height odd": case((2, 5, 6)),
    "single frame": case((1, 6, 9), fps=torch.full((2,), 120.0)),
    "one token a frame": case((4, 2, 1)),
    "mask with holes": case(mask=HOLES),
    "mask as booleans": case(mask=HOLES.bool()),
    "a mask row for every row": case(mask=torch.cat([PREFIXES, HOLES])),
    "no mask": case(mask=None),
    "shorter text": case(y=noise(4, 1, 9, 32), mask=PREFIXES[:, :9]),
    "no guidance": case(branches=1),
    "one prompt": case(prompts=1),
    "given frames": case(x_mask=frame_mask(3)),
    "given frames, mask with holes, wide": case((4, 4, 10), x_mask=frame_mask(4), mask=HOLES),
    "all frames given": case(x_mask=torch.zeros(4, 3, dtype=torch.bool)),
    "single frame, given or not": case((1, 5, 4), x_mask=torch.tensor([[True], [False], [True], [False]])),
    "time steps differ between rows": case(timestep=torch.tensor([1000.0, 143.1, 0.5, 613.7])),
    "frame rates differ between prompts": case(fps=torch.tensor([24.0, 8.0])),
    "as large as the reference size": case(height=torch.full((2,), 512.0), width=torch.full((2,), 512.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_reference(name: str, model: STDiT3, state: original.State) -> None:
    assert distance(model, state, CASES[name]) < TOLERANCE


@pytest.mark.parametrize(
    "fields",
    [
        {"pred_sigma": False},
        {"mlp_ratio": 2.0},
        {"input_sq_size": 64},
        {"num_heads": 4},
        {"patch_size": (2, 1, 3)},
        {"in_channels": 3},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_equals_reference_with_other_configs(fields: dict[str, Any]) -> None:
    config = original.Config(**{**TINY, **fields})
    state = original.random_state(config)
    arguments = case(x=noise(4, config.in_channels, *ODD), x_mask=frame_mask(2 if "patch_size" in fields else 3))
    ours = loaded(state, **fields)(**arguments)
    assert float((ours - original.forward(state, config, **arguments)).abs().max()) < TOLERANCE


def test_frame_mask_of_ones_changes_nothing(model: STDiT3) -> None:
    everything = case(x_mask=torch.ones(4, 3, dtype=torch.bool))
    assert torch.equal(model(**everything), model(**case()))
    assert float((model(**case(x_mask=frame_mask(3))) - model(**case())).abs().max()) > CLEARLY


def test_padding_text_is_never_read(model: STDiT3) -> None:
    arguments = case(mask=HOLES)
    padding = HOLES.repeat(2, 1)[:, None, :, None] == 0
    noisy = {**arguments, "y": torch.where(padding, noise(4, 1, 12, 32) * 100, arguments["y"])}
    assert torch.equal(model(**arguments), model(**noisy))


# ---------------------------------------------------------------- the comparison can fail


def swapped_halves(right: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What comes second comes first."""
    return lambda *arguments: torch.cat(right(*arguments).chunk(2, dim=-1)[::-1], dim=-1)


def full_null_caption(right: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The unconditional half reads all rows of the null caption, as most other models do."""

    def repeated(mask: Tensor, rows: int) -> Tensor:
        whole = right(mask, rows).clone()
        whole[rows // 2 :] = 1
        return whole

    return repeated


def half_split(_: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rotate(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return torch.cat([-high, low], dim=-1)

    return rotate


def spread_over_halves(_: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda angles: torch.cat([angles, angles], dim=-1)


def plain_final_layer(_: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Without the original's second modulation of an already modulated tensor."""

    def final(state: original.State, x: Tensor, t: Tensor, x_mask: Tensor, t0: Tensor, *grid: int) -> Tensor:
        table, normed = state["final_layer.scale_shift_table"], original.layer_norm(x)
        rows = [original.t2i_modulate(normed, *(table[None] + time[:, None]).chunk(2, dim=1)) for time in (t, t0)]
        return original.linear(state, "final_layer.linear", original.t_mask_select(x_mask, rows[0], rows[1], *grid))

    return final


def without_weight(_: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight: F.rms_norm(x, x.shape[-1:], eps=1e-6)


Variant = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


WRONG: dict[str, tuple[dict[str, Variant], dict[str, Any]]] = {
    "row before column in the position embedding": ({"position_embedding": swapped_halves}, case()),
    "cosine before sine in the position embedding": ({"sin_cos_emb": swapped_halves}, case()),
    "sine before cosine in the time embedding": ({"timestep_embedding": swapped_halves}, case()),
    "rotary on half-split channels": ({"rotate_half": half_split, "spread": spread_over_halves}, case()),
    "no weight in the norm of queries and keys": ({"rms_norm": without_weight}, case()),
    "null caption under its own mask": ({"repeated_mask": full_null_caption}, case()),
    "final layer modulates once": ({"final_layer": plain_final_layer}, case(x_mask=frame_mask(3))),
}


@pytest.mark.parametrize("name", WRONG)
def test_comparison_fails_for_wrong_variant(
    name: str, model: STDiT3, state: original.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, arguments = WRONG[name]
    assert distance(model, state, arguments) < TOLERANCE
    for part, variant in changes.items():
        monkeypatch.setattr(original, part, variant(getattr(original, part)))
    assert distance(model, state, arguments) > CLEARLY


@pytest.mark.parametrize("name", sorted(original.random_state(CONFIG)))
def test_comparison_sees_every_tensor(name: str, model: STDiT3, state: original.State) -> None:
    """Each tensor of the state dict matters, except the null caption, which callers put into `y`."""
    changed = {**state, name: state[name] * 1.5 + 0.5}
    theirs = original.forward(changed, CONFIG, **case())
    difference = float((model(**case()) - theirs).abs().max())
    assert (difference < TOLERANCE) is (name == "y_embedder.y_embedding")


# ---------------------------------------------------------------- parts


def test_temporal_attention_over_one_frame_is_the_projected_value(model: STDiT3, state: original.State) -> None:
    attention, width = model.temporal_blocks[1].attn, CONFIG.hidden_size
    hidden, shift, scale = noise(2, 6, width), noise(2, 1, width, seed=4), noise(2, 1, width, seed=5)
    prefix = "temporal_blocks.1.attn"
    values = (
        original.t2i_modulate(original.layer_norm(hidden), shift, scale) @ state[f"{prefix}.qkv.weight"][2 * width :].T
    )
    values = values + state[f"{prefix}.qkv.bias"][2 * width :]
    expected = original.linear(state, f"{prefix}.proj", values)
    found = attention(hidden, shift, scale, (1, 6), model.rope(1))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(attention(hidden, shift, scale, (2, 3), model.rope(2)), expected, atol=CLEARLY)


def test_temporal_blocks_mix_frames_and_spatial_blocks_do_not(model: STDiT3) -> None:
    hidden = noise(1, 3 * 4, CONFIG.hidden_size)
    later = hidden.clone()
    later[:, 4:8] += 1.0
    modulation = torch.zeros(1, 1, CONFIG.hidden_size)
    for blocks, rotary, mixes in ((model.spatial_blocks, None, False), (model.temporal_blocks, model.rope(3), True)):
        attention = blocks[0].attn
        before = attention(hidden, modulation, modulation, (3, 4), rotary)
        after = attention(later, modulation, modulation, (3, 4), rotary)
        assert torch.equal(before[:, :4], after[:, :4]) is not mixes
        assert not torch.equal(before[:, 4:8], after[:, 4:8])


def test_what_only_training_uses_is_accepted_and_what_changes_the_result_is_refused() -> None:
    with torch.device("meta"):
        STDiT3(**TINY, drop_path=0.3, enable_flash_attn=True, freeze_y_embedder=True, class_dropout_prob=0.5)
        with pytest.raises(ValueError, match="skip_y_embedder"):
            STDiT3(**TINY, skip_y_embedder=True)
        with pytest.raises(ValueError, match="hidden_size"):
            STDiT3(**{**TINY, "num_heads": 5})


def test_sizes_are_needed(model: STDiT3) -> None:
    with pytest.raises(ValueError, match="fps, height and width"):
        model(**case(height=None))


# ---------------------------------------------------------------- names and shapes


@pytest.fixture(scope="module")
def published() -> STDiT3:
    """STDiT3-XL/2 without memory for its weights."""
    with torch.device("meta"):
        return STDiT3()


def test_names_and_shapes_of_the_published_checkpoint(published: STDiT3) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    assert found == original.shapes(original.Config())
    assert len(found) == 973
    # A few of them literally, so that a mistake in the list above would show.
    assert found["x_embedder.proj.weight"] == (1152, 4, 1, 2, 2)
    assert found["t_block.1.weight"] == (6912, 1152)
    assert found["y_embedder.y_embedding"] == (300, 4096)
    assert found["temporal_blocks.27.attn.qkv.weight"] == (3456, 1152)
    assert found["spatial_blocks.0.attn.q_norm.weight"] == (72,)
    assert found["spatial_blocks.27.cross_attn.kv_linear.bias"] == (2304,)
    assert found["temporal_blocks.0.mlp.fc2.weight"] == (1152, 4608)
    assert found["final_layer.linear.weight"] == (32, 1152)
    assert found["rope.freqs"] == (36,)


def test_trainable_parameters_of_the_published_checkpoint(published: STDiT3) -> None:
    trainable = {name: parameter.numel() for name, parameter in published.named_parameters() if parameter.requires_grad}
    assert sum(trainable.values()) == 1_207_643_936
    assert sum(count for name, count in trainable.items() if name.startswith("spatial_blocks.3.")) == 21_255_696
    assert "rope.freqs" not in trainable
    assert "y_embedder.y_embedding" in dict(published.named_buffers())


def test_rotary_frequencies_are_those_of_the_checkpoint() -> None:
    assert torch.equal(STDiT3(**TINY).rope.freqs, original.rope_freqs(72))


# ---------------------------------------------------------------- bfloat16


@pytest.fixture(scope="module")
def half(state: original.State) -> STDiT3:
    """The model in bfloat16."""
    model = loaded(state)
    # nn.Module's own `to`: that of diffusers warns about casts that `from_pretrained` would do differently.
    nn.Module.to(model, torch.bfloat16)
    return model


def test_time_steps_snap_to_the_weights_dtype(half: STDiT3, model: STDiT3) -> None:
    def at(model: STDiT3, time: float) -> Tensor:
        return model(**case(timestep=torch.full((4,), time)))

    # 992.93 and 993.9 round to 992, 996.1 to 996; 143.12 and 142.9 round to 143.
    assert torch.equal(at(half, 992.93), at(half, 993.9))
    assert torch.equal(at(half, 992.93), at(half, 992.0))
    assert torch.equal(at(half, 143.12), at(half, 142.9))
    assert not torch.equal(at(half, 992.93), at(half, 996.1))
    assert not torch.equal(at(model, 992.93), at(model, 993.9))


def test_bfloat16_is_near_the_reference_in_bfloat16(half: STDiT3, state: original.State) -> None:
    rounded = {name: tensor.bfloat16() for name, tensor in state.items()}
    sizes = {name: case()[name].bfloat16() for name in ("fps", "height", "width")}
    theirs = original.forward(rounded, CONFIG, **case(**sizes))
    ours = half(**case(**sizes))
    assert ours.dtype == torch.float32
    assert float((ours - theirs).std() / theirs.std()) < 0.03


def test_bfloat16_position_embedding_is_that_of_the_original(state: original.State) -> None:
    empty = {
        name: torch.zeros_like(tensor) if name.startswith("x_embedder") else tensor for name, tensor in state.items()
    }
    model = loaded(empty)
    nn.Module.to(model, torch.bfloat16)
    seen: list[Tensor] = []
    model.spatial_blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    sizes = {"height": torch.full((2,), 480.0), "width": torch.full((2,), 856.0)}
    model(**case((1, 60, 106), **sizes))
    scale = (480 * 856) ** 0.5 / 512
    expected = original.position_embedding(CONFIG.hidden_size, 30, 53, scale, round((30 * 53) ** 0.5), torch.bfloat16)
    torch.testing.assert_close(seen[0][0], expected, atol=0.01, rtol=0)
