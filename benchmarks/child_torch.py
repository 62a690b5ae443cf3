"""A process that trains LeNet-5 in PyTorch on uint8 images for one epoch: child_torch.py FILE.npz
BATCH THREADS.

It holds the images as uint8, converts batch by batch, validates on a tenth and evaluates the test
set in batches of 1,024, as minicnn does. Its last line on stdout is the same JSON as that of
child_minicnn.py.
"""

import json
import sys
import time

import numpy as np
import torch
from peak_memory import peak_megabytes
from torch import nn


def batches(images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, size: int):
    """(float32 images [B, 1, H, W], labels) in ``order``."""
    for chosen in order.split(size):
        yield images[chosen].unsqueeze(1).float().mul_(1 / 255), labels[chosen]


def main(path: str, batch: int, threads: int) -> None:
    """Train and print."""
    torch.set_num_threads(threads)
    with np.load(path) as file:
        data = {
            name: torch.from_numpy(file[name])
            for name in ("x_train", "y_train", "x_test", "y_test")
        }
    model = nn.Sequential(
        *(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ),
        *(
            nn.Flatten(),
            nn.Linear(256, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        ),
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    order = torch.randperm(len(data["x_train"]))
    held_out = len(order) // 10
    first_batch = 0.0
    for x, y in batches(data["x_train"], data["y_train"], order[held_out:], batch):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        first_batch = first_batch or time.time()
    correct = 0
    with torch.inference_mode():
        for split, chosen in (
            ("train", order[:held_out]),
            ("test", torch.arange(len(data["x_test"]))),
        ):
            for x, y in batches(data[f"x_{split}"], data[f"y_{split}"], chosen, 1024):
                correct += int((model(x).argmax(1) == y).sum())
    print(
        "\n"
        + json.dumps(
            {"first_batch": first_batch, "peak_megabytes": peak_megabytes(), "correct": correct}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
