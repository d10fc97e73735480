"""diffusers' UNets, opened: everything further in than one skip connection is a module, and so is every sub-layer.

A UNet with skips h_0 (of `conv_in`), h_1 .. h_n is nested stages around the middle:

    model:     h_0 = conv_in(x);          out = conv_out(up_0(cat(stages.0(h_0), h_0)))
    stages.k:  h_k+1 = down_k+1(h_k);     u_k = up_k+1(cat(stages.k+1(h_k+1), h_k+1))
    stages.n:  u_n = middle(h_n)

where down and up are a residual block with the attention behind it, if there is one, or a change of resolution. So what
DeepCache keeps at depth k is the output of `stages.k`, and reusing it costs nothing further in. Weights stay where
diffusers keeps them, and what a UNet computes stays the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.attention import Attention, BasicTransformerBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from engine.backbones.common.kernel import AttentionKernel
from engine.backbones.common.strips import open_strips
from engine.backbones.common.transformer2d import KernelProcessor
from engine.weights import missing

Role = Literal["residual", "attention", "down", "up"]
ROLES: dict[type, Role] = {
    ResnetBlock2D: "residual",
    Transformer2DModel: "attention",
    Attention: "attention",
    Downsample2D: "down",
    Upsample2D: "up",
}


@dataclass(frozen=True)
class Layer:
    """One module of a UNet's path: where it is held (so that a swapped one is found), its name, how it is called."""

    holder: nn.ModuleList
    index: int
    name: str
    role: Role

    @property
    def module(self) -> Any:
        """The module as it is now."""
        return self.holder[self.index]


def run_layers(layers: Sequence[Layer], hidden: Tensor, temb: Tensor, text: Tensor | None, size: torch.Size) -> Tensor:
    """hidden [B, C, h, w] through `layers`; `size` (rows, columns) is where a change to finer resolution must end."""
    for layer in layers:
        if layer.role == "residual":
            hidden = layer.module(hidden, temb)
        elif layer.role == "attention":
            hidden = layer.module(hidden) if text is None else layer.module(hidden, text)
        elif layer.role == "up":
            doubled = (2 * hidden.shape[2], 2 * hidden.shape[3]) == tuple(size)
            hidden = layer.module(hidden, None if doubled else size)
        else:
            hidden = layer.module(hidden)
    return hidden


class Stage(nn.Module):
    """Everything further in than one skip. Its layers are no children: their weights keep their only names."""

    def __init__(self, down: Sequence[Layer], inner: Stage | None, up: Sequence[Layer]) -> None:
        super().__init__()
        self.down, self.up, self._inner = tuple(down), tuple(up), (inner,)

    def forward(self, hidden: Tensor, temb: Tensor, text: Tensor | None) -> Tensor:
        """hidden [B, C, h, w], the skip; temb [B, D]; text [B, L, F] -> [B, C', h, w], what is joined to the skip."""
        (inner,), size = self._inner, hidden.shape[2:]
        skip = run_layers(self.down, hidden, temb, text, size)
        if inner is None:
            return skip
        return run_layers(self.up, torch.cat([inner(skip, temb, text), skip], dim=1), temb, text, size)


class NormedLayer(nn.Module):
    """The norm and the sub-layer behind it. Neither is a child: the weights keep their only names."""

    def __init__(self, owner: nn.Module, norm: str, layer: str) -> None:
        super().__init__()
        self._owner, self.norm, self.layer = (owner,), norm, layer

    def forward(self, hidden: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """hidden [B, n, C], any tokens; text [B, L, F] where the layer reads it -> [B, n, C]."""
        (owner,) = self._owner
        normed = getattr(owner, self.norm)(hidden)
        layer = getattr(owner, self.layer)
        return layer(normed) if encoder_hidden_states is None else layer(normed, encoder_hidden_states)


class OpenTextBlock(BasicTransformerBlock):
    """A block whose forward calls its sub-layers, each with its norm, as modules."""

    opened_attn1: NormedLayer
    opened_attn2: NormedLayer
    opened_ff: NormedLayer

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: None) -> Tensor:
        """hidden_states [B, N, C], text [B, L, F] -> [B, N, C]."""
        hidden = self.opened_attn1(hidden_states) + hidden_states
        hidden = self.opened_attn2(hidden, encoder_hidden_states) + hidden
        return self.opened_ff(hidden) + hidden


class OpenTransformer(Transformer2DModel):
    """A transformer of `OpenTextBlock`s that gives a tensor where diffusers gives an output object."""

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """hidden_states [B, C, h, w], text [B, L, F] -> [B, C, h, w]."""
        (out,) = super().forward(hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False)
        return out


class GroupNormedAttention(nn.Module):
    """Group norm and attention over the tokens of a picture, without the residual."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self._attention = (attention,)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, N, C] -> [B, N, C]."""
        (attention,) = self._attention
        return attention.processor(attention, attention.group_norm(hidden.transpose(1, 2)).transpose(1, 2))


