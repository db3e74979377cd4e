"""Picture files made wrong in every way that comes to mind, and what has to become of them."""
from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

from fuzz_bytes import INTERESTING, damaged
from helpers import awkward_picture
from PIL import Image, features

from npresnet import ImageError, load_image

NAME = "pictures"
LIMIT = 2**20                                                     # pixels; Pillow's is 89 million
# Peak memory of a case: a constant, for pictures of up to LIMIT pixels, and a multiple of the file.
CONSTANT, MULTIPLE = 64 << 20, 100
WIDTH, HEIGHT = 37, 29                                            # of the sound ones


def prepare() -> list[tuple[str, bytes]]:
    """Small sound files in every format that Pillow writes and reads: (format, bytes)."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = LIMIT
    rgb = Image.fromarray(awkward_picture(WIDTH, HEIGHT))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.getchannel(0))
    grey, sixteen = rgb.convert("L"), rgb.convert("L").convert("I;16")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    frames = dict(save_all=True, append_images=[grey.convert("RGB")])
    ways = [("JPEG", rgb, {}), ("JPEG", rgb, dict(progressive=True)), ("JPEG", grey, {}),
            ("JPEG", rgb.convert("CMYK"), {}), ("JPEG", rgb, dict(exif=exif)),
            ("JPEG", rgb, dict(exif=exif, subsampling=2)), ("PNG", rgb, {}), ("PNG", alpha, {}),
            ("PNG", rgb.convert("P"), dict(transparency=3)), ("PNG", sixteen, {}),
            ("PNG", rgb.convert("1"), {}), ("PNG", rgb, dict(exif=exif)), ("PNG", alpha, frames),
            ("GIF", rgb, {}), ("GIF", rgb, frames), ("BMP", rgb, {}), ("BMP", rgb.convert("P"), {}),
            ("WEBP", rgb, dict(exif=exif)), ("WEBP", alpha, dict(lossless=True)),
            ("WEBP", alpha, frames), ("TIFF", rgb, dict(exif=exif)), ("TIFF", rgb, frames),
            ("TIFF", sixteen, {}), ("TIFF", grey.convert("F"), {}), ("PPM", rgb, {}),
            ("PPM", grey, {}), ("PPM", rgb.convert("1"), {}), ("ICO", alpha, {}),
            ("TGA", alpha, {}), ("TGA", rgb, dict(compression="tga_rle")), ("JPEG2000", rgb, {}),
            ("AVIF", alpha, {}), ("AVIF", rgb, dict(exif=exif)), ("MPO", rgb, frames)]
    ways += [("TIFF", rgb, dict(compression=each)) for each in
             ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")]
    ways += [("TIFF", rgb.convert("1"), dict(compression=each)) for each in ("group3", "group4")]
    there = set(Image.SAVE) & set(Image.OPEN)
    ways += [(each, rgb, {}) for each in sorted(there - {way[0] for way in ways})]
    return [(name, file) for name, picture, options in ways
            if name in there and (file := _saved(picture, name, options))]


def _saved(picture: Image.Image, name: str, options: dict) -> bytes:
    """The picture as a file; nothing if this Pillow can't."""
    if name == "AVIF" and not features.check("avif"):
        return b""
    for mode in (picture.mode, "L", "1", "P", "F"):
        try:
            file = io.BytesIO()
            picture.convert(mode).save(file, name, **options)
            return file.getvalue()
        except Exception:
            continue
    return b""


