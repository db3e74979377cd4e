"""`npresnet embed`: an embedding of each picture, to search, cluster and compare pictures with."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from ..errors import printable
from .common import add_model
from .output import TABLES, add_output, run_pictures
from .pictures import add_pictures, add_reading

if TYPE_CHECKING:
    from .results import Row

HELP = "turn pictures into embeddings: vectors that are close where pictures are alike"
EXAMPLES = ("npresnet embed --normalize --output holiday.npz holiday/",
            "npresnet embed --json photo.jpg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_pictures(parser)
    add_model(parser)
    parser.add_argument("--normalize", action="store_true",
                        help="divide each by its L2 norm, so that a scalar product of two is "
                             "their cosine")
    add_reading(parser)
    add_output(parser, (*TABLES, ".npz"))


def run(args: argparse.Namespace) -> int:
    """Write the embedding of each picture, as it is done; exit code 1 if one could not be read."""
    name = "embeddings" if (args.output or "").lower().endswith(".npz") else "embedding"
    return run_pictures(args, lambda value: {name: value}, as_text, output="embedding",
                        normalize=args.normalize)


def as_text(row: Row) -> str:
    """The picture's name, and the numbers on a line."""
    numbers: np.ndarray = row["embedding"]
    return "\n".join([printable(row["file"]), "  " + " ".join(f"{x:.6g}" for x in numbers)])
