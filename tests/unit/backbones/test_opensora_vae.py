"""Open-Sora VAE: checkpoint names and shapes, frame-count rules, causality, chunking, config and file round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.backbones.opensora.temporal_vae import TemporalVAE, channels_to_time
from engine.backbones.opensora.vae import OpenSoraVAE, gaussian_sample

TINY: dict[str, Any] = {
    "spatial_block_out_channels": (8, 8, 8),
    "spatial_layers_per_block": 1,
    "spatial_norm_num_groups": 4,
    "temporal_filters": 4,
    "temporal_channel_multipliers": (1, 2, 2, 3),
    "temporal_res_blocks": 1,
    "temporal_norm_num_groups": 2,
}

# As written by transformers' save_pretrained for the original's pipeline class.
HUB_CONFIG: dict[str, Any] = {
    "architectures": ["VideoAutoencoderPipeline"],
    "cal_loss": False,
    "freeze_vae_2d": False,
    "from_pretrained": None,
    "micro_frame_size": 17,
    "model_type": "VideoAutoencoderPipeline",
    "scale": [3.85, 2.32, 2.33, 3.06],
    "shift": [-0.1, 0.34, 0.27, 0.98],
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
    "vae_2d": {"type": "VideoAutoencoderKL", "from_pretrained": "x", "subfolder": "vae", "micro_batch_size": 2},
    "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None},
}

FULL_SHAPES: dict[str, tuple[int, ...]] = {
    "scale": (1, 4, 1, 1, 1),
    "shift": (1, 4, 1, 1, 1),
    "spatial_vae.module.encoder.conv_in.weight": (128, 3, 3, 3),
    "spatial_vae.module.encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
    "spatial_vae.module.encoder.down_blocks.2.downsamplers.0.conv.weight": (512, 512, 3, 3),
    "spatial_vae.module.encoder.mid_block.attentions.0.to_q.weight": (512, 512),
    "spatial_vae.module.encoder.mid_block.attentions.0.to_out.0.weight": (512, 512),
    "spatial_vae.module.encoder.conv_out.weight": (8, 512, 3, 3),
    "spatial_vae.module.quant_conv.weight": (8, 8, 1, 1),
    "spatial_vae.module.post_quant_conv.weight": (4, 4, 1, 1),
    "spatial_vae.module.decoder.up_blocks.0.resnets.2.conv2.weight": (512, 512, 3, 3),
    "spatial_vae.module.decoder.conv_out.weight": (3, 128, 3, 3),
    "temporal_vae.encoder.conv_in.conv.weight": (128, 4, 3, 3, 3),
    "temporal_vae.encoder.block_res_blocks.0.3.norm2.weight": (128,),
    "temporal_vae.encoder.block_res_blocks.1.0.conv1.conv.weight": (256, 128, 3, 3, 3),
    "temporal_vae.encoder.block_res_blocks.1.0.conv3.conv.weight": (256, 128, 1, 1, 1),
    "temporal_vae.encoder.block_res_blocks.3.3.conv2.conv.weight": (512, 512, 3, 3, 3),
    "temporal_vae.encoder.conv_blocks.1.conv.weight": (256, 256, 3, 3, 3),
    "temporal_vae.encoder.conv_blocks.2.conv.bias": (256,),
    "temporal_vae.encoder.res_blocks.3.conv1.conv.weight": (512, 512, 3, 3, 3),
    "temporal_vae.encoder.norm1.weight": (512,),
    "temporal_vae.encoder.conv2.conv.weight": (8, 512, 1, 1, 1),
    "temporal_vae.encoder.conv2.conv.bias": (8,),
    "temporal_vae.quant_conv.conv.weight": (8, 8, 1, 1, 1),
    "temporal_vae.post_quant_conv.conv.bias": (4,),
    "temporal_vae.decoder.conv1.conv.weight": (512, 4, 3, 3, 3),
    "temporal_vae.decoder.conv1.conv.bias": (512,),
    "temporal_vae.decoder.res_blocks.0.norm1.bias": (512,),
    "temporal_vae.decoder.block_res_blocks.0.0.conv3.conv.weight": (128, 256, 1, 1, 1),
    "temporal_vae.decoder.block_res_blocks.2.0.conv3.conv.weight": (256, 512, 1, 1, 1),
    "temporal_vae.decoder.conv_blocks.1.conv.weight": (512, 256, 3, 3, 3),
    "temporal_vae.decoder.conv_blocks.2.conv.weight": (1024, 512, 3, 3, 3),
    "temporal_vae.decoder.norm1.weight": (128,),
    "temporal_vae.decoder.conv_out.conv.weight": (4, 128, 3, 3, 3),
    "temporal_vae.decoder.conv_out.conv.bias": (4,),
}

# Places where the checkpoint has no key: bias-free convolutions, Identity levels, shortcuts at equal width.
ABSENT_KEYS = (
    "temporal_vae.encoder.conv_in.conv.bias",
    "temporal_vae.encoder.block_res_blocks.0.0.conv1.conv.bias",
    "temporal_vae.encoder.block_res_blocks.0.0.conv3.conv.weight",
    "temporal_vae.encoder.block_res_blocks.2.0.conv3.conv.weight",
    "temporal_vae.encoder.conv_blocks.0.conv.weight",
    "temporal_vae.decoder.conv_blocks.0.conv.weight",
    "temporal_vae.decoder.block_res_blocks.3.0.conv3.conv.weight",
)


@pytest.fixture(scope="module")
def full() -> OpenSoraVAE:
    """The hub's size, without memory for its weights."""
    with torch.device("meta"):
        return OpenSoraVAE()


