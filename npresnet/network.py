"""The network, in forward order: the reference in plain NumPy, to be read and stepped through.

It never optimises. Set a breakpoint in `Network.forward` and follow one picture from its pixels to
its 1,000 logits. Every layer is called by its timm path, which is also the name of its tensors in
the weights file, so `self.conv("stages.0.blocks.0.conv1", p)` reads
`stages.0.blocks.0.conv1.weight`.

    stem      7×7 convolution, stride 2; max pool 3×3, stride 2
              (N, 3, 224, 224) → (N, 64, 56, 56)
    stages    3, 4, 6, 3 pre-activation bottlenecks
              → (N, 256, 56, 56) → … → (N, 2048, 7, 7)
    norm      batch norm and ReLU
    head      average over the pixels, then one linear layer
              → (N, 2048, 1, 1) → (N, 1000)

Sizes in comments are resnetv2_50's for a 224×224 picture; the code is the same for the whole family
and every size.

Axes: N pictures, C channels, H×W pixels, K output channels, R×S kernel, P×Q pixels out.
Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv 1603.05027;
timm `models/resnetv2.py` (1.0.31).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from . import ops
from .variants import BASIC, StagePlan, Variant, conv_padding

Tap = Callable[[str, np.ndarray], None]


def no_tap(path: str, y: np.ndarray) -> None:
    """Look at nothing."""


class Network:
    """The forward pass of `variant` with the tensors `params` (timm's name → float32 array).

    `tap(path, array)` is called with every layer's output, in forward order: that is how `trace`
    works. The arrays belong to the network until it is done: keep them, don't change them. A
    Network holds no state of its own, so threads may share one.
    """

    def __init__(self, variant: Variant, params: Mapping[str, np.ndarray], *,
                 output_stride: int = 32, global_pool: str = "avg",
                 tap: Tap = no_tap) -> None:
        self.variant, self.params, self.global_pool, self.tap = variant, params, global_pool, tap
        self.stage_plans = variant.stages(output_stride)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) float32 → logits (N, 1000)."""
        features = self.forward_features(x)                             # (N, 2048, 7, 7)
        return self.forward_head(features)                              # (N, 1000)

    def forward_features(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) → the last feature map (N, 2048, H/32, W/32).

        It comes after the final batch norm and ReLU.
        """
        x = self.stem(x)                                # (N, 64, 112, 112)
        x = self.pool(x)                                # (N, 64, 56, 56)
        for s in range(len(self.stage_plans)):
            x = self.stage(s, x)                        # (N, 256, 56, 56) … (N, 2048, 7, 7)
        return self.norm_act("norm", x)                 # (N, 2048, 7, 7)

    def forward_intermediates(self, x: np.ndarray, take: list[int], norm: bool = False,
                              stop_early: bool = False, intermediates_only: bool = False,
                              ) -> tuple[np.ndarray, list[np.ndarray]] | list[np.ndarray]:
        """The last feature map after `norm`, and those numbered in `take`.

        They are numbered in forward order: 0 is the stem's convolution, 1 … 4 are the stages. The
        maps are raw: before the max pool, before any batch norm; `norm` normalises the fourth
        stage's. `stop_early` runs no stage behind the last map taken.
        Returns (last, maps), or maps alone with `intermediates_only`.
        """
        maps = []
        x = self.stem(x)                                # (N, 64, 112, 112)
        if 0 in take:
            maps.append(x)
        x = self.pool(x)                                # (N, 64, 56, 56)
        last = len(self.stage_plans)
        count = max(take) if stop_early else last
        for s in range(count):
            x = self.stage(s, x)                        # (N, 256, 56, 56) … (N, 2048, 7, 7)
            if s + 1 in take:
                maps.append(self.norm_act("norm", x) if norm and s + 1 == last else x)
        if intermediates_only:
            return maps
        return (self.norm_act("norm", x) if count == last else x), maps

    def stem(self, x: np.ndarray) -> np.ndarray:
        """The first convolution, or the first three.

        The last has no batch norm: the first block brings its own.
        """
        if not self.variant.stem:
            return self.conv("stem.conv", x, stride=2)                  # (N, 64, 112, 112), 7×7
        x = self.conv("stem.conv1", x, stride=2)                        # (N, 32, 112, 112), 3×3
        x = self.norm_act("stem.norm1", x)
        x = self.conv("stem.conv2", x)                                  # (N, 32, 112, 112)
        x = self.norm_act("stem.norm2", x)
        return self.conv("stem.conv3", x)                               # (N, 64, 112, 112)

    def pool(self, x: np.ndarray) -> np.ndarray:
        """The stem's max pool.

        x is raw and may be negative, so its border is padded with −∞, never with 0.
        """
        y = ops.max_pool2d(x, 3, stride=2, padding=1)                   # (N, 64, 56, 56)
        self.tap("stem.pool", y)
        return y

    def stage(self, s: int, x: np.ndarray) -> np.ndarray:
        """Stage s: its first block changes the shape, the others keep it."""
        plan = self.stage_plans[s]
        for b in range(plan.depth):
            block = self.basic if self.variant.block == BASIC else self.bottleneck
            x = block(f"stages.{s}.blocks.{b}", x, plan, first=b == 0)
        self.tap(f"stages.{s}", x)
        return x

    def bottleneck(self, path: str, x: np.ndarray, plan: StagePlan, first: bool) -> np.ndarray:
        """A pre-activation bottleneck.

        Batch norm and ReLU come before each convolution, and nothing after the sum. The first block
        of every stage projects its shortcut from the *normalised* input, the others add the raw
        one. (The paper writes the projection on the raw input; its authors' code, and so timm's,
        shares the first norm between both branches.)
        """
        stride, dilation = (plan.stride, plan.first_dilation) if first else (1, plan.dilation)
        p = self.norm_act(f"{path}.norm1", x)                           # (N, C, H, W)
        y = self.conv(f"{path}.conv1", p)                               # (N, mid, H, W), 1×1
        y = self.norm_act(f"{path}.norm2", y)
        y = self.conv(f"{path}.conv2", y, stride, dilation)             # (N, mid, P, Q), 3×3
        y = self.norm_act(f"{path}.norm3", y)
        y = self.conv(f"{path}.conv3", y)                               # (N, K, P, Q), 1×1
        shortcut = self.downsample(path, p, plan) if first else x       # (N, K, P, Q)
        total: np.ndarray = y + shortcut                                # (N, K, P, Q)
        self.tap(path, total)
        return total

    def basic(self, path: str, x: np.ndarray, plan: StagePlan, first: bool) -> np.ndarray:
        """A pre-activation basic block (ResNetV2-18 and -34).

        The first stage's needs no projection: its shape doesn't change.
        """
        stride, dilation = (plan.stride, plan.first_dilation) if first else (1, plan.dilation)
        p = self.norm_act(f"{path}.norm1", x)                           # (N, C, H, W)
        y = self.conv(f"{path}.conv1", p, stride, dilation)             # (N, K, P, Q), 3×3
        y = self.norm_act(f"{path}.norm2", y)
        y = self.conv(f"{path}.conv2", y, dilation=plan.dilation)       # (N, K, P, Q), 3×3
        project = first and self.variant.has_downsample(plan)
        shortcut = self.downsample(path, p, plan) if project else x     # (N, K, P, Q)
        total: np.ndarray = y + shortcut                                # (N, K, P, Q)
        self.tap(path, total)
        return total

    def downsample(self, path: str, p: np.ndarray, plan: StagePlan) -> np.ndarray:
        """The projection on a shortcut: a 1×1 convolution.

        The d and t variants have an average pool in front of it.
        """
        stride = plan.stride
        if self.variant.avg_down:
            if plan.dilation > 1:
                # Keep H×W: the zeros right and below count, as in timm.
                p = np.pad(p, ((0, 0), (0, 0), (0, 1), (0, 1)))         # (N, C, H+1, W+1)
                p = ops.avg_pool2d(p, 2, stride=1)                      # (N, C, H, W)
                self.tap(f"{path}.downsample.pool", p)
            elif stride > 1:
                # An odd last row or column is averaged on its own.
                p = ops.avg_pool2d(p, 2, stride, ceil_mode=True, count_include_pad=False)
                self.tap(f"{path}.downsample.pool", p)
            stride = 1
        return self.conv(f"{path}.downsample.conv", p, stride)          # (N, K, P, Q), 1×1

    def forward_head(self, features: np.ndarray, pre_logits: bool = False) -> np.ndarray:
        """Feature map (N, 2048, 7, 7) → logits (N, 1000).

        With `pre_logits`, or without a classifier, the result is the embedding (N, 2048). The
        classifier is stored as a 1×1 convolution, so without a global pool it answers for every
        pixel: (N, 1000, 7, 7).
        """
        y = ops.global_pool(features, self.global_pool)                 # (N, 2048, 1, 1)
        self.tap("head.global_pool", y)
        if not pre_logits and "head.fc.weight" in self.params:
            weight, bias = self.params["head.fc.weight"], self.params["head.fc.bias"]
            y = ops.conv2d(y, weight, bias)                             # (N, 1000, 1, 1)
            self.tap("head.fc", y)
        return y.reshape(y.shape[:2]) if self.global_pool else y        # (N, 1000)

    def conv(self, path: str, x: np.ndarray, stride: int = 1, dilation: int = 1) -> np.ndarray:
        """The convolution called `path`: (N, C, H, W) → (N, K, P, Q).

        It has no bias: a batch norm always follows.
        """
        weight = self.params[f"{path}.weight"]                          # (K, C, R, S)
        padding = conv_padding(weight.shape[-1], stride, dilation)
        y = ops.conv2d(x, weight, None, stride, padding, dilation)      # (N, K, P, Q)
        self.tap(path, y)
        return y

    def norm_act(self, path: str, x: np.ndarray) -> np.ndarray:
        """The batch norm called `path` and its ReLU: (N, C, H, W), shape unchanged."""
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (self.params[f"{path}.{part}"] for part in parts)  # (C,) each
        y = ops.relu(ops.batch_norm(x, weight, bias, mean, var))
        self.tap(path, y)
        return y
