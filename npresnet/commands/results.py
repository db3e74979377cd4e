"""Results of pictures as they come: on stdout, or in files of text that grow record by record."""
from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import NpresnetError, printable
from .common import UsageError

Row = dict[str, Any]                    # "file", and "error" or results: plain values, arrays


class Results(ABC):
    """Takes rows. Used in a `with` statement, at whose end what was written is complete, however
    the block ended.

    done: files that have results from an earlier run.
    """

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.stopped = False                                      # by an error, or an interrupt

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:  # noqa: B027  # some have nothing to complete
        """Nothing more comes."""

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stopped = kind is not None
        self.close()


class Text(Results):
    """Text on stdout."""

    def __init__(self, show: Any):
        super().__init__()
        self.show = show

    def write(self, row: Row) -> None:
        if "error" not in row:
            print(self.show(row), flush=True)


class JsonArray(Results):
    """A JSON array on stdout, a line a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.before = "[\n"

    def write(self, row: Row) -> None:
        print(f"{self.before}{as_json(row)}", end="", flush=True)
        self.before = ",\n"

    def close(self) -> None:
        if self.before != "[\n":
            print("\n]", flush=True)
        elif not self.stopped:
            print("[]", flush=True)


class Lines(Results):
    """A file of text that grows by whole records. Of an earlier run it keeps the rows that have
    results; what failed is tried again."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        kept = self._kept() if path.exists() else ""
        if path.exists() and path.read_bytes() != kept.encode(errors="surrogateescape"):
            from ..weights import write_whole

            write_whole(path, kept.encode(errors="surrogateescape"))
        self.file: IO[bytes] = open(path, "ab", 0)  # noqa: SIM115  # see close

    def _kept(self) -> str:
        """What stays of the file; fills `done`."""
        return ""

    def _append(self, text: str) -> None:
        """A record, or nothing if it doesn't fit on the disk."""
        data, start = text.encode(errors="surrogateescape"), self.file.seek(0, os.SEEK_END)
        try:
            with said_of(self.path):
                write_all(self.file, data)
        except BaseException:                                     # a full disk, an interrupt
            self.file.truncate(start)
            raise

    def close(self) -> None:
        self.file.close()


class JsonLines(Lines):
    """A JSON object a line."""

    def _kept(self) -> str:
        kept = []
        text = self.path.read_bytes().decode(errors="surrogateescape")
        for number, line in enumerate(text.split("\n"), 1):
            try:
                row = json.loads(line) if line else {}
                if row and "error" not in row:
                    self.done.add(row["file"])
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                if number <= text.count("\n"):                    # else the last one, cut short
                    raise UsageError(f"{printable(self.path)}: line {number} is no result: "
                                     "--resume can't go on with it") from None
        return "".join(kept)

    def write(self, row: Row) -> None:
        self._append(as_json(row) + "\n")


class Csv(Lines):
    """A line of comma-separated values a picture, below one of names."""

    def __init__(self, path: Path):
        self.names: list[str] = []
        self.early: list[dict[str, str]] = []                     # came before columns were known
        super().__init__(path)

    def _kept(self) -> str:
        text = self.path.read_bytes().decode(errors="surrogateescape")
        whole = io.StringIO(text[:text.rfind("\n") + 1], newline="")
        names, *records = [*csv.reader(whole)] or [["file", "error"]]
        if names[:2] != ["file", "error"]:
            raise UsageError(f"{printable(self.path)}: its first line isn't this command's: "
                             "--resume can't go on with it")
        kept = [each for each in records if len(each) == len(names) and not each[1]]
        if not kept:                                              # perhaps without all columns
            return ""
        self.names = names
        self.done.update(each[0] for each in kept)
        return "".join(map(csv_line, (names, *kept)))

    def write(self, row: Row) -> None:
        cells = {"file": row["file"], "error": row.get("error", "")} | flat(row)
        if "error" in row and not self.names:
            self.early.append(cells)
            return
        self._begin(list(cells))
        self._append(csv_line([cells.get(name, "") for name in self.names]))

    def _begin(self, names: list[str]) -> None:
        """Write the names, if that is still to be done, and what came before they were known."""
        if not self.names:
            self.names = names
            self._append(csv_line(names))
        for cells in self.early:
            self._append(csv_line([cells.get(name, "") for name in self.names]))
        self.early = []

    def close(self) -> None:
        if self.early:
            self._begin(["file", "error"])
        super().close()


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Let errors of the system name `path`, and say what to do: an NpresnetError."""
    try:
        yield
    except OSError as error:
        raise NpresnetError(f"{printable(path)}: can't be written ({error.strerror}); what is "
                            "there is whole, and --resume goes on with it") from None


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write `data` to an unbuffered file, which may take it in parts. Raises OSError."""
    while data:
        data = data[file.write(data):]


def csv_line(cells: Iterable[str]) -> str:
    """One record, ended by a newline."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def flat(row: Row) -> dict[str, str]:
    """A row's results as cells: probabilities as "label_1", "probability_1", …; the numbers of an
    embedding as "embedding_0", …"""
    cells: dict[str, str] = {}
    for rank, prediction in enumerate(row.get("predictions", ()), 1):
        cells |= {f"{name}_{rank}": format(value, ".9g") if isinstance(value, float) else
                  str("" if value is None else value) for name, value in prediction.items()}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            cells |= {f"{name}_{i}": format(number, ".9g")
                      for i, number in enumerate(value.ravel().tolist())}
    return cells


def as_json(row: Row) -> str:
    """A row on one line."""
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value
             for name, value in row.items()}
    return json.dumps(plain, allow_nan=False)
