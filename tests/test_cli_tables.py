"""`npresnet summary`, `models` and `compare`: their tables, complaints and exit codes."""
from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
from cli_helpers import complaint

import npresnet
from npresnet import demo
from npresnet.cli import main
from npresnet.commands import compare
from npresnet.model import ResNetV2


def test_summary_has_the_model_cards_totals(capsys):
    assert main(["summary", "--model", "resnetv2_50"]) == 0
    total = capsys.readouterr().out.splitlines()[-1]
    assert total.split("  ")[0] == "total"
    assert all(figure in total for figure in ("25.5 M", "4.1 G", "11.1 M", "3×224×224"))
    assert main(["summary", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["model"] == "resnetv2_50" and table["input_size"] == [3, 224, 224]
    assert table["params"] == 25_549_352
    assert round(table["macs"] / 1e9, 1) == 4.1 and round(table["activations"] / 1e6, 1) == 11.1
    for figure in ("params", "macs", "activations"):
        assert sum(layer[figure] for layer in table["layers"]) == table[figure]
    assert table["layers"][0] == dict(path="stem.conv", kind="conv 7×7", output=[64, 112, 112],
                                      params=9408, macs=9408 * 112**2, activations=64 * 112**2)


@pytest.mark.slow
def test_summary_of_another_size(capsys):
    for argv, size in ((["--size", "288"], [3, 288, 288]), (["--size", "64", "96"], [3, 64, 96])):
        assert main(["summary", "--json", *argv]) == 0
        assert json.loads(capsys.readouterr().out)["input_size"] == size
    message = complaint(capsys, 2, "summary", "--size", 1, 2, 3)
    assert message == "npresnet summary: --size takes one edge, or height and width"


def test_models(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in npresnet.list_models()) and "none published" in text
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == npresnet.list_models() and rows["resnetv2_50"]["params"] == 25_549_352
    assert rows["resnetv2_50"]["weights"] == ["resnetv2_50.a1h_in1k"]
    assert rows["resnetv2_50d"]["weights"] == []
    tensors = npresnet.read_weights(demo.WEIGHTS)
    learned = [array.size for name, array in tensors.items()
               if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert rows["demo"]["params"] == sum(learned)
    assert main(["models", "--pretrained", "--json"]) == 0
    weights = [name for row in json.loads(capsys.readouterr().out) for name in row["weights"]]
    assert weights == ["inside the package", *npresnet.list_models(pretrained=True)[1:]]
    assert main(["models", "--pretrained"]) == 0
    assert "resnetv2_50d" not in capsys.readouterr().out


def test_compare_without_timm_says_so_before_it_does_anything(photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(compare, "load_model", lambda *args, **options: pytest.fail("loaded"))
    for file in (photos / "a.png", photos / "missing.png"):
        assert complaint(capsys, 2, "compare", file) == \
            "npresnet compare: comparing with timm needs timm: pip install \"npresnet[parity]\""


@pytest.mark.skipif(find_spec("timm") is None, reason="timm isn't installed")
def test_compare_with_timm(photos, capsys):
    assert main(["compare", "--json", str(photos)]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert ["error" in row for row in rows] == [False, True, False]
    assert main(["compare", str(photos / "a.png")]) == 0


@pytest.mark.slow
def test_compare_with_the_fast_engine(photos, capsys):
    assert main(["compare", "--json", "--against", "numba", str(photos / "a.png")]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["tolerance"] == 1e-4 and row["first_divergence"] is None
    assert 0 < row["max_delta"] <= 1e-4
    assert len(row["layers"]) + len(row["not_compared"]) == 125   # all that timm has
    kinds = {path.split(".")[-1] for path in row["not_compared"]}
    assert {"conv1", "conv2", "conv3"} <= kinds <= {"conv", "conv1", "conv2", "conv3"}
    argv = ["compare", "--against", "numba", "--tolerance", "0", str(photos / "a.png")]
    assert main(argv) == 1


@pytest.mark.slow
def test_compare_says_what_was_not_compared(photos, capsys, monkeypatch):
    whole, seen = ResNetV2.trace, {}

    def trace(self, x):
        """The reference's own, and that of an engine like it that computes no first norms."""
        if self.backend == "numpy":
            seen.update(whole(self, x))
            return dict(seen)
        return {path: y for path, y in seen.items() if not path.endswith("norm1")}

    monkeypatch.setattr(ResNetV2, "trace", trace)
    argv = ["compare", "--against", "numba", str(photos / "a.png")]
    assert main([*argv, "--json"]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert len(row["not_compared"]) == 16 and len(row["layers"]) == 125 - 16
    assert row["not_compared"][:2] == ["stages.0.blocks.0.norm1", "stages.0.blocks.1.norm1"]
    assert main(argv) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == f"{photos}/a.png: npresnet (numpy) against numba"
    assert [line.split()[0] for line in lines if line.endswith(" not compared")] == \
        row["not_compared"]
    assert lines[-1] == ("109 layers agree within 0.0001; the largest Δ is 0.0e+00; "
                         "not compared: 16 that numba does not compute")
