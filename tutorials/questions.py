"""The questions of the course: of each, what is true of a right answer, and hints for wrong ones.

A right answer is told by what it does, or is computed by the library when it is asked for.
"""
from __future__ import annotations

from course import Question, close_to, one_of

QUESTIONS: dict[str, Question] = {}

# --- 12: the CPU, to the roofline -----------------------------------------------------------------


def flop_per_byte(c: int, k: int, taps: int, pixels: int) -> float:
    """Of a convolution that reads its picture and weights once and writes its output once."""
    return 2 * k * c * taps * pixels / (4 * (c * pixels + k * c * taps + k * pixels))


QUESTIONS |= {
    "12a": Question(
        close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28), 0.02),
        "FLOP are two for each multiply-add. Bytes: the picture, the weights and the output, four "
        "for each number.",
        ((close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) * 4, 0.02),
          "These are FLOP for each number: a number has four bytes."))),
    "12b": Question(one_of("c"), "Other rungs do as many multiplications with the same weights, "
                                 "many times faster. What is new in rung 2?"),
    "12c": Question(one_of("c"), "Run it, and look what else happens for each multiply-add."),
    "12d": Question(
        close_to(lambda: flop_per_byte(2048, 512, 1, 49), 0.02),
        "As in section 1, with R·S = 1. Which of the three has the most bytes?",
        ((close_to(lambda: flop_per_byte(2048, 512, 1, 49) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(2048, 512, 9, 49), 0.02), "The kernel is 1×1."))),
    "12e": Question(one_of("b"), "Count both: loads for each multiply-add, and steps until the "
                                 "same sum is needed again."),
from dataclasses import replace
from pathlib import Path
from typing import Any

import course
import numpy as np
from course import Question, close_to, one_of

import npresnet
from npresnet.graph import build_graph
from npresnet.summary import summarise

PHOTO = Path(__file__).with_name("photo.jpg")


def demo(pictures: list) -> np.ndarray:
    """The demo's probabilities for pictures: (N, K)."""
    model = npresnet.create_model("demo", backend="numpy")
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    return npresnet.softmax(model(np.stack([transform(npresnet.load_image(p)) for p in pictures])))


# --- 1 · Photograph to label ----------------------------------------------------------------------


def is_shape(*shape: int) -> Any:
    """A test: these whole numbers, in a tuple or a list."""
    return lambda answer: isinstance(answer, (tuple, list)) and tuple(answer) == shape


def describes(answer: Any) -> bool:
    """Whether `answer(picture)` gives the demo's five most probable names with percentages."""
    drawn = course.draw_pictures()
    pictures = [drawn["dimpled ball"], drawn["noise"], npresnet.load_image(PHOTO)]
    names = [label.name.split(",")[0]
             for label in npresnet.model_labels(npresnet.create_model("demo", backend="numpy"))]
    for picture, row in zip(pictures, demo(pictures)):
        told = list(answer(picture))
        best = np.argsort(-row)[:5]
        if [str(name).split(",")[0] for name, _ in told] != [names[k] for k in best]:
            return False
        if not np.allclose([float(share) for _, share in told], row[best], atol=1e-3):
            return False
    return True


def gives_five(answer: Any) -> bool:
    return len(list(answer(course.draw_pictures()["noise"]))) == 5


def renamed() -> set[str]:
    """The changes of the photograph that give it another name."""
    changed = course.turn_pictures(npresnet.load_image(PHOTO))
    first, *others = demo([PHOTO, *changed.values()]).argmax(axis=1)
    return {name for name, other in zip(changed, others) if other != first}


def is_set_of(want: Any) -> Any:
    """A test: the same words as `want()`, each once, in any order."""
    return lambda answer: (not isinstance(answer, (str, bytes, dict))
                           and all(isinstance(word, str) for word in answer)
                           and set(answer) == want())


# --- 7 · The whole network ------------------------------------------------------------------------


def wider() -> tuple[float, float]:
    """By which factors the demo's parameters and MACs grow if it is twice as wide."""
    model = npresnet.create_model("demo", backend="numpy")
    own = model.summary()
    graph = build_graph(replace(model.variant, width=2 * model.variant.width),
                        num_classes=model.num_classes)
    twice = summarise(graph, own.input_size, graph.last)
    return twice.params / own.params, twice.macs / own.macs


