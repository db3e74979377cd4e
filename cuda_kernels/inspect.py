"""What the compiler made of each kernel, without a GPU: python -m cuda_kernels.inspect [--cc 7.5 8.0 9.0 10.0] [--json]

numba-cuda compiles to PTX, ptxas (wheel nvidia-cuda-nvcc) assembles it, nvdisasm (its own wheel) prints the machine code. The table:

    regs       registers a thread          stack, spill   bytes a thread keeps in memory for want of registers: should be 0
    shared     bytes a block               blocks         that fit on a multiprocessor, and what limits them
    FFMA …     instructions of one turn of the main loop: the smallest loop among those with the most FFMA
    FFMA %     multiply-adds among all of them             FFMA/LDS   multiply-adds for each load from shared memory

With --gpu it prints what resnetv2_50 should take there, launch by launch, by the model of `performance`, and what that assumes.

Source of the limits: NVIDIA, "CUDA C++ Programming Guide", table "Technical specifications per compute capability".
"""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from npresnet.graph import build_graph
from npresnet.table import Row, format_table
from npresnet.variants import VARIANTS

from .performance import GPUS, Forecast
from .performance import __doc__ as MODEL

CAPABILITIES = ("7.5", "8.0", "9.0", "10.0")
LIMITS = {"7.5": (1024, 16, 64 * 1024, 0), "8.0": (2048, 32, 164 * 1024, 1024), "9.0": (2048, 32, 228 * 1024, 1024),
          "10.0": (2048, 32, 228 * 1024, 1024)}                   # threads, blocks, bytes of shared memory; bytes taken by each block
REGISTERS = 65536                                                 # of a multiprocessor
INTEGER = ("IADD", "IMAD", "ISETP", "LOP3", "PLOP3", "SHF", "LEA", "IABS", "IMNMX", "VIMNMX", "UIADD", "UIMAD", "ULEA", "ULOP3", "USHF",
           "UISETP", "SGXT", "VIADD")


class MissingTool(Exception):
    """A compiler tool isn't installed; the message says what to install."""


def tool(name: str) -> Path:
    """Path of `ptxas` or `nvdisasm` inside the wheel that brings it. Raises MissingTool."""
    wheel, places = {"ptxas": ("nvidia-cuda-nvcc", ("cu*/bin/ptxas", "cuda_nvcc/bin/ptxas")),
                     "nvdisasm": ("nvidia-cuda-nvdisasm", ("cu*/bin/nvdisasm",))}[name]
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for place in places:
            for path in sorted(Path(folder).glob(place)):
                return path
    raise MissingTool(f"{name} is not installed: pip install \"npresnet[cuda-inspect]\" (it comes with the wheel {wheel})")


def kernels() -> dict:
    """name → every kernel of the package, in reading order."""
    from . import conv2d, layout, norm, pool
    return {kernel.name: kernel for kernel in (
        conv2d.naive, conv2d.im2col, conv2d.tiled_gemm, conv2d.implicit_gemm, *conv2d.GENERAL.values(), *conv2d.POINTWISE.values(),
        *conv2d.ROWS.values(), norm.norm_act, norm.sum_splits, pool.max_pool, pool.avg_pool, pool.global_pool, layout.channels_last,
        layout.channels_first)}


