"""The plan: a network as a table, one record a layer, that compiled kernels walk. The wall between what and how.

Numbers are kept in flat buffers; the plan says where in them everything lies, as offsets in elements:

    params   all weights and biases                        weight, bias
    work     what one thread needs for one chunk of images, with room for ``chunk`` samples in each of
               activations                                 input, output
               gradients of the loss by activations        d_input, d_output
             filters of joined columns                   joined_filters
             maxima of planes, sums of their slopes      maxima, sums

An activation of one sample is ``height * width * channels`` numbers (NHWC); sample n of a chunk begins at
``output + n * output_size``. ``bias`` is -1 where there is none, ``d_input`` is -1 where no gradient is needed.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

CONV2D = 1
DENSE = 2
MAX_POOL2D = 3
AVG_POOL2D = 4
RELU = 5
LEAKY_RELU = 6
SIGMOID = 7
TANH = 8
SILU = 9
GELU = 10
DROPOUT = 11

DOTS = 5  # most taps, and most filters, whose sums a convolution in planes keeps in registers together
ALIGNMENT = 16  # elements; buffers inside ``params`` and ``work`` begin at multiples of it: 64 bytes of float32
CACHE_LINE = 64  # bytes


def aligned_zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Zeros that begin where a cache line does, and that are written and not only promised, as `np.zeros` does.

    NumPy begins large arrays 16 bytes into a line, so that every vector of 64 bytes would be read from two: with lines of
    its own, a step of LeNet-5 is 7% faster. And a masked load or store whose unused lanes reach into a page that was never
    written makes the processor look into it, at every call: one image through LeNet-5 took 17 µs in place of 6.
    """
    dtype, sizes = np.dtype(dtype), (shape,) if isinstance(shape, int) else shape
    size = math.prod(sizes) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    memory.fill(0)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size].view(dtype).reshape(sizes)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy that begins where a cache line does."""
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def digest_of_kernels(device: str) -> str:
    """A digest of the source of this file and of the kernels of ``device``, cpu or cuda, which machine code depends on.

    The CPU's names a field of the plan's dtype. Numba's cache does not see edits in imported files, a user's own cached
    function does not see an upgrade of this package; but both depend on the type of the plan, and so on this name.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in ("kernels", f"kernels/{device}"):
        for path in sorted((here / folder).glob("*.py")):
            digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:12]


_INTEGERS = (
    "kind",
    "chunk",  # most samples that the workspace has room for, the same in every record
    "input_height",
    "input_width",
    "input_channels",
    "input_size",  # numbers in one sample
    "output_height",
    "output_width",
    "output_channels",
    "output_size",
    "kernel_height",
    "kernel_width",
    "stride_height",
    "stride_width",
    "padding_top",
    "padding_left",
    "dilation_height",
    "dilation_width",
    "weight",
    "bias",
    "input",
    "output",
    "d_input",
    "d_output",
    "joined",  # neighbouring output columns that a convolution with few filters computes as one
    "joined_filters",  # their filters, in ``work``, followed by the bias and by the gradient of the filters
    "pitch",  # from line to line of a plane, where a convolution and the pooling after it work in planes, else 0
    "maxima",  # the pooling's: its maxima in planes, one sample's more than ``chunk``
    "sums",  # the convolution's: sums for each lane of a vector
    "rectified",  # 1 where max pooling also does the ReLU that stood before it
    "multiply",  # address of the compiled matrix product, filled in by the backend
    "forward",  # address of the compiled forward pass of one chunk, filled in by the backend, like the next two
    "backward",  # of the backward pass
    "turn",  # of what copies the weights into the order in which the backward pass reads them
    "layer",  # number of the layer in its network: a key of dropout's random numbers
)

LAYER = np.dtype(
    [(name, np.int64) for name in _INTEGERS]
    + [("slope_or_rate", np.float64), (f"kernels_{digest_of_kernels('cpu')}", np.uint8, 8)]
)


def round_up(count: int) -> int:
    """The next multiple of `ALIGNMENT`, where the next buffer may begin."""
    return -(-count // ALIGNMENT) * ALIGNMENT
