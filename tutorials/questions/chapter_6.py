"""The questions of chapter 6, residuals and pre-activation."""
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from course import Question, close_to, draw_pictures, one_of, shape_differs

import npresnet
from npresnet import ops
from npresnet.network import Network
from npresnet.variants import VARIANTS, StagePlan

# --- 6g: the demo without one of its blocks -------------------------------------------------------


def small_picture() -> np.ndarray:
    """A picture that the functions of 6g are tried on: (1, 3, 64, 64)."""
    pixels = np.asarray(draw_pictures(64)["church"], np.float32)      # (H, W, 3)
    return (pixels.transpose(2, 0, 1)[None] / 255 - np.float32(0.5)) / np.float32(0.5)


class _Without(Network):
    """The network without the block called `dropped`: its output is its input."""
    dropped = ""

    def bottleneck(self, path: str, x: np.ndarray, plan: StagePlan, first: bool) -> np.ndarray:
        return x if path == self.dropped else super().bottleneck(path, x, plan, first)


def damage(x: np.ndarray, relative: bool = True) -> np.ndarray:
    """How far the demo's logits move without each block that has no projection: (12,).

    Root of the mean square, as a share of the spread of the logits unless not `relative`.
    """
    model = npresnet.create_model("demo", backend="numpy")
    logits = model(x)
    moved = []
    for s, depth in enumerate(model.variant.depths):
        for b in range(1, depth):
            network = _Without(model.variant, model.state_dict())
            network.dropped = f"stages.{s}.blocks.{b}"
            moved.append(np.sqrt(((network.forward(x) - logits) ** 2).mean()))
    return np.array(moved) / (logits.std() if relative else 1)


@cache
def _wanted(relative: bool = True) -> np.ndarray:
    return damage(small_picture(), relative)


def _gives(want: Any) -> Any:
    """A test: a function that gives `want()` for the small picture."""
    return lambda answer: close_to(want, 1e-3)(answer(small_picture()))


def _fails(answer: Any) -> bool:
    """A slip: the function can't be called with the small picture."""
    try:
        answer(small_picture())
    except Exception:                   # of any kind: it is the student's code
        return True
    return False


# --- 6h: a small block in the order of 2015 -------------------------------------------------------


def small_block() -> tuple[np.ndarray, dict[str, Any]]:
    """The input (1, 4, 3, 3) and the weights of 6h, as the notebook draws them."""
    rng = np.random.default_rng(61)
    x = rng.standard_normal((1, 4, 3, 3))
    block: dict[str, Any] = {"conv1": rng.standard_normal((2, 4, 1, 1)),
                             "conv2": rng.standard_normal((2, 2, 3, 3)),
                             "conv3": rng.standard_normal((4, 2, 1, 1))}
    for norm, channels in (("norm1", 2), ("norm2", 2), ("norm3", 4)):
        block[norm] = (np.ones(channels), rng.standard_normal(channels), np.zeros(channels),
                       np.full(channels, 4.0))
    return x, block


def post_activation(last: str = "after the sum") -> np.ndarray:
    """Its output (1, 4, 3, 3). last: where the third ReLU stands, "both", or "nowhere"."""
    x, block = small_block()
    y = ops.relu(ops.batch_norm(ops.conv2d(x, block["conv1"]), *block["norm1"]))
    y = ops.relu(ops.batch_norm(ops.conv2d(y, block["conv2"], padding=1), *block["norm2"]))
    y = ops.batch_norm(ops.conv2d(y, block["conv3"]), *block["norm3"])
    if last in ("before the sum", "both"):
        y = ops.relu(y)
    return ops.relu(y + x) if last in ("after the sum", "both") else y + x


def _is_output(last: str) -> Any:
    """A test: the output with the third ReLU there, with or without the axis of pictures."""
    def test(answer: Any) -> bool:
        want = post_activation(last)
        return close_to(lambda: want if np.ndim(answer) == 4 else want[0], 1e-5)(answer)
    return test


def _identities(name: str) -> int:
    """How many blocks of a variant add their input as it is."""
    return sum(depth - 1 for depth in VARIANTS[name].depths)


_FIRST = "stages.0.blocks.0"

