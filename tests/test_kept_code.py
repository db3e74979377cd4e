"""Compiled code on disk: where it lies, who is trusted, what is damaged, full or old."""
from __future__ import annotations

import errno
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npresnet.lower import cache
from npresnet.lower.cache import MARK, KeptCode, folder, is_kept, this_machine, tidy

ROOT = Path(__file__).resolve().parents[1]
KEY, CODE = (("int64", "float32"), ("x86_64", "znver4")), {"code": b"\x90" * 1000}
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows keeps users apart otherwise")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The user's cache folder, which isn't there yet."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache" / "npresnet")
    return tmp_path / "cache" / "npresnet"


def kept(name: str = "run_0a1b2c3d", version: str = "0.68.1") -> KeptCode:
    return KeptCode(name, version, pickle.dumps)


def only_file(place: Path) -> Path:
    path, = place.iterdir()
    return path


# --- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("system, environment, want", [
    ("linux", {}, "{home}/.cache/npresnet"),
    ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/npresnet"),
    ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "{home}/.cache/npresnet"),
    ("darwin", {"XDG_CACHE_HOME": "/x/cache"}, "{home}/Library/Caches/npresnet"),
    ("win32", {"LOCALAPPDATA": "/users/me/local"}, "/users/me/local/npresnet"),
    ("win32", {}, "{home}/AppData/Local/npresnet"),
    ("linux", {"NUMBA_CACHE_DIR": "/chosen", "XDG_CACHE_HOME": "/x"}, "/chosen/npresnet"),
])
def test_the_folder(system, environment, want, tmp_path, monkeypatch):
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache.sys, "platform", system)
    assert folder() == Path(want.format(home=tmp_path))


# --- what is kept ---------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(place):
    code = kept()
    assert code.load(KEY) is None and not place.exists()
    code.save(KEY, CODE)
    assert code.load(KEY) == CODE
    assert kept().load(KEY) == CODE
    assert kept(version="0.69").load(KEY) is None and kept("run_ffffffff").load(KEY) is None
    assert code.load((*KEY, "another")) is None
    code.save(KEY, "anew")
    assert code.load(KEY) == "anew" and only_file(place)


@pytest.mark.parametrize("other, key", [("0.69", KEY), ("0.68.1", (*KEY, "another"))])
def test_a_file_says_itself_what_it_is_of(place, other, key):
    """Its name is only a digest of that."""
    kept().save(KEY, CODE)
    only_file(place).rename(kept(version=other).path(key))
    assert kept(version=other).load(key) is None


@posix
def test_it_is_for_this_user_alone(place):
    kept().save(KEY, CODE)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(place).stat().st_mode) == 0o600


@posix
def test_in_a_chosen_folder_it_is_for_all_to_read(place, monkeypatch):
    """An image for containers is built by one user and run by another."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(place.parent))
    kept().save(KEY, CODE)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE(only_file(place).stat().st_mode) == 0o644


@posix
@pytest.mark.parametrize("mode", [0o770, 0o702])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_to_is_not_read(place, mode, what, monkeypatch, tmp_path):
    kept().save(KEY, CODE)
    (place if what == "folder" else only_file(place)).chmod(mode)
    assert kept().load(KEY) is None
    if what == "folder":                                          # nor written to
        before = only_file(place).stat().st_mtime_ns
        kept().save(KEY, "anew")
        assert only_file(place).stat().st_mtime_ns == before
        assert not is_kept(["run_0a1b2c3d"])
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))          # the user's own decision
    assert kept().load(KEY) == CODE


@posix
def test_what_another_user_owns_is_not_read(place, monkeypatch):
    kept().save(KEY, CODE)
    monkeypatch.setattr(cache.os, "geteuid", lambda: os.getuid() + 1)
    assert kept().load(KEY) is None and not is_kept(["run_0a1b2c3d"])
    kept().save(KEY, "anew")
    monkeypatch.undo()


def ran(*_):
    raise AssertionError("it was unpickled")


class Hostile:
    """Unpickled, it runs something."""

    def __reduce__(self):
        return ran, ()


@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: whole[:1], lambda whole: whole[:len(MARK) + 10],
    lambda whole: whole[:-1], lambda whole: whole[:1000], lambda whole: bytes(len(whole)),
    lambda whole: np.random.default_rng(0).bytes(len(whole)), lambda whole: whole + b"\0",
    lambda whole: whole[:700] + bytes([whole[700] ^ 1]) + whole[701:],
    lambda whole: pickle.dumps(Hostile()),
    lambda whole: whole[:len(MARK) + 32] + pickle.dumps(Hostile()),
])
def test_what_is_damaged_is_not_there(place, damage):
    kept().save(KEY, CODE)
    path = only_file(place)
    path.write_bytes(damage(path.read_bytes()))
    assert kept().load(KEY) is None
    kept().save(KEY, CODE)
    assert kept().load(KEY) == CODE and only_file(place)


def test_whole_and_yet_of_no_use(place):
    kept().save(KEY, Hostile())                                   # as of a module that has changed
    assert kept().load(KEY) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("step", ["open", "write", "replace", "makedirs"])
def test_where_nothing_can_be_written(place, number, step, monkeypatch):
    if step != "makedirs":
        kept("other_0a1b2c3d").save(KEY, CODE)

    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number))

    class Full:
        """A file on a disk that is full."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        write = refuse

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr("tempfile.mkstemp", refuse)
        elif step == "write":
            patch.setattr(cache, "open", lambda *_: Full(), raising=False)
        else:
            patch.setattr(cache.os, step, refuse)
        kept().save(KEY, CODE)
    assert kept().load(KEY) is None
    assert [path.name.partition(".")[0] for path in place.glob("*")] == \
        ["other_0a1b2c3d"] * (step != "makedirs"), "something was left behind"


