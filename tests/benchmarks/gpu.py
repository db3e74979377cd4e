"""npresnet's cuda backend beside PyTorch with cuDNN, on this machine's GPU.

    pip install torch 'npresnet[cuda]'
    python tests/benchmarks/gpu.py --out gpu.json

It needs torch (with CUDA), numba-cuda and npresnet. All run resnetv2_50 with the same random
weights, 224×224, float32. Every contender runs in a process of its own, in turn, for three rounds;
the figures are medians.

    cuda                 pictures and logits in host memory: upload and download included
    cuda-device          pictures and logits stay on the GPU
    torch, -tf32         eager PyTorch, float32, or with TF32 allowed (10 bits of mantissa);
                         pictures and logits in host memory
    torch-device, -tf32  the same with both on the GPU
    torch-graph          torch-device as a CUDA graph, channels last: the best that PyTorch does
                         here without compiling

cuDNN chooses its algorithms by trying them. `forecast_ms` is what `cuda_kernels.performance`
expects of cuda-device on this GPU. `max_delta` compares the logits with the NumPy reference.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from helpers import random_pictures, random_state

import npresnet
from npresnet.graph import build_graph
from npresnet.table import format_table
from npresnet.variants import VARIANTS

CONTENDERS = ("cuda", "cuda-device", "torch", "torch-tf32", "torch-device", "torch-device-tf32",
              "torch-graph")
MODEL, ROUNDS = "resnetv2_50", 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], metavar="N",
                        help="pictures at a time (default: 1 8 64)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS,
                        help="contenders (default: all)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S",
                        help="of calls in each process (default: 2)")
    parser.add_argument("--size", type=int, default=224, metavar="PX",
                        help="edge of the pictures (default: 224)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--job", help=argparse.SUPPRESS)          # what a process of its own does
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.job:
        print(json.dumps(work(**json.loads(args.job))))
        return
    x = random_pictures(1, 3, args.size, args.size)
    reference = npresnet.create_model(MODEL, backend="numpy")
    reference.load_state_dict(state())
    want = reference(x)[0]                                        # (1000,): x opens every batch
    results = []
    for batch in args.batch:
        answers: dict[str, list] = {name: [] for name in args.only}
        for name in ROUNDS * list(args.only):
            job = dict(contender=name, batch=batch, seconds=args.seconds, size=args.size)
            done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)],
                                  capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["stopped"]
                print(f"{name}, batch {batch}: {said[-1]}", file=sys.stderr)
                continue
            answers[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
        results += [summarise(name, batch, found, want) for name, found in answers.items() if found]
    print(as_table(results), *dict.fromkeys(f"{r['version']} on {r['device']}" for r in results),
          sep="\n")
    if args.out:
        record = dict(npresnet=npresnet.__version__, model=MODEL, size=args.size, results=results)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(0 if results else 1)


def summarise(name: str, batch: int, found: list[dict], want: np.ndarray) -> dict:
    """One result from the answers of a contender's rounds; want: the first picture's logits."""
    delta = np.abs(np.array(found[0].pop("logits")) - want).max() / np.abs(want).max()
    calls = [ms for answer in found for ms in answer["call_ms"]]
    about = {key: found[0][key] for key in ("device", "version", "forecast_ms")}
    return dict(contender=name, batch=batch, median_ms=median(calls),
                ms_a_picture=median(calls) / batch,
                quartiles_ms=np.percentile(calls, (25, 75)).tolist(), calls=len(calls),
                first_s=median(answer["first_s"] for answer in found), max_delta=float(delta),
                **about)


def as_table(results: list[dict]) -> str:
    rows = [("contender", "batch", "ms", "ms a picture", "quartiles", "forecast", "first call",
             "max Δ")]
    for r in results:
        forecast = "–" if r["forecast_ms"] is None else f"{r['forecast_ms']:.2f}"
        quartiles = "–".join(f"{ms:.3f}" for ms in r["quartiles_ms"])
        rows.append((r["contender"], str(r["batch"]), f"{r['median_ms']:.3f}",
                     f"{r['ms_a_picture']:.3f}", quartiles, forecast, f"{r['first_s']:.1f} s",
                     f"{r['max_delta']:.1e}"))
    return format_table(rows, right=1)


def state() -> dict[str, np.ndarray]:
    return random_state(build_graph(VARIANTS[MODEL]).parameter_shapes(), 0)


def work(contender: str, batch: int, seconds: float, size: int) -> dict:
    """Run one contender in this process: times of its calls, the first picture's logits."""
    x, begun = random_pictures(batch, 3, size, size), time.perf_counter()
    start_contender = start_cuda if contender.startswith("cuda") else start_torch
    call, logits, about = start_contender(contender, x)
    call()                                                        # compiles, chooses algorithms
    first, call_ms = time.perf_counter() - begun, []
    for _ in range(3):                                            # records graphs
        call()
    end = time.perf_counter() + seconds
    while len(call_ms) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        call_ms.append(1e3 * (time.perf_counter() - start))
    return dict(call_ms=call_ms, first_s=first, logits=logits().tolist(), **about)


def start_cuda(contender: str, x: np.ndarray):
    """(a call, what gives its first picture's logits, device and version)"""
    import numba_cuda
    from numba import cuda
    model = npresnet.create_model(MODEL, backend="cuda")
    model.load_state_dict(state())
    pictures = cuda.to_device(x) if contender == "cuda-device" else x
    forecast = model._engine.plan(x.shape[1:], len(x), runs=1)
    about = dict(device=forecast.gpu.name, version=f"numba-cuda {numba_cuda.__version__}",
                 forecast_ms=forecast.ms if contender == "cuda-device" else None)

    def call():
        return model(pictures)

    def logits():
        y = call()
        return (y if isinstance(y, np.ndarray) else y.copy_to_host())[0]

    return call, logits, about


def start_torch(contender: str, x: np.ndarray):
    """The same for PyTorch's twin of the network."""
    import torch
    from torch_twin import TorchResNetV2
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU")
    tf32 = contender.endswith("tf32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    variant = VARIANTS[MODEL]
    network = TorchResNetV2(variant.depths, basic=False, stem="", avg=False, width=1.0,
                            num_classes=1000).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state().items()})
    network, here = network.cuda(), torch.from_numpy(x)
    there = here.cuda()
    version = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    about = dict(device=torch.cuda.get_device_name(), version=version, forecast_ms=None)

    @torch.inference_mode()
    def from_host():
        return network(here.cuda()).cpu()

    @torch.inference_mode()
    def on_device():
        y = network(there)
        torch.cuda.synchronize()
        return y

    call = on_device if "device" in contender else from_host
    if contender == "torch-graph":
        network = network.to(memory_format=torch.channels_last)
        there = there.to(memory_format=torch.channels_last)
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        # Capturing wants a network that is warm, on a stream of its own.
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):
                network(there)
        torch.cuda.synchronize()
        with torch.inference_mode(), torch.cuda.graph(graph):
            y = network(there)

        def call():
            graph.replay()
            torch.cuda.synchronize()
            return y
    return call, lambda: call()[0].cpu().numpy(), about


if __name__ == "__main__":
    main()
