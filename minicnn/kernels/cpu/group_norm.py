"""Group and layer normalization: each sample by itself, over the channels of a group and all
pixels.

    y = γ · x̂ + β     x̂ = (x − μ) · ρ     ρ = 1 / √(σ² + ε)     μ, σ²: mean and variance over the M numbers of the group
    dx = ρ · (g − 1/M Σ g − x̂ · 1/M Σ g·x̂)     g = γ · dy     dγ = Σ dy·x̂     dβ = Σ dy

γ and β have one number per channel (GroupNorm; ``a0`` = 0), or one for each number of a sample
(LayerNorm, one group; ``a0`` = 1). μ and ρ of each group are ``saved``. Sums are taken in float64.
Sources: Wu, He: Group normalization, 2018; Ba, Kiros, Hinton: Layer normalization, 2016.
"""

import math

import numpy as np
from numba import njit

from minicnn.kernels.cpu.tile import JIT


@njit(**JIT)
def forward(plan, params, work, n, key, first_sample):
    """y for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, pixels, each = (
        op.input_channels,
        op.input_height * op.input_width,
        op.input_channels // op.groups,
    )
    for i in range(n):
        for group in range(op.groups):
            start = op.x + i * op.input_size + group * each
            total, square = 0.0, 0.0
            for pixel in range(pixels):
                x = work[start + pixel * C : start + pixel * C + each]
                for c in range(each):
                    total += np.float64(x[c])
            mean = total / (pixels * each)
            for pixel in range(pixels):
                x = work[start + pixel * C : start + pixel * C + each]
                for c in range(each):
                    distance = np.float64(x[c]) - mean
                    square += distance * distance
            place = op.saved + 2 * (i * op.groups + group)
            work[place] = mean
            work[place + 1] = 1.0 / math.sqrt(square / (pixels * each) + op.f0)
            mu, rho = work[place], work[place + 1]
            for pixel in range(pixels):
                at = pixel * C + group * each
                x, y = work[op.x + i * op.input_size + at :], work[op.y + i * op.input_size + at :]
                scale = op.weight + (at if op.a0 != 0 else group * each)
                shift = op.bias + (at if op.a0 != 0 else group * each)
                for c in range(each):
                    y[c] = (x[c] - mu) * rho * params[scale + c] + params[shift + c]


@njit(**JIT)
def backward(plan, params, transposed, work, grads, n, key, first_sample):
    """dγ, dβ and dx for the first ``n`` samples of the chunk."""
    op = plan[0]
    C, pixels, each = (
        op.input_channels,
        op.input_height * op.input_width,
        op.input_channels // op.groups,
    )
    number = work.dtype.type
    for i in range(n):
        for group in range(op.groups):
            place = op.saved + 2 * (i * op.groups + group)
            mu, rho = work[place], work[place + 1]
            total, product = 0.0, 0.0
            for pixel in range(pixels):
                at = pixel * C + group * each
                x, dy = (
                    work[op.x + i * op.input_size + at :],
                    work[op.dy + i * op.input_size + at :],
                )
                own = at if op.a0 != 0 else group * each
                for c in range(each):
                    normal = (x[c] - mu) * rho
                    grads[op.weight + own + c] += dy[c] * normal
                    grads[op.bias + own + c] += dy[c]
                    g = np.float64(dy[c] * params[op.weight + own + c])
                    total += g
                    product += g * normal
            if op.dx < 0:
                continue
            mean_g, mean_product = (
                number(total / (pixels * each)),
                number(product / (pixels * each)),
            )
            for pixel in range(pixels):
                at = pixel * C + group * each
                x, dy = (
                    work[op.x + i * op.input_size + at :],
                    work[op.dy + i * op.input_size + at :],
                )
                dx = work[op.dx + i * op.input_size + at :]
                own = at if op.a0 != 0 else group * each
                for c in range(each):
                    g = dy[c] * params[op.weight + own + c]
                    value = rho * (g - mean_g - (x[c] - mu) * rho * mean_product)
                    dx[c] = value + (dx[c] if op.accumulate != 0 else number(0))
