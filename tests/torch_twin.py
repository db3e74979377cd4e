"""ResNetV2 in PyTorch: the independent truth that the tests compare npresnet with.

Written for the tests alone, with timm's module names, and shorter than timm because it serves one
family: BatchNorm, pre-activation, static symmetric padding. It shares no code with npresnet, so a
mistake has to be made twice to go unseen. `tests/test_timm_parity.py` checks npresnet against the
real timm.

Axes: N pictures, C channels, H×W pixels.
"""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def divisible(channels: float, by: int = 8) -> int:
    """timm's `make_divisible`: a multiple of `by`, never more than 10 % below `channels`."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


class BatchNormAct(nn.BatchNorm2d):
    """BatchNorm and its ReLU in one module: a hook sees what timm's `normN` modules give."""

    def forward(self, x):
        return F.relu(super().forward(x))


def conv(c_in, c_out, k, stride=1, dilation=1):
    padding = ((stride - 1) + dilation * (k - 1)) // 2
    return nn.Conv2d(c_in, c_out, k, stride, padding, dilation, bias=False)


class SamePool(nn.Module):
    """2×2 average at stride 1 that keeps H×W.

    The zeros added right and below count as pixels, as in timm's `AvgPool2dSame`.
    """

    def forward(self, x):
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1)


class Downsample(nn.Module):
    def __init__(self, c_in, c_out, stride, dilation, avg):
        super().__init__()
        self.pool = nn.Identity()
        if avg and dilation > 1:
            self.pool = SamePool()
        elif avg and stride > 1:
            self.pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        self.conv = conv(c_in, c_out, 1, 1 if avg else stride)

    def forward(self, x):
        return self.conv(self.pool(x))


class Block(nn.Module):
    """Bottleneck (1×1, 3×3, 1×1) or basic (3×3, 3×3).

    Both normalise and rectify before they convolve.
    """

    def __init__(self, c_in, c_out, stride, dilation, first_dilation, basic, avg, first):
        super().__init__()
        mid = c_out if basic else divisible(c_out / 4)
        changes = stride != 1 or first_dilation != dilation or c_in != c_out
        projects = first and (changes or not basic)               # defined first, as in timm
        self.downsample = Downsample(c_in, c_out, stride, dilation, avg) if projects else None
        self.norm1 = BatchNormAct(c_in)
        if basic:
            self.conv1 = conv(c_in, mid, 3, stride, first_dilation)
            self.norm2 = BatchNormAct(mid)
            self.conv2 = conv(mid, c_out, 3, 1, dilation)
        else:
            self.conv1 = conv(c_in, mid, 1)
            self.norm2 = BatchNormAct(mid)
            self.conv2 = conv(mid, mid, 3, stride, first_dilation)
            self.norm3 = BatchNormAct(mid)
            self.conv3 = conv(mid, c_out, 1)
        self.basic = basic

    def forward(self, x):
        p = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(p)
        y = self.conv2(self.norm2(self.conv1(p)))
        return (y if self.basic else self.conv3(self.norm3(y))) + shortcut


class Stage(nn.Module):
    def __init__(self, c_in, c_out, depth, stride, dilation, basic, avg):
        super().__init__()
        first_dilation = 1 if dilation in (1, 2) else 2
        self.blocks = nn.Sequential()
        for i in range(depth):
            first = i == 0
            self.blocks.append(Block(
                c_in if first else c_out, c_out, stride if first else 1, dilation,
                first_dilation if first else dilation, basic, avg, first))

    def forward(self, x):
        return self.blocks(x)


class GlobalPool(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if not self.kind:
            return x
        avg, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return {"avg": avg, "max": peak, "avgmax": 0.5 * (avg + peak),
                "catavgmax": torch.cat([avg, peak], 1)}[self.kind]


class TorchResNetV2(nn.Module):
    """The whole family: `depths` blocks a stage, `basic` blocks or bottlenecks.

    `stem` is "", "deep" or "tiered"; `avg` puts an average before a shortcut's convolution.
    """

    def __init__(self, depths=(3, 4, 6, 3), *, basic=False, stem="", avg=False, width=1.0,
                 num_classes=1000, in_chans=3, output_stride=32, global_pool="avg"):
        super().__init__()
        c = divisible(64 * width)
        self.stem = nn.Sequential()
        if stem:
            c1 = 3 * c // 8 if stem == "tiered" else c // 2
            c2 = c // 2
            self.stem.add_module("conv1", conv(in_chans, c1, 3, 2))
            self.stem.add_module("norm1", BatchNormAct(c1))
            self.stem.add_module("conv2", conv(c1, c2, 3))
            self.stem.add_module("norm2", BatchNormAct(c2))
            self.stem.add_module("conv3", conv(c2, c, 3))
        else:
            self.stem.add_module("conv", conv(in_chans, c, 7, 2))
        self.stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential()
        reduction, dilation = 4, 1
        for i, depth in enumerate(depths):
            c_out = divisible((64 if basic else 256) * 2**i * width)
            stride = 1 if i == 0 else 2
            if reduction >= output_stride:
                dilation, stride = dilation * stride, 1
            self.stages.append(Stage(c, c_out, depth, stride, dilation, basic, avg))
            c, reduction = c_out, reduction * stride
        self.norm = BatchNormAct(c)
        self.head = nn.Sequential()
        self.head.add_module("global_pool", GlobalPool(global_pool))
        if num_classes:
            pooled = 2 * c if global_pool == "catavgmax" else c
            self.head.add_module("fc", nn.Conv2d(pooled, num_classes, 1))

    def forward_features(self, x):
        return self.norm(self.stages(self.stem(x)))

    def forward(self, x):
        y = self.head(self.forward_features(x))
        return y.flatten(1) if self.head.global_pool.kind else y


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give `model`, in eval mode, weights that make no layer trivial.

    These are He weights, and BatchNorm's statistics away from 0 and 1.
    """
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=g) * (2 / fan_in) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=g) * 0.1
        elif isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.data = 0.7 + 0.6 * torch.rand(n, generator=g)
            module.bias.data = 0.3 * torch.randn(n, generator=g)
            module.running_mean = 0.3 * torch.randn(n, generator=g)
            module.running_var = 0.5 + torch.rand(n, generator=g)
    return model.eval()
