"""`Predictor` called with columns: what an engine that distributes batches has to rely on."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npresnet import Predictor, create_model

GOOD = str(Path(__file__).resolve().parents[1] / "tutorials" / "photo.jpg")


@pytest.mark.parametrize("options", [
    dict(output="topk", top=2), dict(output="logits"), dict(output="embedding"),
    dict(output="features", layers=["norm", "head.global_pool"])], ids=lambda kw: kw["output"])
def test_every_batch_has_the_same_types_and_shapes(options):
    """Engines write them to one table, whatever is in a batch: good, bad, both, nothing."""
    predictor = Predictor("demo", backend="numpy", **options)
    kinds = [[GOOD], ["missing"], [GOOD, "missing"], []]
    batches = [predictor({"image": batch}) for batch in kinds]
    wanted = {name: (column.dtype, column.shape[1:])
              for name, column in batches[0].items() if name != "image"}
    for batch, results in zip(kinds, batches):
        assert all(len(column) == len(batch) for column in results.values())
        assert wanted == {name: (column.dtype, column.shape[1:])
                          for name, column in results.items() if name != "image"}
        assert all(isinstance(error, str) for error in results["error"])


def test_maps_without_a_pool_in_columns():
    for pool, shape in (("", (512, 5, 5)), ("catavgmax", (1024,))):
        model = create_model("demo", num_classes=0, global_pool=pool, backend="numpy")
        results = Predictor(model, output="embedding")({"image": ["missing", b""]})
        assert results["embedding"].shape == (2, *shape) and np.isnan(results["embedding"]).all()


def test_a_data_frame():
    """It keeps its index and its columns; the new columns have one type, even of no rows."""
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    predictor = Predictor("demo", top=2, backend="numpy")
    frame = pandas.DataFrame({"id": [3, 1], "image": [GOOD, "missing"]}, index=[7, 5])
    results, want = predictor(frame), predictor({"image": frame["image"]})
    assert list(frame) == ["id", "image"] and results.index.tolist() == [7, 5]
    assert list(results) == ["id", *want]
    for name in ("index", "probability"):
        np.testing.assert_array_equal(np.stack(results[name]), want[name])
    for name in ("wnid", "label", "error"):
        assert results[name].tolist() == want[name].tolist()
    assert {str(dtype) for dtype in predictor(frame[:0]).dtypes[2:]} == {"object"}
