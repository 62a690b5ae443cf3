"""minicnn beside its peers, in one run: `python benchmarks/compare.py` (`--quick` for a minute of
it).

Whatever is installed takes part: torch (contiguous and channels last, with the fused Adam;
`--compile` adds torch.compile; with bfloat16, stated apart, where the processor has it), jax, keras
(plain and by XLA), onnxruntime, openvino, litert (with tensorflow, which converts), ncnn (one
image; with pnnx), and numpy for matrix products; each at its best setting, on the same number of
threads. What is compared is first checked to be the same. All times are taken in turns (`timing.py`), and only ratios are
reported: to the best peer, and to the floor, the time of the useful multiply-adds at the speed of
the register tile alone (`floor.py`).

    python benchmarks/compare.py --output results.json        # all rows, in less than 10 minutes
    python benchmarks/compare.py --only 'training: LeNet-5*'  # some: a pattern as in file names, or a part of the title
    python benchmarks/compare.py --markdown results.json      # the README's tables from such files
    python benchmarks/compare.py --against main               # beside another revision alone

Leave the machine alone meanwhile. The first run after a change of a kernel compiles everything
anew, which is not measured but takes a minute more. Exit status 1 if a result was wrong, a row
failed, or one has less than 0.98 of the revision's speed.
"""

import environment  # isort: skip  # sets variables that the others' imports read
import argparse
import fnmatch
import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kernels
import passes
import processes
import report
import revision
from floor import Tile
from peers import installed
from rich.console import Console
from rows import Context, Row, RowFailed, Task, title_of
from timing import Effort

from minicnn.backends.cpu import resolve_threads
from minicnn.kernels.cpu.tile import VECTOR_BYTES

_PEERS = ("torch", "jax", "tensorflow_cpu", "onnxruntime", "openvino", "ai-edge-litert", "ncnn")
FULL = Effort(repetitions=7, turn=0.04)
QUICK = Effort(repetitions=3, turn=0.03)


def main() -> int:
    """Measure the rows asked for, print and write them; return the exit status."""
    options = _options()
    if options.markdown:
        print(report.markdown(options.markdown))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    threads = sorted({resolve_threads(int(text)) for text in options.threads.split(",")})
    effort = QUICK if options.quick else FULL
    if options.repetitions:
        effort = Effort(options.repetitions, effort.turn)
    tasks = [
        task
        for task in (*passes.tasks(threads), *kernels.tasks(), *processes.tasks(max(threads)))
        if (task.headline or not options.quick)
        and (task.group in ("training", "inference") or not options.against)
        and _wanted(task, options.only)
    ]
    if not tasks or options.list:
        console.print(
            *(task.title for task in tasks), sep="\n", highlight=False
        ) if tasks else print("no such row")
        return 0 if tasks else 2
    if os.getloadavg()[0] > 0.5:
        print(
            f"the machine is busy (load {os.getloadavg()[0]:.1f}): the ratios will mean little",
            file=sys.stderr,
        )
    started = time.perf_counter()
    if options.against:
        peers = [revision.peer(options.against, environment.BASE / "revisions")]
    else:
        peers = installed(options.compile, with_slow=not options.quick)
    context = Context(effort, peers, Tile())
    about = _about(threads, effort, context)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for _ in _measure(tasks, context, Console(stderr=True), rows, failures):
        about["settings"]["minutes"] = round((time.perf_counter() - started) / 60, 1)
        if options.output:  # after each row, since a peer may end the process
            report.write(options.output, about, rows, failures)
    report.show(rows, console)
    for title, reason in failures.items():
        console.print(f"[red]{title}: {reason}")
    slower = _slower(rows) if options.against else []
    for title in slower:
        console.print(f"[red]slower than {options.against}: {title}", highlight=False)
    return 1 if failures or slower else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="most rows that have a target, without jax and tensorflow: a minute",
    )
    parser.add_argument("--only", metavar="PATTERN", help="rows whose title matches")
    parser.add_argument(
        "--list", action="store_true", help="print the titles of the rows, measure nothing"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile too: needs a C++ compiler"
    )
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="training and inference beside that commit, tag or branch, which is built in a folder "
        "of its own; above 1 is faster than it",
    )
    parser.add_argument(
        "--threads", default=f"1,{os.cpu_count()}", metavar="N,N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions",
        type=int,
        metavar="N",
        help=f"(default: {FULL.repetitions}, with --quick 3)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="write machine, versions and all figures"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="+",
        metavar="FILE.json",
        help="print the README's tables from these files, side by side",
    )
    return parser.parse_args()


def _wanted(task: Task, pattern: str | None) -> bool:
    return pattern is None or pattern in task.title or fnmatch.fnmatch(task.title, pattern)


def _slower(rows: list[Row]) -> list[str]:
    """The rows in which minicnn has less than 0.98 of the revision's speed."""
    return [
        title_of(row)
        for row in rows
        if any(ratio.median < 0.98 for ratio in row.faster_than.values())
    ]


def _measure(
    tasks: list[Task],
    context: Context,
    console: Console,
    rows: list[Row],
    failures: dict[str, str],
) -> Iterator[None]:
    """Run the tasks one after another, a step each; a row that fails is reported and the others go
    on."""
    for number, task in enumerate(tasks, 1):
        console.print(f"{number}/{len(tasks)} {task.title}", highlight=False)
        try:
            rows.append(task.run(context))
        except RowFailed as error:
            failures[task.title] = str(error)
        except (
            Exception
        ) as error:  # a peer that cannot do it here, say, must not end a run of minutes
            failures[task.title] = f"{type(error).__name__}: {error}"
        gc.collect()  # sessions and graphs of the peers, with their threads
        yield


def _about(threads: list[int], effort: Effort, context: Context) -> dict[str, Any]:
    """Machine, versions and settings."""
    versions = {"python": platform.python_version()}
    for name in ("minicnn-numba", "numba", "llvmlite", "numpy", *_PEERS):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "vector_bytes": VECTOR_BYTES,
            "system": platform.platform(),
            "load_before": os.getloadavg()[0],
        },
        "versions": versions,
        "settings": {
            "command": " ".join(sys.argv),
            "date": time.strftime("%Y-%m-%d"),
            "kernels": environment.KERNELS,
            "threads": threads,
            "repetitions": effort.repetitions,
            "seconds_a_turn": effort.turn,
            "peers": [peer.name for peer in context.peers],
            "tile": "×".join(map(str, context.tile.shape)),
        },
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
