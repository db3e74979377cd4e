"""`load_image`: what is no sound picture becomes an ImageError, and no file stays open."""
from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from helpers import awkward_picture, unprivileged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_files import png, saved
from PIL import Image

from npresnet import ImageError, load_image

PHOTO = Image.fromarray(awkward_picture(60, 40))


def error_of(file) -> str:
    """The message of the ImageError: one printable line."""
    with pytest.raises(ImageError) as caught:
        load_image(file)
    message = str(caught.value)
    assert message.isprintable(), repr(message)
    return message


# --- what is no picture ---------------------------------------------------------------------------


def test_not_a_picture(tmp_path):
    path = tmp_path / "a.jpg"
    assert error_of(path) == f"{path}: no such file"
    assert error_of(tmp_path) == f"{tmp_path}: is a directory"
    path.touch()
    assert error_of(path) == f"{path}: is empty"
    path.write_text("dear diary")
    assert error_of(path).startswith(f"{path}: is not a picture that Pillow can read")
    assert error_of(str(path)) == error_of(path)
    assert error_of(path / "below") == f"{path}/below: not a directory"
    assert error_of("a" * 300).endswith("name too long")
    assert error_of("a\0b").startswith(r"a\x00b: ")
    assert error_of("") == ": no such file"
    path.chmod(0)
    with unprivileged():
        message = error_of(path)
    assert message == f"{path}: permission denied"