def instructions(sass: str) -> list[tuple[int, str, int | None]]:
    """nvdisasm's text → (address, opcode, address branched to or None), in order, of its one kernel."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    found: list[tuple[int, str, str]] = []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            waiting.append(label[1])
        elif code := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?\s*([A-Z][A-Z0-9_.]*)(.*)", line):
            address = int(code[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting = []
            target = re.search(r"`\((\.L_\w+)\)", code[3]) if code[2].startswith("BRA") else None
            found.append((address, code[2], target[1] if target else ""))
    return [(address, opcode, labels.get(target)) for address, opcode, target in found]


def main_loop(code: list[tuple[int, str, int | None]]) -> list[str]:
    """Opcodes of the smallest loop among those with the most FFMA; empty if nothing branches back."""
    loops = [[opcode for at, opcode, _ in code if target <= at <= address and opcode != "NOP"]
             for address, _, target in code if target is not None and target < address]
    return max(loops, key=lambda body: (sum(op.startswith("FFMA") for op in body), -len(body)), default=[])


def blocks(cc: str, threads: int, registers: int, shared: int) -> tuple[int, str]:
    """Blocks that fit on a multiprocessor, and what limits them. Registers are given out by the warp, 256 at a time."""
    all_threads, all_blocks, all_shared, reserved = LIMITS[cc]
    warps = -(-threads // 32)
    fits = {"registers": REGISTERS // (-(-registers * 32 // 256) * 256 * warps), "threads": all_threads // (warps * 32),
            "blocks": all_blocks, "shared memory": all_shared // (shared + reserved) if shared + reserved else all_blocks}
    limit = min(fits, key=fits.__getitem__)
    return fits[limit], limit


def inspect(kernel, cc: str) -> dict:
    """Compile one of `kernels()` for `cc`: the table's row. Raises MissingTool."""
    from .backend import compile_ptx
    ptxas, nvdisasm = tool("ptxas"), tool("nvdisasm")
    major, minor = map(int, cc.split("."))
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        try:
            ptx.write_text(compile_ptx(kernel, (major, minor)))
        except RuntimeError as error:                             # cuda.pathfinder's, when there is no compiler library
            raise MissingTool(f"numba-cuda can't compile ({str(error).splitlines()[0]}): pip install \"npresnet[cuda-inspect]\"") from error
        command: list[str | Path] = [ptxas, "-v", f"-arch=sm_{major}{minor}", ptx, "-o", cubin]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        sass = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    number = lambda pattern: max((int(found) for found in re.findall(pattern, said)), default=0)
    row = dict(cc=cc, kernel=kernel.name, registers=number(r"Used (\d+) registers"), stack=number(r"(\d+) bytes stack frame"),
               spills=number(r"(\d+) bytes spill"), shared=number(r"(\d+) bytes smem"), threads=kernel.threads)
    row["blocks"], row["limit"] = blocks(cc, kernel.threads, row["registers"], row["shared"])
    body = main_loop(instructions(sass))
    count = lambda *starts: sum(op.startswith(starts) for op in body)
    row |= dict(loop=len(body), ffma=count("FFMA"), lds=count("LDS"), ldg=count("LDG"), sts=count("STS"), integer=count(*INTEGER))
    row["ffma_share"], row["ffma_per_lds"] = row["ffma"] / max(row["loop"], 1), row["ffma"] / row["lds"] if row["lds"] else None
    return row


def table(rows: list[dict]) -> str:
    """The rows as text."""
    names = ("cc", "kernel", "limit", "blocks", "registers", "stack", "spills", "shared", "loop", "ffma", "lds", "ldg", "sts", "integer")
    heads = ("cc", "kernel", "limited by", "blocks", "regs", "stack", "spill", "shared", "loop", "FFMA", "LDS", "LDG", "STS", "int")
    cells: list[Row] = [(*heads, "FFMA %", "FFMA/LDS")]
    for row in rows:
        each = "–" if row["ffma_per_lds"] is None else f"{row['ffma_per_lds']:.1f}"
        cells.append((*(str(row[name]) for name in names), f"{100 * row['ffma_share']:.1f}", each))
    return format_table(cells, right=3)


def forecasts(gpu: str, batches: list[int]) -> list[Forecast]:
    """What resnetv2_50 should take on a GPU of that name, for each number of 224×224 pictures."""
    from .plan import Plan
    graph = build_graph(VARIANTS["resnetv2_50"])
    return [Plan(graph, n, 3, 224, 224, GPUS[gpu], wanted=[graph.last]).forecast() for n in batches]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 done, 1 something is missing."""
    parser = argparse.ArgumentParser(prog="python -m cuda_kernels.inspect", epilog="example: python -m cuda_kernels.inspect --cc 8.0 9.0",
                                     description="compile every CUDA kernel without a GPU and print what became of it")
    parser.add_argument("--cc", nargs="+", choices=CAPABILITIES, default=CAPABILITIES, help="compute capabilities (default: all)")
    parser.add_argument("--gpu", choices=GPUS, help="print what resnetv2_50 should take there instead")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="pictures, for --gpu (default: 1 8 64)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if min(args.batch) < 1:
        parser.error("--batch: at least one picture")
    try:
        if args.gpu:
            found = forecasts(args.gpu, args.batch)
            data, text = [forecast.as_dict() for forecast in found], "\n\n".join([*map(str, found), MODEL.strip()])
        else:
            data = [inspect(kernel, cc) for cc in args.cc for kernel in kernels().values()]
            text = table(data)
    except (ImportError, MissingTool) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(data, indent=1) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
