"""`npresnet explore`: a page on which the network runs and answers for every number."""
from __future__ import annotations

import argparse
import os

from ..errors import printable
from .common import DONE, UsageError, identity, refusal, write_output

HELP = "write a page on which the network runs, to look into and to experiment with"
EXAMPLES = ("npresnet explore photo.jpg -o page.html", "npresnet explore")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("photo", nargs="?", metavar="PHOTO",
                        help="the photograph that the page opens with (default: one that ships)")
    parser.add_argument("-o", "--output", default="explorer.html", metavar="FILE",
                        help="the page, one file without anything beside it (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from ..explorer import make_page

    pictures = set() if args.photo is None else {identity(args.photo)}
    why_not = refusal(args.output, pictures, args.overwrite)
    if why_not:
        raise UsageError(f"--output {why_not}")
    page = make_page(args.photo, args.photo and os.path.basename(args.photo))
    write_output(args.output, page.encode("utf-8"))
    print(f"{printable(args.output)}: open it in a browser")
    return DONE
