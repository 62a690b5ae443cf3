"""Store the factors of PyTorch's schedules and the weights after steps of its optimizers, in
float64, in torch_training.npz beside this file.

    pip install torch==2.13.0 numpy
    python -m tests.reference.make_torch_training

Run by hand, from the repository's root, when a case is added; the tests need no PyTorch. What is
``schedule/NAME`` holds the factor before each of `STEPS` steps; ``optimizer/NAME`` the weights
[`STEPS`, 3, 4] after each, ``gradients`` [`STEPS`, 3, 4] and ``start`` [3, 4] what they come from;
``adafactor`` the same. ``groups/NAME`` holds the tensors of `TENSORS`, one after the other, after
`OF_GROUPS` steps with each one's learning rate and weight decay, from ``groups/start`` by the
gradients ``groups/gradients`` [`OF_GROUPS`, ...].
"""

from pathlib import Path

import numpy as np
import torch
from torch import optim
from torch.optim import lr_scheduler as lrs

FILE = Path(__file__).with_name("torch_training.npz")
STEPS = 20

SCHEDULES = {
    "linear": lambda o: lrs.LinearLR(o, 0.25, 0.75, 12),
    "polynomial": lambda o: lrs.PolynomialLR(o, 15, 2.0),
    "multi_step": lambda o: lrs.MultiStepLR(o, [3, 9, 10], 0.5),
    "step": lambda o: lrs.StepLR(o, 4, 0.5),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, STEPS, 0.1),
    "cosine_restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 5, 1, 0.1),
    "cosine_restarts/longer": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3, 2, 0.1),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.1, 1.0, 2, 3, cycle_momentum=False),
    "cyclic/halved": lambda o: lrs.CyclicLR(
        o, 0.1, 1.0, 2, 3, mode="triangular2", cycle_momentum=False
    ),
    "cyclic/falling": lambda o: lrs.CyclicLR(
        o, 0.1, 1.0, 2, 3, mode="exp_range", gamma=0.95, cycle_momentum=False
    ),
    "linear+step+cosine": lambda o: lrs.SequentialLR(
        o,
        [
            lrs.LinearLR(o, 0.1, 1.0, 4),
            lrs.StepLR(o, 3, 0.5),
            lrs.CosineAnnealingLR(o, STEPS - 12, 0.0),
        ],
        [4, 12],
    ),
}

OPTIMIZERS = {
    "momentum": lambda p: optim.SGD(p, 0.02, 0.8, 0.3, 0.1),
    "amsgrad": lambda p: optim.Adam(p, 0.02, (0.8, 0.95), 1e-3, 0.1, True),
    "rmsprop_momentum": lambda p: optim.RMSprop(p, 0.02, 0.9, 1e-3, 0.1, 0.8),
    "rmsprop_momentum/centered": lambda p: optim.RMSprop(p, 0.02, 0.9, 1e-3, 0.1, 0.8, True),
    "adamw_amsgrad": lambda p: optim.AdamW(p, 0.02, (0.8, 0.95), 1e-3, 0.3, True),
    "radam": lambda p: optim.RAdam(p, 0.02, (0.8, 0.95), 1e-3, 0.1),
    "adamax": lambda p: optim.Adamax(p, 0.02, (0.8, 0.95), 1e-3, 0.1),
}


# shape (weights as matrices), factors of learning rate and weight decay
TENSORS = {
    "conv1.weight": ((4, 3), 0.5, 1.0),
    "conv1.bias": ((3,), 0.5, 0.0),
    "batchnorm1.scale": ((3,), 1.0, 0.0),
    "batchnorm1.shift": ((3,), 8.0, 0.0),
    "dense1.weight": ((27, 4), 1.0, 2.0),
    "dense1.bias": ((4,), 0.0, 0.0),
}
OF_GROUPS = 6
RATE, DECAY = 0.02, 0.1
ADAFACTOR = {"beta2_decay": -0.7, "eps": (2.0**-23, 0.01), "d": 1.1}
GROUPS = {
    "momentum": lambda p: optim.SGD(p, momentum=0.8, dampening=0.3),
    "adam": lambda p: optim.Adam(p, betas=(0.8, 0.95), eps=1e-3),
    "adamw": lambda p: optim.AdamW(p, betas=(0.8, 0.95), eps=1e-3),
    "adamw_amsgrad": lambda p: optim.AdamW(p, betas=(0.8, 0.95), eps=1e-3, amsgrad=True),
    "radam": lambda p: optim.RAdam(p, betas=(0.8, 0.95), eps=1e-3),
    "nadam": lambda p: optim.NAdam(p, betas=(0.8, 0.95), eps=1e-3, momentum_decay=0.1),
    "adamax": lambda p: optim.Adamax(p, betas=(0.8, 0.95), eps=1e-3),
    "adagrad": lambda p: optim.Adagrad(p, lr_decay=0.05, eps=1e-3),
    "adadelta": lambda p: optim.Adadelta(p, rho=0.8, eps=1e-4),
    "rmsprop": lambda p: optim.RMSprop(p, alpha=0.9, eps=1e-3),
    "adafactor": lambda p: optim.Adafactor(p, **ADAFACTOR),
}


def factors(make) -> np.ndarray:
    """The learning rate, of one whose usual value is 1, before each step."""
    optimizer = optim.SGD([torch.zeros(1, dtype=torch.float64, requires_grad=True)], 1.0)
    schedule, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def weights(make, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The weights after each step."""
    params, found = torch.tensor(start, requires_grad=True), []
    optimizer = make([params])
    for gradient in gradients:
        params.grad = torch.tensor(gradient)
        optimizer.step()
        found.append(params.detach().numpy().copy())
    return np.array(found)


def of_groups(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is stored of `GROUPS`."""
    sizes = [int(np.prod(shape)) for shape, _, _ in TENSORS.values()]
    start, *gradients = rng.normal(size=(1 + OF_GROUPS, sum(sizes)))
    stored = {"groups/start": start, "groups/gradients": np.array(gradients)}

    def tensors(flat: np.ndarray) -> list[torch.Tensor]:
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        shapes = [shape for shape, _, _ in TENSORS.values()]
        return [torch.tensor(x.reshape(at)) for x, at in zip(parts, shapes, strict=True)]

    for name, make in GROUPS.items():
        params = [tensor.requires_grad_() for tensor in tensors(start)]
        factors = [(RATE * rate, DECAY * decay) for _, rate, decay in TENSORS.values()]
        made = make(
            [
                {"params": [tensor], "lr": rate, "weight_decay": decay}
                for tensor, (rate, decay) in zip(params, factors, strict=True)
            ]
        )
        for flat in gradients:
            for tensor, gradient in zip(params, tensors(flat), strict=True):
                tensor.grad = gradient
            made.step()
        stored[f"groups/{name}"] = np.concatenate([x.detach().numpy().ravel() for x in params])
    return stored


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(2026)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4)) + 0.3
    stored = {"start": start, "gradients": gradients}
    stored |= {f"schedule/{name}": factors(make) for name, make in SCHEDULES.items()}
    stored |= {
        f"optimizer/{name}": weights(make, start, gradients) for name, make in OPTIMIZERS.items()
    }
    stored["adafactor"] = weights(
        lambda p: optim.Adafactor(p, RATE, weight_decay=DECAY, **ADAFACTOR), start, gradients
    )
    stored |= of_groups(rng)
    np.savez_compressed(FILE, **stored)
    print(f"{FILE.stat().st_size:,} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
