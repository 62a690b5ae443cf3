"""Looking into a network: the loss around its weights, the way down, the gradients in each layer.

Every function here returns arrays and plain dataclasses; `minicnn.report` draws them.
"""
