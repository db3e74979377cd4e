"""What `npresnet bench` holds against each other: how each contender starts, and how it is timed.

`python -m npresnet.instruments.contenders JOB` is a process that measures one of them: it warms up,
times calls, and prints one line of JSON. The other runtimes are imported there, each in the
function that starts it; their network comes from a folder that `tests/benchmarks/make_peers.py`
wrote.
"""
from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import printable

WARM_UP, MEASURED = 0.5, 2.0                                      # seconds of calls


class Unavailable(Exception):
    """A contender that has nothing to add here; the message says why."""


class Started(NamedTuple):
    """A contender ready to run.

    forward: pictures (N, C, H, W) → logits (N, classes). version: of the library that does it.
    """
    forward: Callable[[np.ndarray], np.ndarray]
    version: str
    precision: str = "f32"


# --- npresnet's own -------------------------------------------------------------------------------


def start_numba(job: dict, exact: bool = False) -> Started:
    """npresnet's fast engine."""
    import numba

    from ..model import create_model

    model = create_model(job["model"], weights=job["weights"], backend="numba", exact=exact,
                         num_threads=job["threads"])
    return Started(model, f"numba {numba.__version__}")


def start_numba_exact(job: dict) -> Started:
    """The same without Winograd convolutions."""
    return start_numba(job, exact=True)


def start_numpy(job: dict) -> Started:
    """npresnet's readable reference."""
    from ..model import create_model

    model = create_model(job["model"], weights=job["weights"], backend="numpy")
    return Started(model, f"numpy {np.__version__}")


# --- the other runtimes ---------------------------------------------------------------------------


def start_pytorch(job: dict) -> Started:
    """Eager PyTorch: its modules as they are, one after the other.

    (`torch.export` makes them a little faster; few people run that.)
    """
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, job["peers"])
    from torch_twin import TorchResNetV2  # a file of that folder

    torch.set_num_threads(job["threads"])
    network = TorchResNetV2(**read_peers(job["peers"])["network"]).eval()
    network.load_state_dict(load_file(job["weights"]))

    def forward(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = network(torch.from_numpy(x)).numpy()
            return logits

    return Started(forward, f"torch {torch.__version__}")


def start_onnxruntime(job: dict) -> Started:
    """ONNX Runtime on the CPU, with all of its graph optimisations (its default)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(Path(job["peers"], "model.onnx"), options,
                                           providers=["CPUExecutionProvider"])
    return Started(lambda x: session.run(None, {"x": x})[0],
                   f"onnxruntime {onnxruntime.__version__}")


def start_openvino(job: dict) -> Started:
    """OpenVINO on the CPU, in float32."""
    return compile_openvino(job, INFERENCE_PRECISION_HINT="f32")


def start_openvino_default(job: dict) -> Started:
    """OpenVINO in the precision that it chooses. Raises Unavailable where that is float32 too."""
    started = compile_openvino(job)
    if started.precision == "f32":
        raise Unavailable("the precision that OpenVINO chooses here is float32, so this would be "
                          "openvino once more")
    return started


def compile_openvino(job: dict, **hints: str) -> Started:
    """OpenVINO's network, made for this batch size, which suits it better than one for any."""
    import openvino

    core = openvino.Core()
    network = core.read_model(Path(job["peers"], "model.onnx"))
    network.reshape([job["batch"], 3, *job["size"]])
    compiled = core.compile_model(network, "CPU", hints | {"INFERENCE_NUM_THREADS": job["threads"]})
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Started(lambda x: compiled(x, share_inputs=True, share_outputs=True)[0],
                   f"openvino {openvino.__version__.split('-')[0]}", precision)


class Contender(NamedTuple):
    """How to start it, and the package (pip's name and Python's) it needs; npresnet's need none."""
    start: Callable[[dict], Started]
    package: str = ""


CONTENDERS = {
    "numba": Contender(start_numba),
    "numba-exact": Contender(start_numba_exact),
    "numpy": Contender(start_numpy),
    "pytorch": Contender(start_pytorch, "torch"),
    "onnxruntime": Contender(start_onnxruntime, "onnxruntime"),
    "openvino": Contender(start_openvino, "openvino"),
    "openvino-default": Contender(start_openvino_default, "openvino"),
}
OWN = tuple(name for name, contender in CONTENDERS.items() if not contender.package)


def read_peers(folder: str) -> dict:
    """What the other runtimes' folder holds.

    `model`: its name. `size`: (H, W) of its pictures. `network`: the arguments of PyTorch's.
    Raises ValueError if it isn't such a folder.
    """
    try:
        peers = json.loads(Path(folder, "peers.json").read_text("utf-8"))
        _, height, width = map(int, peers["input_size"])
        return dict(model=str(peers["model"]), size=(height, width), network=dict(peers["network"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ValueError(f"{printable(folder)}: peers.json can't be used ({printable(why)}); write "
                         "the folder with tests/benchmarks/make_peers.py") from None


# --- the process that measures one ----------------------------------------------------------------


def work(job: dict) -> dict:
    """Run one contender in this process.

    job: contender, model, weights, peers, batch, size (H, W), threads, runs (None: by time).
    Returns call_ms, logits, memory_mb, version and precision.
    """
    started = CONTENDERS[job["contender"]].start(job)
    x = pictures(job["batch"], *job["size"])
    logits = started.forward(x)
    by_time = job["runs"] is None
    time_calls(started.forward, x, 1, WARM_UP if by_time else 0)
    call_ms = time_calls(started.forward, x, 3 if by_time else job["runs"],
                         MEASURED if by_time else 0)
    return dict(call_ms=call_ms, logits=logits.tolist(), memory_mb=peak_memory(),
                version=started.version, precision=started.precision)


def time_calls(forward: Callable, x: np.ndarray, least: int, seconds: float) -> list[float]:
    """Milliseconds of each call: of `least` calls, and on until `seconds` have passed."""
    call_ms: list[float] = []
    end = time.perf_counter() + seconds
    while len(call_ms) < least or time.perf_counter() < end:
        start = time.perf_counter()
        forward(x)
        call_ms.append(1e3 * (time.perf_counter() - start))
    return call_ms


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Normal noise (count, 3, height, width) float32.

    The first pictures of a larger batch are those of a smaller one.
    """
    return np.random.default_rng(0).standard_normal((count, 3, height, width), np.float32)


def peak_memory() -> float | None:
    """The most memory that this process has held, in MB; None where nobody knows."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    held = re.search(r"VmHWM:\s*(\d+) kB", status)
    if held:                                # ru_maxrss includes what the parent held before exec
        return int(held[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:                                           # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024                # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Do the job on the command line, in JSON; print what `work` returns, or why not."""
    try:
        answer = work(json.loads(sys.argv[1]))
    except Unavailable as reason:
        answer = dict(unavailable=str(reason))
    except Exception as error:                                    # whatever a runtime raises
        first_line = str(error).strip().splitlines()[:1]
        answer = dict(error=": ".join([type(error).__name__, *first_line]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
