"""The questions of chapters 1, photograph to label, and 7, the whole network."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import course
import numpy as np
from course import Question, close_to, one_of

import npresnet
from npresnet.graph import build_graph
from npresnet.summary import summarise

PHOTO = Path(__file__).parents[1] / "photo.jpg"


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
