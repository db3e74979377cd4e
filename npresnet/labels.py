"""What the numbers of a classifier mean: the 1,000 ImageNet classes, and the demo's ten.

Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge",
arXiv 1409.0575; names from WordNet 3.0.
"""
from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .model import ResNetV2


class Label(NamedTuple):
    """One class.

    index: its number in the classifier. wnid: its WordNet id, None if unknown. name: its lemmas,
    comma-separated.
    """
    index: int  # type: ignore[assignment]  # hides tuple.index
    wnid: str | None
    name: str


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """The 1,000 classes of ImageNet-1k in the order of the classifier's outputs.

    That is the order of their WordNet ids.
    """
    lines = files(__package__).joinpath("imagenet1k.tsv").read_text("utf-8").splitlines()
    return tuple(Label(i, *line.split("\t")) for i, line in enumerate(lines))


def model_labels(model: ResNetV2) -> tuple[Label, ...]:
    """A label for each output of `model`.

    They come from its configuration's `label_names` (WordNet ids), else they are ImageNet's if
    there are 1,000 outputs, else "class 0", "class 1", …
    """
    names = model.pretrained_cfg.get("label_names")
    if names and len(names) == model.num_classes:
        by_wnid = {label.wnid: label.name for label in imagenet_labels()}
        return tuple(Label(i, wnid, by_wnid[wnid]) for i, wnid in enumerate(names))
    if model.num_classes == 1000:
        return imagenet_labels()
    return tuple(Label(i, None, f"class {i}") for i in range(model.num_classes))


def find_class(labels: Sequence[Label], text: str) -> Label:
    """The class that a person means: its number, its WordNet id, or one of its names.

    Capitals don't matter in names, nor whether their words are joined by a blank or by "_".
    Raises ValueError, in one line, if there is no such class, or more than one of that name.
    """
    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    if text.isdecimal():
        if int(text) >= len(labels):
            raise ValueError(f"there is no class {text}: they go from 0 to {len(labels) - 1}")
        return labels[int(text)]
    meant = [label for label in labels if text == label.wnid or plain(text) == plain(label.name)
             or plain(text) in map(plain, label.name.split(","))]
    if len(meant) > 1:
        which = ", ".join(f"{label.index} ({label.wnid})" for label in meant)
        raise ValueError(f"there are several classes {text!r}: {which}; give one's number")
    if not meant:
        names = {plain(name): name.strip() for label in labels for name in label.name.split(",")}
        near = get_close_matches(plain(text), names, n=3)
        hint = f", perhaps {' or '.join(repr(names[name]) for name in near)}" if near else ""
        raise ValueError(f"there is no class {text!r} among the model's {len(labels)}{hint}")
    return meant[0]
