"""The command line as a whole: help, wrong usage, errors, and processes of its own.

Exit code 0 done, 1 some input failed, 2 wrong usage. One command each: test_cli_classify.py,
test_cli_tables.py, test_bench.py.
"""
from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from cli_helpers import COMMANDS, environment, run
from PIL import Image

import npresnet
from npresnet import cli
from npresnet.cli import main

UNBUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"example: npresnet {command}" in out and "--json" in out


def test_the_examples_in_the_help_are_sound(capsys):
    for command in COMMANDS:
        main([command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        examples = [line for line in lines if line.startswith("example: ")]
        assert examples
        for example in examples:
            argv = example.partition(" npresnet ")[2].partition(" > ")[0]
            assert cli.build_parser().parse_args(argv.split()).command == command


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines() if line[4:5] > " " == line[3]
            } >= set(COMMANDS)
    assert "npresnet classify PHOTO.jpg" in out


def test_help_imports_only_what_it_shows():
    """It is there in a tenth of a second: without the models, the pictures and the compiler."""
    code = ("import sys\nfrom npresnet.cli import main\n"
            "main(['--help'])\nprint(*sorted(sys.modules))")
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True).stdout.splitlines()[-1].split()
    assert "npresnet.cli" in imported
    assert not {"numba", "PIL", "npresnet.model", "npresnet.predict", "tqdm"} & set(imported)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"npresnet {npresnet.__version__}\n"


@pytest.mark.parametrize("argv", [
    [], ["clasify"], ["classify"], ["classify", "x.png", "--modle", "demo"], ["summary", "--size"],
    ["compare", "x.png", "--against", "keras"], ["compare", "x.png", "--tolerance", "some"],
    ["--json"]])
def test_wrong_usage(capsys, argv):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: npresnet") and "Traceback" not in err
    assert ": error: " in err.splitlines()[-1]


@pytest.mark.parametrize("error, code, says", [
    (KeyboardInterrupt, 130, ""),
    (MemoryError, 1, "not enough memory"),
    (npresnet.WeightsError("two\nlines"), 1, "npresnet summary: two lines\n"),
    (npresnet.DownloadError("no network"), 1, "no network"),
    (npresnet.MissingDependencyError("no hub"), 2, "no hub"),
    (ValueError("a  bad  value"), 2, "npresnet summary: a  bad  value\n"),
    (OSError(28, "No space left on device"), 1, "npresnet summary: No space left on device\n")])
def test_whatever_happens_it_is_at_most_one_line(capfd, monkeypatch, error, code, says):
    def fail(*args, **options):
        raise error

    given_up = []
    with monkeypatch.context() as patch:
        patch.setattr("npresnet.model.create_model", fail)
        patch.setattr(os, "dup2", lambda _nowhere, stdout: given_up.append(stdout))
        assert main(["summary"]) == code
    err = capfd.readouterr().err
    assert says in err and err.count("\n") == bool(says)
    assert len(given_up) == isinstance(error, OSError)            # a stdout that can't be written


def test_warnings_are_not_shown(capsys, monkeypatch, recwarn):
    """What matters of them is said anyway."""
    def warn(*args, **options):
        warnings.warn("a line too many", stacklevel=1)
        raise npresnet.DownloadError("no network")

    monkeypatch.setattr("npresnet.model.create_model", warn)
    assert main(["summary"]) == 1 and not recwarn
    assert capsys.readouterr().err == "npresnet summary: no network\n"


# --- in a process of its own ----------------------------------------------------------------------


def test_as_a_module(photos):
    done = run("classify", "--json", "-k1", str(photos))
    assert done.returncode == 1 and len(json.loads(done.stdout)) == 3
    assert done.stderr.decode().startswith(f"npresnet classify: {photos}/b.jpg: ")
    assert done.stderr.count(b"\n") == 1
    assert run("clasify").returncode == 2
    assert run("--version").stdout == f"npresnet {npresnet.__version__}\n".encode()


