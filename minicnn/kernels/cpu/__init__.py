"""The kernels of the CPU, which Numba compiles, if its variables in the environment let it."""

import logging
import os
import warnings

from minicnn.errors import MinicnnError

try:
    with warnings.catch_warnings(record=True) as caught:
        from numba import config
except (ValueError, RuntimeError, Warning) as error:  # which may not say whose value is wrong
    found = ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_"))
    text = " ".join(str(error).split())
    raise MinicnnError(f"Numba does not start with {found}: {text}") from error
for each in caught:  # of a value that is not understood; a traceback follows the first line
    logging.getLogger("minicnn").warning(str(each.message).partition("\n")[0])
if config.DISABLE_JIT:
    raise MinicnnError(
        "NUMBA_DISABLE_JIT is set, and minicnn computes with compiled code: unset it"
    )
