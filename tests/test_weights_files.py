"""Sound weight files: they load as PyTorch reads them, and saving is all or nothing."""
from __future__ import annotations

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import assert_close, unprivileged
from safetensors import safe_open
from tiny_weights import (
    CLASSES,
    TINY,
    X,
    assert_same_state,
    by_hand,
    entry,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_state,
    tiny_twin,
    tiny_variants,
)
from torch_twin import randomise

from npresnet import create_model, read_weights, write_weights
from npresnet.graph import build_graph
from npresnet.loading import check_weights
from npresnet.weights import release

# --- round trips ----------------------------------------------------------------------------------


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
    want = {n: (t.float() if t.is_floating_point() else t).numpy() for n, t in tensors.items()}
    assert_same_state(got, want)
    assert not any(array.flags.writeable for array in got.values())


def test_every_bit_pattern_of_the_half_types(tmp_path):
    path = tmp_path / "a.safetensors"
    for dtype in (torch.float16, torch.bfloat16):
        bits = torch.arange(-2**15, 2**15, dtype=torch.int16).view(dtype)
        safetensors.torch.save_file({"a": bits}, path)
        np.testing.assert_array_equal(read_weights(path)["a"], bits.float().numpy())


def test_float64_between_two_float32_rounds_to_even_and_tiny_ones_stay(tmp_path):
    path = tmp_path / "a.safetensors"
    values = [1 + 2**-24, 1 + 3 * 2**-24, 1e-42, -1e-50, 3.4028234e38]
    doubles = torch.tensor(values, dtype=torch.float64)
    safetensors.torch.save_file({"a": doubles}, path)
    np.testing.assert_array_equal(read_weights(path)["a"], doubles.float().numpy())


def test_the_order_in_the_file_and_its_metadata_do_not_matter(tmp_path, state):
    path = tmp_path / "a.safetensors"
    names = sorted(state, reverse=True)
    write_weights(path, {name: state[name] for name in names}, metadata={"note": "any\nthing"})
    assert_same_state(create_model("tiny", weights=path).state_dict(), tiny_state(state))


def test_tensors_anywhere_in_the_file(tmp_path, state):
    """Bytes in front push every tensor to an odd address; names don't stand in their order."""
    header, data = {"pad": entry("U8", [1], 0, 1)}, b"\7"
    for name, array in state.items():
        dtype = "I64" if array.dtype.kind == "i" else "F32"
        header[name] = entry(dtype, array.shape, len(data), len(data) + array.nbytes)
        data += array.tobytes()
    backwards = dict(sorted(header.items(), reverse=True))
    path = by_hand(tmp_path / "a.safetensors", backwards, data)
    tensors = read_weights(path)
    assert tensors.pop("pad").tolist() == [7]
    assert all(array.flags.aligned and array.flags.c_contiguous for array in tensors.values())
    shapes = build_graph(TINY, num_classes=CLASSES).parameter_shapes()
    checked = check_weights(tensors, shapes, str(path))
    assert_same_state(checked, tiny_state(state))


def test_odd_but_sound_files(tmp_path):
    path = tmp_path / "a.safetensors"
    assert read_weights(by_hand(path, {})) == {}
    assert read_weights(by_hand(path, {"__metadata__": {"a": "b"}})) == {}
    assert read_weights(by_hand(path, {"__metadata__": None})) == {}
    assert read_weights(by_hand(path, {"a": entry("F32", [0, 3], 0, 0)}))["a"].shape == (0, 3)
    scalar = {"b": entry("F32", [], 0, 4), "a": entry("F32", [0], 4, 4)}
    assert read_weights(by_hand(path, scalar, b"\0\0\x80\x3f"))["b"] == 1
    integers = read_weights(by_hand(path, {"a": entry("I32", [1], 0, 4)}, b"\5\0\0\0"))["a"]
    assert integers.tolist() == [5] and integers.dtype.kind == "i"