@pytest.mark.slow
@UNBUFFERED
@pytest.mark.parametrize("argv", [["classify", *["a.png"] * 9], ["models"], ["summary", "--json"],
                                  ["--help"]])
def test_a_reader_that_has_seen_enough(photos, argv, unbuffered):
    """As `| head -1`, which reads a little and goes, or `| true`, which doesn't.

    No traceback, no complaint.
    """
    for reads in (True, False):
        read, write = os.pipe()
        process = subprocess.Popen([sys.executable, "-m", "npresnet", *argv], stdout=write,
                                   stderr=subprocess.PIPE, cwd=photos,
                                   env=environment(PYTHONUNBUFFERED=unbuffered))
        os.close(write)
        if reads:
            os.read(read, 1)
        os.close(read)
        _, err = process.communicate(timeout=60)
        assert err == b"" and process.returncode in (0, 1), (argv, err)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@UNBUFFERED
def test_a_full_disk(photos, unbuffered):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "npresnet", "classify", "a.png"], stdout=full,
                              stderr=subprocess.PIPE, cwd=photos, timeout=60,
                              env=environment(PYTHONUNBUFFERED=unbuffered))
    assert done.returncode == 1
    assert done.stderr == b"npresnet classify: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_no_stdout_at_all(photos):
    command = f"'{sys.executable}' -m npresnet classify '{photos}/a.png' >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, env=environment(),
                          timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


ODD_NAMES = ["with space.png", "two  spaces.png", "ünï☃.png", "\U0001f600.png", "two\nlines.png",
             "\x1b[31mred.png", "'q\"uote.png", os.fsdecode(b"\xff\xfe.png"), "-k.png", "%s{}.png"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "utf-16"])
def test_odd_file_names_on_any_terminal(tmp_path, encoding):
    picture = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(picture, "PNG")
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(picture.getvalue())
        (tmp_path / f"bad {name}").write_bytes(b"no picture")
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = run("classify", "-k1", "--json", str(tmp_path), env=env)
    assert done.returncode == 1
    rows = json.loads(done.stdout.decode(encoding))               # names come through unharmed
    names = {Path(row["file"]).name: row for row in rows}
    assert set(names) == {*ODD_NAMES, *(f"bad {name}" for name in ODD_NAMES)}
    assert all(("error" in row) == name.startswith("bad ") for name, row in names.items())
    errors = done.stderr.decode(encoding).splitlines()
    assert len(errors) == len(ODD_NAMES)
    assert all(line.startswith("npresnet classify: ") for line in errors)
    assert "\x1b" not in "".join(errors)
    assert any("two  spaces.png: is not a picture" in line for line in errors)
    done = run("classify", "-k1", str(tmp_path), env=env)
    assert done.returncode == 1
    assert len(done.stdout.decode(encoding).splitlines()) == 2 * len(ODD_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["summary"], ["models"], ["--help"], ["compare", "--help"],
                                  ["summary", "--model", "ünï"]])
def test_an_ascii_terminal(argv):
    done = run(*argv, env={"PYTHONIOENCODING": "ascii"})
    assert b"Traceback" not in done.stderr and done.returncode in (0, 2)
    (done.stdout + done.stderr).decode("ascii")


@pytest.mark.slow
def test_a_hostile_picture_is_refused_quickly_and_the_rest_is_done(photos):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        png += struct.pack(">I", len(data)) + kind + data + checksum
    (photos / "a0.png").write_bytes(png)
    done = run("classify", "--json", "-k1", str(photos))
    assert ["error" in row for row in json.loads(done.stdout)] == [False, True, True, False]
    assert b"far more pixels than the limit" in done.stderr and done.stderr.count(b"\n") == 2


def test_a_file_that_fails_is_named():
    assert cli.describe(OSError(5, "Input/output error", "a\nb")) == r"a\nb: Input/output error"
    assert cli.describe(OSError(32, "Broken pipe")) == "Broken pipe"
    assert cli.describe(OSError("odd")) == "odd"
