"""What the tests of the command line share; their fixtures stand in conftest.py."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import npresnet
from npresnet import Predictor
from npresnet.cli import main

COMMANDS = ["classify", "embed", "features", "validate", "explain", "explore", "summary", "models",
            "compare", "bench", "download", "warmup", "completion"]
DECIDING = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "NPRESNET_BACKEND")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process of its own.

    It finds this npresnet, and none of the settings that decide how Python writes.
    """
    clean = {name: value for name, value in os.environ.items() if name not in DECIDING}
    package = str(Path(npresnet.__file__).parents[1])
    return clean | dict(PYTHONPATH=package, OPENBLAS_NUM_THREADS="1") | changes


def run(*argv, env: dict | None = None) -> subprocess.CompletedProcess:
    """`python -m npresnet` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "npresnet", *argv],
                          env=environment(**env or {}), capture_output=True, timeout=60)


def complaint(capsys, code: int, *argv) -> str:
    """The one line that a failing command says."""
    assert main([str(arg) for arg in argv]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("\n"), (out, err)
    assert err.startswith(f"npresnet {argv[0]}: ") and "Traceback" not in err
    return err.strip()


def expected(folder: Path, output: str, **options) -> dict[str, object]:
    """File → value, by way of the Python interface."""
    files = sorted(map(str, folder.iterdir()))
    answers = Predictor("demo", output=output, backend="numpy", **options).stream(files)
    return {answer.source: answer.value for answer in answers}


def call(*argv) -> int:
    return main([str(arg) for arg in (*argv, "--backend", "numpy", "--batch-size", 2)])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
