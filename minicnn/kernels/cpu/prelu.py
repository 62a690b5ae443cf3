"""PReLU: a leaky ReLU whose slope below zero is a parameter of each channel.

    y = x where x > 0, else w[c] · x          dx = dy or w[c] · dy     dw[c] = Σ dy · x where x ≤ 0

Source: He, Zhang, Ren, Sun: Delving deep into rectifiers, 2015.
"""

from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y for the first ``n`` samples of the chunk."""
    op = plan[0]
    C = op.input_channels
    w = params[op.weight : op.weight + C]
    for m in range(n * op.input_height * op.input_width):
        for c in range(C):
            x = work[op.x + m * C + c]
            work[op.y + m * C + c] = x * w[c] if x < 0 else x


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, zero = op.input_channels, work.dtype.type(0)
    for m in range(n * op.input_height * op.input_width):
        for c in range(C):
            x, dy = work[op.x + m * C + c], work[op.dy + m * C + c]
            grads[op.weight + c] += zero if x > zero else dy * x
            if op.dx >= 0:
                dx = dy if x > zero else dy * params[op.weight + c]
                work[op.dx + m * C + c] = dx + (
                    work[op.dx + m * C + c] if op.accumulate != 0 else zero
                )
