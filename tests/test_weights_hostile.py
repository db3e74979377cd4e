"""Files that are no sound safetensors: each gives a WeightsError that says what is wrong."""
from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from helpers import unprivileged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_weights import (
    assert_same_state,
    by_hand,
    entry,
    error_of,
    file_fixture,
    state_fixture,
    tiny_variants,
)

from npresnet import WeightsError, create_model, read_weights, write_weights
from npresnet.errors import printable

BAD_HEADERS = {
    "not JSON": (b"hello", b""),
    "no object": (b"[1]", b""),
    "NaN in JSON": (b'{"a":NaN}', b""),
    "UTF-16": ('{"a":1}'.encode("utf-16le"), b""),
    "no text": (b"\xff\xfe{}", b""),
    "nested deeply": (b'{"a":' * 5000, b""),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "unknown dtype": ({"a": entry("F31", [1], 0, 4)}, b"\0" * 4),
    "metadata not text": ({"__metadata__": {"a": 1}}, b""),
    "overlap": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, b"\0" * 6),
    "gap": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"\0" * 12),
    "beyond the end": ({"a": entry("F32", [4], 0, 16)}, b"\0" * 8),
    "far beyond the end": ({"a": entry("F32", [2**40], 0, 2**42)}, b"\0" * 8),
    "bytes left over": ({"a": entry("F32", [1], 0, 4)}, b"\0" * 9),
    "backwards": ({"a": entry("F32", [1], 4, 0)}, b"\0" * 4),
    "negative offset": ({"a": entry("F32", [1], -4, 0)}, b"\0" * 4),
    "negative shape": ({"a": entry("F32", [-1], 0, 4)}, b"\0" * 4),
    "fractional shape": ({"a": entry("F32", [1.5], 0, 6)}, b"\0" * 6),
    "shape and offsets differ": ({"a": entry("F32", [3], 0, 4)}, b"\0" * 4),
    "shape overflows": ({"a": entry("F32", [2**33, 2**33], 0, 0)}, b""),
    "shape overflows to nothing": ({"a": entry("F32", [0, 2**64 - 1], 0, 0)}, b""),
    "shape too large for nothing": ({"a": entry("F32", [0, 2**62], 0, 0)}, b""),
    "70 axes": ({"a": entry("F32", [1] * 70, 0, 4)}, b"\0" * 4),
}


@pytest.mark.parametrize("header, data", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_headers(tmp_path, header, data):
    path = by_hand(tmp_path / "a.safetensors", header, data)
    for call in (read_weights, lambda p: create_model("tiny", weights=p)):
        assert error_of(call, path).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_wrong_header_length(tmp_path, file, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    message = error_of(read_weights, path)
    assert message.startswith(f"{path}: is truncated") and len(message) < 300 + len(str(path))


def test_a_name_that_stands_twice_gives_one_of_the_two_or_an_error(tmp_path):
    one, two = (json.dumps(entry("F32", [1], 4 * i, 4 * i + 4)) for i in (0, 1))
    header = f'{{"a":{one},"a":{two}}}'.encode()
    path = by_hand(tmp_path / "a.safetensors", header, struct.pack("<ff", 1, 2))
    try:
        assert read_weights(path)["a"].tolist() in ([1], [2])
    except WeightsError as error:
        assert str(path) in str(error)


def test_not_a_weights_file_at_all(tmp_path, state):
    path = tmp_path / "a.safetensors"
    assert error_of(read_weights, path) == f"{path}: no such file"
    assert error_of(read_weights, tmp_path) == f"{tmp_path}: is a folder, not a safetensors file"
    path.touch()
    assert error_of(read_weights, path) == f"{path}: is empty"
    path.write_text("weights,go,here\n" * 9)
    message = error_of(read_weights, path)
    assert message == f"{path}: is truncated or not a safetensors file (144 bytes)"
    assert error_of(read_weights, path / "below").startswith(f"{path}/below: ")
    assert error_of(read_weights, "a" * 300) == "a" * 300 + ": can't be read (File name too long)"
    assert error_of(read_weights, "a\0b").startswith(r"a\x00b: ")
    tensors = {n: torch.from_numpy(a) for n, a in state.items()}
    for zipped in (True, False):
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        message = error_of(read_weights, path)
        assert message.startswith(f"{path}: is a PyTorch pickle") and "save_file" in message


def test_a_file_that_may_not_be_read(file):
    file.chmod(0)
    with unprivileged():
        message = error_of(read_weights, file)
    assert message == f"{file}: can't be read (Permission denied)"


def test_names_that_no_terminal_shows(tmp_path, file):
    for name in ("with space", "ünï☃", "two\nlines", os.fsdecode(b"\xff\xfe")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(file.read_bytes()[:-1])
        message = error_of(create_model, "tiny", weights=path)
        assert message.startswith(printable(path)) and "is truncated" in message


def test_truncated_anywhere(tmp_path, file):
    whole, path = file.read_bytes(), tmp_path / "cut.safetensors"
    size = len(whole)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (1, 7, 8, 9, header // 2, header - 1, header, header + 1, size // 2, size - 1):
        path.write_bytes(whole[:length])
        message = error_of(create_model, "tiny", weights=path)
        assert message.startswith(f"{path}: is truncated"), length


# --- anything at all ------------------------------------------------------------------------------

SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
         "b": np.array([1.5, -2], np.float16), "n": np.array(3)}
SHARE = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=6)  # (where, new byte)
CUT = st.one_of(st.none(), st.floats(0, 1))


@pytest.mark.slow
@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, CUT)
def test_any_damage_gives_arrays_or_a_weights_error(tmp_path, changes, cut):
    path = tmp_path / "a.safetensors"
    write_weights(path, SMALL)
    data = bytearray(path.read_bytes())
    for where, value in changes:
        data[int(where * len(data))] = value
    path.write_bytes(data if cut is None else data[:int(cut * len(data))])
    try:
        tensors = read_weights(path)
    except WeightsError as error:
        assert str(path) in str(error) and str(error).isprintable()
    else:
        for array in tensors.values():
            assert isinstance(array, np.ndarray)
            assert array.dtype.kind in "fiu" and not array.flags.writeable
        if not changes and cut in (None, 1.0):
            want = {n: a.astype(np.float32) if a.dtype == np.float16 else a
                    for n, a in SMALL.items()}
            assert_same_state(tensors, want)


JUNK = st.one_of(st.integers(-2**70, 2**70), st.none(), st.text(max_size=3), st.floats(),
                 st.lists(st.integers(-1, 2**65), max_size=3))
DTYPES = ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "", 1]
ENTRIES = st.fixed_dictionaries({
    "dtype": st.sampled_from(DTYPES),
    "shape": st.one_of(st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**63]), max_size=3), JUNK),
    "data_offsets": st.one_of(st.tuples(st.integers(0, 16), st.integers(0, 16)), JUNK)})
HEADERS = st.dictionaries(st.text(max_size=4), st.one_of(JUNK, ENTRIES), max_size=3)


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADERS, st.integers(0, 16))
def test_any_header_gives_arrays_or_a_weights_error(tmp_path, header, size):
    path = by_hand(tmp_path / "a.safetensors", header, bytes(size))
    try:
        tensors = read_weights(path)
    except WeightsError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
    else:
        assert set(tensors) <= set(header)
