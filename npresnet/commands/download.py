"""`npresnet download`: published weights into the cache, before there is no network."""
from __future__ import annotations

import argparse

from ..errors import NpresnetError, printable
from .common import DONE, FAILED, print_json, say

HELP = "fetch published weights into the cache"
EXAMPLES = ("npresnet download resnetv2_50.a1h_in1k resnetv2_101.a1h_in1k",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("models", nargs="+", metavar="MODEL",
                        help="names of `npresnet models --pretrained`; NAME@REVISION pins a commit "
                             "or tag of its repository")


def run(args: argparse.Namespace) -> int:
    """Print the path of each file; exit code 1 if one can't be had."""
    from ..hub import download
    from ..variants import find_variant, split_revision

    for name in args.models:                                      # before anything is fetched
        find_variant(split_revision(name)[0])
    rows: list[dict] = []
    for name in args.models:
        try:
            path, cached = download(name)
            rows.append(dict(model=name, file=str(path), cached=cached))
        except NpresnetError as error:
            say(f"npresnet download: {error}")
            rows.append(dict(model=name, error=str(error)))
        if not args.json and "file" in rows[-1]:
            print(printable(rows[-1]["file"]), flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row for row in rows) else DONE
