"""What every test shares: where compiled code is kept, and how many threads there are.

Both are set in the environment before Numba is imported, and subprocesses inherit them.
"""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _digest_of_kernels() -> str:
    """Of all that is compiled: edited kernels are never tested from the cache."""
    digest = hashlib.sha256()
    for path in [ROOT / "minicnn" / "plan.py", *sorted((ROOT / "minicnn" / "kernels").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / f"numba-{_digest_of_kernels()}")
# Tests of two threads must run, and mean the same, on a machine with one core.
os.environ["NUMBA_NUM_THREADS"] = "2"
