"""`load_image`: whatever picture a person may have comes out upright, in RGB and as that person sees it; whatever else, as an ImageError."""
from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from helpers import awkward_picture, unprivileged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from npresnet import ImageError, load_image

WHITE, BLACK, RED, GREEN, BLUE = [255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of `image` as a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG file by hand. colour: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA. rows: each with its filter byte in front."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    extra = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pixels(data: bytes) -> list:
    """What `load_image` makes of a file's bytes: rows of [R, G, B]."""
    image = load_image(io.BytesIO(data))
    assert type(image) is Image.Image and image.mode == "RGB"
    return np.asarray(image).tolist()


def picture(mode: str, values) -> Image.Image:
    """A one-row picture of these pixels."""
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def error_of(file) -> str:
    """The message of the ImageError: one printable line."""
    with pytest.raises(ImageError) as caught:
        load_image(file)
    message = str(caught.value)
    assert message.isprintable(), repr(message)
    return message


# --- every mode that a file may have --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, values, want", [
    ("1", [0, 1], [BLACK, WHITE]),
    ("L", [0, 100, 255], [BLACK, [100] * 3, WHITE]),
    ("LA", [(0, 255), (0, 0), (100, 51)], [BLACK, WHITE, [224] * 3]),                     # 100·0.2 + 255·0.8
    ("RGB", [(1, 2, 3), (255, 0, 7)], [[1, 2, 3], [255, 0, 7]]),
    ("RGBA", [(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 51), (0, 100, 200, 102)],
     [RED, WHITE, [255, 204, 204], [153, 193, 233]]),                                     # colour·α + 255·(1 − α), α = 0, 0.2, 0.4
    ("CMYK", [(0, 0, 0, 0), (0, 0, 0, 255), (0, 255, 255, 0), (255, 0, 0, 0)], [WHITE, BLACK, RED, [0, 255, 255]]),
    ("YCbCr", [(0, 128, 128), (255, 128, 128), (76, 85, 255)], [BLACK, WHITE, [254, 0, 0]]),
    ("I;16", [0, 257, 32768, 65535], [BLACK, [1] * 3, [128] * 3, WHITE]),                 # v / 257
    ("I;16B", [0, 25700, 65535], [BLACK, [100] * 3, WHITE]),
    ("I", [0, 25700, 65535], [BLACK, [100] * 3, WHITE]),
    ("I", [0, 100, 255], [BLACK, [100] * 3, WHITE]),
    ("I", [-100, 0, 100], [BLACK, [128] * 3, WHITE]),
    ("I", [0, 2**30, 2**31 - 1], [BLACK, [128] * 3, WHITE]),
    ("F", [0.0, 0.2, 1.0], [BLACK, [51] * 3, WHITE]),
    ("F", [0.0, 100.0, 255.0], [BLACK, [100] * 3, WHITE]),
    ("F", [0.0, 25700.0, 65535.0], [BLACK, [100] * 3, WHITE]),
    ("F", [-1.0, 0.0, 1.0], [BLACK, [128] * 3, WHITE]),
    ("F", [float("nan"), 0.2, 1.0], [BLACK, [51] * 3, WHITE]),
    ("F", [0.0, 0.0], [BLACK, BLACK]),
    ("F", [-7.0, -7.0], [BLACK, BLACK]),
])
def test_modes_in_tiff(mode, values, want):
    data = saved(picture(mode, values), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == mode
    assert pixels(data) == [want]


def test_lab():
    data = saved(picture("LAB", [(0, 128, 128), (255, 128, 128), (138, 209, 198)]), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "LAB"
    assert np.abs(np.array(pixels(data)) - [[BLACK, WHITE, RED]]).max() <= 6              # L* 54.3, a* 80.8, b* 69.9 is sRGB's red


def test_a_palette_with_and_without_transparency():
    image = picture("P", [0, 1, 2])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    opaque = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    for file_format in ("PNG", "GIF", "TIFF", "BMP"):
        assert pixels(saved(image, file_format)) == [opaque], file_format
    assert pixels(saved(image, "PNG", transparency=1)) == [[opaque[0], WHITE, opaque[2]]]
    assert pixels(saved(image, "GIF", transparency=1)) == [[opaque[0], WHITE, opaque[2]]]
    assert pixels(saved(image, "PNG", transparency=bytes([0, 51, 255]))) == [[WHITE, [212, 214, 216], opaque[2]]]
    assert Image.open(io.BytesIO(saved(image, "PNG", transparency=1))).info["transparency"] == 1            # an index
    assert Image.open(io.BytesIO(saved(image, "PNG", transparency=b"\0\x33\xff"))).info["transparency"] == b"\0\x33\xff"


@pytest.mark.parametrize("depth, colour, row, trns, want", [
    (8, 2, [1, 2, 3, 4, 5, 6], [1, 2, 3], [WHITE, [4, 5, 6]]),
    (8, 0, [100, 50], [100], [WHITE, [50] * 3]),
    (1, 0, [0b10000000], [0], [WHITE, WHITE]),
])
def test_one_transparent_colour(depth, colour, row, trns, want):
    assert pixels(png(2, 1, depth, colour, bytes([0, *row]), tRNS=struct.pack(f">{len(trns)}H", *trns))) == [want]


@pytest.mark.parametrize("depth, colour, values, want", [
    (16, 0, [0, 32768, 65535], [BLACK, [128] * 3, WHITE]),
    (16, 0, [0, 200, 255], [BLACK, [1] * 3, [1] * 3]),                                    # dark is dark
    (16, 4, [0, 65535, 0, 0], [BLACK, WHITE]),
    (16, 2, [0, 0x8000, 0xFFFF], [[0, 128, 255]]),
    (16, 6, [65535, 0, 0, 65535, 65535, 0, 0, 0], [RED, WHITE]),
])
def test_16_bit_png(depth, colour, values, want):
    data = png(len(want), 1, depth, colour, b"\0" + struct.pack(f">{len(values)}H", *values))
    assert pixels(data) == [want]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_grey_levels(depth):
    """The largest value is white."""
    assert pixels(png(1, 1, depth, 0, b"\0\xff")) == [[WHITE]]
    assert pixels(png(1, 1, depth, 0, b"\0\0")) == [[BLACK]]


def test_16_bit_portable_grey_maps():
    assert pixels(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 25700, 65535)) == [[BLACK, [100] * 3, WHITE]]
    assert pixels(b"P5 2 1 65535\n" + struct.pack(">2H", 0, 200)) == [[BLACK, [1] * 3]]   # dark is dark


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF"])
def test_formats(file_format):
    need = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(file_format)
    if need and not features.check(need):
        pytest.skip(f"this Pillow is built without {need}")
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    got = np.array(pixels(saved(image, file_format)))
    assert got.shape == (32, 32, 3) and np.abs(got - [200, 100, 50]).max() <= 3


def test_jpeg_colour_spaces():
    colours = {"L": (90, [90] * 3), "RGB": ((200, 100, 50), [200, 100, 50]), "YCbCr": ((76, 85, 255), [254, 0, 0]),
               "CMYK": ((0, 155, 205, 55), [200, 78, 39])}                               # (255 − ink)·(255 − black)/255
    for mode, (colour, want) in colours.items():
        data = saved(Image.new(mode, (16, 16), colour), "JPEG", quality=100)
        assert Image.open(io.BytesIO(data)).mode == {"YCbCr": "RGB"}.get(mode, mode)
        assert np.abs(np.array(pixels(data)) - want).max() <= 3, mode


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(file_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert pixels(data) == [[RED] * 16] * 16


def test_the_part_of_a_gif_that_its_first_frame_leaves_out_is_white():
    small = saved(Image.new("P", (1, 1)), "GIF", transparency=255)
    data = bytearray(small)
    data[6:10] = struct.pack("<HH", 3, 2)                                                 # a larger canvas
    rows = pixels(bytes(data))
    assert len(rows) == 2 and len(rows[0]) == 3 and rows[1][2] in (WHITE, BLACK)


def test_it_is_what_pillow_gives_where_nothing_has_to_be_done(tmp_path):
    image = Image.fromarray(awkward_picture(40, 30))
    image.save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), Image.open(tmp_path / "a.jpg").convert("RGB"))


