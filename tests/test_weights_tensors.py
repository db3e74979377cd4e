"""Tensors that don't fit a model: the message says which, what was expected, and what was found."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_weights import (
    X,
    by_hand,
    entry,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_variants,
)

from npresnet import create_model, demo, read_weights, write_weights

SOME = ["stem.conv.weight", "stages.0.blocks.0.norm1.running_var", "stages.3.blocks.0.conv2.weight",
        "norm.bias", "head.fc.bias"]


@pytest.mark.parametrize("name", SOME)
def test_a_missing_tensor(tmp_path, state, name):
    path = tmp_path / "a.safetensors"
    del state[name]
    write_weights(path, state)
    assert error_of(create_model, "tiny", weights=path) == f"{path}: missing tensor {name}"
    assert error_of(tiny_model().load_state_dict, state) == f"state dict: missing tensor {name}"


def test_many_missing_tensors_are_counted(tmp_path):
    message = error_of(create_model, "tiny", weights=by_hand(tmp_path / "a.safetensors", {}))
    assert "missing tensor stem.conv.weight, " in message and message.endswith(" more")
    assert len(message) < 300 + len(str(tmp_path))


def test_an_unexpected_tensor(tmp_path, state):
    path = tmp_path / "a.safetensors"
    state["stages.9.conv.weight"] = np.ones(3, np.float32)
    write_weights(path, state)
    message = error_of(create_model, "tiny", weights=path)
    assert message == f"{path}: unexpected tensor stages.9.conv.weight"


def test_names_of_a_hostile_file_stay_on_one_line(tmp_path, state):
    bias = state["norm.bias"]
    message = error_of(tiny_model().load_state_dict, state | {"a\n\x1b[31mb\u202e": bias})
    assert message == r"state dict: unexpected tensor a\n\x1b[31mb\u202e"
    assert len(error_of(tiny_model().load_state_dict, state | {"a" * 10**6: bias})) < 10**4
    header = {"a\n\x1b[31mb": entry("BOOL", [1], 0, 1)}
    message = error_of(read_weights, by_hand(tmp_path / "x.safetensors", header, b"\0"))
    assert r"a\n\x1b[31mb" in message


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[None],
                                    lambda a: a.ravel()[:1].reshape(()),
                                    lambda a: np.concatenate([a, a])])
def test_a_mis_shaped_tensor(tmp_path, state, name, change):
    path = tmp_path / "a.safetensors"
    wanted, state[name] = state[name].shape, change(state[name])
    write_weights(path, state)
    message = error_of(create_model, "tiny", weights=path)
    assert message.startswith(f"{path}: {'head.fc' if name == 'head.fc.bias' else name}")
    assert error_of(tiny_model().load_state_dict, state) == \
        f"state dict: {name}: expected shape {wanted}, found {state[name].shape}"


def test_a_transposed_classifier_of_the_right_size_is_refused(state):
    state["head.fc.weight"] = state["head.fc.weight"].transpose(1, 0, 2, 3)
    message = error_of(tiny_model().load_state_dict, state)
    assert "head.fc.weight: expected shape (4, 64, 1, 1), found (64, 4, 1, 1)" in message


@pytest.mark.parametrize("dtype, size, found", [
    ("I32", 4, "int32"), ("I64", 8, "int64"), ("U8", 1, "uint8"), ("BOOL", 1, "BOOL"),
    ("F8_E4M3", 1, "F8_E4M3"), ("F8_E5M2", 1, "F8_E5M2"), ("U16", 2, "U16"), ("C64", 8, "C64"),
])
def test_a_tensor_of_another_type(tmp_path, state, dtype, size, found):
    header, data = {}, b""
    for name, array in state.items():
        raw = bytes(size * array.size) if name == "norm.bias" else array.tobytes()
        kind = dtype if name == "norm.bias" else "I64" if array.dtype.kind == "i" else "F32"
        header[name] = entry(kind, array.shape, len(data), len(data) + len(raw))
        data += raw
    path = by_hand(tmp_path / "a.safetensors", header, data)
    message = error_of(create_model, "tiny", weights=path)
    if dtype == "C64" and "InvalidHeaderDeserialization" in message:
        pytest.skip("this safetensors doesn't know complex numbers yet")
    assert message.startswith(f"{path}: norm.bias: expected ")
    assert message.endswith(f"found {found}")


@pytest.mark.parametrize("value, found", [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", SOME)
def test_nan_and_inf(tmp_path, state, name, value, found, dtype):
    path = tmp_path / "a.safetensors"
    state = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in state.items()}
    state[name].flat[-1] = value
    write_weights(path, state)
    complaint = f"{name}: expected finite numbers, found {found}"
    assert error_of(create_model, "tiny", weights=path).startswith(f"{path}: {complaint}")
    assert complaint in error_of(tiny_model().load_state_dict, state)


def test_a_float64_too_large_for_float32(state):
    state["norm.bias"] = state["norm.bias"].astype(np.float64)
    state["norm.bias"][3] = 1e39
    assert "norm.bias: expected finite numbers, found Inf (or a number too large for float32)" in \
        error_of(tiny_model().load_state_dict, state)


def test_a_negative_variance(tmp_path, state):
    path = tmp_path / "a.safetensors"
    state["norm.running_var"][5] = -0.25
    write_weights(path, state)
    message = error_of(create_model, "tiny", weights=path)
    assert message == f"{path}: norm.running_var: expected variances, found -0.25"
    state["norm.running_var"][5] = 0                              # a dead channel is allowed
    tiny_model().load_state_dict(state)


@pytest.mark.parametrize("value", [
    [[1.0], [1.0, 2.0]], "text", None, object(), np.zeros(64, bool), np.zeros(64, np.complex64),
    np.zeros(64, "f4,f4"), torch.zeros(64, dtype=torch.bfloat16),
    torch.zeros(64, requires_grad=True),
])
def test_what_is_no_array_of_numbers(state, value):
    message = error_of(tiny_model().load_state_dict, state | {"norm.bias": value})
    assert "norm.bias: expected" in message


@pytest.mark.parametrize("value", [np.array("7"), np.array(1.5), np.array(np.nan),
                                   np.zeros(3, np.int64)])
def test_a_counter_that_does_not_count(state, value):
    message = error_of(tiny_model().load_state_dict, state | {"norm.num_batches_tracked": value})
    assert "norm.num_batches_tracked: expected" in message


# --- hints ----------------------------------------------------------------------------------------


def test_the_message_names_the_variant_that_the_file_looks_like(tmp_path, file):
    assert error_of(create_model, "other", weights=file).endswith("; the file looks like tiny")
    path = tmp_path / "o.safetensors"
    create_model("other", num_classes=7).save(path)
    assert error_of(create_model, "tiny", weights=path).endswith("; the file looks like other")
    message = error_of(create_model, "resnetv2_18", weights=demo.WEIGHTS)
    assert message.endswith("; the file looks like demo")
    assert "looks like" not in error_of(tiny_model().load_state_dict, {"a": X})


def test_no_hint_to_the_variant_that_was_asked_for(file):
    message = error_of(tiny_model(num_classes=9).load_state_dict, read_weights(file))
    assert message == \
        "state dict: head.fc.weight: expected shape (9, 64, 1, 1), found (4, 64, 1, 1)"
