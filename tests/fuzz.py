"""Damages weights files and pictures in every way, and looks what npresnet makes of them.

    python tests/fuzz.py --seconds 20                     some of both
    python tests/fuzz.py --cases 1000000 --checkpoint F   for hours; called again it goes on
    python tests/fuzz.py --case pictures:123 --keep FILE  one case again, and its file

Each case is either taken, or refused with a WeightsError or an ImageError in one short line. What
else there may be is a defect: another exception, the end of the process, a case that takes longer
than 20 seconds of the processor or 120 by the clock, or more memory than the constant and the
multiple of the file's length that `fuzz_weights.py` and `fuzz_pictures.py` state. A case is named
by its kind and number, and is the same wherever the seed and the versions of the libraries are.

Cases run in batches in child processes, so that nothing they do ends this one.
Exit code 0: no defect; 1: some; 2: wrong usage.
"""
from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]                    # it is a script

BATCH, KEPT = 500, 200                                             # cases; failures
HANGS, WAITS = 20, 120                                             # seconds: computing; in all
RUNAWAY = 4 << 30                                                  # bytes of address space


def kinds(only: str | None) -> dict[str, ModuleType]:
    import fuzz_pictures
    import fuzz_weights
    found = {module.NAME: module for module in (fuzz_weights, fuzz_pictures)}
    return {only: found[only]} if only else found


def case(module: ModuleType, seeds: list, seed: int, number: int) -> bytes:
    """The file of a case."""
    return module.make(seeds, random.Random(f"{seed}:{module.NAME}:{number}"))


# --- in a child process ---------------------------------------------------------------------------


def run_batch(module: ModuleType, seeds: list, seed: int, numbers: range, now: mmap.mmap,
              folder: Path) -> dict:
    """What became of some cases. `now` is told the number that is under way."""
    warnings.simplefilter("ignore")
    for each in (signal.SIGALRM, signal.SIGPROF):                  # end even a loop in C
        signal.signal(each, signal.SIG_DFL)
    found: dict = dict(outcomes=Counter(), failures=[], peak=0)
    path = folder / module.NAME
    for number in numbers:
        now[:8] = number.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        signal.setitimer(signal.ITIMER_REAL, WAITS)
        data, before = b"", memory()
        try:
            data = case(module, seeds, seed, number)
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            before = memory()
            outcome = module.check(path)
        except BaseException as error:
            outcome = "DEFECT"
            where = traceback.extract_tb(error.__traceback__)[-1]
            found["failures"].append(dict(case=f"{module.NAME}:{number}", what=repr(error)[:500],
                                          where=f"{Path(where.filename).name}:{where.lineno}"))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        more, allowed = memory() - before, module.CONSTANT + module.MULTIPLE * len(data)
        found["peak"] = max(found["peak"], more)
        if more > allowed:
            outcome = "DEFECT"
            found["failures"].append(dict(case=f"{module.NAME}:{number}", where="memory",
                                          what=f"{more:,} bytes for a file of {len(data):,}"))
        found["outcomes"][outcome] += 1
    return found