# --- upright ----------------------------------------------------------------------------------------------------------------------

# Row 0 and column 0 of what is stored are these sides of what is seen (EXIF 2.32, table 6).
STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
SEEN = {1: STORED, 2: STORED[:, ::-1], 3: STORED[::-1, ::-1], 4: STORED[::-1], 5: STORED.T, 6: STORED[::-1].T, 7: STORED[::-1, ::-1].T,
        8: STORED.T[::-1]}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation, file_format):
    block = np.kron(STORED * 40, np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(block).convert("RGB"), file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
    got = np.array(pixels(data))[8::16, 8::16, 0]
    assert np.round(got / 40).astype(int).tolist() == SEEN[orientation].tolist()


@pytest.mark.parametrize("mode, value", [("L", 7), ("P", 1), ("RGBA", (255, 0, 0, 51)), ("I;16", 25700), ("1", 1), ("LA", (0, 0))])
def test_every_mode_can_be_turned(mode, value):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (3, 2), value)
    if mode == "P":
        image.putpalette([9, 9, 9, 10, 20, 30])
    options = {"transparency": 1} if mode == "P" else {}
    rows = pixels(saved(image, "PNG", exif=exif, **options))
    assert (len(rows), len(rows[0])) == (3, 2)
    assert rows[0][0] == {"L": [7] * 3, "P": WHITE, "RGBA": [255, 204, 204], "I;16": [100] * 3, "1": WHITE, "LA": WHITE}[mode]


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 64, b"junk" * 20,
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0",              # orientation 99
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\4six\0\0\0\0\0",                   # in letters
                                  b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3\0\0\0\1\0\6"])                       # 65,535 entries, one there
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_leaves_the_picture(exif):
    for file_format in ("JPEG", "PNG", "WEBP"):
        data = saved(Image.new("RGB", (5, 3), "white"), file_format, **({"exif": exif} if exif else {}))
        assert np.array(pixels(data)).shape in ((3, 5, 3), (5, 3, 3))


