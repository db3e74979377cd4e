"""Compiled code on disk: where it lies, who is trusted, and that what is read is what was written.

Compiled code is pickled: who can write it can run anything. So it lies in the user's own cache
folder, `$XDG_CACHE_HOME/npresnet` or what the system has in its place, and is used only if it and
its folder are this user's and nobody else may write to them. `NUMBA_CACHE_DIR` is the user's own
decision: what lies in its folder `npresnet` is used as it is, read-only or shared. Where there is
no such folder, or it is full, code is compiled for one process alone.

A file holds the code of one function, for one signature on one machine:

    NAME_DIGEST.PYTHON.NUMBA.MACHINE.KEY.nbc    mark, SHA-256 of what follows, (key, code) pickled

LLVM ends the process over code that is damaged, so nothing is unpickled before its digest fits.
This file imports no Numba: whether code is there can be asked before that is paid for.
"""
from __future__ import annotations

import hashlib
import os
import pickle
import platform
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MARK = b"npresnet compiled code 1\n"
OTHERS, UNUSED, DAY = 8, 30, 86400       # sources whose code is kept beside; days; seconds in one
CPU_FACTS = ("flags", "Features", "CPU part")


def folder() -> Path:
    """Where compiled code belongs; it may not be there, nor be fit for it."""
    chosen, home = os.environ.get("NUMBA_CACHE_DIR"), Path("~").expanduser()
    if chosen:
        return Path(chosen, "npresnet")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local", "npresnet")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "npresnet"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return Path(xdg if os.path.isabs(xdg) else home / ".cache", "npresnet")


def is_chosen() -> bool:
    """Whether the folder is of the user's own choice, who then answers for what lies in it."""
    return bool(os.environ.get("NUMBA_CACHE_DIR"))


def is_own(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it; or the user has
    chosen the folder. On Windows a user's folders are."""
    if is_chosen() or not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_kept(names: Iterable[str]) -> bool:
    """Whether code is there of all functions of these names, as `named_by_sources` makes them, for
    this Python, Numba and machine. It isn't read."""
    try:
        files = os.listdir(folder()) if is_own(os.stat(folder())) else []
    except OSError:
        return False
    return all(any(file.startswith(f"{name}.{this_machine()}.") for file in files)
               for name in names)


@cache
def this_machine() -> str:
    """Python's and Numba's versions and a digest of what is known of the processor."""
    facts = [platform.machine(), os.environ.get("PROCESSOR_IDENTIFIER", ""),
             os.environ.get("NUMBA_CPU_NAME", ""), os.environ.get("NUMBA_CPU_FEATURES", "")]
    if os.environ.get("NUMBA_CPU_NAME", "host") == "host":        # else it is code for any machine
        with suppress(OSError), open("/proc/cpuinfo", errors="replace") as cpus:
            for line in cpus:
                if not line.strip():
                    break                                         # the first processor is enough
                facts += [line] if line.startswith(CPU_FACTS) else []
    machine = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:8]
    return f"{sys.implementation.cache_tag}.numba-{_numba_version()}.{machine}"


def _numba_version() -> str:
    """Numba's version, without importing it; its own check of that is part of the key."""
    spec = find_spec("numba")
    with suppress(OSError, AttributeError):
        text = Path(spec.origin).with_name("_version.py").read_text("utf-8")      # type: ignore
        if found := re.search(r'"version": "([\w.+-]+)"', text):
            return found[1]
    return "unknown"


class KeptCode:
    """The code of one function on disk, called `name`. It stands where Numba has a file of its own
    kind, and never raises over what it finds there."""

    def __init__(self, name: str, version: str, dumps: Callable[[Any], bytes]):
        self.name, self.version, self.dumps = name, version, dumps

    def path(self, key: object) -> Path:
        """The file for a key of Numba's: signature, target, and bytecode."""
        digest = hashlib.sha256(repr((self.version, key)).encode()).hexdigest()[:16]
        return folder() / f"{self.name}.{this_machine()}.{digest}.nbc"

    def load(self, key: object) -> Any:
        """What was saved under `key`; None if there is nothing of ours, or it is damaged."""
        path = self.path(key)
        try:
            if not is_own(os.stat(path.parent)):
                return None
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if not is_own(status):
                    return None
                whole = file.read()
        except OSError:
            return None
        start = len(MARK) + 32
        content = memoryview(whole)[start:]
        if whole[:start] != MARK + hashlib.sha256(content).digest():
            return None
        with suppress(OSError):                                   # it may be read-only
            if time.time() - status.st_mtime > DAY:
                os.utime(path)                                    # it is in use: see `tidy`
        try:
            version, stored, code = pickle.loads(content)
        except MemoryError:
            raise
        except Exception:                                         # made where modules were others
            return None
        return code if (version, stored) == (self.version, key) else None

    def save(self, key: object, code: object) -> None:
        """Keep it, if there is room and a place to keep it in. It appears whole or not at all."""
        content = self.dumps((self.version, key, code))
        path = self.path(key)
        with suppress(OSError):
            os.makedirs(path.parent, 0o755 if is_chosen() else 0o700, exist_ok=True)
            if is_own(os.stat(path.parent)):
                _write(path, MARK + hashlib.sha256(content).digest() + content)
                tidy(path.parent, self.name)

    def flush(self) -> None:
        """Numba asks for it when it is told to compile anew: what is there is overwritten."""


class Locator:
    """Where Numba is to keep a function's code; it asks for it in this form."""

    def __init__(self, function: Callable):
        self._py_file = function.__code__.co_filename

    @classmethod
    def from_function(cls, function: Callable, _file: str) -> Locator:
        """Any function has its place."""
        return cls(function)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(folder())

    def ensure_cache_path(self) -> None:
        """`KeptCode.save` does."""

    def get_source_stamp(self) -> str:
        """The digest in the function's name says it."""
        return ""

    def get_disambiguator(self) -> str:
        """Names are told apart as they are."""
        return ""


def _write(path: Path, content: bytes) -> None:
    """Write a file for this user alone, or in a chosen folder for all to read: an image for
    containers is built by one user and run by another. Raises OSError, and leaves nothing behind
    then."""
    import tempfile  # which takes long to import

    handle, new = tempfile.mkstemp(".tmp", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        if is_chosen():
            os.chmod(new, 0o644)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def tidy(where: Path, name: str) -> None:
    """Remove code that is of no use any more: of sources other than those of the function `name`,
    if it wasn't used for a month, or if there is code of several newer ones; and what was left of a
    process that ended as it wrote."""
    own = name.rpartition("_")[2]
    last: dict[str, float] = {}                                   # of each sources' digest
    files: list[tuple[Path, str, float]] = []
    for path in where.iterdir():
        if path.suffix in (".nbc", ".tmp"):
            used = path.stat().st_mtime
            digest = path.name.partition(".")[0].rpartition("_")[2]
            files.append((path, digest, used))
            if path.suffix == ".nbc":
                last[digest] = max(used, last.get(digest, 0.0))
    newest = sorted(last.keys() - {own}, key=last.__getitem__)[-OTHERS:]
    for path, digest, used in files:
        age = (time.time() - used) / DAY
        old = age > 1 if path.suffix == ".tmp" else age > UNUSED or digest not in newest
        if old and digest != own:
            with suppress(OSError):
                path.unlink()
