"""Weights in and out: what loads must equal PyTorch's own reading of it; what can't be used must say why, and leave the model as it was."""
from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import assert_close, random_pictures, random_state, unprivileged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_twin import TorchResNetV2, randomise

from npresnet import WeightsError, create_model, demo, read_weights, write_weights
from npresnet.errors import printable
from npresnet.model import ResNetV2
from npresnet.variants import BASIC, VARIANTS, Variant, parameter_shapes, pretrained_cfg
from npresnet.weights import check_weights

TINY = Variant("tiny", (1, 1, 1, 1), BASIC, width=0.125)
OTHER = Variant("other", (2, 1, 1, 1), width=0.125)
CLASSES = 4
X = random_pictures(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def tiny_variants(monkeypatch):
    """Two small networks that `create_model` and the hints know by name."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "other", OTHER)


@pytest.fixture
def state():
    """A state dict of the tiny network, random, the caller's to change."""
    return random_state(parameter_shapes(TINY, num_classes=CLASSES), seed=1)


@pytest.fixture
def file(tmp_path, state):
    """The same as a file."""
    write_weights(tmp_path / "tiny.safetensors", state)
    return tmp_path / "tiny.safetensors"


def tiny_model(**options) -> ResNetV2:
    return ResNetV2(TINY, pretrained_cfg(TINY, "untrained"), **{"num_classes": CLASSES} | options)


def tiny_twin(**options) -> TorchResNetV2:
    return TorchResNetV2((1, 1, 1, 1), basic=True, width=0.125, **{"num_classes": CLASSES} | options).eval()


def by_hand(path: Path, header, data: bytes = b"") -> Path:
    """A safetensors file from its parts, right or wrong. header: bytes as they are, or what becomes JSON."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype: str, shape, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def assert_same_state(got, want):
    assert set(got) == set(want)
    for name in want:
        assert got[name].dtype == want[name].dtype and got[name].shape == want[name].shape, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def error_of(call, *args, **kwargs) -> str:
    """The message of the WeightsError that the call raises: one printable line."""
    with pytest.raises(WeightsError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable() and message == message.strip(), repr(message)
    return message


# --- round trips --------------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_with_the_same_numbers(tmp_path, state):
    model = tiny_model()
    model.load_state_dict(state)
    model.save(tmp_path / "a.safetensors")
    again = create_model("tiny", weights=tmp_path / "a.safetensors")
    assert again.num_classes == CLASSES
    assert_same_state(again.state_dict(), model.state_dict())
    np.testing.assert_array_equal(again(X), model(X))
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_pytorch_loads_what_was_saved(tmp_path, state):
    model = tiny_model()
    model.load_state_dict(state)
    model.save(tmp_path / "a.safetensors")
    twin = tiny_twin()
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "a.safetensors"), strict=True)
    with torch.no_grad():
        assert_close("logits", model(X), twin(torch.from_numpy(X)).numpy(), 5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_converted_as_pytorch_converts_it(tmp_path, dtype):
    twin = randomise(tiny_twin(), seed=2).double()
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in twin.state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    got = create_model("tiny", weights=tmp_path / "a.safetensors").state_dict()
    want = {n: t.float().numpy() if t.is_floating_point() else t.numpy() for n, t in tensors.items()}
    assert_same_state(got, want)
    assert not any(array.flags.writeable for array in got.values())


def test_every_bit_pattern_of_the_half_types(tmp_path):
    for dtype in (torch.float16, torch.bfloat16):
        bits = torch.arange(-2**15, 2**15, dtype=torch.int16).view(dtype)
        safetensors.torch.save_file({"a": bits}, tmp_path / "a.safetensors")
        np.testing.assert_array_equal(read_weights(tmp_path / "a.safetensors")["a"], bits.float().numpy())


def test_float64_between_two_float32_rounds_to_even_and_tiny_ones_stay(tmp_path):
    values = torch.tensor([1 + 2**-24, 1 + 3 * 2**-24, 1e-42, -1e-50, 3.4028234e38], dtype=torch.float64)
    safetensors.torch.save_file({"a": values}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_weights(tmp_path / "a.safetensors")["a"], values.float().numpy())


def test_the_order_in_the_file_and_its_metadata_do_not_matter(tmp_path, state):
    names = sorted(state, reverse=True)
    write_weights(tmp_path / "a.safetensors", {name: state[name] for name in names}, metadata={"note": "any\nthing"})
    assert_same_state(create_model("tiny", weights=tmp_path / "a.safetensors").state_dict(), tiny_state(state))


def tiny_state(state) -> dict:
    """`state` as a tiny model gives it back."""
    model = tiny_model()
    model.load_state_dict(state)
    return model.state_dict()


def test_tensors_anywhere_in_the_file(tmp_path, state):
    """Bytes in front push every tensor to an odd address; names don't stand in the order of the bytes."""
    header, data = {"pad": entry("U8", [1], 0, 1)}, b"\7"
    for name, array in state.items():
        header[name] = entry("I64" if array.dtype.kind == "i" else "F32", array.shape, len(data), len(data) + array.nbytes)
        data += array.tobytes()
    path = by_hand(tmp_path / "a.safetensors", dict(sorted(header.items(), reverse=True)), data)
    tensors = read_weights(path)
    assert tensors.pop("pad").tolist() == [7]
    assert all(array.flags.aligned and array.flags.c_contiguous for array in tensors.values())
    assert_same_state(check_weights(tensors, parameter_shapes(TINY, num_classes=CLASSES), str(path)), tiny_state(state))


def test_odd_but_sound_files(tmp_path):
    path = tmp_path / "a.safetensors"
    assert read_weights(by_hand(path, {})) == {}
    assert read_weights(by_hand(path, {"__metadata__": {"a": "b"}})) == {}
    assert read_weights(by_hand(path, {"a": entry("F32", [0, 3], 0, 0)}))["a"].shape == (0, 3)
    assert read_weights(by_hand(path, {"b": entry("F32", [], 0, 4), "a": entry("F32", [0], 4, 4)}, b"\0\0\x80\x3f"))["b"] == 1
    integers = read_weights(by_hand(path, {"a": entry("I32", [1], 0, 4)}, b"\5\0\0\0"))["a"]
    assert integers.tolist() == [5] and integers.dtype.kind == "i"


def test_counters_may_be_missing(tmp_path, state):
    floats = {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")}
    write_weights(tmp_path / "a.safetensors", floats)
    model = create_model("tiny", weights=tmp_path / "a.safetensors")
    assert model.state_dict()["norm.num_batches_tracked"].shape == ()
    assert model.load_state_dict(floats).missing_keys == []
    tiny_twin().load_state_dict({n: torch.from_numpy(a.copy()) for n, a in model.state_dict().items()}, strict=True)


def test_the_demo_ships_sound():
    assert create_model("demo").num_classes == 10


# --- tensors that don't fit -----------------------------------------------------------------------------------------------------

SOME = ["stem.conv.weight", "stages.0.blocks.0.norm1.running_var", "stages.3.blocks.0.conv2.weight", "norm.bias", "head.fc.bias"]


@pytest.mark.parametrize("name", SOME)
def test_a_missing_tensor(tmp_path, state, name):
    del state[name]
    write_weights(tmp_path / "a.safetensors", state)
    assert error_of(create_model, "tiny", weights=tmp_path / "a.safetensors") == f"{tmp_path}/a.safetensors: missing tensor {name}"
    assert error_of(tiny_model().load_state_dict, state) == f"state dict: missing tensor {name}"


def test_many_missing_tensors_are_counted(tmp_path):
    message = error_of(create_model, "tiny", weights=by_hand(tmp_path / "a.safetensors", {}))
    assert "missing tensor stem.conv.weight, " in message and message.endswith(" more") and len(message) < 300 + len(str(tmp_path))


def test_an_unexpected_tensor(tmp_path, state):
    state["stages.9.conv.weight"] = np.ones(3, np.float32)
    write_weights(tmp_path / "a.safetensors", state)
    assert error_of(create_model, "tiny", weights=tmp_path / "a.safetensors") == \
        f"{tmp_path}/a.safetensors: unexpected tensor stages.9.conv.weight"


def test_names_of_a_hostile_file_stay_on_one_line(tmp_path, state):
    message = error_of(tiny_model().load_state_dict, state | {"a\n\x1b[31mb\u202e": state["norm.bias"]})
    assert message == r"state dict: unexpected tensor a\n\x1b[31mb\u202e"
    assert len(error_of(tiny_model().load_state_dict, state | {"a" * 10**6: state["norm.bias"]})) < 10**4
    message = error_of(read_weights, by_hand(tmp_path / "x.safetensors", {"a\n\x1b[31mb": entry("BOOL", [1], 0, 1)}, b"\0"))
    assert r"a\n\x1b[31mb" in message


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[None], lambda a: a.ravel()[:1].reshape(()),
                                    lambda a: np.concatenate([a, a])])
