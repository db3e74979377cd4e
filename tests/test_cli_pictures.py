"""Which pictures the commands take: files, folders, patterns, stdin; and what a person sees."""
from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from cli_helpers import call, complaint, environment
from PIL import Image

from npresnet.commands.pictures import is_list

pytestmark = pytest.mark.usefixtures("cheap_network")


def names_in(out: str) -> list[str]:
    return [Path(row["file"]).name for row in json.loads(out)]


# --- where they come from -------------------------------------------------------------------------


def test_patterns(nine, capsys, monkeypatch):
    (nine / "deep").mkdir()
    (nine / "deep" / "9.png").write_bytes((nine / "0.png").read_bytes())
    assert call("classify", "--json", f"{nine}/[12].png") == 0
    assert names_in(capsys.readouterr().out) == ["1.png", "2.png"]
    assert call("classify", "--json", f"{nine}/**/9.png", nine / "deep" / "*.png") == 0
    assert names_in(capsys.readouterr().out) == ["9.png", "9.png"]
    assert call("classify", "--json", f"{nine}/*.gif") == 1       # as a shell would hand it on
    assert json.loads(capsys.readouterr().out)[0]["error"] == f"{nine}/*.gif: no such file"
    (nine / "[1].png").write_bytes((nine / "0.png").read_bytes())
    assert call("classify", "--json", nine / "[1].png") == 0      # the file of that very name
    assert names_in(capsys.readouterr().out) == ["[1].png"]


def test_what_a_folder_leaves_out_is_said(nine, capsys):
    for name in ("a.txt", "b.txt", "Makefile", "film.mp4", "story.pdf"):
        (nine / name).touch()
    (nine / "photo.JFIF").write_bytes((nine / "0.png").read_bytes())
    assert call("classify", "--json", nine) == 1
    out, err = capsys.readouterr()
    assert names_in(out) == [*(f"{i}.png" for i in range(9)), "photo.JFIF"]
    assert err.splitlines()[0] == (f"npresnet classify: {nine}: left out 5 files that no picture's "
                                   "name ends like (.txt, no ending, .mp4, .pdf)")


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_on_stdin(nine, capsys, monkeypatch, separator):
    odd = nine / "ünï 1.png"
    odd.write_bytes((nine / "1.png").read_bytes())
    names = [str(nine / "0.png"), str(odd), "gone.png"]
    data = (separator.join(names) + separator).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert call("classify", "--json", "-", nine / "2.png") == 1
    out, err = capsys.readouterr()
    assert [row["file"] for row in json.loads(out)] == [*names, str(nine / "2.png")]
    assert err == "npresnet classify: gone.png: no such file\n"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_picture_on_stdin(capsys, monkeypatch, format):
    data = io.BytesIO()
    Image.new("RGB", (60, 50), "red").save(data, format)
    data.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    assert call("classify", "--json", "-") == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["file"] == "-" and row["predictions"]


def test_nothing_on_stdin(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "no pictures in -" in complaint(capsys, 2, "classify", "-")


@pytest.mark.parametrize("data, want", [
    (b"a.jpg\nb.jpg\n", True), (b"a.jpg", True), ("ü.jpg\n".encode() * 99, True), (b"", True),
    (b"BMW.jpg\n", True), (b"Photo 1.jpg\n", True), (b"P6.jpg\n", True), (b"a.jpg\0b.jpg\0", True),
    (("a" * 255 + "ü.jpg").encode(), True), (b"P6\n3 2\n255\n", False), (b"GIF89aAAAA", False),
    (b"\x89PNG\r\n\x1a\n", False), (b"\xff\xd8\xff\xe0", False), (b"BM\x10\x00", False),
])
def test_a_list_is_told_from_a_picture(data, want):
    assert is_list(data) is want


# --- what a person sees ---------------------------------------------------------------------------


def at_a_terminal(*argv: str) -> str:
    """What a command writes to the terminal that is its stderr, stdout being another file."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-m", "npresnet", *argv], stderr=slave,
                               stdout=subprocess.DEVNULL, env=environment(TERM="xterm"))
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:                                           # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    process.wait(60)
    return seen.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_bar_is_seen_and_goes_away(nine):
    """While it works for more than a second, with rate and time left, before the first batch is
    done, too; it is taken away for an error, comes back, and leaves nothing behind."""
    pictures = [str(nine / f"{i}.png") for i in (0, 1, 2, 3)] * 60
    pictures[150] = str(nine / "4.png")
    seen = at_a_terminal("classify", "--backend", "numpy", *pictures)
    shown = [part for part in seen.replace("\n", "\r").split("\r") if "pictures" in part]
    assert len(shown) >= 5, seen
    assert any("/240 [" in part and "<" in part and "pictures/s" in part for part in shown)
    assert "4.png: is not a picture" in seen
    assert seen.split("\r")[-1].strip() in ("", "\x1b[A")         # a line that is empty again
    assert "pictures" not in at_a_terminal("classify", "--backend", "numpy", str(nine / "0.png"))
