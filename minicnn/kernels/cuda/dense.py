"""The fully-connected layer: the layout makes it a 1×1 convolution of images of one pixel, so the
passes are the same.

y[n,o]  = b[o] + Σ_i x[n,i] · w[i,o]          dx[n,i] = Σ_o dy[n,o] · w[i,o]
dw[i,o] = Σ_n x[n,i] · dy[n,o]                db[o]   = Σ_n dy[n,o]
"""

from minicnn.kernels.cuda.conv2d import LAUNCHES, backward, forward

__all__ = ["LAUNCHES", "backward", "forward"]
