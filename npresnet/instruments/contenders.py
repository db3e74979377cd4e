"""What `npresnet bench` holds against each other: how each contender starts, and how it is timed, in a process of its own.

`python -m npresnet.instruments.contenders JOB` is such a process: it warms up, times calls, and prints one line of JSON. The other runtimes are
imported there and nowhere else; their network comes from a folder that `tests/benchmarks/make_peers.py` wrote.
"""
from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import printable

WARM_UP, MEASURED = 0.5, 2.0                                      # seconds of calls


class Unavailable(Exception):
    """A contender that has nothing to add here; the message says why."""


class Started(NamedTuple):
    """A contender ready to run. forward: pictures (N, C, H, W) → logits (N, classes). version: of the library that does the work."""
    forward: Callable[[np.ndarray], np.ndarray]
    version: str
    precision: str = "f32"


def start_numba(job: dict, exact: bool = False) -> Started:
    """npresnet's fast engine."""
    import numba

    from ..model import create_model
    model = create_model(job["model"], weights=job["weights"], backend="numba", exact=exact, num_threads=job["threads"])
    return Started(model, f"numba {numba.__version__}")


def start_numba_exact(job: dict) -> Started:
    """The same without Winograd convolutions."""
    return start_numba(job, exact=True)


def start_numpy(job: dict) -> Started:
    """npresnet's readable reference."""
    from ..model import create_model
    return Started(create_model(job["model"], weights=job["weights"], backend="numpy"), f"numpy {np.__version__}")


def start_pytorch(job: dict) -> Started:
    """Eager PyTorch: its modules as they are, one after the other. (`torch.export` makes them a little faster; few people run that.)"""
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    torch.set_num_threads(job["threads"])
    sys.path.insert(0, job["peers"])
    network = import_module("torch_twin").TorchResNetV2(**read_peers(job["peers"])["network"]).eval()
    network.load_state_dict(safetensors.load_file(job["weights"]))

    def forward(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()
    return Started(forward, f"torch {torch.__version__}")


def start_onnxruntime(job: dict) -> Started:
    """ONNX Runtime on the CPU, with all of its graph optimisations (its default)."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = runtime.InferenceSession(Path(job["peers"], "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Started(lambda x: session.run(None, {"x": x})[0], f"onnxruntime {runtime.__version__}")


def start_openvino(job: dict) -> Started:
    """OpenVINO on the CPU, in float32."""
    return compile_openvino(job, INFERENCE_PRECISION_HINT="f32")


def start_openvino_default(job: dict) -> Started:
    """OpenVINO in the precision that it chooses by itself. Raises Unavailable where that is float32 too."""
    started = compile_openvino(job)
    if started.precision == "f32":
        raise Unavailable("the precision that OpenVINO chooses here is float32, so this would be openvino once more")
    return started


def compile_openvino(job: dict, **hints: str) -> Started:
    """OpenVINO's network, made for this batch size, which suits it better than one for any."""
    openvino = import_module("openvino")
    core = openvino.Core()
    network = core.read_model(Path(job["peers"], "model.onnx"))
    network.reshape([job["batch"], 3, *job["size"]])
    compiled = core.compile_model(network, "CPU", hints | {"INFERENCE_NUM_THREADS": job["threads"]})
    return Started(lambda x: compiled(x, share_inputs=True, share_outputs=True)[0], f"openvino {openvino.__version__.split('-')[0]}",
                   compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


class Contender(NamedTuple):
    """How to start it, and the package (pip's name and Python's) that it needs; npresnet's own need none."""
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
    """What the other runtimes' folder holds: `model` (its name), `size` of its pictures (H, W), `network` (the arguments of PyTorch's).

    Raises ValueError if it isn't such a folder.
    """
    try:
        peers = json.loads(Path(folder, "peers.json").read_text("utf-8"))
        _, height, width = map(int, peers["input_size"])
        return dict(model=str(peers["model"]), size=(height, width), network=dict(peers["network"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ValueError(f"{printable(folder)}: peers.json can't be used ({printable(why)}); write the folder with "
                         "tests/benchmarks/make_peers.py") from None


def work(job: dict) -> dict:
    """Run one contender in this process. job: contender, model, weights, peers, batch, size (H, W), threads, runs (or None).

    Returns call_ms, logits, memory_mb, version and precision.
    """
    started, x = CONTENDERS[job["contender"]].start(job), pictures(job["batch"], *job["size"])
    logits, by_time = started.forward(x), job["runs"] is None
    time_calls(started.forward, x, 1, WARM_UP if by_time else 0)
    call_ms = time_calls(started.forward, x, 3 if by_time else job["runs"], MEASURED if by_time else 0)
    return dict(call_ms=call_ms, logits=logits.tolist(), memory_mb=peak_memory(), version=started.version, precision=started.precision)


def time_calls(forward: Callable, x: np.ndarray, least: int, seconds: float) -> list[float]:
    """Milliseconds of each call: of `least` calls, and on until `seconds` have passed."""
    call_ms, end = [], time.perf_counter() + seconds
    while len(call_ms) < least or time.perf_counter() < end:
        start = time.perf_counter()
        forward(x)
        call_ms.append(1e3 * (time.perf_counter() - start))
    return call_ms


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Normal noise (count, 3, height, width) float32; the first pictures of a larger batch are those of a smaller one."""
    return np.random.default_rng(0).standard_normal((count, 3, height, width), np.float32)


def peak_memory() -> float | None:
    """The most memory that this process has held, in MB; None where nobody knows."""
    try:                                                          # on Linux ru_maxrss includes what the parent held before exec
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    except (OSError, TypeError):
        pass
    try:
        resource = import_module("resource")
    except ImportError:                                           # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    """Do the job that the command line gives, as JSON, and print the answer: what `work` returns, or why not."""
    try:
        answer = work(json.loads(sys.argv[1]))
    except Unavailable as reason:
        answer = dict(unavailable=str(reason))
    except Exception as error:                                    # whatever a runtime raises
        answer = dict(error=": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
