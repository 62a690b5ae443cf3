"""A whole network by the oracle: forward through a list of layers, and back. Layers are plain tuples here."""

from tests.reference import layers as oracle

PARAMETERS = {"conv2d", "dense"}


def forward(steps, x, tensors):
    """Run ``steps``, pairs of (name of the oracle's layer, keyword arguments); return every activation, x first.

    ``tensors[i]`` is (weight, bias or None) of step i where it has parameters.
    """
    activations = [x]
    for index, (name, options) in enumerate(steps):
        function = getattr(oracle, f"{name}_forward")
        arguments = tensors[index] if name in PARAMETERS else ()
        activations.append(function(activations[-1], *arguments, **options))
    return activations


def backward(steps, activations, tensors, dlogits):
    """Gradients {step: (dw, db)} of the parameters, and dx, from the gradient of the last activation."""
    gradients, d = {}, dlogits
    for index in range(len(steps) - 1, -1, -1):
        name, options = steps[index]
        function = getattr(oracle, f"{name}_backward")
        if name in PARAMETERS:
            d, *gradients[index] = function(activations[index], d, tensors[index][0], **options)
        else:
            d = function(activations[index], d, **options)
    return gradients, d
