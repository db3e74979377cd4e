"""What may hold a picture, and how it is opened: paths, bytes, file objects, arrays.

`open_source` and `as_pixels` raise ImageError for what they can't take; it says what came, what is
wanted and what to do, and leaves it to `load_image` (`images.py`) to say which picture it was.
"""
from __future__ import annotations

import inspect
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from .errors import ImageError, printable

# Paths, bytes, Pillow's pictures; and, under no type of their own, file objects and arrays.
Source: TypeAlias = str | os.PathLike | bytes | bytearray | memoryview | Any

URL = re.compile(r"data:|(file|https?|ftp|s3|gs|az|hf):/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def name_of(source: Source) -> str:
    """What messages call it."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        return printable(name[:60] + "…" if name.startswith("data:") and len(name) > 60 else name)
    if not hasattr(source, "__array__"):
        for attribute in ("filename", "name"):                    # uploads have the first
            given = getattr(source, attribute, None)
            if given and isinstance(given, (str, bytes, os.PathLike)):
                return printable(os.fsdecode(given))
    return "picture"


def url_advice(source: Source) -> str:
    """What to do with a URL that was given as a path; nothing if it is none."""
    found = URL.match(os.fsdecode(source)) if isinstance(source, (str, os.PathLike)) else None
    if not found:
        return ""
    scheme = found[0].partition(":")[0].lower()
    advice = {"file": "give the path alone",
              "data": "decode what follows the comma (base64.b64decode) and give the bytes"}
    return f"is a URL; {advice.get(scheme, 'download it first, and give the file or its bytes')}"


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """A file that can be wound back. What is opened here is closed again, and nothing else."""
    if isinstance(source, (str, os.PathLike)):
        with _open_path(source) as file:
            yield file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(bytes(source))
    elif callable(getattr(source, "read", None)):
        yield _wind_back(source)
    else:
        raise ImageError(f"expected a path, a file's bytes, an open binary file, a Pillow picture "
                         f"or an array, got {_kind(source)}")


def _kind(value: object) -> str:
    name = type(value).__name__
    if value is None:
        return "None"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


@contextmanager
def _open_path(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A regular file; nothing else is waited for, or even opened if that can be helped.

    Raises ImageError without a name for what is no regular file, OSError if it can't be opened.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:                                   # NUL or a surrogate
        raise ImageError(f"can't be a file's name ({printable(error)})") from None
    _check_regular(mode)
    nonblocking = getattr(os, "O_NONBLOCK", 0)                    # Windows has no FIFOs
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblocking)) as file:
        _check_regular(os.fstat(file.fileno()).st_mode)           # it may be another one by now
        if nonblocking:
            os.set_blocking(file.fileno(), True)
        yield file


def _check_regular(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ImageError("is a directory")
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device",
             stat.S_IFBLK: "device"}
    kind = kinds.get(stat.S_IFMT(mode), "special file")
    raise ImageError(f"is a {kind}, not a regular file")


def _wind_back(source: Any) -> BinaryIO:
    """A file object at its start; what can't be wound back is read to its end, into memory."""
    if getattr(source, "closed", False) is True:
        raise ImageError("is closed: give it while it is open, or give its bytes")
    asynchronous = inspect.iscoroutinefunction(source.read)
    if not asynchronous:
        try:
            source.seek(0)
            data = source.read(0)                                 # says what it gives
            again = hasattr(source, "tell")
        except (AttributeError, TypeError, OSError):
            again = False
        if not again:
            data = source.read()
        asynchronous = inspect.isawaitable(data)
        if inspect.iscoroutine(data):
            data.close()                                          # or Python complains
    if asynchronous:
        raise ImageError("its read() is asynchronous: `await file.read()` first, and give the "
                         "bytes")
    if isinstance(data, str):
        raise ImageError("is open as text: open it with mode 'rb'")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"its read() gives {_kind(data)}, not bytes")
    opened: BinaryIO = source if again else io.BytesIO(data)
    return opened


# --- arrays ---------------------------------------------------------------------------------------


def as_pixels(source: Any) -> np.ndarray:
    """An array of pixels: uint8 (H, W), (H, W, 3) or (H, W, 4). Raises ImageError otherwise."""
    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]                                    # (H, W)
    fits = array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)
    if not fits or array.dtype not in (np.uint8, np.bool_):
        raise ImageError(f"is an array of {array.dtype} and shape {np.shape(source)}, wanted are "
                         "uint8 pixels (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), or bool: "
                         + _array_advice(array))
    if 0 in array.shape:
        raise ImageError(f"has no pixels ({array.shape[1]}×{array.shape[0]})")
    return array * np.uint8(255) if array.dtype == np.bool_ else array


def _array_advice(array: np.ndarray) -> str:
    """What to give instead of an array that isn't pixels."""
    if array.ndim > 3 or array.dtype.kind not in "buif":
        return "give the pictures in it one by one"
    if array.ndim < 2:
        return "if these are the bytes of a file, give array.tobytes()"
    layout = network = "array"                                    # as pixels, as the model's input
    if array.ndim == 3 and array.shape[2] in (3, 4):
        network = "array.transpose(2, 0, 1)"
    elif array.ndim == 3:
        if array.shape[0] not in (1, 3, 4) or array.shape[2] < 3:
            return f"{array.shape[2]} channels are no colours, choose three of them"
        layout = "array.transpose(1, 2, 0)"
    if array.dtype in (np.uint8, np.bool_):
        return f"the channels come first, give {layout}"
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if 0 <= low and high <= 1 and array.dtype.kind == "f":
        return f"the values lie in 0…1, give np.round(255 * {layout}).astype(np.uint8)"
    if 0 <= low and high <= 255:
        return f"give np.round({layout}).astype(np.uint8)"
    if 0 <= low and high <= 65535:
        return f"the values lie in 0…65535, give np.round({layout} / 257).astype(np.uint8)"
    return (f"the values lie in {low:.3g}…{high:.3g}, bring them to 0…255; or if this is the "
            f"network's input already, give it to the model: model({network}[None])")
