"""Sharpness-aware minimization: the step is taken with the gradient at the worst point nearby.

    ε = ρ g(w) / ‖g(w)‖
    w ← base(w, g(w + ε))

The base rule is momentum, as in the paper; ``sam(rule, hyperparameters)`` makes the same of another
one.

Source: P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, "Sharpness-Aware Minimization for Efficiently
Improving Generalization", ICLR 2021, https://arxiv.org/abs/2010.01412.
"""

from minicnn import Hyperparameter, hookimpl
from minicnn.rules import StepRule

minicnn_api = 1  # the version of the plugin API that this is written for


def sam(base, hyperparameters, name="sam"):
    """The rule that steps with ``base``, an elementwise rule or its name, and has those
    ``hyperparameters`` besides ρ.

    What is not among them has the base's default.
    """

    def step(s):
        s.gradient()
        s.copy(s.params, s.scratch["start"])
        s.axpy(s.hyper["rho"] / (s.norm(s.grads) + 1e-12), s.grads, s.params)
        s.gradient()
        s.copy(s.scratch["start"], s.params)
        s.update(base_name)

    base_name = base if isinstance(base, str) else base.name
    return StepRule(
        name=name,
        step=step,
        hyperparameters=(
            *hyperparameters,
            Hyperparameter("rho", 0.05, 0.0, meaning="distance ρ of the point nearby"),
        ),
        bases=(base,),
        scratch=("start",),
        by_tensor=True,
        equation=f"ε = ρ g(w) / ‖g(w)‖; w ← {base_name}(w, g(w + ε))",
        source="Foret et al. 2021, arXiv:2010.01412",
    )


# The paper's learning rate, 0.1, is for networks with batch normalization; those without want a
# tenth, as momentum has.
SAM = sam(
    "momentum",
    (
        Hyperparameter("learning_rate", 0.01, 0.0, open_minimum=True, meaning="step size η"),
        Hyperparameter(
            "momentum",
            0.9,
            0.0,
            1.0,
            open_maximum=True,
            meaning="share μ of the velocity that is kept",
        ),
        Hyperparameter(
            "weight_decay", 0.0, 0.0, meaning="pull towards zero λ, added to the gradient"
        ),
    ),
)


@hookimpl
def minicnn_optimizers():
    return [SAM]