def costliest() -> Any:
    """The demo's layer with the most MACs."""
    model = npresnet.create_model("demo", backend="numpy")
    return max(model.summary().layers, key=lambda layer: layer.macs)


# --- all of them ----------------------------------------------------------------------------------


QUESTIONS: dict[str, Question] = {
    "1a": Question(
        is_shape(3, 160, 160), "Three numbers: the channels, then the height, then the width.",
        ((is_shape(160, 160, 3), "Those are the right numbers. Which axis comes first here?"),
         (is_shape(1, 3, 160, 160), "That is a batch of one. The question is about one picture."),
         (lambda a: tuple(a)[1:] in ((251, 320), (320, 251)) or 251 in tuple(a),
          "That is the file's size. What edge does the configuration ask for?"))),
    "1b": Question(
        close_to(lambda: 1.0, 1e-3), "Softmax divides each number by their sum.",
        ((close_to(lambda: 0.0), "Each of the ten is positive, whatever the picture shows."),
         (close_to(lambda: 100.0), "In percent, yes. Give it as a number between 0 and 1."),
         (close_to(lambda: 0.1, 1e-3), "That would be one of ten equal shares. Add all ten."))),
    "1c": Question(
        one_of("b"), "Write e^(l + 5) as a product of two powers. What happens to the factor?",
        ((one_of("a"), "Each power grows, but so does their sum."),
         (one_of("c"), "Each power grows by the same factor, and so does their sum."))),
    "1d": Question(
        one_of("b"), "Count the pictures in the table below whose share rose.",
        ((one_of("a"), "Nothing in the network knows that its input is wrong."),
         (one_of("c"), "No step of the arithmetic looks at the range of its input."))),
    "1e": Question(
        one_of("b"), "Look at the sign of the map: does one colour fill all of it?",
        ((one_of("a"), "What is covered may have spoken for another name. All shares sum to 1."),)),
    "1f": Question(
        describes, "Write a function of one picture that gives five pairs (name, share).",
        ((lambda a: not callable(a), "A function is wanted: it will be called on other pictures."),
         (lambda a: not gives_five(a), "Five pairs are wanted."),
         (lambda a: float(list(a(course.draw_pictures()["noise"]))[0][1]) > 1,
          "Shares between 0 and 1 are wanted, largest first."),)),
    "1g": Question(
        is_set_of(renamed), "Compare each change's most probable class with the photograph's own.",
        ((lambda a: isinstance(a, str), "A list of names is wanted, even if it has one."),
         (is_set_of(lambda: set(course.turn_pictures(npresnet.load_image(PHOTO))) - renamed()),
          "Those keep their name. Which don't?"))),
    "1h": Question(
        one_of("c"), "What would the number be if the right name were not on the list?",
        ((one_of("a"), "Is the right name among the ten at all?"),
         (one_of("b"), "How alike two pictures are was never computed."))),
    "7a": Question(
        close_to(lambda: 5.0), "Start at 160 and halve once for each stride of 2.",
        ((close_to(lambda: 10.0), "One halving is missing. Did you count the max pool?"),
         (close_to(lambda: 20.0), "Two are missing. The stem halves twice."),
         (close_to(lambda: 7.0), "That is so for 224 pixels. The demo's picture is smaller."))),
    "7b": Question(
        close_to(lambda: 3.0), "Weights of a block grow with the square of its channels.",
        ((close_to(lambda: 2.0), "It has the most blocks. But how large are they?"),
         (close_to(lambda: 0.0, 0.0), "It has the most pixels. Does a weight know of those?"))),
    "7c": Question(
        close_to(wider, 3e-3), "Divide the sums of the wide plan by the demo's, both at 160×160.",
        ((close_to(lambda: (2.0, 2.0), 0.02), "A layer's outputs double, and so do its inputs."),
         (close_to(lambda: (4.0, 4.0), 2e-3), "A good estimate. Which layer's input stays? Count."),
         (lambda a: np.allclose(a, wider()[::-1], rtol=3e-3), "The parameters come first."))),
    "7d": Question(
        lambda answer: answer == costliest().path, "Sort `model.summary().layers` by `macs`.",
        ((lambda a: str(a).startswith("stages.3"), "It has many weights. How many stops?"),)),
    "7e": Question(
        close_to(lambda: costliest().macs / costliest().params),
        "At how many places of the output is one weight used?",
        ((close_to(lambda: 49.0), "Those are the places of the kernel, not of the output."),
         (close_to(lambda: 1600.0), "That is after the max pool. What does the layer put out?"),
         (close_to(lambda: 80.0), "Along one axis. The output has two."))),
}
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to, one_of, shape_differs, ten_versions

