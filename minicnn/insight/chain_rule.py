"""One weight's derivative, walked back through the layers.

A weight w moves the outputs y of its layer, these those of the next layer, and so on to the loss C.
With v[l] = ∂y[l]/∂w, the movement of all numbers of layer l on all images of the batch, the chain
rule reads

    ∂C/∂w = ⟨∂C/∂y[L], v[L]/|v[L]|⟩ · |v[L]|/|v[L−1]| · … · |v[2]|/|v[1]| · |v[1]|

The first factor is the derivative of the loss in the direction in which w moves the logits; the
next ones say how much longer each layer makes the movement, and the last is how much the weight's
own layer moves. (In a chain of single neurons these are the texts' factors, but for their signs,
which are all in the first.) The product of the factors down to layer l is the derivative of C in
the direction of v[l−1], which the backward pass knows on its own as ⟨∂C/∂y[l−1], v[l−1]⟩ /
|v[l−1]|: where the two part, the backward pass of layer l is wrong. The movements are measured by
central differences of forward passes.

In a graph this holds from one layer to the next through which every path from the weight to the
loss leads. Layers between two such, where a value has several readers, are one factor together: the
sum over all paths.
"""

from dataclasses import dataclass

import numpy as np

from minicnn.insight.batch_loss import BatchLoss
from minicnn.insight.gradient_check import FiniteDifferences
from minicnn.insight.weights import name as weight_name
from minicnn.insight.weights import parse
from minicnn.program.graph import cuts


@dataclass(frozen=True)
class Factor:
    """A factor of the chain rule: ``value`` is ∂of/∂by, and ``product`` that of it and all before.

    ``explicit`` is what the backward pass has for the product. None after a layer whose outputs do
    not move. ``branches`` says that several paths lead from ``by`` to ``of``.
    """

    of: str
    by: str
    value: float | None
    product: float | None
    explicit: float | None
    branches: bool = False


@dataclass(frozen=True)
class Trace:
    """The derivative of the loss C with respect to one weight: its factors, from the loss back.

    ``explicit`` is the backward pass's derivative, ``numeric`` the central difference, ``error``
    their relative error. ``crossed`` says that C has a kink within the difference, so that nothing
    can be compared.
    """

    weight: str
    value: float
    loss: float
    factors: list[Factor]
    explicit: float
    numeric: float
    error: float
    crossed: bool


def trace(batch_loss: BatchLoss, weight: str) -> Trace:
    """Walk the derivative with respect to a weight, such as ``conv1.weight[0,0,0,3]``, back through
    the layers.

    Raises `UnknownNameError` and `SettingError` for a name that is no weight of the network.
    """
    network, differences = batch_loss.network, FiniteDifferences(batch_loss)
    index = parse(network, weight)
    first = differences.operation_of(index)
    explicit = float(differences.explicit()[index])
    differences.passes.forward_by_operation(differences.images)
    gradients = differences.passes.backward_by_operation(differences.dlogits)
    error, numeric, movements, crossed = differences.compare(index, explicit)
    places = cuts(differences.plan.nodes, first)
    lengths = [float(np.linalg.norm(movements[i - first])) for i in places]
    layers = [_layer_name(differences, i) for i in places]
    along = [
        float(np.vdot(gradients[i], movements[i - first])) / length if length else None
        for i, length in zip(places, lengths, strict=True)
    ]

    factors = [Factor("C", layers[-1], along[-1], along[-1], along[-1])]
    for i in range(len(layers) - 1, -1, -1):
        before = lengths[i - 1] if i else 1.0
        value = lengths[i] / before if before else None
        product = factors[-1].product
        if value == 0:
            product = 0.0
        elif product is not None and value is not None:
            product *= value
        branches = places[i] - (places[i - 1] if i else first - 1) > 1
        factors.append(
            Factor(
                layers[i],
                layers[i - 1] if i else weight_name(network, index),
                value,
                product,
                along[i - 1] if i else explicit,
                branches,
            )
        )
    return Trace(
        weight_name(network, index),
        float(differences.passes.params[index]),
        differences.value,
        factors,
        explicit,
        numeric,
        error,
        crossed,
    )


def _layer_name(differences: FiniteDifferences, i: int) -> str:
    """The name of operation ``i`` of the plan: those of its layers, where they were fused."""
    names = differences.network.layer_names
    return "+".join(names[layer] for layer in differences.plan.nodes[i].layers)
