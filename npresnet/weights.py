"""Weights in and out: safetensors files in timm's names, checked to the last tensor before use.

A safetensors file is 8 bytes (the header's length, little-endian), a JSON header that gives each
tensor's dtype, shape and place, and the tensors' bytes one behind the other. The `safetensors`
library checks that this is well formed; then float32 tensors are used where they lie in the
memory-mapped file, and float16, bfloat16 and float64 ones are converted to float32.

Source: https://huggingface.co/docs/safetensors (the format).
"""
from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .errors import WeightsError, printable

_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file: name → read-only array.

    Floats come as float32, integers as they are. float32 tensors are views into the memory-mapped
    file, which must not be cut short while they are in use (a file that is replaced by renaming
    another over it, as `write_weights` does, is safe).
    Raises WeightsError if the file is missing, truncated, not safetensors or holds another dtype.
    Values are not looked at.
    """
    path, shown = Path(path), printable(path)
    mapped = _map(path)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, _) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if dtype not in _FLOATS and dtype not in _INTEGERS:
            raise WeightsError(f"{shown}: {printable(name)}: expected float32, float16, bfloat16 "
                               f"or float64, found {dtype}")
        stored = (_FLOATS | _INTEGERS)[dtype]
        try:
            raw = np.frombuffer(mapped, stored, math.prod(shape), start + begin).reshape(shape)
        except ValueError as error:                         # 65 axes, or 0 × 2⁶³ numbers
            raise WeightsError(f"{shown}: {printable(name)}: can't be an array "
                               f"({error})") from None
        if dtype == "BF16":                                 # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        # A float64 too large becomes Inf, which is found later.
        with np.errstate(over="ignore", invalid="ignore"):
            array = raw.astype(np.float32, copy=False) if dtype in _FLOATS else raw
        tensors[name] = np.require(array, requirements=["ALIGNED"])
        tensors[name].flags.writeable = False
    return tensors


def check_file(path: str | os.PathLike) -> None:
    """Raise WeightsError unless `path` is a well-formed safetensors file.

    It is quick: the tensors themselves are not read.
    """
    _map(Path(path)).close()


def _map(path: Path) -> mmap.mmap:
    """The file in memory, well formed.

    That is: the header is sound, and the tensors fill the rest of the file without gap or overlap.
    """
    try:
        # Opened here first, because safe_open calls every failure "no such file".
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with safe_open(path, framework="np"):               # raises if it isn't well formed
            return mapped
    except FileNotFoundError:
        raise WeightsError(f"{printable(path)}: no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{printable(path)}: {_why_unreadable(path, error)}") from None


def _why_unreadable(path: Path, error: Exception) -> str:
    if os.path.isdir(path):
        return "is a folder, not a safetensors file"
    if isinstance(error, OSError) and not isinstance(error, SafetensorError) and error.errno:
        return f"can't be read ({error.strerror})"
    if not os.path.exists(path):                            # a NUL in its name
        return "no such file"
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    with open(path, "rb") as file:
        head = file.read(8)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return ("is a PyTorch pickle, not safetensors; "
                "convert it with safetensors.torch.save_file(state_dict, path)")
    if size < 8 or int.from_bytes(head, "little") > size:
        return f"is truncated or not a safetensors file ({size:,} bytes)"
    return f"is truncated, damaged or not a safetensors file ({printable(error)})"


def write_weights(path: str | os.PathLike, tensors: Mapping[str, np.ndarray],
                  metadata: dict[str, str] | None = None) -> None:
    """Save name → array as a safetensors file that timm loads.

    The file appears whole or not at all.
    Raises WeightsError if it can't be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        write_whole(path, save(arrays, metadata={"format": "pt"} | (metadata or {})))
    except OSError as error:
        raise WeightsError(f"{printable(path)}: can't be written ({error.strerror})") from None


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file that appears whole or not at all. Raises OSError."""
    path = Path(path)
    temporary = path.parent / f".npresnet.{os.getpid()}.{threading.get_ident()}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def release(array: np.ndarray) -> None:
    """Take the array's part of a memory-mapped file out of memory until it is next read.

    So a process doesn't hold weights twice, here and packed. Does nothing to other arrays.
    """
    owner: object = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        start = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        owner.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)
