"""Plants a fault, one at a time, and looks whether the tests notice: how good they are.

    python tests/plant_faults.py                          all faults of tests/faults/*.toml
    python tests/plant_faults.py --only "relu: NaN" …     these, by name or by a part of it
    python tests/plant_faults.py --list                   names, and whether their texts still stand
    python tests/plant_faults.py --json FILE              keep what was found; run again to go on

A fault is a small edit that changes what npresnet does: in `file` the text `old`, which must stand
there once, becomes `new`. `tests` are the arguments for pytest under which a maintainer would
expect it to be noticed. `pending = true` marks one whose test is still to be written: it is
planted all the same, and doesn't count.

The checkout is never touched. Its tracked files are copied into a temporary folder, and there all
the tests that are named run once without a fault, so that a failure afterwards means something.
Each fault then gets a copy of its own, compiled code included.
Exit code 0: at least 19 of 20 were caught; 1: fewer, or a fault's text no longer stands where it
stood; 2: the tests fail without a fault, or wrong usage.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLES = Path(__file__).resolve().parent / "faults"
TEST_TIMEOUT, RUN_TIMEOUT = 150, 1800                             # seconds: a test, a pytest
ENOUGH = 19 / 20
PYTEST = [sys.executable, "-m", "pytest", "-q", f"--timeout={TEST_TIMEOUT}", "-p",
          "no:cacheprovider"]
WARM_UP = """
import numpy, npresnet
npresnet.create_model("demo", backend="numba")(numpy.zeros((1, 3, 64, 64), "f"))
print(npresnet.__file__)
"""
CAUGHT, MISSED, BROKEN = "caught", "NOT CAUGHT", "does not apply"


@dataclass(frozen=True)
class Fault:
    """One edit: see above."""
    name: str
    file: str
    old: str
    new: str
    tests: str
    pending: bool = False

    def problem(self, folder: Path = ROOT) -> str:
        """Why it can't be planted in the checkout, or in a copy; nothing if it can."""
        path = folder / self.file
        if not path.is_file():
            return "there is no such file"
        count = path.read_text("utf-8").count(self.old)
        if count != 1:
            return f"its text stands there {count} times"
        return "it changes nothing" if self.old == self.new else ""

    def plant(self, folder: Path) -> None:
        """Make the edit in a copy of the checkout."""
        path = folder / self.file
        path.write_text(path.read_text("utf-8").replace(self.old, self.new), "utf-8")


# --- faults ---------------------------------------------------------------------------------------


def read_faults() -> list[Fault]:
    """All faults, in the order of the files and of their lines."""
    faults = []
    for table in sorted(TABLES.glob("*.toml")):
        for file, entries in tomllib.loads(table.read_text("utf-8")).items():
            faults += [Fault(file=file, **entry) for entry in entries]
    twice = [name for name, count in Counter(fault.name for fault in faults).items() if count > 1]
    if twice:
        raise SystemExit(f"two faults have the same name: {', '.join(twice)}")
    return faults


def choose(faults: list[Fault], only: list[str] | None) -> list[Fault]:
    """Those whose name is among `only`, or contains one of them; None: all."""
    if only is None:
        return faults
    chosen = []
    for text in only:
        found = ([fault for fault in faults if fault.name == text]
                 or [fault for fault in faults if text in fault.name])
        if not found:
            raise SystemExit(f"no fault is called {text!r}: see --list")
        chosen += found
    return list(dict.fromkeys(chosen))


# --- copies ---------------------------------------------------------------------------------------


def tracked() -> list[str]:
    """The checkout's files that git knows, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def digest(names: list[str]) -> str:
    """Changes with any of these files, but for the tables of faults."""
    total = hashlib.sha256()
    for name in sorted(names):
        if not (ROOT / name).is_relative_to(TABLES):
            total.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return total.hexdigest()


def copy_to(folder: Path, names: list[str]) -> None:
    """The checkout's files, with their dates, and the fast engine's compiled code."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    rc, said = run([sys.executable, "-c", WARM_UP], folder)
    if rc or not Path(said.splitlines()[-1]).is_relative_to(folder):
        raise SystemExit(f"npresnet doesn't run in a copy:\n{said}")


# --- running tests --------------------------------------------------------------------------------


def run(command: list[str], folder: Path) -> tuple[int, str]:
    """(exit code, what it said) of a command in `folder`, started with its own processes alone.

    None of them outlives it.
    """
    env = {name: value for name, value in os.environ.items()
           if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH", "NPRESNET_BACKEND")}
    env["XDG_CACHE_HOME"] = str(folder / ".cache")                # compiled code goes with a copy
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                               start_new_session=True)
    try:
        said, _ = process.communicate(timeout=RUN_TIMEOUT)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        return -signal.SIGALRM, "no end"
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):                            # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_failure(said: str) -> str:
    """Name of the first test that failed, from pytest's summary."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    return found[1] if found else (said.strip().splitlines() or ["nothing was said"])[-1][:90]


def grouped(faults: list[Fault]) -> dict[str, list[str]]:
    """The tests that faults name: options (-k, -m) → paths to run with them."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for fault in faults:
        words = shlex.split(fault.tests)
        paths = [word for word in words if word.startswith("tests")]
        options = [word for word in words if word not in paths]
        groups[shlex.join(options)] |= dict.fromkeys(paths)
    return {options: list(paths) for options, paths in groups.items()}


