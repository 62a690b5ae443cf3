"""The fully-connected layer, forward and backward.

y[n,o]  = b[o] + Σ_i x[n,i] · w[i,o]          dx[n,i] = Σ_o dy[n,o] · w[i,o]
dw[i,o] = Σ_n x[n,i] · dy[n,o]                db[o]   = Σ_n dy[n,o]
"""

from numba import njit

from minicnn.kernels.cpu import bias
from minicnn.kernels.cpu.tile import JIT, multiply
from minicnn.kernels.cpu.vector import transpose as transpose_matrix


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y = b + x · w for the first ``n`` samples of the chunk."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    multiply(
        op.multiply,
        n,
        outputs,
        1,
        inputs,
        work,
        op.x,
        inputs,
        0,
        1,
        params,
        op.weight,
        0,
        outputs,
        params,
        op.bias,
        0,
        work,
        op.y,
        outputs,
    )


@njit(**JIT)
def transpose(plan, params, transposed):
    """transposed[o,i] = w[i,o]: the weights as the backward pass reads them."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    transpose_matrix(params, op.weight, inputs, outputs, outputs, transposed, op.weight, inputs)


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dw += xᵀ · dy and db += Σ dy over the first ``n`` samples of the chunk, and dx = dy · wᵀ."""
    op = plan[0]
    inputs, outputs = op.input_size, op.output_size
    multiply(
        op.multiply,
        inputs,
        outputs,
        1,
        n,
        work,
        op.x,
        1,
        0,
        inputs,
        work,
        op.dy,
        0,
        outputs,
        grads,
        op.weight,
        outputs,
        grads,
        op.weight,
        outputs,
    )
    if op.bias >= 0:
        bias.backward(op, work, grads, n)
    if op.dx >= 0:
        start, row = (op.dx, inputs) if op.accumulate != 0 else (-1, 0)
        multiply(
            op.multiply,
            n,
            inputs,
            1,
            outputs,
            work,
            op.dy,
            outputs,
            0,
            1,
            transposed,
            op.weight,
            0,
            inputs,
            work,
            start,
            row,
            work,
            op.dx,
            inputs,
        )
