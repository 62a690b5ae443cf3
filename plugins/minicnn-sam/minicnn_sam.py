"""Sharpness-aware minimization: the step is taken with the gradient at the worst point nearby.

    ε = ρ g(w) / ‖g(w)‖
    w ← base(w, g(w + ε))

The base rule is momentum, as in the paper; ``sam(rule)`` makes the same of another one.

Source: P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, https://arxiv.org/abs/2010.01412.
"""

from minicnn import Hyperparameter, hookimpl
from minicnn.optimizers.sgd import MOMENTUM
from minicnn.rules import StepRule

minicnn_api = 1  # the version of the plugin API that this is written for


def sam(base, name="sam"):
    """The rule that steps with ``base``, an elementwise or a whole-tensor rule, whose hyperparameters it has besides ρ."""

    def step(s):
        s.gradient()
        s.copy(s.params, s.scratch["start"])
        s.axpy(s.hyper["rho"] / (s.norm(s.grads) + 1e-12), s.grads, s.params)
        s.gradient()
        s.copy(s.scratch["start"], s.params)
        s.update(base.name)

    return StepRule(
        name=name,
        step=step,
        hyperparameters=(
            *base.hyperparameters,
            Hyperparameter("rho", 0.05, 0.0, meaning="distance ρ of the point nearby"),
        ),
        bases=(base,),
        scratch=("start",),
        equation=f"ε = ρ g(w) / ‖g(w)‖; w ← {base.name}(w, g(w + ε))",
        source="Foret et al. 2021, arXiv:2010.01412",
    )


# The paper's learning rate, 0.1, is for networks with batch normalization; those without want a tenth, as momentum has.
SAM = sam(MOMENTUM)


@hookimpl
def minicnn_optimizers():
    return [SAM]
