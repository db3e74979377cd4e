"""The explorer's numbers, in a real browser: every layer, every pixel, every sum."""
from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from explorer_browser import (
    LAYERS,
    Explorer,
    agrees,
    browser_fixture,
    demo_fixture,
    encoded,
    explorer_fixture,
    folder_fixture,
    largest_delta,
    narrow_model,
    opened_fixture,
    prepared,
    shared_fixture,
    url_fixture,
)
from helpers import awkward_picture, random_state
from PIL import Image
from safetensors.torch import save_file

import npresnet
from npresnet.explorer.page import PHOTO, goes_down_first
from npresnet.graph import build_graph

pytestmark = pytest.mark.slow
TRACED = ("noise", "black", "white", "one pixel", "thin")         # of the others: pixels, logits
FAMILY = {"18": "resnetv2_18", "50": "resnetv2_50", "34d": "resnetv2_34d", "50t": "resnetv2_50t"}


@cache
def pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (150, 210, 4), dtype=np.uint8)
    rgb, photo = noise[..., :3], awkward_picture(301, 200)
    exif = Image.Exif()
    exif[0x0112] = 6                                              # a quarter turn
    return {
        "noise": encoded(rgb), "alpha": encoded(noise), "grey": encoded(noise[..., 0]),
        "palette": encoded(rgb, mode="P"), "black": encoded(np.zeros((160, 160, 3), np.uint8)),
        "white": encoded(np.full((99, 301, 3), 255, np.uint8)), "one pixel": encoded(rgb[:1, :1]),
        "flat": encoded(rgb[:3].repeat(3, 1)), "thin": encoded(rgb[:, :2].repeat(4, 0)),
        "jpeg": encoded(photo, "JPEG", quality=80), "444": encoded(photo, "JPEG", subsampling=0),
        "progressive": encoded(photo, "JPEG", progressive=True), "webp": encoded(photo, "WEBP"),
        "turned": encoded(photo, "JPEG", exif=exif),
        "large": encoded(rgb.repeat(12, 0).repeat(10, 1))}


def test_the_shipped_photograph(explorer, demo):
    pixels, x = prepared(demo, PHOTO.read_bytes())
    assert np.array_equal(explorer.array("npresnet.app.cropped.data", np.uint8), pixels.ravel())
    want = demo.trace(x)
    assert largest_delta(explorer.trace(), want) <= LAYERS
    assert "125 layers" in explorer.page.inner_text("#agreement-panel")
    deltas = explorer.page.locator("#agreement-panel td.num").all_text_contents()
    shown = [float(text.replace("−", "-")) for text in deltas]
    assert len(shown) == 125 and max(shown) <= LAYERS


@pytest.mark.parametrize("name", pictures())
def test_awkward_pictures(shared, demo, name):
    data = pictures()[name]
    logits = shared.classify(data)
    pixels, x = prepared(demo, data)
    got = shared.array("npresnet.app.cropped.data", np.uint8)
    assert np.array_equal(got, pixels.ravel()), f"{(got != pixels.ravel()).sum()} pixels differ"
    if name in TRACED:
        assert largest_delta(shared.trace(), demo.trace(x)) <= LAYERS
    final = demo(x)[0]
    agrees(logits, final)
    assert np.array_equal(np.argsort(-logits)[:5], np.argsort(-final)[:5])