def test_counters_may_be_missing(tmp_path, state):
    floats = {n: array for n, array in state.items() if not n.endswith("num_batches_tracked")}
    write_weights(tmp_path / "a.safetensors", floats)
    model = create_model("tiny", weights=tmp_path / "a.safetensors")
    assert model.state_dict()["norm.num_batches_tracked"].shape == ()
    assert model.load_state_dict(floats).missing_keys == []
    tensors = {n: torch.from_numpy(a.copy()) for n, a in model.state_dict().items()}
    tiny_twin().load_state_dict(tensors, strict=True)


def test_the_demo_ships_sound():
    assert create_model("demo").num_classes == 10


def test_float32_files_are_mapped_not_copied(file):
    array = create_model("tiny", weights=file).state_dict()["stem.conv.weight"]
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.base is not None and memoryview(array.base).readonly


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is in memory")
def test_what_is_released_leaves_memory_and_comes_back(tmp_path):
    path = tmp_path / "large.safetensors"
    write_weights(path, {"a": np.full(2**22, 2, np.float32), "b": np.full(2**20, 3, np.float32)})
    tensors = read_weights(path)

    def held() -> int:
        """Bytes of the file that this process has in memory."""
        about = Path("/proc/self/smaps").read_text().partition(str(path))[2]
        return int(re.search(r"Rss: +(\d+) kB", about)[1]) * 1024

    sums = tensors["a"].sum(), tensors["b"].sum()
    assert sums == (2**23, 3 * 2**20) and held() >= 5 * 2**22
    release(tensors["a"])
    print(f"{held()} of {path.stat().st_size} bytes are left")
    assert held() <= 2**22 + 2**20
    assert (tensors["a"].sum(), tensors["b"].sum()) == sums
    release(np.ones(3))                                           # not of a file: nothing to do


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_what_is_read_can_not_be_written_to(tmp_path, dtype):
    write_weights(tmp_path / "a.safetensors", {"a": np.ones(3, dtype)})
    array = read_weights(tmp_path / "a.safetensors")["a"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


# --- saving ---------------------------------------------------------------------------------------


def test_saving_where_one_can_not(tmp_path, monkeypatch):
    model = tiny_model()
    nowhere = tmp_path / "missing" / "a.safetensors"
    message = error_of(model.save, nowhere)
    assert message == f"{nowhere}: can't be written (No such file or directory)"
    (tmp_path / "folder").mkdir()
    message = error_of(model.save, tmp_path / "folder")
    assert message.startswith(f"{tmp_path}/folder: can't be written")
    (tmp_path / "file").touch()
    message = error_of(model.save, tmp_path / "file" / "a")
    assert message.startswith(f"{tmp_path}/file/a: can't be written")
    monkeypatch.chdir(tmp_path)
    for odd in ("", ".", "a" * 300):
        assert "can't be written" in error_of(model.save, odd)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_says_which_framework_it_is_for(tmp_path, file):
    """Without "format" some loaders refuse it."""
    with safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
    write_weights(tmp_path / "b.safetensors", {}, metadata={"note": "x"})
    with safe_open(tmp_path / "b.safetensors", framework="np") as opened:
        assert opened.metadata() == {"format": "pt", "note": "x"}


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
    message = error_of(tiny_model().save, file)
    assert message == f"{file}: can't be written (No space left on device)"
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


def test_two_threads_may_save_the_same_file(tmp_path, monkeypatch):
    """Both have written before either puts its file in place."""
    path, replace, both = tmp_path / "a.safetensors", Path.replace, threading.Barrier(2)
    models = [tiny_model(seed=seed) for seed in (1, 2)]

    def wait_and_replace(self, target):
        both.wait(30)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", wait_and_replace)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            list(pool.map(lambda model: model.save(path), models))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    logits = create_model("tiny", weights=path)(X)
    assert any(np.array_equal(logits, m(X)) for m in models)
