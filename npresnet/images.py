"""Pictures in: whatever holds one, as a person would see it.

`load_image` takes files, their bytes, Pillow's pictures and arrays of pixels, and gives upright RGB
pictures. How each of these is opened stands in `sources.py`, and what the network makes of the
pictures in `data.py`.
"""
from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging, features

from .errors import ImageError, printable
from .sources import Source, as_pixels, name_of, open_source, url_advice

ORIENTATION = 0x0112                                              # EXIF's tag
# Formats that Pillow opens, though it has no pixels to give: drawings that it leaves to other
# programs, films, and containers of data whose readers are elsewhere.
NO_PICTURES = {"EPS", "WMF", "PDF", "MPEG", "BUFR", "GRIB", "HDF5"}
# Formats that Pillow opens only if it was built with a library; its name in PIL.features.
BUILT_WITH = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


def load_image(source: Source, *, draft: int | tuple[int, int] | None = None) -> Image.Image:
    """A picture, upright and in RGB, the way a person sees it.

    source: a path; a file's bytes; an open binary file or whatever else has a `read` that gives
        bytes (it is read from its start where it can be wound back, and stays open); a Pillow
        picture (which is left as it is); or an array of pixels, uint8 (H, W, 3) in the order red,
        green, blue, (H, W, 4) with alpha, (H, W) or (H, W, 1) of grey, or bool of those shapes.
    draft: (width, height) that are enough, or one number for both. JPEG files are then decoded at
        a half, a quarter or an eighth of their size, whatever is still at least that large, which
        is several times faster (`EvalTransform.draft_size` is the size to ask for). The pixels are
        no longer timm's then, and what the network says may change a little. Other files and
        sources are decoded as without it.

    The first frame of an animation (of a Pillow picture the one it stands at), turned as its EXIF
    orientation says, transparency over white, 16-bit and floating-point grey scaled to 8 bits.
    Raises ImageError, naming the file, if it is something else, can't be read, isn't a regular file
    (a FIFO, a device; it isn't waited for), isn't a picture, is truncated, empty, or has more
    pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`, for files); ValueError on a bad
    `draft`. Warnings that Pillow gives on the way don't appear.
    """
    enough = None if draft is None else _draft_size(draft)
    name = name_of(source)
    try:
        with quietly():
            if isinstance(source, Image.Image):
                return _from_pillow(source)
            if hasattr(source, "__array__") and not isinstance(source, (str, bytes)):
                return _to_rgb(Image.fromarray(as_pixels(source)), sixteen_bit=False)
            with open_source(source) as file:
                return _from_file(file, enough)
    except ImageError as reason:                                  # which know no name
        raise ImageError(f"{name}: {reason}") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: {url_advice(source) or 'no such file'}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has far more pixels than the limit of "
                         f"{Image.MAX_IMAGE_PIXELS:,}; make it smaller") from None
    except OSError as error:
        why = f"is truncated or damaged ({printable(error)})"
        if error.strerror:
            why = url_advice(source) or error.strerror.lower()
        raise ImageError(f"{name}: {why}") from None
    except Exception as error:      # a hostile file can make a decoder raise anything
        why = printable(f"{type(error).__name__}: {error}")
        raise ImageError(f"{name}: can't be decoded ({why})") from error


def picture_endings() -> frozenset[str]:
    """How the names of picture files end that the installed Pillow can read: ".jpg", ".jp2", …

    In lower case. It follows the plug-ins that are there. Left out are formats that Pillow only
    recognises: EPS and WMF, which other programs draw, PDF, MPEG, BUFR, GRIB and HDF5.
    """
    endings = Image.registered_extensions()                       # loads all plug-ins
    built = {name for name in Image.OPEN
             if name not in BUILT_WITH or features.check(BUILT_WITH[name])}
    return frozenset(ending.lower() for ending, name in endings.items()
                     if name in built and name not in NO_PICTURES)


