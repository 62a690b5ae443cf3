from numba import njit
from minicnn.kernels.cpu.tile import JIT
@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    op = plan[0]
    count = n * op.output_size
    x, y = work[op.x : op.x + count], work[op.y : op.y + count]
    zero = work.dtype.type(0)
    for i in range(count):
        y[i] = zero if x[i] < zero else x[i]
@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    op = plan[0]
    count = n * op.output_size
    y = work[op.y : op.y + count]
    d = work[op.dy : op.dy + count]
    e = work[op.dx : op.dx + count]
    zero = work.dtype.type(0)
    for i in range(count):
        dy = d[i]
        v = dy if y[i] > zero else zero
        e[i] = v + (e[i] if op.accumulate else zero)
