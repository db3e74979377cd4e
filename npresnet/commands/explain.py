"""`npresnet explain`: pictures of what a class rests on."""
from __future__ import annotations

import argparse
import io
import itertools
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError, WeightsError, printable
from .common import (
    DONE,
    FAILED,
    UsageError,
    add_model,
    identity,
    model_options,
    positive,
    print_json,
    refusal,
    write_output,
)
from .pictures import Picture, add_pictures, find_pictures, report

if TYPE_CHECKING:
    from PIL import Image

    from ..labels import Label
    from ..model import ResNetV2

HELP = "show which places of a picture speak for a class"
EXAMPLES = ("npresnet explain photo.jpg --top 2 --output maps/",
            "npresnet explain photo.jpg --classes tench --method occlusion --output tench.png")

METHODS = ("cam", "occlusion")
LONGEST = 1600                                                    # pixels of a map over a picture


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_pictures(parser)
    add_model(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--classes", nargs="+", metavar="CLASS",
                       help="explain these: numbers, WordNet ids or names. They stand behind the "
                            "pictures")
    which.add_argument("-k", "--top", type=positive, metavar="K",
                       help="explain each picture's first K classes (default: 1)")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0],
                        help="cam: what each place of the last feature map adds to the class, "
                             "exactly; occlusion: what the class's probability loses when a place "
                             "is covered, which is slower (default: %(default)s)")
    parser.add_argument("-o", "--output", default="", metavar="WHERE",
                        help="a folder for the maps, made if there is none (default: here), or for "
                             "a single map a file that ends in .png. They are drawn at most "
                             f"{LONGEST} pixels long")
    parser.add_argument("--crop", action="store_true",
                        help="show only the part of the picture that the network saw")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace files that are there; the pictures themselves never are")


def run(args: argparse.Namespace) -> int:
    """Write the maps of each picture, as they are done; exit code 1 if one could not be read or
    written."""
    from ..labels import find_class, model_labels
    from ..predict import Answer, Predictor

    pictures = find_pictures(args)
    model = Predictor(**model_options(args, len(pictures)), output="logits").model
    labels = model_labels(model)
    chosen = list(dict.fromkeys(find_class(labels, text).index for text in args.classes or ()))
    files = [picture.name for picture in pictures]
    names = Names(args, files, len(chosen) or min(args.top or 1, len(labels)))

    def answer(picture: Picture) -> Answer:
        maps: list[dict] = []
        try:
            for found, shown in explain(args, model, picture, chosen):
                write(names, picture.name, labels[found["index"]], found, shown)
                maps.append(found)
            return Answer(picture, maps, None)
        except ImageError as reason:
            return Answer(picture, maps, str(reason))
        except MemoryError:
            return Answer(picture, maps, f"{printable(picture.name)}: needs more memory than there "
                                         "is; make it smaller")

    rows: list[dict] = []
    for file, (_, maps, error) in report(args, pictures, map(answer, pictures)):
        rows.append({"file": file, "maps": maps} | ({} if error is None else {"error": error}))
        if not args.json:
            for found in maps:
                print(f"{printable(found['png'])}: {found['label']}, "
                      f"{100 * found['probability']:.1f} %", flush=True)
    if args.json:
        print_json(rows)
    return FAILED if any("error" in row for row in rows) else DONE


def explain(args: argparse.Namespace, model: ResNetV2, given: Picture,
            chosen: list[int]) -> Iterator[tuple[dict, Image.Image]]:
    """What there is to say of a class, and its map over the picture, for each of the classes.

    chosen: numbers of classes, or none for the first ones. Raises ImageError, which names the file.
    """
    from ..data import create_transform, resolve_model_data_config
    from ..explain import class_activation_map, occlusion, overlay
    from ..images import load_image
    from ..ops import softmax

    transform = create_transform(**resolve_model_data_config(model))
    photo, file = load_image(given.source), printable(given.name)
    try:
        x = transform(photo)[None]                                # (1, C, H, W)
    except ImageError as reason:                                  # the transform knows no file
        raise ImageError(f"{file}: {reason}") from None
    logits = model(x)                                             # (1, all classes)
    classes = chosen or [int(k) for k in np.argsort(-logits[0], kind="stable")[:args.top or 1]]
    maps = (class_activation_map if args.method == "cam" else occlusion)(model, x, classes)[0]
    if not np.isfinite(maps).all():
        raise WeightsError(f"{printable(args.weights or args.model)}: the weights are finite, but "
                           f"what they make of {file} is not")
    seen = transform.seen(photo)
    shown = transform.crop(photo) if args.crop else photo
    shown.thumbnail((LONGEST, LONGEST))
    for k, heat in zip(classes, maps):                            # (P, Q)
        low, high = float(heat.min()), float(heat.max())
        limits = (max(low, 0.0) if high > 0 else low), high       # what speaks against it is dark
        picture = overlay(shown, heat, transform=None if args.crop else transform, limits=limits)
        yield dict(index=k, probability=float(softmax(logits)[0, k]), method=args.method,
                   map=heat.tolist(), seen=seen), picture


# --- files ----------------------------------------------------------------------------------------


def write(names: Names, file: str, label: Label, found: dict, picture: Image.Image) -> None:
    """Write a class's map of `file`, and add its name and the class's to `found`.

    Raises ImageError if it can't be written.
    """
    path = names.choose(file, label)
    data = io.BytesIO()
    picture.save(data, "PNG")
    write_output(path, data.getvalue())
    found |= dict(wnid=label.wnid, label=label.name, png=path)


class Names:
    """Where maps are written: no two of a run have the same name, and none that of a picture.

    count: how many maps each of `files` gets. Raises UsageError if they can't go to --output.
    """

    def __init__(self, args: argparse.Namespace, files: list[str], count: int):
        self.args, self.taken = args, set[str]()
        self.pictures = {identity(file) for file in files}
        self.single = args.output.lower().endswith(".png") and not os.path.isdir(args.output)
        if self.single and len(files) * count > 1:
            raise UsageError(f"--output {printable(args.output)} is one file, for "
                             f"{len(files)} pictures with {count} classes each; give a folder")
        folder = os.path.dirname(args.output) if self.single else args.output
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {printable(args.output)}: {error.strerror}") from None

    def choose(self, file: str, label: Label) -> str:
        """The path for a class's map of `file`. Raises ImageError if it mustn't be written."""
        path: str = self.args.output
        if not self.single:
            stem = os.path.splitext(os.path.basename(file))[0][:100]
            words = re.sub(r"\W+", "-", label.name.split(",")[0].lower()).strip("-")
            end = f"{self.args.method}-{label.index}-{words}.png"
            tries = (f"{stem}-{number}-{end}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([f"{stem}-{end}"], tries)
                        if name.casefold() not in self.taken)
            self.taken.add(name.casefold())
            path = os.path.join(self.args.output, name)
        why_not = refusal(path, self.pictures, self.args.overwrite)
        if why_not:
            raise ImageError(why_not)
        return path
