"""Open-Sora 1.2: text to video with a spatial-temporal transformer and rectified flow."""

from engine.backbones.opensora.stdit3 import STDiT3

__all__ = ["STDiT3"]