# --- what is no picture -----------------------------------------------------------------------------------------------------------


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
    for name, shown in {"with space": "with space", "ünï☃": "ünï☃", "two\nlines": r"two\nlines", "\x1b[31m": r"\x1b[31m",
                        os.fsdecode(b"\xff\xfe"): r"\udcff\udcfe"}.items():
        path = tmp_path / name
        path.write_bytes(b"no picture")
        assert error_of(path).startswith(f"{tmp_path}/{shown}: is not a picture")
        path.write_bytes(saved(Image.new("RGB", (2, 2)), "PNG"))
        assert load_image(path).size == (2, 2)
        assert load_image(str(path)).size == (2, 2)


PHOTO = Image.fromarray(awkward_picture(60, 40))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncated_anywhere(tmp_path, file_format):
    whole, path = saved(PHOTO, file_format), tmp_path / "cut"
    for share in (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.8):
        path.write_bytes(whole[:max(1, int(share * len(whole)))])
        message = error_of(path)
        assert message.startswith(f"{path}: ") and any(word in message for word in ("damaged", "truncated", "EOF")), message


def test_progressive_jpeg_and_interlaced_data_that_end_early(tmp_path):
    whole, path = saved(PHOTO, "JPEG", progressive=True), tmp_path / "cut.jpg"
    path.write_bytes(whole[:len(whole) // 2])
    assert "is truncated or damaged" in error_of(path)


def test_pictures_without_pixels():
    for data in (png(0, 5, 8, 2, b""), png(5, 0, 8, 2, b""), b"P6 0 0 255\n", b"P5 0 3 255\n", b"GIF89a\0\0\0\0\0\0\0;",
                 b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)):
        error_of(io.BytesIO(data))


def test_a_decompression_bomb_is_not_even_unpacked(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 2, bytes(1000)))
    tracemalloc.start()
    began = time.perf_counter()
    message = error_of(path)
    assert time.perf_counter() - began < 1
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
    assert error_of(path).startswith(f"{path}: 30×20 pixels are more than the limit of 599; make it smaller, or raise")
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == (30, 20)


