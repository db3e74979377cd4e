"""The command line: what it prints, what it complains about, and how it exits. Exit code 0 done, 1 some input failed, 2 wrong usage."""
from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet import cli, create_model, data, labels
from npresnet.cli import main
from npresnet.commands import classify, compare
from npresnet.variants import BASIC, VARIANTS, Variant

COMMANDS = ["classify", "summary", "models", "compare", "bench"]
TINY = Variant("tiny", (1, 1, 1, 1), BASIC, width=0.125)


@pytest.fixture
def photos(tmp_path):
    """A folder with two pictures, and between them in the alphabet one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(awkward_picture(90, 70)).save(folder / "a.png")
    (folder / "b.jpg").write_text("no picture")
    Image.fromarray(awkward_picture(70, 90, seed=1)).save(folder / "c.png")
    return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Weights of a tiny model that `--model tiny` knows, for three classes."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    create_model("tiny", num_classes=3).save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process of its own: this npresnet, and none of the settings that decide how Python writes."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "NPRESNET_BACKEND")}
    return clean | dict(PYTHONPATH=str(Path(npresnet.__file__).parents[1]), OPENBLAS_NUM_THREADS="1") | changes


def run(*argv, env: dict | None = None) -> subprocess.CompletedProcess:
    """`python -m npresnet` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "npresnet", *argv], env=environment(**env or {}), capture_output=True, timeout=60)