@pytest.fixture(scope="module")
def tiny() -> OpenSoraVAE:
    """A small model with random weights; tests must not change it."""
    torch.manual_seed(0)
    return OpenSoraVAE(**TINY).eval().requires_grad_(False)


def random_video(num_frames: int, batch: int = 1, size: int = 8, seed: int = 1) -> Tensor:
    """Random ``[batch, 3, num_frames, size, size]`` in [-1, 1]."""
    return torch.rand(batch, 3, num_frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, buffers excluded."""
    return sum(parameter.numel() for parameter in module.parameters())


def without_norms(model: OpenSoraVAE) -> TemporalVAE:
    """Replace the temporal VAE's GroupNorms, which pool over the chunk, so that only convolutions mix frames."""
    for module in list(model.temporal_vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return model.temporal_vae


def changed_frames(a: Tensor, b: Tensor) -> list[bool]:
    """For each frame of two ``[B, C, F, h, w]`` tensors, whether anything differs (exactly)."""
    return [not torch.equal(a[:, :, index], b[:, :, index]) for index in range(a.shape[2])]


def test_full_size_names_and_shapes(full: OpenSoraVAE) -> None:
    state = full.state_dict()
    assert {name: tuple(state[name].shape) for name in FULL_SHAPES if name in state} == FULL_SHAPES
    assert [name for name in ABSENT_KEYS if name in state] == []
    prefixes = {name.split(".")[0] for name in state}
    assert prefixes == {"spatial_vae", "temporal_vae", "scale", "shift"}
    assert len(state) == 517


def test_full_size_parameter_counts(full: OpenSoraVAE) -> None:
    assert count_parameters(full.spatial_vae) == 83_653_863
    assert count_parameters(full.temporal_vae) == 309_687_144
    assert count_parameters(full) == 393_341_007


@pytest.mark.parametrize(
    ("num_frames", "latent_frames"),
    [(1, 1), (3, 1), (4, 1), (5, 2), (16, 4), (17, 5), (18, 6), (20, 6), (34, 10), (51, 15), (102, 30), (408, 120)],
)
def test_latent_frame_rule(full: OpenSoraVAE, num_frames: int, latent_frames: int) -> None:
    assert full.latent_shape(num_frames, 480, 854) == (4, latent_frames, 60, 106)


def test_chunk_frames_and_compression(full: OpenSoraVAE, tiny: OpenSoraVAE) -> None:
    assert full.chunk_frames(1) == [1]
    assert full.chunk_frames(34) == [17, 17]
    assert full.chunk_frames(20) == [17, 3]
    assert (full.spatial_compression, tiny.spatial_compression) == (8, 4)
    assert (full.temporal_compression, tiny.temporal_compression) == (4, 4)
    with torch.device("meta"):
        whole = OpenSoraVAE(**TINY, micro_frame_size=None)
    assert whole.chunk_frames(51) == [51]
    assert whole.latent_shape(51, 8, 8) == (4, 13, 2, 2)


@pytest.mark.parametrize("num_frames", [1, 4, 17, 20, 34])
def test_encode_decode_shapes(tiny: OpenSoraVAE, num_frames: int) -> None:
    latents = tiny.encode(random_video(num_frames, batch=2, size=12))
    assert tuple(latents.shape) == (2, *tiny.latent_shape(num_frames, 12, 12))
    assert tuple(tiny.decode(latents, num_frames).shape) == (2, 3, num_frames, 12, 12)


def test_odd_sizes_are_floored(tiny: OpenSoraVAE) -> None:
    latents = tiny.encode(random_video(1, size=11))
    assert tuple(latents.shape) == (1, *tiny.latent_shape(1, 11, 11)) == (1, 4, 1, 2, 2)
    assert tuple(tiny.decode(latents, 1).shape) == (1, 3, 1, 8, 8)


# Three zero frames come in front: latent frame k stands for frames 4k - 3 .. 4k, so it sees frame 4k and not 4k + 1.
@pytest.mark.parametrize(("frame", "first_latent"), [(0, 0), (1, 1), (8, 2), (9, 3), (16, 4)])
def test_encoder_convolutions_are_causal(frame: int, first_latent: int) -> None:
    torch.manual_seed(0)
    temporal = without_norms(OpenSoraVAE(**TINY).requires_grad_(False))
    frames = torch.randn(1, 4, 17, 4, 4)
    later = frames.clone()
    later[:, :, frame] += 1.0
    changed = changed_frames(temporal.encode(frames)[0], temporal.encode(later)[0])
    assert changed == [index >= first_latent for index in range(5)]


def test_decoder_convolutions_are_causal() -> None:
    torch.manual_seed(0)
    temporal = without_norms(OpenSoraVAE(**TINY).requires_grad_(False))
    latents = torch.randn(1, 4, 5, 4, 4)
    later = latents.clone()
    later[:, :, 3] += 1.0
    changed = changed_frames(temporal.decode(latents, 17), temporal.decode(later, 17))
    # Latent frame 3 stands for output frames 9..12 (three frames dropped in front).
    assert changed == [False] * 9 + [True] * 8


def test_later_chunk_does_not_reach_earlier_one(tiny: OpenSoraVAE) -> None:
    video = random_video(34)
    later = video.clone()
    later[:, :, 17] = -later[:, :, 17]
    latents, other = tiny.encode(video, sample=False), tiny.encode(later, sample=False)
    assert torch.equal(latents[:, :, :5], other[:, :, :5])
    assert not torch.allclose(latents[:, :, 5:], other[:, :, 5:])


@pytest.mark.parametrize("num_frames", [20, 34])
def test_chunks_are_processed_alone(tiny: OpenSoraVAE, num_frames: int) -> None:
    video = random_video(num_frames)
    latents = tiny.encode(video, sample=False)
    alone = [tiny.encode(video[:, :, :17], sample=False), tiny.encode(video[:, :, 17:], sample=False)]
    torch.testing.assert_close(latents, torch.cat(alone, dim=2))
    decoded = tiny.decode(latents, num_frames)
    parts = [tiny.decode(latents[:, :, :5], 17), tiny.decode(latents[:, :, 5:], num_frames - 17)]
    torch.testing.assert_close(decoded, torch.cat(parts, dim=2))
    whole = OpenSoraVAE(**TINY, micro_frame_size=None).requires_grad_(False)
    whole.load_state_dict(tiny.state_dict(), strict=True)
    # The comparison above says something only if one long chunk gives another result.
    assert not torch.allclose(whole.encode(video, sample=False)[:, :, :4], latents[:, :, :4])


def test_short_chunk_is_padded_with_zero_frames_in_front(tiny: OpenSoraVAE) -> None:
    frames = torch.randn(1, 4, 1, 2, 2)
    padded = torch.cat([torch.zeros(1, 4, 3, 2, 2), frames], dim=2)
    torch.testing.assert_close(tiny.encode_temporal(frames)[0], tiny.encode_temporal(padded)[0])
    raw = torch.randn(1, 4, 1, 2, 2)
    torch.testing.assert_close(tiny.decode_temporal(raw, 1), tiny.decode_temporal(raw, 4)[:, :, 3:])


def test_channels_to_time_order() -> None:
    x = torch.arange(2 * 2 * 3, dtype=torch.float32).reshape(1, 4, 3, 1, 1)
    out = channels_to_time(x)
    assert tuple(out.shape) == (1, 2, 6, 1, 1)
    # Channels 0 and 1 hold 0 1 2 and 3 4 5; they alternate in time in output channel 0.
    assert out[0, :, :, 0, 0].tolist() == [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]


def test_normalisation_uses_shift_and_scale(tiny: OpenSoraVAE) -> None:
    raw = torch.tensor([-0.10 + 3.85, 0.34, 0.27 - 2.33, 0.98 + 2 * 3.06]).reshape(1, 4, 1, 1, 1)
    expected = torch.tensor([1.0, 0.0, -1.0, 2.0]).reshape(1, 4, 1, 1, 1)
    torch.testing.assert_close(tiny.normalize(raw), expected)
    torch.testing.assert_close(tiny.denormalize(expected), raw)
    video = random_video(5)
    mean, _ = tiny.encode_temporal(tiny.encode_spatial(video, sample=False))
    torch.testing.assert_close(tiny.encode(video, sample=False), tiny.normalize(mean))


def test_decode_inverts_the_scalings(tiny: OpenSoraVAE) -> None:
    latents = torch.randn(1, 4, 2, 2, 2)
    frames = tiny.decode_temporal(tiny.denormalize(latents), 5)
    images = frames[0].transpose(0, 1) / 0.18215
    expected = tiny.spatial_vae.module.decode(images).sample
    torch.testing.assert_close(tiny.decode(latents, 5)[0].transpose(0, 1), expected)


def test_spatial_latents_are_scaled_and_frame_order_is_kept(tiny: OpenSoraVAE) -> None:
    video = random_video(3, batch=2)
    mean, _ = tiny.spatial_posterior(video[1, :, 2][None])
    frames = tiny.encode_spatial(video, sample=False)
    torch.testing.assert_close(frames[1, :, 2], mean[0] * 0.18215)
    torch.testing.assert_close(tiny.encode_spatial(video, sample=False, micro_batch_size=4), frames)
    torch.testing.assert_close(tiny.decode_spatial(frames, micro_batch_size=4), tiny.decode_spatial(frames))


def test_sampling_follows_the_generator(tiny: OpenSoraVAE) -> None:
    video = random_video(5)
    first = tiny.encode(video, torch.Generator().manual_seed(3))
    again = tiny.encode(video, torch.Generator().manual_seed(3))
    other = tiny.encode(video, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(tiny.encode(video, sample=False), tiny.encode(video, sample=False))


def test_gaussian_sample_has_the_asked_moments() -> None:
    mean, logvar = torch.full((20_000,), 2.0), torch.full((20_000,), 2.0).log() * 2
    draw = gaussian_sample(mean, logvar, torch.Generator().manual_seed(0))
    assert abs(draw.mean().item() - 2.0) < 0.06
    assert abs(draw.std().item() - 2.0) < 0.06


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = OpenSoraVAE(**TINY)
    model(random_video(5)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_state_dict_round_trip_through_safetensors(tiny: OpenSoraVAE, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tiny.state_dict().items()}, path)
    copy = OpenSoraVAE(**{**TINY, "latent_shift": 0.0, "latent_scale": (1.0, 1.0, 1.0, 1.0)})
    with pytest.raises(RuntimeError, match="size mismatch for shift"):
        copy.load_state_dict(load_file(path), strict=True)
    copy = OpenSoraVAE(**{**TINY, "latent_shift": (0.0,) * 4, "latent_scale": (1.0,) * 4}).requires_grad_(False)
    copy.load_state_dict(load_file(path), strict=True)
    video = random_video(5)
    assert torch.equal(copy.encode(video, sample=False), tiny.encode(video, sample=False))


def test_save_and_load_pretrained(tiny: OpenSoraVAE, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    copy = OpenSoraVAE.from_pretrained(tmp_path)
    assert copy.config["temporal_channel_multipliers"] in ((1, 2, 2, 3), [1, 2, 2, 3])
    latents = torch.randn(1, 4, 1, 2, 2)
    with torch.no_grad():
        assert torch.equal(copy.decode(latents, 1), tiny.decode(latents, 1))


def test_hub_config_is_accepted() -> None:
    with torch.device("meta"):
        model = OpenSoraVAE.from_config({**HUB_CONFIG, "shift": [1.0, 2.0, 3.0, 4.0], "micro_frame_size": 9})
    assert model.config["latent_shift"] == [1.0, 2.0, 3.0, 4.0]
    assert model.config["micro_batch_size"] == 2
    assert model.chunk_frames(20) == [9, 9, 2]
    assert "vae_2d" not in model.config
    assert tuple(model.scale.shape) == (1, 4, 1, 1, 1)


@pytest.mark.parametrize("field", ["micro_batch_size", "micro_frame_size"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        OpenSoraVAE(**TINY, **{field: 0})


def test_bad_config_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="temporal_downsample"):
        OpenSoraVAE(**TINY, temporal_downsample=(True, True))
    with pytest.raises(ValueError, match="latent_shift"):
        OpenSoraVAE(**TINY, latent_shift=(0.0, 1.0))


def test_bad_inputs_are_refused(tiny: OpenSoraVAE) -> None:
    with pytest.raises(ValueError, match=r"expected a video \[B, 3, F, H, W\]"):
        tiny.encode(torch.zeros(1, 4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"20 frames need latents \[B, 4, 6, h, w\]"):
        tiny.decode(torch.zeros(1, 4, 5, 2, 2), 20)
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        tiny.latent_shape(0, 8, 8)
    with pytest.raises(ValueError, match="at least 4 pixels"):
        tiny.latent_shape(1, 3, 8)
