"""`npresnet explain`: the files that it writes, what it refuses to write, and how it exits."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import complaint
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet import data, explain, weights
from npresnet.cli import main
from npresnet.labels import find_class, imagenet_labels, model_labels

NAMES = ["tench, Tinca tinca", "English springer, English springer spaniel"]


def rows_of(capsys, code: int, *argv) -> list[dict]:
    """What it prints with --json."""
    assert main(["explain", "--json", *map(str, argv)]) == code
    return json.loads(capsys.readouterr().out)


def test_its_maps_are_those_of_the_library(photos, tmp_path, capsys):
    photo, out = photos / "a.png", tmp_path / "maps" / "new"
    row, = rows_of(capsys, 0, photo, "--output", out, "--top", 2)
    assert row["file"] == str(photo) and set(row) == {"file", "maps"}
    model = npresnet.create_model("demo")
    transform = data.create_transform(**data.resolve_model_data_config(model))
    image = npresnet.load_image(photo)
    x = transform(image)[None]
    p = npresnet.softmax(model(x))[0]
    want = explain.class_activation_map(model, x, [int(k) for k in np.argsort(-p)[:2]])[0]
    for found, k, heat in zip(row["maps"], np.argsort(-p), want):
        label = model_labels(model)[k]
        assert found["index"] == k and found["probability"] == pytest.approx(p[k], rel=1e-4)
        assert (found["wnid"], found["label"], found["method"]) == (label.wnid, label.name, "cam")
        np.testing.assert_allclose(found["map"], heat, rtol=1e-3, atol=1e-4)
        assert found["seen"] == list(transform.seen(image))
        limits = max(0.0, float(heat.min())) if heat.max() > 0 else float(heat.min())
        drawn = explain.overlay(image, heat, transform=transform, limits=(limits, heat.max()))
        written = np.asarray(Image.open(found["png"]), np.int64)
        assert np.abs(written - np.asarray(drawn)).max() <= 2
    assert sorted(path.name for path in out.iterdir()) == sorted(
        Path(found["png"]).name for found in row["maps"])


def test_in_text_a_line_a_file(photos, tmp_path, capsys):
    argv = ["explain", str(photos), "--output", str(tmp_path),
            "--classes", "tench", "1", "n01440764"]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.rsplit(", ", 1)[0] for line in lines] == [
        f"{tmp_path}/{stem}-cam-{end}" for stem in ("a", "c") for end in
        (f"0-tench.png: {NAMES[0]}", f"1-english-springer.png: {NAMES[1]}")]
    assert all(line.endswith(" %") and Path(line.split(": ")[0]).is_file() for line in lines)
    assert err.startswith(f"npresnet explain: {photos}/b.jpg: is not a picture that Pillow can")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_occlusion_and_the_part_that_was_seen(photos, tmp_path, capsys):
    row, = rows_of(capsys, 0, photos / "c.png", "--method", "occlusion", "--output",
                   tmp_path / "Map.PNG", "--crop", "--classes", "0")
    found, = row["maps"]
    assert (found["method"], found["png"]) == ("occlusion", f"{tmp_path}/Map.PNG")
    assert Image.open(tmp_path / "Map.PNG").size == (160, 160)
    model = npresnet.create_model("demo")
    transform = data.create_transform(**data.resolve_model_data_config(model))
    x = transform(npresnet.load_image(photos / "c.png"))[None]
    want = explain.occlusion(model, x, 0)[0, 0]
    np.testing.assert_allclose(found["map"], want, atol=1e-5)


def test_large_pictures_are_drawn_smaller(tmp_path, capsys):
    Image.fromarray(awkward_picture(2000, 50)).save(tmp_path / "wide.png")
    row, = rows_of(capsys, 0, tmp_path / "wide.png", "--output", tmp_path)
    assert Image.open(row["maps"][0]["png"]).size == (1600, 40)
    left, top, right, bottom = row["maps"][0]["seen"]             # of the whole photograph
    assert (left + right) / 2 == pytest.approx(1000, abs=1) and (top, bottom) == (0, 50)


# --- files ----------------------------------------------------------------------------------------


def test_no_file_is_lost(photos, tmp_path, capsys):
    photo, out = photos / "a.png", tmp_path / "map.png"
    out.write_bytes(b"precious")
    argv = ["explain", photo, "--output", out]
    taken = f"npresnet explain: {out}: is there already; --overwrite replaces it"
    assert complaint(capsys, 1, *argv) == taken and out.read_bytes() == b"precious"
    assert main([*map(str, argv), "--overwrite"]) == 0
    assert Image.open(out).size == (90, 70)
    capsys.readouterr()
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for target in (photo, tmp_path / "link.png"):
        message = complaint(capsys, 1, "explain", photo, "--output", target, "--overwrite")
        assert "is one of the pictures themselves" in message
    assert photo.read_bytes() == before


@pytest.mark.slow
def test_pictures_of_one_name_have_maps_of_their_own(photos, tmp_path, capsys):
    (photos / "more").mkdir()
    for name in ("more/a.png", "A.webp", "a.bmp"):
        Image.fromarray(awkward_picture(50, 40)).save(photos / name)
    (photos / "b.jpg").unlink()
    rows = rows_of(capsys, 0, photos, "--output", tmp_path / "maps", "--classes", "0")
    names = sorted(Path(row["maps"][0]["png"]).name for row in rows)
    assert len(names) == len({name.lower() for name in names}) == len(rows) == 5
    assert {"a-2-cam-0-tench.png", "a-3-cam-0-tench.png", "c-cam-0-tench.png"} < set(names)


@pytest.mark.slow
def test_files_that_cannot_be_written(photos, tmp_path, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_whole", full)
    rows = rows_of(capsys, 1, photos / "a.png", photos / "c.png", "--output", tmp_path / "maps")
    assert all(row["error"].endswith("can't be written (No space left on device)") for row in rows)
    assert len(rows) == 2 and not list((tmp_path / "maps").iterdir())


@pytest.mark.parametrize("argv, says", [
    (["a.png", "c.png", "--output", "one.png"], "--output one.png is one file, for 2 pictures"),
    (["a.png", "--top", "2", "--output", "one.png"],
     "1 pictures with 2 classes each; give a folder"),
    (["a.png", "--output", "c.png/maps"], "--output c.png/maps: Not a directory"),
    (["a.png", "--classes", "goldfish"], "there is no class 'goldfish' among the model's 10"),
    (["a.png", "--classes", "10"], "there is no class 10: they go from 0 to 9"),
    (["a.png", "--model", "resnet"], "unknown model 'resnet'")])
def test_wrong_usage(photos, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(photos)
    assert says in complaint(capsys, 2, "explain", *argv)
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.jpg", "c.png"]


def test_classes_or_the_first(photos, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    assert main(["explain", "a.png", "--classes", "0"]) == 0
    assert capsys.readouterr().out.startswith("a-cam-0-tench.png: ")
    assert main(["explain", "a.png", "--classes", "0", "--top", "1"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_weights_that_overflow_are_named(tiny, photos, tmp_path, capsys):
    state = dict(npresnet.create_model("tiny", num_classes=3).state_dict())
    for name in state:
        if name.endswith("conv2.weight"):
            state[name] = np.full_like(state[name], 3e38)
    npresnet.write_weights(tmp_path / "huge.safetensors", state)
    message = complaint(capsys, 1, "explain", "--model", "tiny", "--weights",
                        tmp_path / "huge.safetensors", photos / "a.png", "--output", tmp_path)
    assert "huge.safetensors: the weights are finite, but what they make of" in message


# --- names of classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("text, index", [
    ("0", 0), ("999", 999), ("n01440764", 0), ("tench", 0), ("Tinca tinca", 0), ("TENCH", 0),
    ("tench, Tinca tinca", 0), ("english_springer", 217), (" golden  retriever ", 207),
    ("toilet paper", 999)])
def test_names_of_classes(text, index):
    assert find_class(imagenet_labels(), text).index == index


@pytest.mark.parametrize("text, says", [
    ("1000", "there is no class 1000: they go from 0 to 999"),
    ("crane", "several classes 'crane': 134 (n02012849), 517 (n03126707); give one's number"),
    ("golden retreiver", "perhaps 'golden retriever'"), ("n99999999", "among the model's 1000"),
    ("", "there is no class ''"), ("-1", "there is no class '-1'")])
def test_names_of_no_class(text, says):
    with pytest.raises(ValueError) as caught:
        find_class(imagenet_labels(), text)
    assert says in str(caught.value)
