"""The course's checks: right is called right (the notebooks' solutions see to that), wrong is
called wrong, and no hint gives the answer away."""
from __future__ import annotations

from pathlib import Path

import course
import numpy as np
import pytest
from course import Question, close_to, one_of, shape_differs
from questions import QUESTIONS
from wrong_answers import WRONG

import npresnet

NONSENSE = ["no", [], {}, object(), float("nan"), np.zeros((2, 3, 5)), -12345.678, b"", lambda: 1]


# These run the network, some of them often.
COSTLY = {"1f", "1g", "2e", "6g", "9f", "10j", "10k", "10l", "11f"}


@pytest.mark.parametrize("key", [pytest.param(key, marks=[pytest.mark.slow] * (key in COSTLY))
                                 for key in QUESTIONS])
def test_wrong_is_called_wrong(key):
    assert WRONG.get(key), f"no wrong answers to {key} are listed"
    for wrong, *words in [w if isinstance(w, tuple) else (w,) for w in WRONG[key]]:
        verdict = course.judge(key, wrong)
        print(verdict.text)
        assert verdict.right is False
        assert all(word in verdict.text for word in words)
    for wrong in NONSENSE:
        assert course.judge(key, wrong).right is False, wrong
    assert course.judge(key, ...).right is None


@pytest.fixture
def question(monkeypatch):
    monkeypatch.setitem(QUESTIONS, "0a", Question(
        close_to(lambda: np.array([1.0, 2.0]), 1e-3), "Count again.",
        ((shape_differs(lambda: np.zeros(2)), "Two numbers are wanted."),
         (close_to(lambda: np.array([2.0, 1.0])), "The other way round."))))


@pytest.mark.parametrize("answer, right, text", [
    ([1, 2], True, "0a: right"), (np.array([1.001, 2]), True, "right"),
    ([1.01, 2], False, "0a: not yet. Count again."), ([1, 2, 3], False, "Two numbers"),
    ([2, 1], False, "other way"), ("abc", False, "not yet"), (..., None, "not answered yet"),
    ([np.nan, 2], False, "Count again"), ([True, 2], True, "right"),
])
def test_judge(question, answer, right, text):
    verdict = course.judge("0a", answer)
    assert verdict.right is right and text in verdict.text


def test_check_prints(question, capsys):
    course.check("0a", [1, 2])
    assert capsys.readouterr().out == "0a: right\n"
    with pytest.raises(KeyError):
        course.check("no such", 1)


def test_one_of():
    assert one_of("b", "yes")(" B ") and not one_of("b")("a")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are shown."""
    plt = pytest.importorskip("matplotlib.pyplot", reason="the course draws with matplotlib")
    plt.switch_backend("agg")
    shown: list = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    yield shown
    plt.close("all")


def test_maps_share_a_scale(figures):
    maps = np.random.default_rng(0).standard_normal((5, 4, 6)) * np.array([1, 2, 3, 4, 5])[:, None,
                                                                                           None]
    course.show_maps(maps, [f"map {i}" for i in range(5)], columns=3)
    figure, = figures
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) == 5
    limits = {image.get_clim() for image in images}
    (low, high), = limits
    assert low == -high and high == pytest.approx(np.percentile(np.abs(maps), 99))
    assert f"{np.linalg.norm(maps[0]):.3g}" in figure.axes[0].get_title()
    assert any(ax.get_ylabel() == "value" for ax in figure.axes), "no colour bar"


def test_drawn_pictures():
    drawn = course.draw_pictures()
    assert all((p.size, p.mode) == ((160, 160), "RGB") for p in drawn.values()) and len(drawn) == 12
    assert {len(np.unique(np.asarray(drawn[name]))) for name in ("black", "white", "grey")} == {1}
    turned = course.turn_pictures(drawn["church"].resize((40, 20)))
    assert turned["quarter turn"].size == (20, 40)
    mirrored = np.asarray(drawn["church"].resize((40, 20)))[:, ::-1]
    np.testing.assert_array_equal(turned["mirrored"], mirrored)


def test_bars_and_pictures(figures):
    course.show_bars(["a", "b"], [1, 100], label="ms", log=True)
    course.show_pictures([np.zeros((4, 4, 3))] * 7, list("abcdefg"), columns=4)
    bars, pictures = figures
    assert bars.axes[0].get_xscale() == "log" and bars.axes[0].get_xlabel() == "ms"
    assert [ax.get_title() for ax in pictures.axes[:7]] == list("abcdefg")


def test_photographs_have_their_sources():
    folder = Path(course.__file__).with_name("pictures")
    table = (folder / "README.md").read_text(encoding="utf-8")
    pictures = course.load_pictures()
    assert len(pictures) == 12
    assert all(p.mode == "RGB" and max(p.size) == 320 for p in pictures.values())
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()
            if row.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{name}.jpg`" for name in pictures]
    assert all(cell for row in rows for cell in row)


def test_embeddings_are_the_demos():
    """Its head names of the held-out ones what the record of its training says of them all; and
    what it makes of another picture stands with them, not beside."""
    model = npresnet.create_model("demo", backend="numpy")
    head, bias = (model.state_dict()[f"head.fc.{name}"] for name in ("weight", "bias"))
    given = course.load_embeddings()
    for rows, labels, least, each in (
            (given.trained, given.trained_labels, 0.95, 50),
            (given.held_out, given.held_out_labels, 0.9, 100)):
        assert rows.dtype == np.float32 and rows.shape == (10 * each, 512)
        assert (np.bincount(labels) == each).all()
        right = ((rows @ head[:, :, 0, 0].T + bias).argmax(1) == labels).mean()
        print(f"{right:.3f} right")
        assert right > least
    own = embedding(model, course.load_pictures()["pagoda"])
    cosines = given.held_out @ own / np.linalg.norm(given.held_out, axis=1) / np.linalg.norm(own)
    church = 4
    assert given.held_out_labels[cosines.argmax()] == church


def embedding(model, picture) -> np.ndarray:
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    return model.forward_head(model.forward_features(transform(picture)[None]), pre_logits=True)[0]
