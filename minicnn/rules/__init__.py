"""What a plugin hands over: plain data and undecorated Python functions, compiled elsewhere (``kernels/<device>``)."""

from minicnn.rules.hyperparameter import Hyperparameter, resolve
from minicnn.rules.loss_rule import LossRule
from minicnn.rules.optimizer_rule import OptimizerRule
from minicnn.rules.schedule_rule import ScheduleRule
from minicnn.rules.step_rule import AnyOptimizer, Step, StepRule
from minicnn.rules.tensor_rule import TensorRule

__all__ = [
    "AnyOptimizer",
    "Hyperparameter",
    "LossRule",
    "OptimizerRule",
    "ScheduleRule",
    "Step",
    "StepRule",
    "TensorRule",
    "resolve",
]
