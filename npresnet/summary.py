"""What a network costs: each layer's output, parameters, multiply-adds and activations.

The totals are those on timm's model cards.
"""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from .graph import Graph, is_parameter
from .table import Row, Table, Tabular


@dataclass(frozen=True)
class LayerSummary:
    """One layer, for one picture.

    output: (C, H, W). params: learned numbers. macs: multiply-adds. activations: numbers put out by
    a convolution (the measure of Radosavovic et al. 2020, arXiv 2003.13678, section 3.2, which
    model cards give).
    """
    path: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Summary(Tabular):
    """The layers in forward order and their totals; shown as a table.

    name: of the model. input_size: (C, H, W) of the picture.
    """
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
        layers = [asdict(layer) | {"output": list(layer.output)} for layer in self.layers]
        return dict(model=self.name, input_size=list(self.input_size), params=self.params,
                    macs=self.macs, activations=self.activations, layers=layers)

    def table(self) -> Table:
        """One row a layer, and the totals."""
        rows: list[Row] = [("layer", "kind", "output", "params", "MACs", "activations")]
        for layer in self.layers:
            rows.append((layer.path, layer.kind, "×".join(map(str, layer.output)),
                         f"{layer.params:,}", f"{layer.macs:,}", f"{layer.activations:,}"))
        rows.append(None)
        rows.append(("total", self.name, "×".join(map(str, self.input_size)) + " in",
                     f"{self.params / 1e6:.1f} M", f"{self.macs / 1e9:.1f} G",
                     f"{self.activations / 1e6:.1f} M"))
        return Table(rows, right=3)


def summarise(graph: Graph, input_size: tuple[int, int, int], last: str) -> Summary:
    """Count the layers of `graph` up to the one called `last`, for a picture of `input_size`
    (C, H, W).

    Nothing is computed. Raises ValueError if pictures of so many channels aren't the network's.
    """
    if input_size[0] != graph.in_chans:
        raise ValueError(f"expected pictures of {graph.in_chans} channels, "
                         f"not of size {input_size}")
    shapes, parameters = graph.shapes(*input_size[1:]), graph.parameter_shapes()
    counts = {path: 0 for path in shapes}
    for name, shape in parameters.items():
        counts[name.rpartition(".")[0]] += math.prod(shape) if is_parameter(name) else 0
    layers: list[LayerSummary] = []
    for layer in graph.layers:
        path, step, output = layer.path, layer.step, shapes[layer.path]
        macs = activations = 0
        if layer.kind in ("conv", "linear"):
            macs = math.prod(parameters[f"{path}.weight"]) * output[1] * output[2]
            activations = math.prod(output)
        kind = {"conv": f"conv {step.kernel}×{step.kernel}", "linear": "linear",
                "norm": "norm + ReLU"}.get(layer.kind, "pool")
        if layer.kind != "sum":                                   # a sum of layers listed here
            layers.append(LayerSummary(path, kind, output, counts[path], macs, activations))
        if path == last:
            break
    return Summary(graph.variant.name, input_size, tuple(layers))
