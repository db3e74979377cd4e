"""`npresnet classify`: the top classes of each picture."""
from __future__ import annotations

import argparse

import numpy as np

from ..errors import WeightsError, printable
from .common import (
    DONE,
    FAILED,
    add_model,
    add_pictures,
    find_pictures,
    load_model,
    model_transform,
    positive,
    print_json,
    read_pictures,
)

HELP = "name what is on pictures"
EXAMPLE = "npresnet classify --model demo photo.jpg holiday/"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_pictures(parser)
    add_model(parser)
    parser.add_argument("-k", "--top", type=positive, default=5, metavar="K",
                        help="how many classes to name (default: %(default)s)")
    parser.add_argument("--test-size", action="store_true",
                        help="the larger picture size that the weights were evaluated at")


def run(args: argparse.Namespace) -> int:
    """Name the classes of each picture, as it is done; exit code 1 if one could not be read."""
    from ..labels import model_labels
    from ..ops import softmax, topk

    files = find_pictures(args.pictures)
    model = load_model(args)
    transform = model_transform(model, args.test_size)
    labels = model_labels(model)
    rows: list[dict] = []
    for file, x in read_pictures(args, files, transform, rows):
        probabilities, indices = topk(softmax(model(x)), min(args.top, len(labels)))
        if not np.isfinite(probabilities).all():
            source = printable(args.weights or args.model)
            raise WeightsError(f"{source}: the weights are finite, but what they make of "
                               f"{printable(file)} is not")
        best = [(labels[i], float(p)) for i, p in zip(indices[0], probabilities[0])]
        rows.append({"file": file, "predictions": [
            dict(index=label.index, wnid=label.wnid, label=label.name, probability=p)
            for label, p in best]})
        if not args.json:
            print(printable(file))
            for label, p in best:
                print(f"  {100 * p:5.1f} %  {label.name}", flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row for row in rows) else DONE
