"""The command line: `npresnet classify|summary|models|compare|bench`, also `python -m npresnet`.

Results go to stdout, complaints and progress to stderr. Exit code 0: all done; 1: some input failed, the rest was done; 2: wrong usage.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import __version__
from .errors import ImageError, MissingDependencyError, NpresnetError, WeightsError, printable
from .instruments.contenders import CONTENDERS, OWN, read_peers

if TYPE_CHECKING:
    from .model import ResNetV2

DONE, FAILED, USAGE = 0, 1, 2
TOLERANCES = {"timm": 5e-6, "numba": 1e-4, "cuda": 1e-5}          # what `compare` allows, by what it compares with
PICTURES = {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".ico", ".tga"}


class UsageError(Exception):
    """The command was called the wrong way; the message says how to do better."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (default: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")                                 # a terminal that can't show "×" gets \xd7
    parser = build_parser()
    called = parser.prog
    try:
        try:
            args = parser.parse_args(argv)
        except SystemExit as stop:                                                        # --help, --version, or argparse's own complaint
            code = stop.code if isinstance(stop.code, int) else USAGE
        else:
            called += f" {args.command}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                                           # what matters is said in our own words
                code = args.run(args)
        print(end="", flush=True)                                                         # there may be no stdout at all
        return code
    except (UsageError, ValueError, MissingDependencyError) as error:
        say(f"{called}: {error}")
        return USAGE
    except NpresnetError as error:
        say(f"{called}: {error}")
        return FAILED
    except OSError as error:                                                              # stdout can't be written
        if not isinstance(error, BrokenPipeError):                                        # the reader, `head` say, has seen enough
            say(f"{called}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())                    # or Python complains again as it exits
        return FAILED
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        say(f"{called}: not enough memory; try a smaller model or picture size")
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.run` is the function of the one that was called."""
    parser = argparse.ArgumentParser(prog="npresnet", description="ResNetV2 without a framework, in NumPy.",
                                     epilog="Start with: npresnet classify PHOTO.jpg")
    parser.add_argument("--version", action="version", version=f"npresnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, help, example):
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=f"example: {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        return sub

    def model_options(sub):
        sub.add_argument("--model", default="demo", metavar="NAME", help="one of `npresnet models` (default: demo, the small trained "
                         "network inside the package; it knows ten classes)")
        sub.add_argument("--weights", metavar="FILE", help="a safetensors file for it; without one, published weights are fetched")

    sub = command("classify", classify, "name what is on pictures", "npresnet classify --model demo photo.jpg holiday/")
    sub.add_argument("pictures", nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    model_options(sub)
    sub.add_argument("-k", "--top", type=positive, default=5, metavar="K", help="how many classes to name (default: 5)")
    sub.add_argument("--test-size", action="store_true", help="the larger picture size that the weights were evaluated at")

    sub = command("summary", summary, "list a model's layers with shapes, parameters and multiply-adds",
                  "npresnet summary --model resnetv2_50 --size 288")
    sub.add_argument("--model", default="resnetv2_50", metavar="NAME", help="one of `npresnet models` (default: resnetv2_50)")
    sub.add_argument("--size", type=positive, nargs="+", metavar="PX", help="height and width of the picture, or one edge")

    sub = command("models", models, "list the models and their published weights", "npresnet models --pretrained")
    sub.add_argument("--pretrained", action="store_true", help="only those with trained weights")

    sub = command("compare", compare, "compare two implementations layer by layer on pictures",
                  "npresnet compare --model demo --against timm photo.jpg")
    sub.add_argument("pictures", nargs="+", metavar="PHOTO", help="picture files, or folders of them")
    model_options(sub)
    sub.add_argument("--against", choices=tuple(TOLERANCES), default="timm",
                     help="what to hold the NumPy reference against: timm, which has to be installed, or another backend (default: timm)")
    sub.add_argument("--tolerance", type=float, metavar="Δ", help="largest difference, as a share of a layer's largest magnitude "
                     "(default: 5e-6 against timm, 1e-4 against numba, 1e-5 against cuda)")

    sub = command("bench", bench, "measure how fast it is on this machine, beside other runtimes",
                  "npresnet bench --batch 1 --only numba numba-exact")
    sub.add_argument("--model", metavar="NAME", help="one of `npresnet models` (default: resnetv2_50)")
    sub.add_argument("--weights", metavar="FILE", help="a safetensors file for it (default: random weights)")
    sub.add_argument("--peers", metavar="DIR", help="a model for PyTorch, ONNX Runtime and OpenVINO too: a folder that "
                     "tests/benchmarks/make_peers.py wrote. PyTorch runs the code that is in it")
    sub.add_argument("--batch", type=positive, nargs="+", default=[1, 8], metavar="N", help="pictures a call (default: 1 8)")
    sub.add_argument("--size", type=positive, nargs="+", metavar="PX", help="height and width of the pictures, or one edge")
    sub.add_argument("--threads", type=positive, metavar="N", help="threads of each contender (default: as many as there are cores)")
    sub.add_argument("--runs", type=positive, metavar="N", help="calls to time in each process (default: about two seconds of them)")
    sub.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), metavar="NAME", help=f"measure these: {', '.join(CONTENDERS)}")
    sub.add_argument("--picture", metavar="FILE.png", help="draw the numba backend's layers as a roofline (needs the extra 'tutorials')")
    return parser


def classify(args: argparse.Namespace) -> int:
    """`npresnet classify`: the top classes of each picture."""
    from .labels import model_labels
    from .ops import softmax, topk

    files = find_pictures(args.pictures)
    model = load_model(args)
    transform, labels, rows = model_transform(model, args.test_size), model_labels(model), []
    for file, x in read_pictures(args, files, transform, rows):
        probabilities, indices = topk(softmax(model(x)), min(args.top, len(labels)))
        if not np.isfinite(probabilities).all():
            raise WeightsError(f"{args.weights or args.model}: the weights are finite, but what they make of {printable(file)} is not")
        best = [(labels[i], float(p)) for i, p in zip(indices[0], probabilities[0])]
        rows.append({"file": file, "predictions": [dict(index=label.index, wnid=label.wnid, label=label.name, probability=p)
                                                   for label, p in best]})
        if not args.json:
            print(printable(file))
            for label, p in best:
                print(f"  {100 * p:5.1f} %  {label.name}", flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row for row in rows) else DONE


def summary(args: argparse.Namespace) -> int:
    """`npresnet summary`: the table of layers."""
    from .model import create_model

    size = picture_size(args.size)
    model = create_model(args.model, backend="numpy")
    table = model.summary((model.in_chans, *size) if size else None)
    print_json(table.as_dict()) if args.json else print(table)
    return DONE


def models(args: argparse.Namespace) -> int:
    """`npresnet models`: names, and which of them have published weights."""
    from .table import format_table
    from .variants import PRETRAINED, count_parameters, find_variant, list_models

    rows = []
    for name in list_models():
        weights = ["inside the package"] if name == "demo" else [full for full in PRETRAINED if full.partition(".")[0] == name]
        if weights or not args.pretrained:
            params = count_parameters(find_variant(name)[0], num_classes=10 if name == "demo" else 1000)
            rows.append(dict(name=name, params=params, weights=weights))
    if args.json:
        print_json(rows)
    else:
        print(format_table([("model", "weights", "parameters")] +
                           [(r["name"], ", ".join(r["weights"]) or "none published", f"{r['params'] / 1e6:.1f} M") for r in rows], right=2))
    return DONE


def compare(args: argparse.Namespace) -> int:
    """`npresnet compare`: the table of differences for each picture; exit code 1 if a layer diverges."""
    from .instruments.comparison import compare as compare_traces
    from .instruments.parity import check_timm, timm_trace

    if args.against == "timm":
        check_timm()                                              # before anything is downloaded
    files = find_pictures(args.pictures)
    model = load_model(args)
    transform, rows = model_transform(model), []
    if args.against == "timm":
        other = timm_trace(model)
    else:
        from .model import ResNetV2
        twin = ResNetV2(model.variant, model.pretrained_cfg, num_classes=model.num_classes, backend=args.against)
        twin.load_state_dict(model.state_dict())
        other = twin.trace
    for file, x in read_pictures(args, files, transform, rows):
        result = compare_traces(model.trace(x), other(x), TOLERANCES[args.against] if args.tolerance is None else args.tolerance)
        rows.append({"file": file} | result.as_dict())
        if not args.json:
            print(f"{printable(file)}: npresnet (numpy) against {args.against}\n{result}", flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row or row["first_divergence"] for row in rows) else DONE


def bench(args: argparse.Namespace) -> int:
    """`npresnet bench`: the table of times; exit code 1 if a contender failed, or isn't there although it was asked for."""
    from .instruments.bench import measure
    from .model import create_model

    if args.picture and find_spec("matplotlib") is None:                                  # before anything is measured
        raise MissingDependencyError("--picture needs matplotlib: pip install 'npresnet[tutorials]'")
    if args.picture and not os.path.isdir(os.path.dirname(args.picture) or "."):
        raise UsageError(f"{printable(args.picture)}: there is no such folder")
    model, weights, size = args.model or "resnetv2_50", args.weights, picture_size(args.size)
    if args.peers:
        if args.model or args.weights or args.size:
            raise UsageError("--peers brings its own model, weights and picture size: leave --model, --weights and --size out")
        peers = read_peers(args.peers)
        model, weights, size = peers["model"], os.path.join(args.peers, "model.safetensors"), peers["size"]
    elif not args.only:
        say("npresnet bench: to measure PyTorch, ONNX Runtime and OpenVINO too, give --peers DIR; tests/benchmarks/make_peers.py writes it")
    result = measure(args.only or (CONTENDERS if args.peers else OWN), model, weights=weights, peers=args.peers, size=size,
                     batches=args.batch, threads=args.threads, runs=args.runs, complain=lambda line: say(f"npresnet bench: {line}"))
    print_json(result.as_dict()) if args.json else print(result)
    if args.picture:
        from .instruments.roofline import draw_roofline
        plan = create_model(model, weights=weights, backend="numba", num_threads=result.threads).plan(input_size=result.input_size)
        draw_roofline(plan, result.heading, args.picture)
    return FAILED if any("error" in stop or args.only for stop in result.stopped) else DONE


def load_model(args: argparse.Namespace) -> ResNetV2:
    """The model of --model and --weights."""
    from .model import create_model

    return create_model(args.model, weights=args.weights, pretrained=args.weights is None and args.model != "demo",
                        backend="numpy" if args.command == "compare" else "auto")


def picture_size(edges: list[int] | None) -> tuple[int, int] | None:
    """(H, W) of --size; None if it isn't given. Raises UsageError."""
    if edges and len(edges) > 2:
        raise UsageError("--size takes one edge, or height and width")
    return (edges[0], edges[-1]) if edges else None


def model_transform(model: ResNetV2, use_test_size: bool = False):
    """The model's own evaluation transform."""
    from .data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(model, use_test_size=use_test_size))


def find_pictures(names: Iterable[str]) -> list[str]:
    """Files as they are named; a folder stands for the pictures in it and below, by ending, sorted. Raises UsageError if there are none."""
    files: list[str] = []
    empty: list[str] = []
    for name in names:
        if os.path.isdir(name):
            found = sorted(str(f) for f in Path(name).rglob("*") if f.suffix.lower() in PICTURES and not os.path.isdir(f))
            files += found
            empty += [] if found else [name]
        else:                                                                             # if it isn't there, load_image will say so
            files.append(name)
    if not files:
        raise UsageError(f"no pictures in {', '.join(map(printable, names))} (files that end in {', '.join(sorted(PICTURES))})")
    return files + empty                                                                  # an empty one is reported, as a file that fails is


def read_pictures(args: argparse.Namespace, files: list[str], transform, rows: list[dict]) -> Iterator[tuple[str, np.ndarray]]:
    """(file, the network's input (1, C, H, W)) of each picture that can be read; of the others the error is said and put into `rows`.

    Shows a progress bar on a terminal after the first second.
    """
    from tqdm import tqdm

    from .data import load_image

    bar = tqdm(files, unit="picture", delay=1, disable=None if len(files) > 1 else True, leave=False)
    for file in bar:
        error = ""
        try:
            image = load_image(file)
            try:
                x = transform(image)[None]
            except ImageError as reason:                                                  # the transform knows no file
                error = f"{printable(file)}: {reason}"
        except ImageError as reason:
            error = str(reason)
        except MemoryError:
            error = f"{printable(file)}: needs more memory than there is; make it smaller"
        bar.clear()                                                                       # what is printed next gets a line of its own
        if error:
            say(f"npresnet {args.command}: {error}")
            rows.append({"file": file, "error": error})
        else:
            yield file, x


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def print_json(value: object) -> None:
    """`value` on stdout, as JSON that any reader takes, whatever the terminal's encoding."""
    print(json.dumps(value, indent=2, allow_nan=False))


def say(message: str) -> None:
    """One line on stderr."""
    print(" ".join(message.splitlines()), file=sys.stderr)
