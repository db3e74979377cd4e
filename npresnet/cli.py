"""The command line, `npresnet` or `python -m npresnet`: the commands of `commands/` put together.

Results go to stdout, complaints and progress to stderr. Exit code 0: all done; 1: some input
failed, the rest was done; 2: wrong usage.
"""
from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from .commands.common import FAILED, USAGE, UsageError, say
from .errors import MissingDependencyError, NpresnetError
from .version import __version__

COMMANDS = ("classify", "summary", "models", "compare", "bench")  # files of commands/


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (default: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")         # a terminal without "×" gets \xd7
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
                warnings.simplefilter("ignore")                   # what matters is said anyway
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
        if not isinstance(error, BrokenPipeError):                # `head`, say, has seen enough
            say(f"{called}: {error.strerror or error}")
        # Whatever is still buffered goes nowhere, or Python complains again as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        say(f"{called}: not enough memory; try a smaller model or picture size")
        return FAILED


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
                                    epilog=f"example: {command.EXAMPLE}",
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        sub.set_defaults(run=command.run)
        command.add_options(sub)
    return parser
