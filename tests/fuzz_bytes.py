"""What both sides of the fuzzing share: damage to bytes that knows nothing of what they mean."""
from __future__ import annotations

import random
import struct

INTERESTING = (0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 1000, 2**15, 2**16 - 1, 2**16,
               2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def damaged(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """`data` with one to five faults, some of them pieces of `other`."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(FAULTS)(spoilt, rng, other)
    return bytes(spoilt)


def _place(data: bytearray, rng: random.Random) -> int:
    """Somewhere, and more often near the beginning: headers stand there."""
    size = max(1, len(data))
    return rng.randrange(min(size, 64)) if rng.random() < 0.3 else rng.randrange(size)


def _flip_bits(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set_bytes(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _set_number(data: bytearray, rng: random.Random, other: bytes) -> None:
    """2, 4 or 8 bytes, in either order: a length, a width, an offset."""
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    raw = struct.pack(form, rng.choice(INTERESTING) % 2**(8 * struct.calcsize(form)))
    at = _place(data, rng)
    data[at:at + len(raw)] = raw


def _add_to_number(data: bytearray, rng: random.Random, other: bytes) -> None:
    form = rng.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    at = _place(data, rng)
    if at + size <= len(data):
        value = struct.unpack_from(form, data, at)[0] + rng.randint(-16, 16)
        struct.pack_into(form, data, at, value % 2**(8 * size))


def _cut_off(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[rng.randrange(len(data) + 1):]


def _cut_out(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    del data[at:at + rng.choice((1, 2, 4, 8, rng.randrange(1, 200)))]


def _repeat(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    piece = data[at:at + rng.randrange(1, 64)]
    data[at:at] = piece * rng.choice((1, 1, 2, 20))


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    at, start = _place(data, rng), rng.randrange(max(1, len(other)))
    piece = other[start:start + rng.randrange(1, 400)]
    data[at:at + rng.choice((0, len(piece)))] = piece


def _fill(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = _place(data, rng)
    size = len(data[at:at + rng.randrange(1, 100)])
    data[at:at + size] = bytes([rng.choice((0, 255, 32))]) * size


def _add_rubbish(data: bytearray, rng: random.Random, other: bytes) -> None:
    data += rng.randbytes(rng.choice((1, 8, 100, 1000)))


FAULTS = (_flip_bits, _flip_bits, _set_bytes, _set_bytes, _set_number, _set_number, _add_to_number,
          _cut_off, _cut_out, _repeat, _splice, _fill, _add_rubbish)
