"""The explorer's experiments, against PyTorch and NumPy: the same done by hand."""
from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import torch
from explorer_browser import (
    LAYERS,
    agrees,
    browser_fixture,
    demo_fixture,
    explorer_fixture,
    folder_fixture,
    largest_delta,
    opened_fixture,
    prepared,
    url_fixture,
)
from PIL import Image
from torch_twin import TorchResNetV2

import npresnet
from npresnet.explorer.page import PHOTO

pytestmark = pytest.mark.slow
STATISTICS = {
    "trained": None, "none": ((0, 0, 0), (1, 1, 1)), "bytes": ((0, 0, 0), (1 / 255,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "bgr": None}
ALTER = """npresnet.app.alter({
  edits: {mirror: v.mirror, turn: v.turn, marks: v.marks}, size: v.size,
  normalisation: v.normalisation,
  change: {off: new Set(v.off), rawProjection: v.raw, normedIdentity: v.normed}})"""


def run_block(block, x, raw: bool, normed: bool, off: bool):
    """A block of the twin with what the page can do to it."""
    p = block.norm1(x)
    if block.downsample is not None:
        shortcut = block.downsample(x if raw else p)
    else:
        shortcut = p if normed else x
    y = block.conv2(block.norm2(block.conv1(p)))
    y = y if block.basic else block.conv3(block.norm3(y))
    return shortcut if off else y + shortcut


def keep(found: dict, path: str, silent: set[int], _module, _inputs, y):
    """A hook: silences channels, and keeps what comes out."""
    y = y.clone()
    y[:, sorted(silent)] = 0
    found[path] = y.numpy()
    return y


def by_hand(demo, x: np.ndarray, change: dict) -> dict[str, np.ndarray]:
    """Every layer in PyTorch, the experiment done by hand."""
    twin = TorchResNetV2(width=0.25, num_classes=10).eval()
    twin.load_state_dict({name: torch.tensor(y) for name, y in demo.state_dict().items()})
    found: dict[str, np.ndarray] = {}
    for path, module in twin.named_modules():
        silent = {int(what.split(":")[1]) for what in change["off"] if what.startswith(f"{path}:")}
        if path not in ("", "stem", "stages", "head"):
            module.register_forward_hook(partial(keep, found, path, silent))
        if hasattr(module, "basic"):
            module.forward = partial(run_block, module, raw=change["raw"],
                                     normed=change["normed"], off=path in change["off"])
    with torch.no_grad():
        twin(torch.from_numpy(np.ascontiguousarray(x)))
    return found


def stamp(pixels: np.ndarray, mark: dict) -> None:
    """Paint a mark by its definition, pixel by pixel of the whole picture."""
    down, right = np.ogrid[:len(pixels), :len(pixels)]
    down, right = down - mark["row"], right - mark["column"]
    if "square" in mark:
        half = mark["square"] / 2
        covered = (down >= -half) & (down < half) & (right >= -half) & (right < half)
        pixels[covered] = 128
    else:
        pixels[down**2 + right**2 < mark["dot"]**2] = mark["colour"]


def input_of(demo, change: dict) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, x) of the shipped photograph under an experiment."""
    size = change["size"]
    pixels = np.array(prepared(demo, PHOTO.read_bytes(), input_size=(3, size, size))[0])
    if change["mirror"]:
        pixels = pixels[:, ::-1]
    pixels = np.rot90(pixels, -change["turn"] // 90).copy()
    for mark in change["marks"]:
        stamp(pixels, mark)
    config = npresnet.data.resolve_model_data_config(demo)
    mean, std = STATISTICS[change["normalisation"]] or (config["mean"], config["std"])
    bands = pixels[..., ::-1] if change["normalisation"] == "bgr" else pixels
    x = (bands / np.float32(255) - np.float32(mean)) / np.float32(std)
    return pixels, x.astype(np.float32).transpose(2, 0, 1)[None]


def draw(demo, seed: int) -> dict:
    """An experiment of everything at once."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([64, 96, 128, 160, 192]))
    blocks = [f"stages.{s}.blocks.{b}" for s, depth in enumerate((3, 4, 6, 3))
              for b in range(depth)]
    layers = [(path, y.shape[1]) for path, y in demo.trace(np.zeros((1, 3, 32, 32), "f4")).items()
              if not re.fullmatch(r"stages\.\d", path) and path != "head.fc"]
    off = [str(block) for block in rng.choice(blocks, 2, replace=False)]
    for i in rng.choice(len(layers), 6, replace=False):
        off.append(f"{layers[i][0]}:{rng.integers(layers[i][1])}")
    off.append(f"{off[0]}:{rng.integers(60)}")                    # of a block that is off as well
    place = [dict(row=int(r), column=int(c), of=size) for r, c in rng.integers(0, size, (2, 2))]
    marks = [dict(square=int(rng.integers(4, 97)), **place[0]),
             dict(dot=int(rng.integers(2, 49)), colour=[208, 28, 28], **place[1])]
    return dict(size=size, marks=marks, off=off, mirror=bool(rng.integers(2)),
                turn=int(rng.integers(4)) * 90, raw=bool(rng.integers(2)),
                normed=bool(rng.integers(2)), normalisation=list(STATISTICS)[seed % 5])


@pytest.mark.parametrize("seed", range(6))
def test_many_experiments_at_once(explorer, demo, seed):
    before, change = explorer.array("npresnet.app.logits"), draw(demo, seed)
    explorer.run(ALTER, change)
    pixels, x = input_of(demo, change)
    assert np.array_equal(explorer.array("npresnet.app.pixels.data", np.uint8), pixels.ravel())
    got = explorer.trace()
    want = by_hand(demo, x, change)
    assert largest_delta(got, {path: want[path] for path in got}) <= LAYERS
    assert list(got) == list(demo.trace(np.zeros((1, 3, 32, 32), "f4")))
    assert np.array_equal(explorer.run("npresnet.app.undo()"), before)


@pytest.mark.parametrize("raw, normed", [(True, False), (False, True)])
def test_shortcuts_from_elsewhere(explorer, demo, raw, normed):
    """The two boxes, each by itself."""
    before = explorer.array("npresnet.app.logits")
    explorer.page.check("#experiment-rawProjection" if raw else "#experiment-normedIdentity")
    explorer.run("npresnet.app.newest")
    change = dict(off=[], raw=raw, normed=normed)
    want = by_hand(demo, prepared(demo, PHOTO.read_bytes())[1], change)
    got = explorer.trace()
    assert largest_delta(got, {path: want[path] for path in got}) <= LAYERS
    assert not np.allclose(got["head.fc"].ravel(), before, atol=0.05)
    explorer.page.click("#reset")
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)