# --- 2: pixels to tensor --------------------------------------------------------------------------

ROW = [0.0, 0.0, 60.0, 240.0, 240.0, 240.0]


def _bicubic_row() -> np.ndarray:
    """ROW with half of its pixels, as Pillow does it without rounding."""
    from PIL import Image

    row = Image.fromarray(np.array([ROW], np.float32))
    return np.asarray(row.resize((3, 1), Image.Resampling.BICUBIC))[0]


def _weighted_row(stretch: float, shift: float = 0.0, share: bool = True) -> np.ndarray:
    """The same with mistakes. share: whether the weights are divided by their sum."""
    centres = 2 * np.arange(3)[:, None] + 1 + shift
    x = np.abs(np.arange(6) + 0.5 - centres) / stretch            # (3, 6) distances
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights @ ROW / (weights.sum(1) if share else stretch)


@cache
def _wrong_mean() -> tuple[int, int]:
    """Of ten versions of the photograph: how many answers change with ImageNet's mean and standard
    deviation, and how many get surer."""
    import npresnet
    from npresnet.data import IMAGENET_MEAN, IMAGENET_STD

    model = npresnet.create_model("demo", backend="numpy")
    config = npresnet.data.resolve_model_data_config(model)
    pictures = ten_versions(npresnet.load_image(Path(__file__).with_name("photo.jpg"))).values()
    right, wrong = (
        npresnet.softmax(model(np.stack([transform(picture) for picture in pictures])))
        for transform in (npresnet.data.create_transform(**config),
                          npresnet.data.create_transform(**config | {"mean": IMAGENET_MEAN,
                                                                     "std": IMAGENET_STD})))
    return (int((right.argmax(1) != wrong.argmax(1)).sum()),
            int((wrong.max(1) > right.max(1)).sum()))


def _is(*wanted: int) -> Any:
    """A test: these whole numbers, in this order."""
    return lambda answer: len(answer) == len(wanted) and all(a == b for a, b in zip(answer, wanted))


CHAPTER_2 = {
    "2a": Question(
        _is(4000, 3000, 3), "NumPy's order is height, width, channels.",
        ((lambda a: len(a) == 2, "A colour picture has a third axis: its channels."),
         (_is(3000, 4000, 3), "That is how it is stored. What does a quarter turn do to it?"))),
    "2b": Question(
        lambda answer: np.ndim(answer) == 0 and answer == 44,
        "First the short edge, rounded down, then the long edge, cut off, then half of the rest.",
        ((lambda a: a == 45, "Python rounds a half to the even neighbour."),
         (lambda a: a == 44.5, "The cut lies between pixels: which whole number does round give?"),
         (lambda a: a == 89, "That is left over in all. How much of it lies on the left?"),
         (lambda a: a == 138, "Cut from the resized picture, not from the file."))),
    "2c": Question(
        one_of("b"), "Where are the new centres? Work out which old pixels get which weight there.",
        ((one_of("a"), "That is what antialiasing gives, nearly. Without it, four pixels count."),
         (lambda a: str(a).strip().lower() not in ("a", "b", "c"), "One letter of the three."))),
    "2d": Question(
        close_to(_bicubic_row, 2e-3), "Start with the centres, (i + ½) · scale.",
        ((shape_differs(_bicubic_row), "Three numbers are wanted."),
         (close_to(lambda: _weighted_row(1), 2e-3), "The curve isn't stretched by the scale."),
         (close_to(lambda: _weighted_row(2, share=False), 2e-3),
          "At the border some pixels are missing: the weights don't sum to 1 there."),
         (close_to(lambda: _weighted_row(2, shift=0.5), 2e-3), "A pixel's centre is at i + ½."),
         (close_to(lambda: np.round(_bicubic_row()).clip(0, 255), 1e-9), "Don't round or clip."))),
    "2e": Question(
        lambda answer: tuple(answer) == _wrong_mean(),
        "Compare the first classes, and the largest probabilities, picture by picture.",
        ((lambda a: len(a) != 2, "Two numbers are wanted."),
         (lambda a: tuple(a) == _wrong_mean()[::-1],
          "The other way round: first those that change."),
         (lambda a: a[1] == 0 < _wrong_mean()[1],
          "Some do get surer: look at the largest probability of each."))),
    "2f": Question(
        lambda answer: np.asarray(answer).dtype == np.uint8
        and np.array_equal(answer, np.arange(256)),
        "Undo the steps in the reverse order: the standard deviation, the mean, the 255.",
        ((shape_differs(lambda: np.zeros(256)), "256 numbers are wanted."),
         (lambda a: np.asarray(a).dtype == np.uint8 and np.abs(a - np.arange(256.0)).max() == 1,
          "Nearly: astype cuts the fraction off."),
         (lambda a: np.abs(a - np.arange(256.0)).max() < 1e-3,
          "The values are there, the dtype isn't."))),
}

