"""The network as data: its steps in forward order, as engines fuse them. Nothing is computed here.

`network.py` is the same network to read and step through; a test holds the two against each other.
Everything else that has to know the network reads this file: the engines' planners, the shapes of
the parameters, feature maps, the summary.

A step is one operation with its epilogue: what is done to a result before it is written.

    result  = operation(source)                     `path`    stages.0.blocks.1.conv3
    sum     = result + shortcut                     `block`   stages.0.blocks.1
    normed  = relu(norm(sum, or result))            `norm`    stages.0.blocks.2.norm1

    bottleneck:    P ──conv1──▶ A ──conv2──▶ B ──conv3──▶ + ──▶ X (raw: the next shortcut)
                   │          (norm2)      (norm3)        ▲ └─▶ P (the next block's norm1)
                   └── raw X, or downsample.conv(P) ──────┘

A batch norm is one multiplication and one addition a channel, so it goes into the step before it. A
norm that needs the picture's own statistics can't; it is a step of its own, of kind "norm".

Axes: C channels in, K channels out, R×R kernel, H×W pixels in, P×Q pixels out.
Source: He et al. 2016, arXiv 1603.05027; timm `models/resnetv2.py` (1.0.31).
"""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from .ops.conv import output_size
from .variants import BASIC, COUNTER, StagePlan, Variant, conv_padding

PICTURE = "picture"                                               # what the first step reads
Shape = tuple[int, ...]
T = TypeVar("T")


class Step(NamedTuple):
    """One operation and its epilogue. Layers go by their timm paths.

    kind: "conv", "max_pool", "avg_pool", "global_pool" or "norm". path: the operation, and its
    result. source: the layer that it reads. c_in, c_out: channels. padding: pixels on each side
    that count as zero, or as −∞ for a maximum; an average pool counts only what is there, or with
    `same` as zeros what lies right of the picture and below. bias: whether a convolution has one.
    shortcut: the layer that is added to the result, and block: the name of that sum; or "".
    norm: the batch norm and ReLU that follow, and the name of what they give; or "".
    """
    kind: str
    path: str
    source: str
    c_in: int
    c_out: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    bias: bool = False
    same: bool = False
    shortcut: str = ""
    block: str = ""
    norm: str = ""

    @property
    def raw(self) -> str:
        """Name of what the norm is applied to: the sum if there is one, else the result."""
        return self.block or self.path

    def output_size(self, size: int) -> int:
        """Pixels out for `size` in, along one axis. Raises ValueError if the kernel doesn't fit."""
        if self.kind == "avg_pool":                               # a window may hang over the edge
            return (size - 1) // self.stride + 1
        return output_size(size, self.kernel, self.stride, self.padding, self.dilation)


class Layer(NamedTuple):
    """An output that `trace` gives. kind: the step's; or "sum", "norm", "linear" (classifier)."""
    path: str
    kind: str
    step: Step


