"""What the tests of pictures share: picture files, from Pillow and by hand."""
from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of `image` as a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG file by hand.

    colour: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA. rows: each with its filter byte in
    front.
    """
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    extra = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")
