"""What the explorer says of layers: how far they see, and the sums behind their numbers."""
from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from explorer_browser import (
    browser_fixture,
    folder_fixture,
    narrow_model,
    shared_fixture,
    url_fixture,
)
from helpers import random_state
from torch_twin import TorchResNetV2

from npresnet.graph import build_graph

pytestmark = pytest.mark.slow


def open_narrow(shared, tmp_path, monkeypatch, name: str, depths=None):
    """A narrow network of the family, opened in the page → (its variant, the model)."""
    variant, model = narrow_model(monkeypatch, name, depths)
    model.load_state_dict(random_state(build_graph(variant, num_classes=7).parameter_shapes(), 5))
    model.save(tmp_path / "narrow.safetensors")
    shared.open_weights(tmp_path / "narrow.safetensors")
    return variant, model


@pytest.mark.parametrize("name", ["resnetv2_34", "resnetv2_50d"])
def test_receptive_fields(shared, tmp_path, monkeypatch, name):
    """The pixels that a gradient reaches, where no weight is zero and nothing is cut off."""
    variant, _ = open_narrow(shared, tmp_path, monkeypatch, name, (1, 2, 1, 1))
    layers = {row["path"]: row for row in shared.do("npresnet.app.layers")}
    twin = TorchResNetV2((1, 2, 1, 1), basic=variant.block == "basic", stem=variant.stem,
                         avg=variant.avg_down, width=0.125, num_classes=7).double().eval()
    for parameter in twin.parameters():
        torch.nn.init.constant_(parameter, 1 / max(1, parameter[0].numel()))
    twin.stem.pool = torch.nn.AvgPool2d(3, 2, 1)                  # a maximum has one winner
    found: dict[str, torch.Tensor] = {}
    for path, module in twin.named_modules():
        module.register_forward_hook(lambda _m, _i, y, path=path: found.__setitem__(path, y))
    x = torch.ones(1, 3, 224, 224, dtype=torch.float64, requires_grad=True)
    twin(x)
    for path, layer in layers.items():
        _, h, w = layer["shape"]
        for row, column in {(h // 2, w // 2), (0, w - 1)}:
            gradient, = torch.autograd.grad(found[path][0, 0, row, column], x, retain_graph=True)
            reached = [np.flatnonzero(gradient[0].abs().sum((0, axis)).numpy()) for axis in (2, 1)]
            for at, seen in zip((row, column), reached):
                if layer["field"] is None:
                    want = (0, 224)
                else:
                    first = layer["field"]["start"] + at * layer["field"]["step"]
                    want = (max(0, first), min(224, first + layer["field"]["size"]))
                assert (seen[0], seen[-1] + 1) == want, f"{path} at ({row}, {column})"
    print(f"{len(layers)} layers")


ASK = """(place) => {
  npresnet.app.choose(place);
  const panel = document.getElementById("why-panel");
  panel.querySelector("tr.rest button")?.click();                 // Show all
  const texts = (selector, of) => [...panel.querySelectorAll(selector)].map(
    (node) => of(node).replaceAll("−", "-"));
  return { total: Number(panel.querySelector("#why-total")?.dataset.value),
           amounts: texts("tbody td.num", (node) => node.textContent).map(Number),
           cells: texts(".cell:not(.padding)", (node) => node.title),
           formula: texts(".formula", (node) => node.textContent) };
}"""


def window(x: np.ndarray, layer: dict, row: int, column: int) -> np.ndarray:
    """What a kernel sees of every channel (C, R, R); padding is NaN."""
    r, s, pad = layer["kernel"], layer["stride"], layer["padding"]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)
    return x[:, row * s:row * s + r, column * s:column * s + r]


def scale_and_shift(state: dict, path: str, channel: int) -> tuple[float, float]:
    """What a batch norm does to a channel, by its definition."""
    weight, bias, mean, variance = (float(state[f"{path}.{part}"][channel]) for part in (
        "weight", "bias", "running_mean", "running_var"))
    scale = weight / (variance + 1e-5) ** 0.5
    return scale, bias - mean * scale


def test_the_sums_of_every_kind_of_layer(shared, tmp_path, monkeypatch):
    """What is listed, cell by cell and summand by summand, is what NumPy finds."""
    _, model = open_narrow(shared, tmp_path, monkeypatch, "resnetv2_50t", (1, 2, 1, 1))
    state, y, rng = model.state_dict(), shared.trace(), np.random.default_rng(2)
    y["pixels"] = shared.array("npresnet.app.activations.get('pixels').data").reshape(3, 224, 224)
    kinds, worst = set(), 0.0
    for layer in shared.do("npresnet.app.layers"):
        path, kind, shape = layer["path"], layer["kind"], layer["shape"]
        kinds.add(kind)
        place = [int(rng.integers(n)) for n in shape]
        if rng.integers(2):
            place[1:] = [0, shape[2] - 1]                         # a corner, with its padding
        channel, row, column = place
        said = shared.page.evaluate(ASK, dict(path=path, channel=channel, row=row,
                                                column=column))
        shown, x = y[path][channel, row, column], y[layer["inputs"][0]]
        if kind in ("conv", "classifier", "block"):
            worst = max(worst, abs(said["total"] - shown) / np.abs(y[path]).max())
            if kind == "block":
                want = [y[part][channel, row, column] for part in layer["inputs"]]
            elif kind == "conv":
                seen = np.nan_to_num(window(x, layer, row, column))
                want = (state[f"{path}.weight"][channel] * seen).sum((1, 2))
            else:
                want = [*(state[f"{path}.weight"][channel, :, 0, 0] * x[:, 0, 0]),
                        state[f"{path}.bias"][channel]]
            got, want = np.sort(said["amounts"]), np.sort(np.array(want, np.float64))
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * np.abs(want).max(),
                                       err_msg=path)
        elif kind in ("maxPool", "avgPool", "globalPool"):
            every = x[channel] if kind == "globalPool" else window(x, layer, row, column)[channel]
            got = [float(re.search(r": (\S+)\. Ask", text)[1]) for text in said["cells"]]
            want = np.array([value for value in every.ravel() if not np.isnan(value)])
            np.testing.assert_allclose(got, want, rtol=0.06, err_msg=path)
            made = {"maxPool": want.max(), "avgPool": want.mean(), "globalPool": want.mean()}[kind]
            assert abs(made - shown) <= 1e-6 * np.abs(y[path]).max(), path
        elif kind == "norm":
            before = float(said["formula"][0].split()[-1])
            scale, shift = scale_and_shift(state, path, channel)
            want = x[channel, row, column] * scale + shift
            assert abs(before - want) <= 1e-4 * max(1, abs(want)), path
            assert abs(max(0, want) - shown) <= 1e-5 * np.abs(y[path]).max(), path
        else:
            assert np.array_equal(y[path], x), path
    print(f"totals: at most {worst:.1e} off")
    assert worst <= 1e-5
    assert kinds == {"conv", "norm", "maxPool", "avgPool", "block", "stage", "globalPool",
                     "classifier"}