def silence_libtiff() -> None:
    """Keep libtiff, which Pillow has built in, from writing to stderr about damaged TIFF files.

    For programs whose stderr is their own: it holds for all that uses this libtiff in the process.
    What is wrong with a file is in `load_image`'s error all the same. Does nothing where libtiff
    can't be reached.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)                  # finds what that is linked to
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (AttributeError, OSError, TypeError):
        pass


# --- decoding -------------------------------------------------------------------------------------


class _Reading(threading.local):
    """Silences warnings in threads that are reading a picture, and in no other.

    `warnings.catch_warnings` changes the filters of all threads, and two that overlap may leave
    them changed. This stands in one filter for good, in the place of a module's pattern, and fits
    whatever module warns while its own thread is inside `quiet`.
    """
    depth = 0
    pattern = r"(?!)"               # nothing: for scikit-learn, which copies filters' texts

    def match(self, _module: str) -> bool:
        """What `warnings` asks a pattern."""
        return self.depth > 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No warnings from this thread meanwhile."""
        filters: Any = warnings.filters
        if _SILENT not in filters[:1]:                            # others have put theirs first
            filters.insert(0, _SILENT)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def __reduce__(self) -> str:
        """Filters are pickled, too: it stays itself."""
        return "_READING"


_READING = _Reading()
_SILENT: Any = ("ignore", None, Warning, _READING, 0)


def quietly() -> AbstractContextManager[None]:
    """Pillow's warnings stay out of the way meanwhile, in this thread alone."""
    return _READING.quiet()


def _from_file(file: BinaryIO, enough: tuple[int, int] | None) -> Image.Image:
    """The first frame of a picture file. Raises whatever a decoder may raise."""
    try:
        with Image.open(file) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if image.format in NO_PICTURES:
                raise ImageError(f"is {image.format}, which Pillow can't turn into pixels by "
                                 "itself; convert it to PNG first")
            _check_size(image)
            if limit is not None and image.width * image.height > limit:
                raise ImageError(f"{image.width}×{image.height} pixels are more than the "
                                 f"limit of {limit:,}; make it smaller, or raise "
                                 "PIL.Image.MAX_IMAGE_PIXELS if you trust it")
            if enough:
                image.draft(None, enough[::-1] if _lies(image) else enough)
            return _from_pillow(image)
    except UnidentifiedImageError:
        file.seek(0)
        why = "is not a picture that Pillow can read, or is badly damaged"
        raise ImageError(why if file.read(1) else "is empty") from None


def _from_pillow(image: Image.Image) -> Image.Image:
    """A copy in RGB."""
    _check_size(image)
    image.load()
    return _to_rgb(_upright(image), sixteen_bit=image.format in ("PNG", "PPM"))


def _check_size(image: Image.Image) -> None:
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width}×{image.height})")


def _draft_size(draft: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height). Raises ValueError if these are no sizes."""
    pair = (draft, draft) if isinstance(draft, int) else tuple(draft)
    if len(pair) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in pair):
        raise ValueError("draft is the size that is enough, (width, height) or one number of "
                         f"pixels for both, at least 1: not {draft!r}")
    return pair


def orientation(image: Image.Image) -> int:
    """How it is stored, as EXIF counts: 1 upright, 5 to 8 on its side."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:               # damaged EXIF data; the pixels are fine
        return 1


def _lies(image: Image.Image) -> bool:
    """Whether it is stored on its side."""
    return orientation(image) in (5, 6, 7, 8)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:               # damaged EXIF data; the pixels are fine
        return image


def _to_rgb(image: Image.Image, sixteen_bit: bool) -> Image.Image:
    """sixteen_bit: the file's format has no wider grey, though Pillow may keep it in 32 bits."""
    if image.mode.startswith("I") or image.mode == "F":     # 16-bit, 32-bit or floating-point grey
        sixteen_bit = sixteen_bit or image.mode.startswith("I;16")
        return Image.fromarray(_to_8_bits(np.asarray(image), sixteen_bit)).convert("RGB")
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(grey: np.ndarray, sixteen_bit: bool) -> np.ndarray:
    """Grey values (H, W) → uint8.

    They are taken to lie in 0…65535 if `sixteen_bit`, else in the range that their largest value
    says they are meant in.
    """
    floating = grey.dtype.kind == "f"
    grey = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = grey.min(), grey.max()
    if low < 0 or high > 65535:     # no customary range: stretch what there is
        grey, top = grey - low, high - low
    elif sixteen_bit and not floating:
        top = 65535
    else:
        ranges = (1, 255, 65535) if floating else (255, 65535)
        top = next(largest for largest in ranges if high <= largest)
    return np.round(grey * 255 / (top or 1)).astype(np.uint8)
