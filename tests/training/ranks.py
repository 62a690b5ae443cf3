"""What a rank does for `test_distributed.py`: trains, and rank 0 prints what came out, down to its bits.

mpiexec -n RANKS python ranks.py THREADS distributed        python ranks.py THREADS alone
mpiexec -n RANKS python ranks.py nan | error | share | device cpu | device cuda | resume FOLDER
"""

import json
import sys
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
    """After three batches rank 1 gets a weight that is no number, or fails."""
    trainer = Trainer(networks()["plain"], distributed=True, batch_size=8, threads=1)

    def callback(event):
        if isinstance(event, BatchDone) and event.batch == 3 and trainer.ranks.rank == 1:
            if what == "error":
                raise ArithmeticError("on purpose")
            trainer.progress.params[0] = np.nan

    trainer.callbacks.append(callback)
    trainer.fit(*arrays(50, 1), progress=False)


def share():
    """Say how often data were read, and what rank 1 sees of what rank 0 wrote into them."""
    ranks, reads = connect(), []

    def load():
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


def on_device(device):
    """Train with statistics of each rank, in batches of which the last one has one image, for
    rank 0."""
    layers = [Conv2d(2, 3), BatchNorm2d(), Flatten(), Dense(CLASSES)]
    options = {"device": device, "batch_statistics": "local", "epochs": 1, "batch_size": 5}
    options |= {"optimizer": "momentum", "learning_rate": 0.1}
    trainer = Trainer(Network((4, 4, 1), layers), distributed=True, threads=1, **options)
    x, y = arrays(12, 1)
    epoch = trainer.fit(x[:, :4, :4, :1], y, progress=False).epochs[-1]
    if trainer.ranks.rank == 0:
        print(json.dumps([epoch.train_loss, epoch.gradient_norm, epoch.validation_loss]))


def resume(folder):
    """Go on for one epoch with the run of `small` in ``folder``."""
    checkpoint = load_checkpoint(Path(folder) / "last.safetensors")
    options = {**checkpoint.settings, "epochs": 2, "threads": 1}
    trainer = Trainer(checkpoint.network, Settings(**options), distributed=True)
    trainer.fit(small.dataset(), progress=False, output=folder, resume=checkpoint)


def main():
    if sys.argv[1] in ("nan", "error"):
        goes_wrong(sys.argv[1])
        return
    if sys.argv[1] == "share":
        share()
        return
    if sys.argv[1] == "device":
        on_device(sys.argv[2])
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
