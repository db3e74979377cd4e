"""The operations that ResNetV2 is made of, in plain NumPy. They know nothing of models.

Each file holds one operation in the form to read and step through; forms named `*_naive` are the
textbook loops, there to learn from and to test against. Every operation follows PyTorch's semantics
(NaN included), takes arrays that may be read-only or non-contiguous, and never changes its input.

    N  pictures in the batch        K    output channels
    C  channels                     R×S  kernel height × width
    H×W  pixels in                  P×Q  pixels out
"""
from .conv import conv2d, conv2d_naive, im2col, output_size
from .linear import linear, softmax, topk
from .norm import batch_norm, relu
from .pool import (
                   avg_pool2d,
                   avg_pool2d_naive,
                   global_avg_pool,
                   global_max_pool,
                   global_pool,
                   max_pool2d,
                   max_pool2d_naive,
)
from .winograd import winograd_conv2d, winograd_f23, winograd_matrices

__all__ = ["avg_pool2d", "avg_pool2d_naive", "batch_norm", "conv2d", "conv2d_naive",
           "global_avg_pool", "global_max_pool", "global_pool", "im2col", "linear", "max_pool2d",
           "max_pool2d_naive", "output_size", "relu", "softmax", "topk", "winograd_conv2d",
           "winograd_f23", "winograd_matrices"]