def test_names_that_no_terminal_shows(tmp_path):
    names = {"with space": "with space", "ünï☃": "ünï☃", "two\nlines": r"two\nlines",
             "\x1b[31m": r"\x1b[31m", os.fsdecode(b"\xff\xfe"): r"\udcff\udcfe"}
    for name, shown in names.items():
        path = tmp_path / name
        path.write_bytes(b"no picture")
        assert error_of(path).startswith(f"{tmp_path}/{shown}: is not a picture")
        path.write_bytes(saved(Image.new("RGB", (2, 2)), "PNG"))
        assert load_image(path).size == (2, 2)
        assert load_image(str(path)).size == (2, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncated_anywhere(tmp_path, file_format):
    whole, path = saved(PHOTO, file_format), tmp_path / "cut"
    for share in (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.8):
        path.write_bytes(whole[:max(1, int(share * len(whole)))])
        message = error_of(path)
        assert message.startswith(f"{path}: "), message
        assert any(word in message for word in ("damaged", "truncated", "EOF")), message


def test_progressive_jpeg_and_interlaced_data_that_end_early(tmp_path):
    whole, path = saved(PHOTO, "JPEG", progressive=True), tmp_path / "cut.jpg"
    path.write_bytes(whole[:len(whole) // 2])
    assert "is truncated or damaged" in error_of(path)


def test_pictures_without_pixels():
    fields = (54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    bitmap = b"BM" + struct.pack("<IHHIIiiHHIIiiII", *fields)
    for data in (png(0, 5, 8, 2, b""), png(5, 0, 8, 2, b""), b"P6 0 0 255\n", b"P5 0 3 255\n",
                 b"GIF89a\0\0\0\0\0\0\0;", bitmap):
        error_of(io.BytesIO(data))


def test_a_decompression_bomb_is_not_even_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 2, bytes(1000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
    tracemalloc.start()
    message = error_of(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert message.startswith(f"{path}: has far more pixels than the limit of ")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_between_pillows_warning_and_its_error(tmp_path, monkeypatch):
    path, data = tmp_path / "large.png", saved(Image.new("L", (30, 20)), "PNG")
    path.write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert load_image(path).size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
    assert error_of(path).startswith(
        f"{path}: 30×20 pixels are more than the limit of 599; make it smaller, or raise")
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (30, 20)


@pytest.mark.filterwarnings("error")
def test_a_warning_made_an_error_is_an_image_error(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (30, 20)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    assert error_of(tmp_path / "a.png").startswith(f"{tmp_path}/a.png: ")


@pytest.mark.slow
def test_text_that_unpacks_to_far_too_much():
    bomb = b"note\0\0" + zlib.compress(bytes(200 * 2**20))
    data = png(1, 1, 8, 2, bytes(4), zTXt=bomb)
    assert error_of(io.BytesIO(data)).startswith("picture: can't be decoded")


def raising(error):
    """What stands in for `Image.load` and raises `error`."""
    def load(self):
        raise error
    return load


def test_a_decoder_that_breaks_is_an_image_error(monkeypatch):
    data = saved(PHOTO, "PNG")
    for error in (MemoryError(), RecursionError("deep"), SyntaxError("broken PNG"),
                  struct.error("short"), KeyError(7), OSError(5, None), OSError("several\nlines")):
        monkeypatch.setattr(Image.Image, "load", raising(error))
        assert error_of(io.BytesIO(data)).startswith("picture: ")


def test_an_interrupt_is_none(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_image(io.BytesIO(saved(PHOTO, "PPM")))


# --- open files -----------------------------------------------------------------------------------


def test_open_files(tmp_path):
    data = saved(Image.new("RGB", (4, 2), "red"), "PNG")
    file = io.BytesIO(data)
    assert load_image(file).size == (4, 2)
    assert not file.closed                                        # it is the caller's
    (tmp_path / "a.png").write_bytes(data)
    with open(tmp_path / "a.png", "rb") as file:
        assert load_image(file).size == (4, 2)
    (tmp_path / "b.png").write_bytes(data[:45])
    with open(tmp_path / "b.png", "rb") as file:
        assert error_of(file).startswith(f"{tmp_path}/b.png: is truncated")
    assert error_of(io.BytesIO(b"no picture")).startswith("picture: is not a picture")
    assert error_of(io.BytesIO()).startswith("picture: ")


def count_open_files() -> int:
    """How many files this process holds open; 0 where the system doesn't say."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_no_file_stays_open(tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    good.write_bytes(saved(PHOTO, "PNG"))
    bad.write_bytes(saved(PHOTO, "PNG")[:500])
    load_image(good)
    error_of(bad)
    before = count_open_files()
    images = [load_image(good) for _ in range(5)]
    for _ in range(5):
        error_of(bad)
    assert len(images) == 5 and count_open_files() == before


# --- anything at all ------------------------------------------------------------------------------

SMALL = PHOTO.resize((9, 7))
MEDIUM = PHOTO.resize((24, 17))
FRAME = SMALL.quantize(8)
SEEDS = {
    "PNG": [saved(SMALL, "PNG"), saved(FRAME, "PNG", transparency=bytes([0, 99]))],
    "JPEG": [saved(MEDIUM, "JPEG"), saved(MEDIUM.convert("CMYK"), "JPEG", progressive=True)],
    "GIF": [saved(FRAME, "GIF", save_all=True, append_images=[SMALL.quantize(4)])],
    "TIFF": [saved(SMALL, "TIFF"), saved(SMALL.convert("I;16"), "TIFF"),
             saved(SMALL, "TIFF", compression="tiff_lzw")],
    "WEBP": [saved(SMALL, "WEBP"), saved(SMALL.convert("RGBA"), "WEBP", lossless=True)],
}
SHARE = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=5)  # (where, new byte)
CUT = st.one_of(st.none(), st.floats(0, 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", SEEDS)
@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), CHANGES, CUT)
def test_any_damage_gives_a_picture_or_an_image_error(file_format, which, changes, cut):
    seeds = SEEDS[file_format]
    data = bytearray(seeds[which % len(seeds)])
    for where, value in changes:
        data[int(where * len(data))] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)           # refuses larger ones: is quick
        try:
            image = load_image(io.BytesIO(data if cut is None else data[:int(cut * len(data))]))
        except ImageError as error:
            assert str(error).startswith("picture: ") and str(error).isprintable()
        else:
            assert type(image) is Image.Image and image.mode == "RGB" and min(image.size) > 0
            assert np.asarray(image).shape == (image.height, image.width, 3)
