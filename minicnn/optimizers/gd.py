"""Gradient descent as the texts teach it: the whole training set is one batch.

    w ← w − η ∇L(w)

Source: A. Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées", Comptes rendus 25
(1847), 536-538.
"""

from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule


def prepare(step, state, learning_rate):
    return (learning_rate,)


def update(p, g, learning_rate):
    return p - learning_rate * g


GD = OptimizerRule(
    name="gd",
    update=update,
    prepare=prepare,
    hyperparameters=(Hyperparameter("learning_rate", 0.1, 0.0, open_minimum=True, meaning="step along the slope, η"),),
    full_batch=True,
    equation="w ← w − η ∇L(w), with L over the whole training set",
    source="Cauchy 1847",
)


@hookimpl
def minicnn_optimizers():
    return [GD]
