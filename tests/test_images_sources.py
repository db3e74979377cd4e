"""`load_image`: what it takes beside paths, what it says of the rest; what it doesn't wait for."""
from __future__ import annotations

import asyncio
import io
import os
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import awkward_picture
from picture_files import saved
from PIL import Image

from npresnet import ImageError, data, images, load_image, sources

PIXELS = awkward_picture(40, 30)                                  # (H, W, 3) uint8
PNG = saved(Image.fromarray(PIXELS), "PNG")


def error_of(source) -> str:
    """The message of the ImageError: one printable line, not too long."""
    with pytest.raises(ImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500, repr(message)
    return message


def assert_pixels(source, want=PIXELS) -> None:
    image = load_image(source)
    assert type(image) is Image.Image and image.mode == "RGB"
    np.testing.assert_array_equal(image, want)


# --- bytes and file objects -----------------------------------------------------------------------


class Upload:
    """As far as web frameworks agree: it has `read`, a name, and nothing else."""

    def __init__(self, data: object, filename: object = "cat.png"):
        self.data, self.filename = data, filename

    def read(self, size: int = -1) -> object:
        return self.data


class Rewound(io.BytesIO):
    """As werkzeug's FileStorage: `name` is the form's field."""
    name, filename = "field", "cat.png"


def test_bytes():
    for whole in (PNG, bytearray(PNG), memoryview(PNG), memoryview(bytes(2) + PNG)[2:]):
        assert_pixels(whole)
    twice = bytearray(2 * len(PNG))
    twice[::2] = PNG
    assert_pixels(memoryview(twice)[::2])
    for nothing in (b"", bytearray(), memoryview(b""), io.BytesIO(), Upload(b"", "")):
        assert error_of(nothing) == "picture: is empty"
    assert error_of(b"dear diary").startswith("picture: is not a picture that Pillow can read")
    assert error_of(b"/etc/passwd").startswith("picture: is not a picture that Pillow can read")


def test_file_objects(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert_pixels(np.array([str(tmp_path / "a.png")])[0])         # NumPy's own str and bytes
    assert_pixels(np.bytes_(PNG))
    file = io.BytesIO(PNG)
    for _ in range(2):                                            # from its start, wherever it is
        assert_pixels(file)
        file.read()
    assert_pixels(Upload(PNG))
    assert_pixels(Upload(bytearray(PNG)))
    with tempfile.SpooledTemporaryFile() as spooled, tempfile.TemporaryFile() as temporary:
        for file in (spooled, temporary):
            file.write(PNG)
            assert_pixels(file)
            file.truncate(60)
            assert error_of(file).startswith("picture: is truncated")
    assert error_of(Rewound(PNG[:60])).startswith("cat.png: is truncated")
    assert error_of(Upload(PNG[:60])).startswith("cat.png: is truncated")


def test_what_cannot_be_wound_back_is_read_to_its_end():
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "wb") as writer:
        thread = threading.Thread(target=lambda: (writer.write(PNG), writer.close()))
        thread.start()
        assert_pixels(reader)
        thread.join()
        assert not reader.closed


def test_files_that_give_no_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    text = "is open as text: open it with mode 'rb'"
    with open(tmp_path / "a.png", encoding="latin-1") as file:
        assert error_of(file) == f"{tmp_path}/a.png: {text}"
    assert error_of(io.StringIO("x")) == f"picture: {text}"
    assert error_of(Upload("letters")) == f"cat.png: {text}"
    assert error_of(Upload(None)) == "cat.png: its read() gives None, not bytes"
    assert error_of(Upload([1])) == "cat.png: its read() gives a list, not bytes"
    closed = io.BytesIO(PNG)
    closed.close()
    assert error_of(closed).startswith("picture: is closed: give it while it is open")


@pytest.mark.filterwarnings("error")                              # no coroutine is left unawaited
def test_asynchronous_files_are_refused_with_advice():
    async def read(size: int = -1) -> bytes:
        return PNG

    async def seek(offset: int) -> int:
        return offset

    hidden = SimpleNamespace(read=lambda *size: read(), filename="cat.png", seek=seek, tell=int)
    for upload in (SimpleNamespace(read=read, seek=seek, filename="cat.png"), hidden):
        assert error_of(upload).startswith("cat.png: its read() is asynchronous: `await ")
    assert_pixels(asyncio.run(read()))


# --- Pillow's pictures ----------------------------------------------------------------------------


def test_pillows_pictures_are_converted_as_files_are_and_left_alone(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [Image.new("I;16", (5, 4), 25700), Image.new("RGBA", (5, 4), (255, 0, 0, 51)),
                Image.new("LA", (5, 4), (0, 0)), Image.new("L", (5, 4), 7),
                Image.new("P", (5, 4), 1), Image.new("1", (5, 4), 1)]
    for picture in pictures:
        picture.save(path, exif=exif)
        with Image.open(path) as image:
            before = image.mode, image.size, image.getexif().get(0x0112)
            np.testing.assert_array_equal(load_image(image), load_image(path))
            assert (image.mode, image.size, image.getexif().get(0x0112)) == before
            assert image.size == (5, 4) and load_image(image).size == (4, 5)
            image.getpixel((0, 0))                                # it is still open
    image = Image.fromarray(PIXELS)
    load_image(image).paste("red", (0, 0, 40, 30))
    np.testing.assert_array_equal(image, PIXELS)


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX",
         "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow(mode):
    assert load_image(Image.new(mode, (3, 2))).size == (3, 2)


def test_premultiplied_alpha():
    """Stored is colour·α: black at α = 0.2 over white is 0.8 of white."""
    assert load_image(Image.new("RGBa", (1, 1), (51, 0, 0, 51))).getpixel((0, 0)) == (255, 204, 204)
    assert load_image(Image.new("La", (1, 1), (0, 51))).getpixel((0, 0)) == (204, 204, 204)


def test_of_an_open_animation_the_frame_it_stands_at():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(2)
        assert load_image(image).getpixel((0, 0)) == (0, 0, 255)
        assert image.tell() == 2


def test_pillows_pictures_that_are_no_use(tmp_path):
    (tmp_path / "cut.png").write_bytes(PNG[:len(PNG) // 2])
    with Image.open(tmp_path / "cut.png") as image:
        assert error_of(image).startswith(f"{tmp_path}/cut.png: is truncated or damaged")
    assert error_of(Image.new("RGB", (0, 3))) == "picture: has no pixels (0×3)"


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays():
    grey = PIXELS[:, :, 0]
    greys = np.repeat(grey[:, :, None], 3, axis=2)
    assert_pixels(PIXELS)
    assert_pixels(PIXELS[::-1, ::-2], PIXELS[::-1, ::-2])
    assert_pixels(grey, greys)
    assert_pixels(grey[:, :, None], greys)
    assert_pixels(grey > 99, np.where(greys > 99, 255, 0))
    assert_pixels(np.asfortranarray(PIXELS > 99), np.where(PIXELS > 99, 255, 0))
    faint = np.full((2, 3, 4), [255, 0, 0, 51], np.uint8)
    assert_pixels(faint, np.full((2, 3, 3), [255, 204, 204]))     # colour·α + 255·(1 − α)
    assert_pixels(SimpleNamespace(__array__=lambda *_, **__: PIXELS))  # a tensor of a framework
    locked = PIXELS.copy()
    locked.flags.writeable = False
    load_image(locked).paste("red", (0, 0, 40, 30))
    assert_pixels(locked)


@pytest.mark.parametrize("array, advice", [
    (PIXELS.transpose(2, 0, 1), "array.transpose(1, 2, 0)"),
    (PIXELS[:, :, :1].transpose(2, 0, 1), "array.transpose(1, 2, 0)"),
    (PIXELS.astype(np.float32) / 255, "np.round(255 * array).astype(np.uint8)"),
    (PIXELS.astype(np.float64), "np.round(array).astype(np.uint8)"),
    (PIXELS.astype(np.int64), "np.round(array).astype(np.uint8)"),
    (PIXELS.astype(np.uint16) * 257, "np.round(array / 257).astype(np.uint8)"),
    (PIXELS.transpose(2, 0, 1) / 255,
     "np.round(255 * array.transpose(1, 2, 0)).astype(np.uint8)"),
])
def test_the_advice_about_arrays_leads_to_the_picture(array, advice):
    message = error_of(array)
    assert f"array of {array.dtype} and shape {array.shape}" in message
    assert "uint8 pixels (H, W, 3)" in message and message.endswith(f"give {advice}"), message
    got = eval(advice, {"array": array, "np": np})
    want = PIXELS if 1 not in array.shape else np.repeat(PIXELS[:, :, :1], 3, 2)
    assert_pixels(got, want)


@pytest.mark.parametrize("array, says", [
    (np.zeros((3, 8, 9), "f") - 2, "the values lie in -2…-2, bring them to 0…255; or if this is "
                                   "the network's input already, give it to the model: "
                                   "model(array[None])"),
    (np.zeros((8, 9, 3), "f") - 2, "model(array.transpose(2, 0, 1)[None])"),
    (np.full((8, 9, 3), np.nan), "bring them to 0…255"),
    (np.zeros((5, 8, 9, 3), np.uint8), "give the pictures in it one by one"),
    (np.array(["a.png", "b.png"]), "give the pictures in it one by one"),
    (np.array([PIXELS, None], dtype=object), "give the pictures in it one by one"),
    (np.frombuffer(PNG, np.uint8), "if these are the bytes of a file, give array.tobytes()"),
    (np.zeros((8, 9, 7), np.uint8), "7 channels are no colours, choose three of them"),
    (np.zeros((8, 9, 2), np.uint8), "2 channels are no colours, choose three of them"),
    (np.zeros((0, 9, 3), np.uint8), "has no pixels (9×0)"),
    (np.zeros((9, 0), bool), "has no pixels (0×9)"),
    (np.zeros((9, 0, 3)), "give np.round"),
    (np.float32(1), "shape ()"),
])
def test_arrays_that_are_no_pictures(array, says):
    message = error_of(array)
    assert message.startswith("picture: ") and says in message, message


# --- what is no picture ---------------------------------------------------------------------------


@pytest.mark.parametrize("thing, kind", [(None, "None"), (3, "an int"), (1.5, "a float"),
                                         ([PNG], "a list"), ({"path": "a.png"}, "a dict"),
                                         (object(), "an object"), (Path, "a type")])
def test_things_that_hold_no_picture(thing, kind):
    assert error_of(thing) == ("picture: expected a path, a file's bytes, an open binary file, a "
                               f"Pillow picture or an array, got {kind}")


@pytest.mark.parametrize("url, advice", [
    ("https://example.com/cat.jpg", "download it first"), ("HTTP://example.com", "download it"),
    ("s3://bucket/cat.jpg", "download it first"), ("gs://bucket/cat.jpg", "download it first"),
    ("weird+scheme://cat", "download it first"), (Path("https://a.b/cat.jpg"), "download it"),
    ("file:///tmp/cat.jpg", "give the path alone"),
    ("data:image/png;base64," + 3000 * "A", "base64.b64decode"),
])
def test_urls(url, advice):
    message = error_of(url)
    assert ": is a URL; " in message and advice in message and str(url)[:9] in message


def test_names_that_only_look_like_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data:cat.png", "https:", "c:/cat.png", "a b://cat.png", "note: cat.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(PNG)
        assert_pixels(name)
    assert error_of("c:/dog.png") == "c:/dog.png: no such file"
    assert error_of("note: dog.png") == "note: dog.png: no such file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
@pytest.mark.timeout(20)
def test_fifos_sockets_and_devices_are_refused_at_once(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo.jpg"
    os.mkfifo(fifo)
    refused = "is a FIFO, not a regular file"
    assert error_of(fifo) == f"{fifo}: {refused}"
    assert error_of(os.devnull) == f"{os.devnull}: is a device, not a regular file"
    monkeypatch.chdir(tmp_path)                                   # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        assert error_of("socket.jpg") == "socket.jpg: is a socket, not a regular file"
    (tmp_path / "link.jpg").symlink_to(fifo)
    assert error_of("link.jpg") == f"link.jpg: {refused}"
    regular = os.stat(__file__)                                   # it was a file a moment ago
    with monkeypatch.context() as patch:
        patch.setattr(sources.os, "stat", lambda path: regular)
        message = error_of("fifo.jpg")
    assert message == f"fifo.jpg: {refused}"


def test_formats_that_pillow_only_recognises():
    """Their "decoders" are other programs, which aren't called."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    for start, name in ((eps, "EPS"), (b"BUFR" + bytes(99), "BUFR"), (b"GRIB" + bytes(3) + b"\1"
                        + bytes(99), "GRIB"), (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5")):
        assert error_of(start).startswith(f"picture: is {name}, which Pillow can't turn into pix")


def test_still_there_under_its_old_name():
    assert data.load_image is load_image is images.load_image