@posix
def test_a_folder_that_is_a_file(place):
    place.parent.mkdir()
    place.write_text("no folder")
    kept().save(KEY, CODE)
    assert kept().load(KEY) is None and not is_kept(["run_0a1b2c3d"])


# --- whether it is there --------------------------------------------------------------------------


def test_whether_code_is_there(place, monkeypatch):
    names = ["run_0a1b2c3d", "pack_0a1b2c3d"]
    assert not is_kept(names)
    kept(names[0]).save(KEY, CODE)
    assert is_kept(names[:1]) and not is_kept(names)
    kept(names[1]).save(KEY, CODE)
    assert is_kept(names) and not is_kept(["run_00000000"])
    monkeypatch.setattr(cache, "this_machine", lambda: "cpython-399.numba-9.0.00000000")
    assert not is_kept(names)


def test_versions_are_part_of_the_name():
    import numba

    assert this_machine().startswith(f"{sys.implementation.cache_tag}.numba-{numba.__version__}.")


def test_code_for_a_processor_of_ones_choice_goes_anywhere(monkeypatch):
    """Into an image, say, for machines that aren't known yet."""
    def name(flags: str, **environment: str) -> str:
        this_machine.cache_clear()
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        lines = io.StringIO(f"processor: 0\nflags: {flags}\n\nflags: other\n")
        monkeypatch.setattr(cache, "open", lambda *_, **__: lines, raising=False)
        try:
            return this_machine()
        finally:
            this_machine.cache_clear()

    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    assert name("avx2") == name("avx2") != name("avx512f")
    assert name("avx2", NUMBA_CPU_NAME="haswell") == name("avx512f", NUMBA_CPU_NAME="haswell")
    assert name("avx2", NUMBA_CPU_NAME="haswell") != name("avx2", NUMBA_CPU_NAME="znver4")


def test_asking_imports_no_numba():
    code = ("import sys\nfrom npresnet.fast import compiled_code_is_kept\n"
            "print(compiled_code_is_kept(), 'numba' in sys.modules, 'numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env=os.environ | dict(NUMBA_CACHE_DIR="/no/such", PYTHONPATH=str(ROOT)))
    assert done.stdout.split() == ["False", "False", "False"], done.stderr


# --- what is old ----------------------------------------------------------------------------------


def test_code_of_other_sources_goes(place):
    """What was last used a month ago, and all but that of the eight newest; never one's own."""
    def make(name: str, days: float, ending: str = ".nbc") -> str:
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{name}.x{ending}"
        path.write_bytes(b"")
        os.utime(path, (time.time() - days * 86400,) * 2)
        return path.name

    own = {make("run_00000000", 400), make("pack_00000000", 0)}
    young = {make(f"run_{i:08x}", i) for i in range(1, 9)} | {make("pack_00000002", 9)}
    for i in range(9, 12):
        make(f"run_{i:08x}", i)
    for i in range(4):
        make(f"old{i}_aaaaaaa{i}", 31 + i)
    make("tmpabc", 2, ".tmp")
    fresh = {make("tmpdef", 0.5, ".tmp"), make("notes", 99, ".txt")}
    tidy(place, "run_00000000")
    assert {path.name for path in place.iterdir()} == own | young | fresh


def test_what_is_used_stays_young(place):
    kept().save(KEY, CODE)
    path, long_ago = only_file(place), time.time() - 20 * 86400
    os.utime(path, (long_ago, long_ago))
    assert kept().load(KEY) == CODE and time.time() - path.stat().st_mtime < 3600


# --- the engine -----------------------------------------------------------------------------------

ANSWER = """
import json
import numpy as np
import npresnet
from numba.core import event
from npresnet.fast import compiled_code_is_kept
kept = compiled_code_is_kept()
x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
with event.install_recorder("numba:compile") as record:
    y = npresnet.create_model("demo", backend="numba", num_threads=1)(x)
print(json.dumps([kept, len(record.buffer), y.tolist()]))
"""


@pytest.mark.slow
def test_the_engine_compiles_anew_over_what_is_damaged(tmp_path):
    def answer():
        env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        env |= dict(XDG_CACHE_HOME=str(tmp_path), LOCALAPPDATA=str(tmp_path), PYTHONPATH=str(ROOT))
        env |= dict(HOME=str(tmp_path))
        done = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True, text=True,
                              cwd=tmp_path, env=env, timeout=200)
        assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
        return json.loads(done.stdout)

    kept_before, compiled, want = answer()
    assert not kept_before and compiled > 0
    assert answer() == [True, 0, want]
    path, = tmp_path.rglob("run_[0-9a-f]*.nbc")
    whole = path.read_bytes()
    start = len(MARK) + 32
    for damaged in (whole[:5000], bytes(len(whole)), whole[:start] + bytes(len(whole) - start),
                    whole[:start] + np.random.default_rng(1).bytes(len(whole) - start)):
        path.write_bytes(damaged)
        kept_before, compiled, got = answer()
        assert kept_before and compiled and got == want
        assert answer() == [True, 0, want]
    assert not list((ROOT / "npresnet" / "lower").rglob("*.nbc"))
