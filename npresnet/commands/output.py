"""Where results go: to stdout, or as they come into a file whose ending says how.

    .jsonl, .ndjson   a line a picture: {"file": …, "predictions": [...]} or {"file": …, "error": …}
    .csv              a line a picture, numbers in columns of their own
    .npz              NumPy arrays, "files" and one for each kind of result
    .parquet          a row a picture (extra `parquet`)

The first two grow line by line, each whole. The others can't grow: until the end rows lie in a
spool beside them (`spool.py`).
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError, printable
from .common import DONE, FAILED, UsageError, model_options, say
from .pictures import find_pictures, reading_options, report
from .results import Csv, JsonArray, JsonLines, Results, Row, Text
from .spool import Spooled

TABLES = (".jsonl", ".ndjson", ".csv", ".parquet")                # of what has a row a picture


def add_output(parser: argparse.ArgumentParser, endings: Iterable[str]) -> None:
    """The options --output and --resume, for `open_results`."""
    parser.set_defaults(endings=tuple(endings))
    parser.add_argument("-o", "--output", metavar="FILE",
                        help=f"write results there as they come; it ends in {', '.join(endings)}")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the --output of a run that was stopped: pictures that "
                             "have results there are left out")


def open_results(args: argparse.Namespace, show: Callable[[Row], str]) -> Results:
    """Where --output or --json want results; else stdout, as `show` makes it of a row.

    Raises UsageError if that can't be, before anything is computed.
    """
    if args.resume and not args.output:
        raise UsageError("--resume goes on with an --output file: name it")
    if not args.output:
        return JsonArray() if args.json else Text(show)
    path = Path(args.output)
    ending = path.suffix.lower()
    if ending not in args.endings:
        raise UsageError(f"{printable(path)}: its name must end in {', '.join(args.endings)}, "
                         "which says how results are written")
    if ending == ".parquet" and find_spec("pyarrow") is None:
        raise MissingDependencyError("writing parquet needs the extra 'parquet': "
                                     "pip install \"npresnet[parquet]\"")
    if not path.parent.is_dir():
        raise UsageError(f"{printable(path.parent)}: there is no such folder")
    kept = [name for name in (path, Spooled.spool_of(path)) if name.exists() and
            (name.stat().st_size or not name.is_file())]
    if kept and not args.resume:
        raise UsageError(f"{printable(kept[0])} is there already: --resume goes on with it, or "
                         "delete it")
    kinds: dict[str, type[Any]] = {".jsonl": JsonLines, ".ndjson": JsonLines, ".csv": Csv,
                                   ".npz": Spooled, ".parquet": Spooled}
    results: Results = kinds[ending](path)
    return results


def run_pictures(args: argparse.Namespace, row: Callable[[Any], Row], show: Callable[[Row], str],
                 **options: Any) -> int:
    """What `classify`, `embed` and `features` do: a row for each picture, as it is computed.

    row: from an answer's value to results. show: a row as text. options: of `Predictor`.
    Returns the exit code: 1 if a picture failed.
    """
    from ..predict import Predictor

    pictures = find_pictures(args)
    done = failed = 0
    with open_results(args, show) as results:
        left = [picture for picture in pictures if picture.name not in results.done]
        predictor = Predictor(**model_options(args, len(left)), **reading_options(args),
                              **options)
        start = time.perf_counter()
        try:
            answers = predictor.stream((picture.source for picture in left),
                                       batch_size=args.batch_size)
            for name, answer in report(args, left, answers):
                found = row(answer.value) if answer.error is None else {"error": answer.error}
                results.write({"file": name} | found)
                done, failed = done + 1, failed + (answer.error is not None)
        finally:
            if args.output:
                _tell(args, len(pictures) - len(left), done, failed, time.perf_counter() - start)
    return FAILED if failed else DONE


def _tell(args: argparse.Namespace, before: int, done: int, failed: int, seconds: float) -> None:
    """What a run with --output has done, on stderr."""
    rate = f" ({done / seconds:.0f} a second)" if done > 1 else ""
    earlier = f", {before} were there" if before else ""
    bad = f", {failed} failed" if failed else ""
    say(f"npresnet {args.command}: {done} pictures in {seconds:.1f} s{rate}{earlier}{bad}: "
        f"{printable(args.output)}")
