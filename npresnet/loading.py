"""From a file to a model's tensors: which file, whether its tensors fit, a new head, other input
channels.

`weights.py` reads and writes the files; here their tensors meet the network that they are for. What
doesn't fit is said before anything is used, and nothing is half-loaded.
"""
from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .errors import WeightsError, printable
from .graph import Graph, Shape, build_graph
from .tensor_files import File, Stored, WeightsFile
from .variants import (
    COUNTER,
    DEMO,
    VARIANTS,
    Variant,
    find_variant,
    pretrained_cfg,
    split_revision,
)

# Bytes: the largest network's takes 130,000, the rest is for the file's own remarks.
HEADER_LIMIT = 2**20

Tensor = np.ndarray | Stored
Tensors = Mapping[str, Tensor] | Mapping[str, np.ndarray] | Mapping[str, Stored]


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` found: tensors that the model has and the state dict
    hasn't, and the other way round."""
    missing_keys: list[str]
    unexpected_keys: list[str]


class Source(NamedTuple):
    """Where a model's tensors come from. cfg: its pretrained_cfg. file: None for random tensors."""
    variant: Variant
    cfg: dict[str, Any]
    file: File | None


def find_source(name: str, pretrained: bool, weights: str | os.PathLike[str] | None) -> Source:
    """The variant called `name`, and the file of its tensors: `weights`, or if `pretrained` the
    published one, fetched if need be. "demo" has its own.

    Raises ValueError on an unknown name, if both are given, or a revision of what isn't fetched,
    and what `hub.fetch` raises.
    """
    if pretrained and weights is not None:
        raise ValueError("give either pretrained=True or weights=, not both")
    model, revision = split_revision(name)
    variant, tag = find_variant(model)
    if revision and (variant is DEMO or not pretrained):
        raise ValueError(f"{name}: a revision is for published weights, with pretrained=True")
    if variant is DEMO:
        from . import demo
        return Source(variant, demo.config(), demo.WEIGHTS if weights is None else weights)
    cfg = pretrained_cfg(variant, tag)
    if pretrained:
        from .hub import fetch
        weights = fetch(variant.name, tag, revision)
        cfg["hf_hub_id"] += f"@{revision}" if revision else ""
    return Source(variant, cfg, weights)


def open_file(file: File) -> WeightsFile:
    """A file that may hold a network's tensors. Raises WeightsError if it can't: see
    `WeightsFile`."""
    return WeightsFile(file, HEADER_LIMIT)


def classes_in(tensors: Tensors, default: int) -> int:
    """How many classes the classifier among `tensors` knows; `default` without one."""
    head = tensors.get("head.fc.weight")
    return head.shape[0] if head is not None and head.shape else default


def fit_tensors(tensors: Tensors, graph: Graph, source: str, in_file: int,
                seed: int) -> dict[str, np.ndarray]:
    """The tensors of a file, made fit for `graph`, as timm does: without its classifier for
    `in_file` classes if others are wanted (then a random one from `seed`, with a warning), the
    first convolution adapted to the number of channels.

    Raises WeightsError, naming `source`, if they don't fit.
    """
    shapes = graph.parameter_shapes()
    tensors = dict[str, Tensor](tensors)
    if graph.num_classes != in_file:                        # only the trunk is kept
        tensors = {n: t for n, t in tensors.items() if not n.startswith("head.fc.")}
        tensors |= initial_state({n: s for n, s in shapes.items() if n.startswith("head.")}, seed)
        if graph.num_classes:
            warnings.warn(f"{source} has {in_file} classes, {graph.num_classes} were asked for: "
                          "the classifier is randomly initialised", stacklevel=3)
    elif graph.global_pool == "catavgmax":
        _check_inputs(tensors.get("head.fc.weight"), shapes["head.fc.weight"], source)
    first = f"{graph.steps[0].path}.weight"
    if graph.in_chans != 3 and first in tensors and tensors[first].shape[1:2] == (3,):
        k, _, r, s = shapes[first]
        fit = check_weights(tensors, shapes | {first: (k, 3, r, s)}, source)
        with np.errstate(over="ignore"):                    # Inf is found when it is checked again
            fit[first] = adapt_input_conv(fit[first], graph.in_chans)
        return check_weights(fit, shapes, source)
    return check_weights(tensors, shapes, source)


def _check_inputs(head: Tensor | None, shape: Shape, source: str) -> None:
    """A classifier for an average pool can't follow "catavgmax", which gives it twice the
    inputs."""
    if head is not None and head.shape == (shape[0], shape[1] // 2, 1, 1):
        raise WeightsError(f"{source}: head.fc.weight: global_pool='catavgmax' doubles the "
                           f"classifier's inputs, expected shape {shape}, found {head.shape}; give "
                           "num_classes=0 for embeddings")


def check_weights(tensors: Tensors, shapes: Mapping[str, Shape],
                  source: str, *, strict: bool = True) -> dict[str, np.ndarray]:
    """The tensors of `shapes`, taken from `tensors` and found fit for use.

    They are read-only float32 (counters int64), in shapes' order. A counter (`num_batches_tracked`)
    may be missing, as in PyTorch: inference has no use for it. With strict=False tensors may be
    missing or left over; what is there must fit all the same. Nothing is read from a file or
    converted before all names, shapes and dtypes fit.
    Raises WeightsError, naming `source` and the tensor, if one is missing, unexpected, of another
    shape or dtype, holds NaN or Inf, or is a negative variance.
    """
    source = printable(source)
    missing = [name for name in shapes if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in shapes]
    if strict and missing:
        raise WeightsError(f"{source}: missing tensor {_list(missing)}{_hint(tensors, shapes)}")
    if strict and unexpected:
        raise WeightsError(f"{source}: unexpected tensor {_list(unexpected)}"
                           f"{_hint(tensors, shapes)}")
    fit = {name: _check_form(name, tensors, shapes, source) for name in shapes if name in tensors}
    checked = {}
    for name in shapes:
        if name in fit:
            checked[name] = _check_values(name, fit[name], source)
        elif name.endswith(COUNTER):
            checked[name] = np.zeros((), np.int64)
    return checked


def _check_form(name: str, tensors: Tensors, shapes: Mapping[str, Shape], source: str) -> Tensor:
    """The tensor called `name`, found to have the right shape and kind of numbers."""
    counter = name.endswith(COUNTER)
    what = "an integer" if counter else "a floating-point tensor"
    try:
        tensor = tensors[name]
        array = tensor if isinstance(tensor, Stored) else np.asarray(tensor)
    except Exception as error:                              # a ragged list, a tensor on a GPU, …
        raise WeightsError(f"{source}: {name}: expected {what}, found what is no array "
                           f"({printable(error, 200)})") from error
    if array.shape != shapes[name]:
        raise WeightsError(f"{source}: {name}: expected shape {shapes[name]}, "
                           f"found {_shape(array.shape)}{_hint(tensors, shapes)}")
    if not np.issubdtype(array.dtype, np.integer if counter else np.floating):
        raise WeightsError(f"{source}: {name}: expected {what}, found {printable(array.dtype, 40)}")
    return array


def _check_values(name: str, tensor: Tensor, source: str) -> np.ndarray:
    """The tensor called `name`, found fit for use: read-only float32, a counter int64."""
    counter = name.endswith(COUNTER)
    array = tensor.read() if isinstance(tensor, Stored) else tensor
    with np.errstate(over="ignore"):                        # too large: Inf, which is found below
        dtype = np.int64 if counter else np.float32
        array = np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
    if _can_change(array):                                  # the caller may go on changing theirs
        array = array.copy()
        array.flags.writeable = False
    if counter or not array.size:
        return array
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()                # NaN if one is NaN, without a copy
    if not (np.isfinite(low) and np.isfinite(high)):
        what = "NaN" if np.isnan(low) else "Inf (or a number too large for float32)"
        raise WeightsError(f"{source}: {name}: expected finite numbers, found {what}")
    if name.endswith("running_var") and low < 0:
        raise WeightsError(f"{source}: {name}: expected variances, found {low}")
    return array


def adapt_input_conv(weight: np.ndarray, in_chans: int) -> np.ndarray:
    """A first convolution (K, 3, R, S) made fit for `in_chans` channels: (K, in_chans, R, S).

    For one channel the three are summed, so that a grey picture gives what its RGB copy would; else
    they are repeated and scaled by 3 / in_chans.
    Source: timm `models/_manipulate.py`, `adapt_input_conv`.
    """
    if in_chans == 1:
        summed: np.ndarray = weight.sum(1, keepdims=True)                   # (K, 1, R, S)
        return summed
    repeated = np.tile(weight, (1, -(-in_chans // 3), 1, 1))[:, :in_chans]  # (K, in_chans, R, S)
    return repeated * np.float32(3 / in_chans)


def initial_state(shapes: Mapping[str, Shape], seed: int) -> dict[str, np.ndarray]:
    """Random tensors as timm initialises them.

    He (fan out) for convolutions, σ = 0.01 for the classifier, batch norm the identity.
    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv 1502.01852, section 2.2.
    """
    rng, state = np.random.default_rng(seed), {}
    array: np.ndarray
    for name, shape in shapes.items():
        if name.endswith(COUNTER):
            array = np.zeros((), np.int64)
        elif len(shape) == 4:                                               # (K, C, R, S)
            sigma = (0.01 if name.startswith("head.")
                     else np.sqrt(2 / (shape[0] * shape[2] * shape[3])))
            array = rng.standard_normal(shape, np.float32) * np.float32(sigma)
        else:
            one = name.endswith(("running_var", ".weight"))
            array = np.full(shape, 1.0 if one else 0.0, np.float32)
        array.flags.writeable = False
        state[name] = array
    return state


def _list(names: list[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _shape(shape: Shape) -> str:
    return f"{shape}" if len(shape) <= 8 else f"{len(shape)} axes"


def _can_change(array: np.ndarray) -> bool:
    """Whether anybody can still write into the memory behind `array`.

    That may be through another view of it.
    """
    owner: object = array
    while isinstance(owner, (np.ndarray, memoryview)):
        if isinstance(owner, np.ndarray):
            if owner.flags.writeable:
                return True
            owner = owner.base
        else:
            if not owner.readonly:
                return True
            owner = owner.obj
    if isinstance(owner, (bytes, mmap.mmap)):           # a file mapped by tensor_files is read-only
        return not memoryview(owner).readonly
    return owner is not None                            # whose it is, we can't tell


def _hint(tensors: Tensors, shapes: Mapping[str, Shape]) -> str:
    """Which other variant the tensors do fit, or that only the classifier is missing.

    Nothing if neither.
    """
    def trunk_of(shape_of: Mapping[str, Shape]) -> dict[str, Shape]:
        return {name: shape for name, shape in shape_of.items()
                if not (str(name).startswith("head.") or str(name).endswith(COUNTER))}

    trunk = trunk_of({name: tuple(getattr(tensor, "shape", ()))
                      for name, tensor in tensors.items()})
    if trunk == trunk_of(shapes):
        return ("" if "head.fc.weight" in tensors
                else "; it has no classifier: give num_classes=0 for embeddings")
    for variant in (*VARIANTS.values(), DEMO):
        if trunk == trunk_of(build_graph(variant, num_classes=0).parameter_shapes()):
            return f"; the file looks like {variant.name}"
    return ""
