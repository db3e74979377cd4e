"""What the notebooks share: a check of your answers, and pictures that can be compared.

    check("3a", 28)                     right, or wrong with a hint; never the answer
    show_maps(maps, titles)             feature maps on one scale, with its colour bar
    draw_pictures()                     pictures of known things, drawn
    load_pictures()                     twelve photographs
    load_embeddings()                   what the demo makes of 1,500 pictures of its ten classes

The questions of each chapter, and what is true of a right answer, stand in `questions/`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Colours that colour-blind readers can tell apart (Okabe & Ito 2008), in the order of use.
BLUE, ORANGE, GREEN, PINK, SKY, GREY = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9",
                                        "#999999")
SIGNED = "PuOr"                         # orange below 0, white at 0, purple above


# --- answers --------------------------------------------------------------------------------------


class Question(NamedTuple):
    """right: whether an answer is. hint: what to say of a wrong one. slips: (test, hint) for
    mistakes that are often made; the first whose test holds is said instead."""
    right: Callable[[Any], bool]
    hint: str
    slips: tuple[tuple[Callable[[Any], bool], str], ...] = ()


class Verdict(NamedTuple):
    """What `judge` makes of an answer. right: None if there is none yet."""
    right: bool | None
    text: str


def check(key: str, answer: Any) -> None:
    """Print whether `answer` to the question `key` is right. `...` stands for no answer yet."""
    print(judge(key, answer).text)


def judge(key: str, answer: Any) -> Verdict:
    """Whether `answer` to the question `key` is right, and a sentence about it.

    Raises KeyError if there is no such question.
    """
    from questions import QUESTIONS

    question: Question = QUESTIONS[key]
    if answer is ... or answer is None:
        return Verdict(None, f"{key}: not answered yet")
    if _holds(question.right, answer):
        return Verdict(True, f"{key}: right")
    hint = next((hint for slip, hint in question.slips if _holds(slip, answer)), question.hint)
    return Verdict(False, f"{key}: not yet. {hint}")


def _holds(test: Callable[[Any], bool], answer: Any) -> bool:
    """Whether a test holds of an answer, which may be anything at all."""
    try:
        return bool(test(answer))
    except Exception:                   # of another kind or shape: no test holds of it
        return False


def close_to(want: Callable[[], Any], tolerance: float = 1e-6) -> Callable[[Any], bool]:
    """A test: numbers of the shape of `want()`, at most `tolerance` off, as a share of its
    largest. `want` is called when there is something to compare."""
    def test(answer: Any) -> bool:
        wanted = np.asarray(want(), np.float64)
        given = np.asarray(answer, np.float64)
        limit = tolerance * max(1e-30, float(np.abs(wanted).max()))
        return given.shape == wanted.shape and bool((np.abs(given - wanted) <= limit).all())
    return test


def shape_differs(want: Callable[[], Any]) -> Callable[[Any], bool]:
    """A slip: the answer hasn't the shape of `want()`."""
    return lambda answer: np.shape(answer) != np.shape(want())


def one_of(*answers: str) -> Callable[[Any], bool]:
    """A test: one of these words or letters, however it is written."""
    return lambda answer: str(answer).strip(" ().:").lower() in answers


# --- pictures -------------------------------------------------------------------------------------


def set_style() -> None:
    """Small figures, photographs as JPEG: a notebook with its outputs stays small."""
    import matplotlib.pyplot as plt
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 85})
    plt.rcParams.update({"figure.dpi": 88, "font.size": 9, "axes.titlesize": 9,
                         "axes.spines.top": False, "axes.spines.right": False})


