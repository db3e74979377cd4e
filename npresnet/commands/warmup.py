"""`npresnet warmup`: the fast engine compiled ahead, so that no user waits for it."""
from __future__ import annotations

import argparse
import time

import numpy as np

from .common import DONE, print_json

HELP = "compile the fast engine for this machine, ahead of its first use"
EXAMPLES = ("npresnet warmup", "NUMBA_CACHE_DIR=/opt/compiled npresnet warmup")


def add_options(parser: argparse.ArgumentParser) -> None:
    """It takes nothing."""


def run(args: argparse.Namespace) -> int:
    """Compile, and say where that is kept."""
    from ..fast import compiled_code_is_kept
    from ..lower.cache import folder
    from ..model import create_model

    start = time.perf_counter()
    model = create_model("demo", backend="numba")
    model(np.zeros((1, 3, 160, 160), np.float32))                 # large enough for all algorithms
    seconds = time.perf_counter() - start
    kept = str(folder()) if compiled_code_is_kept() else None
    if args.json:
        print_json(dict(seconds=round(seconds, 3), folder=kept))
    elif kept is None:
        print(f"compiled in {seconds:.1f} s, but it can't be kept in {folder()}: set "
              "NUMBA_CACHE_DIR to a folder that you can write to")
    else:
        print(f"ready in {seconds:.1f} s; compiled code is kept in {kept}")
    return DONE