def test_a_mis_shaped_tensor(tmp_path, state, name, change):
    wanted, state[name] = state[name].shape, change(state[name])
    write_weights(tmp_path / "a.safetensors", state)
    message = error_of(create_model, "tiny", weights=tmp_path / "a.safetensors")
    assert message.startswith(f"{tmp_path}/a.safetensors: {'head.fc' if name == 'head.fc.bias' else name}")
    assert error_of(tiny_model().load_state_dict, state) == \
        f"state dict: {name}: expected shape {wanted}, found {state[name].shape}"


def test_a_transposed_classifier_of_the_right_size_is_refused(state):
    state["head.fc.weight"] = state["head.fc.weight"].transpose(1, 0, 2, 3)
    assert "head.fc.weight: expected shape (4, 64, 1, 1), found (64, 4, 1, 1)" in error_of(tiny_model().load_state_dict, state)


@pytest.mark.parametrize("dtype, size, found", [("I32", 4, "int32"), ("I64", 8, "int64"), ("U8", 1, "uint8"), ("BOOL", 1, "BOOL"),
                                                ("F8_E4M3", 1, "F8_E4M3"), ("F8_E5M2", 1, "F8_E5M2"), ("U16", 2, "U16"),
                                                ("C64", 8, "C64")])
def test_a_tensor_of_another_type(tmp_path, state, dtype, size, found):
    header, data = {}, b""
    for name, array in state.items():
        raw = bytes(size * array.size) if name == "norm.bias" else array.tobytes()
        kind = dtype if name == "norm.bias" else "I64" if array.dtype.kind == "i" else "F32"
        header[name], data = entry(kind, array.shape, len(data), len(data) + len(raw)), data + raw
    message = error_of(create_model, "tiny", weights=by_hand(tmp_path / "a.safetensors", header, data))
    assert message.startswith(f"{tmp_path}/a.safetensors: norm.bias: expected ") and message.endswith(f"found {found}")


