"""`npresnet.sklearn.Embedder`: what it gives, and how it behaves among scikit-learn's own."""
from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import environment
from helpers import assert_close, awkward_picture
from PIL import Image

import npresnet

ROOT = Path(__file__).resolve().parents[1]
sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn, the extra 'sklearn'")

from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from npresnet.sklearn import Embedder

IMAGENETTE = Path("/work/shared/data/imagenette160")
PICTURES = [awkward_picture(40 + 9 * i, 60 - 5 * i, seed=i) for i in range(5)]


def embedded(pictures) -> np.ndarray:
    """One by one, by way of the model."""
    model = npresnet.create_model("demo", num_classes=0)
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    return np.concatenate([model(transform(Image.fromarray(each))[None]) for each in pictures])


@pytest.fixture(scope="module")
def want() -> np.ndarray:
    return embedded(PICTURES)                                     # (N, D)


# --- what it gives --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_embeddings_are_the_models(want, batch_size):
    got = Embedder(batch_size=batch_size).transform(PICTURES)
    assert got.shape == (5, 512)
    assert_close("embeddings", got, want, 1e-4)
    unit = Embedder(batch_size=batch_size, normalize=True).fit_transform(PICTURES)
    assert_close("normalised", unit, want / np.linalg.norm(want, axis=1, keepdims=True), 1e-4)


def test_whatever_holds_pictures(tmp_path, want):
    files = []
    for i, pixels in enumerate(PICTURES):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    objects = np.empty(5, object)
    objects[:] = [Image.fromarray(pixels) for pixels in PICTURES]
    embedder = Embedder()
    mixed = [files[0], str(files[1]), files[2].read_bytes(), io.BytesIO(files[3].read_bytes()),
             PICTURES[4]]
    for column in (files, tuple(map(str, files)), np.array(list(map(str, files))), objects, mixed,
                   np.array(list(map(str, files)))[:, None], objects[:, None],
                   (pixels for pixels in PICTURES)):
        assert_close(type(column).__name__, embedder.transform(column), want, 1e-4)
    same = np.stack([np.asarray(Image.fromarray(each).resize((50, 40))) for each in PICTURES])
    assert_close("(N, H, W, 3)", embedder.transform(same), embedded(same), 1e-4)
    assert embedder.transform([]).shape == (0, 512)


def test_a_data_frames_column(want):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"image": PICTURES}, index=list("vwxyz"))
    for column in (frame, frame["image"], frame[["image"]]):
        assert_close("column", Embedder().transform(column), want, 1e-4)
    out = Embedder().set_output(transform="pandas").transform(frame)
    assert list(out.index) == list("vwxyz") and list(out.columns[[0, -1]]) == ["embedder0",
                                                                              "embedder511"]
    with pytest.raises(ValueError, match=r"one column of pictures, got a table of shape \(5, 2\)"):
        Embedder().transform(frame.assign(label=0))


# --- what it can't take ---------------------------------------------------------------------------


@pytest.mark.parametrize("column, says", [
    ("a.png", "got str; a single one goes into a list"), (b"GIF", "got bytes; a single"),
    (io.BytesIO(), "got BytesIO"), (3, "got int"), (None, "got NoneType"), ({"a": 1}, "got dict"),
    (np.uint8(3), "got uint8"), (Image.new("RGB", (3, 2)), "got Image"), (Path("a"), "got P"),
    (np.zeros((5, 2)), r"got a table of shape \(5, 2\)")])
def test_what_is_no_column(column, says):
    with pytest.raises(ValueError, match="expected (a list|one column).*" + says):
        Embedder().transform(column)


def test_a_bad_picture_is_named_with_its_row(tmp_path):
    (tmp_path / "c.png").write_text("no picture")
    for bad, says in ((tmp_path / "c.png", f"row 3: {tmp_path}/c.png: is not a picture"),
                      (np.zeros((3, 4, 5), "f"), "row 3: picture: is an array of float32")):
        with pytest.raises(npresnet.ImageError) as caught:
            Embedder(batch_size=2).transform([*PICTURES[:3], bad])
        assert str(caught.value).startswith(says)


@pytest.mark.parametrize("settings, says", [
    (dict(batch_size=0), "batch_size must be at least 1, not 0"),
    (dict(batch_size=1.5), "batch_size must be at least 1, not 1.5"),
    (dict(model="resnet50"), "unknown model 'resnet50'")])
def test_bad_settings(settings, says):
    for call in (Embedder(**settings).fit, Embedder(**settings).transform):
        with pytest.raises(ValueError, match=says):
            call(PICTURES)


