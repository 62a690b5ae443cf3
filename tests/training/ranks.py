"""What a rank does for `test_distributed.py`: trains, and rank 0 prints what came out, down to its bits.

mpiexec -n RANKS python ranks.py THREADS distributed        python ranks.py THREADS alone
mpiexec -n RANKS python ranks.py nan | error | interrupt | share | memory | overlapped | resume FOLDER | read PATH...
mpiexec -n RANKS python ranks.py device cpu | device cuda [memory]
"""

import json
import os
import signal
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np

from minicnn import (
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    Network,
    ReLU,
    Residual,
    Settings,
    Trainer,
)
from minicnn.backends import cpu, layout
from minicnn.data import idx, images, load_dataset, npz, reading
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.distributed import connect
from minicnn.training.events import BatchDone
from minicnn.training.inputs import fingerprint

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.training import small

SHAPE, CLASSES = (8, 8, 2), 3


def networks():
    plain = [Conv2d(5, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.3), Dense(CLASSES)]
    block = [Conv2d(6, 3, padding="same", bias=False), BatchNorm2d()]
    normalized = [*block, ReLU(), Residual(block), ReLU(), GlobalAvgPool2d(), Dense(CLASSES)]
    return {"plain": Network(SHAPE, plain), "normalized": Network(SHAPE, normalized)}