class FeatureMap(NamedTuple):
    """A raw layer that is put out as a feature map. reduction: the picture's pixels for one of its
    pixels, along one axis."""
    path: str
    channels: int
    reduction: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A network, as `build_graph` makes it. steps: in forward order, a shortcut's projection before
    the sum that it is added to. layers: all outputs, in the order in which the reference computes
    them. aliases: second names of layers (a stage's output is its last block's). feature_maps: of
    the stem and the stages."""
    variant: Variant
    in_chans: int
    num_classes: int
    output_stride: int
    global_pool: str
    steps: tuple[Step, ...]
    layers: tuple[Layer, ...]
    aliases: dict[str, str]
    feature_maps: tuple[FeatureMap, ...]

    @property
    def last(self) -> str:
        """The last layer of a pass: the classifier, or without one the global pool."""
        return "head.fc" if self.num_classes else "head.global_pool"

    @cached_property
    def read(self) -> frozenset[str]:
        """Layers that somebody needs: those that a step reads, and feature maps."""
        names = [self.aliases.get(each.path, each.path) for each in self.feature_maps]
        return frozenset(names).union(*((step.source, step.shortcut) for step in self.steps))

    @cached_property
    def borders(self) -> dict[str, int]:
        """How many pixels of zeros the convolutions that read a layer want around it."""
        convs = [step for step in self.steps if step.kind == "conv"]
        return {step.source: max(other.padding for other in convs if other.source == step.source)
                for step in convs}

    def folds(self, step: Step) -> bool:
        """Whether nobody reads what a step's norm is applied to: it need not be written."""
        return bool(step.norm) and step.raw not in self.read

    def in_order(self, found: Mapping[str, T]) -> dict[str, T]:
        """What was found for layers by their first names, by all their names, in the order of
        `layers`."""
        names = {layer.path: self.aliases.get(layer.path, layer.path) for layer in self.layers}
        return {path: found[first] for path, first in names.items() if first in found}

    def steps_to(self, paths: Collection[str]) -> tuple[Step, ...]:
        """The steps as far as layers `paths`, by their first names, need them."""
        makes = [not {step.path, step.block, step.norm}.isdisjoint(paths) for step in self.steps]
        return self.steps[:len(makes) - makes[::-1].index(True)]

    def taps(self, take: list[int], norm: bool, stop_early: bool) -> tuple[list[str], str]:
        """Names of the feature maps numbered in `take`, and of the last layer that a pass which
        gives them out has to run: see `ResNetV2.forward_intermediates`."""
        last = len(self.feature_maps) - 1
        count = max(take) if stop_early else last
        paths = [each.path for each in self.feature_maps]
        wanted = ["norm" if norm and i == last else paths[i] for i in take]
        return wanted, {0: "stem.pool", last: "norm"}.get(count, paths[count])

    def shapes(self, h: int, w: int) -> dict[str, Shape]:
        """Every layer's shape (K, P, Q) for a picture (C, h, w), in the order of `layers`."""
        sizes = {PICTURE: (h, w)}
        for step in self.steps:
            h, w = sizes[step.source]
            if step.kind != "global_pool":
                size = (step.output_size(h), step.output_size(w))
            else:
                size = (1, 1) if self.global_pool else (h, w)
            sizes |= dict.fromkeys((step.path, step.block, step.norm), size)
        channels = {layer.path: layer.step.c_out for layer in self.layers}
        return {path: (channels[path], *size) for path, size in self.in_order(sizes).items()}

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name → shape of every tensor in the state dict, in timm's order: weights float32,
        `num_batches_tracked` int64 scalars."""
        shapes: dict[str, Shape] = {}
        # timm's modules define a block's downsample before its other layers.
        blocks = groupby(self.layers, lambda layer: layer.path.split(".")[:4])
        defined = [layer for _, block in blocks
                   for layer in sorted(block, key=lambda each: ".downsample." not in each.path)]
        for layer in defined:
            path, step = layer.path, layer.step
            if layer.kind in ("conv", "linear"):
                shapes[f"{path}.weight"] = (step.c_out, step.c_in, step.kernel, step.kernel)
                if step.bias:
                    shapes[f"{path}.bias"] = (step.c_out,)
            elif layer.kind == "norm":
                for part in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{path}.{part}"] = (step.c_out,)
                shapes[f"{path}.{COUNTER}"] = ()
        return shapes

    def count_parameters(self) -> int:
        """How many numbers gradient descent has learned."""
        shapes = self.parameter_shapes()
        return sum(math.prod(shape) for name, shape in shapes.items() if is_parameter(name))


def is_parameter(name: str) -> bool:
    """Whether a tensor is learned by gradient descent: batch norm's running statistics are not."""
    return not name.endswith(("running_mean", "running_var", COUNTER))


@cache
def build_graph(variant: Variant, *, in_chans: int = 3, num_classes: int = 1000,
                output_stride: int = 32, global_pool: str = "avg",
                fold_norms: bool = True) -> Graph:
    """The network of `variant`, for pictures of in_chans channels. num_classes 0: no classifier.

    fold_norms: False makes every batch norm a step of its own, as a norm that can't be folded is.
    Raises ValueError for an output_stride other than 32, 16 or 8.
    """
    build = _Builder(fold_norms)
    x = build.stem(variant, in_chans)
    maps = [FeatureMap(x, variant.stem_channels[-1], 2)]
    x = build.pool("max_pool", "stem.pool", x, kernel=3, stride=2, padding=1)
    for s, stage in enumerate(variant.stages(output_stride)):
        for b in range(stage.depth):
            block = build.basic if variant.block == BASIC else build.bottleneck
            x = block(f"stages.{s}.blocks.{b}", x, variant, stage, first=b == 0)
        build.alias(f"stages.{s}", x)
        maps.append(FeatureMap(f"stages.{s}", stage.c_out, stage.reduction))
    x = build.norm_act("norm", x)
    x = build.pool("global_pool", "head.global_pool", x, times=1 + (global_pool == "catavgmax"))
    if num_classes:
        build.conv("head.fc", x, num_classes, bias=True)
    steps = {step.path: step for step in build.steps}
    layers = tuple(Layer(path, kind, steps[of]) for path, kind, of in build.layers)
    return Graph(variant, in_chans, num_classes, output_stride, global_pool, tuple(build.steps),
                 layers, build.aliases, tuple(maps))