def test_pixels_of_any_size(shared, demo):
    """Pillow's order of passes shows in the last bit."""
    random = np.random.default_rng(1)
    for _ in range(25):
        height, width = random.integers(1, 700, 2)
        data = encoded(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        shared.classify(data)
        got = shared.array("npresnet.app.cropped.data", np.uint8)
        assert np.array_equal(got, prepared(demo, data)[0].ravel()), f"{width}×{height}"
    assert shared.do("npresnet.app.page.downFirst") == goes_down_first()


@pytest.fixture(scope="module")
def other(browser, url):
    """A page on which each test opens a network of its own."""
    explorer = Explorer(browser, url)
    yield explorer
    assert explorer.said == []


@pytest.mark.parametrize("name, dtype", [
    *((name, torch.float32) for name in FAMILY),
    ("50", torch.float16), ("18", torch.bfloat16), ("50t", torch.float64)])
def test_other_networks(other, tmp_path, monkeypatch, name, dtype):
    """Opened from a file: drawn by its header, and computed."""
    variant, model = narrow_model(monkeypatch, FAMILY[name])
    shapes = build_graph(variant, num_classes=7).parameter_shapes()
    path = tmp_path / "narrow.safetensors"
    save_file({key: torch.tensor(array).to(dtype) if array.dtype == np.float32
               else torch.tensor(array) for key, array in random_state(shapes, 3).items()}, path)
    model.load_state_dict(npresnet.read_weights(path))
    other.open_weights(path)
    _, x = prepared(model, PHOTO.read_bytes(), input_size=(3, 224, 224), crop_pct=0.95)
    want = model.trace(x)
    assert largest_delta(other.trace(), want) <= LAYERS
    rows = {row["path"]: row for row in other.do("npresnet.app.layers")}
    assert {path: (row["shape"], row["from"]) for path, row in rows.items()} == {
        path: (list(y.shape[1:]), list((want.get(rows[path]["inputs"][0], x)).shape[1:]))
        for path, y in want.items()}
    summary = {row.path: row for row in model.summary((3, 224, 224)).layers}
    for path, row in rows.items():
        counted = summary.get(path)                               # sums have nothing to count
        assert (row["parameters"], row["macs"]) == (
            (counted.params, counted.macs) if counted else (0, 0)), path
    assert set(summary) <= set(rows) and other.page.locator(".node").count() == len(rows)


def test_weights_that_make_nan(browser, url, demo, tmp_path):
    """It is traced to the layer in which it begins."""
    explorer = Explorer(browser, url)
    state = {name: array.copy() for name, array in demo.state_dict().items()}
    state["stages.1.blocks.2.conv2.weight"].fill(np.nan)
    npresnet.write_weights(tmp_path / "nan.safetensors", state)
    explorer.open_weights(tmp_path / "nan.safetensors")
    assert "since stages.1.blocks.2.conv2." in explorer.status and explorer.said == []
    explorer.page.close()


SUMMED = [("stem.conv", 3, 0, 7), ("stages.0.blocks.0.conv2", 5, 39, 39),
          ("stages.0.blocks.0", 9, 5, 5),
          ("stages.1.blocks.0.downsample.conv", 2, 3, 4), ("stages.3.blocks.2.conv3", 11, 4, 0),
          ("stages.2.blocks.4", 30, 1, 9), ("head.fc", 0, 0, 0)]
CHANGES = ["null", "npresnet.app.alter({change: {...npresnet.app.experiment.change, "
           "rawProjection: true, normedIdentity: true}})",
           "npresnet.app.toggle('stages.1.blocks.1')", "npresnet.app.edit({mirror: true})"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_sums_add_up(explorer, change):
    """Whatever the experiment: what is listed makes the number that the map shows."""
    explorer.do(f"{change}, null")
    explorer.run("npresnet.app.run()")
    for path, channel, row, column in SUMMED:
        explorer.do("npresnet.app.choose({path: v[0], channel: v[1], row: v[2], column: v[3]}),"
                    "null", [path, channel, row, column])
        total = float(explorer.page.get_attribute("#why-total", "data-value"))
        y = explorer.array(f"npresnet.layer({path!r}).data")
        shape = explorer.do(f"npresnet.layer({path!r}).shape")
        shown = y.reshape(shape)[channel, row, column]
        assert abs(total - shown) <= 1e-5 * np.abs(y).max(), path


def walk(explorer, selector: str) -> list[str]:
    """The layers passed by clicking, again and again, the first that fits, down to the pixels."""
    return explorer.page.evaluate("""(selector) => {
      const steps = [];
      while (steps.at(-1) !== "pixels" && steps.length < 140) {
        document.querySelector(selector).click();
        steps.push(npresnet.app.chosen.path);
      }
      return steps;
    }""", selector)


def test_the_strongest_way_down(explorer):
    """Only what weighs most, as arithmetic says it, and no stage twice."""
    explorer.page.click("text=Why? >> nth=0")
    weight = npresnet.create_model("demo", backend="numpy").state_dict()["head.fc.weight"]
    pooled = explorer.array("npresnet.layer('head.global_pool').data")
    explorer.page.click("#strongest")
    want = int(np.abs(weight[0, :, 0, 0] * pooled).argmax())
    assert explorer.do("npresnet.app.chosen") == dict(path="head.global_pool", channel=want, row=0,
                                                   column=0)
    steps = walk(explorer, "#strongest")
    print(len(steps), "steps")
    assert steps[-1] == "pixels" and not {f"stages.{s}" for s in range(4)} & set(steps)


def test_from_the_answer_down_to_the_pixels(explorer):
    """Each number that took part can be asked in its turn."""
    explorer.page.click("text=Why? >> nth=0")
    steps = walk(explorer, "#why-panel button.cell, #why-panel .formula button.link, "
                           "#why-panel div p > button.link")
    print(len(steps), "steps")
    assert steps[-1] == "pixels" and len(set(steps)) == len(steps)
    assert "/ 255" in explorer.page.inner_text("#why-panel")
