"""Six ports of the demo, each with one mistake. READING ON SPOILS THE GAME of chapter 10.

    broken(1).trace(x)                  every layer's output, as `model.trace` gives it

A port is somebody's own program for a network that exists. These sum in float32, as most do, so
they differ from the reference in the last digits everywhere, and from one layer on by more.


















The mistakes. Each is one that ports do make, in one place, and shows on any photograph.
"""
from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

import npresnet
from npresnet import ops
from npresnet.network import Network
from npresnet.variants import StagePlan, conv_padding

ANSWERS = {0: ("norm", "a"), 1: ("stem.pool", "d"), 2: ("stages.1.blocks.1.conv2", "e"),
           3: ("stages.2.blocks.1.norm1", "b"), 4: ("stages.2.blocks.0.downsample.conv", "i"),
           5: ("stages.3.blocks.1.conv2", "g")}                   # first layer, letter of the list


class Port(Network):
    """The reference, but for its sums: in float32, in whatever order the matrix product likes."""

    def conv(self, path: str, x: np.ndarray, stride: int = 1, dilation: int = 1) -> np.ndarray:
        weight = self.params[f"{path}.weight"]                    # (K, C, R, S) float32
        k, _, r, s = weight.shape
        padding = conv_padding(s, stride, dilation)
        p, q = (ops.output_size(n, r, stride, padding, dilation) for n in x.shape[2:])
        columns = ops.im2col(x, (r, s), stride, padding, dilation)            # (N, C·R·S, P·Q)
        y = (weight.reshape(k, -1) @ columns).reshape(-1, k, p, q)            # (N, K, P, Q) float32
        self.tap(path, y)
        return y


class _WithoutLastReLU(Port):
    def norm_act(self, path: str, x: np.ndarray) -> np.ndarray:
        if path != "norm":
            return super().norm_act(path, x)
        parts = ("weight", "bias", "running_mean", "running_var")
        y = ops.batch_norm(x, *(self.params[f"{path}.{part}"] for part in parts))
        self.tap(path, y)
        return y


class _ZerosAroundPool(Port):
    def pool(self, x: np.ndarray) -> np.ndarray:
        y = ops.max_pool2d(ops.conv.pad2d(x, 1, 1, 1, 1), 3, stride=2)
        self.tap("stem.pool", y)
        return y


class _RawProjection(Port):
    def norm_act(self, path: str, x: np.ndarray) -> np.ndarray:
        if path.endswith(".norm1"):
            self.raw = x                                          # of the block that runs
        return super().norm_act(path, x)

    def downsample(self, path: str, p: np.ndarray, plan: StagePlan) -> np.ndarray:
        return super().downsample(path, self.raw if path == "stages.2.blocks.0" else p, plan)


class Broken(NamedTuple):
    """A port of the demo, with a model's `trace` and call."""
    network: type[Network]
    params: dict[str, np.ndarray]

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        layers: dict[str, np.ndarray] = {}
        self.network(_demo().variant, self.params, tap=layers.__setitem__).forward(x)
        return layers

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.network(_demo().variant, self.params).forward(x)


def broken(number: int) -> Broken:
    """The demo with mistake `number`, 1 to 5, or 0, which the chapter explains.

    Raises KeyError on another number.
    """
    path, _ = ANSWERS[number]
    network = {0: _WithoutLastReLU, 1: _ZerosAroundPool, 4: _RawProjection}.get(number, Port)
    params = _demo().state_dict()
    if number == 2:
        params[f"{path}.weight"] = params[f"{path}.weight"].swapaxes(2, 3)
    if number == 3:                                               # what is added to the variance
        params[f"{path}.running_var"] = params[f"{path}.running_var"] + np.float32(1e-3 - 1e-5)
    if number == 5:
        params[f"{path}.weight"] = _bfloat16(params[f"{path}.weight"])
    return Broken(network, params)


def port() -> Broken:
    """The demo without a mistake, summed in float32."""
    return Broken(Port, _demo().state_dict())


@cache
def _demo() -> npresnet.ResNetV2:
    return npresnet.create_model("demo", backend="numpy")


def _bfloat16(tensor: np.ndarray) -> np.ndarray:
    """float32, rounded to the nearest bfloat16, a tie to even."""
    bits = tensor.view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)).view(np.float32)
