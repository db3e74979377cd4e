"""Tests of the cuda backend are skipped, visibly, where there is no GPU; fixtures of many files."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import awkward_picture
from PIL import Image

from npresnet import create_model
from npresnet.reference import Reference
from npresnet.variants import BASIC, VARIANTS, Variant


def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(item, "callspec", None) and item.callspec.params.get("backend") == "cuda":
        from cuda_kernels import is_available
        found = is_available()
        if not found:
            pytest.skip(f"needs a GPU: {found.reason}")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with two pictures, and between them in the alphabet one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(awkward_picture(90, 70)).save(folder / "a.png")
    (folder / "b.jpg").write_text("no picture")
    Image.fromarray(awkward_picture(70, 90, seed=1)).save(folder / "c.png")
    return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Weights of a tiny model that `--model tiny` knows, for three classes."""
    variant = Variant("tiny", (1, 1, 1, 1), BASIC, width=0.125)
    monkeypatch.setitem(VARIANTS, "tiny", variant)
    create_model("tiny", num_classes=3).save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def nine(tmp_path) -> Path:
    """Nine pictures; number 4 is none."""
    inside, rng = tmp_path / "in", np.random.default_rng(0)
    inside.mkdir()
    for i in range(9):
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(inside / f"{i}.png")
    (inside / "4.png").write_bytes(b"no picture")
    return inside


@pytest.fixture
def cheap_network(monkeypatch, request):
    """Layers that depend on the pictures and cost nothing, instead of the network's."""
    def maps(self, x, paths):
        shapes = self.graph.shapes(*x.shape[2:])
        means = x.mean((1, 2, 3)).reshape(-1, 1, 1, 1)
        return [means + np.arange(np.prod(shapes[path])).reshape(1, *shapes[path]).astype("f4")
                % 97 / 31 for path in paths]
    if "slow" not in request.keywords:
        monkeypatch.setattr(Reference, "maps", maps)
