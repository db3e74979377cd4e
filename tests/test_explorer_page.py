"""The explorer's page: its controls, its looks, hostile names, and whoever can't see or point."""
from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run
from explorer_browser import (
    Explorer,
    agrees,
    browser_fixture,
    demo_fixture,
    encoded,
    explorer_fixture,
    folder_fixture,
    opened_fixture,
    prepared,
    url_fixture,
)
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet.explain import class_activation_map
from npresnet.explorer import make_page
from npresnet.explorer.page import HERE, PAGE, PHOTO, WORKER

MODULES = {name: (HERE / f"{name}.js").read_text("utf-8") for name in {*PAGE, *WORKER}}
TOLD = """new Promise((resolve) => {
  const told = document.querySelector("#tour-panel [aria-live]");
  new MutationObserver(() => resolve(told.textContent)).observe(told, { childList: true });
  document.querySelector("#tour-panel .primary").click();
})"""


# --- without a browser ----------------------------------------------------------------------------


def test_modules_can_be_joined():
    """One script has room for each name once, and knows what stands before."""
    names = [name for source in MODULES.values() for name in re.findall(
        r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", source, re.M)]
    assert sorted(names) == sorted(set(names))
    for order in (PAGE, WORKER):
        for i, name in enumerate(order):
            used = set(re.findall(r'from "\./(\w+)\.js"', MODULES[name]))
            assert used <= set(order[:i]), f"{name} comes before {used - set(order[:i])}"
    assert {path.name for path in Path(str(HERE)).glob("*.js")} == {f"{n}.js" for n in MODULES}
    long = [name for name, source in MODULES.items() if max(map(len, source.splitlines())) > 100]
    assert not long


def test_all_text_is_in_one_place():
    text = set(re.findall(r'^  "([\w.]+)":', MODULES["text"], re.M))
    page = (HERE / "page.html").read_text("utf-8")
    sources = "".join(source for name, source in MODULES.items() if name != "text") + page
    quoted = set(re.findall(r'"(\w+(?:\.\w+)+)"', sources))
    patterns = [re.sub(r"\$\{[^}]*\}", ".+", found)
                for found in re.findall(r"`(\w+\.[^`]*)`", sources)]
    unused = {key for key in text - quoted if not any(re.fullmatch(p, key) for p in patterns)}
    assert not unused
    asked = set(re.findall(r'\bt\("([\w.]+)"', sources)) | set(re.findall(
        r'data-(?:text|label)="([\w.]+)"', page))
    assert asked <= text


def test_the_command(tmp_path):
    picture = tmp_path / "a.png"
    Image.fromarray(awkward_picture(70, 50)).save(picture)
    page = tmp_path / "page.html"
    done = run("explore", picture, "-o", page)
    assert (done.returncode, done.stderr) == (0, b"") and str(page).encode() in done.stdout
    assert page.stat().st_size < 8e6 and "a.png" in page.read_text("utf-8")
    done = run("explore", picture, "-o", page)
    assert done.returncode == 2 and b"--overwrite" in done.stderr
    before = picture.read_bytes()
    (tmp_path / "link.html").symlink_to(picture)
    for target in (picture, tmp_path / "link.html"):
        done = run("explore", picture, "-o", target, "--overwrite")
        assert done.returncode == 2 and b"is one of the pictures themselves" in done.stderr
    assert picture.read_bytes() == before
    picture.write_text("no picture")
    done = run("explore", picture, "-o", tmp_path / "b.html")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and b"a.png" in done.stderr
    assert not (tmp_path / "b.html").exists()


@pytest.mark.slow
def test_a_large_photograph_still_fits():
    noise = np.random.default_rng(0).integers(0, 256, (2500, 3000, 3), dtype=np.uint8)
    assert len(make_page(noise)) < 8e6
    assert len(make_page(encoded(noise, "JPEG"))) < 8e6


# --- in a browser ---------------------------------------------------------------------------------


def set_control(explorer, name: str, value) -> np.ndarray:
    if isinstance(value, bool):
        explorer.page.set_checked(f"#experiment-{name}", value)
    else:
        explorer.page.select_option(f"#experiment-{name}", str(value))
    return explorer.run("npresnet.app.newest")


@pytest.mark.slow
@pytest.mark.parametrize("name, value, make", [
    ("mirror", True, lambda m, p: prepared(m, encoded(p[:, ::-1]))[1]),
    ("turn", 90, lambda m, p: prepared(m, encoded(np.rot90(p, -1)))[1]),
    ("turn", 180, lambda m, p: prepared(m, encoded(p[::-1, ::-1]))[1]),
    ("normalisation", "none", lambda m, p: prepared(
        m, encoded(p), mean=(0.0,) * 3, std=(1.0,) * 3)[1]),
    ("normalisation", "imagenet", lambda m, p: prepared(
        m, encoded(p), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))[1]),
    ("normalisation", "bgr", lambda m, p: prepared(m, encoded(p[..., ::-1]))[1]),
    ("size", 224, lambda m, p: prepared(m, PHOTO.read_bytes(), input_size=(3, 224, 224))[1])])
def test_what_is_done_to_the_photograph(explorer, demo, name, value, make):
    before = explorer.array("npresnet.app.logits")
    pixels = np.ascontiguousarray(prepared(demo, PHOTO.read_bytes())[0])
    agrees(set_control(explorer, name, value), demo(make(demo, pixels)))
    explorer.page.click("#undo")
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)


