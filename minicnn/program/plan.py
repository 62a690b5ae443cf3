"""The plan: a program as a table, one record an operation, that compiled kernels walk. The wall
between what and how.

Numbers are kept in flat buffers; a record says where in them everything lies, as offsets in
elements, -1 for none:

    params   weights and biases, then state such as running means     weight, bias, running_mean, running_var
             behind them, where they never change: weights as kernels read them   prepared
    work     what one thread needs for one chunk of samples, with room for ``chunk`` of them in each of
               values                                                 x, x2 (read), y (written)
               gradients of the loss with respect to them             dx, dx2 (written, or added to), dy (read)
             numbers that a forward pass keeps for its backward pass  saved
             numbers that live during one pass of one operation       scratch

Where an operation needs the whole batch, the workspace may have room for all chunks of a shard, its
parts: each has records of its own.

A value of one sample is ``height * width * channels`` numbers (NHWC); sample n of a chunk begins at
``y + n * output_size``. All fields have eight bytes, so that CUDA reads the same memory as int64.
"""

import numpy as np

PLACES = (
    "x",
    "x2",
    "y",
    "dx",
    "dx2",
    "dy",
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "prepared",
    "saved",
    "scratch",
)
_INTEGERS = (
    # the same in every record:
    "chunk",  # most samples that the workspace has room for
    "itemsize",  # bytes of the numbers that the kernels are compiled for
    "params_size",
    "work_size",
    "image_height",
    "image_width",
    "image_channels",
    # number in its network of the last layer that the operation stands for: a key of dropout's
    # random numbers
    "layer",
    "part",  # number of this chunk among those of a shard that the workspace has room for
    *PLACES,
    "accumulate",  # 1: dx is added to, since another reader of x has written it before
    "accumulate2",  # the same of dx2
    "input_height",
    "input_width",
    "input_channels",
    "input_size",  # numbers in one sample of x
    "second_size",  # in one sample of x2
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
    "groups",
    "relu",  # 1: the operation ends with a ReLU that was fused into it
    "again",  # 1: y, which did not stay, is written once more, in the place of a backward pass
    "a0",  # whole numbers that the operation gives a meaning
    "a1",
)
ADDRESSES = (  # of compiled functions, filled in by the backend; 0: nothing to do
    "multiply",  # the matrix product
    "forward",
    "backward",
    "transpose",  # copies the weights into the order in which the backward pass reads them
    "combine",  # after the forward pass of all shards: what they measured becomes what they all use
    "combine_backward",  # the same before the backward pass
    "finish",  # after a step: the state
)


def record_type(name: str) -> np.dtype:
    """The dtype of a record, which ends with a field of eight unused bytes called ``name``.

    Numba's cache, and that of a user's own compiled function, depends on the type of the plan, and
    so on this name.
    """
    integers = [(field, np.int64) for field in (*_INTEGERS, *ADDRESSES)]
    return np.dtype([*integers, ("f0", np.float64), ("f1", np.float64), (name, np.uint8, 8)])


RECORD = record_type("digest")


def fields_of(record: np.void) -> dict[str, int]:
    """The whole numbers of a record, by name."""
    return {name: int(record[name]) for name in (*_INTEGERS, *ADDRESSES)}
