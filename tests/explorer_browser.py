"""A real Chromium for the tests of the explorer, and what they ask its page for.

The fixtures work in every test file that imports their functions. The policy of the page
forbids evaluating text from inside it; Playwright's `evaluate` comes from outside.
"""
from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npresnet
from npresnet.explorer import make_page
from npresnet.variants import VARIANTS

LAYERS, LOGITS = 1e-4, 5e-5                                       # limits of Δ
AS_OPENED = """async () => {
  const { app } = npresnet;
  if (!app.tour.root.hidden) app.tour.close();
  document.getElementById("tool").value = "look";
  app.mapClass = null;
  app.select(app.layers[0].path);
  app.choose(null);
  app.reset();
  await app.newest;
  document.activeElement.blur();
  scrollTo(0, 0);
}"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PUT = "globalThis.unpack = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;"
PACK = """(data) => {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (bytes.toBase64) return bytes.toBase64();            // newer browsers, much faster
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) {
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  }
  return btoa(text);
}"""


@cache
def shipped_page() -> str:
    """The page with the photograph that ships, made once."""
    return make_page()


@contextmanager
def chromium() -> Iterator:
    """A browser, or a visible skip."""
    api = pytest.importorskip("playwright.sync_api", reason="the explorer's tests need playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("the explorer is tested in Chromium, and there is none here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Explorer:
    """A page of the explorer: what it says to the console and asks the network for is kept."""

    def __init__(self, browser, url: str, **options):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000}, **options)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.evaluate(PUT)
        self.do("npresnet.ready")

    def do(self, code: str, value=None):
        """What an expression gives; a promise is waited for. value: `v` in it."""
        return self.page.evaluate(f"async (v) => {{ const y = await ({code}); "
                                  "return y === undefined ? null : y; }", value)

    def run(self, code: str, value=None) -> np.ndarray:
        """The logits after what `code` does."""
        self.page.evaluate(f"async (v) => {{ await ({code}); }}", value)
        return self.array("npresnet.app.logits")

    def array(self, code: str, dtype="<f4") -> np.ndarray:
        text = self.page.evaluate(f"() => ({PACK})({code})")
        return np.frombuffer(base64.b64decode(text), dtype)

    def classify(self, data: bytes) -> np.ndarray:
        return self.run("npresnet.classify(unpack(v))", base64.b64encode(data).decode())

    def open_weights(self, path: Path) -> np.ndarray:
        return self.run("npresnet.app.openWeights(unpack(v[0]), v[1])",
                        [base64.b64encode(path.read_bytes()).decode(), path.name])

    def trace(self) -> dict[str, np.ndarray]:
        """Every layer, (C, H, W)."""
        rows = self.page.evaluate(f"() => npresnet.layers().map((path) => {{"
                                  "const { shape, data } = npresnet.layer(path);"
                                  f"return [path, shape, ({PACK})(data)]; }})")
        return {path: np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)
                for path, shape, text in rows}

    @property
    def status(self) -> str:
        return self.page.inner_text("#status")

    def refuse(self, file: Path | tuple[str, bytes]) -> str:
        """The status, once it says that a file, or a name with bytes, can't be opened."""
        name = file.name if isinstance(file, Path) else file[0]
        self.page.set_input_files("#open", file if isinstance(file, Path) else {
            "name": name, "mimeType": "", "buffer": file[1]})
        self.page.locator("#status.failed", has_text=f"{name}: ").wait_for()
        return self.status

    def put_back(self) -> None:
        """Everything as it was when the page was opened, which costs less than a new page.

        What was opened meanwhile stays. Nothing may have been said to the console, nor asked of
        the network.
        """
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file:", "blob:"))] == []
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size({"width": 1400, "height": 1000})
        self.page.emulate_media(color_scheme="light")
        self.page.evaluate(AS_OPENED)


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(name="browser", scope="module")
def browser_fixture():
    with chromium() as found:
        yield found


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory) -> Path:
    """It holds page.html, the page with the photograph that ships."""
    found = tmp_path_factory.mktemp("explorer")
    (found / "page.html").write_text(shipped_page(), "utf-8")
    return found


@pytest.fixture(name="url", scope="module")
def url_fixture(folder) -> str:
    return (folder / "page.html").as_uri()


@pytest.fixture(name="shared", scope="module")
def shared_fixture(browser, url):
    """One page for tests that don't mind what the one before has opened."""
    explorer = Explorer(browser, url)
    yield explorer
    assert explorer.said == []


@pytest.fixture(name="opened", scope="module")
def opened_fixture(browser, url):
    return Explorer(browser, url)


@pytest.fixture(name="explorer")
def explorer_fixture(opened):
    """A page as it is when it is opened: the same one, without what the test before did."""
    yield opened
    opened.put_back()


@pytest.fixture(name="demo", scope="module")
def demo_fixture():
    return npresnet.create_model("demo", pretrained=True, backend="numpy")


# --- numbers and pictures -------------------------------------------------------------------------


def agrees(got: np.ndarray, want: np.ndarray) -> None:
    """Logits of the page, against those of Python or PyTorch."""
    delta = np.abs(got - want.ravel()).max() / np.abs(want).max()
    print(f"Δ of the logits: {delta:.1e}")
    assert delta <= LOGITS


def narrow_model(monkeypatch, name: str, depths: tuple[int, ...] | None = None):
    """A member of the family at an eighth of its width, for seven classes → (variant, model)."""
    variant = VARIANTS[name]
    variant = replace(variant, name="narrow", width=0.125, depths=depths or variant.depths)
    monkeypatch.setitem(VARIANTS, "narrow", variant)
    return variant, npresnet.create_model("narrow", num_classes=7, backend="numpy")


def largest_delta(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    """The largest Δ of any layer. The paths have to be the same, in order."""
    assert list(got) == list(want)
    deltas = {}
    for path, y in want.items():
        assert got[path].shape == y[0].shape, path
        most = np.abs(y).max()
        deltas[path] = np.abs(got[path] - y[0]).max() / most if most else np.abs(got[path]).max()
    worst = max(deltas, key=lambda path: deltas[path])
    print(f"largest Δ of {len(deltas)} layers: {deltas[worst]:.1e} in {worst}")
    return float(deltas[worst])


def prepared(model, data: bytes, **changes) -> tuple[np.ndarray, np.ndarray]:
    """(pixels (H, W, 3), input (1, 3, H, W)) of a picture, in Python."""
    config = npresnet.data.resolve_model_data_config(model) | changes
    transform = npresnet.data.create_transform(**config)
    image = npresnet.load_image(data)
    return np.asarray(transform.crop(image)), transform(image)[None]


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    """The bytes of a picture file with these pixels."""
    image = Image.fromarray(pixels)
    return saved(image.convert(mode) if mode else image, kind, **options)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
