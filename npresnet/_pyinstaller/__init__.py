"""For PyInstaller, which finds this by the entry point in `pyproject.toml`: the folder of hooks.

`hook-npresnet.py` is the one: with it a frozen program has all of npresnet in it.
"""
from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Where the hooks are."""
    return [str(Path(__file__).parent)]
