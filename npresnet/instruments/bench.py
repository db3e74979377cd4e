"""How fast npresnet is on this machine, beside the runtimes people deploy.

All get the same weights, pictures and number of threads. Every contender (`contenders.py`) and
batch size runs in a process of its own, because the threads of one runtime go on spinning and
disturb the next. They take turns, ROUNDS times over (A B C A B C …), so that a machine that slows
down or speeds up does so for all. Whether they compute the same thing is measured too: their logits
are held against the readable reference's (`network.py`).
"""
from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from ..errors import printable
from ..model import create_model
from ..table import Row, Table, Tabular
from ..version import __version__
from .comparison import compare
from .contenders import CONTENDERS, pictures

ROUNDS = 3
# A larger max Δ of the logits, in float32 or in less, is another network's.
F32_LIMIT, LIMIT = 1e-3, 0.1
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
           "NUMBA_NUM_THREADS")
# With these OpenBLAS takes the processor for another one.
MISLEADING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


# --- what came out --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One contender at one batch size.

    ms: milliseconds a picture (a call's, divided by the batch) of each call, round by round.
    memory_mb: the most that its process held, the median of all rounds (the first process ever also
    compiles). max_delta: the largest difference of its logits from the reference's, as a share of
    the largest magnitude.
    """
    contender: str
    batch: int
    precision: str
    version: str
    ms: tuple[tuple[float, ...], ...]
    memory_mb: float | None
    max_delta: float

    @classmethod
    def of(cls, contender: str, batch: int, answers: list[dict]) -> Result:
        """Of what each round's process answered."""
        ms = tuple(tuple(call / batch for call in answer["call_ms"]) for answer in answers)
        held = [answer["memory_mb"] for answer in answers if answer["memory_mb"] is not None]
        max_delta = max(answer["max_delta"] for answer in answers)
        return cls(contender, batch, answers[0]["precision"], answers[0]["version"], ms,
                   median(held) if held else None, max_delta)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of the calls of all rounds, in ms; the second is the median."""
        low, middle, high = np.percentile(np.concatenate(self.ms), (25, 50, 75)).tolist()
        return low, middle, high


@dataclass(frozen=True)
class Measurement(Tabular):
    """What all contenders did, batch by batch; shown as a table.

    input_size: (C, H, W). stopped: those that got nowhere, each a dict of its `contender`, its
    `batch` if the others are no concern of this, and the reason, under `error`, or under
    `unavailable` if it isn't installed or has nothing to add here.
    """
    model: str
    input_size: tuple[int, int, int]
    threads: int
    processor: str
    results: tuple[Result, ...]
    stopped: tuple[dict, ...]

    @property
    def heading(self) -> str:
        """What was measured where."""
        size = "×".join(map(str, self.input_size))
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.model}, pictures of {size}, {threads}, {self.processor}"

    def numba_ratio(self, result: Result) -> float | None:
        """numba's median time as a share of that of `result`.

        None if numba wasn't measured at this batch size.
        """
        for other in self.results:
            if (other.contender, other.batch) == ("numba", result.batch):
                return other.quartiles[1] / result.quartiles[1]
        return None

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON."""
        rows = []
        for result in self.results:
            low, middle, high = result.quartiles
            rows.append(asdict(result) | dict(median_ms=middle, quartiles_ms=(low, high),
                                              numba_ratio=self.numba_ratio(result)))
        versions = dict(npresnet=__version__, python=platform.python_version())
        return versions | asdict(self) | dict(results=rows)

    def table(self) -> Table:
        """One row a result, between what was measured and the libraries' versions."""
        rows: list[Row] = [("contender", "batch", "ms a picture", "quartiles", "numba takes",
                            "max Δ", "memory")]
        batch = None
        for result in self.results:
            if batch not in (None, result.batch):
                rows.append(None)
            batch = result.batch
            name = result.contender
            if result.precision != "f32":
                name += f" ({result.precision})"
            low, middle, high = result.quartiles
            ratio = self.numba_ratio(result)
            rows.append((name, str(batch), f"{middle:.2f}", f"{low:.2f}–{high:.2f}",
                         "–" if ratio is None else f"{ratio:.2f} of it",
                         f"{result.max_delta:.1e}",
                         "–" if result.memory_mb is None else f"{result.memory_mb:.0f} MB"))
        versions = dict.fromkeys(result.version for result in self.results)
        return Table(rows, right=1, above=[self.heading],
                     below=[", ".join([f"npresnet {__version__}", *versions])])


# --- measuring ------------------------------------------------------------------------------------


def measure(contenders: Sequence[str], model: str, *, weights: str | None = None,
            peers: str | None = None, size: Sequence[int] | None = None,
            batches: Sequence[int] = (1, 8), threads: int | None = None, runs: int | None = None,
            complain: Callable[[str], None] = print) -> Measurement:
    """Time `contenders` (names of CONTENDERS) on `model`, on the same random pictures.

    weights: a safetensors file, None for random ones. peers: the other runtimes' folder. size:
    (H, W) of the pictures, default the model's own. batches: pictures a call. threads: of each,
    default as many as there are cores for this process. runs: calls that each process times,
    default as many as take two seconds, and at least three.
    One that isn't there or fails doesn't stop the others; `complain` gets a line about it.
    Raises ValueError or WeightsError if there is no such model, or its weights are unfit.
    """
    reference = create_model(model, weights=weights, backend="numpy")
    height, width = size or reference.pretrained_cfg["input_size"][1:]
    threads = threads or available_cores()
    batches = tuple(dict.fromkeys(batches))
    x = pictures(max(batches), height, width)                     # (N, C, H, W)
    # One picture at a time takes less memory.
    logits = np.concatenate([reference(picture[None]) for picture in x])      # (N, classes)
    job = dict(model=model, weights=weights, peers=peers, size=(height, width), threads=threads,
               runs=runs)

    running: list[str] = []
    stopped: list[dict] = []
    for contender in dict.fromkeys(contenders):
        reason = why_not(contender, peers)
        if reason:
            stopped.append(dict(contender=contender, unavailable=reason))
            complain(f"{contender}: {reason}")
        else:
            running.append(contender)

    results: list[Result] = []
    steps = len(batches) * ROUNDS * len(running)
    with tqdm(total=steps, unit="process", delay=1, disable=None, leave=False) as bar:
        for batch in batches:
            answers: dict[str, list[dict]] = {contender: [] for contender in running}
            for contender in ROUNDS * running:                    # A B C A B C …
                bar.set_description(f"{contender}, batch {batch}")
                answer = {}
                if contender in answers:                          # it has not stopped
                    answer = ask(job | dict(contender=contender, batch=batch), logits[:batch])
                if "call_ms" in answer:
                    answers[contender].append(answer)
                elif answer:
                    del answers[contender]
                    if "unavailable" in answer:                   # at no other batch size either
                        running.remove(contender)
                    stopped.append(dict(contender=contender, batch=batch) | answer)
                    bar.clear()                                   # what is said next gets a line
                    complain(f"{contender}, batch {batch}: {''.join(answer.values())}")
                bar.update()
            results += [Result.of(contender, batch, got) for contender, got in answers.items()]
    return Measurement(model, (3, height, width), threads, processor(), tuple(results),
                       tuple(stopped))


def why_not(contender: str, peers: str | None) -> str:
    """Why a contender can't be started, and what to do about it; nothing if it can."""
    package = CONTENDERS[contender].package
    if package and find_spec(package) is None:
        return f"isn't installed: pip install {package}"
    if package and peers is None:
        return "needs --peers DIR, a folder that tests/benchmarks/make_peers.py writes"
    return ""


def ask(job: dict, wanted: np.ndarray) -> dict:
    """What a process of its own makes of a job.

    Returns what `contenders.work` returns, with max_delta in place of the logits, or why not, under
    `error` or `unavailable`. wanted: the reference's logits (N, classes).
    """
    clean = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    threads = dict.fromkeys(THREADS, str(job["threads"]))
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)      # imports as here
    command = [sys.executable, "-P", "-m", "npresnet.instruments.contenders", json.dumps(job)]
    done = subprocess.run(command, env=clean | threads | dict(PYTHONPATH=path),
                          stdin=subprocess.DEVNULL, capture_output=True)
    try:
        answer: dict = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):                              # killed, perhaps, or crashed
        killed = done.returncode < 0
        how = f"ended by signal {-done.returncode}" if killed else f"exit code {done.returncode}"
        last_line = done.stderr.decode(errors="replace").splitlines()[-1:]
        return dict(error=": ".join([how, *map(printable, last_line)]))
    if "logits" not in answer:
        return answer
    logits = np.array(answer.pop("logits"), np.float32)
    delta = np.inf
    if logits.shape == wanted.shape:
        delta = compare({"logits": wanted}, {"logits": logits}).max_delta
    if not delta <= (F32_LIMIT if answer["precision"] == "f32" else LIMIT):
        return dict(error="computes something else: its logits differ from the reference's by "
                          f"{delta:.1e} of the largest")
    return answer | dict(max_delta=delta)


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        about = ""
    name = re.search(r"^model name\s*: (.+)$", about, re.M)
    return name[1] if name else platform.processor() or platform.machine()
