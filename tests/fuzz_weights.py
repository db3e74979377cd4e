"""Weights files made wrong in every way that comes to mind, and what has to become of them."""
from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bytes import INTERESTING, damaged
from helpers import random_state
from safetensors import SafetensorError, safe_open

from npresnet import WeightsError, create_model, read_weights
from npresnet.graph import build_graph
from npresnet.variants import BASIC, VARIANTS, Variant

NAME = "weights"
TINY = Variant("fuzz", (1, 1, 1, 1), BASIC, width=1 / 64)          # 8 channels everywhere
# Peak memory of a case: a constant, and a multiple of the file's length.
CONSTANT, MULTIPLE = 24 << 20, 40
# Where npresnet refuses what the safetensors library takes, it has to say one of these.
STRICTER = ("a name stands twice", "expected float32, float16", "can't be an array",
            "its header is no")

OPTIONS: tuple[dict[str, Any], ...] = ({}, {}, {"in_chans": 1}, {"num_classes": 2},
                                       {"num_classes": 0, "in_chans": 4})
Header = dict[str, Any]


def prepare() -> list[bytes]:
    """Sound files, to be damaged."""
    VARIANTS["fuzz"] = TINY
    state = random_state(build_graph(TINY, num_classes=3).parameter_shapes(), seed=5)
    small = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1.5, -2], "f2"),
             "c": np.array(3), "d": np.zeros((0, 4), "f4"), "e": np.ones((3, 1, 2), "f8"),
             "stem.conv.weight": np.ones((1, 2), "f4")}
    one = {"head.fc.bias": np.ones(3, "f4")}
    return [file_of(state, code) for code in ("F32", "F16", "BF16", "F64")] + [
        file_of(small), file_of(small), file_of(small, "BF16"), file_of(one), file_of({})]


