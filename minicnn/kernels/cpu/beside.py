"""Compiles what a network needs in two processes at once if the disk cache is empty.

Numba compiles under one lock, so only processes share the work.
"""

import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from numba import config

from minicnn.kernels.cpu import infer, passes, step, tile
from minicnn.kernels.cpu.cache import is_empty
from minicnn.program.operations import OPERATIONS

# What is compiled for all networks, by name.
STEPS = {
    "infer": infer.compile_infer,
    "infer_part": infer.infer_address,
    "step": step.compile_step,
    "step_part": step.part_address,
    "tile": tile.multiply_address,
}
_asked: set[tuple[str, str, str]] = set()  # of this process


def compile_beside(tasks: Iterable[tuple[str, str]], dtype: str) -> None:
    """Where the disk cache is empty, compile ``tasks`` for buffers of ``dtype`` together with
    another process: pairs of an operation and a function's name, or of nothing and one of `STEPS`.

    The other process begins at the first and this one at the last; each loads what the other has
    compiled. If it fails, all is compiled here. None is started with one core, or where Python runs
    inside another program.
    """
    both = sorted({(kind, name, dtype) for kind, name in tasks} - _asked, key=_order)
    _asked.update(both)
    alone = config.NUMBA_NUM_THREADS == 1 or not Path(sys.executable or "").stem.startswith(
        "python"
    )
    if alone or len(both) < 4 or not is_empty(tile.product_address):
        return
    code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import compile_task\n"
    code += f"for task in {both}: print(flush=True); compile_task(*task)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        begun: list[bytes] = []
        watch = threading.Thread(target=lambda: [begun.append(line) for line in other.stdout or ()])
        watch.start()
        while len(begun) < len(both):
            compile_task(*both.pop())
        watch.join()


def _order(task: tuple[str, str, str]) -> tuple[bool, str, str]:
    """Backward passes, which take longest, at one end, and steps at the other."""
    return not task[0], task[1], task[0]


def compile_task(kind: str, name: str, dtype: str) -> None:
    """Compile one task, or load it from the disk cache."""
    if kind:
        passes.kernel_address(OPERATIONS[kind], name, dtype)
    else:
        STEPS[name](dtype)
