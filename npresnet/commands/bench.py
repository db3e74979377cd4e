"""`npresnet bench`: how fast it is on this machine, beside other runtimes."""
from __future__ import annotations

import argparse
import os
from importlib.util import find_spec

from ..errors import MissingDependencyError, printable
from ..instruments.contenders import CONTENDERS, OWN, read_peers
from .common import DONE, FAILED, UsageError, picture_size, positive, print_json, say

HELP = "measure how fast it is on this machine, beside other runtimes"
EXAMPLES = ("npresnet bench --batch 1 --only numba numba-exact",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--model", metavar="NAME",
                        help="one of `npresnet models` (default: resnetv2_50)")
    parser.add_argument("--weights", metavar="FILE",
                        help="a safetensors file for it (default: random weights)")
    parser.add_argument("--peers", metavar="DIR",
                        help="a model for PyTorch, ONNX Runtime and OpenVINO too: a folder that "
                             "tests/benchmarks/make_peers.py wrote. PyTorch runs the code that is "
                             "in it")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8], metavar="N",
                        help="pictures a call (default: 1 8)")
    parser.add_argument("--size", type=positive, nargs="+", metavar="PX",
                        help="height and width of the pictures, or one edge")
    parser.add_argument("--threads", type=positive, metavar="N",
                        help="threads of each contender (default: as many as there are cores)")
    parser.add_argument("--runs", type=positive, metavar="N",
                        help="calls to time in each process (default: about two seconds of them)")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), metavar="NAME",
                        help=f"measure these: {', '.join(CONTENDERS)}")
    parser.add_argument("--picture", metavar="FILE.png",
                        help="draw the numba backend's layers as a roofline (needs the extra "
                             "'tutorials')")


def run(args: argparse.Namespace) -> int:
    """Print the table of times.

    Exit code 1 if a contender failed, or isn't there although it was asked for.
    """
    from ..instruments.bench import measure

    check_picture(args.picture)                                   # before anything is measured
    model, weights, size = args.model or "resnetv2_50", args.weights, picture_size(args.size)
    contenders = args.only or tuple(CONTENDERS if args.peers else OWN)
    if args.peers:
        if args.model or args.weights or args.size:
            raise UsageError("--peers brings its own model, weights and picture size: leave "
                             "--model, --weights and --size out")
        peers = read_peers(args.peers)
        model, size = peers["model"], peers["size"]
        weights = os.path.join(args.peers, "model.safetensors")
    elif not args.only:
        complain("to measure PyTorch, ONNX Runtime and OpenVINO too, give --peers DIR; "
                 "tests/benchmarks/make_peers.py writes it")
    result = measure(contenders, model, weights=weights, peers=args.peers, size=size,
                     batches=args.batch, threads=args.threads, runs=args.runs, complain=complain)
    if args.json:
        print_json(result.as_dict())
    else:
        print(result)
    if args.picture:
        from ..instruments.roofline import draw_roofline
        from ..model import create_model

        fast = create_model(model, weights=weights, backend="numba", num_threads=result.threads)
        draw_roofline(fast.plan(result.input_size), result.heading, args.picture)
    return FAILED if any("error" in stop or args.only for stop in result.stopped) else DONE


def check_picture(path: str | None) -> None:
    """Raise MissingDependencyError or UsageError if --picture can't be drawn there."""
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("--picture needs matplotlib: "
                                     "pip install \"npresnet[tutorials]\"")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UsageError(f"{printable(path)}: there is no such folder")


def complain(line: str) -> None:
    """A line on stderr, from this command."""
    say(f"npresnet bench: {line}")
