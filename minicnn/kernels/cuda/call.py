"""Kernels made ready for a launch: compiled for the GPU at hand, or taken from the disk cache;
plain in the simulator."""

import copyreg
import functools
import hashlib
import inspect
from pathlib import Path
from typing import Any

import numba_cuda
from numba import cuda, from_dtype, types

from minicnn.kernels import augment, common, generated
from minicnn.kernels.cuda.tile import SIMULATED, THREADS, device, launch_bounds
from minicnn.kernels.generated import imported
from minicnn.program import plan

# The name of the module holds the digest: Numba's disk cache does not see edits in the files that a
# kernel is made of. Without link-time optimization, so that what runs is what the tests of the
# machine code look at.
_WRAPPER = """\
from numba import cuda


@cuda.jit(signature, cache=True, lto=False, launch_bounds=bounds)
def compiled({arguments}):
    body({arguments})
"""


@functools.cache
def digest() -> str:
    """What machine code for the device depends on besides a rule: the kernels' sources and the
    compiler's version."""
    here = Path(__file__).parent
    modules = augment, common, generated, plan
    shared = [Path(module.__file__) for module in modules]
    sources = *sorted(here.glob("*.py")), *shared
    made = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{made[:12]}_{numba_cuda.__version__.replace('.', '_')}"


if not SIMULATED:
    from numba.cuda.core.ir import VarMap

    def _same(names: Any) -> Any:
        copy = VarMap()
        copy._con = dict(names._con)
        return copy

    # To inline a function, Numba deep-copies each of its blocks, and with each block every variable
    # of the function: three quarters of the time that a kernel takes to compile. Nobody changes the
    # variables, so a new list of the same is enough.
    copyreg.pickle(VarMap, lambda names: (functools.partial(_same, names), ()))

# what is ready to be launched, with its signature, by function and identity of the signature
_ready: dict = {}
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small network's launches are small


def launchable(function, signature):
    """The kernel ``function`` for one signature, to be called as ``launchable(...)[blocks,
    THREADS](...)``."""
    key = function, id(signature)  # hashing a signature would take longer than a launch
    if key not in _ready:
        _ready[key] = (
            (cuda.jit(function) if SIMULATED else _compiled(function, signature)),
            signature,
        )
    return _ready[key][0]


def _compiled(function, signature):
    source = _WRAPPER.format(arguments=", ".join(inspect.signature(function).parameters))
    depends = hashlib.sha256(f"{function.__module__} {signature} {digest()}".encode()).hexdigest()[
        :32
    ]
    scope = {"body": device(function), "signature": signature, "bounds": launch_bounds(function)}
    return imported(f"minicnn_cuda_{function.__name__}_{depends}", source, lambda: scope).compiled


def launch(function, signature, blocks, *arguments):
    """Start ``blocks`` blocks of `THREADS` threads, at least one; the GPU works on while the host
    goes on."""
    if SIMULATED:
        _check_types(function, signature, arguments)
    launchable(function, signature)[max(1, min(blocks, 65535)), THREADS](*arguments)


def _check_types(function, signature, arguments):
    """Raise `TypeError` for arrays of another type than the signature's, which neither the
    simulator nor a GPU notices."""
    for number, (kind, argument) in enumerate(zip(signature.args, arguments, strict=True)):
        if isinstance(kind, types.Array):
            dtype, contiguous = from_dtype(argument.dtype), argument.flags.c_contiguous
            if (dtype, argument.ndim, contiguous) != (kind.dtype, kind.ndim, True):
                raise TypeError(
                    f"{function.__name__}: argument {number} is {dtype}, {argument.ndim}-dimensional, "
                    f"contiguous: {contiguous}, not {kind}"
                )