QUESTIONS: dict[str, Question] = {**CHAPTER_2}
from typing import Any

import numpy as np
from course import Question, close_to, shape_differs

from npresnet import ops

QUESTIONS: dict[str, Question] = {}


# --- chapter 3: convolution by hand ---------------------------------------------------------------


def _small() -> np.ndarray:
    """The picture of 3e, (5, 6)."""
    return (np.arange(30) ** 2 % 11).reshape(5, 6).astype(np.float32)


def _blurred(mode: Any) -> np.ndarray:
    """It, blurred with a frame of 2 pixels of a mode of `np.pad`: (5, 6)."""
    framed = np.pad(_small(), 2, mode=mode)
    return ops.conv2d(framed[None, None], np.full((1, 1, 5, 5), 1 / 25, np.float32))[0, 0]


def _answer_to(kernel: Any, across: int) -> float:
    """What a 3×3 kernel answers to a picture row + across · column, of its largest number."""
    r, s = np.indices((3, 3))
    kernel = np.asarray(kernel, np.float64)
    return float((kernel * (r + across * s)).sum() / max(1e-30, np.abs(kernel).max()))


def _is_flat(kernel: Any) -> bool:
    """Whether a 3×3 kernel answers 0 where all pixels are the same."""
    kernel = np.asarray(kernel, np.float64)
    return bool(abs(kernel.sum()) <= 1e-5 * np.abs(kernel).max())


def _is_diagonal(kernel: Any) -> bool:
    return (np.shape(kernel) == (3, 3) and _is_flat(kernel) and _answer_to(kernel, 1) > 1e-3
            and abs(_answer_to(kernel, -1)) <= 1e-5)


