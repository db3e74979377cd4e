"""From a photograph to its five best classes in a new process: seconds and memory.

    python tests/benchmarks/startup.py                      # the demo
    python tests/benchmarks/startup.py --peers /tmp/peers   # the folder's model, and ONNX Runtime

This measures `npresnet classify`. With --peers, ONNX Runtime, Pillow and NumPy do the same job
beside it. Each run is a process of its own, and the contenders take turns. "cold" is the first run
ever on a machine: it compiles into a new NUMBA_CACHE_DIR, which the warm runs use. Seconds are wall
time, memory is the process's peak; the median of several runs, and the range.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
ONNX_RUNTIME = """
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, photo, height, width, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
image = Image.open(photo).convert("RGB")
scale = max(height / image.height, width / image.width) / 0.875
size = round(image.width * scale), round(image.height * scale)
image = image.resize(size, Image.Resampling.BICUBIC)
left, top = (image.width - width) // 2, (image.height - height) // 2
image = image.crop((left, top, left + width, top + height))
x = np.asarray(image, np.float32) / 127.5 - 1                     # (H, W, C)
logits = session.run(None, {"x": x.transpose(2, 0, 1)[None]})[0][0]  # (classes,)
p = np.exp(logits - logits.max())
p /= p.sum()
for i in np.argsort(-p)[:5]:
    print(f"{100 * p[i]:5.1f} %  class {i}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", default=ROOT / "tutorials" / "photo.jpg",
                        metavar="PHOTO")
    parser.add_argument("--peers", type=Path, metavar="DIR",
                        help="a folder that make_peers.py wrote")
    parser.add_argument("--runs", type=int, default=9, metavar="N",
                        help="warm runs of each (default: 9); there are three cold ones")
    args = parser.parse_args()
    classify, others = [sys.executable, "-m", "npresnet", "classify", str(args.photo)], {}
    if args.peers:
        peers = json.loads((args.peers / "peers.json").read_text("utf-8"))
        classify += ["--model", peers["model"], "--weights", str(args.peers / "model.safetensors")]
        if hasattr(os, "sched_getaffinity"):
            threads = len(os.sched_getaffinity(0))
        else:
            threads = os.cpu_count()
        job = args.peers / "model.onnx", args.photo, *peers["input_size"][1:], threads
        others["ONNX Runtime"] = [sys.executable, "-c", ONNX_RUNTIME, *map(str, job)]
    with tempfile.TemporaryDirectory() as folder:
        runs = {"npresnet, cold": [run(classify, Path(folder, str(i))) for i in range(3)]}
        contenders = {"npresnet": classify} | others
        for name, command in args.runs * list(contenders.items()):  # A B A B …
            runs.setdefault(name, []).append(run(command, Path(folder, "0")))
    for name, measured in runs.items():
        seconds, megabytes = zip(*measured)
        spread = f"({min(seconds):.2f}–{max(seconds):.2f})"
        print(f"{name:14}  {median(seconds):6.2f} s {spread:14}  "
              f"{median(megabytes):4.0f} MB, runs: {len(measured)}")


def run(command: list[str], cache: Path) -> tuple[float, float]:
    """(seconds, peak MB) of a process that must succeed."""
    environment = os.environ | dict(NUMBA_CACHE_DIR=str(cache), PYTHONPATH=str(ROOT))
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    # ru_maxrss starts from what this process holds, which is less than any of them needs.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
