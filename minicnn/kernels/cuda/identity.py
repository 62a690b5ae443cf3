"""The same numbers under another shape, forward and backward: y is x, and dx = dy where they are
not in one place."""

from minicnn.kernels.cuda.add import backward, handed_on
from minicnn.kernels.cuda.launches import Launch

LAUNCHES = {"forward": (), "backward": (Launch(backward, handed_on),)}
