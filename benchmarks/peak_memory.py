"""The most memory that this process has held."""

import resource
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """Peak resident set in MB (10⁶ bytes).

    Linux's own high-water mark where there is one: `ru_maxrss` of a child process starts with what
    its parent held when it was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