QUESTIONS |= {
    "3a": Question(
        close_to(lambda: ops.conv2d(np.array([7.0, 7, 3]).reshape(1, 1, 1, 3),
                                    np.array([-1.0, 0, 1]).reshape(1, 1, 1, 3)).item()),
        "Multiply the numbers one by one with −1, 0 and 1, then add the three products up.",
        ((close_to(lambda: 4.0), "Which of the outer numbers is taken away from which? Look at the "
                                 "signs."),
         (close_to(lambda: 0.0), "That is an answer where nothing changes. Here the row falls."))),
    "3b": Question(
        close_to(lambda: ops.conv2d(np.ones((1, 1, 4, 5)), np.ones((1, 1, 3, 3)),
                                    padding=1)[0, 0, 0, 0]),
        "Draw the nine places of the kernel, and mark those that lie on the picture.",
        ((close_to(lambda: 9.0), "That is the middle. In the corner some places lie in the frame, "
                                 "and the frame is made of zeros."),
         (close_to(lambda: 6.0), "That is a stop at one edge. A corner lies at two."))),
    "3c": Question(
        close_to(lambda: ops.output_size(8, 3, 2, 1)),
        "How long is the padded picture? Where does the first stop begin, and where the last?",
        ((close_to(lambda: 5.0), "The last of yours doesn't fit: an unfinished step is dropped."),
         (close_to(lambda: 3.0), "Is the first stop counted, and is there padding on both sides?"),
         (close_to(lambda: 8.0), "That would be stride 1."))),
    "3d": Question(
        _is_diagonal,
        "It should be positive where the picture gets brighter towards the bottom right: smaller "
        "numbers in the top left, larger ones in the bottom right.",
        ((shape_differs(lambda: np.zeros((3, 3))), "A table of 3×3 numbers is wanted."),
         (lambda kernel: not _is_flat(kernel), "On a flat picture it isn't 0: what do its nine "
                                               "numbers add up to?"),
         (lambda kernel: abs(_answer_to(kernel, -1)) > 1e-5,
          "It answers to pictures that get brighter towards the bottom left. Is it the same as its "
          "own transpose?"))),
    "3e": Question(
        close_to(lambda: _blurred("reflect"), 1e-4),
        "Print your frame. The outermost picture pixels stand in it once, their neighbours twice.",
        ((shape_differs(_small), "The result should be as large as the input: is the frame 2 "
                                 "pixels wide, and does the convolution add none?"),
         (close_to(lambda: _blurred("constant"), 1e-4), "Its border gets darker: the frame is made "
                                                        "of zeros."),
         (close_to(lambda: _blurred("symmetric"), 1e-4),
          "The outermost pixels come twice. The mirror stands in the middle of them."),
         (close_to(lambda: _blurred("edge"), 1e-4), "Your frame repeats the outermost pixels. A "
                                                    "mirror also shows what lies behind them."))),
}


# --- chapter 4: channels and im2col ---------------------------------------------------------------


def _piled_up() -> np.ndarray:
    """The answer to 4d: each pixel as often as it stands in the columns, (4, 4)."""
    places = ops.im2col(np.arange(16.0).reshape(1, 1, 4, 4), 3)[0].astype(int)    # (9, 4)
    pile = np.zeros(16)
    np.add.at(pile, places, places + 1.0)
    return pile.reshape(4, 4)


def _bill() -> list[int]:
    """The answer to 4e: MACs, bytes, and bytes of the columns."""
    x, weight = np.zeros((1, 128, 28, 28), np.float32), np.zeros((128, 128, 3, 3), np.float32)
    columns = ops.im2col(x, 3, padding=1)[0]                                      # (C·R·S, P·Q)
    return [len(weight) * columns.size, 2 * x.nbytes + weight.nbytes, columns.nbytes]


def _off_by(place: int, *factors: float) -> Any:
    """A slip in 4e: one of its numbers is wrong by one of these factors."""
    return lambda bill: any(abs(bill[place] / _bill()[place] - factor) < 1e-6 for factor in factors)