@pytest.mark.slow
def test_what_is_done_to_the_network(explorer, demo):
    """A branch that is off is one whose last convolution is zero; so is a channel."""
    _, x = prepared(demo, PHOTO.read_bytes())
    before = explorer.array("npresnet.app.logits")
    state = demo.state_dict()
    explorer.do("npresnet.app.select('stages.2.blocks.3'), null")
    explorer.page.click("text=Switch this block off")
    name, other = "stages.2.blocks.3.conv3.weight", npresnet.create_model("demo", backend="numpy")
    other.load_state_dict(state | {name: np.zeros_like(state[name])})
    agrees(explorer.run("npresnet.app.newest"), other(x))
    explorer.page.keyboard.press("Control+z")
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)
    weight = state["stem.conv.weight"].copy()
    weight[5] = 0
    other.load_state_dict(state | {"stem.conv.weight": weight})
    agrees(explorer.run("npresnet.app.toggle('stem.conv:5')"), other(x))
    explorer.page.click("#reset")
    assert np.array_equal(explorer.run("npresnet.app.newest"), before)


@pytest.mark.slow
def test_undo_goes_step_by_step(explorer):
    """Back through each experiment to its very logits, and no further."""
    seen = [explorer.array("npresnet.app.logits")]
    for name, value in [("turn", 90), ("mirror", True), ("normalisation", "bgr"), ("size", 96)]:
        seen.append(set_control(explorer, name, value))
    assert len({logits.tobytes() for logits in seen}) == 5
    for logits in seen[-2::-1]:
        assert explorer.page.is_enabled("#undo")
        explorer.page.click("#undo")
        assert np.array_equal(explorer.run("npresnet.app.newest"), logits)
    assert explorer.page.is_disabled("#undo") and explorer.page.is_disabled("#reset")


@pytest.mark.slow
def test_cover_and_paint(explorer, demo):
    pixels = np.array(prepared(demo, PHOTO.read_bytes())[0])
    covered, size = pixels.copy(), 40
    covered[30:70, 50:90] = 128
    got = explorer.run("npresnet.app.addMarks([{square: v, row: 50, column: 70}])", size)
    assert np.array_equal(explorer.array("npresnet.app.pixels.data", np.uint8), covered.ravel())
    agrees(got, demo(prepared(demo, encoded(covered))[1]))
    explorer.run("npresnet.app.alter({size: 320})")
    large = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(320, 320, 3)
    assert not (large == 128).all(-1)[50:130, 90:170].all(), "a mark without a size stays small"
    explorer.page.click("#reset")
    explorer.run("npresnet.app.addMarks([{square: v, row: 50, column: 70, of: 160}])", size)
    explorer.run("npresnet.app.alter({size: 320})")
    large = explorer.array("npresnet.app.pixels.data", np.uint8).reshape(320, 320, 3)
    assert (large[60:140, 100:180] == 128).all()
    explorer.page.click("#reset")
    explorer.page.select_option("#tool", "cover")
    explorer.page.locator(".photo").click()
    shown = explorer.run("npresnet.app.newest")
    agrees(shown, demo(prepared(demo, encoded(explorer.array(
        "npresnet.app.pixels.data", np.uint8).reshape(pixels.shape)))[1]))


@pytest.mark.slow
def test_activation_maps(explorer, demo):
    _, x = prepared(demo, PHOTO.read_bytes())
    for index in (0, 4, 9):
        want = class_activation_map(demo, x, [index])[0, 0]
        got = np.array(explorer.do("Array.from(npresnet.app.activationMap(v).data)", index))
        assert np.abs(got - want.ravel()).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.slow
