"""What must be set before Numba, NumPy and JAX are imported; import this module first."""

import os
from pathlib import Path

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # numpy's products are compared with kernels on one thread
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from minicnn.kernels.sources import digest_of_folders

KERNELS = digest_of_folders("kernels", "program")
BASE = Path(os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "minicnn" / "benchmarks")
# Numba's cache does not see edits in imported files, so every state of the kernels has a cache of
# its own.
os.environ["NUMBA_CACHE_DIR"] = str(BASE / KERNELS)
