"""Results on their way into a file that can't grow: NumPy's .npz, and parquet.

Until the end they lie in a folder beside it, `FILE.part`: a line of JSON a row in `rows.jsonl`, and
each row's arrays at the end of a file for each kind. A run that is killed leaves it there, and
--resume goes on with it. However many rows there are, none is kept in memory.
"""
from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ..errors import printable
from ..weights import write_whole
from .common import UsageError
from .results import Results, Row, said_of, write_all

CHUNK = 1 << 20                                                   # bytes
GROUP = 1024                                                      # rows of a parquet row group


class Spooled(Results):
    """Rows into the spool; at the end, all that is there into `path`."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.spool = path, self.spool_of(path)
        self._rows = self.spool / "rows.jsonl"
        self.shapes: dict[str, tuple[int, ...]] = {}              # of the arrays of a row
        self.whole = 0                                            # rows with arrays
        self.wrote = False
        self.files: dict[str, IO[bytes]] = {}
        self.spool.mkdir(exist_ok=True)
        self._recover()
        self.rows: IO[bytes] = open(self._rows, "ab", buffering=0)  # noqa: SIM115
        if path.exists():                                         # of a run that came to an end
            for row in READERS[path.suffix.lower()](path):
                if row["file"] not in self.done:
                    self.write(row)
                    self.done.add(row["file"])

    @staticmethod
    def spool_of(path: Path) -> Path:
        """The folder in which rows for `path` wait."""
        return path.with_name(f"{path.name}.part")

    def write(self, row: Row) -> None:
        arrays = {name: value for name, value in row.items() if isinstance(value, np.ndarray)}
        plain: Row = {name: value for name, value in row.items() if name not in arrays}
        if arrays and not self.shapes:
            self.shapes = {name: value.shape for name, value in arrays.items()}
        if arrays:
            plain["shapes"] = self.shapes if not self.whole else {}
        with said_of(self.path):
            self._write(plain, arrays)

    def _write(self, plain: Row, arrays: dict[str, np.ndarray]) -> None:
        for name, value in arrays.items():
            if value.shape != self.shapes.get(name):
                raise UsageError(f"{printable(self.path)}: its results are of another model or "
                                 f"picture size: {name} has shape {value.shape}, not "
                                 f"{self.shapes.get(name)}")
            file = self._array(name)
            file.seek(self.whole * _bytes(self.shapes[name]))
            write_all(file, np.ascontiguousarray(value, "<f4").tobytes())
        start = self.rows.seek(0, os.SEEK_END)
        try:
            write_all(self.rows, json.dumps(plain).encode() + b"\n")       # makes the row count
        except BaseException:
            self.rows.truncate(start)
            raise
        self.wrote = True
        self.whole += bool(arrays)

    def close(self) -> None:
        """Make the file. If that fails, the spool stays."""
        if self.wrote or not self.stopped:
            with said_of(self.path):
                WRITERS[self.path.suffix.lower()](self)
        for file in (self.rows, *self.files.values()):
            file.close()
        shutil.rmtree(self.spool)

    def each(self) -> Iterator[Row]:
        """The rows again, in order."""
        at = 0
        for row in self.plain():
            if row.pop("shapes", None) is not None:
                for name, shape in self.shapes.items():
                    file = self._array(name)
                    file.seek(at * _bytes(shape))
                    row[name] = np.frombuffer(file.read(_bytes(shape)), "<f4").reshape(shape)
                at += 1
            yield row

    def plain(self) -> Iterator[Row]:
        """The rows without their arrays; "shapes" tells that a row has some."""
        with open(self._rows, "rb") as lines:
            yield from map(json.loads, lines)

    def _array(self, name: str) -> IO[bytes]:
        """The spool's file of one kind of arrays."""
        if name not in self.files:
            path = self.spool / f"{name}.f32"
            path.touch()
            self.files[name] = open(path, "r+b", buffering=0)  # noqa: SIM115
        return self.files[name]

    def _recover(self) -> None:
        """Take up what an earlier run left: whole rows that have results."""
        self._rows.touch()
        kept = []
        for line in self._rows.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
                has = "shapes" in row
                if has and row["shapes"]:
                    self.shapes = {name: tuple(shape) for name, shape in row["shapes"].items()}
            except (ValueError, TypeError, AttributeError):       # the last one, cut short
                break
            self.whole += has
            if "error" not in row:                                # else it is tried again
                kept.append(line + b"\n")
                self.done.add(row["file"])
        write_whole(self._rows, b"".join(kept))