@pytest.mark.parametrize("value, found", [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", SOME)
def test_nan_and_inf(tmp_path, state, name, value, found, dtype):
    state = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in state.items()}
    state[name].flat[-1] = value
    write_weights(tmp_path / "a.safetensors", state)
    message = error_of(create_model, "tiny", weights=tmp_path / "a.safetensors")
    assert message.startswith(f"{tmp_path}/a.safetensors: {name}: expected finite numbers, found {found}")
    assert f"{name}: expected finite numbers, found {found}" in error_of(tiny_model().load_state_dict, state)


def test_a_float64_too_large_for_float32(state):
    state["norm.bias"] = state["norm.bias"].astype(np.float64)
    state["norm.bias"][3] = 1e39
    assert "norm.bias: expected finite numbers, found Inf (or a number too large for float32)" in \
        error_of(tiny_model().load_state_dict, state)


def test_a_negative_variance(tmp_path, state):
    state["norm.running_var"][5] = -0.25
    write_weights(tmp_path / "a.safetensors", state)
    assert error_of(create_model, "tiny", weights=tmp_path / "a.safetensors") == \
        f"{tmp_path}/a.safetensors: norm.running_var: expected variances, found -0.25"
    state["norm.running_var"][5] = 0                                                      # a dead channel is none of our business
    tiny_model().load_state_dict(state)


@pytest.mark.parametrize("value", [[[1.0], [1.0, 2.0]], "text", None, object(), np.zeros(64, bool), np.zeros(64, np.complex64),
                                   np.zeros(64, "f4,f4"), torch.zeros(64, dtype=torch.bfloat16), torch.zeros(64, requires_grad=True)])
def test_what_is_no_array_of_numbers(state, value):
    assert "norm.bias: expected" in error_of(tiny_model().load_state_dict, state | {"norm.bias": value})


@pytest.mark.parametrize("value", [np.array("7"), np.array(1.5), np.array(np.nan), np.zeros(3, np.int64)])
def test_a_counter_that_does_not_count(state, value):
    assert "norm.num_batches_tracked: expected" in error_of(tiny_model().load_state_dict, state | {"norm.num_batches_tracked": value})


# --- hints ------------------------------------------------------------------------------------------------------------------------


def test_the_message_names_the_variant_that_the_file_looks_like(tmp_path, file):
    assert error_of(create_model, "other", weights=file).endswith("; the file looks like tiny")
    create_model("other", num_classes=7).save(tmp_path / "o.safetensors")
    assert error_of(create_model, "tiny", weights=tmp_path / "o.safetensors").endswith("; the file looks like other")
    message = error_of(create_model, "resnetv2_18", weights=demo.WEIGHTS)
    assert message.endswith("; the file looks like demo")
    assert "looks like" not in error_of(tiny_model().load_state_dict, {"a": X})


def test_no_hint_to_the_variant_that_was_asked_for(file):
    message = error_of(tiny_model(num_classes=9).load_state_dict, read_weights(file))
    assert message == "state dict: head.fc.weight: expected shape (9, 64, 1, 1), found (4, 64, 1, 1)"


# --- files that are no safetensors --------------------------------------------------------------------------------------------------

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
    path = by_hand(tmp_path / "a.safetensors", f'{{"a":{one},"a":{two}}}'.encode(), struct.pack("<ff", 1, 2))
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
    assert error_of(read_weights, path) == f"{path}: is truncated or not a safetensors file (144 bytes)"
    assert error_of(read_weights, path / "below").startswith(f"{path}/below: ")
    assert error_of(read_weights, "a" * 300) == "a" * 300 + ": can't be read (File name too long)"
    assert error_of(read_weights, "a\0b").startswith(r"a\x00b: ")
    for zipped in (True, False):
        torch.save({n: torch.from_numpy(a) for n, a in state.items()}, path, _use_new_zipfile_serialization=zipped)
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
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert error_of(create_model, "tiny", weights=path).startswith(f"{path}: is truncated"), length


SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.5, -2], np.float16), "n": np.array(3)}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6), st.one_of(st.none(), st.floats(0, 1)))
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
        assert all(isinstance(a, np.ndarray) and a.dtype.kind in "fiu" and not a.flags.writeable for a in tensors.values())
        if not changes and cut in (None, 1.0):
            assert_same_state(tensors, {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in SMALL.items()})


