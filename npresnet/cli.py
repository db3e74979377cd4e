"""The command line, `npresnet` or `python -m npresnet`: the commands of `commands/` put together.

Results go to stdout, complaints and progress to stderr. Exit code 0: all done; 1: some input
failed, the rest was done; 2: wrong usage.
"""
from __future__ import annotations

import argparse
import codecs
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from errno import EINVAL
from importlib import import_module

from .commands.common import FAILED, INTERRUPTED, USAGE, UsageError, say
from .errors import BackendWarning, MissingDependencyError, NpresnetError, printable
from .version import __version__

COMMANDS = ("classify", "embed", "features", "validate", "explain", "explore", "summary", "models",
            "compare", "bench", "download", "warmup", "completion")         # files of commands/

STAND_INS = {"─": "-", "×": "x", "…": "...", "±": "+-", "–": "-", "Δ": "delta", "≤": "<="}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (default: the process's own) and return its exit code."""
    codecs.register_error("npresnet", in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="npresnet")
    parser = build_parser(sys.argv[1:] if argv is None else argv)
    called = parser.prog
    try:
        try:
            args = parser.parse_args(argv)
        except SystemExit as stop:                # --help, --version, or argparse's own complaint
            code = stop.code if isinstance(stop.code, int) else USAGE
        else:
            called += f" {args.command}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                   # what matters is said anyway,
                warnings.simplefilter("always", BackendWarning)   # but for this
                warnings.showwarning = lambda said, *_: say(f"{called}: {said}")
                code = args.run(args)
        print(end="", flush=True)                                 # there may be no stdout at all
        return code
    except (UsageError, ValueError, MissingDependencyError) as error:
        say(f"{called}: {error}")
        return USAGE
    except NpresnetError as error:
        say(f"{called}: {error}")
        return FAILED
    except OSError as error:                                      # stdout can't be written
        # `head`, say, has seen enough; Windows calls that an invalid argument.
        closed = isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == EINVAL)
        if not closed:
            say(f"{called}: {describe(error)}")
        # Whatever is still buffered goes nowhere, or Python complains again as it exits.
        with suppress(OSError):                                   # stdout is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        say(f"{called}: not enough memory; try a smaller model or picture size")
        return FAILED


def describe(error: OSError) -> str:
    """What went wrong with which file, in one line."""
    why = printable(error.strerror or error)
    return why if error.filename is None else f"{printable(error.filename)}: {why}"


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler for text that a terminal can't show: the tables' characters get a stand-in,
    others are escaped."""
    assert isinstance(error, UnicodeEncodeError)
    shown = [STAND_INS.get(c) or c.encode("unicode_escape").decode()
             for c in error.object[error.start:error.end]]
    return "".join(shown), error.end


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands; `args.run` is the function of the one that was called.

    If `argv` calls one, the others are known by their names alone, and not imported.
    """
    called = next((word for word in argv if word in COMMANDS), None)
    parser = argparse.ArgumentParser(prog="npresnet",
                                     description="ResNetV2 without a framework, in NumPy.",
                                     epilog="Start with: npresnet classify PHOTO.jpg")
    parser.add_argument("--version", action="version", version=f"npresnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        if called not in (None, name):
            subparsers.add_parser(name)
            continue
        command = import_module(f".commands.{name}", __package__)
        description = command.HELP[0].upper() + command.HELP[1:] + "."
        sub = subparsers.add_parser(name, help=command.HELP, description=description,
                                    epilog="\n".join(map("example: {}".format, command.EXAMPLES)),
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        sub.set_defaults(run=command.run, whole=build_parser)
        command.add_options(sub)
    return parser
