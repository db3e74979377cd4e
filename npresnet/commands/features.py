"""`npresnet features`: what layers of the network make of pictures, as arrays."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import printable
from .common import UsageError, add_model
from .output import add_output, run_pictures
from .pictures import add_pictures, add_reading

if TYPE_CHECKING:
    from .results import Row

HELP = "write the feature maps of pictures, or any layers' outputs"
EXAMPLES = ("npresnet features holiday/ --output maps.npz --layers stages.2 norm",
            "npresnet features photo.jpg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_pictures(parser)
    add_model(parser)
    parser.add_argument("--layers", nargs="+", metavar="PATH",
                        help="timm's module paths, as `npresnet summary` lists them, or stages.0 "
                             "to stages.3 (default: the five feature maps)")
    add_reading(parser)
    add_output(parser, (".npz",))


def run(args: argparse.Namespace) -> int:
    """Write the layers of each picture, as it is done; exit code 1 if one could not be read."""
    if args.json and not args.output:
        raise UsageError("feature maps are too large for JSON: give --output FILE.npz")
    return run_pictures(args, dict, as_text, output="features", layers=args.layers)


def as_text(row: Row) -> str:
    """The picture's name, and a line a layer: shape, range and mean."""
    lines = []
    for path, y in row.items():
        if path != "file":
            shape = "×".join(map(str, y.shape))
            lines.append(f"  {path:<32} {shape:>12}   {y.min():9.3g} … {y.max():9.3g}   "
                         f"mean {y.mean():9.3g}")
    return "\n".join([printable(row["file"]), *lines])