QUESTIONS |= {
    "4a": Question(
        close_to(lambda: ops.conv2d(np.zeros((2, 3, 7, 6)), np.zeros((4, 3, 3, 3)), stride=2,
                                    padding=1).shape),
        "The pictures stay, each kernel gives a map, and chapter 3 has the formula for the stops.",
        ((lambda shape: len(shape) != 4, "Four numbers are wanted: (N, K, P, Q)."),
         (lambda shape: shape[1] == 12, "The slices of a kernel aren't kept apart: their answers "
                                        "are added up."),
         (lambda shape: shape[1] == 3, "The second number counts maps. What gives one map?"),
         (close_to(lambda: (2, 4, 3, 4)), "Height comes before width."),
         (lambda shape: tuple(shape[2:]) == (7, 6), "That would be stride 1."))),
    "4b": Question(
        close_to(lambda: ops.conv2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3)),
                                    padding=2)[0, 0, 1, 1]),
        "Draw the picture, and the square of 3×3 at each of its stops. Which squares hold the "
        "pixel?",
        ((close_to(lambda: 9.0), "Nine is how many pixels a stop sees. How many stops see this "
                                 "pixel?"),
         (close_to(lambda: 1.0), "That is so for a corner of the picture."))),
    "4c": Question(
        close_to(lambda: ops.conv2d(np.full((1, 3, 1, 1), -1.0), np.ones((1, 3, 1, 1))).item()),
        "Each number of the kernel is multiplied by the same pixel. Which number is black?",
        ((close_to(lambda: 0.0), "In the file black is 0, but the network sees it normalised."),
         (close_to(lambda: 3.0), "That is the answer to white."))),
    "4d": Question(
        close_to(_piled_up),
        "Print how often you add to each pixel: it should be once in the corners, and the columns "
        "stand in the order of the stops, (0, 0), (0, 1), (1, 0), (1, 1).",
        ((shape_differs(_piled_up), "A picture of 4×4 is wanted."),
         (close_to(lambda: np.arange(1.0, 17).reshape(4, 4)),
          "That is the picture itself. Where stops overlap, numbers are added (+=), not "
          "overwritten (=)."))),
    "4e": Question(
        close_to(_bill, 1e-12),
        "Count numbers first. MACs: numbers out, times what each of them sums. Input and output "
        "have a number for each channel and pixel, the weights K·C·R·S, the columns "
        "(C·R·S)·(P·Q).",
        ((lambda bill: np.shape(bill) != (3,), "Three numbers are wanted: [MACs, bytes, bytes of "
                                               "the columns]."),
         (_off_by(0, 2), "The first counts a multiplication with its addition as one, not two."),
         (_off_by(0, 1 / 128), "For the MACs: each number out sums over all input channels."),
         (_off_by(1, 1 / 4), "For the bytes: how many bytes has a float32?"),
         (_off_by(2, 1 / 4), "For the columns: how many bytes has a float32?"))),
import numpy as np
from course import Question, close_to, one_of, shape_differs

from npresnet import ops
from npresnet.graph import build_graph
from npresnet.lower.folding import scale_and_shift
from npresnet.variants import DEMO

QUESTIONS: dict[str, Question] = {}

# --- 5: norm, ReLU and folding --------------------------------------------------------------------

# A batch norm behind a convolution with a bias (5e), and one without variance (5f, 5g, 5h).
_CONV_BIAS = np.array([0.5, -1.0, 2.0])
_BN = {"bn.weight": np.array([2.0, 1.0, -1.0]), "bn.bias": np.array([0.0, 1.0, 3.0]),
       "bn.running_mean": np.array([1.0, -1.0, 0.5]), "bn.running_var": np.array([4.0, 0.25, 1.0])}
_FLAT = {"bn.weight": np.array([1.5]), "bn.bias": np.array([0.25]),
         "bn.running_mean": np.array([0.7]), "bn.running_var": np.array([0.0])}


def _folded_norms() -> int:
    """How many norms of the demo go into the convolution before them."""
    graph = build_graph(DEMO)
    return sum(step.kind == "conv" and graph.folds(step) for step in graph.steps)