def without_parts(paths: list[str], of: list[str]) -> list[str]:
    """Paths, but for tests of files that are among `of`."""
    return sorted(path for path in paths if "::" not in path or path.partition("::")[0] not in of)


def check_clean(faults: list[Fault], folder: Path, found: dict) -> None:
    """Run the named tests without a fault, but for those known to pass. Exits if one fails."""
    for options, paths in grouped(faults).items():
        known = found["clean"].setdefault(options, [])
        left = without_parts([path for path in paths if path not in known], [*paths, *known])
        if not left:
            continue
        tell(f"without a fault: {len(left)} files or tests {options}")
        start = time.perf_counter()
        rc, said = run([*PYTEST, *shlex.split(options), *left], folder)
        if rc:
            tell(f"{said[-3000:]}\nthese tests fail without a fault (exit code {rc})")
            raise SystemExit(2)
        known += left
        tell(f"    all pass, in {time.perf_counter() - start:.0f} s")


def try_out(fault: Fault, clean: Path, folder: Path) -> dict:
    """Plant a fault in a copy of `clean` and run the tests that should notice."""
    start = time.perf_counter()
    if problem := fault.problem(clean):
        return dict(verdict=BROKEN, by=problem, seconds=0.0)
    shutil.copytree(clean, folder)
    try:
        fault.plant(folder)
        rc, said = run([*PYTEST, "-x", *shlex.split(fault.tests)], folder)
    finally:
        shutil.rmtree(folder)
    seconds = round(time.perf_counter() - start, 1)
    if rc in (4, 5):                                              # pytest's own: nothing was run
        return dict(verdict=BROKEN, by=f"no tests: {fault.tests}", seconds=seconds)
    by = first_failure(said) if rc >= 0 else f"ended by signal {-rc}"
    return dict(verdict=CAUGHT, by=by, seconds=seconds) if rc else \
        dict(verdict=MISSED, by=f"all pass: {fault.tests}", seconds=seconds)


# --- what was found -------------------------------------------------------------------------------


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def read_found(file: Path | None, tree: str) -> dict:
    """What an earlier run has found for the same files."""
    if file and file.is_file():
        found = json.loads(file.read_text("utf-8"))
        if found["tree"] == tree:
            return found
        tell(f"{file} is of other files: from the beginning")
    return dict(tree=tree, clean={}, faults={})


def write_found(file: Path | None, found: dict) -> None:
    """Whole or not at all."""
    if file:
        new = file.with_name(f"{file.name}.new")
        new.write_text(json.dumps(found, indent=1, ensure_ascii=False), "utf-8")
        new.replace(file)


def summarise(faults: list[Fault], results: dict[str, dict]) -> int:
    """Print a table; returns the exit code."""
    width = max(len(fault.name) for fault in faults)
    for fault in faults:
        got = results[fault.name]
        mark = " (pending)" if fault.pending and got["verdict"] != CAUGHT else ""
        print(f"{fault.name:{width}}  {got['verdict']}{mark}  {got['by']}  {got['seconds']:.0f} s")
    counted = [results[fault.name]["verdict"] for fault in faults if not fault.pending]
    pending = [results[fault.name]["verdict"] for fault in faults if fault.pending]
    caught = counted.count(CAUGHT)
    print(f"{caught} of {len(counted)} faults were caught"
          + (f"; of {len(pending)} pending ones {pending.count(CAUGHT)}" if pending else ""))
    broken = BROKEN in counted + pending
    return 1 if broken or caught < ENOUGH * len(counted) else 0


def main(argv: list[str] | None = None) -> int:
    """The script: see above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults, or parts of their names")
    parser.add_argument("--list", action="store_true", help="name the faults, plant none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was found, and go on")
    args = parser.parse_args(argv)
    faults = choose(read_faults(), args.only)
    if args.list:
        for fault in faults:
            said = fault.problem() or ("pending" if fault.pending else "")
            print(f"{fault.file}: {fault.name}" + (f"  [{said}]" if said else ""))
        return 1 if any(fault.problem() for fault in faults) else 0
    names = tracked()
    found = read_found(args.json, digest(names))
    results = {}
    for fault in faults:
        kept = found["faults"].get(fault.name, {})
        if kept.get("fault") == asdict(fault) and kept["verdict"] != BROKEN:
            results[fault.name] = kept
    with tempfile.TemporaryDirectory(prefix="npresnet-faults-") as folder:
        left = [fault for fault in faults if fault.name not in results]
        if left:
            copy_to(clean := Path(folder, "clean"), names)
            check_clean([fault for fault in left if not fault.problem(clean)], clean, found)
            write_found(args.json, found)
        for number, fault in enumerate(left, 1):
            got = try_out(fault, clean, Path(folder, "fault"))
            tell(f"[{number}/{len(left)}] {fault.name}: {got['verdict']}, {got['by']} "
                 f"({got['seconds']:.0f} s)")
            results[fault.name] = found["faults"][fault.name] = got | dict(fault=asdict(fault))
            write_found(args.json, found)
    return summarise(faults, results)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))       # so that copies are deleted, too
    sys.exit(main())
