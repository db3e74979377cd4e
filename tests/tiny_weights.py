"""What the tests of weights share: two tiny networks, a random state dict, and files by hand.

The fixtures work in every test file that imports their functions.
"""
from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import random_pictures, random_state
from torch_twin import TorchResNetV2

from npresnet import WeightsError, write_weights
from npresnet.graph import build_graph
from npresnet.model import ResNetV2
from npresnet.variants import BASIC, VARIANTS, Variant, pretrained_cfg

TINY = Variant("tiny", (1, 1, 1, 1), BASIC, width=0.125)
OTHER = Variant("other", (2, 1, 1, 1), width=0.125)
CLASSES = 4
X = random_pictures(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def tiny_variants(monkeypatch):
    """Two small networks that `create_model` and the hints know by name."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setitem(VARIANTS, "other", OTHER)


@pytest.fixture(name="state")
def state_fixture():
    """A state dict of the tiny network, random, the caller's to change."""
    return random_state(build_graph(TINY, num_classes=CLASSES).parameter_shapes(), seed=1)


@pytest.fixture(name="file")
def file_fixture(tmp_path, state):
    """The same as a file."""
    write_weights(tmp_path / "tiny.safetensors", state)
    return tmp_path / "tiny.safetensors"


def tiny_model(**options) -> ResNetV2:
    return ResNetV2(TINY, pretrained_cfg(TINY, "untrained"), **{"num_classes": CLASSES} | options)


def tiny_twin(**options) -> TorchResNetV2:
    options = {"num_classes": CLASSES} | options
    return TorchResNetV2((1, 1, 1, 1), basic=True, width=0.125, **options).eval()


def tiny_state(state) -> dict:
    """`state` as a tiny model gives it back."""
    model = tiny_model()
    model.load_state_dict(state)
    return model.state_dict()


def by_hand(path: Path, header, data: bytes = b"") -> Path:
    """A safetensors file from its parts, right or wrong.

    header: bytes as they are, or what becomes JSON.
    """
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