class OpenPictureAttention(Attention):
    """Self-attention over the places of a picture, its residual kept outside of the module that attends."""

    opened: GroupNormedAttention

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [B, C, h, w] -> [B, C, h, w]."""
        out = self.opened(hidden_states.flatten(2).transpose(1, 2))
        return (out.transpose(-1, -2).reshape(hidden_states.shape) + hidden_states) / self.rescale_output_factor


class OpenDownsample(Downsample2D):
    """A change to coarser resolution that takes the channels its convolution has, also after that was swapped."""

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return int(getattr(self.conv, "in_channels", vars(self)["channels"]))


class OpenUpsample(Upsample2D):
    """The same for a change to finer resolution."""

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return int(getattr(self.conv, "in_channels", vars(self)["channels"]))


def open_unet(model: Any) -> None:
    """Open the layers of `model` and give it its `stages`; what it computes, and its state dict, stay the same."""
    open_strips(model)
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.kernel = AttentionKernel()
            module.set_processor(KernelProcessor())
            if module.group_norm is not None:
                module.opened = GroupNormedAttention(module)
                module.__class__ = OpenPictureAttention
        elif isinstance(module, BasicTransformerBlock):
            assert module.norm_type == "layer_norm" and module.pos_embed is None and not module.only_cross_attention
            module.opened_attn1 = NormedLayer(module, "norm1", "attn1")
            module.opened_attn2 = NormedLayer(module, "norm2", "attn2")
            module.opened_ff = NormedLayer(module, "norm3", "ff")
            module.__class__ = OpenTextBlock
        elif isinstance(module, Transformer2DModel):
            module.__class__ = OpenTransformer
        elif isinstance(module, Downsample2D):
            module.__class__ = OpenDownsample
        elif isinstance(module, Upsample2D):
            module.__class__ = OpenUpsample
    model.stages, model.last = nested(model)


def nested(model: Any) -> tuple[nn.ModuleList, tuple[Layer, ...]]:
    """The stages, outermost first, and the layers behind the outermost skip."""
    downs, ups = _downs(model), _ups(model)
    if len(downs) + 1 != len(ups):
        raise missing(
            f"this UNet has {len(downs) + 1} skip connections that start and {len(ups)} that end",
            "use a UNet whose up blocks have one layer more than its down blocks",
        )
    stage: Stage | None = None
    stages = []
    for depth in reversed(range(len(ups))):
        innermost = stage is None
        down = _middle(model) if innermost else downs[depth]
        stage = Stage(down, stage, () if innermost else ups[len(ups) - 2 - depth])
        stages.append(stage)
    return nn.ModuleList(reversed(stages)), ups[-1]


def _layer(module: Any, holder: str, index: int) -> Layer:
    """The layer at `holder`, a path inside `module` which starts with the block's own path."""
    block, _, name = holder.rpartition(".")
    held = getattr(module.get_submodule(block), name)
    for kind, role in ROLES.items():
        if isinstance(held[index], kind):
            return Layer(held, index, f"{holder}.{index}", role)
    raise missing(
        f"{holder}.{index} is a {type(held[index]).__name__}, a kind of layer that cannot be opened",
        f"use a UNet made of {', '.join(kind.__name__ for kind in ROLES)}",
    )


def _pair(model: Any, path: str, index: int) -> list[Layer]:
    """The residual block of that index with the attention behind it."""
    block = model.get_submodule(path)
    layers = [_layer(model, f"{path}.resnets", index)]
    attentions = getattr(block, "attentions", None)
    return layers if attentions is None else [*layers, _layer(model, f"{path}.attentions", index)]


def _downs(model: Any) -> list[list[Layer]]:
    """Layers up to each skip connection after that of `conv_in`."""
    groups = []
    for number, block in enumerate(model.down_blocks):
        path = f"down_blocks.{number}"
        groups += [_pair(model, path, index) for index in range(len(block.resnets))]
        groups += [[_layer(model, f"{path}.downsamplers", index)] for index in range(len(block.downsamplers or ()))]
    return groups


def _ups(model: Any) -> list[tuple[Layer, ...]]:
    """Layers behind each skip connection, the innermost skip first."""
    groups: list[list[Layer]] = []
    for number, block in enumerate(model.up_blocks):
        path = f"up_blocks.{number}"
        groups += [_pair(model, path, index) for index in range(len(block.resnets))]
        groups[-1] += [_layer(model, f"{path}.upsamplers", index) for index in range(len(block.upsamplers or ()))]
    return [tuple(group) for group in groups]


def _middle(model: Any) -> list[Layer]:
    """The middle's layers; none where a pruned UNet has no middle."""
    block = model.mid_block
    if block is None:
        return []
    layers = [_layer(model, "mid_block.resnets", 0)]
    for index in range(len(block.resnets) - 1):
        if block.attentions[index] is not None:
            layers.append(_layer(model, "mid_block.attentions", index))
        layers.append(_layer(model, "mid_block.resnets", index + 1))
    return layers


def run_path(model: Any, sample: Tensor, temb: Tensor, text: Tensor | None) -> Tensor:
    """From `conv_in` to `conv_out`: sample [B, C, h, w], temb [B, D], text [B, L, F] -> [B, C', h, w]."""
    skip = model.conv_in(sample)
    hidden = torch.cat([model.stages[0](skip, temb, text), skip], dim=1)
    hidden = run_layers(model.last, hidden, temb, text, skip.shape[2:])
    out: Tensor = model.conv_out(model.conv_act(model.conv_norm_out(hidden)))
    return out
