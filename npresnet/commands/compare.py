"""`npresnet compare`: the network held against another implementation, layer by layer."""
from __future__ import annotations

import argparse

from ..backend import BACKENDS
from ..errors import printable
from .common import (
    DONE,
    FAILED,
    add_model,
    add_pictures,
    find_pictures,
    load_model,
    model_transform,
    print_json,
    read_pictures,
)

HELP = "compare two implementations layer by layer on pictures"
EXAMPLE = "npresnet compare --model demo --against timm photo.jpg"

REFERENCE = "numpy"                                               # what the others are held against
TOLERANCES = {"timm": BACKENDS[REFERENCE].tolerance.layers} | {
    name: entry.tolerance.layers for name, entry in BACKENDS.items() if name != REFERENCE}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    limits = ", ".join(f"{limit:.0e} against {name}" for name, limit in TOLERANCES.items())
    add_pictures(parser)
    add_model(parser)
    parser.add_argument("--against", choices=tuple(TOLERANCES), default="timm",
                        help="what to hold the NumPy reference against: timm, which has to be "
                             "installed, or another backend (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, metavar="Δ",
                        help="largest difference, as a share of a layer's largest magnitude "
                             f"(default: {limits})")


def run(args: argparse.Namespace) -> int:
    """Print a table of differences for each picture; exit code 1 if a layer diverges."""
    from ..instruments.comparison import compare
    from ..instruments.parity import check_timm, timm_trace
    from ..model import ResNetV2

    if args.against == "timm":
        check_timm()                                              # before anything is downloaded
    files = find_pictures(args.pictures)
    model = load_model(args, backend=REFERENCE)
    transform = model_transform(model)
    if args.against == "timm":
        other = timm_trace(model)
    else:
        twin = ResNetV2(model.variant, model.pretrained_cfg, num_classes=model.num_classes,
                        backend=args.against)
        twin.load_state_dict(model.state_dict())
        other = twin.trace
    tolerance = TOLERANCES[args.against] if args.tolerance is None else args.tolerance
    rows: list[dict] = []
    for file, x in read_pictures(args, files, transform, rows):
        result = compare(model.trace(x), other(x), tolerance, (REFERENCE, args.against))
        rows.append({"file": file} | result.as_dict())
        if not args.json:
            print(f"{printable(file)}: npresnet ({REFERENCE}) against {args.against}")
            print(result, flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row or row["first_divergence"] for row in rows) else DONE