@pytest.mark.filterwarnings("error")
def test_a_warning_made_an_error_is_an_image_error(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (30, 20)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    assert error_of(tmp_path / "a.png").startswith(f"{tmp_path}/a.png: ")


def test_text_that_unpacks_to_far_too_much():
    bomb = b"note\0\0" + zlib.compress(bytes(200 * 2**20))
    assert error_of(io.BytesIO(png(1, 1, 8, 2, bytes(4), zTXt=bomb))).startswith("picture: can't be decoded")


def test_a_decoder_that_breaks_is_an_image_error(monkeypatch):
    data = saved(PHOTO, "PNG")
    for error in (MemoryError(), RecursionError("deep"), SyntaxError("broken PNG"), struct.error("short"), KeyError(7), OSError(5, None),
                  OSError("several\nlines")):
        monkeypatch.setattr(Image.Image, "load", lambda self, error=error: (_ for _ in ()).throw(error))
        assert error_of(io.BytesIO(data)).startswith("picture: ")


def test_an_interrupt_is_none(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_image(io.BytesIO(saved(PHOTO, "PPM")))


# --- open files ---------------------------------------------------------------------------------------------------------------------


def test_open_files(tmp_path):
    data = saved(Image.new("RGB", (4, 2), "red"), "PNG")
    file = io.BytesIO(data)
    assert load_image(file).size == (4, 2)
    assert not file.closed                                                                # it is the caller's
    (tmp_path / "a.png").write_bytes(data)
    with open(tmp_path / "a.png", "rb") as file:
        assert load_image(file).size == (4, 2)
    (tmp_path / "b.png").write_bytes(data[:45])
    with open(tmp_path / "b.png", "rb") as file:
        assert error_of(file).startswith(f"{tmp_path}/b.png: is truncated")
    assert error_of(io.BytesIO(b"no picture")).startswith("picture: is not a picture")
    assert error_of(io.BytesIO()).startswith("picture: ")


def test_no_file_stays_open(tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    good.write_bytes(saved(PHOTO, "PNG"))
    bad.write_bytes(saved(PHOTO, "PNG")[:500])
    load_image(good), error_of(bad)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    images = [load_image(good) for _ in range(5)]
    for _ in range(5):
        error_of(bad)
    assert len(images) == 5 and (len(os.listdir("/proc/self/fd")) if before else 0) == before


# --- anything at all ----------------------------------------------------------------------------------------------------------------

SEEDS = {
    "PNG": [saved(PHOTO.resize((9, 7)), "PNG"), saved(PHOTO.resize((9, 7)).quantize(8), "PNG", transparency=bytes([0, 99]))],
    "JPEG": [saved(PHOTO.resize((24, 17)), "JPEG"), saved(PHOTO.resize((24, 17)).convert("CMYK"), "JPEG", progressive=True)],
    "GIF": [saved(PHOTO.resize((9, 7)).quantize(8), "GIF", save_all=True, append_images=[PHOTO.resize((9, 7)).quantize(4)])],
    "TIFF": [saved(PHOTO.resize((9, 7)), "TIFF"), saved(PHOTO.resize((9, 7)).convert("I;16"), "TIFF"),
             saved(PHOTO.resize((9, 7)), "TIFF", compression="tiff_lzw")],
    "WEBP": [saved(PHOTO.resize((9, 7)), "WEBP"), saved(PHOTO.resize((9, 7)).convert("RGBA"), "WEBP", lossless=True)],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", SEEDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5),
       st.one_of(st.none(), st.floats(0, 1)))
def test_any_damage_gives_a_picture_or_an_image_error(file_format, which, changes, cut):
    seeds = SEEDS[file_format]
    data = bytearray(seeds[which % len(seeds)])
    for where, value in changes:
        data[int(where * len(data))] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)                                   # larger ones are refused: keeps this quick
        try:
            image = load_image(io.BytesIO(data if cut is None else data[:int(cut * len(data))]))
        except ImageError as error:
            assert str(error).startswith("picture: ") and str(error).isprintable()
        else:
            assert type(image) is Image.Image and image.mode == "RGB" and min(image.size) > 0
            assert np.asarray(image).shape == (image.height, image.width, 3)
