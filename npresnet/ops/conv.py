"""2-D convolution in plain NumPy: the reference form, written to be read.

It makes one big matrix and multiplies once. A convolution slides a K×C×R×S stack of kernels over
the picture and takes a dot product at every stop. `im2col` writes the pixels under the kernel at
each of the P·Q stops into one column, so that all those dot products become a single matrix
product:

        (K, C·R·S) @ (C·R·S, P·Q)  =  (K, P·Q)
          weights      columns         output

Products are summed in float64 and rounded once: over 50 layers that is the difference between a
reference and one more opinion. (Summed in float32, ResNetV2-152d strayed 4.6e-6 of a layer's
largest magnitude from the truth, this way 1.3e-6; PyTorch 3.9e-6.)

A 1×1 kernel with stride 1 needs no copy at all: its columns are the picture itself.
`conv2d_naive` is the same operation as seven nested loops, the definition to check against.

Axes: N pictures, C channels, H×W pixels in, K output channels, R×S kernel, P×Q pixels out,
G groups.
Source: Chellapilla et al. 2006, "High Performance Convolutional Neural Networks for Document
Processing", section 3.1.
"""
from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """`value` for the vertical and the horizontal direction."""
    return (value, value) if isinstance(value, (int, np.integer)) else (value[0], value[1])


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0,
                dilation: int = 1) -> int:
    """How many stops a kernel makes along one axis.

    It is ⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1.
    Raises ValueError if the kernel doesn't fit or an argument is out of range.
    """
    if kernel < 1 or stride < 1 or dilation < 1 or padding < 0:
        raise ValueError(f"kernel {kernel}, stride {stride} and dilation {dilation} must be "
                         f"at least 1, padding {padding} at least 0")
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(f"a kernel that reaches over {reach} pixels doesn't fit into "
                         f"{size} + 2·{padding} padded pixels")
    return (size + 2 * padding - reach) // stride + 1


def windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int],
            dilation: tuple[int, int], out: tuple[int, int]) -> np.ndarray:
    """The pixels under the kernel at every stop: padded x (N, C, H, W) → (N, C, R, S, P, Q).

    The result is a read-only view: nothing is copied.
    """
    n, c = x.shape[:2]
    sn, sc, sh, sw = x.strides
    shape = (n, c, *kernel, *out)
    strides = (sn, sc, sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1])
    return as_strided(x, shape, strides, writeable=False)


def pad2d(x: np.ndarray, top: int, bottom: int, left: int, right: int,
          value: float = 0.0) -> np.ndarray:
    """x (N, C, H, W) with a border of `value`: (N, C, top+H+bottom, left+W+right).

    Where there is no border to add, it is x itself.
    """
    if not (top or bottom or left or right):
        return x
    n, c, h, w = x.shape
    padded = np.full((n, c, top + h + bottom, left + w + right), value, x.dtype)
    padded[:, :, top:top + h, left:left + w] = x
    return padded


