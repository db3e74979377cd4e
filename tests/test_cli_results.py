"""What the commands write for many pictures: every kind of file, and what it refuses."""
from __future__ import annotations

import csv

import numpy as np
import pytest
from cli_helpers import call, complaint, expected, rows_of

from npresnet import predict
from npresnet.commands import output

pytestmark = pytest.mark.usefixtures("cheap_network")


# --- every kind of file ---------------------------------------------------------------------------


def test_json_lines(nine, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    assert call("classify", "-k2", "-o", path, nine) == 1
    out, err = capsys.readouterr()
    assert out == "" and "9 pictures in" in err and "1 failed" in err and str(path) in err
    want = expected(nine, "topk", top=2)
    rows = rows_of(path)
    assert [row["file"] for row in rows] == list(want)
    for row in rows:
        if want[row["file"]] is None:
            assert "is not a picture" in row["error"] and set(row) == {"file", "error"}
        else:
            assert row["predictions"] == [each._asdict() for each in want[row["file"]]]


def test_csv_of_classes(nine, tmp_path):
    path = tmp_path / "out.csv"
    assert call("classify", "-k2", "-o", path, nine) == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == ["file", "error", "index_1", "wnid_1", "label_1", "probability_1",
                     "index_2", "wnid_2", "label_2", "probability_2"]
    want = expected(nine, "topk", top=2)
    assert [row[0] for row in rows] == list(want)
    for name, error, *cells in rows:
        if want[name] is None:
            assert "is not a picture" in error and cells == [""] * 8
        else:
            first, second = want[name]
            assert error == "" and cells[:3] == [str(first.index), first.wnid, first.label]
            assert float(cells[7]) == pytest.approx(second.probability, rel=1e-6)


def test_csv_of_embeddings(nine, tmp_path):
    path = tmp_path / "out.CSV"
    assert call("embed", "--normalize", "-o", path, nine) == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == ["file", "error", *(f"embedding_{i}" for i in range(512))]
    for name, value in expected(nine, "embedding", normalize=True).items():
        row, = (row for row in rows if row[0] == name)
        if value is not None:                                     # to the last bit of a float32
            np.testing.assert_array_equal(np.array(row[2:], np.float32), value)


def test_csv_where_the_first_pictures_fail(nine, tmp_path):
    path = tmp_path / "out.csv"
    assert call("classify", "-k1", "-o", path, nine / "4.png", "gone", nine / "5.png") == 1
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert len(names) == 6 and [row[0] for row in rows] == [
        str(nine / "4.png"), "gone", str(nine / "5.png")]
    assert call("classify", "-k1", "-o", tmp_path / "bad.csv", "gone") == 1
    assert (tmp_path / "bad.csv").read_text() == "file,error\ngone,gone: no such file\n"


def test_npz_of_embeddings(nine, tmp_path):
    path = tmp_path / "out.npz"
    assert call("embed", "-o", path, nine) == 1
    want = {name: value for name, value in expected(nine, "embedding").items()
            if value is not None}
    with np.load(path) as arrays:
        assert set(arrays) == {"files", "embeddings"}
        assert arrays["files"].tolist() == list(want)
        np.testing.assert_array_equal(arrays["embeddings"], list(want.values()))
    assert not path.with_name("out.npz.part").exists()


def test_npz_of_features(nine, tmp_path):
    path, layers = tmp_path / "out.npz", ["stem.conv", "stages.3", "head.fc"]
    assert call("features", nine, "-o", path, "--layers", *layers) == 1
    want = [value for value in expected(nine, "features", layers=layers).values() if value]
    with np.load(path) as arrays:
        assert set(arrays) == {"files", *layers}
        for layer in layers:
            np.testing.assert_array_equal(arrays[layer], [value[layer] for value in want])


def test_parquet(nine, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    assert call("classify", "-k2", "-o", path, nine) == 1
    want = expected(nine, "topk", top=2)
    rows = parquet.read_table(path).to_pylist()
    assert [row["file"] for row in rows] == list(want)
    for row, value in zip(rows, want.values()):
        if value is None:
            assert "is not a picture" in row["error"] and row["predictions"] is None
        else:
            assert row["error"] is None
            assert [each["label"] for each in row["predictions"]] == [v.label for v in value]
    path = tmp_path / "embeddings.parquet"
    assert call("embed", "-o", path, nine) == 1
    for row, value in zip(parquet.read_table(path).to_pylist(),
                          expected(nine, "embedding").values()):
        np.testing.assert_array_equal(row["embedding"] or [], [] if value is None else value)


# --- wrong usage ----------------------------------------------------------------------------------


def test_nothing_is_overwritten(nine, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    path.write_text("precious\n")
    message = complaint(capsys, 2, "classify", "-o", path, nine)
    assert f"{path} is there already: --resume goes on with it, or delete it" in message
    message = complaint(capsys, 2, "classify", "-o", path, "--resume", nine)
    assert f"{path}: line 1 is no result: --resume can't go on with it" in message
    assert path.read_text() == "precious\n"
    path = tmp_path / "out.csv"
    path.write_text("a,b\n1,2\n")
    message = complaint(capsys, 2, "classify", "-o", path, "--resume", nine)
    assert "its first line isn't this command's" in message and path.read_text() == "a,b\n1,2\n"
    path = tmp_path / "out.npz"
    path.write_bytes(b"PK\x03\x04 or so")
    message = complaint(capsys, 2, "embed", "-o", path, "--resume", nine)
    assert "is no file that this command wrote" in message
    assert path.read_bytes() == b"PK\x03\x04 or so"


def test_results_of_another_model_are_not_mixed(nine, tmp_path, tiny, capsys):
    path = tmp_path / "out.npz"
    assert call("embed", "-o", path, nine / "1.png") == 0
    before = path.read_bytes()
    capsys.readouterr()
    assert call("embed", "-o", path, "--resume", "--model", "tiny", "--weights", tiny, nine) == 2
    assert "its results are of another model or picture size" in capsys.readouterr().err
    with np.load(path) as arrays:
        assert arrays["files"].tolist() == [str(nine / "1.png")]
    assert before


@pytest.mark.parametrize("argv, match", [
    (["classify", "-o", "out.txt"], "its name must end in .jsonl, .ndjson, .csv, .parquet"),
    (["classify", "-o", "out.npz"], "its name must end in"),
    (["features", "-o", "out.csv"], "its name must end in .npz"),
    (["features", "--json"], "too large for JSON: give --output FILE.npz"),
    (["classify", "--resume"], "--resume goes on with an --output file: name it"),
    (["classify", "-o", "no/such/out.csv"], "no/such: there is no such folder"),
])
def test_wrong_usage_is_said_before_anything_is_computed(nine, capsys, monkeypatch, argv, match):
    monkeypatch.setattr(predict, "Predictor", None)
    assert match in complaint(capsys, 2, *argv, nine)


def test_without_pyarrow(nine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    message = complaint(capsys, 2, "embed", "-o", tmp_path / "out.parquet", nine)
    assert message.endswith('needs the extra \'parquet\': pip install "npresnet[parquet]"')
