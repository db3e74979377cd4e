"""What the commands share: exit codes, options, models, pictures, and how they write."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError, printable

if TYPE_CHECKING:
    from PIL import Image

    from ..model import ResNetV2

    Transform = Callable[[Image.Image], np.ndarray]               # picture → (C, H, W) float32

DONE, FAILED, USAGE = 0, 1, 2                                     # exit codes
PICTURES = {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff",
            ".ppm", ".pgm", ".avif", ".ico", ".tga"}


class UsageError(Exception):
    """The command was called the wrong way; the message says how to do better."""


# --- options --------------------------------------------------------------------------------------


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """The argument PHOTO…, for `find_pictures`."""
    parser.add_argument("pictures", nargs="+", metavar="PHOTO",
                        help="picture files, or folders of them")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options --model and --weights, for `load_model`."""
    parser.add_argument("--model", default="demo", metavar="NAME",
                        help="one of `npresnet models` (default: demo, the small trained network "
                             "inside the package; it knows ten classes)")
    parser.add_argument("--weights", metavar="FILE",
                        help="a safetensors file for it; without one, published weights are "
                             "fetched")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def picture_size(edges: list[int] | None) -> tuple[int, int] | None:
    """(H, W) of --size; None if it isn't given. Raises UsageError for more than two edges."""
    if edges and len(edges) > 2:
        raise UsageError("--size takes one edge, or height and width")
    return (edges[0], edges[-1]) if edges else None


# --- models ---------------------------------------------------------------------------------------


def load_model(args: argparse.Namespace, backend: str = "auto") -> ResNetV2:
    """The model of --model and --weights."""
    from ..model import create_model

    published = args.weights is None and args.model != "demo"
    return create_model(args.model, weights=args.weights, pretrained=published, backend=backend)


def model_transform(model: ResNetV2, use_test_size: bool = False) -> Transform:
    """The model's own evaluation transform."""
    from ..data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(model, use_test_size=use_test_size))


# --- pictures -------------------------------------------------------------------------------------


def find_pictures(names: Sequence[str]) -> list[str]:
    """Files as they are named; a folder stands for the pictures in it and below, sorted.

    Those are told by how their names end. Raises UsageError if there are no files at all.
    """
    files: list[str] = []
    empty: list[str] = []
    for name in names:
        if not os.path.isdir(name):
            files.append(name)                                    # perhaps missing: said later
            continue
        found = sorted(str(path) for path in Path(name).rglob("*")
                       if path.suffix.lower() in PICTURES and not os.path.isdir(path))
        files += found
        if not found:
            empty.append(name)
    if not files:
        where, endings = ", ".join(map(printable, names)), ", ".join(sorted(PICTURES))
        raise UsageError(f"no pictures in {where} (files that end in {endings})")
    return files + empty                                          # the empty are said later, too


def read_pictures(args: argparse.Namespace, files: list[str], transform: Transform,
                  rows: list[dict]) -> Iterator[tuple[str, np.ndarray]]:
    """(file, the network's input (1, C, H, W) float32) of each picture that can be read.

    Of the others the error is said, and put into `rows`. Shows a progress bar on a terminal after
    the first second.
    """
    from tqdm import tqdm

    hidden = None if len(files) > 1 else True                     # None: shown at a terminal alone
    bar = tqdm(files, unit="picture", delay=1, disable=hidden, leave=False)
    for file in bar:
        error = ""
        try:
            x = read_picture(file, transform)
        except ImageError as reason:
            error = str(reason)
        except MemoryError:
            error = f"{printable(file)}: needs more memory than there is; make it smaller"
        bar.clear()                                               # what is printed next gets a line
        if error:
            say(f"npresnet {args.command}: {error}")
            rows.append({"file": file, "error": error})
        else:
            yield file, x


def read_picture(file: str, transform: Transform) -> np.ndarray:
    """The network's input (1, C, H, W) float32. Raises ImageError, which names the file."""
    from ..data import load_image

    image = load_image(file)
    try:
        return transform(image)[None]
    except ImageError as reason:                                  # the transform knows no file
        raise ImageError(f"{printable(file)}: {reason}") from None


# --- writing --------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """`value` on stdout, as JSON that any reader takes, whatever the terminal's encoding."""
    print(json.dumps(value, indent=2, allow_nan=False))


def say(message: str) -> None:
    """One line on stderr."""
    print(" ".join(message.splitlines()), file=sys.stderr)
