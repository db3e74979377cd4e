"""npresnet's models beside PyTorch twins with the same tensors, and how the two are compared."""
from __future__ import annotations

import dataclasses

import numpy as np
import torch
from helpers import random_state
from torch_twin import TorchResNetV2

import npresnet
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, Variant, pretrained_cfg


def twin_of(variant: Variant, state, **options) -> TorchResNetV2:
    """The PyTorch model with the same tensors."""
    twin = TorchResNetV2(variant.depths, basic=variant.block == "basic", stem=variant.stem,
                         avg=variant.avg_down, width=variant.width, **options).eval()
    twin.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return twin


def pair(name: str, backend: str, *, width: float = 0.125, seed: int = 0, own: dict | None = None,
         depths: tuple[int, ...] | None = None, **options):
    """(npresnet's model, PyTorch's twin) with the same random tensors; narrow, for quick tests.

    own: options of npresnet's model that PyTorch doesn't know. depths: blocks a stage, if not the
    variant's own.
    """
    variant = dataclasses.replace(VARIANTS[name], width=width)
    variant = dataclasses.replace(variant, depths=depths or variant.depths)
    options = dict(num_classes=1000) | options
    model = ResNetV2(variant, pretrained_cfg(variant, "test"), backend=backend, **options,
                      **own or {})
    model.load_state_dict(random_state(model.graph.parameter_shapes(), seed))
    return model, twin_of(variant, model.state_dict(), **options)


def torch_trace(twin, x) -> dict[str, np.ndarray]:
    """Every module's output, by its path."""
    layers = {}

    def keep(path):
        return lambda _module, _inputs, output: layers.__setitem__(path, output.numpy())

    hooks = [m.register_forward_hook(keep(path)) for path, m in twin.named_modules() if path]
    with torch.no_grad():
        twin(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return layers


def torch_run(function, *arrays, **options):
    """What a PyTorch function gives for NumPy arrays, as an array."""
    with torch.no_grad():
        return function(*(torch.from_numpy(np.array(a)) for a in arrays), **options).numpy()


def assert_layers(ours, theirs, tolerance):
    """All of our layers are among theirs and within tolerance; prints the worst."""
    result = npresnet.compare(ours, theirs, tolerance)
    worst = max(result.layers, key=lambda layer: layer.max_delta)
    print(f"{len(result.layers)} layers, worst {worst.path}: Δ = {worst.max_delta:.1e}, "
          f"{100 * worst.max_delta / tolerance:.0f} % of the tolerance")
    assert not result.only_a and result.first_divergence is None, str(result)
    for path in ours:
        assert ours[path].shape == theirs[path].shape and ours[path].dtype == np.float32, path
