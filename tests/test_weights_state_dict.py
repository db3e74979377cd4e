"""`load_state_dict`, `state_dict` and copies: a model's weights are its own."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from tiny_weights import (
    CLASSES,
    TINY,
    X,
    assert_same_state,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_state,
    tiny_variants,
)

from npresnet import create_model, read_weights
from npresnet.graph import build_graph


@pytest.mark.parametrize("spoil", [
    lambda s: s.pop("head.fc.bias"), lambda s: s.update(extra=X),
    lambda s: s.update({"head.fc.bias": np.zeros(5, np.float32)}),
    lambda s: s.update({"head.fc.bias": np.full(CLASSES, np.nan, np.float32)}),
    lambda s: s.update({"head.fc.bias": np.zeros(CLASSES, np.int64)}),
])
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
    now = model.state_dict()
    np.testing.assert_array_equal(now["stem.conv.weight"], state["stem.conv.weight"])
    np.testing.assert_array_equal(now["head.fc.bias"], bias)
    assert set(now) == set(build_graph(TINY, num_classes=CLASSES).parameter_shapes())
    assert tiny_model().load_state_dict({}, strict=False).unexpected_keys == []


def backwards(array):
    return np.ascontiguousarray(array[::-1])[::-1]


def unaligned(array):
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, array.size, 1).reshape(array.shape)


def read_only(array, order="C"):
    array = array.copy(order)
    array.flags.writeable = False
    return array


FORMS = {
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "reversed": backwards,
    "unaligned": unaligned,
    "float64": np.float64,
    "torch": torch.from_numpy,
    "every second": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "lists": lambda a: a.tolist(),
    "masked": np.ma.masked_array,
    "fortran read-only": lambda a: read_only(a, "F"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arrays_of_any_make(tmp_path, state, form):
    want = tiny_state(state)
    model = tiny_model()
    model.load_state_dict({n: form(a) if a.ndim and a.dtype.kind == "f" else a
                           for n, a in state.items()})
    assert_same_state(model.state_dict(), want)
    for array in model.state_dict().values():
        assert array.flags.c_contiguous and array.flags.aligned
        assert array.dtype.isnative and type(array) is np.ndarray
    model.save(tmp_path / "a.safetensors")
    assert_same_state(read_weights(tmp_path / "a.safetensors"), want)


def test_what_the_caller_does_later_leaves_the_model_alone(state):
    views = {n: a.view() for n, a in state.items()}
    for view in views.values():
        view.flags.writeable = False
    broadcast = {n: np.broadcast_to(a, a.shape) for n, a in state.items()}
    shared = {n: torch.from_numpy(a) for n, a in state.items()}
    lent = {}
    for name, array in state.items():
        buffer = memoryview(array).cast("B").toreadonly()
        lent[name] = np.frombuffer(buffer, array.dtype).reshape(array.shape)
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


# --- copies ---------------------------------------------------------------------------------------


def pickled(protocol: int):
    """A function that copies a model by way of a pickle."""
    return lambda model: pickle.loads(pickle.dumps(model, protocol))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled(2), pickled(5)],
                         ids=["copy", "deepcopy", "pickle 2", "pickle 5"])
def test_copies_are_whole_and_apart(file, clone):
    model = create_model("tiny", weights=file, out_indices=None)
    twin = clone(model)
    np.testing.assert_array_equal(twin(X), model(X))
    assert_same_state(twin.state_dict(), model.state_dict())
    assert twin.pretrained_cfg == model.pretrained_cfg
    assert twin.feature_info.channels() == model.feature_info.channels()
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