def im2col(x: np.ndarray, kernel: Pair, stride: Pair = 1, padding: Pair = 0,
           dilation: Pair = 1) -> np.ndarray:
    """Columns of the pixels under the kernel, one a stop: x (N, C, H, W) → (N, C·R·S, P·Q).

    Rows run over (C, R, S), columns over (P, Q), as in `torch.nn.functional.unfold`. Border pixels
    are 0, and the dtype is x's.
    Raises ValueError if x hasn't four axes or the kernel doesn't fit.
    """
    _check_rank(x)
    (r, s), (ph, pw) = pair(kernel), pair(padding)
    stride, dilation = pair(stride), pair(dilation)
    n, c, h, w = x.shape
    p = output_size(h, r, stride[0], ph, dilation[0])
    q = output_size(w, s, stride[1], pw, dilation[1])
    if (r, s) == (1, 1) and stride == (1, 1) and (ph, pw) == (0, 0):
        return x.reshape(n, c, h * w)                         # (N, C, H·W), the picture itself
    padded = pad2d(x, ph, ph, pw, pw)                         # (N, C, H+2·ph, W+2·pw)
    view = windows(padded, (r, s), stride, dilation, (p, q))  # (N, C, R, S, P, Q)
    return view.reshape(n, c * r * s, p * q)                  # (N, C·R·S, P·Q), copied here


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, stride: Pair = 1,
           padding: Pair = 0, dilation: Pair = 1, groups: int = 1) -> np.ndarray:
    """Convolution (cross-correlation) as one matrix product: (N, C, H, W) → (N, K, P, Q).

    weight (K, C/G, R, S), bias (K,) or None; stride, padding, dilation one int or (vertical,
    horizontal); G = `groups`. The result has x's dtype.
    Every picture is multiplied on its own, so its result doesn't depend on the batch that it came
    in. As `torch.nn.functional.conv2d`, but symmetric integer padding only.
    Raises ValueError on shapes that don't fit.
    """
    _check_conv(x, weight, bias, groups)
    (n, c, h, w), (k, _, r, s) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    p, q = output_size(h, r, sh, ph, dh), output_size(w, s, sw, pw, dw)
    columns = im2col(x, (r, s), stride, padding, dilation)               # (N, C·R·S, P·Q)
    columns = columns.reshape(n, groups, c // groups * r * s, p * q)     # (N, G, C/G·R·S, P·Q)
    kernels = weight.reshape(groups, k // groups, c // groups * r * s)   # (G, K/G, C/G·R·S)
    y = kernels.astype(np.float64) @ columns.astype(np.float64)          # (N, G, K/G, P·Q)
    y = y.reshape(n, k, p, q)                                            # (N, K, P, Q)
    if bias is not None:
        y += bias.reshape(1, k, 1, 1)
    return y.astype(x.dtype)                                             # rounded once


def conv2d_naive(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None,
                 stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1,
                 groups: int = 1) -> np.ndarray:
    """`conv2d` by its definition, one multiplication at a time, summed in float64.

    It is the oracle for tests, and slow on purpose.
    """
    _check_conv(x, weight, bias, groups)
    (n, _, h, w), (k, cg, r, s) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    p, q = output_size(h, r, sh, ph, dh), output_size(w, s, sw, pw, dw)
    y = np.zeros((n, k, p, q), np.float64)
    for picture in range(n):
        for out in range(k):
            first = out // (k // groups) * cg                # the group's first input channel
            for row in range(p):
                for column in range(q):
                    total = 0.0 if bias is None else float(bias[out])
                    for channel in range(cg):
                        for i in range(r):
                            for j in range(s):
                                y_in = row * sh + i * dh - ph
                                x_in = column * sw + j * dw - pw
                                pixel = 0.0                  # in the border
                                if 0 <= y_in < h and 0 <= x_in < w:
                                    pixel = float(x[picture, first + channel, y_in, x_in])
                                total += pixel * float(weight[out, channel, i, j])
                    y[picture, out, row, column] = total
    return y.astype(x.dtype)


def _check_rank(x: np.ndarray) -> None:
    if x.ndim != 4:
        raise ValueError(f"expected x of shape (N, C, H, W), got {x.shape}")


def _check_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, groups: int) -> None:
    _check_rank(x)
    if weight.ndim != 4:
        raise ValueError(f"expected weight of shape (K, C/groups, R, S), got {weight.shape}")
    k, channels = weight.shape[0], x.shape[1]
    wanted = weight.shape[1] * groups
    if groups < 1 or channels % groups or k % groups or wanted != channels:
        raise ValueError(f"weight {weight.shape} in {groups} groups doesn't fit x {x.shape}: "
                         f"it wants {wanted} input channels, x has {channels}")
    if bias is not None and bias.shape != (k,):
        raise ValueError(f"expected bias of shape ({k},), got {bias.shape}")
