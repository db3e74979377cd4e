"""`npresnet validate`: shares worked out by hand, and how folders become classes."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
from cli_helpers import call, complaint
from PIL import Image

from npresnet.instruments.accuracy import Accuracy
from npresnet.labels import Label, model_labels
from npresnet.model import create_model
from npresnet.reference import Reference

LABELS = tuple(Label(i, f"n{i:08}", f"thing {i}") for i in range(8))


def one(index: int, p: float, rest: int = 8) -> np.ndarray:
    """Probabilities with `p` at `index`, and the others falling."""
    others = np.linspace(2, 1, rest)
    others[index] = 0
    y = others / others.sum() * (1 - p)
    y[index] = p
    return y.astype(np.float32)


def test_shares_by_hand():
    accuracy = Accuracy("x", 224, LABELS)
    accuracy.add(0, one(0, 0.9))                                  # right
    accuracy.add(0, one(1, 0.6))                                  # second: 0 is the next
    accuracy.add(3, one(3, 0.5))                                  # right
    accuracy.add(7, one(0, 0.4))                                  # last of eight: not in five
    assert (accuracy.top1, accuracy.top5) == (2 / 4, 3 / 4)
    assert accuracy.confidence == pytest.approx((0.9 + 0.6 + 0.5 + 0.4) / 4)
    # one bin each: |0.9 − 1|, |0.6 − 0|, |0.5 − 1|, |0.4 − 0|
    assert accuracy.calibration_error == pytest.approx((0.1 + 0.6 + 0.5 + 0.4) / 4)
    assert accuracy.error == pytest.approx(1.96 * math.sqrt(0.25 / 4))
    rows = accuracy.classes()
    assert [row["index"] for row in rows] == [7, 0, 3]
    assert [row["top1"] for row in rows] == [0, 0.5, 1]
    assert [row["top5"] for row in rows] == [0, 1, 1]
    assert rows[0]["taken_for"] == "thing 0" and rows[1]["taken_for"] == "thing 1"
    assert rows[2]["taken_for"] is None and rows[2]["times"] == 0
    print(accuracy)


def test_pictures_in_one_bin_share_it():
    accuracy = Accuracy("x", 224, LABELS)
    for label in (0, 0, 0, 1):                                    # three of four right, at 0.75
        accuracy.add(label, one(0, 0.75))
    assert accuracy.calibration_error == pytest.approx(0, abs=1e-7)
    accuracy.add(0, one(0, 1.0))                                  # the last bin takes 1, too
    assert accuracy.pictures.total() == 5


def test_equal_probabilities_go_to_the_first():
    accuracy = Accuracy("x", 224, LABELS)
    flat = np.full(8, 1 / 8, np.float32)
    for label in range(8):
        accuracy.add(label, flat)
    assert accuracy.top1 == 1 / 8 and accuracy.top5 == 5 / 8


def test_published_figures_are_of_weights_and_size():
    def published(edge):
        return Accuracy("resnetv2_50.a1h_in1k", edge, LABELS).published
    assert published(224) == pytest.approx((0.8041, 0.95082))
    assert published(288) == pytest.approx((0.81406, 0.95712))
    assert published(256) is None


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def by_colour(monkeypatch):
    """A network that takes a picture for the class whose number is its red, divided by 20."""
    def maps(self, x, paths):
        red = np.round((x[:, 0].mean((1, 2)) * 0.5 + 0.5) * 255 / 20).astype(int)
        logits = np.full((len(x), self.graph.num_classes, 1, 1), 0, np.float32)
        logits[np.arange(len(x)), red] = 5
        return [logits]
    monkeypatch.setattr(Reference, "maps", maps)
    config = create_model("demo").pretrained_cfg | dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    monkeypatch.setattr("npresnet.demo.config", lambda: config)


def write(folder, name: str, *classes: int) -> None:
    """Pictures that are taken for `classes`."""
    (folder / name).mkdir(parents=True)
    for i, number in enumerate(classes):
        Image.new("RGB", (40, 40), (20 * number, 0, 0)).save(folder / name / f"{i}.png")


def measured(capsys, *argv) -> dict:
    assert call("validate", "--json", *argv) == 0
    return json.loads(capsys.readouterr().out)


def test_folders_by_wordnet_id(tmp_path, capsys, by_colour):
    labels = model_labels(create_model("demo"))
    write(tmp_path, labels[9].wnid, 9, 9, 2)
    write(tmp_path, labels[1].wnid, 1)
    result = measured(capsys, tmp_path)
    assert (result["top1"], result["pictures"], result["failed"]) == (3 / 4, 4, 0)
    worst = result["classes"][0]
    assert (worst["wnid"], worst["taken_for"]) == (labels[9].wnid, labels[2].name)
    assert worst["top1"] == pytest.approx(2 / 3) and result["published"] is None
    assert result["model"] == "demo" and result["edge"] == 160
    write(tmp_path, "n99999999", 1)                               # no class of the demo
    assert call("validate", "--json", tmp_path) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == result and "left out 1 folders that are no class" in err


@pytest.mark.parametrize("names", [[f"{i}" for i in range(10)], [f"class {chr(97 + i)}"
                                                                 for i in range(10)]])
def test_folders_by_order(tmp_path, capsys, by_colour, names):
    for i, name in enumerate(names):
        write(tmp_path, name, i)
    (tmp_path / "notes.txt").touch()
    assert measured(capsys, tmp_path)["top1"] == 1


def test_numbers_are_sorted_as_numbers(tmp_path, capsys, tiny, monkeypatch):
    def maps(self, x, paths):
        return [np.eye(12, dtype=np.float32)[[10]][:, :, None, None].repeat(len(x), 0)]
    monkeypatch.setattr(Reference, "maps", maps)
    create_model("tiny", num_classes=12).save(tiny)
    for i in range(12):
        write(tmp_path / "val", str(i), *[0] * (2 if i == 10 else 1))
    result = measured(capsys, tmp_path / "val", "--model", "tiny", "--weights", tiny)
    right, = [row for row in result["classes"] if row["top1"]]
    assert (right["index"], right["pictures"]) == (10, 2)         # folder 10 is, not the eleventh
    assert result["model"].startswith("tiny with ")


def test_a_picture_that_fails_is_not_counted(tmp_path, capsys, by_colour):
    wnid = model_labels(create_model("demo"))[3].wnid
    write(tmp_path, wnid, 3, 3)
    (tmp_path / wnid / "bad.png").write_text("no picture")
    assert call("validate", tmp_path) == 1
    out, err = capsys.readouterr()
    assert "2 pictures of 1 classes" in out and "top-1 100.00%" in out
    assert "bad.png: is not a picture" in err


def test_wrong_folders(tmp_path, capsys):
    assert "is no folder" in complaint(capsys, 2, "validate", tmp_path / "gone")
    assert "has no folders" in complaint(capsys, 2, "validate", tmp_path)
    write(tmp_path, "cats")
    assert "no pictures in the folders of" in complaint(capsys, 2, "validate", tmp_path)
    write(tmp_path, "dogs", 1)
    message = complaint(capsys, 2, "validate", tmp_path)
    assert "its 2 folders aren't all named by WordNet id" in message and "(10)" in message
    other = tmp_path / "other"
    write(other, "n00000001", 1)
    assert "none of its folders is a class of demo" in complaint(capsys, 2, "validate", other)