def file_of(state: dict[str, np.ndarray], code: str | None = None) -> bytes:
    """A sound file; `code` is the type of all floats in it, default each its own."""
    header: Header = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in state.items():
        own = {"f2": "F16", "f4": "F32", "f8": "F64", "i8": "I64"}[array.dtype.str[1:]]
        kind = code if code and array.dtype.kind == "f" else own
        raw = (array.astype("<f4").view("<u4") >> 16).astype("<u2") if kind == "BF16" else \
            array.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}[kind])
        header[name] = {"dtype": kind, "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + raw.nbytes]}
        data += raw.tobytes()
    return joined(json.dumps(header).encode(), data)


def joined(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def make(seeds: list[bytes], rng: random.Random) -> bytes:
    """One case."""
    seed = rng.choice(seeds)
    way = rng.random()
    if way < 0.4:
        return damaged(seed, rng, rng.choice(seeds))
    length = struct.unpack("<Q", seed[:8])[0]
    header, data = json.loads(seed[8:8 + length]), seed[8 + length:]
    if way < 0.5:
        return joined(seed[8:8 + length], _other_numbers(data, rng))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        header, data = rng.choice(SURGERY)(header, data, rng)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        text = rng.choice(TEXT)(text, rng)
    wrong = rng.random() < 0.08
    return joined(text, data, len(text) + rng.randint(-9, 9) & 2**64 - 1 if wrong else None)


def _other_numbers(data: bytes, rng: random.Random) -> bytes:
    """Sound as a file; NaN, Inf, negative variances, anything."""
    spoilt = bytearray(data)
    values = (np.float32("nan"), np.float32("inf"), np.float32(-1), np.float16("nan"),
              np.float64(1e300), np.int64(-1))
    for _ in range(rng.randrange(1, 20)):
        raw = rng.choice((rng.choice(values).tobytes(), rng.randbytes(8)))
        at = rng.randrange(len(spoilt) // 4 + 1) * 4
        spoilt[at:at + len(raw)] = raw[:len(spoilt) - at]
    return bytes(spoilt)


# --- surgery on the header ------------------------------------------------------------------------

CODES = ("F32", "F16", "BF16", "F64", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL",
         "F8_E4M3", "F8_E5M2", "F4", "C64", "f32", "", "F32 ", "\U0001f600", "F" * 500)
JUNK: tuple[Any, ...] = (None, True, -1, 1.5, 1e400, "x", [], {}, [[]], "__metadata__",
                         float("nan"), 10**30, [1, 2, 3],
                         {"dtype": "F32", "shape": [], "data_offsets": [0, 4]})
NAMES = ("", "a", "__metadata__", "dtype", "head.fc.weight", "stem.conv.weight", "x" * 2000,
         "\u202e\n\x1b[31m", "\ud800", "norm.weight", "é" * 50)


def _junk(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(JUNK))                        # what is done to it stays here


def _pick(header: Header, rng: random.Random) -> str:
    return rng.choice(list(header) or ["a"])


def _change_field(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    entry = header.get(_pick(header, rng))
    if isinstance(entry, dict) and entry:
        field = rng.choice(list(entry))
        entry[field] = rng.choice(CODES) if rng.random() < 0.5 else _junk(rng)
        if rng.random() < 0.2:
            del entry[field]
    return header, data


def _change_number(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    """In a shape or among offsets."""
    entry = header.get(_pick(header, rng))
    field = rng.choice(("shape", "data_offsets"))
    if isinstance(entry, dict) and isinstance(entry.get(field), list) and entry[field]:
        at = rng.randrange(len(entry[field]))
        old = entry[field][at]
        near = old + rng.choice((-8, -4, -1, 1, 4, 8)) if isinstance(old, int) else 0
        entry[field][at] = rng.choice((near, rng.choice(INTERESTING), _junk(rng)))
    return header, data


def _change_rank(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    entry = header.get(_pick(header, rng))
    if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
        extra = [rng.choice((1, 1, 1, 0, 2**63))] * rng.choice((1, 2, 31, 32, 60, 64, 65, 3000))
        entry["shape"] = rng.choice((entry["shape"] + extra, extra + entry["shape"], extra, []))
    return header, data


def _exchange(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    one, two = _pick(header, rng), _pick(header, rng)
    if one in header and two in header:
        header[one], header[two] = header[two], header[one]
    return header, data


def _drop(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    header.pop(_pick(header, rng), None)
    return header, data


def _rename(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    if header:
        header[rng.choice(NAMES)] = header.pop(_pick(header, rng))
    return header, data


def _add(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    """Tensors, at the end or anywhere, of which none, one or a thousand are there."""
    code, size = rng.choice((("F32", 4), ("F16", 2), ("U8", 1), ("BOOL", 1), ("I64", 8)))
    for i in range(rng.choice((1, 1, 2, 1000))):
        begin = len(data) if rng.random() < 0.9 else rng.choice(INTERESTING)
        count = rng.choice((0, 1, 3))
        header[f"{rng.choice(NAMES)}{i}"] = {"dtype": code, "shape": [count],
                                             "data_offsets": [begin, begin + count * size]}
        data += bytes(count * size)
    return header, data


def _add_junk(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    header[rng.choice(NAMES)] = _junk(rng)
    return header, data


def _sparse(header: Header, data: bytes, rng: random.Random) -> tuple[Header, bytes]:
    """Many zeros, as many as the header says or other than it."""
    header["more"] = {"dtype": rng.choice(("F32", "F16", "BF16")), "shape": [2**16],
                      "data_offsets": [len(data), len(data) + 2**17]}
    return header, data + bytes(2**17)


SURGERY = (_change_field, _change_number, _change_number, _change_number, _change_rank, _exchange,
           _drop, _rename, _add, _add, _add_junk, _sparse)


# --- and on its text ------------------------------------------------------------------------------


def _deep(text: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((100, 1000, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return b'{"a":' + opening * depth + closing * rng.choice((0, depth)) + b"}"


def _twice(text: bytes, rng: random.Random) -> bytes:
    return text[:-1] + b"," + text[1:] if len(text) > 2 else text


def _not_utf8(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800")) + text[at:]


def _spaces(text: bytes, rng: random.Random) -> bytes:
    return rng.choice((b" " + text, text + b" " * 5000, b"\xef\xbb\xbf" + text, text + b"\0",
                       text.decode("utf-8", "replace").encode("utf-16"), b"[" + text + b"]"))


def _long_number(text: bytes, rng: random.Random) -> bytes:
    number = rng.choice((b"9" * 4000, b"9" * 5000, b"-0", b"0.0", b"1e2", b"00"))
    return text.replace(b"0", number, 1)


TEXT = (_deep, _twice, _not_utf8, _spaces, _long_number)


# --- what has to become of it ---------------------------------------------------------------------


def check(path: Path) -> str:
    """Read the file; "taken", or why it isn't. Raises AssertionError for anything else."""
    try:
        tensors = read_weights(path)
    except WeightsError as error:
        why = message_of(error, path)
        tensors = None
    if tensors is not None:
        for array in tensors.values():
            assert array.dtype.kind in "fi" + "u" and not array.flags.writeable
    try:
        options = OPTIONS[path.stat().st_size % len(OPTIONS)]
        model = create_model("fuzz", weights=path, backend="numpy", **options)
        assert tensors is not None, "a model loads what can't be read"
        for array in model.state_dict().values():
            assert np.isfinite(array).all()
    except WeightsError as error:
        message_of(error, path)
        model = None
    hold_against_the_library(path, tensors, "" if tensors is not None else why)
    if tensors is None:
        return "no sound file"
    return "read, no model" if model is None else "a model"


def message_of(error: Exception, path: Path) -> str:
    text = str(error)
    assert text.startswith(f"{path}: ") and text.isprintable(), text
    assert len(text) - len(str(path)) < 450, text
    return text


def hold_against_the_library(path: Path, tensors: dict[str, np.ndarray] | None, why: str) -> None:
    """npresnet takes nothing that the safetensors library refuses, and the other way round but for
    what it says."""
    try:
        with safe_open(path, framework="np") as file:
            names = set(file.keys())
            if tensors is not None:
                assert names == set(tensors)
                for name in list(names)[:3]:
                    if file.get_slice(name).get_dtype() in ("F32", "I64"):
                        assert file.get_tensor(name).tobytes() == tensors[name].tobytes(), name
    except (SafetensorError, OSError) as error:
        minus_zero = b"-0" in path.read_bytes()                   # no integer for the library
        assert tensors is None or minus_zero, f"read, but the library says {error}"
        return
    assert tensors is not None or any(word in why for word in STRICTER), \
        f"the library takes it, npresnet says {why}"
