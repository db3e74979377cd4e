"""Weights as the tiles read them: folded with the batch norm that follows, in panels of NR output channels, all in one array."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .memory import aligned, up
from .target import NR

EPS = 1e-5


@dataclass
class Packed:
    """Packed weights, one behind the other, each under a key. Shared by the plans of all picture sizes."""
    parts: list[np.ndarray] = field(default_factory=list)
    size: int = 0
    places: dict = field(default_factory=dict)

    def add(self, key, make) -> int:
        """The place of what `make()` gives, packed once for each key; a multiple of 16 floats."""
        if key not in self.places:
            array = np.ascontiguousarray(make(), np.float32).ravel()
            self.places[key] = self.size
            self.parts.append(np.concatenate([array, np.zeros(-array.size % 16, np.float32)]))
            self.size += self.parts[-1].size
        return self.places[key]

    def array(self) -> np.ndarray:
        """Everything that was added so far."""
        if len(self.parts) > 1:
            together = aligned(self.size, np.empty)
            np.concatenate(self.parts, out=together)
            self.parts = [together]
        return self.parts[0]


def pad_channels(vector: np.ndarray) -> np.ndarray:
    """A vector (K,) filled up with zeros to whole panels."""
    return np.concatenate([vector, np.zeros(-vector.size % NR)])


def pack(weight: np.ndarray) -> np.ndarray:
    """(K, C, R, S) → panels (⌈K / NR⌉, R·S·C, NR): the NR weights of one step lie behind one another."""
    k, c, r, s = weight.shape
    rows = np.zeros((up(k, NR), r * s * c), np.float32)
    rows[:k] = weight.transpose(0, 2, 3, 1).reshape(k, -1)
    return rows.reshape(-1, NR, r * s * c).transpose(0, 2, 1)


def scale_and_shift(params: Mapping[str, np.ndarray], path: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm as y = x · scale + shift, float64."""
    weight, bias, mean, var = (params[f"{path}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + EPS)
    return scale, bias - mean * scale
