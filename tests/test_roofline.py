"""`npresnet bench --picture`: the roofline is drawn, whole or not at all."""
from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from npresnet.cli import main
from npresnet.fast.report import LayerPlan, PlanReport
from npresnet.instruments import bench, roofline

TINY = ["bench", "--model", "demo", "--size", "64", "--batch", "1", "--only", "numpy", "--picture"]
ANSWER = dict(call_ms=[4.0], memory_mb=50.0, version="none 1", precision="f32", max_delta=1e-7)


@pytest.fixture
def asked(monkeypatch):
    """No processes: every contender answers ANSWER. The list of jobs that they were asked to do."""
    jobs: list[dict] = []
    monkeypatch.setattr(bench, "ask", lambda job, wanted: jobs.append(job) or dict(ANSWER))
    return jobs


@pytest.mark.slow
def test_the_picture(tmp_path, asked):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    file = tmp_path / "roofline.png"
    assert main([*TINY, str(file), "--json"]) == 0
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG" and image.width > 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.png"]


PLAN = PlanReport("tiny", (3, 32, 40), 2, 250.0, 25.0, (
    LayerPlan("input", "channels last", "", 0.0, 0.0, 1.0, 1.0),
    LayerPlan("a", "F(4×4)", "6×32", 9.0, 4.0, 2.0, 5.0),
    LayerPlan("b", "direct 1×1", "6×32", 1.0, 2.0, 4.0, 3.0),
    LayerPlan("c", "direct 3×3", "6×32", 1.0, 1.0, 1.0, 1.0)))


def drawn(monkeypatch, tmp_path) -> list:
    """The dots that a picture of PLAN has."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    found: list = []
    monkeypatch.setattr(roofline, "draw_dots", lambda axes, dots: found.extend(dots))
    roofline.draw_roofline(PLAN, "tiny", tmp_path / "x.png")
    return found


@pytest.mark.slow
def test_dots_by_hand(monkeypatch, tmp_path):
    """FLOP for each byte, and a second, of what is carried out; shares of the whole time."""
    assert drawn(monkeypatch, tmp_path) == [
        ("a", "Winograd", 2000.0, 800.0, 50.0, 5.0),
        ("b", "1×1", 500.0, 2000 / 3, 30.0, 3.0),
        ("c", "3×3", 1000.0, 1000.0, 10.0, 1.0)]


def test_the_slowest_layers_are_named(monkeypatch, tmp_path):
    dots = drawn(monkeypatch, tmp_path)
    monkeypatch.setattr(roofline, "LABELLED", 2)
    from matplotlib.figure import Figure
    axes = Figure().subplots()
    axes.set(yscale="log", ylim=(1, 1e4))
    roofline.name_slowest(axes, dots)
    assert [text.get_text() for text in axes.texts] == ["a\n5.00 ms, 50.0 %", "b\n3.00 ms, 30.0 %"]


@pytest.mark.parametrize("algorithm, kind", [
    ("direct 1×1", "1×1"), ("direct 3×3", "3×3"), ("direct 7×7", "other"), ("F(2×2)", "Winograd"),
    ("F(4×4)", "Winograd"), ("max pool", "other")])
def test_kinds(algorithm, kind):
    assert roofline.kind_of(algorithm) == kind and kind in roofline.KINDS


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_picture_is_of_what_was_measured(monkeypatch, tmp_path, asked, threads):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    found = []
    monkeypatch.setattr(roofline, "draw_roofline", lambda *args: found.append(args))
    file = str(tmp_path / "x.png")
    assert main([*TINY, file, "--threads", str(threads), "--json"]) == 0
    (plan, title, path), = found
    assert plan.model == "demo" and plan.input_size == (3, 64, 64) and path == file
    assert plan.threads == min(threads, bench.available_cores())
    assert title.startswith(f"demo, pictures of 3×64×64, {threads} thread")


@pytest.mark.slow
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
    message = "--picture needs matplotlib: pip install \"npresnet[tutorials]\""
    assert out == "" and err == f"npresnet bench: {message}\n" and asked == []