def _bytes(shape: tuple[int, ...]) -> int:
    return 4 * math.prod(shape)


# --- .npz -----------------------------------------------------------------------------------------


def write_npz(rows: Spooled) -> None:
    """The arrays of the spool, with their files' names, as FILE.npz."""
    names = [row["file"] for row in rows.plain() if "shapes" in row]
    temporary = rows.spool / "whole.npz"
    with zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("files.npy", "w") as member:
            npy.write_array(member, np.array(names, np.str_), allow_pickle=False)
        for name, shape in rows.shapes.items():
            header = dict(descr="<f4", fortran_order=False, shape=(rows.whole, *shape))
            source = rows._array(name)
            source.seek(0)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                left = rows.whole * _bytes(shape)
                while left:
                    chunk = source.read(min(CHUNK, left))
                    left -= member.write(chunk)
    os.replace(temporary, rows.path)


def read_npz(path: Path) -> Iterator[Row]:
    """The rows of a file that `write_npz` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("files.npy") as member:
                files = npy.read_array(member, allow_pickle=False).tolist()
            members = [name for name in archive.namelist() if name != "files.npy"]
            opened = {name.removesuffix(".npy"): archive.open(name) for name in members}
            shapes = {}
            for name, member in opened.items():
                npy.read_magic(member)
                shapes[name] = npy.read_array_header_1_0(member)[0][1:]
            for file in files:
                yield {"file": file} | {
                    name: np.frombuffer(member.read(_bytes(shapes[name])), "<f4"
                                        ).reshape(shapes[name])
                    for name, member in opened.items()}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{printable(path)}: is no file that this command wrote "
                         f"({printable(error)}): --resume can't go on with it") from None


# --- .parquet -------------------------------------------------------------------------------------


def write_parquet(rows: Spooled) -> None:
    """The rows of the spool as FILE.parquet: columns "file", "error" and the results."""
    import pyarrow as pa
    from pyarrow import parquet

    prediction = pa.struct([("index", pa.int32()), ("wnid", pa.string()), ("label", pa.string()),
                            ("probability", pa.float32())])
    arrays = [(name, pa.list_(pa.float32(), math.prod(shape)))
              for name, shape in rows.shapes.items()]
    results = arrays or [("predictions", pa.list_(prediction))]
    schema = pa.schema([("file", pa.string()), ("error", pa.string()), *results])
    temporary = rows.spool / "whole.parquet"
    with parquet.ParquetWriter(temporary, schema) as writer:
        group: list[Row] = []

        def flush() -> None:
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group.clear()
        for row in rows.each():
            row["file"] = row["file"].encode(errors="backslashreplace").decode()
            group.append({name: value.ravel() if isinstance(value, np.ndarray) else value
                          for name, value in row.items()})
            if len(group) == GROUP:
                flush()
        flush()
    os.replace(temporary, rows.path)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a file that `write_parquet` wrote, without those that failed."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP):
                for row in batch.to_pylist():
                    if row.pop("error") is None:
                        yield {name: np.array(value, np.float32)
                               if isinstance(value, list) and name != "predictions" else value
                               for name, value in row.items()}
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UsageError(f"{printable(path)}: is no file that this command wrote "
                         f"({printable(error)}): --resume can't go on with it") from None


WRITERS: dict[str, Callable[[Spooled], None]] = {".npz": write_npz, ".parquet": write_parquet}
READERS: dict[str, Callable[[Path], Iterator[Any]]] = {".npz": read_npz, ".parquet": read_parquet}
