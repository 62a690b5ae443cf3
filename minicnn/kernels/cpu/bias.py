"""The gradient of a bias: db[k] = Σ_m dy[m,k], summed over all samples and pixels."""

from numba import njit

from minicnn.kernels.cpu.tile import JIT
from minicnn.kernels.cpu.vector import add, lanes_of, load, store


@njit(**JIT)
def backward(op, work, grads, rows):
    """Add the column sums of dy [rows, K] to db. Four sums run side by side, since one would wait
    for each addition."""
    K, lanes = op.output_channels, lanes_of(work)
    for k in range(0, K, lanes):
        count = K - k
        dy = op.dy + k
        first = load(grads, op.bias + k, count)
        second = third = fourth = load(work, dy, 0)  # zeros
        whole = rows // 4 * 4
        for m in range(0, whole, 4):
            at = dy + m * K
            first = add(first, load(work, at, count))
            second = add(second, load(work, at + K, count))
            third = add(third, load(work, at + 2 * K, count))
            fourth = add(fourth, load(work, at + 3 * K, count))
        for m in range(whole, rows):
            first = add(first, load(work, dy + m * K, count))
        store(grads, op.bias + k, add(add(first, second), add(third, fourth)), count)
