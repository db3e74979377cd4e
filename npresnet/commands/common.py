"""What the commands share: exit codes, options, models, and how they write."""
from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from ..backend import BACKENDS, REFERENCE, choose_backend, quickest
from ..errors import ImageError, printable

if TYPE_CHECKING:
    from ..model import ResNetV2

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130                   # exit codes


class UsageError(Exception):
    """The command was called the wrong way; the message says how to do better."""


# --- options --------------------------------------------------------------------------------------


def add_model(parser: argparse.ArgumentParser, backend: bool = True) -> None:
    """The options --model, --weights and --backend, for `load_model` and `model_options`."""
    parser.add_argument("--model", default="demo", metavar="NAME",
                        help="one of `npresnet models` (default: demo, the small trained network "
                             "inside the package; it knows ten classes)")
    parser.add_argument("--weights", metavar="FILE",
                        help="a safetensors file for it; without one, published weights are "
                             "fetched")
    if backend:
        parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto",
                            help="what computes (default: the one that answers soonest)")


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


# --- files that are written -----------------------------------------------------------------------


def identity(path: str) -> tuple[int, int] | None:
    """What tells a file from all others on the machine; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def refusal(path: str, pictures: set[tuple[int, int] | None], overwrite: bool) -> str | None:
    """Why `path` mustn't be written, or None. pictures: the identities of what was given."""
    found = identity(path)
    if found is not None and found in pictures:
        return f"{printable(path)}: is one of the pictures themselves; choose another --output"
    if os.path.lexists(path) and not overwrite:
        return f"{printable(path)}: is there already; --overwrite replaces it"
    return None


def write_output(path: str, data: bytes) -> None:
    """Write a file whole. Raises ImageError, which names it, if it can't be written."""
    from ..weights import write_whole

    try:
        write_whole(path, data)
    except OSError as error:
        raise ImageError(f"{printable(path)}: can't be written ({error.strerror})") from None


# --- models ---------------------------------------------------------------------------------------


def load_model(args: argparse.Namespace, backend: str = "auto") -> ResNetV2:
    """The model of --model and --weights."""
    from ..model import create_model

    published = args.weights is None and args.model != "demo"
    return create_model(args.model, weights=args.weights, pretrained=published, backend=backend)


def model_options(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """What a `Predictor` takes of --model, --weights and --backend, for `count` pictures.

    For a handful the backend is the reference, where that answers before the fast engine is loaded
    or compiled.
    """
    backend: str = args.backend
    if backend == "auto":
        soonest = quickest(choose_backend(backend), count * multiply_adds(args.model))
        if soonest == REFERENCE:                                  # else "auto", which can fall back
            backend = soonest
    return dict(model=args.model, weights=args.weights, backend=backend)


def multiply_adds(name: str) -> int:
    """Multiply-adds for one picture of the model called `name`, at its own size.

    Raises ValueError on an unknown name.
    """
    from ..graph import build_graph
    from ..loading import find_source
    from ..summary import summarise
    from ..variants import split_revision

    variant, cfg, _ = find_source(split_revision(name)[0], False, None)
    graph = build_graph(variant, num_classes=cfg["num_classes"])
    return summarise(graph, cfg["input_size"], graph.last).macs


# --- writing --------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """`value` on stdout, as JSON that any reader takes, whatever the terminal's encoding."""
    print(json.dumps(value, indent=2, allow_nan=False))


def say(message: str) -> None:
    """One line on stderr."""
    print(" ".join(message.splitlines()), file=sys.stderr)
