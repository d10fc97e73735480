"""Open-Sora 1.2 video VAE: a 2-D VAE per frame, then a causal temporal VAE over short chunks of frames.

The state dict has the names and shapes of the hub checkpoint ``hpcai-tech/OpenSora-VAE-v1.2``, so its weights load with
``strict=True``: ``spatial_vae.module.*``, ``temporal_vae.*`` and the buffers ``scale`` and ``shift``.
The defaults are the hub's sizes; every width and depth can be made smaller for tests and small trained models.

Three latent spaces appear below:

* *spatial latents* ``[B, C, F, h, w]``: one latent image per video frame, already multiplied by
  ``spatial_scaling_factor``;
* *raw latents* ``[B, C, T, h, w]``: output of the temporal VAE, about four frames per latent frame;
* *latents* ``[B, C, T, h, w]``: raw latents after ``(z - shift) / scale``; this is what the denoiser sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from engine.backbones.opensora.sizes import HUB_RENAMED_FIELDS, LatentSizes
from engine.backbones.opensora.temporal_vae import TemporalVAE

# Fields of the hub's config.json that do not change what this class computes. ``vae_2d`` and ``vae_temporal`` only
# name the original's builders (the micro-batch inside ``vae_2d`` is taken over, see ``from_config``),
# ``from_pretrained`` is a path, ``freeze_vae_2d`` and ``cal_loss`` steer the original's training script, the rest is
# transformers' bookkeeping.
HUB_IGNORED_FIELDS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "cal_loss",
        "dtype",
        "freeze_vae_2d",
        "from_pretrained",
        "model_type",
        "torch_dtype",
        "transformers_version",
        "vae_2d",
        "vae_temporal",
    }
)


class SpatialVAE(nn.Module):
    """Holder that gives the diffusers ``AutoencoderKL`` the checkpoint's prefix ``spatial_vae.module``."""

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__()
        self.module = module


