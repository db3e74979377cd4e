"""A safetensors file, read header first: its tensors are not touched before they are asked for.

Such a file is 8 bytes (the header's length, little-endian), a JSON header that gives each tensor's
dtype, shape and place, and the tensors' bytes one behind the other. The header is read and checked
by itself. When the first tensor is read the file is mapped into memory; float32 tensors are used
where they lie, float16, bfloat16 and float64 ones are converted to float32.

`weights.py` is what others use.
Source: https://huggingface.co/docs/safetensors (the format).
"""
from __future__ import annotations

import io
import json
import math
import mmap
import os
import stat
import traceback
from contextlib import suppress
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from .errors import WeightsError, printable

_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_NUMBERS = {code: np.dtype(stored) for code, stored in {
    **_FLOATS, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}.items()}
_FLOAT32 = np.dtype(np.float32)
LONGEST_HEADER = 100_000_000                                      # bytes, as the library has it
_READS_ALL = os.name == "nt"                                      # a mapped file is locked there

File = str | os.PathLike[str] | Traversable


class Stored(NamedTuple):
    """A tensor that still lies in its file, as the header describes it."""
    file: WeightsFile
    code: str                                                     # "F16"
    shape: tuple[int, ...]
    begin: int                                                    # bytes behind the header
    end: int

    @property
    def dtype(self) -> np.dtype:
        """What `read` gives: float32, or the file's integers."""
        return _FLOAT32 if self.code in _FLOATS else _NUMBERS[self.code]

    def read(self) -> np.ndarray:
        """The tensor, read-only: as it lies in the file if it can be used so, else converted.

        Raises WeightsError if there is not enough memory for it.
        """
        try:
            return self._read()
        except MemoryError:
            self.file.refuse(f"not enough memory for a tensor of {math.prod(self.shape):,} numbers")

    def _read(self) -> np.ndarray:
        array: np.ndarray
        start = self.file.start + self.begin
        raw: np.ndarray = np.ndarray(self.shape, _NUMBERS[self.code], self.file.data(), start)
        if self.code == "BF16":                                   # the upper half of a float32
            bits = raw.astype(np.uint32)
            bits <<= 16
            bits.flags.writeable = False
            array = bits.view(np.float32)
        elif raw.dtype != self.dtype:
            with np.errstate(over="ignore", invalid="ignore"):    # too large: Inf, found later
                array = raw.astype(self.dtype)
        elif raw.flags.aligned:
            return raw
        else:
            array = raw.copy()
        array.flags.writeable = False
        if raw.nbytes >= 2**20:
            release(raw)
        return array


