"""Structured pruning: channels that must go together, how much they matter, and layers without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["out", "in"]
SIZES: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.GroupNorm: ("num_channels",),
    nn.LayerNorm: ("normalized_shape",),
}
"""Kinds of layer whose channels can go, with the attributes that repeat the lengths of their weight's axes."""
KINDS: tuple[type[nn.Module], ...] = tuple(SIZES)
UNSCORED = (nn.GroupNorm, nn.Embedding)
"""Kinds of layer whose weights say nothing of a channel's importance."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Member:
    """What one layer has of a group: the group's `channels` [n] stand at `places` [n] of its output or input."""

    layer: str
    side: Side
    places: Tensor
    channels: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed everywhere at once; named after the first layer that makes them.

    Norms and attention heads cut them into `blocks` equal runs, from each of which the same number has to stay.
    """

    name: str
    width: int
    blocks: int
    members: tuple[Member, ...]


def prunable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of `model` whose channels can go, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, KINDS) and _plain(layer)}


def _plain(layer: Any) -> bool:
    return layer.weight is not None and getattr(layer, "groups", 1) == 1


@contextmanager
def differentiable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The parameters of `model`, with gradients while the block runs, inside inference mode too."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    before = [parameter.requires_grad for parameter in parameters]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield parameters
        finally:
            for parameter, needed in zip(parameters, before, strict=True):
                parameter.requires_grad_(needed)
                parameter.grad = None


def dependency_groups(model: nn.Module, call: Callable[[], Tensor], heads: Mapping[str, int]) -> list[Group]:
    """Groups of `model`, found by following the operations of one `call` (DepGraph, arXiv 2301.12900).

    `call` runs the model and returns its output, on the meta device if that is where it is; `heads` are attention
    heads by the names of the linears whose output they split. The channels of the output are in no group.
    """
    from torch_pruning import DependencyGraph

    layers = {layer: name for name, layer in prunable(model).items()}
    graph = DependencyGraph()
    with differentiable(model):
        graph.build_dependency(model, (), forward_fn=lambda _model, _inputs: call(), verbose=False)
    last = [layer for layer, node in graph.module2node.items() if not node.outputs]
    found = (_group(_joined(graph, group), layers, heads) for group in graph.get_all_groups(ignored_layers=last))
    order = list(layers.values()).index
    return sorted((group for group in found if group is not None), key=lambda group: order(group.name))


def _joined(graph: Any, group: Any) -> Any:
    """The same group, seen from the layer with the fewest of its channels.

    Where an output is split in halves that are multiplied, it has twice the channels of the layer behind, two of
    which stand and fall together: only from behind does the graph tell which.
    """
    parts = [item for item in group if isinstance(item.dep.target.module, KINDS)]
    dependency, places = min(parts, key=lambda item: len(item.idxs))
    if len(places) == len(group[0].idxs):
        return group
    return graph.get_pruning_group(dependency.target.module, dependency.handler, places)


def _group(found: Any, layers: Mapping[nn.Module, str], heads: Mapping[str, int]) -> Group | None:
    """A group of the graph in our terms; None where a tensor that is no layer's belongs to it."""
    roots = {root: channel for channel, root in enumerate(sorted(set(found[0].root_idxs)))}
    members, blocks, makers = [], [], []
    for item in found:
        module: nn.Module = item.dep.target.module
        if isinstance(module, nn.Parameter) or (isinstance(module, KINDS) and module not in layers):
            return None
        if not isinstance(module, KINDS):
            continue
        norm = isinstance(module, (nn.GroupNorm, nn.LayerNorm))
        side: Side = "out" if norm or "out" in item.dep.handler.__name__ else "in"
        channels = torch.tensor([roots[root] for root in item.root_idxs])
        members.append(Member(layers[module], side, torch.tensor(item.idxs), channels))
        if isinstance(module, nn.GroupNorm):
            blocks.append(int(module.num_groups))
        elif side == "out" and not norm:
            makers.append(layers[module])
            blocks.append(heads.get(layers[module], 1))
    order = list(layers.values()).index  # the graph's own order is not always the same
    members.sort(key=lambda member: (order(member.layer), member.side))
    width, parts = len(roots), math.lcm(*blocks)
    # A norm over two groups whose own channels its parts do not divide: these stay as they are.
    return Group(min(makers, key=order), width, parts if width % parts == 0 else width, tuple(members))