JUNK = st.one_of(st.integers(-2**70, 2**70), st.none(), st.text(max_size=3), st.floats(), st.lists(st.integers(-1, 2**65), max_size=3))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=4), st.one_of(JUNK, st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "", 1]),
    "shape": st.one_of(st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**63]), max_size=3), JUNK),
    "data_offsets": st.one_of(st.tuples(st.integers(0, 16), st.integers(0, 16)), JUNK)})), max_size=3), st.integers(0, 16))
def test_any_header_gives_arrays_or_a_weights_error(tmp_path, header, size):
    path = by_hand(tmp_path / "a.safetensors", header, bytes(size))
    try:
        tensors = read_weights(path)
    except WeightsError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
    else:
        assert set(tensors) <= set(header)


# --- load_state_dict ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [lambda s: s.pop("head.fc.bias"), lambda s: s.update(extra=X),
                                   lambda s: s.update({"head.fc.bias": np.zeros(5, np.float32)}),
                                   lambda s: s.update({"head.fc.bias": np.full(CLASSES, np.nan, np.float32)}),
                                   lambda s: s.update({"head.fc.bias": np.zeros(CLASSES, np.int64)})])
@pytest.mark.parametrize("strict", [True, False])
def test_nothing_is_half_loaded(state, spoil, strict):
    model = tiny_model(seed=7)
    before, logits = {n: a.copy() for n, a in model.state_dict().items()}, model(X)
    spoil(state)
    fits_loosely = not strict and ("head.fc.bias" not in state or "extra" in state)
    if fits_loosely:
        model.load_state_dict(state, strict=False)
        return
    error_of(model.load_state_dict, state, strict=strict)
    assert_same_state(model.state_dict(), before)
    np.testing.assert_array_equal(model(X), logits)


