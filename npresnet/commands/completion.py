"""`npresnet completion`: commands, options and file names completed by the shell."""
from __future__ import annotations

import argparse
from importlib.util import find_spec

from ..errors import MissingDependencyError
from .common import DONE, UsageError

HELP = "print what makes a shell complete this command line"
EXAMPLES = ("npresnet completion bash > ~/.local/share/bash-completion/completions/npresnet",
            "npresnet completion zsh > ~/.zfunc/_npresnet")

SHELLS = ("bash", "zsh", "tcsh", "fish")
FILES = ("PHOTO", "FILE", "FOLDER", "DIR", "WHERE", "FILE.png")   # metavars of what is on disk


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """Print the script, which shtab makes of the parser (extra `completion`)."""
    if find_spec("shtab") is None:
        raise MissingDependencyError("completion needs shtab: "
                                     "pip install \"npresnet[completion]\"")
    import shtab

    if args.json:
        raise UsageError("a shell reads no JSON: leave --json out")
    if args.shell not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"this shtab knows {', '.join(shtab.SUPPORTED_SHELLS)}, not {args.shell}")
    parser = args.whole()
    for each in _parsers(parser):
        for action in each._actions:
            if action.metavar in FILES:
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
    return DONE


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser, and those of its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found
