"""Pictures a second of the commands, from files to a file of results, beside what the cores allow.

    python tests/benchmarks/throughput.py FOLDER [--model NAME] [--weights FILE] [--rounds 3]

FOLDER: pictures, such as Imagenette's val. In each round, in turn:
    read      seconds of a core that one picture takes to be read, decoded and transformed
    compute   seconds of a core that one picture takes in batches of 32, on all threads
    by hand   a loop that a user would write: threads that read, batches of 32 to the model
    stream    `Predictor.stream`
    classify, embed   the commands, in processes of their own, by their own account
The limit is cores / (read + compute). Medians, and their share of the limit.
"""
from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from npresnet import Predictor, load_image
from npresnet.lower.cores import default_threads

BATCH = 32
ENDINGS = dict(classify="jsonl", embed="npz")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="take so many pictures")
    args = parser.parse_args()
    files = sorted(str(path) for path in args.folder.rglob("*.*"))[:args.limit]
    predictor = Predictor(args.model, weights=args.weights, output="logits", backend="numba")
    batch = np.stack([read(predictor, file) for file in files[:BATCH]])
    predictor.model(batch)                                        # compiles, plans
    cores = default_threads()
    figures = defaultdict(list)
    for _ in range(args.rounds):
        reading, computing = seconds_alone(predictor, files, batch)
        figures["read"].append(1e3 * reading)
        figures["compute"].append(1e3 * computing)
        figures["limit"].append(cores / (reading + computing))
        figures["by hand"].append(rate(len(files), lambda: by_hand(predictor, files, cores)))
        figures["stream"].append(rate(len(files), lambda: drain(predictor.stream(files))))
        for command in ("classify", "embed"):
            figures[command].append(commanded(command, args, files))
    median = {name: statistics.median(values) for name, values in figures.items()}
    print(f"{args.model}, {len(files)} pictures, {cores} cores, {args.rounds} rounds")
    print(f"read {median['read']:.2f} ms, compute {median['compute']:.2f} ms of a core a picture")
    for name in ("limit", "by hand", "stream", "classify", "embed"):
        share = statistics.median(a / b for a, b in zip(figures[name], figures["limit"]))
        span = f"{min(figures[name]):.0f} to {max(figures[name]):.0f}"
        print(f"{name:<9} {median[name]:6.0f} a second  {share:6.1%} of the limit  ({span})")


def seconds_alone(predictor: Predictor, files: list[str], batch: np.ndarray) -> tuple[float, float]:
    """Seconds of a core to read a picture, and to compute one."""
    some = files[::max(len(files) // 600, 1)]
    start = time.process_time()
    with ThreadPoolExecutor(default_threads()) as pool:       # all hyperthreads busy
        list(pool.map(lambda file: read(predictor, file), some))
    reading = (time.process_time() - start) / len(some)
    times = 8
    start = time.process_time()
    for _ in range(times):
        predictor.model(batch)
    return reading, (time.process_time() - start) / (times * len(batch))


def read(predictor: Predictor, file: str) -> np.ndarray:
    """The network's input (C, H, W) float32."""
    return predictor.transform(load_image(file))


def by_hand(predictor: Predictor, files: list[str], threads: int) -> None:
    """Threads that read ahead as fast as they can, and batches of 32."""
    with ThreadPoolExecutor(threads) as pool:
        inputs = pool.map(lambda file: read(predictor, file), files)
        for _ in range(0, len(files), BATCH):
            predictor.model(np.stack([x for _, x in zip(range(BATCH), inputs)]))


def drain(answers) -> None:
    for answer in answers:
        assert answer.error is None


def rate(count: int, work) -> float:
    """Pictures a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def commanded(command: str, args: argparse.Namespace, files: list[str]) -> float:
    """Pictures a second by the command's own account, which leaves out its start."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "npresnet", command, "--model", args.model, "--backend",
                "numba", "--output", f"{folder}/out.{ENDINGS[command]}"]
        argv += ["--weights", args.weights, "-"] if args.weights else ["-"]
        done = subprocess.run(argv, input="\n".join(files), capture_output=True, text=True)
    found = re.search(r"(\d+) pictures in ([\d.]+) s", done.stderr)
    assert found, done.stderr
    return int(found[1]) / float(found[2])


if __name__ == "__main__":
    main()