def test_other_weights_under_the_same_name(tiny):
    embedder = Embedder("tiny", weights=tiny, batch_size=2)
    first = embedder.transform(PICTURES)
    npresnet.create_model("tiny", num_classes=3, seed=7).save(tiny)
    second = embedder.transform(PICTURES)
    assert first.shape == second.shape == (5, 64) and not np.allclose(first, second)
    with pytest.raises(npresnet.WeightsError, match="no such file"):
        Embedder("tiny", weights=tiny.parent / "none").transform(PICTURES)


# --- among scikit-learn's own ---------------------------------------------------------------------


def test_settings():
    embedder = Embedder("demo", batch_size=3, normalize=True)
    twin = clone(embedder)
    assert twin is not embedder and twin.get_params() == embedder.get_params() == dict(
        model="demo", weights=None, batch_size=3, normalize=True, backend="auto", num_threads=None)
    assert twin.set_params(batch_size=5).batch_size == 5 and embedder.batch_size == 3
    assert list(embedder.get_feature_names_out()[[0, 511]]) == ["embedder0", "embedder511"]
    assert "batch_size=3" in repr(embedder) and len(embedder._repr_html_()) > 100


def test_pickles_are_small(want):
    embedder = Embedder(normalize=False)
    embedder.transform(PICTURES)
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 1000
    assert_close("unpickled", pickle.loads(pickled).transform(PICTURES), want, 1e-4)


def halves(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures of stripes across or down, and which it is."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    pictures = []
    for down in labels:
        ramp = 127 + 120 * np.sin(np.arange(64) * rng.uniform(0.6, 1.2) + rng.uniform(0, 6))
        grey = np.broadcast_to(ramp if down else ramp[:, None], (64, 64))
        pictures.append(np.round(grey).astype(np.uint8))
    return pictures, labels


@pytest.mark.slow
def test_a_pipeline_learns():
    pictures, labels = halves(40)
    pipeline = make_pipeline(Embedder(normalize=True), LogisticRegression())
    pipeline.fit(pictures[:24], labels[:24])
    assert pipeline.score(pictures[24:], labels[24:]) > 0.9
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(pictures), pipeline.predict(pictures))
    search = GridSearchCV(pipeline, {"embedder__normalize": [False, True]}, cv=2)
    assert search.fit(pictures[:16], labels[:16]).best_score_ > 0.7


@pytest.mark.slow
def test_in_joblibs_processes():
    """They pickle the filters of warnings, too, in which `load_image` has put its own."""
    pictures, labels = halves(12)
    pipeline = make_pipeline(Embedder(backend="numpy"), LogisticRegression())
    pipeline.fit(pictures, labels)
    assert len(cross_val_score(pipeline, pictures, labels, cv=2, n_jobs=2)) == 2


@pytest.mark.skipif(not IMAGENETTE.is_dir(), reason=f"needs {IMAGENETTE}")
def test_photographs_of_two_kinds():
    """Fish and parachutes. The demo has seen such, so this is easy."""
    files, labels = [], []
    for kind in ("n01440764", "n03888257"):
        found = sorted((IMAGENETTE / "val" / kind).iterdir())[:20]
        files += found
        labels += len(found) * [kind]
    pipeline = make_pipeline(Embedder(), LogisticRegression(max_iter=1000))
    pipeline.fit(files[::2], labels[::2])
    score = pipeline.score(files[1::2], labels[1::2])
    print(f"{100 * score:.0f} % of {len(files[1::2])} right")
    assert score > 0.9


class OfRows(Embedder):
    """Takes tables, as scikit-learn's checks have none but those: a row becomes a grey picture."""

    def transform(self, X):
        rows = np.asarray(X, np.float64)
        return super().transform([np.uint8(np.clip(128 + 40 * row[None], 0, 255)) for row in rows])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


EXPECTED_TO_FAIL = {"check_estimator_sparse_tag": "fit looks at no picture, so it refuses none"}


@pytest.mark.slow
@parametrize_with_checks([OfRows()], expected_failed_checks=lambda _: EXPECTED_TO_FAIL)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_without_scikit_learn():
    code = """
import sys
sys.modules["sklearn"] = None
import npresnet
try:
    npresnet.sklearn.Embedder
except npresnet.MissingDependencyError as error:
    print(error)
print("sklearn" in npresnet.__all__)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True,
                          text=True, timeout=60)
    said = "npresnet.sklearn needs scikit-learn: pip install \"npresnet[sklearn]\""
    assert done.stdout.splitlines() == [said, "False"], done.stderr
