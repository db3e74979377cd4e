"""Pictures for the commands: which files are meant, and how far the work on them is."""
from __future__ import annotations

import argparse
import glob
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import printable
from .common import UsageError, positive, say

if TYPE_CHECKING:
    from ..predict import Answer


class Picture(NamedTuple):
    """name: what the picture is called in results. source: what `load_image` takes."""
    name: str
    source: Any


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """The argument PHOTO…, for `find_pictures`."""
    parser.add_argument("pictures", nargs="+", metavar="PHOTO",
                        help="picture files, folders of them, patterns such as 'holiday/**/*.jpg'; "
                             "- for a picture, or a list of names, on stdin")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options --test-size, --draft and --batch-size, for `reading_options`."""
    parser.add_argument("--test-size", action="store_true",
                        help="the larger picture size that the weights were evaluated at")
    parser.add_argument("--draft", action="store_true",
                        help="let the JPEG decoder make large photographs smaller: quicker, but "
                             "the pixels are no longer exactly timm's")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N",
                        help="pictures that are computed at once (default: %(default)s)")


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """What a `Predictor` takes of `add_reading`'s options."""
    return dict(test_size=args.test_size, draft=args.draft)


def find_pictures(args: argparse.Namespace) -> list[Picture]:
    """The pictures that are meant, in the order in which they are named.

    A folder stands for the pictures in it and below, sorted; those are told by how their names end,
    and what is left out is said. A file named by itself is taken whatever its ending.
    Raises UsageError if there are no files at all.
    """
    found: list[Picture] = []
    empty: list[Picture] = []
    for name in args.pictures:
        if name == "-":
            found += _on_stdin()
        elif os.path.isdir(name):
            inside = pictures_in(args, name)
            found += inside
            if not inside:
                empty.append(Picture(name, name))                 # said later, with the others
        elif glob.has_magic(name) and not os.path.lexists(name):
            files = sorted(path for path in glob.glob(name, recursive=True)
                           if not os.path.isdir(path))
            found += [Picture(file, file) for file in files or [name]]
        else:
            found.append(Picture(name, name))                     # perhaps missing: said later
    if not found:
        from ..images import picture_endings

        where, endings = ", ".join(map(printable, args.pictures)), sorted(picture_endings())
        raise UsageError(f"no pictures in {where} (files that end in {', '.join(endings)})")
    return found + empty


def pictures_in(args: argparse.Namespace, folder: str) -> list[Picture]:
    """The pictures in a folder and below it."""
    from ..images import picture_endings

    endings = picture_endings()
    files = sorted(path for path in Path(folder).rglob("*") if not path.is_dir())
    found = [path for path in files if path.suffix.lower() in endings]
    others = Counter(path.suffix.lower() for path in files if path.suffix.lower() not in endings)
    if found and others:
        kinds = ", ".join(printable(ending or "no ending") for ending, _ in others.most_common(5))
        say(f"npresnet {args.command}: {printable(folder)}: left out {others.total()} "
            f"file{'s' if others.total() > 1 else ''} that no picture's name ends like ({kinds})")
    return [Picture(str(path), str(path)) for path in found]


def _on_stdin() -> list[Picture]:
    """A picture's bytes, or a list of names: one a line, or each ended by a NUL as `find -print0`
    does."""
    data = sys.stdin.buffer.read()
    if not is_list(data):
        return [Picture("-", data)]
    end = b"\0" if b"\0" in data else b"\n"
    names = [os.fsdecode(name.rstrip(b"\r") if end == b"\n" else name)
             for name in data.split(end)]
    return [Picture(name, name) for name in names if name]


def is_list(data: bytes) -> bool:
    """Whether bytes are a list of file names, and not a picture."""
    start = data[:256]
    if start.startswith(b"GIF8") or (start[:1] == b"P" and start[1:3].strip() in b"1234567"
                                     and start[2:3].isspace()):
        return False
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:                          # or a character is cut off there
            return False
        text = start[:error.start].decode()
    return all(c.isprintable() or c in "\n\r\t\0" for c in text)


def report(args: argparse.Namespace, pictures: Sequence[Picture],
           answers: Iterable[Answer]) -> Iterator[tuple[str, Answer]]:
    """(name, answer) of each picture, while a bar shows how far it is; errors are said."""
    from ..images import silence_libtiff

    silence_libtiff()                                             # what it has to say is an error
    with Progress(len(pictures)) as bar:
        for picture, answer in zip(pictures, answers):
            bar.hide()                                            # what is printed next gets a line
            if answer.error is not None:
                say(f"npresnet {args.command}: {answer.error}")
            yield picture.name, answer
            bar.advance()


class Progress:
    """A bar on stderr with rate and time left, at a terminal, once a second has passed."""

    def __init__(self, total: int):
        from tqdm import tqdm

        hidden = None if total > 1 else True                      # None: shown at a terminal alone
        self.bar = tqdm(total=total, unit=" pictures", delay=1, disable=hidden, leave=False,
                        dynamic_ncols=True)
        self.shown = False
        self.timer = threading.Timer(1, self._show)
        self.timer.daemon = True

    def __enter__(self) -> Progress:
        if not self.bar.disable:
            self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        self.hide()
        self.bar.close()

    def _show(self) -> None:
        """Show it although no picture is done yet: the first batch may take its time."""
        self.shown = True
        self.bar.refresh()

    def hide(self) -> None:
        """Take it away while something else is printed."""
        if self.shown:
            self.bar.clear()

    def advance(self) -> None:
        """One more is done. The bar is back on its line."""
        if self.shown:
            self.bar.n += 1
            self.bar.refresh()
        else:
            self.bar.update()
