"""`npresnet summary`: the table of layers."""
from __future__ import annotations

import argparse

from .common import DONE, picture_size, positive, print_json

HELP = "list a model's layers with shapes, parameters and multiply-adds"
EXAMPLES = ("npresnet summary --model resnetv2_50 --size 288",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--model", default="resnetv2_50", metavar="NAME",
                        help="one of `npresnet models` (default: %(default)s)")
    parser.add_argument("--size", type=positive, nargs="+", metavar="PX",
                        help="height and width of the picture, or one edge")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ..model import create_model

    size = picture_size(args.size)
    model = create_model(args.model, backend="numpy")
    summary = model.summary((model.in_chans, *size) if size else None)
    if args.json:
        print_json(summary.as_dict())
    else:
        print(summary)
    return DONE