def taylor_importance(group: Group, layers: Mapping[str, nn.Module], gradients: Mapping[str, Tensor]) -> Tensor:
    """Importance [width] of every channel: mean over the layers of a group of sum_j |w_j G_j|.

    `gradients` are G, of the loss by each layer's weight. The first-order estimate of arXiv 1906.10771.
    """
    total, count = torch.zeros(group.width), 0
    for member in group.members:
        layer = layers[member.layer]
        if isinstance(layer, UNSCORED):
            continue
        products = (layer.get_parameter("weight").detach() * gradients[member.layer]).abs().float()
        axis = axis_of(layer, member.side)
        scores = products.transpose(0, axis).flatten(1).sum(1) if products.ndim > 1 else products
        total.index_add_(0, member.channels, scores.cpu()[member.places])
        count += 1
    return total / max(1, count)


def kept_channels(importance: Tensor, blocks: int, ratio: float) -> Tensor:
    """Indices, in order, of the channels that stay when `ratio` of each block's goes, rounded down.

    importance [width], of which `blocks` equal runs lose the same number each, those that matter least.
    """
    rows = importance.view(blocks, -1)
    size = rows.shape[1]
    count = size - int(ratio * size + ROUNDING)
    best = rows.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    return (best + size * torch.arange(blocks)[:, None]).flatten()


def axis_of(layer: nn.Module, side: Side) -> int:
    """The weight's axis of a layer's output channels, or of its input's."""
    if isinstance(layer, nn.Embedding):
        return 1
    return 0 if side == "out" else 1


def pruned_parameters(
    layers: Mapping[str, nn.Module], groups: Sequence[Group], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Parameters of `layers`, by name, of which only the channels `kept` in each group are left."""
    masks: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        for member in group.members:
            layer = layers[member.layer]
            axis = axis_of(layer, member.side)
            length = layer.get_parameter("weight").shape[axis]
            mask = masks.setdefault((member.layer, axis), torch.ones(length, dtype=torch.bool))
            mask[member.places[~torch.isin(member.channels, kept[group.name])]] = False
    left = {}
    for name, value in parameters_of(layers).items():
        left[name] = value.detach()
        for axis in range(value.ndim):
            stays = masks.get((name.rpartition(".")[0], axis))
            if stays is not None and not stays.all():
                left[name] = left[name].index_select(axis, stays.nonzero().flatten().to(value.device))
    return left


def parameters_of(layers: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of `layers`, by the names they have in the model."""
    named = ((name, layer.named_parameters(recurse=False)) for name, layer in layers.items())
    return {f"{name}.{own}": value for name, parameters in named for own, value in parameters}


def resized(layer: nn.Module, name: str, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A layer like `layer` with copies of those `parameters` that are called `name`.weight and so on."""
    twin = copy.copy(layer)
    twin._parameters = dict(layer._parameters)
    for own, value in layer.named_parameters(recurse=False):
        copied = parameters[f"{name}.{own}"].to(value, copy=True)
        twin._parameters[own] = nn.Parameter(copied, requires_grad=False)
    shape = tuple(parameters[f"{name}.weight"].shape)
    if isinstance(layer, nn.LayerNorm):
        twin.normalized_shape = shape  # type: ignore[assignment]
        return twin
    for attribute, length in zip(next(SIZES[kind] for kind in KINDS if isinstance(layer, kind)), shape, strict=False):
        setattr(twin, attribute, length)
    return twin
