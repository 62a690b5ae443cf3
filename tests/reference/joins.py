"""The layers of the oracle that read several values: forward from a list of them, backward to the
gradient of each."""

import numpy as np


def add_forward(xs):
    """y = Σ_i x_i."""
    return np.sum([np.asarray(x, np.float64) for x in xs], axis=0)


def add_backward(xs, dy):
    """dx_i = dy."""
    return [np.array(dy, np.float64) for _ in xs]


def concat_forward(xs):
    """y = the channels (last axis) of every x_i, one after another."""
    return np.concatenate([np.asarray(x, np.float64) for x in xs], axis=-1)


def concat_backward(xs, dy):
    """dx_i = the channels of dy that were x_i's."""
    ends = np.cumsum([x.shape[-1] for x in xs])
    return [
        np.array(dy, np.float64)[..., end - x.shape[-1] : end]
        for x, end in zip(xs, ends, strict=True)
    ]


def _gate(x, g):
    """g as it multiplies x [N,H,W,C] or [N,C]: itself, or [N,1,1,C] where it was [N,C] beside an
    image."""
    g = np.asarray(g, np.float64)
    return g if g.ndim == np.ndim(x) else g.reshape(len(g), 1, 1, -1)


def multiply_forward(xs):
    """y = x · g; g is of x's shape, or a gate [N,1,1,C] or [N,C]: one number per channel."""
    x, g = xs
    return np.asarray(x, np.float64) * _gate(x, g)


def multiply_backward(xs, dy):
    """dx = dy · g;  dg = dy · x, summed over the pixels that a number of the gate multiplies."""
    x, g = xs
    dy, gate = np.asarray(dy, np.float64), _gate(x, g)
    dg = dy * x
    for axis in range(1, dg.ndim):
        if gate.shape[axis] != dg.shape[axis]:
            dg = dg.sum(axis=axis, keepdims=True)
    return [dy * gate, dg.reshape(np.shape(g))]
