"""`Predictor`: answers are what a model says of each picture, in order, whatever comes in."""
from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close
from PIL import Image

import npresnet
from npresnet import Predictor, ahead, create_model, data, predict
from npresnet.ahead import ReadAhead


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Seven pictures of several shapes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    sizes = [(40, 50), (200, 90), (64, 64), (33, 300), (90, 91), (5, 7), (50, 40)]
    for i, size in enumerate(sizes):
        paths.append(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
    return paths


def inputs(model, files) -> np.ndarray:
    """What a user would give the model by hand."""
    transform = data.create_transform(**data.resolve_model_data_config(model))
    return np.stack([transform(Image.open(file).convert("RGB")) for file in files])


# --- what the answers are -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_logits_and_probabilities_are_the_models(files, batch_size):
    model = create_model("demo", backend="numpy")
    want = model(inputs(model, files))                                              # (7, 10)
    for output, values in (("logits", want), ("probabilities", npresnet.softmax(want))):
        answers = list(Predictor(model, output=output).stream(files, batch_size=batch_size))
        assert [answer.source for answer in answers] == files
        assert all(answer.error is None for answer in answers)
        assert_close(output, np.stack([each.value for each in answers]), values, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("top, count", [(1, 1), (3, 3), (99, 10)])
def test_topk_names_classes_in_order(files, top, count):
    model = create_model("demo", backend="numpy")
    p = npresnet.softmax(model(inputs(model, files)))
    labels = npresnet.model_labels(model)
    for answer, row in zip(Predictor(model, top=top).stream(files), p):
        order = np.argsort(-row)[:count]
        assert [each.index for each in answer.value] == order.tolist()
        assert [each.label for each in answer.value] == [labels[i].name for i in order]
        assert [each.wnid for each in answer.value] == [labels[i].wnid for i in order]
        got = [each.probability for each in answer.value]
        assert got == pytest.approx(row[order].tolist(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["avg", "catavgmax", ""])
def test_embeddings_are_forward_heads(files, pool):
    model = create_model("demo", num_classes=0, global_pool=pool, backend="numpy")
    want = model.forward_head(model.forward_features(inputs(model, files)), pre_logits=True)
    for normalize in (False, True):
        answers = Predictor(model, output="embedding", normalize=normalize).stream(files)
        got = np.stack([answer.value for answer in answers])
        if normalize:
            norm = np.sqrt((want.astype(np.float64) ** 2).sum(1, keepdims=True))
            want = (want / norm).astype(np.float32)
        assert got.dtype == np.float32
        assert_close("embedding", got, want, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_features_are_the_traces(files, backend):
    model = create_model("demo", backend=backend)
    layers = ["stem.pool", "stages.0.blocks.1", "stages.1.blocks.0.norm2", "norm", "stages.1",
              "head.fc"]
    trace = model.trace(inputs(model, files))
    answers = list(Predictor(model, output="features", layers=layers).stream(files))
    for path in layers:
        got = np.stack([answer.value[path] for answer in answers])
        assert_close(path, got, trace[path], 1e-5)
    maps = [info["module"] for info in model.feature_info]
    assert list(next(Predictor(model, output="features").stream(files)).value) == maps


def test_a_zero_embedding_stays_zero(files):
    model = create_model("demo", num_classes=0, backend="numpy")
    state = dict(model.state_dict())
    state["norm.weight"] = np.zeros_like(state["norm.weight"])
    state["norm.bias"] = np.zeros_like(state["norm.bias"])
    model.load_state_dict(state)
    answer = next(Predictor(model, output="embedding", normalize=True).stream(files))
    assert not answer.value.any()


def test_a_layer_that_the_engine_fuses_away():
    with pytest.raises(ValueError, match="the numba backend doesn't compute .*conv2.*numpy"):
        list(Predictor("demo", output="features", layers=["stages.0.blocks.0.conv2"],
                       backend="numba").stream([Image.new("RGB", (40, 40))]))


def test_numbers_that_are_not_finite_are_an_error(files):
    model = create_model("demo", backend="numpy")
    state = {name: np.full_like(array, 3e38) if name.endswith("conv2.weight") else array
             for name, array in model.state_dict().items()}
    model.load_state_dict(state)
    answer, _ = Predictor(model).stream(files[:2])
    assert answer.value is None
    assert answer.error == (f"{files[0]}: the weights are finite, but what they make of this "
                            "picture is not")


# --- what goes in ---------------------------------------------------------------------------------


def test_any_kind_of_picture_and_none_loses_another(files):
    picture = Image.open(files[0]).convert("RGB")
    kinds = [files[0], str(files[0]), files[0].read_bytes(), io.BytesIO(files[0].read_bytes()),
             picture, np.asarray(picture)]
    bad = [files[0].with_name("missing.png"), b"no picture", None, 3, np.zeros((3, 4)), []]
    mixed = [each for pair in zip(kinds, bad) for each in pair]
    answers = list(Predictor("demo", output="logits", backend="numpy").stream(mixed, batch_size=5))
    assert all(answer.source is given for answer, given in zip(answers, mixed))
    good, failed = answers[::2], answers[1::2]
    for answer in good:
        assert answer.error is None
        np.testing.assert_array_equal(answer.value, good[0].value)
    for answer in failed:
        assert answer.value is None and answer.error and "\n" not in answer.error
    print([answer.error for answer in failed])


@pytest.mark.parametrize("one", ["a.jpg", b"bytes", Path("a.jpg"), io.BytesIO(b"")])
def test_one_picture_is_not_many(one):
    with pytest.raises(TypeError, match="expected many pictures, got one"):
        Predictor("demo").stream(one)


def test_none_at_all():
    assert list(Predictor("demo").stream([])) == []
    assert list(Predictor("demo").stream(iter(()))) == []


@pytest.mark.parametrize("options, match", [
    (dict(output="label"), "unknown output 'label'"), (dict(top=0), "top must be at least 1"),
    (dict(workers=0), "workers must be at least 1"), (dict(layers=["norm"]), "output='features'"),
    (dict(normalize=True), "output='embedding'"), (dict(num_classes=0), "without a classifier"),
    (dict(output="features", layers=["norm1"]), "there is no layer 'norm1'"),
    (dict(output="logits", features_only=True), "features_only"),
    (dict(in_chans=1), "pictures have 3 channels, the model takes 1"),
])
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        Predictor("demo", **options)


def test_a_batch_of_none():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Predictor("demo").stream([], batch_size=0)


def test_published_weights_are_asked_for_by_a_name_alone(monkeypatch):
    asked = []

    def create(name, **options):
        asked.append((name, options))
        return create_model("demo")
    monkeypatch.setattr(predict, "create_model", create)
    Predictor("resnetv2_50.a1h_in1k", num_threads=1)
    Predictor("demo")
    Predictor("resnetv2_50", weights="x.safetensors")
    Predictor("resnetv2_50", pretrained=False)
    assert asked == [("resnetv2_50.a1h_in1k", dict(pretrained=True, num_threads=1)),
                     ("demo", dict(pretrained=False)),
                     ("resnetv2_50", dict(pretrained=False, weights="x.safetensors")),
                     ("resnetv2_50", dict(pretrained=False))]


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output, column", [("logits", "logits"), ("embedding", "embedding"),
                                            ("probabilities", "probabilities")])
def test_columns_in_columns_out(files, output, column):
    predictor = Predictor("demo", output=output, backend="numpy")
    columns = {"id": np.arange(3), "image": np.array([str(files[0]), "missing", str(files[2])])}
    results = predictor(columns)
    assert list(results) == ["id", "image", column, "error"]
    assert results["id"] is columns["id"] and results["image"] is columns["image"]
    want = [answer.value for answer in predictor.stream([files[0], files[2]])]
    np.testing.assert_array_equal(results[column][[0, 2]], want)
    assert np.isnan(results[column][1]).all() and results[column].dtype == np.float32
    none = predictor({"image": ["missing", "too"]})[column]       # as wide as ever
    assert none.shape == (2, *results[column].shape[1:]) and np.isnan(none).all()
    assert predictor({"image": []})[column].shape == (0, *results[column].shape[1:])
    assert results["error"].tolist() == ["", "missing: no such file", ""]


def test_columns_of_classes(files):
    predictor = Predictor("demo", top=2, column="photo", backend="numpy")
    results = predictor({"photo": [files[1], "missing"]})
    answer, = predictor.stream([files[1]])
    assert results["index"].tolist() == [[each.index for each in answer.value], [-1, -1]]
    assert results["label"].tolist() == [[each.label for each in answer.value], ["", ""]]
    assert results["wnid"][0] == [each.wnid for each in answer.value]
    assert results["probability"].shape == (2, 2) and np.isnan(results["probability"][1]).all()
    features = Predictor("demo", output="features", layers=["norm"], backend="numpy")
    assert features({"image": files})["norm"].shape == (7, 512, 5, 5)
    assert np.isnan(features({"image": ["missing"]})["norm"]).sum() == 512 * 25


def test_a_column_of_arrays(files):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    predictor = Predictor("demo", output="logits", backend="numpy")
    want = [answer.value for answer in predictor.stream(map(Image.fromarray, pictures))]
    np.testing.assert_array_equal(predictor({"image": pictures})["logits"], want)


def test_columns_that_are_none():
    predictor = Predictor("demo")
    with pytest.raises(TypeError, match="expected columns by name"):
        predictor(["a.jpg"])
    with pytest.raises(ValueError, match="no column 'image' among 'photo', 'id': name it"):
        predictor({"photo": [], "id": []})


def test_it_pickles_as_its_configuration(files):
    predictor = Predictor("demo", output="embedding", normalize=True, backend="numpy")
    data = pickle.dumps(predictor)
    assert len(data) < 1000, "the weights are in it"
    copy = pickle.loads(data)
    want = [answer.value for answer in predictor.stream(files)]
    np.testing.assert_array_equal([answer.value for answer in copy.stream(files)], want)
    own = pickle.loads(pickle.dumps(Predictor(create_model("demo", num_classes=3, seed=5))))
    assert own.model.num_classes == 3


# --- reading ahead --------------------------------------------------------------------------------


def test_it_reads_ahead_and_no_farther():
    asked, held, most, lock = [], 0, 0, threading.Lock()

    def items():
        for i in range(50):
            asked.append(i)
            yield i

    def read(item):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return item * item

    with ReadAhead(items(), read, workers=3, limit=8) as reader:
        for i in range(0, 50, 5):
            got = reader.take(5)
            held -= len(got)
            assert got == [(j, j * j) for j in range(i, i + 5)]
            assert len(asked) <= i + 5 + 8
        assert len(asked) == 50 and reader.take(5) == []
    assert most <= 8 + 5


def test_what_the_iterable_raises_comes_after_what_it_gave(files):
    def pictures():
        yield from files[:3]
        raise RuntimeError("the database is gone")
    answers = Predictor("demo", backend="numpy").stream(pictures(), batch_size=2)
    assert [next(answers).source for _ in range(3)] == files[:3]
    with pytest.raises(RuntimeError, match="the database is gone"):
        next(answers)


def test_without_threads_it_reads_itself(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(ahead.threading.Thread, "start", start)
    with ReadAhead(range(7), str, workers=4, limit=3) as reader:
        assert reader.take(5) == [(i, str(i)) for i in range(5)]
        assert reader.take(5) == [(5, "5"), (6, "6")]


def test_what_reading_raises_is_raised_where_it_is_taken():
    with (ReadAhead([1, 0], lambda n: 1 / n, workers=2, limit=2) as reader,
          pytest.raises(ZeroDivisionError)):
        reader.take(2)


def test_threads_end_with_the_stream(files):
    def readers():
        return [t for t in threading.enumerate() if t.name == "npresnet-read"]
    before = set(readers())
    for answer in Predictor("demo", backend="numpy").stream(files * 20, batch_size=2):
        assert answer.error is None
        break
    for thread in set(readers()) - before:
        thread.join(20)
    assert set(readers()) <= before
