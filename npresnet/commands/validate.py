"""`npresnet validate`: how often a model is right on a folder of pictures sorted by class."""
from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import printable
from .common import DONE, FAILED, UsageError, add_model, model_options, positive, print_json, say
from .pictures import add_reading, pictures_in, reading_options, report

if TYPE_CHECKING:
    from ..labels import Label

HELP = "measure a model's accuracy on a folder of pictures sorted by class"
EXAMPLES = ("npresnet validate imagenette/val",
            "npresnet validate --model resnetv2_50.a1h_in1k --test-size imagenet/val")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="FOLDER",
                        help="a folder with one folder a class: named by WordNet id (n01440764, "
                             "…), or as many as the model has classes, in their order")
    add_model(parser)
    parser.add_argument("--worst", type=positive, default=5, metavar="N",
                        help="list so many classes, the worst first (default: %(default)s)")
    add_reading(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; exit code 1 if a picture could not be read."""
    from ..instruments.accuracy import Accuracy
    from ..labels import model_labels
    from ..predict import Predictor

    folders = class_folders(args.folder)
    inside = {folder: pictures_in(args, str(folder)) for folder in folders}
    count = sum(map(len, inside.values()))
    if not count:
        raise UsageError(f"no pictures in the folders of {printable(args.folder)}")
    predictor = Predictor(**model_options(args, count), output="probabilities",
                          **reading_options(args))
    model = predictor.model
    known = match_classes(args, folders, model_labels(model))
    labels = {picture: known[folder] for folder, pictures in inside.items() if folder in known
              for picture in pictures}
    name = args.model.removeprefix("timm/")
    if model.pretrained_cfg.get("hf_hub_id"):
        name = f"{model.variant.name}.{model.pretrained_cfg['tag']}"
    if args.weights:
        name = f"{model.variant.name} with {printable(args.weights)}"
    accuracy = Accuracy(name, predictor.transform.size[0], model_labels(model), args.worst)
    pictures, failed = list(labels), 0
    answers = predictor.stream((each.source for each in pictures), batch_size=args.batch_size)
    for picture, (_, answer) in zip(pictures, report(args, pictures, answers)):
        if answer.error is None:
            accuracy.add(labels[picture], answer.value)
        failed += answer.error is not None
    if args.json:
        print_json(accuracy.as_dict() | dict(failed=failed))
    else:
        print(accuracy)
    return FAILED if failed else DONE


def class_folders(name: str) -> list[Path]:
    """The folders in folder `name`, sorted: numbers as numbers. Raises UsageError if there are
    none."""
    if not os.path.isdir(name):
        raise UsageError(f"{printable(name)}: is no folder; validate wants one with a folder for "
                         "each class")
    folders = [path for path in Path(name).iterdir() if path.is_dir()]
    if not folders:
        raise UsageError(f"{printable(name)}: has no folders; validate wants one for each class")
    numbers = all(path.name.isdecimal() for path in folders)
    return sorted(folders, key=lambda path: (int(path.name) if numbers else 0, path.name))


def match_classes(args: argparse.Namespace, folders: Sequence[Path],
                  labels: Sequence[Label]) -> dict[Path, int]:
    """Which class each folder is: by WordNet id, or by order if there is one for each class.

    Says which folders are no class of the model. Raises UsageError if none is.
    """
    if not all(re.fullmatch(r"n\d{8}", path.name) for path in folders):
        if len(folders) != len(labels):
            raise UsageError(
                f"{printable(args.folder)}: its {len(folders)} folders aren't all named by WordNet "
                f"id, and are not as many as the model has classes ({len(labels)})")
        return {folder: i for i, folder in enumerate(folders)}
    of_model = {label.wnid: label.index for label in labels}
    known = {path: of_model[path.name] for path in folders if path.name in of_model}
    strange = [path.name for path in folders if path not in known]
    if not known:
        raise UsageError(f"{printable(args.folder)}: none of its folders is a class of "
                         f"{printable(args.model)}")
    if strange:
        say(f"npresnet validate: left out {len(strange)} folders that are no class of "
            f"{printable(args.model)}: {', '.join(strange[:5])}{' …' * (len(strange) > 5)}")
    return known

