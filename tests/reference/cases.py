"""Layers of the oracle with options, on small inputs: what is compared with PyTorch and with
numeric derivatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.reference import layers


@dataclass(frozen=True)
class Case:
    """One layer: the shapes of its inputs (batch first) and of its tensors, and the options of the
    oracle's functions."""

    layer: str
    inputs: tuple[tuple[int, ...], ...]
    tensors: tuple[tuple[int, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether the layer takes a list of inputs."""
        return self.layer in ("add", "concat", "multiply")

    def forward(self, *arrays):
        """y of inputs and tensors."""
        xs, tensors = arrays[: len(self.inputs)], arrays[len(self.inputs) :]
        given = (list(xs),) if self.several else xs
        return getattr(layers, f"{self.layer}_forward")(*given, *tensors, **self.options)

    def backward(self, arrays, dy):
        """The gradients of all inputs and tensors that are trained, in order."""
        xs, tensors = arrays[: len(self.inputs)], arrays[len(self.inputs) :]
        given = (list(xs),) if self.several else xs
        needed = tensors[:1] + tensors[2:]  # a bias is not needed, running statistics are
        result = getattr(layers, f"{self.layer}_backward")(*given, dy, *needed, **self.options)
        return list(result) if isinstance(result, tuple | list) else [result]

    def arrays(self, rng):
        """Inputs and tensors: multiples of 1/64 in [-4, 4], which half precision stores exactly;
        variances are positive."""
        drawn = [
            np.clip(np.rint(rng.normal(size=shape) * 96), -255, 255) / 64
            for shape in (*self.inputs, *self.tensors)
        ]
        if self.layer == "frozenbatchnorm":
            drawn[-1] = np.abs(drawn[-1]) + 0.25
        return drawn


CORNERS = {
    "relu6": (0, 6),
    "hardsigmoid": (-3, 3),
    "hardswish": (-3, 3),
    "relu": (0,),
    "leakyrelu": (0,),
    "elu": (0,),
    "prelu": (0,),
}
ACTIVATIONS = (
    "relu",
    "leakyrelu",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
    "tanhgelu",
    "relu6",
    "hardsigmoid",
    "hardswish",
    "elu",
    "softplus",
    "mish",
)


def _conv(shape, kernel, filters, groups, **options):
    weight = *kernel, shape[3] // groups, filters
    return Case("conv2d", (shape,), (weight, (filters,)), {"groups": groups} | options)


def _norm(layer, shape, parameters, count=2, **options):
    return Case(layer, (shape,), (parameters,) * count, options)


CASES = {
    "conv plain": _conv((2, 5, 4, 2), (3, 2), 3, 1),
    "conv groups": _conv((2, 4, 5, 4), (3, 3), 6, 2, padding=(1, 1, 1, 1), stride=(2, 1)),
    "conv depthwise": _conv((2, 5, 5, 3), (3, 3), 3, 3, padding=(1, 1, 1, 1), stride=(2, 2)),
    "conv depthwise, two filters a channel": _conv((2, 4, 5, 3), (2, 3), 6, 3, dilation=(1, 2)),
    "conv four sides": _conv((2, 4, 3, 2), (3, 3), 2, 1, padding=(2, 0, 1, 3)),
    "conv four sides, groups": _conv(
        (1, 4, 3, 4), (2, 3), 4, 2, padding=(0, 3, 2, 1), stride=(1, 2), dilation=(2, 1)
    ),
    "max dilation": Case(
        "maxpool2d", ((2, 6, 5, 2),), (), {"kernel": (2, 2), "stride": (1, 2), "dilation": (3, 2)}
    ),
    "max ceil": Case(
        "maxpool2d", ((2, 6, 5, 2),), (), {"kernel": (3, 2), "stride": (2, 2), "ceil_mode": True}
    ),
    "max ceil, last window in the padding": Case(
        "maxpool2d",
        ((2, 4, 4, 2),),
        (),
        {"kernel": (2, 2), "stride": (3, 3), "padding": (1, 1, 1, 1), "ceil_mode": True},
    ),
    "max ceil, dilation, padding": Case(
        "maxpool2d",
        ((2, 6, 7, 1),),
        (),
        {
            "kernel": (3, 2),
            "stride": (2, 3),
            "padding": (1, 1, 1, 1),
            "dilation": (2, 1),
            "ceil_mode": True,
        },
    ),
    "average padded": Case(
        "avgpool2d",
        ((2, 5, 4, 2),),
        (),
        {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1, 1, 1)},
    ),
    "average of what is inside": Case(
        "avgpool2d",
        ((2, 5, 4, 2),),
        (),
        {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1, 1, 1), "count_include_pad": False},
    ),
    "average ceil": Case(
        "avgpool2d",
        ((2, 6, 4, 2),),
        (),
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "ceil_mode": True},
    ),
    "average ceil, no padding": Case(
        "avgpool2d", ((2, 6, 4, 2),), (), {"kernel": (3, 3), "stride": (2, 2), "ceil_mode": True}
    ),
    "average ceil of what is inside": Case(
        "avgpool2d",
        ((2, 6, 4, 2),),
        (),
        {
            "kernel": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1, 1, 1),
            "ceil_mode": True,
            "count_include_pad": False,
        },
    ),
    "average ceil, last window in the padding": Case(
        "avgpool2d",
        ((2, 4, 4, 2),),
        (),
        {"kernel": (2, 2), "stride": (3, 3), "padding": (1, 1, 1, 1), "ceil_mode": True},
    ),
    "global average": Case("globalavgpool2d", ((2, 3, 4, 3),)),
    "global max": Case("globalmaxpool2d", ((2, 3, 4, 3),)),
    "batch norm": _norm("batchnorm", (3, 2, 3, 4), (4,)),
    "batch norm, eps": _norm("batchnorm", (2, 3, 3, 2), (2,), eps=0.1),
    "batch norm of rows": _norm("batchnorm", (5, 4), (4,)),
    "batch norm, inference": _norm("frozenbatchnorm", (2, 2, 3, 3), (3,), 4, eps=1e-3),
    "batch norm of rows, inference": _norm("frozenbatchnorm", (3, 4), (4,), 4),
    "group norm": _norm("groupnorm", (2, 3, 2, 6), (6,), groups=3),
    "group norm, one group": _norm("groupnorm", (2, 2, 3, 4), (4,), groups=1, eps=1e-3),
    "group norm, a channel each": _norm("groupnorm", (2, 3, 3, 2), (2,), groups=2),
    "group norm of rows": _norm("groupnorm", (3, 6), (6,), groups=2),
    "layer norm": _norm("layernorm", (2, 3, 2, 3), (3, 2, 3)),
    "layer norm of rows": _norm("layernorm", (3, 7), (7,), eps=1e-2),
    "add": Case("add", ((2, 2, 3, 2),) * 2),
    "add three": Case("add", ((2, 5),) * 3),
    "concat": Case("concat", ((2, 2, 3, 2), (2, 2, 3, 1), (2, 2, 3, 3))),
    "concat rows": Case("concat", ((3, 4), (3, 2))),
    "multiply": Case("multiply", ((2, 2, 3, 2),) * 2),
    "multiply, gate": Case("multiply", ((2, 3, 2, 4), (2, 1, 1, 4))),
    "multiply, gate of a row": Case("multiply", ((2, 3, 2, 4), (2, 4))),
    "softmax": Case("softmax", ((4, 6),)),
    "prelu": Case("prelu", ((2, 3, 3, 2),), ((2,),)),
    "prelu of rows": Case("prelu", ((5, 3),), ((3,),)),
    "elu, alpha": Case("elu", ((3, 7),), (), {"alpha": 0.4}),
    **{name: Case(name, ((4, 9),)) for name in ACTIVATIONS},
}
STATISTICS = {
    "batch norm": 0.1,
    "batch norm of rows": 0.3,
}  # cases with running statistics, and the momentum
