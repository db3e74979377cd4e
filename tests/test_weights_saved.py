"""Saving weights: whole or not at all, over links and over the file that was loaded."""
from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import awkward_picture
from PIL import Image
from tiny_weights import (
    X,
    assert_same_state,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_state,
    tiny_variants,
)

import npresnet
from npresnet import create_model, read_weights, tensor_files, weights, write_weights
from npresnet.data import create_transform, resolve_model_data_config

ROOT = Path(__file__).resolve().parents[1]

ON_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
import npresnet
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))       # no file grows beyond it
try:
    npresnet.write_weights(sys.argv[1], {"a": np.ones(100_000, np.float32)})
except npresnet.WeightsError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files by setrlimit")
@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path, there):
    path = tmp_path / "a.safetensors"
    if there:
        path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, path], capture_output=True,
                          text=True, timeout=60)
    assert done.stdout == f"{path}: can't be written (File too large)\n", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == (["a.safetensors"] if there else [])
    assert not there or path.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupted(self, data):
        Path(self).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_model().save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_and_its_file_is_replaced(tmp_path, file, state):
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other" / "real.safetensors", tmp_path / "link.safetensors"
    for before in (b"old", None):                                 # a link to nothing, too
        target.unlink(missing_ok=True)
        if before:
            target.write_bytes(before)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("other") / target.name)
        write_weights(link, state)
        assert link.is_symlink() and not target.is_symlink()
        assert_same_state(create_model("tiny", weights=target).state_dict(), tiny_state(state))
        assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_what_is_no_file_is_left_alone(tmp_path):
    """Renaming would put a file in place of /dev/null, for everybody."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        message = error_of(tiny_model().save, tmp_path / name)
        assert message == f"{tmp_path / name}: can't be written (not a regular file)"
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("refusals, saved", [(1, True), (3, True), (100, False)])
def test_a_file_that_another_program_looks_at_is_tried_again(tmp_path, file, refusals, saved,
                                                             monkeypatch):
    """On Windows, where a virus scanner does that."""
    replace, left, waited = Path.replace, [refusals], []

    def refuse(self, target):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(13, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(weights.time, "sleep", waited.append)
    before = file.read_bytes()
    if saved:
        tiny_model(seed=9).save(file)
    else:
        message = error_of(tiny_model(seed=9).save, file)
        assert message == f"{file}: can't be written (Access is denied)"
    assert (file.read_bytes() != before) == saved and list(tmp_path.iterdir()) == [file]
    assert 0 < sum(waited) < 2


@pytest.mark.parametrize("reads_all", [False, True], ids=["mapped", "read"])
def test_saving_onto_the_file_that_was_loaded(file, state, reads_all, monkeypatch):
    monkeypatch.setattr(tensor_files, "_READS_ALL", reads_all)
    model = create_model("tiny", weights=file)
    want = model(X)
    for _ in range(2):
        model.save(file)
        np.testing.assert_array_equal(create_model("tiny", weights=file)(X), want)
    np.testing.assert_array_equal(model(X), want)


@pytest.mark.parametrize("tensors", [
    {"a": np.zeros(1, object)}, {"a": np.zeros(1, "f4,f4")}, {"a\ud800": np.zeros(1, "f4")},
    {"a": np.array(["text"])}, {"a": [[1], [1, 2]]}, {1: np.zeros(1, "f4")},
], ids=["objects", "records", "half a character", "text", "ragged", "a number for a name"])
def test_what_such_files_can_not_hold(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    assert error_of(write_weights, path, tensors).startswith(f"{path}: can't be written (")
    assert list(tmp_path.iterdir()) == []
    assert "can't be written" in error_of(write_weights, tmp_path / "a\0b", {})


# --- from inside a zip file -----------------------------------------------------------------------

FROM_A_ZIP = """
import sys
import npresnet
model = npresnet.create_model("demo", backend="numpy")
transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
logits = model(transform(npresnet.load_image(sys.argv[1]))[None])
labels = [label.name for label in npresnet.model_labels(model)]
tensors = npresnet.read_weights(npresnet.demo.WEIGHTS)
print(npresnet.__file__, len(tensors), "numba" in sys.modules, labels[0], *logits[0].tolist(),
      sep="\\n")
"""


@pytest.mark.slow
def test_npresnet_runs_from_inside_a_zip_file(tmp_path):
    zipped, photo = tmp_path / "all.zip", tmp_path / "photo.png"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (ROOT / "npresnet").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(ROOT))
    picture = Image.fromarray(awkward_picture(70, 60))
    picture.save(photo)
    done = subprocess.run([sys.executable, "-c", FROM_A_ZIP, photo], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(zipped)}, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    where, count, numba, label, *logits = done.stdout.splitlines()
    assert where.startswith(f"{zipped}/npresnet/") and numba == "False" and label == \
        npresnet.model_labels(create_model("demo", backend="numpy"))[0].name
    model = create_model("demo", backend="numpy")
    assert int(count) == len(read_weights(npresnet.demo.WEIGHTS)) == len(model.state_dict())
    transform = create_transform(**resolve_model_data_config(model))
    np.testing.assert_array_equal(np.float32([float(x) for x in logits]),
                                  model(transform(picture)[None])[0])
    folder = tmp_path / "unzipped"
    zipfile.ZipFile(zipped).extractall(folder)
    inside = zipfile.Path(zipped, "npresnet/demo/demo.safetensors")
    assert_same_state(read_weights(inside), model.state_dict())
    assert error_of(read_weights, zipfile.Path(zipped, "none")) == f"{zipped}/none: no such file"
