"""`load_image`: pictures of every mode and format come out upright and in RGB."""
from __future__ import annotations

import io
import struct

import numpy as np
import PIL
import pytest
from helpers import awkward_picture
from picture_files import png, saved
from PIL import Image, features

from npresnet import load_image

WHITE, BLACK, RED = [255, 255, 255], [0, 0, 0], [255, 0, 0]


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


# --- every mode that a file may have --------------------------------------------------------------


@pytest.mark.parametrize("mode, values, want", [
    ("1", [0, 1], [BLACK, WHITE]),
    ("L", [0, 100, 255], [BLACK, [100] * 3, WHITE]),
    ("LA", [(0, 255), (0, 0), (100, 51)], [BLACK, WHITE, [224] * 3]),       # 100·0.2 + 255·0.8
    ("RGB", [(1, 2, 3), (255, 0, 7)], [[1, 2, 3], [255, 0, 7]]),
    # colour·α + 255·(1 − α), α = 0, 0.2, 0.4
    ("RGBA", [(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 51), (0, 100, 200, 102)],
     [RED, WHITE, [255, 204, 204], [153, 193, 233]]),
    ("CMYK", [(0, 0, 0, 0), (0, 0, 0, 255), (0, 255, 255, 0), (255, 0, 0, 0)],
     [WHITE, BLACK, RED, [0, 255, 255]]),
    ("YCbCr", [(0, 128, 128), (255, 128, 128), (76, 85, 255)], [BLACK, WHITE, [254, 0, 0]]),
    ("I;16", [0, 257, 32768, 65535], [BLACK, [1] * 3, [128] * 3, WHITE]),   # v / 257
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
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("this Pillow can't read the YCbCr that it writes")
    data = saved(picture(mode, values), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == mode
    assert pixels(data) == [want]


def test_lab():
    """L* 54.3, a* 80.8, b* 69.9 is sRGB's red."""
    data = saved(picture("LAB", [(0, 128, 128), (255, 128, 128), (138, 209, 198)]), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "LAB"
    assert np.abs(np.array(pixels(data)) - [[BLACK, WHITE, RED]]).max() <= 6


def test_a_palette_with_and_without_transparency():
    image = picture("P", [0, 1, 2])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    opaque = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    for file_format in ("PNG", "GIF", "TIFF", "BMP"):
        assert pixels(saved(image, file_format)) == [opaque], file_format
    assert pixels(saved(image, "PNG", transparency=1)) == [[opaque[0], WHITE, opaque[2]]]
    assert pixels(saved(image, "GIF", transparency=1)) == [[opaque[0], WHITE, opaque[2]]]
    alphas = saved(image, "PNG", transparency=bytes([0, 51, 255]))
    assert pixels(alphas) == [[WHITE, [212, 214, 216], opaque[2]]]
    index = saved(image, "PNG", transparency=1)
    assert Image.open(io.BytesIO(index)).info["transparency"] == 1
    assert Image.open(io.BytesIO(alphas)).info["transparency"] == b"\0\x33\xff"


@pytest.mark.parametrize("depth, colour, row, trns, want", [
    (8, 2, [1, 2, 3, 4, 5, 6], [1, 2, 3], [WHITE, [4, 5, 6]]),
    (8, 0, [100, 50], [100], [WHITE, [50] * 3]),
    (1, 0, [0b10000000], [0], [WHITE, WHITE]),
])
def test_one_transparent_colour(depth, colour, row, trns, want):
    transparent = struct.pack(f">{len(trns)}H", *trns)
    assert pixels(png(2, 1, depth, colour, bytes([0, *row]), tRNS=transparent)) == [want]


@pytest.mark.parametrize("depth, colour, values, want", [
    (16, 0, [0, 32768, 65535], [BLACK, [128] * 3, WHITE]),
    (16, 0, [0, 200, 255], [BLACK, [1] * 3, [1] * 3]),            # dark is dark
    (16, 4, [0, 65535, 0, 0], [BLACK, WHITE]),
    (16, 2, [0, 0x8000, 0xFFFF], [[0, 128, 255]]),
    (16, 6, [65535, 0, 0, 65535, 65535, 0, 0, 0], [RED, WHITE]),
])
def test_16_bit_png(depth, colour, values, want):
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    assert pixels(png(len(want), 1, depth, colour, row)) == [want]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_grey_levels(depth):
    """The largest value is white."""
    assert pixels(png(1, 1, depth, 0, b"\0\xff")) == [[WHITE]]
    assert pixels(png(1, 1, depth, 0, b"\0\0")) == [[BLACK]]


def test_16_bit_portable_grey_maps():
    levels = struct.pack(">3H", 0, 25700, 65535)
    assert pixels(b"P5 3 1 65535\n" + levels) == [[BLACK, [100] * 3, WHITE]]
    dark = struct.pack(">2H", 0, 200)
    assert pixels(b"P5 2 1 65535\n" + dark) == [[BLACK, [1] * 3]]  # dark is dark


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA",
                                         "ICO", "JPEG2000", "AVIF"])
def test_formats(file_format):
    need = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(file_format)
    if need and not features.check(need):
        pytest.skip(f"this Pillow is built without {need}")
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    got = np.array(pixels(saved(image, file_format)))
    assert got.shape == (32, 32, 3) and np.abs(got - [200, 100, 50]).max() <= 3


def test_jpeg_colour_spaces():
    colours = {
        "L": (90, [90] * 3),
        "RGB": ((200, 100, 50), [200, 100, 50]),
        "YCbCr": ((76, 85, 255), [254, 0, 0]),
        "CMYK": ((0, 155, 205, 55), [200, 78, 39]),               # (255 − ink)·(255 − black)/255
    }
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
    data[6:10] = struct.pack("<HH", 3, 2)                         # a larger canvas
    rows = pixels(bytes(data))
    assert len(rows) == 2 and len(rows[0]) == 3 and rows[1][2] in (WHITE, BLACK)


def test_it_is_what_pillow_gives_where_nothing_has_to_be_done(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(awkward_picture(40, 30)).save(path)
    np.testing.assert_array_equal(load_image(path), Image.open(path).convert("RGB"))


# --- upright --------------------------------------------------------------------------------------

# Row 0 and column 0 of what is stored are these sides of what is seen (EXIF 2.32, table 6).
STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
SEEN = {1: STORED, 2: STORED[:, ::-1], 3: STORED[::-1, ::-1], 4: STORED[::-1],
        5: STORED.T, 6: STORED[::-1].T, 7: STORED[::-1, ::-1].T, 8: STORED.T[::-1]}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation, file_format):
    block = np.kron(STORED * 40, np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(Image.fromarray(block).convert("RGB"), file_format, exif=exif, **options)
    got = np.array(pixels(data))[8::16, 8::16, 0]
    assert np.round(got / 40).astype(int).tolist() == SEEN[orientation].tolist()


@pytest.mark.parametrize("mode, value", [("L", 7), ("P", 1), ("RGBA", (255, 0, 0, 51)),
                                         ("I;16", 25700), ("1", 1), ("LA", (0, 0))])
def test_every_mode_can_be_turned(mode, value):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (3, 2), value)
    if mode == "P":
        image.putpalette([9, 9, 9, 10, 20, 30])
    options = {"transparency": 1} if mode == "P" else {}
    rows = pixels(saved(image, "PNG", exif=exif, **options))
    assert (len(rows), len(rows[0])) == (3, 2)
    want = {"L": [7] * 3, "P": WHITE, "RGBA": [255, 204, 204],
            "I;16": [100] * 3, "1": WHITE, "LA": WHITE}
    assert rows[0][0] == want[mode]


@pytest.mark.parametrize("exif", [
    b"", b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 64,
    b"junk" * 20,
    # orientation 99
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0",
    # orientation in letters
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\4six\0\0\0\0\0",
    # 65,535 entries are promised, one is there
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3\0\0\0\1\0\6",
])
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_leaves_the_picture(exif):
    options = {"exif": exif} if exif else {}
    for file_format in ("JPEG", "PNG", "WEBP"):
        data = saved(Image.new("RGB", (5, 3), "white"), file_format, **options)
        assert np.array(pixels(data)).shape in ((3, 5, 3), (5, 3, 3))
