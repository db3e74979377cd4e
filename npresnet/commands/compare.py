"""`npresnet compare`: the network held against another implementation, layer by layer."""
from __future__ import annotations

import argparse

from ..backend import BACKENDS, REFERENCE
from ..errors import printable
from .common import DONE, FAILED, add_model, load_model, print_json
from .pictures import add_pictures, find_pictures, report

HELP = "compare two implementations layer by layer on pictures"
EXAMPLES = ("npresnet compare --model demo --against timm photo.jpg",)

TOLERANCES = {"timm": BACKENDS[REFERENCE].tolerance.layers} | {
    name: entry.tolerance.layers for name, entry in BACKENDS.items() if name != REFERENCE}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    limits = ", ".join(f"{limit:.0e} against {name}" for name, limit in TOLERANCES.items())
    add_pictures(parser)
    add_model(parser, backend=False)
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
    from ..predict import Predictor

    if args.against == "timm":
        check_timm()                                              # before anything is downloaded
    pictures = find_pictures(args)
    model = load_model(args, backend=REFERENCE)
    if args.against == "timm":
        other = timm_trace(model)
    else:
        twin = ResNetV2(model.variant, model.pretrained_cfg, num_classes=model.num_classes,
                        backend=args.against)
        twin.load_state_dict(model.state_dict())
        other = twin.trace
    tolerance = TOLERANCES[args.against] if args.tolerance is None else args.tolerance
    rows: list[dict] = []
    inputs = Predictor(model, output="features").inputs(picture.source for picture in pictures)
    for file, (_, x, error) in report(args, pictures, inputs):
        if error is not None:
            rows.append({"file": file, "error": error})
            continue
        one = x[None]                                             # (1, C, H, W)
        result = compare(model.trace(one), other(one), tolerance, (REFERENCE, args.against))
        rows.append({"file": file} | result.as_dict())
        if not args.json:
            print(f"{printable(file)}: npresnet ({REFERENCE}) against {args.against}")
            print(result, flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row or row["first_divergence"] for row in rows) else DONE
