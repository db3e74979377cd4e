"""`npresnet bench --picture`: the roofline is drawn, whole or not at all."""
from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from npresnet.cli import main
from npresnet.instruments import bench

TINY = ["bench", "--model", "demo", "--size", "64", "--batch", "1", "--only", "numpy", "--picture"]
ANSWER = dict(call_ms=[4.0], memory_mb=50.0, version="none 1", precision="f32", max_delta=1e-7)


@pytest.fixture
def asked(monkeypatch):
    """No processes: every contender answers ANSWER. The list of jobs that they were asked to do."""
    jobs: list[dict] = []
    monkeypatch.setattr(bench, "ask", lambda job, wanted: jobs.append(job) or dict(ANSWER))
    return jobs


def test_the_picture(tmp_path, asked):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    file = tmp_path / "roofline.png"
    assert main([*TINY, str(file), "--json"]) == 0
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG" and image.width > 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.png"]


def test_a_picture_appears_whole_or_not_at_all(capsys, tmp_path, asked):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main([*TINY, str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out and err == f"npresnet bench: {folder}: can't be written (Is a directory)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_picture_without_matplotlib(capsys, tmp_path, monkeypatch, asked):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--picture", str(tmp_path / "x.png")]) == 2
    out, err = capsys.readouterr()
    message = "--picture needs matplotlib: pip install 'npresnet[tutorials]'"
    assert out == "" and err == f"npresnet bench: {message}\n" and asked == []
