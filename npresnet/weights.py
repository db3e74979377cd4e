"""Weights in and out: safetensors files in timm's names, checked to the last tensor before anything is used.

A safetensors file is 8 bytes (the header's length, little-endian), a JSON header that gives each tensor's dtype, shape and place,
and the tensors' bytes one behind the other. The `safetensors` library checks that this is well formed; then float32 tensors are used
where they lie in the memory-mapped file, and float16, bfloat16 and float64 ones are converted to float32.

Source: https://huggingface.co/docs/safetensors (the format).
"""
from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .errors import WeightsError
from .variants import COUNTER, VARIANTS, parameter_shapes

_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file: name → read-only array; floats as float32, integers as int64.

    float32 tensors are views into the memory-mapped file, which must not be cut short while they are in use (a file that is replaced
    by renaming another over it, as `write_weights` does, is safe).
    Raises WeightsError if the file is missing, truncated, not safetensors or holds another dtype. Values are not looked at.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="np"):                                             # validates the header and the file's length
            pass
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: {_why_unreadable(path, error)}") from None
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, _) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if dtype not in _FLOATS and dtype not in _INTEGERS:
            raise WeightsError(f"{path}: {name}: expected float32, float16, bfloat16 or float64, found {dtype}")
        raw = np.frombuffer(mapped, (_FLOATS | _INTEGERS)[dtype], int(np.prod(shape, dtype=np.int64)), start + begin).reshape(shape)
        if dtype == "BF16":                                                               # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):                                                  # a float64 too large becomes Inf: found later
            array = raw.astype(np.float32 if dtype in _FLOATS else np.int64, copy=False)
        tensors[name] = np.require(array, requirements=["ALIGNED"])
        tensors[name].flags.writeable = False
    return tensors


def _why_unreadable(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder, not a safetensors file"
    if isinstance(error, OSError) and not isinstance(error, SafetensorError) and error.errno is not None:
        return f"can't be read ({error.strerror})"
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    with open(path, "rb") as file:
        head = file.read(8)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "is a PyTorch pickle, not safetensors; convert it with safetensors.torch.save_file(state_dict, path)"
    if size < 8 or int.from_bytes(head, "little") > size:
        return f"is truncated or not a safetensors file ({size:,} bytes)"
    return f"is truncated, damaged or not a safetensors file ({error})"


def check_weights(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple], source: str, *,
                  strict: bool = True) -> dict[str, np.ndarray]:
    """The tensors of `shapes`, taken from `tensors` and found fit for use: read-only float32 (counters int64), in shapes' order.

    A counter (`num_batches_tracked`) may be missing, as in PyTorch: inference has no use for it. With strict=False tensors may be
    missing or left over; what is there must fit all the same.
    Raises WeightsError, naming `source` and the tensor, if one is missing, unexpected, of another shape or dtype, holds NaN or Inf,
    or is a negative variance.
    """
    missing = [name for name in shapes if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in shapes]
    if strict and missing:
        raise WeightsError(f"{source}: missing tensor {_list(missing)}{_hint(tensors)}")
    if strict and unexpected:
        raise WeightsError(f"{source}: unexpected tensor {_list(unexpected)}{_hint(tensors)}")
    checked = {}
    for name, shape in shapes.items():
        if name not in tensors:
            if name.endswith(COUNTER):
                checked[name] = np.zeros((), np.int64)
            continue
        array = np.asarray(tensors[name])
        if array.shape != shape:
            raise WeightsError(f"{source}: {name}: expected shape {shape}, found {array.shape}{_hint(tensors)}")
        if name.endswith(COUNTER):
            checked[name] = array.astype(np.int64)
            continue
        if not np.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"{source}: {name}: expected a floating-point tensor, found {array.dtype}")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(array).all():
            what = "NaN" if np.isnan(array).any() else "Inf (or a number too large for float32)"
            raise WeightsError(f"{source}: {name}: expected finite numbers, found {what}")
        if name.endswith("running_var") and array.size and array.min() < 0:
            raise WeightsError(f"{source}: {name}: expected variances, found {array.min()}")
        if array.flags.writeable:                                                         # the caller keeps the right to change theirs
            array = array.copy() if np.shares_memory(array, tensors[name]) else array
            array.flags.writeable = False
        checked[name] = array
    return checked


def write_weights(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Save name → array as a safetensors file that timm loads. The file appears whole or not at all.

    Raises WeightsError if it can't be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data = save(arrays, metadata={"format": "pt"} | (metadata or {}))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: can't be written ({error.strerror})") from None


def adapt_input_conv(weight: np.ndarray, in_chans: int) -> np.ndarray:
    """A first convolution (K, 3, R, S) made fit for `in_chans` channels: (K, in_chans, R, S).

    For one channel the three are summed, so that a grey picture gives what its RGB copy would; else they are repeated and scaled by
    3 / in_chans. Source: timm `models/_manipulate.py`, `adapt_input_conv`.
    """
    if in_chans == 1:
        return weight.sum(1, keepdims=True)                                               # (K, 1, R, S)
    repeated = np.tile(weight, (1, -(-in_chans // 3), 1, 1))[:, :in_chans]                # (K, in_chans, R, S)
    return repeated * np.float32(3 / in_chans)


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hint(tensors: Mapping[str, np.ndarray]) -> str:
    """Which variant the tensors do fit, if any."""
    trunk = {name: np.shape(t) for name, t in tensors.items() if not name.startswith("head.") and not name.endswith(COUNTER)}
    for variant in VARIANTS.values():
        shapes = parameter_shapes(variant, num_classes=0)
        if trunk == {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}:
            return f"; the file looks like {variant.name}"
    return ""