QUESTIONS: dict[str, Question] = {
    "6a": Question(
        close_to(lambda: (1.1 * 0.9) ** 15, 5e-3),
        "Each block gives x + a·x = (1 + a)·x, and factors are multiplied.",
        ((lambda a: abs(a) < 1e-20, "That is the chain without shortcuts: there is an x to add."),
         (close_to(lambda: 1.0), "Multiply (1 + a)·(1 − a) out. Something is left."),
         (close_to(lambda: 0.99), "That is one pair of blocks. There are fifteen pairs."),
         (close_to(lambda: 1.1 ** 30, 0.01), "Half of the factors lie below 1."))),
    "6b": Question(
        close_to(lambda: _identities("resnetv2_50")),
        "Count all blocks, then take away those that have a projection.",
        ((close_to(lambda: 16), "Those are all. How many of them have a projection?"),
         (close_to(lambda: 4), "Those have a projection. The question is about the others."),
         (close_to(lambda: 13), "Stage 0 has a projection, too: its channels grow."))),
    "6c": Question(
        one_of("downsample.conv", "downsample", f"{_FIRST}.downsample.conv",
               f"{_FIRST}.downsample"),
        "Which is the first layer that reads the wrong array?",
        ((one_of(_FIRST), "The sum is wrong. Its terms are layers, too: which one was wrong?"),
         (lambda a: a.startswith("stages.0.blocks.0.") or a[:4] in ("conv", "norm"),
          "Does that layer stand on the shortcut, or on the branch?"),
         (lambda a: a.endswith("downsample.conv"), "That one isn't the first of its kind."))),
    "6d": Question(
        one_of("stages.0.blocks.1"),
        "Which is the first block with a shortcut of this kind? Where does it come in?",
        ((lambda a: a.startswith(_FIRST),
          "How does that block's shortcut begin? This mistake leaves it alone."),
         (lambda a: a.startswith("stages.0.blocks.1."),
          "The branch reads what it always read. Where do branch and shortcut meet?"),
         (lambda a: a.startswith(("stages.0.blocks.2", "stages.1", "stages.2", "stages.3")),
          "An earlier layer is wrong already."))),
    "6e": Question(
        close_to(lambda: np.hypot(3.0, 4.0), 1e-2),
        "The squares of the spreads add up. Think of a right triangle.",
        ((close_to(lambda: 7), "That would be so if they always rose and fell together."),
         (close_to(lambda: 25), "That is the variance of the sum: the square of its spread."),
         (close_to(lambda: 1), "That would be so if one fell whenever the other rose."))),
    "6f": Question(
        close_to(lambda: [2.0, 0.0, 5.0]),
        "After each sum: is it negative? Then the next block begins with 0.",
        ((shape_differs(lambda: np.zeros(3)), "Three numbers are wanted: one after each block."),
         (close_to(lambda: [2.0, -1.0, 4.0]), "That is v2's order. What follows each sum in v1?"),
         (close_to(lambda: [2.0, 0.0, 4.0]),
          "The next block gets what the ReLU gave, not what the sum was before."))),
    "6g": Question(
        _gives(_wanted),
        "Subtract the logits, square, take the mean, the root, and divide by the logits' spread. "
        "Run the whole network on x, too: the trace belongs to the photograph.",
        ((lambda a: not callable(a), "A function of x is wanted: it is called with other x."),
         (_fails,
          "Your function fails for another picture. Call damage(x[:, :, :64, :64]) and read the "
          "message. Are all the blocks that you leave out without a projection?"),
         (lambda a: np.shape(a(small_picture())) == (16,),
          "A block with a projection changes the shape: it can't be left out."),
         (lambda a: np.shape(a(small_picture())) != (12,),
          "Twelve numbers are wanted, in forward order."),
         (_gives(lambda: _wanted(False)),
          "That is how far they move. Is that far for these logits?"))),
    "6h": Question(
        _is_output("after the sum"),
        "The order is conv1, norm1, ReLU, conv2, norm2, ReLU, conv3, norm3, sum, ReLU.",
        ((_is_output("nowhere"), "There are negative numbers in it. Which step is missing?"),
         (_is_output("both"),
          "One ReLU too many: look at the drawing between conv3 and the sum."),
         (_is_output("before the sum"), "A ReLU stands on the branch that belongs elsewhere."),
         (lambda a: np.shape(a) not in ((1, 4, 3, 3), (4, 3, 3)),
          "The shape of the input is wanted: the 3×3 convolution has padding 1."))),
}