QUESTIONS |= {
    "5a": Question(
        close_to(lambda: (0.15 * np.sqrt(64)) ** 20, 0.01),
        "One layer multiplies the spread by σ·√n, and factors are multiplied.",
        ((close_to(lambda: 0.15 * np.sqrt(64)), "That is one layer. There are 20."),
         (close_to(lambda: 20 * 0.15 * np.sqrt(64)),
          "Each layer multiplies what the one before gave: factors aren't added."),
         (close_to(lambda: (0.15 * 64) ** 20, 0.01),
          "Random products partly cancel out: the root of n counts, not n."))),
    "5b": Question(
        lambda answer: tuple(answer) in ((4, 8, 1, 1), (4, 8)),
        "How many channels go in, and how many come out? Outputs stand first: (K, C, 1, 1).",
        ((lambda answer: tuple(answer) in ((8, 4, 1, 1), (8, 4)),
          "Turn it round: a weight is (K, C, R, S), with the outputs first."),
         (lambda answer: 32 in tuple(answer),
          "The channels in between are summed over. Do they show from outside?"))),
    "5c": Question(
        close_to(_folded_norms),
        "Count for one block: which of its norms follow a convolution directly?",
        ((close_to(lambda: 49), "Those would be all. What stands before norm1?"),
         (close_to(lambda: 48), "Those would be all within blocks. What stands before norm1?"),
         (close_to(lambda: _folded_norms() + 1), "The last norm: does it follow a convolution?"),
         (close_to(lambda: 16), "More than one in each block."))),
    "5d": Question(
        one_of("norm2", "stages.0.blocks.0.norm2"),
        "Which layer is the first that depends on a folded weight?",
        ((one_of("conv1", "stages.0.blocks.0.conv1"),
          "The fault is there, but a folded convolution gives something else than before and isn't "
          "compared. Where does the fault show first?"),
         (one_of("norm1", "stages.0.blocks.0.norm1"), "Is norm1 folded?"),
         (one_of("norm3", "stages.0.blocks.0.norm3"), "An earlier norm is folded, too."))),
    "5e": Question(
        close_to(lambda: ops.batch_norm(_CONV_BIAS[None], *_BN.values())[0], 1e-3),
        "Write y = scale·(Σ w·pixel + b) + shift, and multiply out. What doesn't hang on pixels?",
        ((shape_differs(lambda: _CONV_BIAS), "Three numbers are wanted, one a channel."),
         (close_to(lambda: scale_and_shift(_BN, "bn")[1], 1e-3),
          "That is the shift alone: the convolution's own bias is missing."),
         (close_to(lambda: scale_and_shift(_BN, "bn")[1] + _CONV_BIAS, 1e-3),
          "The convolution's bias goes through the norm, too: it is not just added."))),
    "5f": Question(
        close_to(lambda: ops.batch_norm(np.array([[0.7]]), *_FLAT.values())[0, 0], 1e-3),
        "Subtract the mean first. What is left to be divided?",
        ((close_to(lambda: 0), "Something is added behind the division."),)),
    "5g": Question(
        one_of("b"), "What is divided by what? Try it in NumPy.",
        ((one_of("a"), "That is a number divided by 0. Here the number is special, too."),
         (one_of("c"), "The division comes first. What is 0 divided by 0?"))),
    "5h": Question(
        close_to(lambda: scale_and_shift(_FLAT, "bn")[0][0], 1e-3),
        "The scale is the weight over the root of var + ε.",
        ((close_to(lambda: 1.5 / 1e-5, 1e-3), "The root is missing."),
         (close_to(lambda: 1 / np.sqrt(1e-5), 1e-3), "The weight is missing."))),
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to

import npresnet
from npresnet import demo
from npresnet.network import Network
from npresnet.tensor_files import WeightsFile
from npresnet.weights import read_weights

QUESTIONS: dict[str, Question] = {}
_HERE = Path(__file__).resolve().parent

# --- 9: weights, byte by byte ---------------------------------------------------------------------

_STEM = "stem.conv.weight"


@cache
def _stem_bytes() -> tuple[int, int, int]:
    """Of the stem's tensor in the demo's file: where the data begins, its offset, and its end's."""
    with WeightsFile(demo.WEIGHTS) as file:
        return file.start, file.tensors[_STEM].begin, file.tensors[_STEM].end


def _flip_factor() -> float:
    """What flipping bit 12 of the weight in exercise 1 multiplies it by."""
    before = read_weights(demo.WEIGHTS)[_STEM][1, 0, 3, 3:4].astype(np.float16)            # (1,)
    after = (before.view(np.uint16) ^ np.uint16(1 << 12)).view(np.float16)                 # (1,)
    return float(after[0]) / float(before[0])


def _exponent_and(power: int) -> Callable[[Any], bool]:
    """A test: the exponent, and the factor of exercise 1 to this power."""
    factor = close_to(lambda: _flip_factor()**power)
    return lambda answer: str(answer[0]).strip().lower() == "exponent" and factor(answer[1])


@cache
def _bfloat16_delta(rounded: bool = True) -> float:
    """How far the demo's logits on the photograph move when its weights become bfloat16: rounded,
    or cut off."""
    model = npresnet.create_model("demo", backend="numpy")
    config = npresnet.data.resolve_model_data_config(model)
    photo = npresnet.load_image(_HERE / "photo.jpg")
    x = npresnet.data.create_transform(**config)(photo)[None]                     # (1, 3, H, W)
    params = model.state_dict()
    short = {name: _bfloat16(tensor, rounded) for name, tensor in params.items()}
    logits = [Network(model.variant, tensors).forward(x) for tensors in (params, short)]  # (1, 10)
    return npresnet.compare({"fc": logits[0]}, {"fc": logits[1]}).max_delta


def _bfloat16(tensor: np.ndarray, rounded: bool = True) -> np.ndarray:
    """float32 as bfloat16: the nearest, a tie to even, or cut off. Integers as they are."""
    if tensor.dtype != np.float32:
        return tensor
    bits = tensor.view(np.uint32)
    carry = 0x7FFF + (bits >> 16 & 1) if rounded else 0
    return ((bits + carry) & np.uint32(0xFFFF0000)).view(np.float32)


QUESTIONS |= {
    "9a": Question(
        close_to(lambda: sum(_stem_bytes()[:2]), 1e-9),
        "Three things lie before it: the length, the header, and the tensors in front of it.",
        ((close_to(lambda: _stem_bytes()[1], 1e-9),
          "That is counted from the start of the data. What comes before the data?"),
         (close_to(lambda: sum(_stem_bytes()[:2]) - 8, 1e-9),
          "The length itself takes bytes, too."),
         (close_to(lambda: _stem_bytes()[0] + _stem_bytes()[2], 1e-9),
          "That is where it ends. The begin stands first."))),
    "9b": Question(
        close_to(lambda: np.isnan(np.arange(2**16, dtype=np.uint16).view(np.float16)).sum(), 1e-9),
        "Look at the table's last line. How many fractions does it allow, and how many signs?",
        ((close_to(lambda: 2 * 2**10, 1e-9),
          "With a fraction of 0 it is an infinity, which is no NaN."),
         (close_to(lambda: 2**10 - 1, 1e-9), "The sign may be 0 or 1."),
         (close_to(lambda: 1, 1e-9), "Many patterns mean NaN: any fraction but one does."))),
    "9c": Question(
        close_to(lambda: _bfloat16(np.array(257, np.float32)), 1e-9),
        "There are 8 binary digits. How far apart are the numbers that it can hold, from 2⁸ on?",
        ((close_to(lambda: 257, 1e-9), "It takes 9 binary digits: 100000001. There are 8."),
         (close_to(lambda: 258, 1e-9),
          "Both neighbours are as near. Which of them has a 0 as its last stored bit?"))),
    "9d": Question(
        close_to(lambda: 2**24, 1e-9),
        "From which power of 2 on are neighbours 2 apart, with 24 binary digits?",
        ((close_to(lambda: 2**23, 1e-9),
          "23 bits of the fraction are stored, and the 1 in front is a digit as well."),
         (close_to(lambda: 2**24 - 1, 1e-9), "One more step is possible."),
         (close_to(lambda: 2**25, 1e-9), "There neighbours are already 4 apart."),
         (close_to(lambda: np.finfo(np.float32).max, 1e-6),
          "That is the largest number. The sum stands still long before: 1 becomes too small."))),
    "9e": Question(
        _exponent_and(1),
        "Count from the right, from 0, through the fields. What is the bit worth, and is it set?",
        ((lambda answer: not isinstance(answer, tuple | list) or len(answer) != 2,
          "Two things are wanted: the part, and the factor."),
         (_exponent_and(-1),
          "The other way: look whether the bit is 0 or 1 before the flip."),
         (lambda answer: str(answer[0]).strip().lower() != "exponent",
          "Count from the right, from 0: ten bits of fraction, five of exponent, a sign."))),
    "9f": Question(
        close_to(_bfloat16_delta, 1e-3),
        "Round every float32 tensor, to nearest even, and give `compare` the two `head.fc`.",
        ((lambda answer: float(answer) == 0,
          "Nothing moved: were the rounded tensors given to the network?"),
         (close_to(lambda: _bfloat16_delta(rounded=False), 1e-3),
          "That is with the lower half cut off. To nearest even is wanted."),
         (close_to(lambda: 100 * _bfloat16_delta(), 1e-3),
          "As a share, not in per cent."))),
}
