"""What a network costs: each layer's output, parameters, multiply-adds and activations, with the totals of timm's model cards."""
from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .model import ResNetV2
from .table import format_table
from .variants import is_parameter


@dataclass(frozen=True)
class LayerSummary:
    """One layer, for one picture. output: (C, H, W). params: learned numbers. macs: multiply-adds. activations: numbers put out by
    a convolution (the measure of Radosavovic et al. 2020, arXiv 2003.13678, section 3.2, which model cards give)."""
    path: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Summary:
    """The layers in forward order and their totals; `str()` is a table."""
    name: str
    input_size: tuple[int, int, int]
    layers: tuple[LayerSummary, ...]

    @property
    def params(self) -> int:
        """Learned numbers in all."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds for one picture."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Numbers put out by convolutions for one picture."""
        return sum(layer.activations for layer in self.layers)

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON."""
        return dict(model=self.name, input_size=list(self.input_size), params=self.params, macs=self.macs,
                    activations=self.activations, layers=[asdict(layer) | {"output": list(layer.output)} for layer in self.layers])

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "params", "MACs", "activations")]
        rows += [(l.path, l.kind, "×".join(map(str, l.output)), f"{l.params:,}", f"{l.macs:,}", f"{l.activations:,}")
                 for l in self.layers]
        total = ("total", self.name, "×".join(map(str, self.input_size)) + " in", f"{self.params / 1e6:.1f} M",
                 f"{self.macs / 1e9:.1f} G", f"{self.activations / 1e6:.1f} M")
        return format_table([*rows, None, total], right=3)


def summarise(model: ResNetV2, input_size: tuple[int, int, int] | None = None) -> Summary:
    """Count the layers of `model` for pictures of `input_size` (C, H, W). Costs no arithmetic: it sends a batch of no pictures."""
    input_size = tuple(input_size or (model.in_chans, *model.pretrained_cfg["input_size"][1:]))
    state, layers = model.state_dict(), []
    for path, y in model.trace(np.zeros((0, *input_size), np.float32)).items():
        own = {name: state[name] for name in state if name.rpartition(".")[0] == path}
        weight, output, pixels = state.get(f"{path}.weight"), y.shape[1:], int(np.prod(y.shape[2:]))
        if weight is None and not path.endswith("pool"):
            continue                                                                      # a block or a stage: a sum of its layers
        if weight is not None and weight.ndim == 4:
            k, c, r, s = weight.shape
            kind = "linear" if path == "head.fc" else f"conv {r}×{s}"
            macs, activations = k * c * r * s * pixels, k * pixels
        else:
            kind, macs, activations = "norm + ReLU" if own else "pool", 0, 0
        params = sum(array.size for name, array in own.items() if is_parameter(name))
        layers.append(LayerSummary(path, kind, output, params, macs, activations))
    return Summary(model.variant.name, input_size, tuple(layers))
