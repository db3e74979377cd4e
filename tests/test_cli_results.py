"""What the commands write for many pictures: every kind of file, and runs that are cut short."""
from __future__ import annotations

import csv
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import complaint, environment
from PIL import Image

from npresnet import Predictor
from npresnet.cli import main
from npresnet.commands import output, results, spool
from npresnet.reference import Reference

COUNT = 9                                                         # pictures, one of them bad


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Layers that depend on the pictures and cost nothing, instead of the network's."""
    def maps(self, x, paths):
        shapes = self.graph.shapes(*x.shape[2:])
        means = x.mean((1, 2, 3)).reshape(-1, 1, 1, 1)
        return [means + np.arange(np.prod(shapes[path])).reshape(1, *shapes[path]).astype("f4")
                % 97 / 31 for path in paths]
    if "slow" not in request.keywords:
        monkeypatch.setattr(Reference, "maps", maps)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Nine pictures; number 4 is none."""
    inside, rng = tmp_path / "in", np.random.default_rng(0)
    inside.mkdir()
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(inside / f"{i}.png")
    (inside / "4.png").write_bytes(b"no picture")
    return inside


def expected(folder: Path, output: str, **options) -> dict[str, object]:
    """File → value, by way of the Python interface."""
    files = sorted(map(str, folder.iterdir()))
    answers = Predictor("demo", output=output, backend="numpy", **options).stream(files)
    return {answer.source: answer.value for answer in answers}


def call(*argv) -> int:
    return main([str(arg) for arg in (*argv, "--backend", "numpy", "--batch-size", 2)])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- every kind of file ---------------------------------------------------------------------------


def test_json_lines(folder, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    assert call("classify", "-k2", "-o", path, folder) == 1
    out, err = capsys.readouterr()
    assert out == "" and "9 pictures in" in err and "1 failed" in err and str(path) in err
    want = expected(folder, "topk", top=2)
    rows = rows_of(path)
    assert [row["file"] for row in rows] == list(want)
    for row in rows:
        if want[row["file"]] is None:
            assert "is not a picture" in row["error"] and set(row) == {"file", "error"}
        else:
            assert row["predictions"] == [each._asdict() for each in want[row["file"]]]


def test_csv_of_classes(folder, tmp_path):
    path = tmp_path / "out.csv"
    assert call("classify", "-k2", "-o", path, folder) == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == ["file", "error", "index_1", "wnid_1", "label_1", "probability_1",
                     "index_2", "wnid_2", "label_2", "probability_2"]
    want = expected(folder, "topk", top=2)
    assert [row[0] for row in rows] == list(want)
    for name, error, *cells in rows:
        if want[name] is None:
            assert "is not a picture" in error and cells == [""] * 8
        else:
            first, second = want[name]
            assert error == "" and cells[:3] == [str(first.index), first.wnid, first.label]
            assert float(cells[7]) == pytest.approx(second.probability, rel=1e-6)


def test_csv_of_embeddings(folder, tmp_path):
    path = tmp_path / "out.CSV"
    assert call("embed", "--normalize", "-o", path, folder) == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == ["file", "error", *(f"embedding_{i}" for i in range(512))]
    for name, value in expected(folder, "embedding", normalize=True).items():
        row, = (row for row in rows if row[0] == name)
        if value is not None:                                     # to the last bit of a float32
            np.testing.assert_array_equal(np.array(row[2:], np.float32), value)


def test_csv_where_the_first_pictures_fail(folder, tmp_path):
    path = tmp_path / "out.csv"
    assert call("classify", "-k1", "-o", path, folder / "4.png", "gone", folder / "5.png") == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert len(names) == 6 and [row[0] for row in rows] == [
        str(folder / "4.png"), "gone", str(folder / "5.png")]
    assert call("classify", "-k1", "-o", tmp_path / "bad.csv", "gone") == 1
    assert (tmp_path / "bad.csv").read_text() == "file,error\ngone,gone: no such file\n"


def test_npz_of_embeddings(folder, tmp_path):
    path = tmp_path / "out.npz"
    assert call("embed", "-o", path, folder) == 1
    want = {name: value for name, value in expected(folder, "embedding").items()
            if value is not None}
    with np.load(path) as arrays:
        assert set(arrays) == {"files", "embeddings"}
        assert arrays["files"].tolist() == list(want)
        np.testing.assert_array_equal(arrays["embeddings"], list(want.values()))
    assert not path.with_name("out.npz.part").exists()


def test_npz_of_features(folder, tmp_path):
    path, layers = tmp_path / "out.npz", ["stem.conv", "stages.3", "head.fc"]
    assert call("features", folder, "-o", path, "--layers", *layers) == 1
    want = [value for value in expected(folder, "features", layers=layers).values() if value]
    with np.load(path) as arrays:
        assert set(arrays) == {"files", *layers}
        for layer in layers:
            np.testing.assert_array_equal(arrays[layer], [value[layer] for value in want])


def test_parquet(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    assert call("classify", "-k2", "-o", path, folder) == 1
    want = expected(folder, "topk", top=2)
    rows = parquet.read_table(path).to_pylist()
    assert [row["file"] for row in rows] == list(want)
    for row, value in zip(rows, want.values()):
        if value is None:
            assert "is not a picture" in row["error"] and row["predictions"] is None
        else:
            assert row["error"] is None
            assert [each["label"] for each in row["predictions"]] == [v.label for v in value]
    path = tmp_path / "embeddings.parquet"
    assert call("embed", "-o", path, folder) == 1
    for row, value in zip(parquet.read_table(path).to_pylist(),
                          expected(folder, "embedding").values()):
        np.testing.assert_array_equal(row["embedding"] or [], [] if value is None else value)


# --- runs that are cut short ----------------------------------------------------------------------


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


@pytest.mark.parametrize("command, name", KINDS)
@pytest.mark.parametrize("count", [0, 3, 6])
def test_an_interrupt_keeps_what_is_done_and_resume_goes_on(folder, tmp_path, monkeypatch, capsys,
                                                            command, name, count):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call(command, "-o", whole, folder) == 1
    with monkeypatch.context() as patched:
        stop_after(patched, count, KeyboardInterrupt())
        assert call(command, "-o", path, folder) == 130
    capsys.readouterr()
    asked, stream = [], Predictor.stream
    monkeypatch.setattr(Predictor, "stream", lambda self, pictures, **options: stream(
        self, (asked.append(each) or each for each in pictures), **options))
    assert call(command, "-o", path, "--resume", folder) == 1
    done = count - (count > 4)                                    # what failed is tried again
    assert len(asked) == COUNT - done
    assert contents(path) == contents(whole)
    assert f", {done} were there" in capsys.readouterr().err or not done
    assert call(command, "-o", path, "--resume", folder) == 1     # nothing but what fails is left
    assert asked[COUNT - done:] == [str(folder / "4.png")]
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("name, cut", [("out.jsonl", 1), ("out.jsonl", 30), ("out.csv", 5),
                                       ("out.csv", 1)])
def test_a_killed_run_may_leave_half_a_line(folder, tmp_path, name, cut):
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call("classify", "-o", whole, folder) == 1
    path.write_bytes(whole.read_bytes()[:-cut])
    assert call("classify", "-o", path, "--resume", folder) == 1
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("command", ["embed", "features"])
def test_a_killed_run_leaves_its_spool(folder, tmp_path, monkeypatch, command):
    whole, path = tmp_path / "whole.npz", tmp_path / "out.npz"
    assert call(command, "-o", whole, folder) == 1
    with monkeypatch.context() as patched:
        stop_after(patched, 6, KeyboardInterrupt())
        patched.setattr(spool.Spooled, "close", lambda self: None)
        assert call(command, "-o", path, folder) == 130
    assert not path.exists()
    rows = path.with_name("out.npz.part") / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-7])                      # half a row
    message = f"{path.with_name('out.npz.part')} is there already: --resume goes on with it"
    with pytest.MonkeyPatch.context() as patched:
        said = []
        patched.setattr("npresnet.cli.say", said.append)
        assert call(command, "-o", path, folder) == 2 and message in said[0]
    assert call(command, "-o", path, "--resume", folder) == 1
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.npz"])
@pytest.mark.parametrize("room", [0, 1, 7000, 9000])
def test_a_full_disk_leaves_whole_records(folder, tmp_path, monkeypatch, capsys, name, room):
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    assert call("embed", "-o", whole, folder) == 1
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
        file = open(*args, **options)
        return Full(file) if {"a", "+"} & set(file.mode) else file
    with monkeypatch.context() as patched:
        patched.setattr(results, "open", opened, raising=False)
        patched.setattr(spool, "open", opened, raising=False)
        assert call("embed", "-o", path, folder) == 1
    assert "No space left on device" in capsys.readouterr().err
    if path.exists() and path.suffix != ".npz":
        text = path.read_bytes()
        assert text.endswith(b"\n") or not text
    assert call("embed", "-o", path, "--resume", folder) == 1     # there is room again
    assert contents(path) == contents(whole)


def test_json_on_stdout_is_whole_after_an_interrupt(folder, monkeypatch, capsys):
    stop_after(monkeypatch, 3, KeyboardInterrupt())
    assert call("classify", "--json", folder) == 130
    assert [Path(row["file"]).name for row in json.loads(capsys.readouterr().out)] == [
        "0.png", "1.png", "2.png"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_it_works(folder, tmp_path):
    path = tmp_path / "out.jsonl"
    pictures = [str(folder / f"{i}.png") for i in range(4)] * 2000
    process = subprocess.Popen([sys.executable, "-m", "npresnet", "classify", "-o", str(path),
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


# --- wrong usage ----------------------------------------------------------------------------------


def test_nothing_is_overwritten(folder, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    path.write_text("precious\n")
    message = complaint(capsys, 2, "classify", "-o", path, folder)
    assert f"{path} is there already: --resume goes on with it, or delete it" in message
    message = complaint(capsys, 2, "classify", "-o", path, "--resume", folder)
    assert f"{path}: line 1 is no result: --resume can't go on with it" in message
    assert path.read_text() == "precious\n"
    path = tmp_path / "out.csv"
    path.write_text("a,b\n1,2\n")
    message = complaint(capsys, 2, "classify", "-o", path, "--resume", folder)
    assert "its first line isn't this command's" in message and path.read_text() == "a,b\n1,2\n"
    path = tmp_path / "out.npz"
    path.write_bytes(b"PK\x03\x04 or so")
    message = complaint(capsys, 2, "embed", "-o", path, "--resume", folder)
    assert "is no file that this command wrote" in message
    assert path.read_bytes() == b"PK\x03\x04 or so"


def test_results_of_another_model_are_not_mixed(folder, tmp_path, tiny, capsys):
    path = tmp_path / "out.npz"
    assert call("embed", "-o", path, folder / "1.png") == 0
    before = path.read_bytes()
    capsys.readouterr()
    assert call("embed", "-o", path, "--resume", "--model", "tiny", "--weights", tiny, folder) == 2
    assert "its results are of another model or picture size" in capsys.readouterr().err
    with np.load(path) as arrays:
        assert arrays["files"].tolist() == [str(folder / "1.png")]
    assert before


@pytest.mark.parametrize("argv, match", [
    (["classify", "-o", "out.txt"], "its name must end in .jsonl, .ndjson, .csv, .parquet"),
    (["classify", "-o", "out.npz"], "its name must end in"),
    (["features", "-o", "out.csv"], "its name must end in .npz"),
    (["features", "--json"], "too large for JSON: give --output FILE.npz"),
    (["classify", "--resume"], "--resume goes on with an --output file: name it"),
    (["classify", "-o", "no/such/out.csv"], "no/such: there is no such folder"),
])
def test_wrong_usage_is_said_before_anything_is_computed(folder, capsys, monkeypatch, argv, match):
    monkeypatch.setattr(output, "Predictor", None)
    assert match in complaint(capsys, 2, *argv, folder)


def test_without_pyarrow(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    message = complaint(capsys, 2, "embed", "-o", tmp_path / "out.parquet", folder)
    assert message.endswith('needs the extra \'parquet\': pip install "npresnet[parquet]"')
