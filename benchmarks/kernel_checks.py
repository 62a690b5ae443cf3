"""Is the kernel right? Asked before it is timed: against float64 sums that share no code with it.

Forward is compared number by number, and the gradients by what makes them gradients of a sum of
products A: ⟨dy, A·v⟩ = ⟨Aᵀ·dy, v⟩ for random v.
"""

import numpy as np
from kernel_calls import Laid
from rows import RowFailed


def check_product(title: str, laid: Laid, direction: str) -> None:
    """Raise `RowFailed` unless a convolution or dense layer computes its formula."""
    layer, x, dy = (
        laid.plan[0],
        laid.image("x").astype(np.float64),
        laid.image("dy").astype(np.float64),
    )
    taps = (
        (int(layer["kernel_height"]), int(layer["kernel_width"]))
        if laid.operation == "conv2d"
        else (1, 1)
    )
    shape = (*taps, int(layer["input_channels"]), int(layer["output_channels"]))
    place = slice(int(layer["weight"]), int(layer["weight"]) + int(np.prod(shape)))
    weight = laid.params[place].reshape(shape).astype(np.float64)
    bias = laid.params[layer["bias"] :][: shape[3]]
    rng = np.random.default_rng(4)
    laid.grads[:] = 0
    laid.run(direction)
    found: np.ndarray
    if direction == "forward":
        expected, found = _correlate(x, weight, layer) + bias, laid.image("y")
    elif direction == "dw":
        v = rng.standard_normal(shape)
        expected, found = (
            np.vdot(dy, _correlate(x, v, layer)),
            np.vdot(laid.grads[place].reshape(shape), v),
        )
    else:
        v = rng.standard_normal(x.shape)
        expected, found = np.vdot(dy, _correlate(v, weight, layer)), np.vdot(laid.image("dx"), v)
    # The size that such a sum of products of random numbers has.
    size = np.sqrt(np.prod(shape[:3]) * (1 if direction == "forward" else dy.size))
    error = float(np.max(np.abs(found - expected)) / size)
    if not error <= 1e-5:
        raise RowFailed(f"{title} is wrong by {error:.1e} of the size of its sums")


def _correlate(x: np.ndarray, w: np.ndarray, layer: np.void) -> np.ndarray:
    """y[n,p,q,k] = Σ x[n,p+r−top,q+s−left,c] · w[r,s,c,k] for stride 1 and padding "same" or
    none."""
    rows, columns = w.shape[:2]
    top, left = int(layer["padding_top"]), int(layer["padding_left"])
    around = ((top, rows - 1 - top), (left, columns - 1 - left)) if top else ((0, 0), (0, 0))
    padded = np.pad(x, ((0, 0), *around, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(1, 2))
    return np.einsum("npqcrs,rsck->npqk", windows, w, optimize=True)


def check_pool(title: str, laid: Laid) -> None:
    """Raise `RowFailed` unless 2×2 max pooling finds the largest and hands dy to it."""
    x = laid.image("x")
    images, height, width, channels = x.shape
    largest = x.reshape(images, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    dy = laid.image("dy").astype(np.float64)
    laid.run("forward")
    if not np.array_equal(laid.image("y"), largest):
        raise RowFailed(f"{title}: forward is not the largest of each window")
    laid.run("backward")
    if not np.isclose(
        np.vdot(laid.image("dx").astype(np.float64), x), np.vdot(dy, largest), rtol=1e-5
    ):
        raise RowFailed(f"{title}: backward does not hand dy to the largest")
