"""The `"numpy"` backend: it runs the readable network, `network.py`, as it is.

Axes: N pictures, C channels, H×W pixels in, K channels of a layer, P×Q pixels of a layer.
"""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from .backend import Backend
from .network import Network, Tap


class Reference(Backend):
    """A pass of `Network` for each call. It plans nothing and keeps nothing."""

    def maps(self, x: np.ndarray, paths: Sequence[str]) -> list[np.ndarray]:
        found: dict[str, np.ndarray] = {}

        def keep(path: str, y: np.ndarray) -> None:
            if path in paths:
                found[path] = y
        self._run(x, [layer.path for layer in self.graph.layers if layer.path in paths][-1], keep)
        return [found[path] for path in paths]

    def head(self, features: np.ndarray, path: str) -> np.ndarray:
        found: dict[str, np.ndarray] = {}
        network = self._network(found.__setitem__)
        network.forward_head(features, pre_logits=path == "head.global_pool")
        return found[path]

    def trace(self, x: np.ndarray, last: str) -> dict[str, np.ndarray]:
        layers: dict[str, np.ndarray] = {}
        self._run(x, last, layers.__setitem__)
        return layers

    def _run(self, x: np.ndarray, last: str, tap: Tap) -> None:
        """Run the network as far as `last`, or to the end of its stage; `tap` sees every layer."""
        network = self._network(tap)
        if last.startswith("head."):
            network.forward(x)
        elif last == "norm":
            network.forward_features(x)
        else:
            order = [layer.path for layer in self.graph.layers]
            maps = [order.index(each.path) for each in self.graph.feature_maps]
            stage = 0 if last == "stem.pool" else bisect_left(maps, order.index(last))
            network.forward_intermediates(x, [stage], stop_early=True, intermediates_only=True)

    def _network(self, tap: Tap) -> Network:
        graph = self.graph
        return Network(graph.variant, self.params, output_stride=graph.output_stride,
                       global_pool=graph.global_pool, tap=tap)
