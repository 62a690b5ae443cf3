"""What must be set before Numba, NumPy and JAX are imported; import this module first."""

import hashlib
import os
from pathlib import Path

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # numpy's products are compared with kernels on one thread
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import minicnn

SOURCES = Path(minicnn.__file__).parent
FILES = sorted(path for name in ("kernels", "program") for path in (SOURCES / name).rglob("*.py"))
KERNELS = hashlib.sha256(b"".join(path.read_bytes() for path in FILES)).hexdigest()[:12]
BASE = Path(os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "minicnn" / "benchmarks")
# Numba's cache does not see edits in imported files, so every state of the kernels has a cache of
# its own.
os.environ["NUMBA_CACHE_DIR"] = str(BASE / KERNELS)