def test_not_strict_takes_what_is_there(state):
    model = tiny_model(seed=7)
    bias = model.state_dict()["head.fc.bias"]
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    for name in ("head.fc.bias", "norm.weight", *counters):
        del state[name]
    found = model.load_state_dict(state | {"extra": X, "more": X}, strict=False)
    assert found == (["norm.weight", "head.fc.bias"], ["extra", "more"])
    np.testing.assert_array_equal(model.state_dict()["stem.conv.weight"], state["stem.conv.weight"])
    np.testing.assert_array_equal(model.state_dict()["head.fc.bias"], bias)
    assert set(model.state_dict()) == set(parameter_shapes(TINY, num_classes=CLASSES))
    assert tiny_model().load_state_dict({}, strict=False).unexpected_keys == []


def backwards(array):
    return np.ascontiguousarray(array[::-1])[::-1]


def unaligned(array):
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, array.size, 1).reshape(array.shape)


def read_only(array, order="C"):
    array = array.copy(order)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("form", [read_only, np.asfortranarray, backwards, unaligned, np.float64, torch.from_numpy,
                                  lambda a: np.repeat(a, 2, -1)[..., ::2], lambda a: a.astype(a.dtype.newbyteorder(">")),
                                  lambda a: a.tolist(), np.ma.masked_array, lambda a: read_only(a, "F")],
                         ids=["read-only", "fortran", "reversed", "unaligned", "float64", "torch", "every second", "big-endian", "lists",
                              "masked", "fortran read-only"])
def test_arrays_of_any_make(tmp_path, state, form):
    want = tiny_state(state)
    model = tiny_model()
    model.load_state_dict({n: form(a) if a.ndim and a.dtype.kind == "f" else a for n, a in state.items()})
    assert_same_state(model.state_dict(), want)
    assert all(a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative and type(a) is np.ndarray
               for a in model.state_dict().values())
    model.save(tmp_path / "a.safetensors")
    assert_same_state(read_weights(tmp_path / "a.safetensors"), want)


def test_what_the_caller_does_later_leaves_the_model_alone(state):
    views = {n: a.view() for n, a in state.items()}
    for view in views.values():
        view.flags.writeable = False
    broadcast = {n: np.broadcast_to(a, a.shape) for n, a in state.items()}
    shared = {n: torch.from_numpy(a) for n, a in state.items()}
    lent = {n: np.frombuffer(memoryview(a).cast("B").toreadonly(), a.dtype).reshape(a.shape) for n, a in state.items()}
    models = [tiny_model() for _ in range(5)]
    for model, given_state in zip(models, (state, views, broadcast, shared, lent)):
        model.load_state_dict(given_state)
    want = models[0](X)
    for array in state.values():
        array[...] = 99
    for model in models:
        np.testing.assert_array_equal(model(X), want)
        assert model.state_dict()["norm.num_batches_tracked"] == 1