class OpenSoraVAE(ModelMixin, ConfigMixin):  # type: ignore[misc, unused-ignore]
    """Open-Sora 1.2 video VAE.

    Args:
        in_channels: colour channels of the video.
        latent_channels: channels of spatial latents, raw latents and latents.
        spatial_block_out_channels: widths of the 2-D VAE; each level but the last halves height and width.
        spatial_layers_per_block: residual layers per level of the 2-D VAE.
        spatial_norm_num_groups: GroupNorm groups of the 2-D VAE; must divide its widths.
        spatial_mid_block_attention: self-attention at the 2-D VAE's lowest resolution.
        spatial_scaling_factor: multiplies the 2-D VAE's latents.
        micro_batch_size: frames per call of the 2-D VAE in ``encode`` and ``decode``; ``None`` for all at once.
        temporal_filters: base width of the temporal VAE.
        temporal_channel_multipliers: width multiplier of each temporal level.
        temporal_downsample: for each level but the last, whether a stride of 2 in time follows it.
        temporal_res_blocks: residual blocks per temporal level.
        temporal_norm_num_groups: GroupNorm groups of the temporal VAE; must divide its widths.
        micro_frame_size: frames per chunk of the temporal VAE; ``None`` for one chunk.
        latent_shift: per-channel shift of the raw latents, or one number; becomes the buffer ``shift``.
        latent_scale: per-channel scale of the raw latents, or one number; becomes the buffer ``scale``.

    A config.json of the hub checkpoint is accepted by ``from_config`` too: its ``shift`` and ``scale`` are renamed, its
    2-D micro-batch is taken out of ``vae_2d``, and the fields in ``HUB_IGNORED_FIELDS`` are dropped.
    """

    config_name = "config.json"  # type: ignore[assignment, unused-ignore]

    @register_to_config  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        spatial_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        spatial_layers_per_block: int = 2,
        spatial_norm_num_groups: int = 32,
        spatial_mid_block_attention: bool = True,
        spatial_scaling_factor: float = 0.18215,
        micro_batch_size: int | None = 4,
        temporal_filters: int = 128,
        temporal_channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        temporal_res_blocks: int = 4,
        temporal_norm_num_groups: int = 32,
        micro_frame_size: int | None = 17,
        latent_shift: float | Sequence[float] = (-0.10, 0.34, 0.27, 0.98),
        latent_scale: float | Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        check_sizes(temporal_channel_multipliers, temporal_downsample, micro_batch_size, micro_frame_size)
        levels = len(spatial_block_out_channels)
        self.spatial_vae = SpatialVAE(
            AutoencoderKL(
                in_channels=in_channels,
                out_channels=in_channels,
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=tuple(spatial_block_out_channels),
                layers_per_block=spatial_layers_per_block,
                latent_channels=latent_channels,
                norm_num_groups=spatial_norm_num_groups,
                scaling_factor=spatial_scaling_factor,
                mid_block_add_attention=spatial_mid_block_attention,
            )
        )
        self.temporal_vae = TemporalVAE(
            latent_channels=latent_channels,
            filters=temporal_filters,
            channel_multipliers=temporal_channel_multipliers,
            temporal_downsample=temporal_downsample,
            num_res_blocks=temporal_res_blocks,
            norm_num_groups=temporal_norm_num_groups,
        )
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", channel_buffer(latent_scale, latent_channels, "latent_scale"))
        self.register_buffer("shift", channel_buffer(latent_shift, latent_channels, "latent_shift"))
        self._in_channels = in_channels
        self.sizes = LatentSizes(latent_channels, 2 ** (levels - 1), self.temporal_vae.time_factor, micro_frame_size)
        self._spatial_scaling_factor = spatial_scaling_factor
        self._micro_batch_size = micro_batch_size

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build from a config dictionary, either this class's or the hub checkpoint's (transformers style)."""
        if isinstance(config, dict):
            config = translate_hub_config(config)
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent cell along height and along width (8 for the hub checkpoint)."""
        return self.sizes.cell

    @property
    def temporal_compression(self) -> int:
        """Frames per latent frame within a chunk, before rounding up (4 for the hub checkpoint)."""
        return self.sizes.stride

    def chunk_frames(self, num_frames: int) -> list[int]:
        """Frame counts of the temporal chunks of a video."""
        return self.sizes.chunks(num_frames)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape ``(C, T, h, w)`` of the latents of ``num_frames`` frames of ``height`` x ``width`` pixels."""
        return self.sizes.latent_shape(num_frames, height, width)

    def encode(self, video: Tensor, generator: torch.Generator | None = None, sample: bool = True) -> Tensor:
        """Latents ``[B, C, T, h, w]`` of ``video [B, 3, F, H, W]`` in [-1, 1].

        The original samples both posteriors (2-D and temporal); ``sample=False`` takes both means instead, which makes
        the result deterministic. Random numbers are drawn for all frames first, then chunk by chunk.
        """
        check_video(video, self._in_channels)
        frames = self.encode_spatial(video, generator, sample, self._micro_batch_size)
        parts = []
        for chunk in torch.split(frames, self.chunk_frames(frames.shape[2]), dim=2):
            mean, logvar = self.encode_temporal(chunk)
            parts.append(gaussian_sample(mean, logvar, generator) if sample else mean)
        return self.normalize(torch.cat(parts, dim=2))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Video ``[B, 3, num_frames, H, W]``, about in [-1, 1], of ``latents [B, C, T, h, w]``.

        ``num_frames`` is needed because several frame counts give the same number of latent frames.
        """
        counts = self.chunk_frames(num_frames)
        sizes = [self.temporal_vae.latent_frames(count) for count in counts]
        check_latents(latents, self.sizes.channels, sum(sizes), num_frames)
        chunks = torch.split(self.denormalize(latents), sizes, dim=2)
        frames = [self.decode_temporal(chunk, count) for chunk, count in zip(chunks, counts, strict=True)]
        return self.decode_spatial(torch.cat(frames, dim=2), self._micro_batch_size)

    def forward(self, video: Tensor, generator: torch.Generator | None = None, sample: bool = True) -> Tensor:
        """Reconstruction ``[B, 3, F, H', W']`` of ``video [B, 3, F, H, W]``; sizes are cut to the compression."""
        return self.decode(self.encode(video, generator, sample), video.shape[2])

    def encode_spatial(
        self,
        video: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        micro_batch_size: int | None = None,
    ) -> Tensor:
        """Spatial latents ``[B, C, F, h, w]`` of ``video [B, 3, F, H, W]``; all frames at once unless told."""
        images = frames_to_batch(video)
        parts = []
        for batch in torch.split(images, micro_batch_size or images.shape[0]):
            posterior = self.spatial_vae.module.encode(batch).latent_dist
            parts.append(posterior.sample(generator) if sample else posterior.mode())
        return batch_to_frames(torch.cat(parts) * self._spatial_scaling_factor, video.shape[0])

    def decode_spatial(self, frames: Tensor, micro_batch_size: int | None = None) -> Tensor:
        """Video ``[B, 3, F, H, W]`` of spatial latents ``frames [B, C, F, h, w]``; all at once unless told."""
        images = frames_to_batch(frames) / self._spatial_scaling_factor
        batches = torch.split(images, micro_batch_size or images.shape[0])
        parts = [self.spatial_vae.module.decode(batch).sample for batch in batches]
        return batch_to_frames(torch.cat(parts), frames.shape[0])

    def spatial_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior (mean, log-variance), each ``[N, C, h, w]`` and *unscaled*, of ``images [N, 3, H, W]``."""
        posterior = self.spatial_vae.module.encode(images).latent_dist
        return posterior.mean, posterior.logvar

    def encode_temporal(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the raw latents (mean, log-variance), ``[B, C, T, h, w]``, of one chunk of spatial latents."""
        return self.temporal_vae.encode(frames)

    def decode_temporal(self, raw_latents: Tensor, num_frames: int) -> Tensor:
        """Spatial latents ``[B, C, num_frames, h, w]`` of one chunk of raw latents ``[B, C, T, h, w]``."""
        return self.temporal_vae.decode(raw_latents, num_frames)

    def normalize(self, raw_latents: Tensor) -> Tensor:
        """Raw latents to latents (about unit variance), same shape."""
        return (raw_latents - self.shift.to(raw_latents.dtype)) / self.scale.to(raw_latents.dtype)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Latents to raw latents, same shape."""
        return latents * self.scale.to(latents.dtype) + self.shift.to(latents.dtype)


def gaussian_sample(mean: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from a diagonal Gaussian; same shape as ``mean``. Differentiable in both arguments."""
    noise: Tensor = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * logvar) * noise


