"""Store what PyTorch computes for every case of `tests.reference.cases`, in float64, in
torch_values.npz beside this file.

    pip install torch==2.13.0 numpy
    python -m tests.reference.make_torch_values

Run by hand, from the repository's root, when a case is added; the tests need no PyTorch. A case's
arrays are ``CASE/0``, ``CASE/1``, ... (inputs, then tensors: multiples of 1/64, in half precision),
``CASE/dy`` (the same), ``CASE/y``, and the gradients ``CASE/d0``, ``CASE/d1``, ...; all are as
minicnn has them, channels last, filters [R,S,C/G,K].
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tests.reference.cases import CASES, CORNERS, STATISTICS, Case

FILE = Path(__file__).with_name("torch_values.npz")
ACTIVATIONS = {
    "relu": F.relu,
    "leakyrelu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanhgelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "softmax": lambda x: F.softmax(x, dim=-1),
    "prelu": F.prelu,
}


def first(x):
    """Channels second, as PyTorch has them; rows stay."""
    return x.movedim(-1, 1)


def last(x):
    """And back."""
    return x.movedim(1, -1)


def _average(x, o):
    kwargs = {
        "ceil_mode": o.get("ceil_mode", False),
        "count_include_pad": o.get("count_include_pad", True),
    }
    return F.avg_pool2d(
        first(x), o["kernel"], o["stride"], o.get("padding", (0,) * 4)[::2], **kwargs
    )


def value(case: Case, arrays: list[torch.Tensor]) -> torch.Tensor:
    """y of inputs and tensors."""
    o, x = case.options, arrays[0]
    eps = o.get("eps", 1e-5)
    match case.layer:
        case "conv2d":
            top, bottom, left, right = o.get("padding", (0, 0, 0, 0))
            padded = F.pad(first(x), (left, right, top, bottom))
            geometry = o.get("stride", (1, 1)), 0, o.get("dilation", (1, 1)), o["groups"]
            return last(F.conv2d(padded, arrays[1].permute(3, 2, 0, 1), arrays[2], *geometry))
        case "maxpool2d":
            geometry = (
                o["kernel"],
                o["stride"],
                o.get("padding", (0,) * 4)[::2],
                o.get("dilation", (1, 1)),
            )
            return last(F.max_pool2d(first(x), *geometry, ceil_mode=o.get("ceil_mode", False)))
        case "avgpool2d":
            return last(_average(x, o))
        case "globalavgpool2d":
            return F.adaptive_avg_pool2d(first(x), 1).flatten(1)
        case "globalmaxpool2d":
            return F.adaptive_max_pool2d(first(x), 1).flatten(1)
        case "batchnorm":
            return last(F.batch_norm(first(x), None, None, *arrays[1:], training=True, eps=eps))
        case "frozenbatchnorm":
            weight, bias, mean, var = arrays[1:]
            return last(F.batch_norm(first(x), mean.detach(), var.detach(), weight, bias, eps=eps))
        case "groupnorm":
            return last(F.group_norm(first(x), o["groups"], *arrays[1:], eps=eps))
        case "layernorm":
            return F.layer_norm(x, x.shape[1:], *arrays[1:], eps=eps)
        case "add":
            return sum(arrays[1:], x)
        case "concat":
            return torch.cat(arrays, dim=-1)
        case "multiply":
            gate = arrays[1]
            return x * (gate if gate.ndim == x.ndim else gate[:, None, None, :])
        case "prelu":
            return last(F.prelu(first(x), arrays[1]))
        case _:
            return ACTIVATIONS[case.layer](x, **o)


def main() -> None:
    """Write the file."""
    rng, stored = np.random.default_rng(2026), {}
    for name, case in CASES.items():
        arrays = case.arrays(rng)
        for place, corner in enumerate(CORNERS.get(case.layer, ())):
            arrays[0].flat[place] = corner
        tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
        y = value(case, tensors)
        dy = np.rint(rng.normal(size=y.shape) * 64) / 64
        y.backward(torch.tensor(dy))
        inputs = {str(i): array.astype(np.float16) for i, array in enumerate(arrays)} | {
            "dy": dy.astype(np.float16)
        }
        assert all(
            np.array_equal(half, whole)
            for half, whole in zip(inputs.values(), [*arrays, dy], strict=True)
        )
        gradients = {
            f"d{i}": tensor.grad.numpy()
            for i, tensor in enumerate(tensors)
            if tensor.grad is not None
        }
        found = {**inputs, "y": y.detach().numpy(), **gradients}
        if name in STATISTICS:
            mean, var = (
                torch.full((arrays[0].shape[-1],), 0.5).double(),
                torch.full((arrays[0].shape[-1],), 2.0).double(),
            )
            F.batch_norm(first(tensors[0]), mean, var, training=True, momentum=STATISTICS[name])
            found |= {"running_mean": mean.numpy(), "running_var": var.numpy()}
        stored |= {f"{name}/{key}": array for key, array in found.items()}
    np.savez_compressed(FILE, **stored)
    print(f"{len(CASES)} cases, {FILE.stat().st_size:,} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
