"""`npresnet classify`: the top classes of each picture."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import printable
from .common import add_model, positive
from .output import TABLES, add_output, run_pictures
from .pictures import add_pictures, add_reading

if TYPE_CHECKING:
    from ..predict import Prediction
    from .results import Row

HELP = "name what is on pictures"
EXAMPLES = ("npresnet classify --model demo photo.jpg",
            "npresnet classify --output classes.csv holiday/")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_pictures(parser)
    add_model(parser)
    parser.add_argument("-k", "--top", type=positive, default=5, metavar="K",
                        help="how many classes to name (default: %(default)s)")
    add_reading(parser)
    add_output(parser, TABLES)


def run(args: argparse.Namespace) -> int:
    """Name the classes of each picture, as it is done; exit code 1 if one could not be read."""
    return run_pictures(args, as_row, as_text, output="topk", top=args.top)


def as_row(predictions: list[Prediction]) -> Row:
    """What JSON says of a picture."""
    return {"predictions": [each._asdict() for each in predictions]}


def as_text(row: Row) -> str:
    """The picture's name, and a line a class."""
    lines = [f"  {100 * each['probability']:5.1f} %  {each['label']}"
             for each in row["predictions"]]
    return "\n".join([printable(row["file"]), *lines])
