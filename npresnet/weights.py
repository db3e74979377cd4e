"""Weights in and out: safetensors files in timm's names.

`tensor_files.py` reads one, header first; `loading.py` fits its tensors to a network.
"""
from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from .errors import WeightsError, printable
from .tensor_files import File, WeightsFile
from .tensor_files import release as release

_TRIES = 5                                                        # at putting a file in place


def read_weights(path: File) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file: name → read-only array.

    Floats come as float32, integers as they are. float32 tensors are views into the memory-mapped
    file, which must not be cut short while they are in use (a file that is replaced by renaming
    another over it, as `write_weights` does, is safe); where a file can't be mapped, or on Windows,
    where mapping would lock it, they are read. Beside the file itself, memory is needed for what is
    converted (at most twice the file) and for the header (at most 40 times its length).
    path may also be a file inside a package, as `importlib.resources` gives it.
    Raises WeightsError if the file is missing, truncated, not safetensors, no regular file, or
    holds another dtype. Values are not looked at.
    """
    with WeightsFile(path) as file:
        return {name: tensor.read() for name, tensor in file.tensors.items()}


def check_file(path: File) -> None:
    """Raise WeightsError unless `path` is a well-formed safetensors file.

    It is quick: the tensors themselves are not read.
    """
    WeightsFile(path).close()


def write_weights(path: str | os.PathLike, tensors: Mapping[str, np.ndarray],
                  metadata: dict[str, str] | None = None) -> None:
    """Save name → array as a safetensors file that timm loads.

    The file appears whole or not at all; a link stays, and the file that it points to is replaced.
    Raises WeightsError if it can't be written, or holds what such files can't.
    """
    try:
        arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        write_whole(path, save(arrays, metadata={"format": "pt"} | (metadata or {})))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or printable(error, 200)
        raise WeightsError(f"{printable(path)}: can't be written ({why})") from None


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file that appears whole or not at all. Raises OSError.

    A link to a file stays one. What is no regular file, /dev/null say, is left alone.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file")
    temporary = path.parent / f".npresnet.{os.getpid()}.{threading.get_ident()}"
    try:
        temporary.write_bytes(data)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in place. On Windows another program that looks at the old one, a virus scanner
    say, forbids it for a moment."""
    for attempt in range(_TRIES):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.05 * 2**attempt)