@pytest.mark.parametrize("degrees", [15, 45, 135])
def test_turned_by_any_angle(explorer, degrees):
    """Within the circle that stays in the picture as Pillow turns it; the corners are grey."""
    upright = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(160, 160, 3)
    explorer.page.select_option("#experiment-turn", str(degrees))
    explorer.run("npresnet.app.newest")
    got = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(160, 160, 3).astype(int)
    want = Image.fromarray(upright).rotate(-degrees, Image.Resampling.BILINEAR)
    y, x = np.mgrid[:160, :160] - 79.5
    off = np.abs(got - np.asarray(want, int))[x**2 + y**2 < 78**2].max()
    print(f"at most {off} of 255 off")
    assert off <= 1
    if degrees != 15:
        assert (got[0, 0] == 128).all() and (got[-1, -1] == 128).all()


def place_on(explorer, row: int, column: int) -> tuple[float, float]:
    """Where a pixel of the photograph lies on the page."""
    explorer.page.locator(".photo").scroll_into_view_if_needed()
    box = explorer.page.locator(".photo").bounding_box()
    return (box["x"] + (column + 0.5) * box["width"] / 160,
            box["y"] + (row + 0.5) * box["height"] / 160)


def test_painting_by_mouse(explorer, demo):
    """A stroke is a row of dots, and one step to undo."""
    before = explorer.array("npresnet.app.logits")
    pixels = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(160, 160, 3).copy()
    explorer.page.select_option("#tool", "paint")
    explorer.page.fill("#tool-size", "20")
    explorer.page.fill("#tool-colour", "#00a0ff")
    explorer.page.mouse.move(*place_on(explorer, 40, 50))
    explorer.page.mouse.down()
    for column in (60, 70, 80):
        explorer.page.mouse.move(*place_on(explorer, 40, column))
    explorer.page.mouse.up()
    explorer.run("npresnet.app.newest")
    for column in (50, 60, 70, 80):
        stamp(pixels, dict(dot=10, row=40, column=column, colour=[0, 160, 255]))
    got = explorer.array("npresnet.app.pixels.data", np.uint8)
    assert np.array_equal(got, pixels.ravel())
    assert explorer.do("npresnet.app.history.length") == 1
    explorer.page.keyboard.press("Control+z")
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)


def test_a_cover_that_is_only_held(explorer, demo):
    """It changes the answer while it is there, and is no experiment of its own."""
    before = explorer.array("npresnet.app.logits")
    pixels = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(160, 160, 3).copy()
    explorer.page.select_option("#tool", "cover")
    explorer.page.mouse.move(*place_on(explorer, 70, 90))
    held = explorer.run("npresnet.app.newest")
    stamp(pixels, dict(square=int(explorer.do("document.querySelector('#tool-size').value")),
                       row=70, column=90))
    change = dict(off=[], raw=False, normed=False)
    config = npresnet.data.resolve_model_data_config(demo)
    x = (pixels / np.float32(255) - np.float32(config["mean"])) / np.float32(config["std"])
    agrees(held, by_hand(demo, x.astype(np.float32).transpose(2, 0, 1)[None], change)["head.fc"])
    assert explorer.do("npresnet.app.altered") is False
    explorer.page.mouse.move(0, 0)
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)
