"""Runs for many pictures that are cut short: what is done stays whole, and --resume goes on."""
from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import call, environment, rows_of

from npresnet import Predictor
from npresnet.commands import results, spool

pytestmark = pytest.mark.usefixtures("cheap_network")
COUNT = 9                                                         # pictures of `nine`


KINDS = [("classify", "out.jsonl"), ("classify", "out.csv"), ("embed", "out.jsonl"),
         ("embed", "out.csv"), ("embed", "out.npz"), ("features", "out.npz"),
         ("classify", "out.parquet"), ("embed", "out.parquet")]


def contents(path: Path) -> object:
    """What a results file says, without what failed."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tolist() for name in arrays}
    if path.suffix == ".parquet":
        from pyarrow import parquet
        return [row for row in parquet.read_table(path).to_pylist() if row["error"] is None]
    return sorted(line for line in path.read_text().splitlines() if "is not a picture" not in line)


def stop_after(monkeypatch, count: int, error: BaseException) -> None:
    """The next run raises `error` when it has written `count` rows."""
    write = {}
    for kind in (results.JsonLines, results.Csv, spool.Spooled, results.JsonArray, results.Text):
        write[kind] = kind.write

        def stopping(self, row, own=kind.write):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen > count:
                raise error
            own(self, row)
        monkeypatch.setattr(kind, "write", stopping)


@pytest.mark.slow
@pytest.mark.parametrize("command, name", KINDS)
@pytest.mark.parametrize("count", [0, 3, 6])
def test_an_interrupt_keeps_what_is_done_and_resume_goes_on(nine, tmp_path, monkeypatch, capsys,
                                                            command, name, count):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call(command, "-o", whole, nine) == 1
    with monkeypatch.context() as patched:
        stop_after(patched, count, KeyboardInterrupt())
        assert call(command, "-o", path, nine) == 130
    capsys.readouterr()
    asked, stream = [], Predictor.stream
    monkeypatch.setattr(Predictor, "stream", lambda self, pictures, **options: stream(
        self, (asked.append(each) or each for each in pictures), **options))
    assert call(command, "-o", path, "--resume", nine) == 1
    done = count - (count > 4)                                    # what failed is tried again
    assert len(asked) == COUNT - done
    assert contents(path) == contents(whole)
    assert f", {done} were there" in capsys.readouterr().err or not done
    assert call(command, "-o", path, "--resume", nine) == 1     # nothing but what fails is left
    assert asked[COUNT - done:] == [str(nine / "4.png")]
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("name, cut", [("out.jsonl", 1), ("out.jsonl", 30), ("out.csv", 5),
                                       ("out.csv", 1)])
def test_a_killed_run_may_leave_half_a_line(nine, tmp_path, name, cut):
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call("classify", "-o", whole, nine) == 1
    path.write_bytes(whole.read_bytes()[:-cut])
    assert call("classify", "-o", path, "--resume", nine) == 1
    assert contents(path) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "features"])
def test_a_killed_run_leaves_its_spool(nine, tmp_path, monkeypatch, command):
    whole, path = tmp_path / "whole.npz", tmp_path / "out.npz"
    assert call(command, "-o", whole, nine) == 1
    with monkeypatch.context() as patched:
        stop_after(patched, 6, KeyboardInterrupt())
        patched.setattr(spool.Spooled, "close", lambda self: None)
        assert call(command, "-o", path, nine) == 130
    assert not path.exists()
    rows = path.with_name("out.npz.part") / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-7])                      # half a row
    message = f"{path.with_name('out.npz.part')} is there already: --resume goes on with it"
    with pytest.MonkeyPatch.context() as patched:
        said = []
        patched.setattr("npresnet.cli.say", said.append)
        assert call(command, "-o", path, nine) == 2 and message in said[0]
    assert call(command, "-o", path, "--resume", nine) == 1
    assert contents(path) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.npz"])
@pytest.mark.parametrize("room", [0, 1, 7000, 9000])
def test_a_full_disk_leaves_whole_records(nine, tmp_path, monkeypatch, capsys, name, room):
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call("embed", "-o", whole, nine) == 1
    capsys.readouterr()
    left = room

    class Full:
        """A file on a disk that takes `left` bytes more, and of the last of them a part."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            nonlocal left
            written = self.file.write(data[:left])
            left -= written
            if data and not written:
                raise OSError(errno.ENOSPC, "No space left on device")
            return written

    def opened(*args, **options):
        file = open(*args, **options)  # noqa: SIM115
        return Full(file) if {"a", "+"} & set(file.mode) else file
    with monkeypatch.context() as patched:
        patched.setattr(results, "open", opened, raising=False)
        patched.setattr(spool, "open", opened, raising=False)
        assert call("embed", "-o", path, nine) == 1
    assert "No space left on device" in capsys.readouterr().err
    if path.exists() and path.suffix != ".npz":
        text = path.read_bytes()
        assert text.endswith(b"\n") or not text
    assert call("embed", "-o", path, "--resume", nine) == 1     # there is room again
    assert contents(path) == contents(whole)


def test_json_on_stdout_is_whole_after_an_interrupt(nine, monkeypatch, capsys):
    stop_after(monkeypatch, 3, KeyboardInterrupt())
    assert call("classify", "--json", nine) == 130
    assert [Path(row["file"]).name for row in json.loads(capsys.readouterr().out)] == [
        "0.png", "1.png", "2.png"]


# What a shell starts in the background ignores Ctrl-C, and so do the processes that that starts.
HEEDING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from npresnet.__main__ import run
sys.exit(run())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_it_works(nine, tmp_path):
    path = tmp_path / "out.jsonl"
    pictures = [str(nine / f"{i}.png") for i in range(4)] * 2000
    process = subprocess.Popen([sys.executable, "-c", HEEDING, "classify", "-o", str(path),
                                "--backend", "numpy", *pictures], env=environment(),
                               stderr=subprocess.PIPE)
    for _ in range(600):
        if path.exists() and path.stat().st_size > 20_000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err
    rows = rows_of(path)
    assert 30 < len(rows) < len(pictures) and f" {len(rows)} pictures in".encode() in err
