"""The questions of chapter 1, photograph to label."""
from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import course
import numpy as np
from course import Question, close_to, one_of

import npresnet

PHOTO = Path(__file__).parents[1] / "photo.jpg"


def demo(pictures: list) -> np.ndarray:
    """The demo's probabilities for pictures: (N, K)."""
    model = npresnet.create_model("demo", backend="numpy")
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    return npresnet.softmax(model(np.stack([transform(npresnet.load_image(p)) for p in pictures])))


def is_shape(*shape: int) -> Any:
    """A test: these whole numbers, in a tuple or a list."""
    return lambda answer: isinstance(answer, (tuple, list)) and tuple(answer) == shape


@cache
def described() -> list[tuple[Any, list[str], np.ndarray]]:
    """Pictures, the demo's five most probable names of each, and their shares."""
    drawn = course.draw_pictures()
    pictures = [drawn["dimpled ball"], drawn["noise"], npresnet.load_image(PHOTO)]
    names = [label.name.split(",")[0]
             for label in npresnet.model_labels(npresnet.create_model("demo", backend="numpy"))]
    rows = demo(pictures)                                         # (3, K)
    best = np.argsort(-rows, axis=1)[:, :5]                       # (3, 5)
    return [(picture, [names[k] for k in order], row[order])
            for picture, order, row in zip(pictures, best, rows)]


def describes(answer: Any) -> bool:
    """Whether `answer(picture)` gives the demo's five most probable names with percentages."""
    for picture, names, shares in described():
        told = list(answer(picture))
        if [str(name).split(",")[0] for name, _ in told] != names:
            return False
        if not np.allclose([float(share) for _, share in told], shares, atol=1e-3):
            return False
    return True


def gives_five(answer: Any) -> bool:
    return len(list(answer(noise()))) == 5


def noise() -> Any:
    return course.draw_pictures()["noise"]


@cache
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


QUESTIONS: dict[str, Question] = {
    "1a": Question(
        is_shape(3, 160, 160), "Three numbers: the channels, then the height, then the width.",
        ((is_shape(160, 160, 3), "Those are the right numbers. Which axis comes first here?"),
         (is_shape(1, 3, 160, 160), "That is a batch of one. The question is about one picture."),
         (lambda a: tuple(a)[1:] in ((251, 320), (320, 251)) or 251 in tuple(a),
          "That is the file's size. What edge does the configuration ask for?"))),
    "1c": Question(
        close_to(lambda: 1.0, 1e-3), "Softmax divides each number by their sum.",
        ((close_to(lambda: 0.0), "Each of the ten is positive, whatever the picture shows."),
         (close_to(lambda: 100.0), "In percent, yes. Give it as a number between 0 and 1."),
         (close_to(lambda: 0.1, 1e-3), "That would be one of ten equal shares. Add all ten."))),
    "1b": Question(
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
         (lambda a: any(isinstance(share, str) for _, share in a(noise())),
          "Give the shares as numbers, not as text. The name comes first."),
         (lambda a: list(a(noise())) == list(a(PHOTO)),
          "Two pictures gave the same. Does it use the one that it is given?"),
         (lambda a: list(a(noise()))[0][1] < list(a(noise()))[-1][1], "The largest comes first."),
         (lambda a: float(list(a(noise()))[0][1]) > 1,
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
}