def test_the_callers_arrays_are_left_alone(state):
    before = {n: a.copy() for n, a in state.items()}
    tiny_model().load_state_dict(state)
    assert_same_state(state, before)
    assert all(a.flags.writeable for a in state.values())


def test_what_state_dict_gives_can_not_change_the_model():
    model = tiny_model()
    given_out = model.state_dict()
    with pytest.raises(ValueError, match="read-only"):
        given_out["norm.bias"][0] = 1
    del given_out["norm.bias"]
    assert "norm.bias" in model.state_dict()


def test_float32_files_are_mapped_not_copied(file):
    array = create_model("tiny", weights=file).state_dict()["stem.conv.weight"]
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.base is not None and memoryview(array.base).readonly


# --- saving -------------------------------------------------------------------------------------------------------------------------


def test_saving_where_one_can_not(tmp_path, monkeypatch):
    model = tiny_model()
    nowhere = tmp_path / "missing" / "a.safetensors"
    assert error_of(model.save, nowhere) == f"{nowhere}: can't be written (No such file or directory)"
    (tmp_path / "folder").mkdir()
    assert error_of(model.save, tmp_path / "folder").startswith(f"{tmp_path}/folder: can't be written")
    (tmp_path / "file").touch()
    assert error_of(model.save, tmp_path / "file" / "a").startswith(f"{tmp_path}/file/a: can't be written")
    monkeypatch.chdir(tmp_path)
    for odd in ("", ".", "a" * 300):
        assert "can't be written" in error_of(model.save, odd)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_saving_into_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with unprivileged():
        message = error_of(tiny_model().save, tmp_path / "a.safetensors")
    assert message == f"{tmp_path}/a.safetensors: can't be written (Permission denied)"


def test_a_name_as_long_as_it_may_be(tmp_path):
    tiny_model().save(tmp_path / ("a" * 255))
    assert [len(p.name) for p in tmp_path.iterdir()] == [255]


def test_saving_is_all_or_nothing(tmp_path, file, monkeypatch):
    """A disk that fills up half way leaves the old file and no other."""
    before = file.read_bytes()

    def full(self, data):
        with open(self, "wb") as half:
            half.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert error_of(tiny_model().save, file) == f"{file}: can't be written (No space left on device)"
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_overwriting_the_file_that_a_model_is_mapped_from(file):
    model = create_model("tiny", weights=file)
    want = model(X)
    model.save(file)
    np.testing.assert_array_equal(model(X), want)
    tiny_model(seed=3).save(file)
    np.testing.assert_array_equal(model(X), want)
    np.testing.assert_array_equal(create_model("tiny", weights=file)(X), tiny_model(seed=3)(X))