def make(seeds: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """One case."""
    name, seed = rng.choice(seeds)
    other = rng.choice(seeds)[1]
    way = rng.random()
    if way < 0.15:
        spoilt = _other_size(seed, rng)
    elif way < 0.25 and name in ("JPEG", "PNG", "WEBP", "MPO"):
        spoilt = _with_exif(name, seed, rng)
    elif way < 0.28:
        return _bomb(rng)
    elif way < 0.33:
        spoilt = seed[:rng.randrange(len(seed))]
    else:
        spoilt = damaged(seed, rng, other)
    return _with_checksums(spoilt) if name == "PNG" and rng.random() < 0.8 else spoilt


def _other_size(data: bytes, rng: random.Random) -> bytes:
    """Width or height, wherever one seems to stand, becomes another number."""
    spoilt = bytearray(data)
    for edge in rng.choice(((WIDTH,), (HEIGHT,), (WIDTH, HEIGHT))):
        forms = [(form, raw) for form in ("<H", ">H", "<I", ">I")
                 for raw in (struct.pack(form, edge), struct.pack(form, edge - 1))]
        found = [(form, at) for form, raw in forms
                 if (at := spoilt.find(raw, rng.choice((0, 0, 0, len(spoilt) // 2)))) >= 0]
        if found:
            form, at = rng.choice(found)
            value = rng.choice((*INTERESTING, rng.randrange(3000), 1024, 60_000))
            struct.pack_into(form, spoilt, at, value % 2**(8 * struct.calcsize(form)))
        else:
            spoilt = spoilt.replace(b"%d" % edge, b"%d" % rng.choice(INTERESTING), 1)
    return bytes(spoilt)


# --- EXIF -----------------------------------------------------------------------------------------


def _with_exif(name: str, data: bytes, rng: random.Random) -> bytes:
    """The picture with an EXIF block of rubbish."""
    exif = _exif(rng)
    if name in ("JPEG", "MPO"):
        body = b"Exif\0\0" + exif
        length = len(body) + 2 if rng.random() < 0.9 else rng.randrange(2**16)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", length % 2**16) + body + data[2:]
    if name == "PNG":
        return data[:33] + _chunk(b"eXIf", exif) + data[33:]
    block = b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    size = struct.pack("<I", len(data) - 8 + len(block))
    return data[:4] + size + data[8:] + block


def _exif(rng: random.Random) -> bytes:
    """Tags of any type, count and offset; directories that point to themselves."""
    order = rng.choice("<>")
    entries = [_tag(order, rng) for _ in range(rng.choice((0, 1, 1, 2, 5, 40)))]
    count = len(entries) if rng.random() < 0.8 else rng.randrange(2**16)
    start = rng.choice((8, 8, 8, 8, 0, 2**32 - 1))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    following = rng.choice((0, 0, 8, rng.randrange(2**32)))
    return head + struct.pack(f"{order}H", count) + b"".join(entries) + \
        struct.pack(f"{order}I", following) + rng.randbytes(rng.choice((0, 8, 100)))


def _tag(order: str, rng: random.Random) -> bytes:
    tag = rng.choice((0x0112, 0x0112, 0x8769, 0x8825, 0xA005, 0x927C, 0x0100, 0x0101, 0x0111,
                      0x0103, 0x014A, rng.randrange(2**16)))
    kind = rng.choice((3, 3, 4, 1, 2, 5, 7, 9, 10, 12, 13, 16, 0, rng.randrange(2**16)))
    count = rng.choice((1, 1, 1, 0, 2, 5, 2**16, 2**31, 2**32 - 1))
    value = rng.choice((rng.randrange(10), 8, rng.choice(INTERESTING) % 2**32,
                        rng.randrange(2**32)))
    return struct.pack(f"{order}HHII", tag, kind, count, value)


# --- bombs and PNG --------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def _zeros(count: int) -> bytes:
    """Compressed."""
    return zlib.compress(bytes(count), 9)


def _bomb(rng: random.Random) -> bytes:
    """A small file that says, and sometimes holds, a picture of many pixels."""
    width, height = rng.choice(((1000, 1000), (1024, 1025), (2000, 1040), (2**31 - 1, 1),
                                (1, 2**31), (30_000, 30_000), (60_000, 17), (17, 60_000)))
    depth, colour = rng.choice(((1, 0), (8, 0), (16, 0), (8, 2), (8, 3), (8, 4), (16, 6)))
    rows = _zeros(rng.choice((0, 1000, 2**20, 2**23)))
    extra = b""
    if rng.random() < 0.3:                                        # text that unpacks to megabytes
        extra = _chunk(b"zTXt", b"a\0\0" + _zeros(2**24))
    if rng.random() < 0.2:
        extra += _chunk(b"iCCP", b"a\0\0" + _zeros(2**24))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.choice((0, 0, 1)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", rows) + \
        _chunk(b"IEND", b"")


def _with_checksums(data: bytes) -> bytes:
    """A damaged PNG whose checksums are right all the same, so that decoders look further."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        body = data[at + 4:at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at:at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


# --- what has to become of it ---------------------------------------------------------------------


def check(path: Path) -> str:
    """Load the file; "a picture", or "no picture". Raises AssertionError for anything else."""
    try:
        picture = load_image(path)
    except ImageError as error:
        text = str(error)
        assert text.startswith(f"{path}: ") and text.isprintable(), text
        assert len(text) - len(str(path)) < 450, text
        return "no picture"
    assert picture.mode == "RGB", picture.mode
    assert 0 < picture.width * picture.height <= LIMIT, picture.size
    picture.getpixel((picture.width - 1, picture.height - 1))
    return "a picture"
