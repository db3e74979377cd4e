"""A digest of sources, by which compiled code is known on disk.

Numba keeps compiled functions on disk and looks at the one file in which a function stands. Ours
are emitted by other files of their package and call functions that stand there. So each compiled
function carries a digest of all of them in its name: after an edit or an upgrade its old code isn't
found.
"""
from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from types import FunctionType


@cache
def digest(package: str) -> str:
    """Eight hexadecimal digits that change with the name or the contents of any source of
    `package`.

    package: its full name, "npresnet.fast". Its subpackages don't count.
    """
    total = hashlib.sha256()
    sources = (path for path in files(package).iterdir() if path.name.endswith(".py"))
    for path in sorted(sources, key=lambda path: path.name):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:8]


def named_by_sources(function: FunctionType, package: str) -> FunctionType:
    """`function`, with the digest of `package` in the name by which its compiled code is kept."""
    function.__qualname__ = f"{function.__name__}_{digest(package)}"
    return function