def arrays(count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(count) % CLASSES


# In batches of 8 the last one of 45 images has 5, and in batches of 11 one, which is one shard.
RUNS = {
    "plain": {"clip_grad": 0.5, "augment": {"flip": True, "crop": 1}, "batch_size": 8},
    "normalized": {"ema": 0.5, "batch_size": 11, "optimizer": "momentum", "learning_rate": 0.1},
}


def train(name, threads, distributed, **options):
    options = {"epochs": 2, "threads": threads, **RUNS[name], **options}
    trainer = Trainer(networks()[name], distributed=distributed, **options)
    history = trainer.fit(*arrays(50, 1), test=arrays(7, 2), progress=False)
    epochs = [
        {field: value for field, value in vars(epoch).items() if field != "seconds"}
        for epoch in history.epochs
    ]
    weights = [trainer.progress.params, trainer.progress.last, trainer.progress.slots]
    found = [zlib.crc32(array) for array in weights]
    return {"epochs": epochs, "test": history.ended.test.loss, "weights": found}, trainer


def goes_wrong(what):
    """After three batches rank 1 gets a weight that is no number, fails, or is interrupted."""
    trainer = Trainer(networks()["plain"], distributed=True, batch_size=8, threads=1)

    def callback(event):
        if isinstance(event, BatchDone) and event.batch == 3 and trainer.ranks.rank == 1:
            if what != "nan":
                raise ArithmeticError("on purpose") if what == "error" else KeyboardInterrupt
            trainer.progress.params[0] = np.nan

    trainer.callbacks.append(callback)
    trainer.fit(*arrays(50, 1), progress=False)


def share():
    """Say how often data were read, and what rank 1 sees of what rank 0 wrote into them."""
    ranks, reads = connect(), []

    def load(_):
        reads.append(ranks.rank)
        return small.dataset()

    data = ranks.share(load)
    same = fingerprint(data.train) == fingerprint(small.dataset().train)
    ranks.wait()
    if ranks.rank == 0:
        data.test.images[-1] = 77
    ranks.wait()
    found = ranks.first(lambda: "from rank 0"), bool((data.test.images[-1] == 77).all())
    if ranks.rank == 1:
        print(json.dumps([reads, same, *found]))


def memory():
    """Say by how many bytes the memory of all ranks grew for what they share, each page counted once."""
    ranks, size = connect(), 64 << 20

    def proportional():
        text = Path("/proc/self/smaps_rollup").read_text()
        return 1024 * next(int(row.split()[1]) for row in text.splitlines() if row[:4] == "Pss:")

    before = proportional()
    shared = ranks.share(lambda _: np.ones(size, np.uint8))
    assert shared.sum() == size  # all of it is read
    ranks.wait()
    grown = np.array([[float(proportional() - before)]] * ranks.size)
    ranks.gather_rows(grown, range(ranks.size + 1))
    if ranks.rank == 0:
        print(json.dumps(grown.sum() / size))
    ranks.wait()


def read(*paths):
    """Say, for each path, what each rank decodes of it, how many bytes it reads, and the largest memory
    of its own that it has meanwhile, in training images."""
    ranks, found = connect(), []
    for path in paths:
        decoded, sizes = [], [0]
        read_image, fill = images.read_image, reading.fill
        images.read_image = lambda path, of=read_image, to=decoded: (
            to.append(path.name),
            of(path),
        )[1]
        for module in (reading, idx, npz):
            module.fill = lambda path, file, array, of=fill, to=sizes: (
                to.append(array.nbytes),
                of(path, file, array),
            )
        tracemalloc.start()
        data = ranks.share(lambda reader, path=path: load_dataset(path, reader=reader))
        peak = tracemalloc.get_traced_memory()[1] / data.train.images.nbytes
        tracemalloc.stop()
        images.read_image = read_image
        for module in (reading, idx, npz):
            module.fill = fill
        own = decoded, sum(sizes), peak, [fingerprint(split) for split in data.splits.values()]
        found.append(ranks._comm.gather(own))
    if ranks.rank == 0:
        print(json.dumps(found))


def on_device(device, through="host"):
    """Train with statistics of each rank, in batches of which the last one has one image, for
    rank 0."""
    layers = [Conv2d(2, 3), BatchNorm2d(), Flatten(), Dense(CLASSES)]
    options = {"device": device, "batch_statistics": "local", "epochs": 1, "batch_size": 5}
    options |= {"optimizer": "momentum", "learning_rate": 0.1}
    trainer = Trainer(Network((4, 4, 1), layers), distributed=True, threads=1, **options)
    ranks, sums = trainer.ranks, []
    if through == "memory":  # the simulator's vectors lie in NumPy arrays, which MPI takes
        add_up, ranks.takes_gpu_memory = ranks.add_up_on_gpu, True
        ranks.add_up_on_gpu = lambda grads, parts, add: sums.append(
            add_up(grads._ary, parts._ary, add)
        )
    x, y = arrays(12, 1)
    epoch = trainer.fit(x[:, :4, :4, :1], y, progress=False).epochs[-1]
    if trainer.ranks.rank == 0:
        found = [epoch.train_loss, epoch.gradient_norm, epoch.validation_loss]
        print(json.dumps([*found, len(sums)]))


def overlapped():
    """Train in order and with buckets of every size, in chunks of two; say whether the bits are the
    same, and how many sums a step has."""
    cpu._BUCKET, layout._LARGEST_CHUNK, layout._WHOLE_BYTES = 1, 2, 0
    found, frozen = {}, {"freeze": ["dense*"]}
    for name, options in (("plain", {}), ("normalized", {}), ("plain", frozen)):
        ordered, trainer = train(name, 1, True, **options)
        ranks, begun = trainer.ranks, []
        begin_sum = ranks.begin_sum
        ranks.begin_sum = lambda grads, begin, to=begin_sum, at=begun: (
            at.append(begin),
            to(grads, begin),
        )
        other, _ = train(name, 1, True, reduction="overlapped", **options)
        ranks.begin_sum = begin_sum
        found[f"{name} {options}"] = ordered == other, len(begun) / begun.count(0)
    if trainer.ranks.rank == 0:
        print(json.dumps(found))


def resume(folder):
    """Go on for one epoch with the run of `small` in ``folder``."""
    checkpoint = load_checkpoint(Path(folder) / "last.safetensors")
    options = {**checkpoint.settings, "epochs": 2, "threads": 1}
    trainer = Trainer(checkpoint.network, Settings(**options), distributed=True)
    trainer.fit(small.dataset(), progress=False, output=folder, resume=checkpoint)


def gone():
    """Rank 1 is killed, and to rank 0 MPI says that it cannot go on, a moment before it is seen."""
    ranks = connect()
    if ranks.rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    with ranks.together():
        raise ranks._mpi.Exception(ranks._mpi.ERR_OTHER)


def main():
    if sys.argv[1] in ("nan", "error", "interrupt"):
        goes_wrong(sys.argv[1])
        return
    if sys.argv[1] == "gone":
        gone()
        return
    if sys.argv[1] == "share":
        share()
        return
    if sys.argv[1] == "read":
        read(*sys.argv[2:])
        return
    if sys.argv[1] == "device":
        on_device(*sys.argv[2:])
        return
    if sys.argv[1] == "memory":
        memory()
        return
    if sys.argv[1] == "overlapped":
        overlapped()
        return
    if sys.argv[1] == "resume":
        resume(sys.argv[2])
        return
    threads, distributed = int(sys.argv[1]), sys.argv[2] == "distributed"
    found = {name: train(name, threads, distributed)[0] for name in RUNS}
    other = {"reduction": "fast", "batch_statistics": "local"}
    found["fast"], trainer = train("normalized", threads, distributed, **other)
    if trainer.ranks is None or trainer.ranks.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