def complaint(capsys, code: int, *argv) -> str:
    """The one line that a failing command says."""
    assert main([str(arg) for arg in argv]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("\n"), (out, err)
    assert err.startswith(f"npresnet {argv[0]}: ") and "Traceback" not in err
    return err.strip()


def expected(path: Path, k: int = 5) -> list[dict]:
    """What `classify --json` has to say about a picture, by way of the Python interface."""
    model = create_model("demo")
    transform = data.create_transform(**data.resolve_model_data_config(model))
    p = npresnet.softmax(model(transform(Image.open(path).convert("RGB"))[None]))[0]
    names = labels.model_labels(model)
    return [dict(index=int(i), wnid=names[i].wnid, label=names[i].name, probability=float(p[i])) for i in np.argsort(-p)[:k]]


# --- classify ---------------------------------------------------------------------------------------------------------------------


def test_classify_in_json_is_what_the_library_says(photos, capsys):
    assert main(["classify", "--json", str(photos / "a.png"), str(photos / "c.png")]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert err == "" and [row["file"] for row in rows] == [str(photos / "a.png"), str(photos / "c.png")]
    for row in rows:
        assert set(row) == {"file", "predictions"}
        want = expected(Path(row["file"]))
        assert [{k: v for k, v in p.items() if k != "probability"} for p in row["predictions"]] == \
            [{k: v for k, v in p.items() if k != "probability"} for p in want]
        assert [p["probability"] for p in row["predictions"]] == pytest.approx([p["probability"] for p in want], rel=1e-4)


def test_classify_in_text(photos, capsys):
    assert main(["classify", "-k", "3", str(photos / "a.png")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == str(photos / "a.png") and err == "" and len(lines) == 4
    assert lines[1:] == [f"  {100 * p['probability']:5.1f} %  {p['label']}" for p in expected(photos / "a.png", 3)]


def test_one_bad_file_loses_nothing_else(photos, capsys):
    files = [str(photos / name) for name in ("a.png", "b.jpg", "missing.png", "c.png")]
    assert main(["classify", "-k1", *files]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [files[0], files[3]] and len(out.splitlines()) == 4
    assert err.splitlines() == [f"npresnet classify: {files[1]}: is not a picture that Pillow can read, or is badly damaged",
                                f"npresnet classify: {files[2]}: no such file"]
    assert main(["classify", "-k1", "--json", *files]) == 1
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["file"] for row in rows] == files and err.count("\n") == 2
    assert [set(row) for row in rows] == [{"file", "predictions"}, {"file", "error"}, {"file", "error"}, {"file", "predictions"}]
    assert rows[1]["error"].startswith(f"{files[1]}: is not a picture")
    assert rows[0]["predictions"][0]["index"] == expected(photos / "a.png", 1)[0]["index"]


def test_a_picture_too_large_for_the_memory_is_one_bad_file(photos, capsys, monkeypatch):
    create = data.create_transform

    def strict(**config):
        def transform(image):
            if image.width > image.height:
                raise MemoryError
            return create(**config)(image)
        return transform

    monkeypatch.setattr(data, "create_transform", strict)
    assert main(["classify", "--json", str(photos / "a.png"), str(photos / "c.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["error"] == f"{photos}/a.png: needs more memory than there is; make it smaller" and "predictions" in rows[1]


def test_all_bad_is_still_json(tmp_path, capsys):
    assert main(["classify", "--json", str(tmp_path / "x.png")]) == 1
    assert json.loads(capsys.readouterr().out) == [{"file": f"{tmp_path}/x.png", "error": f"{tmp_path}/x.png: no such file"}]


def test_folders(photos, capsys):
    deep = photos / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "D.JPEG").write_bytes((photos / "c.png").read_bytes())
    (photos / "notes.txt").write_text("not asked for")
    (photos / "album.png").mkdir()
    (photos / "lost.png").symlink_to(photos / "gone.png")
    assert main(["classify", "--json", "-k1", str(photos), str(photos / "c.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [str(Path(row["file"]).relative_to(photos)) for row in rows] == ["a.png", "b.jpg", "c.png", "deep/er/D.JPEG", "lost.png", "c.png"]
    assert ["error" in row for row in rows] == [False, True, False, False, True, False]


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    message = complaint(capsys, 2, "classify", tmp_path)
    assert message.startswith(f"npresnet classify: no pictures in {tmp_path} (files that end in ") and ".png" in message


def test_a_name_too_long_is_one_bad_file(photos, capsys):
    assert main(["classify", "--json", "-k1", "a" * 5000, str(photos / "a.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert "error" in rows[0] and "predictions" in rows[1]


@pytest.mark.parametrize("k, count", [(1, 1), (10, 10), (11, 10), (10**9, 10)])
def test_more_classes_than_there_are(photos, capsys, k, count):
    assert main(["classify", "--json", "-k", str(k), str(photos / "a.png")]) == 0
    predictions = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert len(predictions) == count
    probabilities = [p["probability"] for p in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert count < 10 or sum(probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5", "", "1_0"])
def test_a_k_that_is_no_number_of_classes(photos, capsys, k):
    assert main(["classify", f"-k{k}" if k else "-k=", str(photos / "a.png")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "is not a whole number of at least 1" in err and "Traceback" not in err


def test_weights_of_your_own(photos, tiny, capsys):
    assert main(["classify", "--json", "--model", "tiny", "--weights", str(tiny), str(photos / "a.png")]) == 0
    predictions = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert sorted((p["index"], p["wnid"], p["label"]) for p in predictions) == [(i, None, f"class {i}") for i in range(3)]


def test_test_size(photos, monkeypatch, tiny):
    sizes = []
    monkeypatch.setattr(data, "load_image", lambda file: Image.new("RGB", (50, 40)))
    monkeypatch.setattr(classify, "model_transform", lambda model, test=False: sizes.append(test) or (lambda image: np.zeros((3, 32, 32), np.float32)))
    assert main(["classify", "--model", "tiny", "--weights", str(tiny), "--test-size", "x"]) == 0 and sizes == [True]


# --- weights that can't be used -------------------------------------------------------------------------------------------------------


def test_weights_that_can_not_be_used(photos, tiny, tmp_path, capsys):
    argv = ["classify", "--model", "tiny", photos / "a.png", "--weights"]
    whole = tiny.read_bytes()
    missing, bad = tmp_path / "missing.safetensors", tmp_path / "bad.safetensors"
    assert complaint(capsys, 1, *argv, missing) == f"npresnet classify: {missing}: no such file"
    assert complaint(capsys, 1, *argv, tmp_path) == f"npresnet classify: {tmp_path}: is a folder, not a safetensors file"
    bad.write_bytes(whole[:-1])
    assert complaint(capsys, 1, *argv, bad).startswith(f"npresnet classify: {bad}: is truncated")
    damaged = bytearray(whole)
    damaged[-4:] = struct.pack("<f", np.nan)
    bad.write_bytes(damaged)
    message = complaint(capsys, 1, *argv, bad)
    assert message.startswith(f"npresnet classify: {bad}: ") and message.endswith("expected finite numbers, found NaN")
    message = complaint(capsys, 1, "classify", "--model", "demo", photos / "a.png", "--weights", tiny)
    assert message.startswith(f"npresnet classify: {tiny}: ") and message.endswith("; the file looks like tiny")
    assert "--json" not in message and complaint(capsys, 1, *argv, bad, "--json")


def test_an_unknown_model(photos, capsys):
    for command in (["classify", str(photos)], ["summary"]):
        message = complaint(capsys, 2, *command, "--model", "resnet50")
        assert "unknown model 'resnet50': choose one of demo, resnetv2_18" in message
    message = complaint(capsys, 2, "classify", str(photos), "--model", "resnetv2_50.a2h")
    assert message.endswith("unknown model 'resnetv2_50.a2h': choose one of resnetv2_50.a1h_in1k")


# --- summary, models, compare -----------------------------------------------------------------------------------------------------------


def test_summary_has_the_model_cards_totals(capsys):
    assert main(["summary", "--model", "resnetv2_50"]) == 0
    total = capsys.readouterr().out.splitlines()[-1]
    assert total.split("  ")[0] == "total" and all(figure in total for figure in ("25.5 M", "4.1 G", "11.1 M", "3×224×224"))
    assert main(["summary", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["model"], table["input_size"], table["params"]) == ("resnetv2_50", [3, 224, 224], 25_549_352)
    assert round(table["macs"] / 1e9, 1) == 4.1 and round(table["activations"] / 1e6, 1) == 11.1
    for figure in ("params", "macs", "activations"):
        assert sum(layer[figure] for layer in table["layers"]) == table[figure]
    assert table["layers"][0] == dict(path="stem.conv", kind="conv 7×7", output=[64, 112, 112], params=9408, macs=9408 * 112**2,
                                      activations=64 * 112**2)


def test_summary_of_another_size(capsys):
    for argv, size in ((["--size", "288"], [3, 288, 288]), (["--size", "64", "96"], [3, 64, 96])):
        assert main(["summary", "--json", *argv]) == 0
        assert json.loads(capsys.readouterr().out)["input_size"] == size
    assert complaint(capsys, 2, "summary", "--size", 1, 2, 3) == "npresnet summary: --size takes one edge, or height and width"


def test_models(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in npresnet.list_models()) and "none published" in text
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == npresnet.list_models() and rows["resnetv2_50"]["params"] == 25_549_352
    assert rows["resnetv2_50"]["weights"] == ["resnetv2_50.a1h_in1k"] and rows["resnetv2_50d"]["weights"] == []
    assert main(["models", "--pretrained", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [name for row in rows for name in row["weights"]] == ["inside the package", *npresnet.list_models(pretrained=True)[1:]]
    assert main(["models", "--pretrained"]) == 0
    assert "resnetv2_50d" not in capsys.readouterr().out


def test_compare_without_timm_says_so_before_it_does_anything(photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(compare, "load_model", lambda *args, **options: pytest.fail("loaded"))
    for file in (photos / "a.png", photos / "missing.png"):
        assert complaint(capsys, 2, "compare", file) == \
            "npresnet compare: comparing with timm needs timm: pip install 'npresnet[parity]'"


@pytest.mark.skipif(find_spec("timm") is None, reason="timm isn't installed")
def test_compare_with_timm(photos, capsys):
    assert main(["compare", "--json", str(photos)]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert ["error" in row for row in rows] == [False, True, False]
    assert main(["compare", str(photos / "a.png")]) == 0


# --- the command itself -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"example: npresnet {command}" in out and "--json" in out


def test_the_examples_in_the_help_are_sound(capsys):
    for command in COMMANDS:
        main([command, "--help"])
        example = capsys.readouterr().out.split("example: npresnet ")[1].split()
        assert cli.build_parser().parse_args(example).command == command


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {command} " in out for command in COMMANDS) and "npresnet classify PHOTO.jpg" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"npresnet {npresnet.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["clasify"], ["classify"], ["classify", "x.png", "--modle", "demo"], ["summary", "--size"],
                                  ["compare", "x.png", "--against", "keras"], ["compare", "x.png", "--tolerance", "some"], ["--json"]])
def test_wrong_usage(capsys, argv):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: npresnet") and ": error: " in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize("error, code, says", [(KeyboardInterrupt, 130, ""), (MemoryError, 1, "not enough memory"),
                                               (npresnet.WeightsError("two\nlines"), 1, "npresnet summary: two lines\n"),
                                               (npresnet.DownloadError("no network"), 1, "no network"),
                                               (npresnet.MissingDependencyError("no hub"), 2, "no hub"),
                                               (ValueError("a  bad  value"), 2, "npresnet summary: a  bad  value\n"),
                                               (OSError(28, "No space left on device"), 1, "npresnet summary: No space left on device\n")])
def test_whatever_happens_it_is_at_most_one_line(capfd, monkeypatch, error, code, says):
    monkeypatch.setattr("npresnet.model.create_model", lambda *args, **options: (_ for _ in ()).throw(error))
    stdout = os.dup(1)                                                                    # an unwritable one is given up
    try:
        assert main(["summary"]) == code
    finally:
        os.dup2(stdout, 1)
    err = capfd.readouterr().err
    assert says in err and err.count("\n") == bool(says)


# --- in a process of its own ---------------------------------------------------------------------------------------------------------------


def test_as_a_module(photos):
    done = run("classify", "--json", "-k1", str(photos))
    assert done.returncode == 1 and len(json.loads(done.stdout)) == 3
    assert done.stderr.decode().startswith(f"npresnet classify: {photos}/b.jpg: ") and done.stderr.count(b"\n") == 1
    assert run("clasify").returncode == 2
    assert run("--version").stdout == f"npresnet {npresnet.__version__}\n".encode()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["classify", *["a.png"] * 9], ["models"], ["summary", "--json"], ["--help"]])
def test_a_reader_that_has_seen_enough(photos, argv, unbuffered):
    """As `| head -1`, which reads a little and goes, or `| true`, which doesn't: no traceback, no complaint."""
    for reads in (True, False):
        read, write = os.pipe()
        process = subprocess.Popen([sys.executable, "-m", "npresnet", *argv], stdout=write, stderr=subprocess.PIPE, cwd=photos,
                                   env=environment(PYTHONUNBUFFERED=unbuffered))
        os.close(write)
        if reads:
            os.read(read, 1)
        os.close(read)
        _, err = process.communicate(timeout=60)
        assert err == b"" and process.returncode in (0, 1), (argv, err)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(photos, unbuffered):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "npresnet", "classify", "a.png"], stdout=full, stderr=subprocess.PIPE, cwd=photos,
                              env=environment(PYTHONUNBUFFERED=unbuffered), timeout=60)
    assert (done.returncode, done.stderr) == (1, b"npresnet classify: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_no_stdout_at_all(photos):
    done = subprocess.run(["sh", "-c", f"'{sys.executable}' -m npresnet classify '{photos}/a.png' >&-"], stderr=subprocess.PIPE,
                          env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


ODD_NAMES = ["with space.png", "two  spaces.png", "ünï☃.png", "\U0001f600.png", "two\nlines.png", "\x1b[31mred.png", "'q\"uote.png",
             os.fsdecode(b"\xff\xfe.png"), "-k.png", "%s{}.png"]


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
    rows = json.loads(done.stdout.decode(encoding))                                       # names come through unharmed
    names = {Path(row["file"]).name: row for row in rows}
    assert set(names) == {*ODD_NAMES, *(f"bad {name}" for name in ODD_NAMES)}
    assert all(("error" in row) == name.startswith("bad ") for name, row in names.items())
    errors = done.stderr.decode(encoding).splitlines()
    assert len(errors) == len(ODD_NAMES) and all(line.startswith("npresnet classify: ") for line in errors)
    assert "\x1b" not in "".join(errors) and any("two  spaces.png: is not a picture" in line for line in errors)
    done = run("classify", "-k1", str(tmp_path), env=env)
    assert done.returncode == 1 and len(done.stdout.decode(encoding).splitlines()) == 2 * len(ODD_NAMES)


@pytest.mark.parametrize("argv", [["summary"], ["models"], ["--help"], ["compare", "--help"], ["summary", "--model", "ünï"]])
def test_an_ascii_terminal(argv):
    done = run(*argv, env={"PYTHONIOENCODING": "ascii"})
    assert b"Traceback" not in done.stderr and done.returncode in (0, 2)
    (done.stdout + done.stderr).decode("ascii")


def test_a_hostile_picture_is_refused_quickly_and_the_rest_is_done(photos):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    (photos / "a0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks))
    done = run("classify", "--json", "-k1", str(photos))
    assert ["error" in row for row in json.loads(done.stdout)] == [False, True, True, False]
    assert b"far more pixels than the limit" in done.stderr and done.stderr.count(b"\n") == 2


def test_an_empty_folder_beside_pictures_is_reported(photos, tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    assert main(["classify", "--json", str(photos / "a.png"), str(tmp_path / "nothing")]) == 1
    out, err = capsys.readouterr()
    assert [set(row) for row in json.loads(out)] == [{"file", "predictions"}, {"file", "error"}]
    assert str(tmp_path / "nothing") in err


def test_a_picture_too_thin_to_resize_loses_nothing_else(photos, tmp_path, capsys):
    Image.new("1", (60_000, 1)).save(tmp_path / "line.png")
    assert main(["classify", "--json", str(tmp_path / "line.png"), str(photos / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert "line.png: is too thin (60000×1)" in err and "predictions" in json.loads(out)[1]


def test_weights_that_overflow_are_named(tiny, photos, tmp_path, capsys):
    state = dict(create_model("tiny", num_classes=3).state_dict())
    for name in state:
        if name.endswith("conv2.weight"):
            state[name] = np.full_like(state[name], 3e38)
    npresnet.write_weights(tmp_path / "huge.safetensors", state)
    assert "huge.safetensors: the weights are finite" in complaint(capsys, 1, "classify", "--json", "--model", "tiny", "--weights",
                                                                    tmp_path / "huge.safetensors", photos / "a.png")


def test_compare_with_the_fast_engine(photos, capsys):
    assert main(["compare", "--json", "--against", "numba", str(photos / "a.png")]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["tolerance"] == 1e-4 and row["first_divergence"] is None and 0 < row["max_delta"] <= 1e-4 and len(row["layers"]) == 125
    assert main(["compare", "--against", "numba", "--tolerance", "0", str(photos / "a.png")]) == 1