class WeightsFile:
    """A safetensors file, open, its header read and found sound, and nothing else of it yet.

    `tensors`: name → `Stored`, to be read inside a `with`. An error that leaves the `with` takes
    along no array, so the file isn't kept in memory by its traceback.
    header_limit: bytes.
    Raises WeightsError as `read_weights` does.
    """

    def __init__(self, path: File, header_limit: int = LONGEST_HEADER):
        self.name, self.start = printable(path), 0                # where the tensors begin
        self._data: np.ndarray | None = None
        try:
            self._file = _open(path)
        except FileNotFoundError:
            raise WeightsError(f"{self.name}: no such file") from None
        except OSError as error:
            self.refuse(f"can't be read ({error.strerror or printable(error, 200)})")
        except ValueError:                                        # a NUL in its name
            raise WeightsError(f"{self.name}: no such file") from None
        try:
            self._size = self._file.seek(0, os.SEEK_END)
            self.tensors = self._read_header(header_limit)
        except OSError as error:
            self.close()
            self.refuse(f"can't be read ({error.strerror})")
        except BaseException:
            self.close()
            raise

    def data(self) -> np.ndarray:
        """All its bytes, read-only: mapped into memory, or read where that can't be."""
        if self._data is None:
            try:
                contents = _contents(self._file)
            except OSError as error:
                self.refuse(f"can't be read ({error.strerror})")
            if len(contents) != self._size:
                self.refuse("was changed while it was being read")
            self._data = np.frombuffer(contents, np.uint8)
        return self._data

    def close(self) -> None:
        """Let go of the file. Arrays that were read stay."""
        self._file.close()
        self._data = None

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None) -> None:
        self.close()
        traceback.clear_frames(trace)

    def refuse(self, why: str) -> NoReturn:
        """Raise a WeightsError about it."""
        raise WeightsError(f"{self.name}: {why}") from None

    def _read_header(self, limit: int) -> dict[str, Stored]:
        self._file.seek(0)
        head = self._file.read(8)
        length = int.from_bytes(head, "little")
        self.start = 8 + length
        if not head:
            self.refuse("is empty")
        if self.start > self._size and (head[:2] == b"PK" or head[:1] == b"\x80"):
            self.refuse("is a PyTorch pickle, not safetensors; "
                         "convert it with safetensors.torch.save_file(state_dict, path)")
        if self.start > self._size:
            self.refuse(f"is truncated or not a safetensors file ({self._size:,} bytes)")
        if length > limit:
            self.refuse(f"has a header of {length:,} bytes, far too many tensors: at most "
                         f"{limit:,} bytes are read")
        try:
            return self._sound(self._parse(self._file.read(length)))
        except (ValueError, RecursionError) as error:
            why = printable(error, 200)
            self.refuse(f"is truncated, damaged or not a safetensors file ({why})")

    def _parse(self, text: bytes) -> dict[str, Any]:
        """The header's tensors: name → `Stored`, or what else JSON says. Raises ValueError and
        RecursionError."""
        if not text.startswith(b"{"):
            raise ValueError("its header is no JSON object")
        header = json.loads(text.decode(), object_pairs_hook=self._object,
                            parse_constant=_no_constant)
        if type(header) is not dict:                              # a lone tensor, without a name
            raise ValueError("its header is no table of tensors")
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if type(metadata) is not dict or not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("its metadata is not text")
        "".join([*header, *metadata, *metadata.values()]).encode()  # raises for half a character
        return dict(header)

    def _object(self, pairs: list[tuple[str, Any]]) -> Stored | dict[str, Any]:
        """A JSON object: a tensor if it is a sound one. Raises ValueError if a name stands twice
        in it."""
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in its header")
        try:
            code, shape, (begin, end) = found["dtype"], found["shape"], found["data_offsets"]
            numbers = [*shape, begin, end]
        except (TypeError, KeyError, ValueError):
            return found
        if type(code) is not str or type(shape) is not list or set(map(type, numbers)) != {int}:
            return found
        if min(numbers) < 0 or max(numbers) >= 2**64:
            return found
        return Stored(self, code, tuple(shape), begin, end)

    def _sound(self, header: dict[str, Any]) -> dict[str, Stored]:
        """The header, if its tensors can be read and fill the file without gap or overlap.

        Raises ValueError if they don't.
        """
        for name, tensor in header.items():
            if type(tensor) is not Stored:
                raise ValueError(f"{printable(name, 80)}: no sound dtype, shape and data_offsets")
            _, code, shape, begin, end = tensor
            if code not in _NUMBERS:
                self.refuse(f"{printable(name, 80)}: expected float32, float16, bfloat16 or "
                             f"float64, found {printable(code, 20)}")
            if len(shape) > 64:                                   # NumPy's limit
                self.refuse(f"{printable(name, 80)}: can't be an array ({len(shape):,} axes)")
            count, itemsize = math.prod(shape), _NUMBERS[code].itemsize
            if (count or math.prod(filter(None, shape))) * itemsize >= 2**63:
                self.refuse(f"{printable(name, 80)}: can't be an array (axes too long)")
            if end - begin != count * itemsize:
                raise ValueError(f"{printable(name, 80)}: {count:,} numbers in {end - begin:,} "
                                 "bytes")
        at = 0
        for begin, end in sorted(tensor[3:] for tensor in header.values()):
            if begin != at:
                raise ValueError(f"a gap or an overlap at byte {at:,} of its tensors")
            at = end
        if self.start + at > self._size:
            self.refuse(f"is truncated: {self.start + at:,} bytes by its header, "
                         f"{self._size:,} are there")
        if self.start + at < self._size:
            raise ValueError(f"{self._size - self.start - at:,} bytes are left over")
        return header


def _open(path: File) -> BinaryIO:
    """A regular file, opened for reading; anything else is neither waited for nor even opened.

    Raises WeightsError if it is something else, OSError, and ValueError for a name that can't be.
    """
    if not isinstance(path, (str, os.PathLike)):
        return io.BytesIO(path.read_bytes())
    _check_regular(path, os.stat(path))
    file = open(path, "rb", opener=lambda name, flags: os.open(  # noqa: SIM115
        name, flags | getattr(os, "O_NONBLOCK", 0)))
    try:
        _check_regular(path, os.fstat(file.fileno()))             # it may have been replaced
    except WeightsError:
        file.close()
        raise
    return file


def _check_regular(path: File, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise WeightsError(f"{printable(path)}: is a folder, not a safetensors file")
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{printable(path)}: is not a regular file (a pipe, a socket, a device)")


def _contents(file: BinaryIO) -> mmap.mmap | bytes:
    """A file's bytes, mapped if that can be: some network file systems can't, and on Windows the
    file could be neither deleted nor replaced."""
    if not _READS_ALL:
        with suppress(OSError):
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.seek(0)
    return file.read()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in its header")


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
        with suppress(OSError, ValueError):                       # of locked pages: they stay
            owner.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)
