"""What a kernel should take on a GPU that isn't here: a model in four numbers a GPU, to choose between kernels by, and to be proved wrong.

    sums      a multiprocessor does `lanes` multiply-adds a cycle, if four schedulers that start one instruction a cycle each let it,
              and a step of the main loop takes no less than the time that its loads need to arrive
    memory    every activation goes to memory and back once, and every weight comes from it once, at the full bandwidth
    launch    the next kernel of a graph starts a while after the one before has ended

A convolution takes the longer of sums and memory, and a launch; everything else memory, and a launch. What it leaves out: traffic of
the caches, how clocks fall under load, tails of blocks that end at different times. So it is a bound from below, a good one where blocks
are many. None of its figures was measured on a GPU; on an H100 a pass took 1.6 to 1.7 times what it says (`tests/benchmarks/h100.json`).

Source of the GPUs' figures: NVIDIA's whitepapers on Turing, Ampere (GA100), Hopper and Blackwell, and its data sheets; boost clocks.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil

from npresnet.table import Table, Tabular

STEP = 650                                                        # instructions of a step of rung 4's main loop, as `inspect` counts
ARRIVAL = 800                                                     # cycles from a load's start until its step can begin: memory, barrier
ENDS = 2500                                                       # cycles of a block before its first step and behind its last
LAUNCH = 2.0                                                      # µs from a kernel's end to the next one's start, in a graph


@dataclass(frozen=True)
class GPU:
    """capability: compute capability. lanes: float32 multiply-adds a cycle of a multiprocessor. gb_s: bandwidth in 10⁹ bytes a second."""
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int
    ghz: float
    gb_s: float

    @property
    def tflops(self) -> float:
        """10¹² float32 operations a second, a multiply-add being two."""
        return 2 * self.multiprocessors * self.lanes * self.ghz / 1e3

    def sums_us(self, threads: int, resident: int, blocks: int, steps: int) -> float:
        """µs for `blocks` of `threads`, each with `steps` steps of 64 sums and 8 products a thread, `resident` of them together on a
        multiprocessor: in waves, the last with fewer."""
        work = max(threads * 512 / self.lanes, threads / 32 * STEP / 4)                   # cycles of a block's step, alone
        waves, rest = divmod(blocks, self.multiprocessors * resident)
        cycles = waves * (steps * max(resident * work, ARRIVAL) + ENDS)
        if rest:
            cycles += steps * max(ceil(rest / self.multiprocessors) * work, ARRIVAL) + ENDS
        return cycles / self.ghz / 1e3

    def moved_us(self, floats: int) -> float:
        """µs to move so many floats to or from memory."""
        return 4 * floats / self.gb_s / 1e3


GPUS = {gpu.name: gpu for gpu in (
    GPU("T4", (7, 5), 40, 64, 1.59, 320), GPU("A100", (8, 0), 108, 64, 1.41, 1555), GPU("H100", (9, 0), 132, 128, 1.98, 3350),
    GPU("B200", (10, 0), 148, 128, 1.97, 8000))}                  # A100: 40 GB; H100, B200: SXM


def gpu_like(name: str, capability: tuple[int, int], multiprocessors: int) -> GPU:
    """A GPU that was found, with clock and bandwidth a multiprocessor of the newest one here that isn't newer."""
    like = max((gpu for gpu in GPUS.values() if gpu.capability <= capability), key=lambda gpu: gpu.capability, default=GPUS["T4"])
    lanes = 64 if capability in ((7, 5), (8, 0)) else 128
    return GPU(name, capability, multiprocessors, lanes, like.ghz, like.gb_s * multiprocessors / like.multiprocessors)


@dataclass(frozen=True)
class Expected:
    """What a launch should take. blocks × splits in its grid; gflop: by the layer's definition; bound: what it waits for."""
    layer: str
    kernel: str
    blocks: int
    splits: int
    gflop: float
    megabytes: float
    us: float
    bound: str


@dataclass(frozen=True)
class Forecast(Tabular):
    """All launches of a forward pass; shown as a table. ms: milliseconds for all pictures; measured: the same by the clock, if it was."""
    model: str
    input_size: tuple[int, int, int, int]
    gpu: GPU
    launches: Sequence[Expected]
    measured: float | None = None

    @property
    def ms(self) -> float:
        return sum(launch.us for launch in self.launches) / 1e3

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON."""
        return dict(model=self.model, input_size=list(self.input_size), gpu=asdict(self.gpu), ms=self.ms,
                    ms_a_picture=self.ms / self.input_size[0], tflops=self.gflop / self.ms, measured_ms=self.measured,
                    launches=[asdict(launch) for launch in self.launches])

    @property
    def gflop(self) -> float:
        return sum(launch.gflop for launch in self.launches)

    def table(self) -> Table:
        """One row a launch, and the pass as a whole."""
        rows = [("layer", "kernel", "limited by", "blocks", "splits", "GFLOP", "MB", "µs", "TFLOP/s")]
        rows += [(e.layer, e.kernel, e.bound, str(e.blocks), str(e.splits), f"{e.gflop:.3f}", f"{e.megabytes:.2f}", f"{e.us:.1f}",
                  f"{e.gflop / e.us * 1e3:.1f}") for e in self.launches]
        return Table(rows, right=3, below=[self.summary()])

    def summary(self) -> str:
        """One line: the pass as a whole."""
        n, g = self.input_size[0], self.gpu
        measured = "" if self.measured is None else f"; measured: {self.measured:.2f} ms"
        return (f"{self.model}, {'×'.join(map(str, self.input_size))}, {g.name} ({g.multiprocessors} multiprocessors, "
                f"{g.tflops:.1f} TFLOP/s, {g.gb_s:.0f} GB/s): expected {self.ms:.2f} ms, {self.ms / n:.3f} a picture, "
                f"{self.gflop / self.ms / g.tflops:.0%} of its arithmetic{measured}")