def test_hostile_names(browser, tmp_path):
    name = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&"
    page = make_page(PHOTO.read_bytes(), name)
    data = re.search(r'<script id="page-data" type="application/json">(.*?)</script>', page)[1]
    about = json.loads(data)
    about["labels"] = [name] * 10
    page = page.replace(data, json.dumps(about).replace("<", "\\u003c"))
    (tmp_path / "page.html").write_text(page, "utf-8")
    explorer = Explorer(browser, (tmp_path / "page.html").as_uri())
    assert explorer.page.inner_text(".answer .label >> nth=0") == name
    assert name in explorer.page.get_attribute(".photo", "aria-label")
    assert explorer.page.locator("img").count() == 0 and explorer.said == []


@pytest.mark.slow
def test_phone_and_dark(explorer):
    explorer.page.set_viewport_size({"width": 360, "height": 740})
    explorer.do("npresnet.app.choose({path: v, channel: 0, row: 0, column: 0}), null",
                "stages.0.blocks.0.conv2")
    assert explorer.do("document.documentElement.scrollWidth") <= 360
    explorer.page.emulate_media(color_scheme="dark")
    ground = explorer.do("getComputedStyle(document.documentElement).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60


@pytest.mark.slow
def test_keyboard_alone(browser, url):
    explorer = Explorer(browser, url)                             # where Tab starts at the top
    reached, press = set(), explorer.page.keyboard.press
    for _ in range(40):
        press("Tab")
        reached.add(explorer.do("document.activeElement.id || document.activeElement.className"))
    assert {"tour", "open", "photo", "answer", "search"} <= reached
    explorer.page.focus(".node[aria-current='true']")
    press("ArrowRight")
    assert explorer.do("npresnet.app.selected") == "stem.pool"
    explorer.page.focus(".large")
    press("ArrowRight")
    press("Enter")
    assert explorer.do("npresnet.app.chosen.path") == "stem.pool"
    assert explorer.said == []
    explorer.page.close()


@pytest.mark.slow
def test_the_focus_stays(explorer):
    """Buttons are made anew at each step: whoever uses the keyboard keeps the place."""
    explorer.page.focus(".answer >> nth=1")
    explorer.page.keyboard.press("Enter")
    assert explorer.do("document.activeElement.className") == "answer"
    explorer.do("npresnet.app.choose({path: 'stem.pool', channel: 0, row: 1, column: 1}), null")
    explorer.page.focus("#why-panel .cell >> nth=0")
    explorer.page.keyboard.press("Enter")
    assert explorer.do("document.activeElement.closest('#why-panel') !== null")


@pytest.mark.slow
def test_the_tour(explorer):
    explorer.page.click("#tour")
    for step in range(12):
        explorer.run("npresnet.app.newest")
        assert f"{step + 1} of 12" in explorer.page.inner_text("#tour-panel h2")
        said = []
        for option in range(3):                                   # one after the other
            explorer.page.locator("#tour-panel input").nth(option).check()
            said.append(explorer.do(TOLD))
            text = explorer.page.inner_text("#tour-panel")
            assert "undefined" not in text and "NaN" not in text and "{" not in text
        assert sorted(text.startswith("Right. ") for text in said) == [False, False, True], said
        right, = (text.removeprefix("Right. ") for text in said if text.startswith("Right. "))
        assert all(text.endswith(right) for text in said), said
        if step < 11:
            explorer.page.click("#tour-panel >> text=Next")
    explorer.page.click("text=End the tour")
    assert explorer.do("npresnet.app.altered") is False


@pytest.mark.slow
@pytest.mark.parametrize("state", ["start", "asked", "tour", "dark", "phone"])
def test_accessibility(explorer, state):
    """What axe-core finds serious."""
    if find_spec("axe_playwright_python") is None:
        pytest.skip("needs axe-playwright-python")
    folder = Path(find_spec("axe_playwright_python").origin).parent
    if state == "asked":
        explorer.do("npresnet.app.choose({path: 'stem.conv', channel: 1, row: 0, column: 3}), null")
    elif state == "tour":
        explorer.page.click("#tour")
    elif state == "dark":
        explorer.page.emulate_media(color_scheme="dark")
    elif state == "phone":
        explorer.page.set_viewport_size({"width": 360, "height": 740})
    explorer.run("npresnet.app.newest")
    explorer.page.evaluate((folder / "axe.min.js").read_text("utf-8"))
    found = explorer.page.evaluate("() => axe.run().then((result) => result.violations.map("
                                   "(v) => [v.impact, v.id, v.nodes.map((n) => n.html)]))")
    assert [finding for finding in found if finding[0] in ("serious", "critical")] == []
