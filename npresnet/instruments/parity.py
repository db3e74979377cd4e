"""The network held against timm, whose names, behaviour and weights it has: the same tensors there.

timm and torch are imported here, in the function that needs them, only when it is called.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import MissingDependencyError, printable
from ..model import ResNetV2
from ..variants import DEMO


def check_timm() -> None:
    """Raise MissingDependencyError if timm isn't installed. Imports nothing."""
    if find_spec("timm") is None:
        raise MissingDependencyError("comparing with timm needs timm: "
                                     "pip install \"npresnet[parity]\"")


def timm_trace(model: ResNetV2) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function like `model.trace` that runs timm's network with the tensors of `model`.

    It takes pictures (N, C, H, W) float32 and gives the outputs of the modules that `model.trace`
    names, timm module path → float32 array, in the same order.
    Raises MissingDependencyError if timm isn't installed, or can't be imported.
    """
    check_timm()
    try:
        import timm
        import torch
    except Exception as error:                                    # a torchvision that doesn't fit
        why = printable(f"{type(error).__name__}: {error}".splitlines()[0])
        raise MissingDependencyError("timm is installed, but can't be imported "
                                     f"({why}): pip install \"npresnet[parity]\"") from error

    variant = model.variant
    architecture = "resnetv2_50" if variant.name == DEMO.name else variant.name
    twin = timm.create_model(architecture, num_classes=model.num_classes, in_chans=model.in_chans,
                             global_pool=model.global_pool, output_stride=model.output_stride,
                             width_factor=variant.width).eval()
    state = model.state_dict()
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    paths = [layer.path for layer in model.graph.layers]

    def trace(x: np.ndarray) -> dict[str, np.ndarray]:
        layers: dict[str, np.ndarray] = {}

        def record(path: str, _module: Any, _inputs: Any, y: torch.Tensor) -> None:
            layers[path] = y.numpy()

        hooks = [module.register_forward_hook(partial(record, path))
                 for path, module in twin.named_modules() if path]
        try:
            with torch.no_grad():
                twin(torch.from_numpy(x))
        finally:
            for hook in hooks:
                hook.remove()
        return {path: layers[path] for path in paths if path in layers}

    return trace