def memory() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_child(module: ModuleType, seeds: list, seed: int, numbers: range, now: mmap.mmap,
             folder: Path) -> dict:
    """`run_batch` in a child process: what it found, or how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            silent = os.open(os.devnull, os.O_WRONLY)              # decoders write to stderr
            os.dup2(silent, 2)
            resource.setrlimit(resource.RLIMIT_AS, (RUNAWAY, RUNAWAY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            said = json.dumps(run_batch(module, seeds, seed, numbers, now, folder))
            with os.fdopen(writing, "w") as pipe:
                pipe.write(said)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if said:
        return json.loads(said)
    number = int.from_bytes(now[:8], "little")
    sign = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    what = {signal.SIGPROF: f"no end in {HANGS} s of computing",
            signal.SIGALRM: f"no end in {WAITS} s of waiting"}.get(sign, f"process ended: {sign}")
    return dict(outcomes={"DEFECT": 1}, peak=0, ended=number, failures=[
        dict(case=f"{module.NAME}:{number}", what=what, where="process")])


# --- in the parent --------------------------------------------------------------------------------


def load(checkpoint: Path | None, seed: int) -> dict:
    """What earlier runs have found."""
    if checkpoint and checkpoint.is_file():
        found = json.loads(checkpoint.read_text("utf-8"))
        if found["seed"] != seed:
            raise SystemExit(f"{checkpoint} is of the seed {found['seed']}: give --seed")
        return found
    return dict(seed=seed, seconds=0.0, kinds={}, failures=[])


def save(checkpoint: Path | None, found: dict) -> None:
    if checkpoint:
        new = checkpoint.with_name(f"{checkpoint.name}.new")
        new.write_text(json.dumps(found, indent=1), "utf-8")
        new.replace(checkpoint)


def add(found: dict, kind: str, batch: dict, done: int) -> None:
    """Add a batch to what was found; the numbers below `done` are through."""
    own = found["kinds"].setdefault(kind, dict(done=0, outcomes={}, peak=0))
    own["outcomes"] = dict(Counter(own["outcomes"]) + Counter(batch["outcomes"]))
    own["peak"], own["done"] = max(own["peak"], batch["peak"]), done
    found["failures"] = (found["failures"] + batch["failures"])[:KEPT]


def fuzz(modules: dict[str, ModuleType], wanted: dict[str, int], seconds: float, found: dict,
         checkpoint: Path | None) -> None:
    """Run cases until as many as wanted of each kind are done, or the time is over."""
    warnings.simplefilter("ignore")
    seeds = {kind: module.prepare() for kind, module in modules.items()}
    start, before = time.monotonic(), found["seconds"]
    spoken = before
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None       # a file system in memory
    with tempfile.TemporaryDirectory(prefix="npresnet-fuzz-", dir=fast) as folder:
        now = mmap.mmap(-1, 8)
        while time.monotonic() - start < seconds:
            at = {kind: found["kinds"].get(kind, {}).get("done", 0) for kind in modules}
            left = {kind: wanted[kind] - at[kind] for kind in modules if wanted[kind] > at[kind]}
            if not left:
                break
            kind = max(left, key=lambda kind: left[kind] / wanted[kind])
            numbers = range(at[kind], at[kind] + min(BATCH, left[kind]))
            batch = in_child(modules[kind], seeds[kind], found["seed"], numbers, now, Path(folder))
            # What a batch that ended early had found before is lost with it: it is done again.
            if "ended" in batch:
                again = range(numbers.start, batch["ended"])
                first = in_child(modules[kind], seeds[kind], found["seed"], again, now,
                                 Path(folder)) if again else dict(outcomes={}, failures=[], peak=0)
                add(found, kind, first, batch["ended"])
            add(found, kind, batch, batch.get("ended", numbers.stop - 1) + 1)
            found["seconds"] = before + time.monotonic() - start
            save(checkpoint, found)
            if found["seconds"] > spoken + 60:
                spoken = found["seconds"]
                print(f"{found['seconds']:.0f} s {told(found)}", flush=True)


def told(found: dict) -> str:
    """A line on all that was found."""
    parts = [f"{kind}: {own['done']:,} {dict(sorted(own['outcomes'].items()))}, at most "
             f"{own['peak'] / 2**20:.0f} MiB more" for kind, own in found["kinds"].items()]
    return "; ".join([*parts, f"{len(found['failures'])} defects"])


def again(name: str, seed: int, keep: Path | None) -> int:
    """One case, here in this process: its traceback is shown."""
    kind, _, number = name.partition(":")
    module = kinds(kind)[kind]
    data = case(module, module.prepare(), seed, int(number))
    with tempfile.TemporaryDirectory() as folder:
        path = keep or Path(folder, kind)
        path.write_bytes(data)
        before = memory()
        print(f"{name}: {len(data):,} bytes, {module.check(path)}, "
              f"{(memory() - before) / 2**20:.0f} MiB more")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The script: see above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, help="of all kinds together (default: no end)")
    parser.add_argument("--seconds", type=float, help="(default: as long as it takes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("weights", "pictures"))
    parser.add_argument("--checkpoint", type=Path, metavar="FILE")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="one case again")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --case: its file")
    args = parser.parse_args(argv)
    if args.case:
        return again(args.case, args.seed, args.keep)
    if args.cases is None and args.seconds is None:
        parser.error("give --cases or --seconds")
    modules = kinds(args.only)
    total = args.cases or 10**9
    share = {kind: 0.7 if kind == "weights" else 0.3 for kind in modules} if not args.only else \
        {args.only: 1}
    found = load(args.checkpoint, args.seed)
    fuzz(modules, {kind: round(total * part) for kind, part in share.items()},
         args.seconds or 10**9, found, args.checkpoint)
    print(told(found))
    for failure in found["failures"]:
        print(f"{failure['case']}  {failure['where']}  {failure['what']}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
