"""What `train --record` costs: the same run with and without it, alternating, in seconds of
training and validating.

    python benchmarks/record.py [--model lenet5] [--record EVERY] [--repetitions 7]

Each run trains 5 epochs on the embedded data and writes a run folder. The share is the median over
the repetitions of recorded / plain − 1; the lowest and the highest are in brackets. The issue asks
for less than 5%.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import minicnn


def seconds(model: str, record: int | None) -> float:
    """Of one run, from the first epoch to the end, files written."""
    data = minicnn.load_dataset("fashion-mnist-12k")
    trainer = minicnn.Trainer(
        minicnn.preset(model, data.image_shape, len(data.classes)), epochs=5, record=record
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        history = trainer.fit(data, output=Path(folder))
        return time.perf_counter() - begun - history.ended.compile_seconds


def main() -> None:
    """Print a line a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["lenet5", "vgg-small"])
    parser.add_argument(
        "--record",
        type=int,
        default=0,
        metavar="EVERY",
        help="batches a line (default: an epoch's)",
    )
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    for model in arguments.model:
        seconds(model, arguments.record)  # everything is compiled and in the caches
        pairs = [
            (seconds(model, None), seconds(model, arguments.record))
            for _ in range(arguments.repetitions)
        ]
        shares = [100 * (recorded / plain - 1) for plain, recorded in pairs]
        plain = statistics.median(pair[0] for pair in pairs)
        print(
            f"{model}: {plain:.2f} s without, {statistics.median(shares):+.1f}% with a record "
            f"({min(shares):+.1f} to {max(shares):+.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
