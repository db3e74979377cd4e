"""`npresnet models`: the names that --model takes, and which have published weights."""
from __future__ import annotations

import argparse

from .common import DONE, print_json

HELP = "list the models and their published weights"
EXAMPLES = ("npresnet models --pretrained",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--pretrained", action="store_true",
                        help="only those with trained weights")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ..graph import build_graph
    from ..table import format_table
    from ..variants import PRETRAINED, find_variant, list_models

    rows: list[dict] = []
    for name in list_models():
        weights = [full for full in PRETRAINED if full.partition(".")[0] == name]
        classes = 1000
        if name == "demo":
            weights = ["inside the package"]
            classes = 10
        if weights or not args.pretrained:
            variant, _ = find_variant(name)
            params = build_graph(variant, num_classes=classes).count_parameters()
            rows.append(dict(name=name, params=params, weights=weights))
    if args.json:
        print_json(rows)
        return DONE
    cells = [("model", "weights", "parameters")]
    for row in rows:
        published = ", ".join(row["weights"]) or "none published"
        cells.append((row["name"], published, f"{row['params'] / 1e6:.1f} M"))
    print(format_table(cells, right=2))
    return DONE