def test_two_threads_may_save_the_same_file(tmp_path):
    models = [tiny_model(seed=seed) for seed in (1, 2)]
    threads = [threading.Thread(target=lambda m=m: [m.save(tmp_path / "a.safetensors") for _ in range(10)]) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    logits = create_model("tiny", weights=tmp_path / "a.safetensors")(X)
    assert any(np.array_equal(logits, m(X)) for m in models)


# --- another classifier, other channels -----------------------------------------------------------------------------------------------


def trunk(model):
    return {n: a for n, a in model.state_dict().items() if not n.startswith("head.")}


def test_another_number_of_classes_keeps_the_trunk_and_warns(file):
    whole = create_model("tiny", weights=file)
    with pytest.warns(UserWarning, match=r"tiny\.safetensors has 4 classes, 7 were asked for: the classifier is randomly initialised"):
        model = create_model("tiny", weights=file, num_classes=7)
    assert model.num_classes == 7 and model(X).shape == (2, 7)
    assert_same_state(trunk(model), trunk(whole))
    assert np.abs(model.state_dict()["head.fc.weight"]).max() > 0 and not model.state_dict()["head.fc.bias"].any()


@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_the_files_own_classifier_is_kept(file, num_classes, recwarn):
    model = create_model("tiny", weights=file, num_classes=num_classes)
    np.testing.assert_array_equal(model.state_dict()["head.fc.weight"], read_weights(file)["head.fc.weight"])
    assert model.pretrained_cfg["num_classes"] == CLASSES and not recwarn


def test_embeddings_and_feature_maps_need_no_classifier(tmp_path, file, state, recwarn):
    whole = create_model("tiny", weights=file)
    bare = tmp_path / "bare.safetensors"
    write_weights(bare, {n: a for n, a in state.items() if not n.startswith("head.")})
    for path in (file, bare):
        model = create_model("tiny", weights=path, num_classes=0)
        assert_same_state(model.state_dict(), trunk(whole))
        np.testing.assert_array_equal(model(X), whole.forward_head(whole.forward_features(X), pre_logits=True))
        maps = create_model("tiny", weights=path, features_only=True)(X)
        np.testing.assert_array_equal(maps[-1], whole.forward_intermediates(X, intermediates_only=True)[-1])
    assert not recwarn
    assert error_of(create_model, "tiny", weights=bare) == \
        f"{bare}: missing tensor head.fc.weight, head.fc.bias; it has no classifier: give num_classes=0 for embeddings"
    with pytest.warns(UserWarning, match="randomly initialised"):
        assert create_model("tiny", weights=bare, num_classes=3)(X).shape == (2, 3)


def test_a_grey_picture_gives_what_its_rgb_copy_gives(file):
    grey = X[:, :1]
    want = create_model("tiny", weights=file)(np.repeat(grey, 3, axis=1))
    assert_close("logits", create_model("tiny", weights=file, in_chans=1)(grey), want, 1e-6)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
def test_weights_for_three_channels_are_adapted_as_timm_does(file, in_chans):
    rgb = torch.from_numpy(read_weights(file)["stem.conv.weight"].copy())
    want = rgb.sum(1, keepdim=True) if in_chans == 1 else rgb.repeat(1, 3, 1, 1)[:, :in_chans] * (3 / in_chans)
    model = create_model("tiny", weights=file, in_chans=in_chans)
    assert_close("stem", model.state_dict()["stem.conv.weight"], want.numpy(), 1e-6)
    assert model(random_pictures(1, in_chans, 32, 32)).shape == (1, CLASSES)


def test_weights_made_for_four_channels_load_as_they_are(tmp_path):
    model = tiny_model(in_chans=4)
    model.save(tmp_path / "a.safetensors")
    again = create_model("tiny", weights=tmp_path / "a.safetensors", in_chans=4)
    assert_same_state(again.state_dict(), model.state_dict())
    assert "stem.conv.weight: expected shape (8, 3, 7, 7), found (8, 4, 7, 7)" in \
        error_of(create_model, "tiny", weights=tmp_path / "a.safetensors")


# --- copies -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, *[lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (2, 5)]],
                         ids=["copy", "deepcopy", "pickle 2", "pickle 5"])
def test_copies_are_whole_and_apart(file, clone):
    model = create_model("tiny", weights=file, out_indices=None)
    twin = clone(model)
    np.testing.assert_array_equal(twin(X), model(X))
    assert_same_state(twin.state_dict(), model.state_dict())
    assert twin.pretrained_cfg == model.pretrained_cfg and twin.feature_info.channels() == model.feature_info.channels()
    assert not any(a.flags.writeable for a in twin.state_dict().values())
    want = model(X)
    twin.load_state_dict(tiny_model(seed=5).state_dict())
    np.testing.assert_array_equal(model(X), want)
    twin.reset_classifier(2)
    assert twin(X).shape == (2, 2) and model(X).shape == (2, CLASSES)


def test_a_pickle_outlives_its_file(file):
    model = create_model("tiny", weights=file)
    want, data = model(X), pickle.dumps(model)
    file.unlink()
    np.testing.assert_array_equal(pickle.loads(data)(X), want)
    np.testing.assert_array_equal(model(X), want)
