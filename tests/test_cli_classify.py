"""`npresnet classify`: what it prints, what it complains about, and how it exits."""
from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import complaint
from PIL import Image

import npresnet
from npresnet import create_model, data, labels, predict
from npresnet.cli import main


def expected(path: Path, k: int = 5) -> list[dict]:
    """What `classify --json` has to say about a picture, by way of the Python interface."""
    model = create_model("demo")
    transform = data.create_transform(**data.resolve_model_data_config(model))
    p = npresnet.softmax(model(transform(Image.open(path).convert("RGB"))[None]))[0]
    names = labels.model_labels(model)
    return [dict(index=int(i), wnid=names[i].wnid, label=names[i].name, probability=float(p[i]))
            for i in np.argsort(-p)[:k]]


def without_probability(predictions: list[dict]) -> list[dict]:
    return [{key: value for key, value in p.items() if key != "probability"} for p in predictions]


# --- what it says ---------------------------------------------------------------------------------


def test_classify_in_json_is_what_the_library_says(photos, capsys):
    assert main(["classify", "--json", str(photos / "a.png"), str(photos / "c.png")]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert err == ""
    assert [row["file"] for row in rows] == [str(photos / "a.png"), str(photos / "c.png")]
    for row in rows:
        assert set(row) == {"file", "predictions"}
        got, want = row["predictions"], expected(Path(row["file"]))
        assert without_probability(got) == without_probability(want)
        probabilities = [p["probability"] for p in want]
        assert [p["probability"] for p in got] == pytest.approx(probabilities, rel=1e-4)


def test_classify_in_text(photos, capsys):
    assert main(["classify", "-k", "3", str(photos / "a.png")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == str(photos / "a.png") and err == "" and len(lines) == 4
    want = expected(photos / "a.png", 3)
    assert lines[1:] == [f"  {100 * p['probability']:5.1f} %  {p['label']}" for p in want]


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


def test_test_size(photos, monkeypatch, tiny):
    sizes, resolve = [], data.resolve_model_data_config

    def resolve_model_data_config(model, use_test_size=False):
        sizes.append(use_test_size)
        return resolve(model) | dict(input_size=(3, 32, 32))

    monkeypatch.setattr(predict, "resolve_model_data_config", resolve_model_data_config)
    argv = ["classify", "--model", "tiny", "--weights", str(tiny), str(photos / "a.png")]
    assert main(argv) == 0 and main([*argv, "--test-size"]) == 0
    assert sizes == [False, True]


# --- pictures and folders -------------------------------------------------------------------------


def test_one_bad_file_loses_nothing_else(photos, capsys):
    files = [str(photos / name) for name in ("a.png", "b.jpg", "missing.png", "c.png")]
    assert main(["classify", "-k1", *files]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [files[0], files[3]] and len(out.splitlines()) == 4
    not_a_picture = "is not a picture that Pillow can read, or is badly damaged"
    assert err.splitlines() == [f"npresnet classify: {files[1]}: {not_a_picture}",
                                f"npresnet classify: {files[2]}: no such file"]
    assert main(["classify", "-k1", "--json", *files]) == 1
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["file"] for row in rows] == files and err.count("\n") == 2
    assert [set(row) for row in rows] == [{"file", "predictions"}, {"file", "error"},
                                          {"file", "error"}, {"file", "predictions"}]
    assert rows[1]["error"].startswith(f"{files[1]}: is not a picture")
    assert rows[0]["predictions"][0]["index"] == expected(photos / "a.png", 1)[0]["index"]


def test_a_picture_too_large_for_the_memory_is_one_bad_file(photos, capsys, monkeypatch):
    crop = data.EvalTransform.crop

    def strict(transform, image):
        if image.width > image.height:
            raise MemoryError
        return crop(transform, image)

    monkeypatch.setattr(data.EvalTransform, "crop", strict)
    assert main(["classify", "--json", str(photos / "a.png"), str(photos / "c.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    message = "needs more memory than there is; make it smaller"
    assert rows[0]["error"] == f"{photos}/a.png: {message}" and "predictions" in rows[1]


def test_all_bad_is_still_json(tmp_path, capsys):
    missing = f"{tmp_path}/x.png"
    assert main(["classify", "--json", missing]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"file": missing, "error": f"{missing}: no such file"}]


def test_folders(photos, capsys):
    deep = photos / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "D.JPEG").write_bytes((photos / "c.png").read_bytes())
    (photos / "notes.txt").write_text("not asked for")
    (photos / "album.png").mkdir()
    (photos / "lost.png").symlink_to(photos / "gone.png")
    assert main(["classify", "--json", "-k1", str(photos), str(photos / "c.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [str(Path(row["file"]).relative_to(photos)) for row in rows] == [
        "a.png", "b.jpg", "c.png", "deep/er/D.JPEG", "lost.png", "c.png"]
    assert ["error" in row for row in rows] == [False, True, False, False, True, False]


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    message = complaint(capsys, 2, "classify", tmp_path)
    start = f"npresnet classify: no pictures in {tmp_path} (files that end in "
    assert message.startswith(start) and ".png" in message


def test_an_empty_folder_beside_pictures_is_reported(photos, tmp_path, capsys):
    empty = tmp_path / "nothing"
    empty.mkdir()
    assert main(["classify", "--json", str(photos / "a.png"), str(empty)]) == 1
    out, err = capsys.readouterr()
    assert [set(row) for row in json.loads(out)] == [{"file", "predictions"}, {"file", "error"}]
    assert str(empty) in err


def test_a_name_too_long_is_one_bad_file(photos, capsys):
    assert main(["classify", "--json", "-k1", "a" * 5000, str(photos / "a.png")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert "error" in rows[0] and "predictions" in rows[1]


def test_a_picture_too_thin_to_resize_loses_nothing_else(photos, tmp_path, capsys):
    Image.new("1", (60_000, 1)).save(tmp_path / "line.png")
    assert main(["classify", "--json", str(tmp_path / "line.png"), str(photos / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert "line.png: is too thin (60000×1)" in err and "predictions" in json.loads(out)[1]


# --- weights and models ---------------------------------------------------------------------------


def test_weights_of_your_own(photos, tiny, capsys):
    argv = ["classify", "--json", "--model", "tiny", "--weights", str(tiny), str(photos / "a.png")]
    assert main(argv) == 0
    predictions = json.loads(capsys.readouterr().out)[0]["predictions"]
    named = sorted((p["index"], p["wnid"], p["label"]) for p in predictions)
    assert named == [(i, None, f"class {i}") for i in range(3)]


def test_weights_that_can_not_be_used(photos, tiny, tmp_path, capsys):
    argv = ["classify", "--model", "tiny", photos / "a.png", "--weights"]
    whole = tiny.read_bytes()
    missing, bad = tmp_path / "missing.safetensors", tmp_path / "bad.safetensors"
    assert complaint(capsys, 1, *argv, missing) == f"npresnet classify: {missing}: no such file"
    folder = f"npresnet classify: {tmp_path}: is a folder, not a safetensors file"
    assert complaint(capsys, 1, *argv, tmp_path) == folder
    bad.write_bytes(whole[:-1])
    assert complaint(capsys, 1, *argv, bad).startswith(f"npresnet classify: {bad}: is truncated")
    damaged = bytearray(whole)
    damaged[-4:] = struct.pack("<f", np.nan)
    bad.write_bytes(damaged)
    message = complaint(capsys, 1, *argv, bad)
    assert message.startswith(f"npresnet classify: {bad}: ")
    assert message.endswith("expected finite numbers, found NaN")
    demo = ["classify", "--model", "demo", photos / "a.png", "--weights", tiny]
    message = complaint(capsys, 1, *demo)
    assert message.startswith(f"npresnet classify: {tiny}: ")
    assert message.endswith("; the file looks like tiny")
    assert "--json" not in message and complaint(capsys, 1, *argv, bad, "--json")


def test_weights_that_overflow_are_named(tiny, photos, tmp_path, capsys):
    state = dict(create_model("tiny", num_classes=3).state_dict())
    for name in state:
        if name.endswith("conv2.weight"):
            state[name] = np.full_like(state[name], 3e38)
    huge = tmp_path / "huge.safetensors"
    npresnet.write_weights(huge, state)
    message = complaint(capsys, 1, "classify", "--model", "tiny", "--weights", huge,
                        photos / "a.png")
    assert message.endswith("a.png: the weights are finite, but what they make of this picture "
                            "is not")


def test_an_unknown_model(photos, capsys):
    for command in (["classify", str(photos)], ["summary"]):
        message = complaint(capsys, 2, *command, "--model", "resnet50")
        assert "unknown model 'resnet50': choose one of demo, resnetv2_18" in message
    message = complaint(capsys, 2, "classify", str(photos), "--model", "resnetv2_50.a2h")
    assert message.endswith("unknown model 'resnetv2_50.a2h': choose one of resnetv2_50.a1h_in1k")
