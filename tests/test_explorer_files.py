"""What the explorer opens: odd pictures, hostile names; and its policy."""
from __future__ import annotations

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest
from cli_helpers import run
from explorer_browser import (
    Explorer,
    agrees,
    browser_fixture,
    demo_fixture,
    encoded,
    folder_fixture,
    prepared,
    saved,
    shared_fixture,
    url_fixture,
)
from helpers import awkward_picture
from PIL import Image

from npresnet.explorer import make_page
from npresnet.explorer.page import PHOTO

pytestmark = pytest.mark.slow
NAMES = ["<img src=x onerror=alert(1)>\"'&.png", "javascript:alert(1)%00{script}{data}.png"]


# --- photographs ----------------------------------------------------------------------------------


def photographs() -> dict[str, bytes]:
    """Those that a browser and Pillow might take for something else."""
    pixels = awkward_picture(120, 90)
    image, other = Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())
    exif = Image.Exif()
    exif[0x0112] = 6                                              # a quarter turn
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return {
        "turned webp": saved(image, "WEBP", lossless=True, exif=exif),
        "turned png": saved(image, "PNG", exif=exif),
        "turned jpeg": saved(image, "JPEG", exif=exif),
        "moving png": saved(image, "PNG", save_all=True, append_images=[other],
                            default_image=True),
        "gif": saved(image.quantize(16), "GIF", transparency=3),
        "cmyk": saved(image.convert("CMYK"), "JPEG"),
        "16 bits": saved(deep, "PNG"),
        "tiff": saved(image, "TIFF"),
        "see-through palette": saved(image.quantize(16), "PNG", transparency=3)}


@pytest.mark.parametrize("name", photographs())
def test_the_page_has_the_picture_that_python_read(browser, tmp_path, demo, name):
    data = photographs()[name]
    (tmp_path / "page.html").write_text(make_page(data), "utf-8")
    explorer = Explorer(browser, (tmp_path / "page.html").as_uri())
    pixels, x = prepared(demo, data)
    got = explorer.array("npresnet.app.cropped.data", np.uint8)
    assert np.array_equal(got, pixels.ravel()), f"{(got != pixels.ravel()).sum()} bytes differ"
    agrees(explorer.array("npresnet.app.logits"), demo(x))
    assert explorer.said == []
    explorer.page.close()


@pytest.mark.parametrize("kind, exif", [
    ("PNG", b"MM\0*\xff\xff\xff\xff"), ("WEBP", b"XX\0*\xff\xff\xff\xff")])
def test_damaged_exif_data_is_no_reason_to_refuse(recwarn, kind, exif):
    """Nor to warn: the pixels are fine."""
    data = saved(Image.fromarray(awkward_picture(40, 30)), kind, exif=b"Exif\0\0" + exif)
    assert base64.b64encode(data).decode() in make_page(data)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("make", [Image.fromarray, np.asarray])
def test_pictures_that_are_no_files(make):
    """A Pillow picture and an array: the page holds exactly their pixels."""
    pixels = awkward_picture(70, 50)
    page = make_page(make(pixels), "mine")
    text = page.split('<script id="photo" type="text/plain">')[1].split("</script>")[0]
    held = Image.open(io.BytesIO(base64.b64decode(text)))
    assert held.format == "PNG" and np.array_equal(np.asarray(held), pixels)


def test_a_photograph_opened_during_an_experiment(shared, demo):
    """It is compared with itself; nothing of the one before shows up, in whichever order."""
    data = encoded(awkward_picture(90, 120))
    want = demo(prepared(demo, data)[1])[0]
    for code in ("npresnet.app.edit({mirror: true})", "npresnet.app.preview([])"):
        got = shared.run(f"(async () => {{ const first = {code};"
                         "const photo = npresnet.classify(unpack(v));"
                         "npresnet.app.edit({turn: 180}); npresnet.app.undo();"
                         "await photo; await first; await npresnet.app.newest; })()",
                         base64.b64encode(data).decode())
        for logits in (got, shared.array("npresnet.app.unaltered.logits")):
            agrees(logits, want)
        assert shared.do("npresnet.app.altered") is False
    shared.classify(PHOTO.read_bytes())


