"""Weights that the explorer refuses: damaged ones, and those of another network."""
from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from explorer_browser import (
    browser_fixture,
    folder_fixture,
    shared_fixture,
    url_fixture,
)

import npresnet
from npresnet.demo import WEIGHTS
from npresnet.explorer.page import PHOTO

pytestmark = pytest.mark.slow


def parts() -> tuple[dict, bytes]:
    """(header, tensors' bytes) of the demo's file."""
    data = WEIGHTS.read_bytes()
    length, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + length]), data[8 + length:]


def built(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(name: str, **changes) -> bytes:
    header, data = parts()
    header[name] = header[name] | changes
    return built(header, data)


def with_tensors(**changes) -> bytes:
    """The demo's tensors with others; None: without."""
    tensors = npresnet.read_weights(WEIGHTS) | {
        name.replace("__", "."): array for name, array in changes.items()}
    header, data = {}, bytearray()
    for name, array in tensors.items():
        if array is not None and array.dtype == np.float32:
            begin = len(data)
            data += array.tobytes()
            header[name] = dict(dtype="F32", shape=array.shape, data_offsets=[begin, len(data)])
    return built(header, bytes(data))


FIRST = "stages.0.blocks.0.norm1.bias"
ZERO = np.zeros
DAMAGED = {
    "empty": (lambda: b"", "shorter than 8"),
    "no header": (lambda: struct.pack("<Q", 2**63) + b"{}", "its header is longer"),
    "a picture": (PHOTO.read_bytes, "not a safetensors file"),
    "a list": (lambda: built(b"[1]", b""), "lists no tensors"),
    "no JSON": (lambda: built(b"\xff{}", b""), "isn't JSON"),
    "no tensors": (lambda: built(b"{}", b""), "not a BatchNorm ResNetV2"),
    "cut short": (lambda: WEIGHTS.read_bytes()[:-4], "cut short"),
    "too long": (lambda: WEIGHTS.read_bytes() + b"0000", "longer than its tensors"),
    "null": (lambda: built(parts()[0] | {FIRST: None}, parts()[1]), f"entry of {FIRST}"),
    "negative": (lambda: with_entry(FIRST, shape=[-1]), f"entry of {FIRST}"),
    "a fraction": (lambda: with_entry(FIRST, data_offsets=[0.5, 64.5]), f"entry of {FIRST}"),
    "complex": (lambda: with_entry(FIRST, dtype="C64"), "type C64"),
    "a wrong size": (lambda: with_entry(FIRST, shape=[17]), "numbers"),
    "overlap": (lambda: with_entry(FIRST, data_offsets=parts()[0]["norm.bias"]["data_offsets"],
                                   shape=parts()[0]["norm.bias"]["shape"]), "overlap"),
    "no first norm": (lambda: with_tensors(stages__1__blocks__2__norm1__weight=None),
                      "stages.1.blocks.2."),
    "no projection": (lambda: with_tensors(stages__1__blocks__0__downsample__conv__weight=None),
                      "no tensor stages.1.blocks.0.downsample.conv.weight"),
    "no variance": (lambda: with_tensors(norm__running_var=None), "no tensor norm.running_var"),
    "one too many": (lambda: with_tensors(stages__9__x=ZERO(3, "f4")), "stages.9.x"),
    "a long norm": (lambda: with_tensors(norm__weight=ZERO(5000, "f4")), "norm.weight"),
    "a short norm": (lambda: with_tensors(norm__weight=ZERO(3, "f4")), "norm.weight"),
    "a flat head": (lambda: with_tensors(head__fc__weight=ZERO((10, 512), "f4")),
                    "head.fc.weight"),
    "grey": (lambda: with_tensors(stem__conv__weight=ZERO((16, 1, 7, 7), "f4")),
             "stem.conv.weight"),
    "an oblong kernel": (lambda: with_tensors(
        stages__2__blocks__1__conv2__weight=ZERO((64, 64, 3, 1), "f4")),
        "expected any×64×3×3"),
    "another projection": (lambda: with_tensors(
        stages__2__blocks__0__downsample__conv__weight=ZERO((8, 128, 1, 1), "f4")),
        "stages.2.blocks.0.downsample.conv.weight has the shape 8×128×1×1, expected 256×128"),
    "another width": (lambda: with_tensors(
        stages__2__blocks__1__conv2__weight=ZERO((8, 8, 3, 3), "f4")),
        "stages.2.blocks.1.conv2.weight")}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_weights_are_refused(shared, tmp_path, name):
    """In words that name the file and what is wrong; the network stays that was there."""
    make, word = DAMAGED[name]
    before = shared.array("npresnet.app.logits")
    layers = shared.do("npresnet.layers()")
    (tmp_path / "bad.safetensors").write_bytes(make())
    status = shared.refuse(tmp_path / "bad.safetensors")
    print(status)
    assert status.startswith("bad.safetensors: ") and word in status
    assert shared.do("npresnet.layers()") == layers
    assert np.array_equal(shared.run("npresnet.app.run()"), before)
    assert shared.page.inner_text("#weights-name") == "demo.safetensors"


def test_weights_whose_first_run_fails_are_taken_back(shared):
    """Here for want of memory: the worker has the old ones again, too."""
    before = shared.array("npresnet.app.logits")
    changed = with_tensors(head__fc__bias=np.arange(10, dtype="f4"))
    said = shared.do("""(async () => {
      const { engine } = npresnet.app;
      engine.run = () => Promise.reject(new Error("out of memory"));
      try {
        await npresnet.app.openWeights(unpack(v), "huge.safetensors");
      } catch (error) {
        return error.message;
      } finally {
        delete engine.run;
      }
    })()""", base64.b64encode(changed).decode())
    assert said == "out of memory"
    assert np.array_equal(shared.run("npresnet.app.run()"), before)
