"""The one place that imports numba-cuda, and the operations that its language lacks: vector loads, vector stores and the outer product
of two fragments held in registers.

A kernel lives from what it keeps in registers. Numba's `cuda.local.array` is memory until the compiler proves otherwise, and often it
doesn't (a stack frame, and every access a load); a tuple is a value from the start. So accumulators are tuples of floats here, and
`fma_outer` writes the whole outer product out as straight-line code. Loads and stores of four floats are one instruction of 128 bits
(LDG.128, LDS.128), which has to be promised an address that is a multiple of 16 bytes: that is what `load4` and `store4` add.

In the simulator (NUMBA_ENABLE_CUDASIM=1 before the first import) the same names are plain Python, and check that promise.

Source: NVIDIA, "CUDA C++ Programming Guide", device memory accesses; LLVM language reference, `load`, `store`, `llvm.fma`.
"""
from __future__ import annotations

import math
import warnings
from contextlib import nullcontext, suppress

import numpy as np

from npresnet.lower.sources import named_by_sources

MISSING = "numba-cuda is not installed: pip install \"npresnet[cuda]\" (or \"npresnet[cuda12]\")"

try:
    import numba_cuda  # noqa: F401  (without it `numba.cuda` is Numba's own old copy, or nothing)
    from numba import cuda
    from numba import types as cuda_types
except ImportError as error:
    raise ImportError(MISSING) from error

SIMULATOR = bool(cuda.config.ENABLE_CUDASIM) if hasattr(cuda, "config") else False
FLAT, STRIDED, INT = cuda_types.float32[::1], cuda_types.float32[:, :, :, :], cuda_types.int32       # types of kernels' arguments

if SIMULATOR:
    ALIGN = None                                                  # the simulator knows no alignment

    def load4(array, i):
        """The four floats from array[i] on; i is a multiple of 4. One instruction of 128 bits."""
        assert i % 4 == 0 and 0 <= i and i + 4 <= array.shape[0], f"load4 at {i} of {array.shape[0]} floats"
        return array[i], array[i + 1], array[i + 2], array[i + 3]

    def load4_if(array, i, valid):
        """`load4` where `valid`, else four zeros, and nothing is read."""
        return load4(array, i) if valid else (np.float32(0),) * 4

    def store4(array, i, a, b, c, d):
        """Write four floats to array[i], array[i + 1], …; i is a multiple of 4. One instruction of 128 bits."""
        assert i % 4 == 0 and 0 <= i and i + 4 <= array.shape[0], f"store4 at {i} of {array.shape[0]} floats"
        array[i], array[i + 1], array[i + 2], array[i + 3] = a, b, c, d

    def fma_outer(acc, a, b):
        """acc[i · len(b) + j] + a[i] · b[j] for all i, j: one FFMA each, nothing else."""
        return np.array(acc, np.float32) + np.multiply.outer(np.array(a, np.float32), np.array(b, np.float32)).ravel()
else:
    import numba
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.dispatcher import CUDACache, CUDACacheImpl
    from numba.cuda.extending import intrinsic
    from numba.cuda.serialize import dumps

    from npresnet.lower.cache import KeptCode, Locator

    class KernelCacheImpl(CUDACacheImpl):
        """numba-cuda's way to store a kernel, with a place of ours."""
        _locator_classes = [Locator]

    class KernelCache(CUDACache):
        """numba-cuda's cache of one kernel, whose file is looked at before it is believed."""
        _impl_class = KernelCacheImpl

        def __init__(self, function):
            super().__init__(function)
            self._cache_file = KeptCode(function.__qualname__, numba.__version__, dumps)

    ALIGN = 16                                                    # bytes: of shared arrays that `load4` reads
    FOUR = ir.VectorType(ir.FloatType(), 4)

    def _pointer(context, builder, kind, array, i):
        """Address of array[i], as one of four floats. No bounds check, no wrap-around for negative i."""
        data = context.make_array(kind)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [i]), FOUR.as_pointer(data.type.addrspace))

    def _unpack(builder, vector):
        """<4 x float> as a tuple of Numba's."""
        out = ir.Constant(ir.ArrayType(ir.FloatType(), 4), ir.Undefined)
        for lane in range(4):
            out = builder.insert_value(out, builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)), lane)
        return out

    @intrinsic
    def load4(typingctx, array, i):
        """The four floats from array[i] on; i is a multiple of 4. One instruction of 128 bits."""
        def codegen(context, builder, signature, args):
            return _unpack(builder, builder.load(_pointer(context, builder, signature.args[0], *args), align=16))
        return types.UniTuple(types.float32, 4)(array, i), codegen

    @intrinsic
    def load4_if(typingctx, array, i, valid):
        """`load4` where `valid`, else four zeros, and nothing is read."""
        def codegen(context, builder, signature, args):
            array, i, valid = args
            before = builder.block
            with builder.if_then(context.cast(builder, valid, signature.args[2], types.boolean)):
                loaded = builder.load(_pointer(context, builder, signature.args[0], array, i), align=16)
                inside = builder.block
            vector = builder.phi(FOUR)
            vector.add_incoming(ir.Constant(FOUR, [0.0] * 4), before)
            vector.add_incoming(loaded, inside)
            return _unpack(builder, vector)
        return types.UniTuple(types.float32, 4)(array, i, valid), codegen

    @intrinsic
    def store4(typingctx, array, i, a, b, c, d):
        """Write four floats to array[i], array[i + 1], …; i is a multiple of 4. One instruction of 128 bits."""
        def codegen(context, builder, signature, args):
            vector = ir.Constant(FOUR, ir.Undefined)
            for lane, (value, kind) in enumerate(zip(args[2:], signature.args[2:])):
                value = context.cast(builder, value, kind, types.float32)
                vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), lane))
            builder.store(vector, _pointer(context, builder, signature.args[0], *args[:2]), align=16)
            return context.get_dummy_value()
        return types.void(array, i, a, b, c, d), codegen

    @intrinsic
    def fma_outer(typingctx, acc, a, b):
        """acc[i · len(b) + j] + a[i] · b[j] for all i, j: one FFMA each, nothing else."""
        def codegen(context, builder, signature, args):
            acc, a, b = args
            out = ir.Constant(acc.type, ir.Undefined)
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3), "llvm.fma.f32")
            for i in range(a.type.count):
                for j in range(b.type.count):
                    at = i * b.type.count + j
                    value = builder.call(fma, [builder.extract_value(v, k) for v, k in ((a, i), (b, j), (acc, at))])
                    out = builder.insert_value(out, value, at)
            return out
        return acc(acc, a, b), codegen