class _Builder:
    """Walks the network as `network.py` does, and writes down its steps. Layers are their names."""

    def __init__(self, fold_norms: bool):
        self.fold_norms = fold_norms
        self.steps: list[Step] = []
        self.layers: list[tuple[str, str, str]] = []              # path, kind, path of the step
        self.aliases: dict[str, str] = {}
        self.channels: dict[str, int] = {}

    def stem(self, variant: Variant, in_chans: int) -> str:
        """The first convolution, or the first three."""
        self.channels[PICTURE] = in_chans
        if not variant.stem:
            return self.conv("stem.conv", PICTURE, variant.stem_channels[0], 7, stride=2)
        c1, c2, c3 = variant.stem_channels
        x = self.conv("stem.conv1", PICTURE, c1, 3, stride=2)
        x = self.norm_act("stem.norm1", x)
        x = self.conv("stem.conv2", x, c2, 3)
        x = self.norm_act("stem.norm2", x)
        return self.conv("stem.conv3", x, c3, 3)

    def bottleneck(self, path: str, x: str, variant: Variant, plan: StagePlan, first: bool) -> str:
        stride, dilation = (plan.stride, plan.first_dilation) if first else (1, plan.dilation)
        p = self.norm_act(f"{path}.norm1", x)
        y = self.conv(f"{path}.conv1", p, plan.mid)
        y = self.norm_act(f"{path}.norm2", y)
        y = self.conv(f"{path}.conv2", y, plan.mid, 3, stride, dilation)
        y = self.norm_act(f"{path}.norm3", y)
        y = self.conv(f"{path}.conv3", y, plan.c_out)
        return self.add(path, y, self.downsample(path, p, variant, plan) if first else x)

    def basic(self, path: str, x: str, variant: Variant, plan: StagePlan, first: bool) -> str:
        stride, dilation = (plan.stride, plan.first_dilation) if first else (1, plan.dilation)
        projects = first and variant.has_downsample(plan)
        p = self.norm_act(f"{path}.norm1", x)
        y = self.conv(f"{path}.conv1", p, plan.mid, 3, stride, dilation)
        y = self.norm_act(f"{path}.norm2", y)
        y = self.conv(f"{path}.conv2", y, plan.c_out, 3, dilation=plan.dilation)
        return self.add(path, y, self.downsample(path, p, variant, plan) if projects else x)

    def downsample(self, path: str, p: str, variant: Variant, plan: StagePlan) -> str:
        """The projection on a shortcut, behind an average pool in the d and t variants."""
        if variant.avg_down and (plan.stride > 1 or plan.dilation > 1):
            p = self.pool("avg_pool", f"{path}.downsample.pool", p, kernel=2, stride=plan.stride,
                          same=plan.dilation > 1)
        stride = 1 if variant.avg_down else plan.stride
        return self.conv(f"{path}.downsample.conv", p, plan.c_out, stride=stride)

    def conv(self, path: str, source: str, c_out: int, kernel: int = 1, stride: int = 1,
             dilation: int = 1, bias: bool = False) -> str:
        step = Step("conv", path, source, self.channels[source], c_out, kernel, stride,
                    conv_padding(kernel, stride, dilation), dilation, bias)
        return self.append(step, "linear" if path == "head.fc" else "conv")

    def pool(self, kind: str, path: str, source: str, times: int = 1, **geometry: Any) -> str:
        channels = self.channels[source]
        return self.append(Step(kind, path, source, channels, times * channels, **geometry), kind)

    def norm_act(self, path: str, source: str) -> str:
        """A batch norm and its ReLU: the end of the step that makes `source`, or its own step."""
        channels = self.channels[source]
        if not self.fold_norms:
            return self.append(Step("norm", path, source, channels, channels), "norm")
        step = self.maker(source)
        self.steps[self.steps.index(step)] = step._replace(norm=path)
        return self.name(path, "norm", step.path, channels)

    def add(self, block: str, result: str, shortcut: str) -> str:
        """A block's sum. Its step moves behind what it adds."""
        step = self.maker(result)
        self.steps.remove(step)
        self.steps.append(step._replace(shortcut=shortcut, block=block))
        return self.name(block, "sum", result, step.c_out)

    def alias(self, path: str, layer: str) -> None:
        """A second name for a layer."""
        self.aliases[path] = layer
        self.name(path, "sum", self.maker(layer).path, self.channels[layer])

    def maker(self, layer: str) -> Step:
        """The step that makes a raw layer."""
        return next(step for step in self.steps if step.raw == layer)

    def append(self, step: Step, kind: str) -> str:
        """Write down a step, and its output."""
        self.steps.append(step)
        return self.name(step.path, kind, step.path, step.c_out)

    def name(self, path: str, kind: str, step: str, channels: int) -> str:
        """Write down an output."""
        self.layers.append((path, kind, step))
        self.channels[path] = channels
        return path