def ten_versions(photo: Any) -> dict[str, Any]:
    """Ten versions of one photograph (PIL, RGB), itself first: turned, darker, cropped, …"""
    from PIL import Image, ImageEnhance, ImageOps

    w, h = photo.size
    turn, brightness = Image.Transpose, ImageEnhance.Brightness(photo)
    return {"as it is": photo, "mirrored": ImageOps.mirror(photo),
            "turned by 90°": photo.transpose(turn.ROTATE_90),
            "turned by 180°": photo.transpose(turn.ROTATE_180),
            "half as bright": brightness.enhance(0.5), "darker": brightness.enhance(0.7),
            "brighter": brightness.enhance(1.4), "grey": photo.convert("L").convert("RGB"),
            "left part": photo.crop((0, 0, -(-7 * w // 10), h)),
            "right part": photo.crop((3 * w // 10, 0, w, h))}


def show(ax: Any, picture: Any, title: str = "", **options: Any) -> None:
    """Draw one picture on `ax`, (H, W) or (H, W, 3), without ticks. options: of `imshow`."""
    ax.imshow(picture, **options)
    ax.set_title(title)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def show_pictures(pictures: Sequence[Any], titles: Sequence[str], *, columns: int = 6,
                  size: float = 1.7) -> None:
    """Pictures side by side, `columns` in a row, each `size` inches wide."""
    import matplotlib.pyplot as plt

    rows = -(-len(pictures) // columns)
    _, axes = plt.subplots(rows, min(columns, len(pictures)), squeeze=False, layout="constrained",
                           figsize=(size * min(columns, len(pictures)), (size + 0.25) * rows))
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title in zip(axes.flat, pictures, titles):
        show(ax, picture, title)
    plt.show()


def show_maps(maps: Any, titles: Sequence[str] | None = None, *, columns: int = 8,
              limit: float | None = None, label: str = "value", size: float = 1.25) -> None:
    """Maps (C, P, Q) on one scale from −limit to limit, 0 in white, with a colour bar.

    limit: by default the largest magnitude but for the last percent. Under each title stands the
    map's norm: a faint map is faint, and not only drawn so.
    """
    import matplotlib.pyplot as plt

    maps = np.asarray(maps)
    limit = limit or float(np.percentile(np.abs(maps), 99)) or 1.0
    rows = -(-len(maps) // columns)
    fig, axes = plt.subplots(rows, min(columns, len(maps)), squeeze=False, layout="constrained",
                             figsize=(size * min(columns, len(maps)) + 0.8, (size + 0.4) * rows))
    for ax in axes.flat:
        ax.axis("off")
    for number, (ax, each) in enumerate(zip(axes.flat, maps)):
        title = titles[number] if titles else f"channel {number}"
        show(ax, each, f"{title}\n‖·‖ {np.linalg.norm(each):.3g}", cmap=SIGNED, vmin=-limit,
             vmax=limit)
    fig.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.8, label=label, extend="both")
    plt.show()


def show_bars(names: Sequence[str], values: Sequence[float], *, label: str, log: bool = False,
              title: str = "", form: str = "{:.3g}") -> None:
    """Horizontal bars with their values. label: what they are, with the unit."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6.5, 0.45 * len(names) + 0.8), layout="constrained")
    bars = ax.barh(range(len(names)), values, color=BLUE)
    ax.bar_label(bars, [form.format(value) for value in values], padding=3)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=label, title=title)
    ax.margins(x=0.15)
    if log:
        ax.set_xscale("log")
    ax.invert_yaxis()
    plt.show()


# --- data -----------------------------------------------------------------------------------------


def load_pictures() -> dict[str, Any]:
    """The photographs of `pictures/` by name (PIL, RGB). Sources, licences: its README."""
    import npresnet

    return {file.stem: npresnet.load_image(file)
            for file in sorted(Path(__file__).with_name("pictures").glob("*.jpg"))}


class Embeddings(NamedTuple):
    """The demo's embeddings of pictures of its ten classes. labels: 0–9, their places in the head.

    trained: of 50 pictures a class that it was trained on, (500, 512) float32. held_out: of 100 a
    class that it never saw, (1000, 512). Made by `tests/training/embeddings.py`.
    """
    trained: np.ndarray
    trained_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


def load_embeddings() -> Embeddings:
    with np.load(Path(__file__).with_name("embeddings.npz")) as file:
        return Embeddings(file["trained"].astype(np.float32), file["trained_labels"].astype(int),
                          file["held_out"].astype(np.float32), file["held_out_labels"].astype(int))


# --- pictures that are drawn ----------------------------------------------------------------------


def draw_pictures(edge: int = 160) -> dict[str, Any]:
    """Pictures that nobody photographed, by name: RGB, `edge` wide and high."""
    from PIL import Image

    row, column = np.mgrid[:edge, :edge] * (160 / edge)               # (H, W), (H, W)
    stripe = (row // 10 % 2) * 255
    pictures = {
        "dimpled ball": _ball(row, column),
        "parachute": _parachute().resize((edge, edge)),
        "church": _church().resize((edge, edge)),
        "fuel pump": _pump().resize((edge, edge)),
        "black": np.zeros((edge, edge)), "white": np.full((edge, edge), 255.0),
        "grey": np.full((edge, edge), 128.0),
        "checkerboard": ((row // 20 + column // 20) % 2) * 255,
        "stripes across": stripe, "stripes down": stripe.T,
        "ramp": column * 255 / 160,
        "noise": np.random.default_rng(0).integers(0, 256, (edge, edge, 3)),
    }
    drawn = {}
    for name, pixels in pictures.items():
        array = np.asarray(pixels, np.uint8)
        drawn[name] = Image.fromarray(array if array.ndim == 3 else np.stack([array] * 3, axis=2))
    return drawn


def turn_pictures(photo: Any) -> dict[str, Any]:
    """The same subject in other ways: what a person would still call the same."""
    from PIL import ImageOps

    w, h = photo.size
    x, y = w // 10, h // 10
    return {"mirrored": ImageOps.mirror(photo), "quarter turn": photo.rotate(90, expand=True),
            "upside down": photo.rotate(180),
            "without colour": ImageOps.grayscale(photo).convert("RGB"),
            "a little closer": photo.crop((x, y, w - x, h - y))}


def _ball(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A white ball with dimples on grass, lit from the upper left: (H, W, 3)."""
    x, y = (column - 80) / 60, (row - 80) / 60
    inside = x * x + y * y < 1
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    dimples = np.cos(14 * np.arcsin(np.clip(x, -1, 1))) * np.cos(14 * np.arcsin(np.clip(y, -1, 1)))
    light = np.clip(0.25 + 0.75 * (0.77 * z - 0.4 * x - 0.5 * y) + 0.1 * dimples, 0, 1)
    pixels = np.empty((*row.shape, 3))
    pixels[:] = 40, 110, 40
    pixels[inside] = 245 * light[inside][:, None]
    return pixels


def _parachute() -> Any:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (160, 160), (120, 180, 240))
    pen = ImageDraw.Draw(picture)
    pen.pieslice((30, 20, 130, 120), 180, 360, fill=(230, 60, 40))
    for x in range(30, 131, 25):
        pen.line([(x, 70), (80, 125)], fill=(20, 20, 20))
    pen.ellipse((76, 122, 84, 136), fill=(20, 20, 20))
    return picture


def _church() -> Any:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (160, 160), (140, 180, 230))
    pen = ImageDraw.Draw(picture)
    wall, roof = (235, 230, 220), (110, 60, 50)
    pen.rectangle((0, 130, 160, 160), fill=(80, 140, 60))
    pen.rectangle((60, 80, 140, 135), fill=wall)
    pen.polygon([(55, 80), (145, 80), (100, 55)], fill=roof)
    pen.rectangle((30, 50, 60, 135), fill=wall)
    pen.polygon([(25, 50), (65, 50), (45, 5)], fill=roof)
    pen.rectangle((39, 100, 51, 135), fill=(80, 50, 30))
    for x in (72, 94, 116):
        pen.rectangle((x, 95, x + 10, 118), fill=(60, 70, 110))
    return picture


def _pump() -> Any:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (160, 160), (150, 190, 230))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 130, 160, 160), fill=(120, 120, 120))
    pen.rectangle((50, 25, 105, 140), fill=(200, 30, 30))
    pen.rectangle((58, 35, 97, 62), fill=(235, 235, 235))
    pen.rectangle((64, 42, 91, 55), fill=(20, 20, 20))
    pen.line([(105, 60), (125, 60), (128, 110), (115, 118)], fill=(10, 10, 10), width=5)
    pen.rectangle((58, 80, 97, 84), fill=(255, 255, 255))
    return picture