def frames_to_batch(video: Tensor) -> Tensor:
    """``[B, C, F, H, W]`` to ``[B * F, C, H, W]``."""
    return video.transpose(1, 2).flatten(0, 1)


def batch_to_frames(images: Tensor, batch: int) -> Tensor:
    """``[B * F, C, H, W]`` to ``[B, C, F, H, W]``."""
    return images.reshape(batch, -1, *images.shape[1:]).transpose(1, 2).contiguous()


def channel_buffer(values: float | Sequence[float], channels: int, name: str) -> Tensor:
    """Per-channel numbers as ``[1, C, 1, 1, 1]`` (one number: a 0-d tensor), the checkpoint's buffer shapes."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if tensor.ndim == 0:
        return tensor
    if tensor.shape != (channels,):
        raise ValueError(f"{name} must be one number or {channels} numbers, got {values}")
    return tensor.reshape(1, channels, 1, 1, 1)


def translate_hub_config(config: dict[str, Any]) -> dict[str, Any]:
    """Rename or drop the hub config's fields; a config of this class passes unchanged."""
    result = {HUB_RENAMED_FIELDS.get(key, key): value for key, value in config.items() if key not in HUB_IGNORED_FIELDS}
    nested = config.get("vae_2d")
    if isinstance(nested, dict) and "micro_batch_size" in nested:
        result.setdefault("micro_batch_size", nested["micro_batch_size"])
    return result


def check_sizes(
    multipliers: Sequence[int], downsample: Sequence[bool], micro_batch_size: int | None, micro_frame_size: int | None
) -> None:
    """Raise ``ValueError`` for config values that would only fail later, and less clearly."""
    if len(downsample) != len(multipliers) - 1:
        raise ValueError(
            f"temporal_downsample must have {len(multipliers) - 1} entries (one per level but the last), "
            f"got {len(downsample)}"
        )
    for name, value in (("micro_batch_size", micro_batch_size), ("micro_frame_size", micro_frame_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1 or None, got {value}")


def check_video(video: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless ``video`` is ``[B, channels, F, H, W]``."""
    if video.ndim != 5 or video.shape[1] != channels:
        raise ValueError(f"expected a video [B, {channels}, F, H, W], got shape {tuple(video.shape)}")


def check_latents(latents: Tensor, channels: int, frames: int, num_frames: int) -> None:
    """Raise ``ValueError`` unless ``latents`` are ``[B, channels, frames, h, w]``."""
    if latents.ndim != 5 or latents.shape[1:3] != (channels, frames):
        raise ValueError(
            f"{num_frames} frames need latents [B, {channels}, {frames}, h, w], got shape {tuple(latents.shape)}"
        )
