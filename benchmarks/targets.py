"""What minicnn must reach, row by row: at least, and the aim."""

from dataclasses import dataclass

from rows import Row
from timing import Spread

_FLOOR = (
    1.5  # a training or inference row also counts as reached within this multiple of its own floor
)


@dataclass(frozen=True)
class Target:
    """``kind``: "faster" than the best peer whose name begins with ``peer``, a "share" or a
    figure's name."""

    kind: str
    least: float
    aim: float
    peer: str = ""
    smaller_is_better: bool = False


TARGETS: dict[str, Target] = {
    "training: LeNet-5, batch 64, 2 threads": Target("faster", 5, 8, "torch"),
    "training: LeNet-5, batch 16, 2 threads": Target("faster", 6, 10, "torch"),
    "training: vgg-small, batch 64, 2 threads": Target("faster", 1.4, 2, "torch"),
    "training: colour, batch 64, 2 threads": Target("faster", 1.2, 1.8, "torch"),
    "inference: LeNet-5, batch 64, 2 threads": Target("faster", 1.3, 2, "onnxruntime"),
    "inference: LeNet-5, batch 1024, 2 threads": Target("faster", 1.3, 2, "onnxruntime"),
    "inference: vgg-small, batch 64, 2 threads": Target("faster", 1.1, 1.5, "onnxruntime"),
    "inference: vgg-small, batch 1024, 2 threads": Target("faster", 1.1, 1.5, "onnxruntime"),
    "inference: LeNet-5, one image from Python, 2 threads": Target("faster", 3, 5, "onnxruntime"),
    "inference: LeNet-5, one image in an @njit loop, 2 threads": Target(
        "faster", 4, 6, "onnxruntime"
    ),
    **{
        f"kernel: conv 3×3 {channels}, {direction}, 1 thread": Target("share", 0.8, 0.92)
        for channels in ("32→64", "64→64")
        for direction in ("forward", "dw", "backward")
    },
    "kernel: update adam, LeNet-5, 1 thread": Target("share", 0.7, 0.9),
    "second thread: LeNet-5, batch 64, 2 threads": Target(
        "faster", 1.7, 1.95, "minicnn, one thread"
    ),
    "start: compiling all that train needs, empty cache": Target(
        "seconds", 15, 8, smaller_is_better=True
    ),
    "start: command to first batch, warm cache": Target(
        "seconds", 1.5, 1.0, smaller_is_better=True
    ),
    "memory: training LeNet-5 on 60,000 images, batch 64": Target(
        "share", 0.75, 0.65, smaller_is_better=True
    ),
    "memory: growth from batch 64 to batch 4096": Target(
        "growth", 0.15, 0.0, smaller_is_better=True
    ),
}


def best_of(row: Row, peer: str) -> Spread | None:
    """The ratio to the fastest peer whose name begins with ``peer``."""
    found = [ratio for name, ratio in row.faster_than.items() if name.startswith(peer)]
    return min(found, key=lambda ratio: ratio.median, default=None)


def verdict(title: str, row: Row) -> str:
    """How the row stands to its target; empty where there is none or nothing was measured."""
    target = TARGETS.get(title)
    if target is None:
        return ""
    if target.kind == "faster":
        ratio = best_of(row, target.peer)
        value = None if ratio is None else ratio.median
    elif target.kind == "share":
        value = None if row.share is None else row.share.median
    else:
        value = row.figures.get(target.kind)
    if value is None:
        return ""
    sign = -1 if target.smaller_is_better else 1
    if sign * value >= sign * target.aim:
        return f"aim {target.aim:g} reached"
    if sign * value >= sign * target.least:
        return f"{target.least:g} reached"
    if row.over_floor is not None and row.over_floor.median <= _FLOOR:
        return "reached: near the floor"
    return f"MISSED {target.least:g}"
