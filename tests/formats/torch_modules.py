"""Modules of PyTorch whose outputs are stored in `tests/fixtures/torch.npz`: this file writes it,
where PyTorch is installed (``python -m tests.formats.torch_modules``)."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

FIXTURE = Path(__file__).parents[1] / "fixtures" / "torch.npz"


class Named(nn.Module):
    """Names of its own; a shortcut, groups, and everything that has another order of axes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.PReLU(), nn.Conv2d(4, 4, 1, groups=2)
        )
        self.row = nn.BatchNorm1d(48)
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.body(x)
        x = torch.flatten(nn.functional.max_pool2d(x, (2, 1)), 1)
        return self.head(self.row(x))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 3, padding="same"),
        nn.Tanh(),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Flatten(),
        nn.Linear(20, 7),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(7, 4),
    )


def normalized():
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, dilation=2),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 4, 3]),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


CASES = {
    "lenet": (lenet, (8, 8, 1)),
    "named": (Named, (6, 8, 2)),
    "normalized": (normalized, (6, 5, 3)),
}


def randomized(module, seed=0):
    """With weights and statistics that none has at its start, in inference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                spread = torch.rand if name.endswith("running_var") else torch.randn
                tensor.copy_(spread(tensor.shape, generator=generator) * 0.5 + 0.1)
    return module.eval()


def images(input_shape, count=5):
    """[N, H, W, C] from 0 to 1."""
    return np.random.default_rng(3).random((count, *input_shape), np.float32)


def outputs(module, x):
    """What the module gives for [N, H, W, C]."""
    with torch.no_grad():
        return module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def stored():
    """Everything that the file holds."""
    arrays = {}
    for case, (make, shape) in CASES.items():
        module, x = randomized(make()), images(shape)
        state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        arrays |= {f"{case}/state/{name}": tensor for name, tensor in state.items()}
        arrays |= {f"{case}/images": x, f"{case}/outputs": outputs(module, x)}
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FIXTURE, **stored())
