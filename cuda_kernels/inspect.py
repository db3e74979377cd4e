"""What the compiler made of each kernel, without a GPU: python -m cuda_kernels.inspect [--cc 7.5 8.0 9.0 10.0] [--json]

numba-cuda compiles to PTX, ptxas (wheel nvidia-cuda-nvcc) assembles it, nvdisasm (wheel triton) prints the machine code. The table:

    regs       registers a thread          stack, spill   bytes a thread keeps in memory for want of registers: should be 0
    shared     bytes a block               blocks         that fit on a multiprocessor, and what limits them
    FFMA …     instructions of one turn of the main loop: the smallest loop among those with the most FFMA
    FFMA %     multiply-adds among all of them             FFMA/LDS   multiply-adds for each load from shared memory

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
    package, wheel, places = {"ptxas": ("nvidia", "nvidia-cuda-nvcc", ("cu*/bin/ptxas", "cuda_nvcc/bin/ptxas")),
                              "nvdisasm": ("triton", "triton", ("backends/nvidia/bin/nvdisasm",))}[name]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for place in places:
            for path in sorted(Path(folder).glob(place)):
                return path
    raise MissingTool(f"{name} is not installed: pip install 'npresnet[cuda-inspect]' (it comes with the wheel {wheel})")


def instructions(sass: str) -> list[tuple[int, str, int | None]]:
    """nvdisasm's text → (address, opcode, address branched to or None), in order, of its one kernel."""
    labels, found, waiting = {}, [], []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            waiting.append(label[1])
        elif code := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?\s*([A-Z][A-Z0-9_.]*)(.*)", line):
            address = int(code[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting = []
            target = re.search(r"`\((\.L_\w+)\)", code[3]) if code[2].startswith("BRA") else None
            found.append((address, code[2], target and target[1]))
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
    fits = {"registers": REGISTERS // (-(-registers * 32 // 256) * 256 * warps), "threads": all_threads // (warps * 32), "blocks": all_blocks,
            "shared memory": all_shared // (shared + reserved) if shared + reserved else all_blocks}
    limit = min(fits, key=fits.get)
    return fits[limit], limit


def inspect(name: str, cc: str) -> dict:
    """Compile the kernel `name` of `conv2d.signatures()` for `cc`: the table's row. Raises MissingTool, ImportError."""
    ptxas, nvdisasm = tool("ptxas"), tool("nvdisasm")
    from .backend import compile_ptx
    from .conv2d import signatures
    kernel, signature, threads = signatures()[name]
    major, minor = map(int, cc.split("."))
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compile_ptx(kernel, signature, (major, minor)))
        said = subprocess.run([ptxas, "-v", f"-arch=sm_{major}{minor}", ptx, "-o", cubin], capture_output=True, text=True, check=True).stderr
        sass = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    number = lambda pattern: max((int(found) for found in re.findall(pattern, said)), default=0)
    row = dict(cc=cc, kernel=name, registers=number(r"Used (\d+) registers"), stack=number(r"(\d+) bytes stack frame"),
               spills=number(r"(\d+) bytes spill"), shared=number(r"(\d+) bytes smem"), threads=threads)
    row["blocks"], row["limit"] = blocks(cc, threads, row["registers"], row["shared"])
    body = main_loop(instructions(sass))
    count = lambda *starts: sum(op.startswith(starts) for op in body)
    row |= dict(loop=len(body), ffma=count("FFMA"), lds=count("LDS"), ldg=count("LDG"), sts=count("STS"), integer=count(*INTEGER))
    row["ffma_share"], row["ffma_per_lds"] = row["ffma"] / max(row["loop"], 1), row["ffma"] / row["lds"] if row["lds"] else None
    return row


def table(rows: list[dict]) -> str:
    """The rows as text."""
    lines = [f"{'cc':5}{'kernel':18}{'regs':>5}{'stack':>6}{'spill':>6}{'shared':>8}{'blocks':>7} {'limit':14}{'loop':>6}{'FFMA':>6}{'LDS':>5}{'LDG':>5}"
             f"{'STS':>5}{'int':>5}{'FFMA %':>8}{'FFMA/LDS':>10}"]
    for r in rows:
        lines.append(f"{r['cc']:5}{r['kernel']:18}{r['registers']:5}{r['stack']:6}{r['spills']:6}{r['shared']:8}{r['blocks']:7} {r['limit']:14}"
                     f"{r['loop']:6}{r['ffma']:6}{r['lds']:5}{r['ldg']:5}{r['sts']:5}{r['integer']:5}{100 * r['ffma_share']:8.1f}{'–' if r['ffma_per_lds'] is None else format(r['ffma_per_lds'], '.1f'):>10}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 done, 1 something is missing."""
    parser = argparse.ArgumentParser(prog="python -m cuda_kernels.inspect", description="compile every CUDA kernel without a GPU and print what became of it",
                                     epilog="example: python -m cuda_kernels.inspect --cc 8.0 9.0")
    parser.add_argument("--cc", nargs="+", choices=CAPABILITIES, default=CAPABILITIES, help="compute capabilities (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        from .conv2d import signatures
        rows = [inspect(name, cc) for cc in args.cc for name in signatures()]
    except (ImportError, MissingTool) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=1) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