def jit(signature: tuple, block: int | tuple[int, int], resident: int = 1):
    """Decorator: a kernel for arguments of the Numba types `signature`, launched with `block` threads, and with registers so few that
    `resident` blocks fit on a multiprocessor. It keeps all that as attributes, and its compiled code on disk
    (`npresnet/lower/cache.py`).

    On disk a kernel is known by a name that says from which sources it was made: it is compiled anew after
    a change to a device function that it calls, wherever that stands.
    """
    def make(function):
        named_by_sources(function, __package__)
        block_shape = (block,) if isinstance(block, int) else block
        threads = math.prod(block_shape)
        if SIMULATOR:
            kernel = cuda.jit(function)
        else:
            kernel = cuda.jit(launch_bounds=(threads, resident))(function)
            kernel._cache = KernelCache(function)
        kernel.name, kernel.signature = function.__name__, signature
        kernel.block, kernel.threads, kernel.resident = block_shape, threads, resident
        return kernel
    return make


def as_device_array(x):
    """x, an array in a GPU's memory, as one of numba-cuda's, without a copy."""
    return x if getattr(x, "__cuda_ndarray__", False) else cuda.as_cuda_array(x)


def current_device() -> int:
    """Number of the GPU that this thread uses."""
    return 0 if SIMULATOR else cuda.current_context().device.id


def device_of(x) -> int | None:
    """Number of the GPU in whose memory numba-cuda's array x lies; None if the driver doesn't say."""
    if SIMULATOR:
        return None
    from cuda.bindings import driver

    what = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, number = driver.cuPointerGetAttribute(what, x.device_ctypes_pointer.value or 0)
    return None if error else number


def configured(kernel, grid: tuple[int, ...], stream):
    """`kernel`, to be called with its arguments: a launch on `stream` of `grid` blocks of its own shape."""
    if SIMULATOR:                                                 # there kernel[…] is the kernel itself, changed: not before it is called
        return lambda *args: kernel[grid, kernel.block](*args)  # noqa: PLW0108
    from numba.cuda.core.errors import NumbaPerformanceWarning

    with warnings.catch_warnings():                               # of grids that are small, which small pictures have
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        return kernel[grid, kernel.block, stream]


def announced():
    """Context: tells the user when numba-cuda begins to compile."""
    if SIMULATOR:
        return nullcontext()
    from numba.cuda.core.event import Listener, install_listener

    from npresnet.lower.announcement import Announcement

    Listener.register(Announcement)                               # numba-cuda has a copy of Numba's events
    return install_listener("numba-cuda:run_pass", Announcement("the CUDA kernels"))


def record(launches: list[tuple]):
    """A CUDA graph of `launches`, each (kernel, grid, arguments), which must all have run before; None in the simulator, or, with a
    warning, where the driver doesn't record. The arguments have to stay where they are for as long as the graph is used."""
    if SIMULATOR:
        return None
    from cuda.core import Device

    device = Device(current_device())
    device.set_current()
    builder = device.create_graph_builder()
    try:
        builder.begin_building()
        for kernel, grid, args in launches:
            configured(kernel, grid, builder.stream)(*args)
        return builder.end_building().complete()
    except Exception as error:                                    # the same launches one by one are slower, but no less right
        with suppress(Exception):                                 # closing says again that recording has failed
            builder.close()
        warnings.warn(f"no CUDA graph could be recorded ({type(error).__name__}: {error}); kernels are launched one by one", stacklevel=2)
        return None


def replay(graph, stream) -> None:
    """Launch a recorded graph on numba-cuda's `stream`."""
    from cuda.core import Stream

    graph.launch(Stream.from_handle(int(stream.handle)))


def compile_ptx(kernel, cc: tuple[int, int]) -> str:
    """PTX of `kernel` (a function under `jit`) for compute capability `cc`, without a GPU.

    numba-cuda asks the current device for its capability when a kernel calls a device function; here `cc` answers in its place (device
    functions are kept as NVVM IR, which is the same for all).
    """
    from types import SimpleNamespace
    from unittest.mock import patch

    device = SimpleNamespace(compute_capability=cc)
    with patch("numba.cuda.dispatcher.get_current_device", lambda: device):
        ptx, _ = cuda.compile_ptx(kernel.py_func, kernel.signature, cc=cc, launch_bounds=kernel.targetoptions["launch_bounds"])
    return ptx
