"""What the explorer opens: odd pictures, damaged weights, hostile names; and its policy."""
from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import struct
import threading

import numpy as np
import pytest
from cli_helpers import run
from explorer_browser import Explorer, chromium, encoded, prepared, shipped_page
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet.demo import WEIGHTS
from npresnet.explorer import make_page
from npresnet.explorer.page import PHOTO

pytestmark = pytest.mark.slow
NAMES = ["<img src=x onerror=alert(1)>\"'&.png", "javascript:alert(1)%00{script}{data}.png"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("explorer")
    (found / "page.html").write_text(shipped_page(), "utf-8")
    return found


@pytest.fixture(scope="module")
def shared(browser, folder):
    """One page for tests that leave nothing behind."""
    explorer = Explorer(browser, (folder / "page.html").as_uri())
    yield explorer
    assert explorer.said == []


@pytest.fixture(scope="module")
def demo():
    return npresnet.create_model("demo", pretrained=True, backend="numpy")


# --- photographs ----------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
    want = demo(x)[0]
    delta = np.abs(explorer.array("npresnet.app.logits") - want).max() / np.abs(want).max()
    print(f"Δ of the logits: {delta:.1e}")
    assert delta <= 5e-5 and explorer.said == []
    explorer.page.close()


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
        unaltered = shared.array("npresnet.app.unaltered.logits")
        for logits in (got, unaltered):
            assert np.abs(logits - want).max() <= 5e-5 * np.abs(want).max()
        assert shared.do("npresnet.app.altered") is False
    shared.classify(PHOTO.read_bytes())


# --- weights --------------------------------------------------------------------------------------


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