def test_an_experiment_asked_for_before_a_photograph_is_computed(shared):
    """Its run isn't skipped: later shares are compared with it."""
    want = shared.array("npresnet.app.logits")
    shared.run("""(async () => {
      const { app } = npresnet;
      const runs = [app.edit({ mirror: true }), app.usePicture({ ...app.picture }, "b", true),
                    app.edit({ turn: 180 })];
      await Promise.all(runs);
      await app.newest;
    })()""")
    assert np.array_equal(shared.array("npresnet.app.unaltered.logits"), want)
    assert not np.array_equal(shared.array("npresnet.app.logits"), want)
    assert np.array_equal(shared.run("npresnet.app.undo()"), want)


def test_a_damaged_photograph_is_refused(shared):
    before = shared.array("npresnet.app.cropped.data", np.uint8)
    for name, data in {"cut.png": encoded(awkward_picture(40, 50))[:60], "empty.jpg": b"",
                       "text.webp": b"no picture", "none.svg": b"<svg onload='alert(1)'/>"}.items():
        assert "can't be read as a picture" in shared.refuse((name, data))
    shared.run("npresnet.app.run()")
    assert np.array_equal(shared.array("npresnet.app.cropped.data", np.uint8), before)


# --- hostile names, other places, and the policy --------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_of_files(browser, tmp_path, name):
    """From the command line, and opened in the page: shown as they are."""
    try:
        (tmp_path / name).write_bytes(encoded(awkward_picture(40, 30)))
    except OSError:
        pytest.skip("this file system has no such names")
    done = run("explore", str(tmp_path / name), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    explorer = Explorer(browser, (tmp_path / "page.html").as_uri())
    assert explorer.page.get_attribute(".photo", "aria-label").startswith(name)
    for kind in ("png", "safetensors"):
        hostile = f"{name}.{kind}"
        assert explorer.refuse((hostile, b"nothing")).startswith(f"{hostile}: ")
    assert explorer.page.locator("img").count() == 0 and explorer.said == []
    explorer.page.close()


@pytest.fixture
def server(folder):
    """(address, what was asked for) of a server of the page."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", asked
        found.shutdown()


ESCAPES = """async (v) => {
  const tries = {
    fetch: () => fetch(`${v}/fetched`),
    picture: () => new Promise((done, failed) => {
      const image = new Image();
      Object.assign(image, { onload: done, onerror: failed, src: `${v}/page.html?picture` });
    }),
    frame: () => new Promise((done, failed) => {
      const frame = document.createElement("iframe");
      frame.src = `${v}/page.html?frame`;
      document.body.append(frame);
      setTimeout(failed, 300);
    }),
    script: () => {
      const script = document.createElement("script");
      script.textContent = "globalThis.ran = true";
      document.body.append(script);
      if (!globalThis.ran) throw new Error("didn't run");
    },
    handler: () => {
      const button = document.createElement("button");
      button.setAttribute("onclick", "globalThis.clicked = true");
      document.body.append(button);
      button.click();
      if (!globalThis.clicked) throw new Error("didn't run");
    } };
  const through = [];
  for (const [name, attempt] of Object.entries(tries)) {
    try { await attempt(); through.push(name); } catch {}
  }
  return through;
}"""


def test_over_http_nothing_gets_in_or_out(browser, server):
    """It works from a server, too, and its policy stops what a hole would let through."""
    address, asked = server
    explorer = Explorer(browser, f"{address}/page.html")
    assert "tench" in explorer.status and explorer.said == []
    assert asked == ["/page.html"]
    assert explorer.page.evaluate(ESCAPES, address) == []
    assert asked == ["/page.html"] and len(explorer.said) >= 5    # each refusal is said
    explorer.page.close()
